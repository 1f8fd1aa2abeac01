"""Pulse from colour: planted beats come back through drift, noise and gaps; formulae against loops of the papers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal as sps

from milmer.errors import UserError
from milmer.signals.pulse import BAND, body_wave, chrom, evened, heart_rate, pos

RATE = 25.0
SKIN = np.array([170.0, 120.0, 95.0])
DEPTH = np.array([0.33, 0.77, 0.53])  # relative size of the pulse in red, green and blue (Wang et al. 2017)


def colour(rng, beats: float, seconds: float = 40, size: float = 0.01, noise: float = 0.001, rate: float = RATE):
    """Skin colour with a pulse, light that drifts by a fifth, movement common to all colours, and noise."""
    t = np.arange(round(seconds * rate)) / rate
    pulse = np.sin(2 * np.pi * beats * t) + 0.3 * np.sin(4 * np.pi * beats * t + 1)
    light = 1 + 0.2 * np.sin(2 * np.pi * 0.05 * t) + 0.02 * np.sin(2 * np.pi * 1.9 * t)
    rgb = SKIN * light[:, None] * (1 + size * pulse[:, None] * DEPTH)
    return rgb + SKIN * noise * rng.standard_normal(rgb.shape), pulse


def band(wave: np.ndarray) -> np.ndarray:
    return sps.sosfiltfilt(sps.butter(2, BAND, "bandpass", fs=RATE, output="sos"), wave)


@pytest.mark.parametrize("method", [pos, chrom])
@pytest.mark.parametrize("beats", [0.8, 1.2, 2.1, 3.3])
def test_a_planted_pulse_comes_back(method, beats):
    rgb, pulse = colour(np.random.default_rng(1), beats)
    wave = method(rgb, RATE)
    assert heart_rate(wave, RATE) == pytest.approx(beats, abs=0.01)
    least = 0.9 if method is pos else 0.8  # chrom leaves more of the movement
    assert np.corrcoef(wave, band(pulse))[0, 1] > least  # with its sign
    # The movement at 1.9 Hz, twice the pulse in each colour, is the same in all of them and cancels.
    power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
    at = {f: power[round(f * len(wave) / RATE)] for f in (beats, 1.9)}
    assert at[1.9] < 0.05 * at[beats]


@pytest.mark.parametrize("method", [pos, chrom])
def test_light_alone_is_no_pulse_and_noise_stays_small(method):
    rng = np.random.default_rng(2)
    with_pulse = method(colour(rng, 1.3)[0], RATE)
    without = method(colour(rng, 1.3, size=0)[0], RATE)
    assert without.std() < 0.5 * with_pulse.std()
    assert method(np.tile(SKIN, (200, 1)), RATE) == pytest.approx(np.zeros(200), abs=1e-9)


def reference_pos(rgb: np.ndarray, rate: float) -> np.ndarray:
    """Algorithm 1 of Wang et al. 2017, window by window, and the same band-pass."""
    length, out = round(1.6 * rate), np.zeros(len(rgb))
    for n in range(length, len(rgb) + 1):
        c = rgb[n - length : n].T
        c = np.diag(1 / c.mean(1)) @ c
        s = np.array([[0, 1, -1], [-2, 1, 1]]) @ c
        h = s[0] + s[0].std() / s[1].std() * s[1]
        out[n - length : n] += h - h.mean()
    sections = sps.butter(2, BAND, "bandpass", fs=rate, output="sos")
    return sps.sosfiltfilt(sections, out - out.mean(), padlen=round(2 * rate))


def test_pos_is_the_papers_algorithm():
    rgb, _ = colour(np.random.default_rng(3), 1.1, seconds=15)
    np.testing.assert_allclose(pos(rgb, RATE), reference_pos(rgb, RATE), rtol=1e-6, atol=1e-9)


def test_chrom_is_the_papers_formula_where_one_window_is_all():
    """In a stationary stretch the overlapping windows are one: S = X - (std X / std Y) Y, whose sign is turned."""
    t = np.arange(1000) / RATE
    rgb = SKIN * (1 + 0.01 * np.sin(2 * np.pi * 1.25 * t)[:, None] * DEPTH)
    even = rgb / SKIN
    sections = sps.butter(2, BAND, "bandpass", fs=RATE, output="sos")
    x = sps.sosfiltfilt(sections, 3 * even[:, 0] - 2 * even[:, 1])
    y = sps.sosfiltfilt(sections, 1.5 * even[:, 0] + even[:, 1] - 1.5 * even[:, 2])
    expected = sps.sosfiltfilt(sections, x.std() / y.std() * y - x)
    middle = slice(200, 800)
    np.testing.assert_allclose(chrom(rgb, RATE)[middle], expected[middle], atol=0.05 * expected.std())


@pytest.mark.parametrize("method", [pos, chrom])
def test_gaps_stay_gaps_and_spoil_nothing_around_them(method):
    rgb, pulse = colour(np.random.default_rng(4), 1.2)
    rgb[300:340] = np.nan
    rgb[0:10, 1] = np.nan
    wave = method(rgb, RATE)
    missing = np.isnan(wave)
    assert missing[300:340].all() and missing[:10].all() and missing.sum() == 50
    assert np.corrcoef(wave[~missing], band(pulse)[~missing])[0, 1] > 0.85
    assert np.isnan(method(np.full((100, 3), np.nan), RATE)).all()
    assert len(method(np.zeros((0, 3)), RATE)) == 0
    assert method(rgb[50:53], RATE).shape == (3,)


def test_a_rate_that_cannot_carry_the_pulse_is_refused():
    with pytest.raises(UserError, match=r"pulse at 3\.33 Hz: expected more than 8 Hz"):
        pos(np.ones((50, 3)), 3.33)
    with pytest.raises(UserError, match="ECG at 32 Hz: expected more than 40 Hz"):
        body_wave(np.ones(100), 32.0, "ecg")


def test_an_ecg_becomes_a_hump_a_beat():
    rng = np.random.default_rng(5)
    beats = np.cumsum(rng.uniform(0.7, 0.9, 40))
    t = np.arange(30 * 128) / 128
    ecg = 1e-3 * sum(np.exp(-0.5 * ((t - b) / 0.012) ** 2) for b in beats) + 2e-4 * np.sin(2 * np.pi * 0.3 * t)
    wave = body_wave(ecg + 5e-5 * rng.standard_normal(t.size), 128.0, "ecg")
    tops = t[sps.find_peaks(wave, height=0.3 * wave.max(), distance=50)[0]]
    inside = beats[(beats > 1) & (beats < 29)]
    assert np.abs(tops[:, None] - inside).min(axis=0).max() < 0.06
    assert heart_rate(wave, 128.0) == pytest.approx(1 / 0.8, abs=0.05)


def test_a_movement_does_not_outweigh_the_pulse_once_it_is_made_even():
    t = np.arange(1000) / RATE
    wave = np.sin(2 * np.pi * 1.2 * t)
    moved = wave.copy()
    moved[500:540] *= 40
    moved[100:130] = np.nan
    out = evened(moved, RATE)
    assert np.abs(out).max() <= 3 and (out[100:130] == 0).all()
    far = np.r_[0:90, 140:440, 620:1000]
    assert np.corrcoef(out[far], wave[far])[0, 1] > 0.99
    assert out[far].std() == pytest.approx(1, abs=0.15)
    assert (evened(np.full(50, np.nan), RATE) == 0).all()


def test_a_heart_rate_needs_three_seconds_and_something_in_them():
    assert np.isnan(heart_rate(np.ones(40), RATE)) and np.isnan(heart_rate(np.zeros(500), RATE))
    assert np.isnan(heart_rate(np.full(500, np.nan), RATE))
