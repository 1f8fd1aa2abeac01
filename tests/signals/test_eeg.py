from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mne
import numpy as np
import pytest
import scipy.signal as sps

from milmer.config import EEGPreparation
from milmer.datasets.base import Signal
from milmer.errors import UserError
from milmer.signals.channels import clean_names
from milmer.signals.eeg import PreparedEEG, prepare_eeg

SAMPLES = Path(__file__).parents[2] / ".samples"
DEAP_REASON = "DEAP's files come filtered to 4-45 Hz"
NO_ICA = EEGPreparation(ica="none")


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(abs(np.corrcoef(a, b)[0, 1]))


def test_rejection_really_takes_the_blink_out_and_leaves_the_brain(make_head) -> None:
    head = make_head(trials=4)
    prepared = prepare_eeg(head.eeg, EEGPreparation(), eog=head.eog, iclabel_off=DEAP_REASON)
    ica = prepared.ica
    assert ica is not None
    assert ica.labelled_by == "eog"
    assert DEAP_REASON in ica.reason
    assert 1 <= ica.labels.count("eye blink") <= 2
    operator = ica.operator({"eye blink"})
    brain = prepare_eeg(
        [replace(s, samples=b, pad_before=0.0) for s, b in zip(head.eeg, head.brain, strict=True)], NO_ICA
    )
    for trial, pure, blink in zip(prepared.trials, brain.trials, head.blink, strict=True):
        cleaned = operator @ trial
        front = prepared.names.index("Fp1")
        assert _correlation(trial[front], blink) > 0.7
        assert _correlation(cleaned[front], blink) < 0.2 * _correlation(trial[front], blink)
        for name in ("Cz", "Pz", "C3", "C4", "Oz", "P7"):
            c = prepared.names.index(name)
            assert np.var(cleaned[c] - pure[c]) < 0.1 * np.var(pure[c])


def test_without_eog_the_forehead_stands_in(make_head) -> None:
    head = make_head()
    prepared = prepare_eeg(head.eeg, EEGPreparation(ica_labels="eog"))
    assert prepared.ica is not None
    assert prepared.ica.labelled_by == "frontal"
    assert "eye blink" in prepared.ica.labels
    assert any("no EOG channel" in n for n in prepared.notes)


def test_without_eog_and_forehead_nothing_is_labelled(make_head) -> None:
    head = make_head(trials=2, names=["F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2", "Cz"])
    prepared = prepare_eeg(head.eeg, EEGPreparation())
    assert prepared.ica is not None
    assert set(prepared.ica.labels) == {"other"}
    assert np.all(prepared.ica.scores == 0)
    assert any("no component is labelled" in n for n in prepared.notes)


def test_iclabel_by_name_out_of_its_range_is_refused(make_head) -> None:
    head = make_head(trials=1)
    with pytest.raises(UserError, match=r"out of its range here: .*128 Hz"):
        prepare_eeg(head.eeg, EEGPreparation(ica_labels="iclabel"))


def test_channels_and_time_keep_their_axes() -> None:
    # Channel c carries (c + 1) microvolts at 2 + c Hz: a reshape would mix them.
    names = ("Fz", "C3", "Cz", "C4", "Pz", "O1", "O2", "P3", "P4", "F3")
    t = np.arange(-3 * 256, 20 * 256) / 256.0
    x = np.stack([(c + 1) * 1e-6 * np.sin(2 * np.pi * (2 + c) * t) for c in range(10)])
    prepared = prepare_eeg([Signal(x, names, 256.0, pad_before=3.0)], EEGPreparation(ica="none", bad_channels=False))
    out = prepared.trials[0]
    assert (out.shape, out.dtype, prepared.names) == ((10, 2560), np.float32, names)
    new = np.arange(2560) / 128.0
    expected = np.stack([(c + 1) * 1e-6 * np.sin(2 * np.pi * (2 + c) * new) for c in range(10)])
    expected -= expected.mean(axis=0)
    assert np.abs(out - expected)[:, 256:-256].max() < 0.2e-6


def test_nothing_crosses_from_one_trial_into_the_next(make_head) -> None:
    head = make_head(trials=2, pad=0.0, seconds=10.0)
    calm = prepare_eeg(head.eeg, NO_ICA)
    x = head.eeg[0].samples.copy()
    x[:, -1] += 1e-3 * np.arange(32)
    jolted = prepare_eeg([replace(head.eeg[0], samples=x), head.eeg[1]], NO_ICA)
    assert not np.array_equal(calm.trials[0], jolted.trials[0])
    np.testing.assert_array_equal(calm.trials[1], jolted.trials[1])


