"""Independent components: fitted once, labelled, kept beside the signal and taken out at read."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import mne
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from milmer.config import EEGPreparation
from milmer.errors import UserError, nearest
from milmer.signals.ica_labels import LABELS, labelled
from milmer.signals.material import enough_samples

Array = NDArray[np.float64]

FEWEST_CHANNELS = 4
SAMPLES_A_WEIGHT = 20  # samples for each weight of the unmixing matrix, the field's rule of thumb
SMALLEST_VARIANCE = 1e-6  # of the largest: below it lies only what referencing, cleaning or rounding left behind
# Extended methods know flat distributions too, such as that of mains hum. Infomax stops where EEGLAB's does, not at
# MNE's 1e-12, and looks for flat ones now and then, not in every block: that took nine tenths of the time.
PARAMETERS: Mapping[str, Mapping[str, object]] = {
    "picard": {"ortho": False, "extended": True},
    "infomax": {"extended": True, "w_change": 1e-7, "ext_blocks": 20},
    "fastica": {},
}
MOST_ROUNDS = {"picard": 300, "infomax": 100, "fastica": 300}  # of the fit


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
        Of the label: probability (ICLabel) or correlation (EOG, ECG); 0 where nobody looked.
    method : str
        ``picard``, ``fastica`` or ``infomax``.
    labelled_by : str
        ``iclabel``, ``eog``, ``ecg``, ``frontal``, several joined by ``+``, or ``none``.
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

    `chunks` (E, C, L) in volts, prepared; `eog` and `ecg` (E, G, L) or None; `present` lists the channels that are not
    masked and `n_mended` how many of them were interpolated, so add nothing to the rank.
    """

    chunks: Array
    rate: float
    names: tuple[str, ...]
    present: tuple[int, ...]
    n_mended: int
    eog: Array | None = None
    eog_names: tuple[str, ...] = ()
    ecg: Array | None = None


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
    # The matrices are small: more threads than one make it slower, on a busy machine by a factor of ten.
    with threadpool_limits(1):
        n_comp, notes = _count(material)
        if n_comp == 0:
            return None, notes
        fitted = _fit(material, n_comp, settings.ica, seed)
        if fitted.n_iter_ >= MOST_ROUNDS[settings.ica]:
            notes.append(f"ICA: {settings.ica} was stopped after {fitted.n_iter_} rounds, before it settled")
        present = list(material.present)
        mixing = np.zeros((len(material.names), n_comp))  # (C, k)
        unmixing = np.zeros((n_comp, len(material.names)))  # (k, C)
        mixing[present], unmixing[:, present] = _matrices(fitted)
        plain = ICA(mixing, unmixing, ("other",) * n_comp, np.zeros(n_comp), settings.ica, "none", "")
        ica, said = labelled(plain, fitted, material, settings, refusal)
        return ica, notes + said


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


def montage_info(material: Material, placed: bool = False) -> mne.Info:
    """MNE's description of the channels that are present, with their places for ICLabel's maps."""
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
    most = min(max(2 * SAMPLES_A_WEIGHT * len(x) ** 2, 40_000), enough_samples(len(x)))
    if x.shape[1] > most:
        x = x[:, np.linspace(0, x.shape[1] - 1, most).astype(int)]  # (P, most)
    ica = mne.preprocessing.ICA(
        n_components=n_comp,
        method=method,
        fit_params=dict(PARAMETERS[method]),
        random_state=seed,
        max_iter=MOST_ROUNDS[method],
        verbose="ERROR",
    )
    with mne.use_log_level("ERROR"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it did not settle is a note of ours
        ica.fit(mne.io.RawArray(x, montage_info(material), copy="both"))
    return ica


def _matrices(fitted: mne.preprocessing.ICA) -> tuple[Array, Array]:
    """Mixing (P, k) and unmixing (k, P) between volts and sources, as MNE's `apply` uses them."""
    k = fitted.n_components_
    scale = fitted.pre_whitener_  # (P, 1)
    mixing = scale * (fitted.pca_components_[:k].T @ fitted.mixing_matrix_)  # (P, k)
    unmixing = (fitted.unmixing_matrix_ @ fitted.pca_components_[:k]) / scale.T  # (k, P)
    return mixing, unmixing
