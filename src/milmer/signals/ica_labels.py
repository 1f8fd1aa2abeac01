"""What a component is: by ICLabel in its range, by what it shares with the eyes, by what it does at heart beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import mne
import numpy as np
from numpy.typing import NDArray
from scipy import signal as sps

from milmer.config import EEGPreparation
from milmer.signals.filters import bandpass

if TYPE_CHECKING:  # ica.py fits and then asks here, so it cannot be read first
    from milmer.signals.ica import ICA, Material

Array = NDArray[np.float64]

# In the order of ICLabel's outputs.
LABELS = ("brain", "muscle artifact", "eye blink", "heart beat", "line noise", "channel noise", "other")
ICLABEL_RATE = 200.0  # Hz: ICLabel looks at 1-100 Hz
ICLABEL_CHANNELS = 16  # fewer electrodes draw a map that ICLabel was not trained on
BLINK_BAND = 10.0  # Hz: blinks and eye movements lie below
FRONTAL = (("Fp1", "Fp2", "Fpz"), ("AF7", "AF8", "AF3", "AF4"))
FRONTAL_PEAK = 1.5  # without EOG, a blink must be this much larger at the forehead than elsewhere
BEAT_BAND = (8.0, 20.0)  # Hz, where a QRS complex stands out of ECG
BEAT = (0.2, 0.4)  # s before and after the R peak that are looked at: P to T wave
SHORTEST_BEAT = 0.33  # s: 180 a minute
NO_HEART = 0.3  # correlation below which the ECG rules out that a component is a heart's
FEWEST_BEATS = 20  # a mean over fewer says little
SLOWEST = 30.0  # beats a minute; a train of peaks that is slower is no heart's


def iclabel_refusal(rate: float, n_channels: int, placed: bool, off: str) -> str:
    """Return why ICLabel is out of its range here, or an empty string."""
    if off:
        return off
    if rate < ICLABEL_RATE:
        return f"ICLabel needs {ICLABEL_RATE:g} Hz or more to see 1-100 Hz, this recording has {rate:g} Hz"
    if n_channels < ICLABEL_CHANNELS:
        return f"ICLabel needs {ICLABEL_CHANNELS} channels or more to draw its maps, this recording has {n_channels}"
    if not placed:
        return "ICLabel needs the position of every channel"
    return ""


def labelled(
    plain: ICA, fitted: mne.preprocessing.ICA, material: Material, settings: EEGPreparation, refusal: str
) -> tuple[ICA, list[str]]:
    """Say what each component is.

    Parameters
    ----------
    plain : ICA
        The decomposition without labels.
    fitted : mne.preprocessing.ICA
        The same as MNE has it, for ICLabel.
    material : Material
        What it was fitted on.
    settings : EEGPreparation
        Labeller and thresholds.
    refusal : str
        Why ICLabel is out of its range, or an empty string.

    Returns
    -------
    ica : ICA
    notes : list of str
        One line each.
    """
    if settings.ica_labels == "none":
        return replace(plain, reason="components are not labelled (ica_labels: none)"), []
    wants_iclabel = settings.ica_labels in ("auto", "iclabel")
    if wants_iclabel and not refusal and material.chunks.shape[2] < material.rate:
        refusal = "ICLabel needs stretches of at least 1 s, and these trials are shorter"
    if wants_iclabel and not refusal:
        chances = _iclabel(fitted, material)  # (k, 7)
        labels = tuple(LABELS[i] for i in chances.argmax(axis=1))
        reason = f"ICLabel on {len(material.present)} channels, 1-100 Hz at {material.rate:g} Hz"
        ica = replace(plain, labels=labels, scores=chances.max(axis=1), labelled_by="iclabel", reason=reason)
        if settings.ica_labels == "iclabel":
            return ica, []
        if material.eog is not None:
            ica = _with_eog(ica, material, settings.eog_threshold, f"{reason}; ")
        return _with_ecg(ica, material, settings.ecg_threshold, chances)
    before = f"ICLabel off: {refusal}; " if settings.ica_labels == "auto" else ""
    ica = _with_eog(plain, material, settings.eog_threshold, before)
    notes = []
    if ica.labelled_by == "frontal":
        notes.append("no EOG channel: blinks are found by correlation with the forehead's EEG, which is less certain")
    elif ica.labelled_by == "none":
        alone = "no component is labelled, so none is taken out" if material.ecg is None else "no blink is looked for"
        notes.append(f"neither EOG nor forehead channels: {alone}")
    ica, said = _with_ecg(ica, material, settings.ecg_threshold)
    return ica, notes + said


def _iclabel(fitted: mne.preprocessing.ICA, material: Material) -> Array:
    """Probability (k, 7) of each of `LABELS`, whose order is ICLabel's."""
    from mne_icalabel.iclabel import iclabel_label_components  # late: it loads torch, which DEAP's files never need

    from milmer.signals.ica import montage_info

    chunks = material.chunks[:, list(material.present)]  # (E, P, L)
    with mne.use_log_level("ERROR"):
        # Epochs and not one long array: ICLabel's spectra then stay within a trial, and it draws no random numbers.
        epochs = mne.EpochsArray(chunks, montage_info(material, placed=True), proj=False, verbose="ERROR")
        epochs.set_eeg_reference("average", verbose="ERROR")
        return np.asarray(iclabel_label_components(epochs, fitted, inplace=False), dtype=np.float64)  # (k, 7)


