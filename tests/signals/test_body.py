from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from milmer.datasets.base import BODY_KINDS, Signal
from milmer.datasets.simulated_eeg import TrialTruth, pulse, simulate_trial
from milmer.errors import UserError
from milmer.signals.body import BodySignal, prepare_body
from milmer.signals.body_channels import BODY_CHANNELS, BODY_RATE, eog_channel
from milmer.signals.conductance import NOMINAL_OHM, has_level

ROWS = {"eog-h": 32, "eog-v": 33, "emg-a": 34, "emg-b": 35, "gsr": 36, "respiration": 37, "ppg": 38, "temperature": 39}
UNITS = {"gsr": "ohm", "temperature": "degC", "respiration": "1", "ppg": "1"}


@pytest.fixture(scope="module")
def truth() -> TrialTruth:
    return simulate_trial(0, 1, 1, 63, place=0.0)


def recorded(truth: TrialTruth, name: str) -> Signal:
    scale = 1.0 if name in UNITS else 1e-6
    samples = truth.samples[ROWS[name] : ROWS[name] + 1] * scale  # (1, S)
    return Signal(samples, (name,), 128.0, UNITS.get(name, "V"), pad_before=3.0)


def one(kind: str, x: np.ndarray, rate: float = 128.0, unit: str = "1", pad: float = 0.0) -> BodySignal:
    return prepare_body(kind, [Signal(np.atleast_2d(x), (kind,), rate, unit, pad_before=pad)], [kind])


def read_opensignals(file: Path) -> tuple[np.ndarray, float]:
    """Last column and rate (Hz) of a text file of the samples: three lines of header, columns between tabs."""
    lines = file.read_text(encoding="utf-8").splitlines()
    about = next(iter(json.loads(lines[1][2:]).values()))
    return np.array([float(line.split()[-1]) for line in lines[3:]]), float(about["sampling rate"])


def real(name: str, samples: Path) -> tuple[np.ndarray, float]:
    if not (samples / name).exists():
        pytest.skip(f"{name} is not among the samples: run 'make install'")
    return read_opensignals(samples / name)


def test_channels_cover_every_kind() -> None:
    assert set(BODY_CHANNELS) == set(BODY_KINDS)


def test_heart_rate_follows_the_planted_beats(truth: TrialTruth) -> None:
    made = prepare_body("ppg", [recorded(truth, "ppg")], ["ppg"])
    wave, rate = made.samples
    assert made.samples.shape == (2, 1920) and made.samples.dtype == np.float32 and not made.notes
    times = np.arange(1920) / BODY_RATE
    assert np.corrcoef(wave, pulse(truth.beats, times))[0, 1] > 0.9  # on the trial's clock, its padding dropped
    inside = truth.beats[(truth.beats > 0) & (truth.beats < 60)]
    assert abs(60 * made.quality["heart_rate"] - 60 / np.median(np.diff(inside))) < 1
    assert abs(60 * rate.mean() - 60 * (len(inside) - 1) / np.ptp(inside)) < 1
    slow = np.interp(times, inside[1:], 1 / np.diff(inside))  # it rises and falls as the beats do
    assert np.corrcoef(rate[160:-160], slow[160:-160])[0, 1] > 0.8


def test_breathing_rate_is_the_planted_one() -> None:
    times = np.arange(63 * 128) / 128 - 3
    for breaths in (9.0, 15.0, 24.0):
        made = one("respiration", 40 + 7 * np.sin(2 * np.pi * breaths / 60 * times), pad=3.0)
        assert abs(60 * made.quality["respiration_rate"] - breaths) < 1
        assert np.abs(60 * made.samples[1] - breaths).max() < 1
        assert made.samples[0].std() == pytest.approx(1, abs=0.05)


def test_breathing_of_the_simulated_study(truth: TrialTruth) -> None:
    made = prepare_body("respiration", [recorded(truth, "respiration")], ["respiration"])
    spectrum = np.abs(np.fft.rfft(truth.samples[37, 384:])) ** 2  # (F,)
    assert abs(60 * made.quality["respiration_rate"] - np.argmax(spectrum[1:] + 0.0) - 1) < 1.5  # bins of 1/min


