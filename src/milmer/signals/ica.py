"""Independent components: fitted once, labelled, kept beside the signal and taken out at read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import mne
import numpy as np
from numpy.typing import NDArray

from milmer.config import EEGPreparation
from milmer.errors import UserError, nearest
from milmer.signals.filters import bandpass

Array = NDArray[np.float64]

LABELS = ("brain", "muscle artifact", "eye blink", "heart beat", "line noise", "channel noise", "other")
ICLABEL_RATE = 200.0  # Hz: ICLabel looks at 1-100 Hz
ICLABEL_CHANNELS = 16  # fewer electrodes draw a map that ICLabel was not trained on
FEWEST_CHANNELS = 4
SAMPLES_A_WEIGHT = 20  # samples for each weight of the unmixing matrix, the field's rule of thumb
MOST_SAMPLES = 150_000
SMALLEST_VARIANCE = 1e-6  # of the largest: below it lies only what referencing, cleaning or rounding left behind
BLINK_BAND = 10.0  # Hz: blinks and eye movements lie below
FRONTAL = (("Fp1", "Fp2", "Fpz"), ("AF7", "AF8", "AF3", "AF4"))
FRONTAL_PEAK = 1.5  # without EOG, a blink must be this much larger at the forehead than elsewhere


@dataclass(frozen=True)
class ICA:
    """A fitted decomposition of the prepared (repaired, average-referenced) EEG of one recording.

    Parameters
    ----------
    mixing : ndarray of float64, shape (C, k)
        Topography of each component: ``mixing @ sources`` is EEG in volts.
    unmixing : ndarray of float64, shape (k, C)
        ``unmixing @ eeg`` is the sources; ``unmixing @ mixing`` is the identity.
    labels : tuple of str, length k
        One of `LABELS` a component.
    scores : ndarray of float64, shape (k,)
        Probability (ICLabel) or largest absolute correlation (EOG); 0 where nobody looked.
    method : str
        ``picard``, ``fastica`` or ``infomax``.
    labelled_by : str
        ``iclabel``, ``eog``, ``iclabel+eog``, ``frontal`` or ``none``.
    reason : str
        One line: who labelled the components, and why.
    """

    mixing: Array
    unmixing: Array
    labels: tuple[str, ...]
    scores: Array
    method: str
    labelled_by: str
    reason: str

    def operator(self, reject: Collection[str]) -> Array:
        """Matrix that takes the components with these labels out of the prepared EEG.

        Parameters
        ----------
        reject : collection of str
            Labels, such as ``{"eye blink", "muscle artifact"}``.

        Returns
        -------
        ndarray of float64, shape (C, C)
            ``operator @ eeg``; the identity where no component has such a label.

        Raises
        ------
        UserError
            If a label is not one of `LABELS`.
        """
        for name in reject:
            if name not in LABELS:
                raise UserError(
                    f"reject: found '{name}', expected labels of {', '.join(LABELS)}{nearest(name, LABELS)}"
                )
        out = [i for i, label in enumerate(self.labels) if label in reject]
        return np.eye(len(self.mixing)) - self.mixing[:, out] @ self.unmixing[out]  # (C, C)


@dataclass(frozen=True)
class Material:
    """What components are fitted and labelled on: stretches within trials, high-passed at 1 Hz.

    `chunks` (E, C, L) in volts, prepared; `eog` (E, n_eog, L) or None; `present` lists the channels that are not
    masked and `n_mended` how many of them were interpolated, so add nothing to the rank.
    """

    chunks: Array
    rate: float
    names: tuple[str, ...]
    present: tuple[int, ...]
    n_mended: int
    eog: Array | None = None
    eog_names: tuple[str, ...] = ()


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


def fit_and_label(
    material: Material, settings: EEGPreparation, refusal: str, seed: int
) -> tuple[ICA | None, list[str]]:
    """Fit the decomposition and say what its components are.

    Parameters
    ----------
    material : Material
        Prepared stretches of the recording.
    settings : EEGPreparation
        ICA method, labeller and threshold.
    refusal : str
        Why ICLabel is out of its range, or an empty string.
    seed : int
        Seed of the decomposition's starting point.

    Returns
    -------
    ica : ICA or None
        None where there is too little signal for any; the notes say why.
    notes : list of str
        One line each.
    """
    n_comp, notes = _count(material)
    if n_comp == 0:
        return None, notes
    fitted = _fit(material, n_comp, settings.ica, seed)
    present = list(material.present)
    mixing = np.zeros((len(material.names), n_comp))  # (C, k)
    unmixing = np.zeros((n_comp, len(material.names)))  # (k, C)
    mixing[present], unmixing[:, present] = _matrices(fitted)
    plain = ICA(mixing, unmixing, ("other",) * n_comp, np.zeros(n_comp), settings.ica, "none", "")
    if settings.ica_labels == "none":
        return replace(plain, reason="components are not labelled (ica_labels: none)"), notes
    wants_iclabel = settings.ica_labels in ("auto", "iclabel")
    if wants_iclabel and not refusal and material.chunks.shape[2] < material.rate:
        refusal = "ICLabel needs stretches of at least 1 s, and these trials are shorter"
    if wants_iclabel and not refusal:
        labels, scores = _iclabel(fitted, material)
        reason = f"ICLabel on {len(present)} channels, 1-100 Hz at {material.rate:g} Hz"
        plain = replace(plain, labels=labels, scores=scores, labelled_by="iclabel", reason=reason)
        if settings.ica_labels == "auto" and material.eog is not None:
            plain = _with_eog(plain, material, settings.eog_threshold, f"{reason}; ")
        return plain, notes
    before = f"ICLabel off: {refusal}; " if settings.ica_labels == "auto" else ""
    ica = _with_eog(plain, material, settings.eog_threshold, before)
    if ica.labelled_by == "frontal":
        notes.append("no EOG channel: blinks are found by correlation with the forehead's EEG, which is less certain")
    elif ica.labelled_by == "none":
        notes.append("neither EOG nor forehead channels: no component is labelled, so none is taken out")
    return ica, notes


def _count(material: Material) -> tuple[int, list[str]]:
    """How many components this much signal of this rank supports; 0 for none, with notes."""
    n_channels = len(material.present)
    if n_channels < FEWEST_CHANNELS:
        return 0, [f"no ICA: {n_channels} usable channels, it needs {FEWEST_CHANNELS}"]
    n_samples = material.chunks.shape[0] * material.chunks.shape[2]
    by_length = int(np.sqrt(n_samples / SAMPLES_A_WEIGHT))
    rank = min(n_channels - 1 - material.n_mended, _rank(material))
    if rank < 2 or by_length < FEWEST_CHANNELS:
        seconds = n_samples / material.rate
        why = f"the signal has rank {rank}" if rank < 2 else f"{seconds:.1f} s of signal are too short"
        return 0, [f"no ICA: {why}"]
    notes = []
    if rank < n_channels - 1 - material.n_mended:
        notes.append(f"ICA: the signal's rank is {rank} of {n_channels} channels (cleaned or referenced before)")
    if by_length < rank:
        need = rank**2 * SAMPLES_A_WEIGHT / material.rate
        have = n_samples / material.rate
        notes.append(
            f"ICA: {by_length} instead of {rank} components, since {have:.0f} s of signal do not bear more "
            f"({rank} need {need:.0f} s)"
        )
    return min(rank, by_length), notes


def _rank(material: Material) -> int:
    chunks = material.chunks[:, list(material.present)]  # (E, P, L)
    cov = np.einsum("ecl,edl->cd", chunks, chunks, optimize=True)  # (P, P)
    values = np.linalg.eigvalsh(cov)  # (P,)
    return int(np.sum(values > SMALLEST_VARIANCE * values[-1])) if values[-1] > 0 else 0


def _info(material: Material, placed: bool = False) -> mne.Info:
    names = [material.names[c] for c in material.present]
    info = mne.create_info(names, material.rate, "eeg", verbose="ERROR")
    with info._unlock():  # MNE and ICLabel warn where the record of filtering is missing; filtering is done
        info["highpass"], info["lowpass"] = 1.0, min(100.0, material.rate / 2)
    if placed:
        # The montage goes by a new name from MNE 1.13 on, and the old one warns.
        new = "colin27_1005"
        name = new if new in mne.channels.get_builtin_montages() else "standard_1005"
        info.set_montage(mne.channels.make_standard_montage(name), verbose="ERROR")
    return info


def _fit(material: Material, n_comp: int, method: str, seed: int) -> mne.preprocessing.ICA:
    """Fit on evenly spread samples: the model is instantaneous, so joins between stretches do not matter."""
    x = material.chunks[:, list(material.present)].transpose(1, 0, 2)  # (P, E, L)
    x = x.reshape(len(x), -1)  # (P, E * L)
    most = int(np.clip(2 * SAMPLES_A_WEIGHT * len(x) ** 2, 40_000, MOST_SAMPLES))
    if x.shape[1] > most:
        x = x[:, np.linspace(0, x.shape[1] - 1, most).astype(int)]  # (P, most)
    params = {"picard": {"ortho": False, "extended": True}, "infomax": {"extended": True}}.get(method)
    ica = mne.preprocessing.ICA(
        n_components=n_comp, method=method, fit_params=params, random_state=seed, max_iter=300, verbose="ERROR"
    )
    with mne.use_log_level("ERROR"):
        ica.fit(mne.io.RawArray(x, _info(material), copy="both"))
    return ica


def _matrices(fitted: mne.preprocessing.ICA) -> tuple[Array, Array]:
    """Mixing (P, k) and unmixing (k, P) between volts and sources, as MNE's `apply` uses them."""
    k = fitted.n_components_
    scale = fitted.pre_whitener_  # (P, 1)
    mixing = scale * (fitted.pca_components_[:k].T @ fitted.mixing_matrix_)  # (P, k)
    unmixing = (fitted.unmixing_matrix_ @ fitted.pca_components_[:k]) / scale.T  # (k, P)
    return mixing, unmixing


def _iclabel(fitted: mne.preprocessing.ICA, material: Material) -> tuple[tuple[str, ...], Array]:
    from mne_icalabel import label_components  # late: it loads torch, and most recordings of DEAP never need it

    chunks = material.chunks[:, list(material.present)]  # (E, P, L)
    with mne.use_log_level("ERROR"):
        # Epochs and not one long array: ICLabel's spectra then stay within a trial, and it draws no random numbers.
        epochs = mne.EpochsArray(chunks, _info(material, placed=True), proj=False, verbose="ERROR")
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