def _with_eog(ica: ICA, material: Material, threshold: float, before: str) -> ICA:
    """Call components blinks that follow an EOG channel, or without one the forehead."""
    forehead: list[int] = []
    if material.eog is not None:
        guide, names = material.eog, material.eog_names  # (E, G, L)
    else:
        forehead = _forehead(material)
        if not forehead:
            return replace(ica, reason=f"{before}no EOG and no forehead channels: components are not labelled")
        guide, names = material.chunks[:, forehead], tuple(material.names[c] for c in forehead)  # (E, G, L)
    corr = _correlation(ica.unmixing @ material.chunks, guide, material.rate)  # (k,)
    blink = corr >= threshold  # (k,)
    if forehead:
        # A strong rhythm at the back reaches the forehead through the average reference; a blink peaks there.
        elsewhere = [c for c in material.present if c not in forehead]
        blink &= _rms(ica.mixing[forehead]) >= FRONTAL_PEAK * _rms(ica.mixing[elsewhere])
    both = ica.labelled_by == "iclabel"
    known = np.array([label == "eye blink" for label in ica.labels])  # (k,)
    scores = np.where(blink & ~known, corr, ica.scores) if both else corr  # (k,)
    labels = tuple("eye blink" if b else label for b, label in zip(blink, ica.labels, strict=True))
    if both:
        reason = f"{before}and EOG correlation >= {threshold:g} ({', '.join(names)})"
        return replace(ica, labels=labels, scores=scores, labelled_by="iclabel+eog", reason=reason)
    if forehead:
        reason = f"{before}no EOG channel, so correlation >= {threshold:g} with {', '.join(names)} instead"
        return replace(ica, labels=labels, scores=scores, labelled_by="frontal", reason=reason)
    reason = f"{before}EOG correlation >= {threshold:g} ({', '.join(names)})" + (" instead" if before else "")
    return replace(ica, labels=labels, scores=scores, labelled_by="eog", reason=reason)


def _with_ecg(ica: ICA, material: Material, threshold: float, chances: Array | None = None) -> tuple[ICA, list[str]]:
    """Call components heart beats that do the same at every R peak of the ECG.

    What ICLabel, by its `chances` (k, 7), takes for a heart that the ECG knows nothing of is what it holds likeliest
    besides: an ECG measures what ICLabel guesses.
    """
    if material.ecg is None:
        return ica, []
    if material.rate < 2 * BEAT_BAND[1] + 4:
        return ica, [f"no heart beats looked for: {material.rate:g} Hz are too few for them"]
    beats = r_peaks(_beat_band(material.ecg, material.rate)[:, 0], material.rate)
    n_beats = sum(map(len, beats))
    minutes = material.ecg.shape[0] * material.ecg.shape[2] / material.rate / 60
    if n_beats < max(FEWEST_BEATS, SLOWEST * minutes):
        return ica, [f"no heart beats looked for: {n_beats} R peaks in {minutes:.1f} min of ECG are too few"]
    before, after = (round(seconds * material.rate) for seconds in BEAT)
    corr = locked(ica.unmixing @ material.chunks, beats, before, after)  # (k,)
    heart = corr >= threshold  # (k,)
    heart &= np.array([label != "eye blink" or c > s for label, c, s in zip(ica.labels, corr, ica.scores, strict=True)])
    named, scores = list(ica.labels), np.where(heart, corr, ica.scores)  # (k,)
    for i in range(len(named)):
        if heart[i]:
            named[i] = "heart beat"
        elif named[i] == "heart beat" and chances is not None and corr[i] < NO_HEART:
            others = np.where([label == "heart beat" for label in LABELS], 0.0, chances[i])  # (7,)
            named[i], scores[i] = LABELS[int(others.argmax())], others.max()
    by = "ecg" if ica.labelled_by == "none" else f"{ica.labelled_by}+ecg"
    reason = f"{ica.reason}; correlation >= {threshold:g} with what recurs at {n_beats} R peaks of the ECG"
    return replace(ica, labels=tuple(named), scores=scores, labelled_by=by, reason=reason), []