def test_responses_of_the_skin_are_found_where_they_were() -> None:
    times = np.arange(63 * 128) / 128 - 3
    onsets = (8.0, 25.0, 44.0)
    rise = [np.clip(times - t, 0, None) * np.exp(-(np.clip(times - t, 0, None)) / 1.5) for t in onsets]
    siemens = 5e-6 + 1e-8 * times / 60 + 0.6e-6 * np.sum(rise, axis=0)  # (S,)
    for x, unit in ((siemens, "S"), (1 / siemens, "ohm")):
        tonic, phasic = one("gsr", x, unit=unit, pad=3.0).samples
        assert tonic.mean() == pytest.approx(5.1e-6, abs=0.3e-6)
        grid = np.arange(1920) / BODY_RATE
        for onset in onsets:
            near = (grid > onset) & (grid < onset + 5)
            assert phasic[near].max() > 0.15e-6
            assert grid[near][phasic[near].argmax()] == pytest.approx(onset + 1.5, abs=0.6)
        assert np.abs(phasic[(grid > 17) & (grid < 24)]).max() < 0.15e-6


def test_a_resistance_without_its_level_gives_no_tonic() -> None:
    times = np.arange(63 * 128) / 128 - 3
    around_zero = -2000 * np.sin(2 * np.pi * 0.2 * times)[None]  # (1, S) ohm
    signal = Signal(around_zero, ("gsr",), 128.0, "ohm", pad_before=3.0)
    assert not has_level([signal])
    made = prepare_body("gsr", [signal], ["gsr"], absolute=False)
    assert np.isnan(made.samples[0]).all()
    assert "level was taken off" in made.notes[0]
    wanted = 2000 / NOMINAL_OHM**2 * np.sin(2 * np.pi * 0.2 * np.arange(1920) / BODY_RATE)  # S, falls as ohm rise
    np.testing.assert_allclose(made.samples[1][320:-320], wanted[320:-320], atol=0.1 * wanted.max())
    assert has_level([Signal(np.full((1, 9), 3e5), ("gsr",), 1.0, "ohm")])
    assert not has_level([Signal(np.full((1, 9), 0.3), ("gsr",), 1.0, "ohm")])


def test_a_few_impossible_resistances_are_bridged() -> None:
    x = np.full(63 * 32, 2e5) + np.arange(63 * 32)  # ohm
    x[500:510] = -1
    made = one("gsr", x, rate=32.0, unit="ohm", pad=3.0)
    assert made.samples[0] == pytest.approx(5e-6, rel=0.02)
    assert any("bridged" in n for n in made.notes)


def test_beats_of_an_ecg_stand_where_they_were() -> None:
    rate, beats = 256.0, np.arange(0.3, 30, 0.75)  # 80 a minute
    times = np.arange(int(30 * rate)) / rate
    x = sum(1e-3 * np.exp(-0.5 * ((times - b) / 0.012) ** 2) for b in beats)
    x = x + np.random.default_rng(1).normal(0, 1e-5, len(times))
    made = one("ecg", x, rate=rate, unit="V")
    assert 60 * made.samples[0] == pytest.approx(80, abs=1)
    for beat in beats[1:-1]:
        near = np.abs(np.arange(960) / BODY_RATE - beat)
        assert made.samples[1][near.argmin()] > 0.8
        assert made.samples[1][np.abs(near - 0.375).argmin()] < 0.05


def test_strength_of_a_muscle(truth: TrialTruth) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1e-6, 20 * 512)
    x[8 * 512 : 12 * 512] *= 10
    x += 1e-4 * np.sin(np.arange(len(x)) / 512)  # movement
    other = Signal(np.full((1, 20 * 512), 1.0), ("emg-b",), 512.0)
    made = prepare_body("emg", [other, Signal(x[None], ("emg-a",), 512.0)], ["emg-b", "emg-a"])
    first, second = made.samples
    assert np.isnan(second).all() and made.notes == ("emg-b: flat",)
    inside, outside = first[9 * 32 : 11 * 32].mean(), first[: 7 * 32].mean()
    assert inside / outside == pytest.approx(10, rel=0.2)
    assert first.min() >= 0
    signals = [recorded(truth, n) for n in ("emg-a", "emg-b")]
    assert np.isfinite(prepare_body("emg", signals, ["emg-a", "emg-b"]).samples).all()


def test_a_muscle_keeps_its_place_where_another_is_missing() -> None:
    x = np.random.default_rng(0).normal(0, 1e-6, (1, 10 * 512))  # (1, S)
    names = ["emg-a", "emg-b", "emg-c"]
    made = prepare_body("emg", [Signal(x, ("emg-b",), 512.0)], ["emg-b"], everywhere=names)
    assert np.isnan(made.samples[0]).all() and np.isfinite(made.samples[1]).all()
    third = prepare_body("emg", [Signal(x, ("emg-c",), 512.0)], ["emg-c"], everywhere=names)
    assert third.samples.shape == (2, 320) and np.isnan(third.samples).all()
    assert third.notes == ("only two are used; left out: emg-c",)