def test_padding_serves_the_filter_and_is_dropped(make_head) -> None:
    head = make_head(trials=1, pad=3.0, seconds=10.0)
    whole = head.eeg[0]
    long = prepare_eeg([replace(whole, pad_before=0.0)], NO_ICA).trials[0]
    padded = prepare_eeg([whole], NO_ICA).trials[0]
    assert padded.shape == (32, 1280)
    # As if filtered with what came before: equal to the longer stretch, from the very first sample.
    assert np.abs(padded - long[:, 384:]).max() < 1e-3 * np.abs(padded).max()


def test_hum_is_notched_in_raw_recordings_only(make_head) -> None:
    head = make_head(rate=256.0, trials=1, line=50.0)
    x = head.eeg[0].samples * np.linspace(0.5, 1.5, 32)[:, None]  # else the average reference takes the hum
    raw = replace(head.eeg[0], samples=x)

    def hum(prepared) -> float:
        power = np.abs(np.fft.rfft(prepared.trials[0][0])) ** 2
        freqs = np.fft.rfftfreq(prepared.trials[0].shape[1], 1 / 128.0)
        return float(power[np.abs(freqs - 50) < 0.3].max() / power[np.abs(freqs - 40) < 3].max())

    assert hum(prepare_eeg([raw], NO_ICA)) < 1
    kept = prepare_eeg([raw], NO_ICA, iclabel_off=DEAP_REASON)
    assert hum(kept) > 100
    assert any("no notch" in n for n in kept.notes)


def test_missing_and_flat_channels_are_interpolated_and_reported(make_head) -> None:
    head = make_head(trials=2, seconds=75.0)
    signals = []
    for s in head.eeg:
        x = s.samples.copy()
        x[3] = np.nan
        x[20] = 4e-6
        x[7, 500:530] = np.nan  # a short gap is bridged
        signals.append(replace(s, samples=x))
    prepared = prepare_eeg(signals, EEGPreparation(), eog=head.eog)
    assert prepared.bad == ["F7", "F8"]
    assert prepared.masked == []
    assert sum("missing or flat: interpolated" in n for n in prepared.notes) == 2
    assert all(np.isfinite(t).all() for t in prepared.trials)
    assert all(np.std(t[3]) > 1e-7 for t in prepared.trials)
    assert prepared.ica is not None
    assert prepared.ica.mixing.shape == (32, 29)
    np.testing.assert_allclose(prepared.trials[0].mean(axis=0), 0.0, atol=1e-10)


def test_channels_that_cannot_be_repaired_are_masked(make_head) -> None:
    head = make_head(trials=1, names=["Fp1", "Fp2", "C3", "C4", "O1", "O2"])
    head.eeg[0].samples[2] = 0.0
    prepared = prepare_eeg(head.eeg, EEGPreparation())
    assert prepared.bad == prepared.masked == ["C3"]
    assert np.all(prepared.trials[0][2] == 0)
    assert any("C3" in n and "masked" in n for n in prepared.notes)


def test_a_channel_lost_in_one_of_many_trials_is_repaired_there_only(make_head) -> None:
    head = make_head(trials=12, seconds=5.0)
    head.eeg[4].samples[9] = np.nan
    prepared = prepare_eeg(head.eeg, NO_ICA)
    assert prepared.bad == []
    assert any(n.startswith("trial 5 of 12: CP1") for n in prepared.notes)
    assert np.isfinite(prepared.trials[4]).all()
    assert np.std(prepared.trials[4][9]) > 1e-7


def test_trials_without_signal_are_named_and_the_rest_goes_on(make_head) -> None:
    head = make_head(trials=3, seconds=10.0)
    head.eeg[1].samples[:] = np.nan
    prepared = prepare_eeg(head.eeg, NO_ICA, eog=head.eog)
    assert prepared.unusable == [1]
    assert np.all(prepared.trials[1] == 0)
    assert prepared.trials[1].shape == prepared.trials[0].shape
    assert prepared.bad == []
    nothing = prepare_eeg(head.eeg[1:2], EEGPreparation())
    assert nothing.unusable == [0]
    assert nothing.ica is None


@pytest.mark.parametrize("scale", [1e6, 1e-6])
def test_a_wrong_unit_is_noticed_and_not_corrected(make_head, scale: float) -> None:
    head = make_head(trials=1)
    odd = [replace(s, samples=s.samples * scale) for s in head.eeg]
    prepared = prepare_eeg(odd, EEGPreparation())
    assert any(n.startswith("magnitude") for n in prepared.notes)
    right = prepare_eeg(head.eeg, EEGPreparation())
    assert not any(n.startswith("magnitude") for n in right.notes)
    np.testing.assert_allclose(prepared.trials[0] / scale, right.trials[0], rtol=1e-3, atol=1e-9)
    assert prepared.ica is not None