def _beat_band(x: Array, rate: float) -> Array:
    """Bring (E, n, L) to `BEAT_BAND` by a zero-phase filter as short as a heart beat; stretches may last a second."""
    sos = sps.butter(2, BEAT_BAND, "bandpass", fs=rate, output="sos")
    return np.asarray(sps.sosfiltfilt(sos, x, axis=-1, padlen=min(x.shape[-1] - 1, round(rate / 2))))


def r_peaks(ecg: Array, rate: float) -> list[NDArray[np.intp]]:
    """Find R peaks in stretches of ECG that are already in `BEAT_BAND`.

    The energy within a tenth of a second is looked at, so that the sign of the lead does not matter. A beat reaches a
    third of what the strongest of a stretch usually has: one jolt must not hide all others.

    Parameters
    ----------
    ecg : ndarray, shape (E, L)
        Any unit.
    rate : float
        Samples a second.

    Returns
    -------
    list of ndarray of int
        For each stretch, the sample of the largest excursion of each beat.
    """
    width = max(1, round(0.1 * rate))
    half = width // 2
    energy = np.stack([np.convolve(one**2, np.ones(width) / width, "same") for one in ecg])  # (E, L)
    height = float(np.median(energy.max(axis=1))) / 3
    found = []
    for one, own in zip(ecg, energy, strict=True):
        tops, _ = sps.find_peaks(own, height=max(height, 1e-60), distance=max(1, round(SHORTEST_BEAT * rate)))
        begins = np.maximum(tops - half, 0)  # (n_beats,)
        peaks = [b + int(np.argmax(np.abs(one[b : t + half + 1]))) for b, t in zip(begins, tops, strict=True)]
        found.append(np.array(peaks, dtype=np.intp))
    return found


def locked(sources: Array, beats: Sequence[NDArray[np.intp]], before: int, after: int) -> Array:
    """Correlation of each source with a train of its own mean beats: the root of the share that the heart has in it.

    Not with the ECG itself: a heart beat has another wave form at the scalp than on the chest, and an ECG carries mains
    hum that EEG has too. Not only around the beats either (Dammers et al. 2008, IEEE Trans Biomed Eng 55, ask how
    tightly a source is locked there): a component of brain with a few sharp beats in it is locked to them, and without
    it the EEG is further from the truth than with it. What the mean of unrelated signal has by chance is subtracted.

    Parameters
    ----------
    sources : ndarray, shape (E, k, L)
        High-passed.
    beats : sequence of ndarray of int, length E
        R peaks in each stretch.
    before, after : int
        Samples around an R peak that belong to the beat.

    Returns
    -------
    ndarray, shape (k,)
        0 to 1; 0 where there are fewer than two whole beats.
    """
    length = sources.shape[2]
    whole = [[i for i in own if before <= i < length - after] for own in beats]
    parts = [x[:, i - before : i + after] for x, own in zip(sources, whole, strict=True) for i in own]
    if len(parts) < 2:
        return np.zeros(sources.shape[1])
    around = np.stack(parts)  # (n, k, before + after)
    around = around - around.mean(axis=2, keepdims=True)
    n = len(around)
    mean = (around.mean(axis=0) ** 2).sum(axis=1)  # (k,) energy of the mean beat
    each = (around**2).sum(axis=2).mean(axis=0)  # (k,) mean energy of a beat
    heart = sum(map(len, beats)) * (n * mean - each) / (n - 1)  # (k,) without what chance gives
    total = np.maximum(np.sum(sources**2, axis=(0, 2)), 1e-60)  # (k,)
    return np.asarray(np.sqrt(np.clip(heart / total, 0, 1)))  # (k,)


def _forehead(material: Material) -> list[int]:
    for group in FRONTAL:
        found = [c for c in material.present if material.names[c] in group]
        if found:
            return found
    return []


def _correlation(sources: Array, guide: Array, rate: float) -> Array:
    """Largest absolute correlation of each source (E, k, L) with any guide (E, G, L) below 10 Hz: shape (k,)."""
    if rate > 2 * BLINK_BAND + 4:
        sources, guide = bandpass(sources, rate, None, BLINK_BAND), bandpass(guide, rate, None, BLINK_BAND)
    sources = sources - sources.mean(axis=2, keepdims=True)  # (E, k, L)
    guide = guide - guide.mean(axis=2, keepdims=True)  # (E, G, L)
    dot = np.einsum("ekl,egl->kg", sources, guide, optimize=True)  # (k, G)
    power = np.outer(np.sum(sources**2, axis=(0, 2)), np.sum(guide**2, axis=(0, 2)))  # (k, G)
    return np.asarray(np.max(np.abs(dot) / np.sqrt(np.maximum(power, 1e-60)), axis=1))  # (k,)


def _rms(rows: Sequence[Array] | Array) -> Array:
    return np.asarray(np.sqrt(np.mean(np.asarray(rows) ** 2, axis=0)))  # (k,)