def test_eyes_know_their_directions(truth: TrialTruth) -> None:
    for names in (("eog-v", "eog-h"), ("vEOG", "hEOG"), ("EOGV", "HEOG")):
        signals = [recorded(truth, "eog-v"), recorded(truth, "eog-h")]
        made = prepare_body("eog", signals, names)
        for row, source in ((0, 32), (1, 33)):
            wanted = truth.samples[source, 384::4] * 1e-6
            assert np.corrcoef(made.samples[row], wanted)[0, 1] > 0.85  # the file has noise up to 64 Hz
    assert [eog_channel(n) for n in ("hEOG", "EOG-V", "EXG3", "EOG")] == ["eog-h", "eog-v", "eog-exg3", "eog-other"]


RATES_OF_ALL_KINDS = (100 / 3, 256.0, 1000 / 3, 500.0, 512.0)


@pytest.mark.parametrize("kind", list(BODY_CHANNELS))
def test_every_length_at_every_rate_has_the_length_of_its_trial(kind: str) -> None:
    """Rounded at the rate of the work and then at 32 Hz, a length may be a sample off that of the trial."""
    rng = np.random.default_rng(0)
    for rate in RATES_OF_ALL_KINDS:
        for pad in (0.0, 1.01):
            for length in rng.integers(round(3 * rate), round(5 * rate), 4).tolist():
                x = 5.0 + np.sin(2 * np.pi * 1.2 * np.arange(length) / rate) + 0.01 * rng.normal(size=length)  # (S,)
                wanted = round((length - round(pad * rate)) / rate * BODY_RATE)
                assert one(kind, x, rate, pad=pad).samples.shape[1] == wanted, (rate, pad, length)


@pytest.mark.parametrize("rate", [64.0, 256.0, 1000 / 3, 500.0])
@pytest.mark.parametrize("pad", [0.0, 1.01, 3.0])
def test_what_happened_stands_at_its_time(rate: float, pad: float) -> None:
    """A bump 7.3 s after the trial's start, whatever the rate and the padding before it."""
    seconds = np.arange(round((20 + pad) * rate)) / rate - round(pad * rate) / rate  # (S',)
    clock = np.arange(640) / BODY_RATE
    near = np.abs(clock - 7.3) < 1
    for kind, row, level, size in (("temperature", 0, 30.0, 1.0), ("eog", 0, 0.0, 1e-4), ("gsr", 1, 5e-6, 1e-6)):
        x = level + size * np.exp(-0.5 * ((seconds - 7.3) / 0.3) ** 2)  # (S',)
        made = one(kind, x, rate, "S" if kind == "gsr" else "V", pad).samples[row, near].astype(float)
        weight = np.clip(made - np.median(made), 0, None)
        assert abs((weight * clock[near]).sum() / weight.sum() - 7.3) < 0.003, kind
    beats = np.arange(0.4 - 3, 21, 0.8)
    x = np.exp(-0.5 * ((seconds[:, None] - beats) / 0.012) ** 2).sum(axis=1)  # (S',)
    made = one("ecg", x, rate, "V", pad).samples[1]
    for beat in beats[(beats > 1) & (beats < 19)]:
        near = np.abs(clock - beat) < 0.2
        assert abs((made[near] * clock[near]).sum() / made[near].sum() - beat) < 0.01


@pytest.mark.parametrize(("kind", "hertz"), [("ppg", 1.25), ("respiration", 0.3)])
def test_a_gap_does_not_count_in_the_unit_of_a_wave(kind: str, hertz: float) -> None:
    x = np.sin(2 * np.pi * hertz * np.arange(60 * 128) / 128)  # (S,)
    x[: 45 * 128] = np.nan
    wave = one(kind, x).samples[0]
    assert np.isnan(wave[: 44 * 32]).all() and np.isfinite(wave[46 * 32 :]).all()
    assert np.nanmean(wave) == pytest.approx(0, abs=1e-4) and np.nanstd(wave) == pytest.approx(1, abs=1e-4)


def test_temperature_keeps_its_level() -> None:
    made = one("temperature", 33 + 0.01 * np.arange(60 * 128) / 128, pad=3.0)
    assert made.samples[0, 0] == pytest.approx(33.03, abs=0.005)
    assert made.samples[0, -1] == pytest.approx(33.6, abs=0.005)