def test_few_channels_have_no_components(make_head) -> None:
    head = make_head(trials=1, names=["Fp1", "Fp2", "Cz"])
    prepared = prepare_eeg(head.eeg, EEGPreparation())
    assert prepared.ica is None
    assert any("no ICA" in n for n in prepared.notes)
    assert any("no average reference" in n for n in prepared.notes)


def test_trials_that_do_not_fit_together_are_refused(make_head) -> None:
    head = make_head(trials=2, seconds=5.0)
    with pytest.raises(UserError, match="EEG of trial 2"):
        prepare_eeg([head.eeg[0], replace(head.eeg[1], rate=256.0)], NO_ICA)
    with pytest.raises(UserError, match="EOG: found 1 trials, expected 2"):
        prepare_eeg(head.eeg, NO_ICA, eog=head.eog[:1])
    with pytest.raises(UserError, match="EOG of trial 2: found 3 samples"):
        prepare_eeg(head.eeg, NO_ICA, eog=[head.eog[0], replace(head.eog[1], samples=head.eog[1].samples[:, :3])])
    with pytest.raises(UserError, match="no trial with EEG"):
        prepare_eeg([], NO_ICA)


@pytest.fixture(scope="module")
def real() -> tuple[Signal, PreparedEEG]:
    """One minute of a real recording with blinks, prepared with what labels components automatically."""
    raw = mne.io.read_raw_edf(SAMPLES / "S001R02.edf", preload=True, verbose="ERROR")
    clean = clean_names(raw.ch_names)
    signal = Signal(raw.get_data()[list(clean.kept)], clean.names, raw.info["sfreq"])
    return signal, prepare_eeg([signal], EEGPreparation(line_freq=60.0))


def test_a_real_recording_of_64_channels_at_160_hz(real: tuple[Signal, PreparedEEG]) -> None:
    signal, prepared = real
    assert prepared.trials[0].shape == (64, round(signal.samples.shape[1] / 160.0 * 128))
    assert prepared.bad == []
    ica = prepared.ica
    assert ica is not None
    assert "160 Hz" in ica.reason
    assert any("instead of 63 components" in n for n in prepared.notes)
    blinks = [i for i, label in enumerate(ica.labels) if label == "eye blink"]
    assert 1 <= len(blinks) <= 3


def test_real_blinks_shrink_and_the_real_alpha_stays(real: tuple[Signal, PreparedEEG]) -> None:
    """What a blink is, is told by the raw Fpz alone: excursions of 75 microvolts below 10 Hz."""
    signal, prepared = real
    assert prepared.ica is not None
    raw, rate = signal.samples[signal.names.index("Fpz")], signal.rate
    slow = sps.sosfiltfilt(sps.butter(4, (0.5, 10.0), "bandpass", fs=rate, output="sos"), raw)
    tops, _ = sps.find_peaks(slow, height=75e-6, distance=round(0.3 * rate))
    assert len(tops) > 10
    at = np.round(tops / rate * 128).astype(int)
    before, after = prepared.trials[0], prepared.ica.operator({"eye blink"}) @ prepared.trials[0]
    low = sps.butter(4, 10.0, "lowpass", fs=128, output="sos")

    def height(x: np.ndarray) -> float:
        """Median peak to trough within a quarter of a second before and 0.4 s after each blink."""
        front = sps.sosfiltfilt(low, x[prepared.names.index("Fpz")])
        return float(np.median([np.ptp(front[max(k - 32, 0) : k + 48]) for k in at]))

    def alpha(x: np.ndarray) -> tuple[float, float]:
        freqs, power = sps.welch(x[prepared.names.index("Oz")], 128, nperseg=512)
        band = (freqs >= 8) & (freqs <= 12)
        top = int(power[band].argmax())
        return float(freqs[band][top]), float(power[band][top])

    assert height(after) <= 0.7 * height(before)
    assert alpha(before)[0] == pytest.approx(10.0, abs=0.5)
    assert alpha(after)[0] == alpha(before)[0]
    assert alpha(after)[1] == pytest.approx(alpha(before)[1], rel=0.05)


def test_iclabel_is_refused_for_a_real_recording_below_its_rate(real: tuple[Signal, PreparedEEG]) -> None:
    with pytest.raises(UserError, match=r"ICLabel needs 200 Hz or more to see 1-100 Hz, this recording has 160 Hz"):
        prepare_eeg([real[0]], EEGPreparation(ica_labels="iclabel"))
