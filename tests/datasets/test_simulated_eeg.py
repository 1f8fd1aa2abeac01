"""The simulated EEG carries what it is told to carry, and its artifacts look like artifacts to other people's tools."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import welch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from milmer.datasets.simulated_eeg import PULSE_SCALE, pulse, simulate_raw, simulate_trial
from milmer.datasets.simulated_head import CHANNELS, make_head

BANDS = ((4, 8), (8, 13), (13, 20), (20, 30), (30, 45))


def band_powers(eeg: NDArray[np.floating], normalise: bool = False) -> NDArray[np.floating]:
    """Log power of every band and electrode of every 3-s window after the baseline, (windows, 160)."""
    windows = eeg[:32, 384:].reshape(32, -1, 384).transpose(1, 0, 2)  # (W, 32, 384)
    if normalise:
        windows = windows / windows.std(axis=2, keepdims=True)
    freqs, power = welch(windows, 128, nperseg=128)  # (W, 32, F)
    bands = [power[..., (freqs >= low) & (freqs < high)].mean(axis=2) for low, high in BANDS]
    return np.log(np.stack(bands, axis=2)).reshape(len(windows), -1)


def decode(seed: int, carries: tuple[int, int], normalise: bool = False) -> tuple[float, float]:
    """Balanced accuracy of valence and arousal on windows of held-out trials, two subjects."""
    rows, classes, groups = [], [], []
    for subject in (1, 2):
        order = np.random.default_rng([seed, subject]).permutation(np.arange(16) % 4)
        for trial, kind in enumerate(order):
            truth = (2 * (kind // 2) - 1, 2 * (kind % 2) - 1)
            shown = [int(t * c) for t, c in zip(truth, carries, strict=True)]
            eeg = simulate_trial(
                seed, subject, trial + 1, 33, place=trial / 15, valence=shown[0], arousal=shown[1]
            ).samples
            rows.append(band_powers(eeg, normalise))
            classes += [truth] * len(rows[-1])
            groups += [100 * subject + trial] * len(rows[-1])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    folds = StratifiedGroupKFold(4, shuffle=True, random_state=0)
    scores = []
    for y in np.array(classes).T:
        guess = cross_val_predict(model, np.concatenate(rows), y, groups=groups, cv=folds)
        scores.append(float(balanced_accuracy_score(y, guess)))
    return scores[0], scores[1]


@pytest.mark.parametrize("seed", [0, 1])
def test_iclabel_calls_the_blink_a_blink(seed: int) -> None:
    import mne
    from mne_icalabel.iclabel import iclabel_label_components

    truth = simulate_raw(seed, 1, 30.0)
    raw = mne.io.RawArray(truth.samples, mne.create_info(list(truth.names), truth.rate, "eeg"), verbose="error")
    new = "colin27_1005"  # what MNE from 1.13 on calls standard_1005
    raw.set_montage(new if new in mne.channels.get_builtin_montages() else "standard_1005")
    raw.filter(1, 100, verbose="error").set_eeg_reference("average", verbose="error")
    ica = mne.preprocessing.ICA(
        31, method="picard", fit_params={"ortho": False, "extended": True}, max_iter=60, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # picard says that it could go on; the blink is found long before
        ica.fit(raw, verbose="error")
        chances = iclabel_label_components(raw, ica, inplace=False)  # (31, 7)
    blink = truth.head.mixing[:, truth.head.names.index("blink")]
    likeness = [abs(np.corrcoef(blink, field)[0, 1]) for field in ica.get_components().T]
    assert max(likeness) > 0.97
    assert chances[int(np.argmax(likeness)), 2] >= 0.9  # column 2 is "eye blink"


def test_a_blink_is_seen_most_at_fp1_and_fp2() -> None:
    for subject in range(1, 6):
        head = make_head(3, subject)
        field = np.abs(head.mixing[:, head.names.index("blink")])
        assert {CHANNELS[i] for i in np.argsort(field)[-2:]} == {"Fp1", "Fp2"}
        assert field[CHANNELS.index("Oz")] < 0.5


def test_samples_are_what_the_truth_says() -> None:
    truth = simulate_raw(0, 1, 20.0)
    noise = truth.samples - truth.head.mixing @ truth.sources
    assert truth.samples.shape == (32, 5120)
    assert np.abs(truth.samples.mean(axis=0)).max() < 1e-12
    assert 0.3e-6 < noise.std() < 0.7e-6
    assert 5e-6 < truth.samples.std() < 30e-6
    blinks = [e for e in truth.events if e["kind"] == "eye blink"]
    row = truth.sources[truth.head.names.index("blink")]
    for event in blinks[1:-1]:
        start, stop = (round(float(event[k]) * 256) for k in ("start", "stop"))
        apex = start + int(np.argmax(row[start:stop]))
        assert apex / 256 == pytest.approx(float(event["apex"]), abs=0.02)
        assert 60e-6 < row[apex] < 300e-6
    assert 3 <= len(blinks) <= 12  # of 20 s


def test_artifacts_are_marked_and_heads_differ() -> None:
    head = make_head(0, 1)
    assert set(head.kinds) == {"brain", "eye blink", "muscle artifact"}
    assert head.artifacts().sum() == 6
    assert np.allclose(np.abs(head.mixing).max(axis=0), 1)
    other = make_head(0, 2)
    assert other.names == head.names
    assert not np.allclose(other.mixing, head.mixing, atol=0.02)


def test_power_does_not_depend_on_the_rate() -> None:
    power = []
    for rate in (128.0, 500.0):
        freqs, density = welch(simulate_raw(0, 1, 60.0, rate).samples, rate, nperseg=int(2 * rate))
        power.append([density[:, (freqs >= a) & (freqs < b)].mean() for a, b in BANDS])
    assert np.allclose(np.log(power[0]), np.log(power[1]), atol=0.35)
    assert power[0][0] > 3 * power[0][2] > 6 * power[0][4]  # falls as 1/f does


def test_published_form_has_the_published_band() -> None:
    trial = simulate_trial(0, 1, 1, 33, place=0.0)
    assert trial.samples.shape == (40, 128 * 33)
    freqs, density = welch(trial.samples[:32], 128, nperseg=512)
    total = density.mean(axis=0)
    inside = total[(freqs > 6) & (freqs < 40)].min()
    assert total[freqs < 2].max() < inside / 3
    assert total[freqs > 55].max() < inside / 100
    assert np.abs(trial.samples[:32].mean(axis=0)).max() < 1e-9
    assert 3 < trial.samples[:32].std() < 30  # microvolts


def test_eog_rows_see_the_blinks_that_are_left_in_the_eeg() -> None:
    trial = simulate_trial(0, 1, 1, 63, place=0.0)
    blinks = trial.samples[33]
    slope = trial.samples[:32] @ blinks / (blinks @ blinks)  # (32,) how much of vEOG is in each electrode
    assert 0.15 < slope[[CHANNELS.index("Fp1"), CHANNELS.index("Fp2")]].min() < 0.4
    assert slope.argmax() in (CHANNELS.index("Fp1"), CHANNELS.index("Fp2"))
    assert abs(slope[CHANNELS.index("Oz")]) < 0.12


def test_plethysmograph_row_is_the_pulse() -> None:
    trial = simulate_trial(0, 2, 5, 21, place=0.5)
    times = np.arange(128 * 21) / 128 - 3
    assert np.array_equal(trial.samples[38], PULSE_SCALE * pulse(trial.beats, times))
    assert trial.beats[0] < -3
    assert trial.beats[-1] > 18
    rate = 60 / np.diff(trial.beats)
    assert rate.min() > 45
    assert rate.max() < 105
    assert rate.std() > 0.5
    wave = pulse(np.arange(20.0), np.arange(1000, 16000) / 1000)
    assert abs(wave.mean()) < 0.01
    assert wave.std() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("normalise", [False, True])
def test_power_carries_both_even_when_every_window_is_normalised(normalise: bool) -> None:
    valence, arousal = decode(0, (1, 1), normalise)
    assert min(valence, arousal) > 0.7


@pytest.mark.parametrize("carries", [(1, 0), (0, 1), (0, 0)])
def test_power_carries_only_what_it_is_told(carries: tuple[int, int]) -> None:
    for score, carried in zip(decode(1, carries), carries, strict=True):
        assert score > 0.68 if carried else score < 0.65


def test_wave_form_says_nothing() -> None:
    """The mean over trials of one class is as large as chance makes it: no phase is kept from trial to trial."""
    trials = [simulate_trial(2, 1, t, 15, place=0.5, valence=1, arousal=1).samples[:32, 384:] for t in range(1, 17)]
    stack = np.stack(trials)
    assert stack.mean(axis=0).std() < 1.3 * stack.std() / np.sqrt(len(stack))


def test_the_baseline_shows_nothing() -> None:
    low, high = (simulate_trial(0, 1, 1, 15, place=0.0, valence=v, arousal=v).samples[:32] for v in (-1, 1))
    change = np.abs(high - low).mean(axis=0)
    assert change[:320].max() < 0.05 * change[512:].mean()  # the filter lets a little back over the start


def test_a_stimulus_signature_is_the_same_for_all_subjects() -> None:
    def accuracy(signed: bool) -> float:
        rows, stimuli, subjects = [], [], []
        for subject in (1, 2, 3, 4):
            for stimulus in range(1, 9):
                extra = {"stimulus": stimulus, "stimuli": 8} if signed else {}
                rows.append(band_powers(simulate_trial(0, subject, stimulus, 21, place=0.5, **extra).samples))
                stimuli += [stimulus] * len(rows[-1])
                subjects += [subject] * len(rows[-1])
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
        guess = cross_val_predict(model, np.concatenate(rows), stimuli, groups=subjects, cv=LeaveOneGroupOut())
        return float((guess == stimuli).mean())

    assert accuracy(True) > 0.35  # chance: 0.125
    assert accuracy(False) < 0.25


def test_the_same_seed_gives_the_same_trial() -> None:
    first, again, other = (simulate_trial(s, 1, 1, 9, place=0.0).samples for s in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.allclose(first[:32], other[:32])
