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

ICLABEL_RATE = 200.0  # Hz: ICLabel looks at 1-100 Hz
ICLABEL_CHANNELS = 16  # fewer electrodes draw a map that ICLabel was not trained on
BLINK_BAND = 10.0  # Hz: blinks and eye movements lie below
FRONTAL = (("Fp1", "Fp2", "Fpz"), ("AF7", "AF8", "AF3", "AF4"))
FRONTAL_PEAK = 1.5  # without EOG, a blink must be this much larger at the forehead than elsewhere
BEAT_BAND = (8.0, 20.0)  # Hz, where a QRS complex stands out of ECG
QRS_BAND = (5.0, 30.0)  # Hz, in which components are held against it
QRS_HALF = 0.1  # s to either side of the R peak
SHORTEST_BEAT = 0.33  # s: 180 a minute
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
        labels, scores = _iclabel(fitted, material)
        reason = f"ICLabel on {len(material.present)} channels, 1-100 Hz at {material.rate:g} Hz"
        ica = replace(plain, labels=labels, scores=scores, labelled_by="iclabel", reason=reason)
        if settings.ica_labels == "iclabel":
            return ica, []
        if material.eog is not None:
            ica = _with_eog(ica, material, settings.eog_threshold, f"{reason}; ")
        return _with_ecg(ica, material, settings.ecg_threshold)
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


def _iclabel(fitted: mne.preprocessing.ICA, material: Material) -> tuple[tuple[str, ...], Array]:
    from mne_icalabel import label_components  # late: it loads torch, and most recordings of DEAP never need it

    from milmer.signals.ica import montage_info

    chunks = material.chunks[:, list(material.present)]  # (E, P, L)
    with mne.use_log_level("ERROR"):
        # Epochs and not one long array: ICLabel's spectra then stay within a trial, and it draws no random numbers.
        epochs = mne.EpochsArray(chunks, montage_info(material, placed=True), proj=False, verbose="ERROR")
        epochs.set_eeg_reference("average", verbose="ERROR")
        found = label_components(epochs, fitted, method="iclabel")
    return tuple(str(label) for label in found["labels"]), np.asarray(found["y_pred_proba"], dtype=np.float64)


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


def _with_ecg(ica: ICA, material: Material, threshold: float) -> tuple[ICA, list[str]]:
    """Call components heart beats that do the same at every R peak of the ECG."""
    if material.ecg is None:
        return ica, []
    if material.rate < 2 * QRS_BAND[1] + 4:
        return ica, [f"no heart beats looked for: {material.rate:g} Hz are too few for them"]
    beats = r_peaks(_qrs_band(material.ecg, material.rate, BEAT_BAND)[:, 0], material.rate)
    n_beats = sum(map(len, beats))
    minutes = material.ecg.shape[0] * material.ecg.shape[2] / material.rate / 60
    if n_beats < max(FEWEST_BEATS, SLOWEST * minutes):
        return ica, [f"no heart beats looked for: {n_beats} R peaks in {minutes:.1f} min of ECG are too few"]
    sources = _qrs_band(ica.unmixing @ material.chunks, material.rate, QRS_BAND)  # (E, k, L)
    corr = locked(sources, beats, round(QRS_HALF * material.rate))  # (k,)
    heart = corr >= threshold  # (k,)
    heart &= np.array([label != "eye blink" or c > s for label, c, s in zip(ica.labels, corr, ica.scores, strict=True)])
    labels = tuple("heart beat" if h else label for h, label in zip(heart, ica.labels, strict=True))
    by = "ecg" if ica.labelled_by == "none" else f"{ica.labelled_by}+ecg"
    reason = f"{ica.reason}; correlation >= {threshold:g} with what recurs at {n_beats} R peaks of the ECG"
    return replace(ica, labels=labels, scores=np.where(heart, corr, ica.scores), labelled_by=by, reason=reason), []


def _qrs_band(x: Array, rate: float, band: tuple[float, float]) -> Array:
    """Bring (E, n, L) to a band by a zero-phase filter as short as a heart beat; stretches may last a second."""
    sos = sps.butter(2, band, "bandpass", fs=rate, output="sos")
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


def locked(sources: Array, beats: Sequence[NDArray[np.intp]], half: int) -> Array:
    """How much of each source recurs at the beats.

    The mean over all beats is what is locked to them; its share of the variance around the beats is what the mean of
    unrelated signal has by chance subtracted, and the root of that share is the correlation of the source with a train
    of mean beats. Unlike a correlation with the ECG itself, it does not ask that a heart beat has the same wave form at
    the scalp as on the chest (the idea of locking sources to R peaks is Dammers et al. 2008, IEEE Trans Biomed Eng 55).

    Parameters
    ----------
    sources : ndarray, shape (E, k, L)
        In the band of a QRS complex.
    beats : sequence of ndarray of int, length E
        R peaks in each stretch.
    half : int
        Samples to either side that are looked at.

    Returns
    -------
    ndarray, shape (k,)
        0 to 1; 0 where there are fewer than two beats.
    """
    whole = [[i for i in own if half <= i < sources.shape[2] - half] for own in beats]
    parts = [
        x[:, i - half : i + half + 1] for x, own in zip(sources, whole, strict=True) for i in own
    ]  # (k, 2 * half + 1) each
    if len(parts) < 2:
        return np.zeros(sources.shape[1])
    around = np.stack(parts)  # (n, k, 2 * half + 1)
    around = around - around.mean(axis=2, keepdims=True)
    mean = (around.mean(axis=0) ** 2).mean(axis=1)  # (k,)
    all_of_it = np.maximum((around**2).mean(axis=(0, 2)), 1e-60)  # (k,)
    n = len(around)
    return np.asarray(np.sqrt(np.clip((n * mean / all_of_it - 1) / (n - 1), 0, 1)))  # (k,)


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