@pytest.mark.parametrize("kind", BODY_KINDS)
@pytest.mark.parametrize("what", ["one second", "a sample", "nothing", "flat", "missing", "noise", "slow", "gap"])
def test_nothing_odd_stops_it(kind: str, what: str) -> None:
    x = np.random.default_rng(0).normal(3e5, 1e4, 20 * 128)  # (S,)
    rate = 128.0
    if what == "one second":
        x = x[:128]
    elif what == "a sample":
        x = x[:1]
    elif what == "nothing":
        x = x[:0]
    elif what == "flat":
        x[:] = 7.0
    elif what == "missing":
        x[:] = np.nan
    elif what == "slow":
        x, rate = x[:40], 2.0
    elif what == "gap":
        x[5 * 128 : 8 * 128] = np.nan
    unit = "ohm" if kind == "gsr" else "V"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = one(kind, x, rate=rate, unit=unit)
    assert made.channels == BODY_CHANNELS[kind]
    assert made.samples.shape == (len(made.channels), round(len(x) / rate * BODY_RATE))
    if what in ("nothing", "flat", "missing"):
        assert np.isnan(made.samples).all() and made.notes
    if what == "gap":
        assert np.isnan(made.samples[:, 5 * 32 + 1 : 8 * 32 - 1]).all()
        assert np.isfinite(made.samples[:, : 4 * 32]).any() or made.notes


@pytest.mark.parametrize("kind", list(BODY_CHANNELS))
def test_a_trial_as_short_as_a_beat_stops_nothing(kind: str) -> None:
    rng = np.random.default_rng(0)
    for length in (1, 2, 5, 13, 33, 64, 90, 128, 200):
        made = one(kind, 1 + rng.normal(size=length), unit="S")
        assert made.samples.shape[1] == round(length / 128 * BODY_RATE)


def test_the_first_lead_that_gives_something_is_used() -> None:
    flat = Signal(np.zeros((1, 20 * 128)), ("ppg-a",), 128.0)
    times = np.arange(20 * 128) / 128
    good = Signal(pulse(np.arange(-2, 24, 0.8), times)[None], ("ppg-b",), 128.0)
    made = prepare_body("ppg", [flat, good], ["ppg-a", "ppg-b"])
    assert 60 * made.quality["heart_rate"] == pytest.approx(75, abs=1)
    assert made.notes == ("flat",)


def test_mistakes_are_told() -> None:
    two = Signal(np.zeros((2, 128)), ("a", "b"), 128.0)
    with pytest.raises(UserError, match="found 2 channels"):
        prepare_body("ppg", [two], ["ppg"])
    with pytest.raises(UserError, match="no body signal 'eda'"):
        prepare_body("eda", [two], ["eda"])
    with pytest.raises(UserError, match="at least one"):
        prepare_body("gsr", [], [])


def test_real_recordings_go_as_fast_as_neurokit_says(samples: Path) -> None:
    import neurokit2

    x, rate = real("bvp_sample.txt", samples)
    theirs = neurokit2.ppg_process(x, sampling_rate=rate)[0]["PPG_Rate"]
    mine = one("ppg", x, rate=rate)
    assert abs(60 * mine.samples[1].mean() - theirs.mean()) < 1
    assert abs(60 * mine.quality["heart_rate"] - theirs.median()) < 1
    for name in ("supine_1min.txt", "ecg_sample.txt"):
        x, rate = real(name, samples)
        theirs = neurokit2.ecg_process(x, sampling_rate=int(rate))[0]["ECG_Rate"]
        mine = one("ecg", x, rate=rate, unit="V")
        assert abs(60 * mine.samples[0].mean() - theirs.mean()) < 1
        assert abs(60 * mine.quality["heart_rate"] - theirs.median()) < 1
    x, rate = real("respiration_1min.txt", samples)
    theirs = neurokit2.rsp_process(x, sampling_rate=rate)[0]["RSP_Rate"]
    mine = one("respiration", x, rate=rate)
    assert abs(60 * mine.samples[1].mean() - theirs.mean()) < 1
    assert abs(60 * mine.quality["respiration_rate"] - theirs.median()) < 1


def test_a_real_skin_conductance_is_taken_apart(samples: Path) -> None:
    x, rate = real("eda_slow_signal.txt", samples)
    tonic, phasic = one("gsr", x * 1e-10, rate=rate, unit="S").samples
    grid = np.arange(len(tonic)) / BODY_RATE
    together = np.interp(np.arange(len(x)) / rate, grid, tonic + phasic)
    assert np.corrcoef(together, x)[0, 1] > 0.95
    assert np.abs(np.diff(tonic)).max() < np.abs(np.diff(phasic)).max()
