from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milmer.signals.filters import bandpass, fill_gaps, fitting_band, notch, resample


def tone(freq: float, rate: float, seconds: float = 20.0) -> np.ndarray:
    return np.sin(2 * np.pi * freq * np.arange(round(seconds * rate)) / rate)[None]


def gain(y: np.ndarray, x: np.ndarray) -> float:
    inner = slice(x.shape[1] // 4, -x.shape[1] // 4)
    return float(np.std(y[:, inner]) / np.std(x[:, inner]))


@pytest.mark.parametrize(
    ("freq", "low", "high"),
    [(0.05, 0, 0.02), (2.0, 0.98, 1.02), (10.0, 0.98, 1.02), (45.0, 0.98, 1.02), (63.0, 0, 0.02)],
)
def test_the_response_of_the_band(freq: float, low: float, high: float) -> None:
    x = tone(freq, 128.0, 60.0)
    assert low <= np.ptp(bandpass(x, 128.0, 1.0, 50.0)[:, 3000:-3000]) / 2 <= high


def test_the_band_shifts_nothing() -> None:
    x = tone(9.0, 128.0)
    y = bandpass(x, 128.0, 1.0, 50.0)
    assert np.abs(y - x)[:, 500:-500].max() < 0.02


def test_a_band_beyond_the_rate_has_no_low_pass() -> None:
    assert fitting_band((1.0, 50.0), 100.0) == (1.0, None)
    assert fitting_band((1.0, 50.0), 100.3) == (1.0, None)  # a 0.15 Hz transition would ring for half a minute
    assert fitting_band((0.0, 50.0), 128.0) == (None, 50.0)


def test_the_notch_takes_the_hum_and_its_harmonic_and_leaves_the_rest() -> None:
    assert gain(notch(tone(50.0, 500.0), 500.0, 50.0, 110.0), tone(50.0, 500.0)) < 0.01
    assert gain(notch(tone(100.0, 500.0), 500.0, 50.0, 110.0), tone(100.0, 500.0)) < 0.01
    assert gain(notch(tone(150.0, 500.0), 500.0, 50.0, 110.0), tone(150.0, 500.0)) > 0.99
    assert gain(notch(tone(45.0, 500.0), 500.0, 50.0, 110.0), tone(45.0, 500.0)) > 0.95


@pytest.mark.parametrize("rate", [160.0, 250.0, 256.0, 500.0, 512.0, 1000.0, 100.0, 499.907])
def test_resampling_keeps_time_and_does_not_alias(rate: float) -> None:
    seconds, pad = 11.0, 3.0
    n, before = round((seconds + 2 * pad) * rate), round(pad * rate)
    t = (np.arange(n) - before) / rate
    y = resample(np.sin(2 * np.pi * 7.0 * t)[None], rate, 128.0, before, n - before - round(seconds * rate))
    assert y.shape == (1, round(round(seconds * rate) / rate * 128.0))
    expected = np.sin(2 * np.pi * 7.0 * np.arange(y.shape[1]) / 128.0)
    assert np.abs(y[0] - expected).max() < 2e-3
    if rate > 150:
        high = resample(np.sin(2 * np.pi * 72.0 * t)[None], rate, 128.0, before, n - before - round(seconds * rate))
        assert np.abs(high).max() < 2e-3  # it would come back at 56 Hz


def test_resampling_without_padding_keeps_its_ends() -> None:
    t = np.arange(2560) / 256.0
    y = resample(np.cos(2 * np.pi * 2.0 * t)[None], 256.0, 128.0)
    assert np.abs(y[0] - np.cos(2 * np.pi * 2.0 * np.arange(1280) / 128.0)).max() < 0.05


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 700),
    before=st.integers(0, 90),
    after=st.integers(0, 90),
    rate=st.sampled_from([100.0, 250.0]),
)
def test_resampling_gives_the_exact_number_of_samples(length: int, before: int, after: int, rate: float) -> None:
    x = np.random.default_rng([length, before]).normal(size=(2, length + before + after))
    assert resample(x, rate, 128.0, before, after).shape == (2, round(length / rate * 128.0))


def test_gaps_are_bridged_and_measured() -> None:
    x = np.arange(20.0)[None].repeat(3, axis=0)
    x[0, 5:8] = np.nan
    x[1] = np.inf
    filled, longest = fill_gaps(x, 10.0)
    np.testing.assert_allclose(filled[0], np.arange(20.0))
    np.testing.assert_allclose(filled[1], 0.0)
    np.testing.assert_allclose(longest, [0.3, 2.0, 0.0])
    assert np.isnan(x[0, 5])  # the caller's array is left alone
