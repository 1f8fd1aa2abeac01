"""The head of a simulated subject: where its sources are and how electrodes see them.

Sources are dipoles in a spherical head (MNE's four-shell model) and a frontal ocular field, so that tools made for
real heads (ICLabel, EOG correlation, topographies) see what they expect.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from milmer.signals.channels import electrode_positions

Array = NDArray[np.floating]

# Geneva order, as in DEAP's preprocessed files
CHANNELS = (
    *("Fp1", "AF3", "F3", "F7", "FC5", "FC1", "C3", "T7", "CP5", "CP1", "P3", "P7", "PO3", "O1", "Oz", "Pz"),
    *("Fp2", "AF4", "Fz", "F4", "F8", "FC6", "FC2", "Cz", "C4", "T8", "CP6", "CP2", "P4", "P8", "PO4", "O2"),
)
_HEAD, _STIMULUS = 11, 14  # what a random draw is for; part of its seed


@dataclass(frozen=True)
class Oscillator:
    """A cortical rhythm: `valence` and `arousal` are what +1 of either adds to its log amplitude."""

    name: str
    place: tuple[float, float, float]  # towards right, front, top; on the unit sphere
    low: float
    high: float
    microvolts: float  # rms at the electrode that sees it most
    valence: float = 0.0
    arousal: float = 0.0


# Frontal alpha asymmetry and temporal gamma speak of valence, posterior alpha and central beta of arousal (the usual
# findings of the field, here made true); mu, theta and parietal beta speak of nothing.
OSCILLATORS = (
    Oscillator("frontal alpha left", (-0.55, 0.65, 0.55), 8, 12, 4.5, valence=-0.31),
    Oscillator("frontal alpha right", (0.55, 0.65, 0.55), 8, 12, 4.5, valence=0.31),
    Oscillator("temporal gamma left", (-0.90, 0.05, 0.25), 31, 43, 2.0, valence=0.30),
    Oscillator("temporal gamma right", (0.90, 0.05, 0.25), 31, 43, 2.0, valence=0.30),
    Oscillator("posterior alpha left", (-0.45, -0.80, 0.40), 8, 12, 8.0, arousal=-0.28),
    Oscillator("posterior alpha right", (0.45, -0.80, 0.40), 8, 12, 8.0, arousal=-0.28),
    Oscillator("central beta left", (-0.35, 0.25, 0.90), 16, 26, 3.0, arousal=0.26),
    Oscillator("central beta right", (0.35, 0.25, 0.90), 16, 26, 3.0, arousal=0.26),
    Oscillator("mu left", (-0.65, -0.10, 0.75), 9, 13, 4.0),
    Oscillator("mu right", (0.65, -0.10, 0.75), 9, 13, 4.0),
    Oscillator("frontal theta", (0.0, 0.55, 0.83), 4.5, 7, 4.0),
    Oscillator("parietal beta", (0.0, -0.60, 0.80), 14, 20, 2.0),
)
MUSCLES = (
    ("temporal left", (-0.93, 0.3, -0.05)),
    ("temporal right", (0.93, 0.3, -0.05)),
    ("neck left", (-0.55, -0.8, -0.15)),
    ("neck right", (0.55, -0.8, -0.15)),
)
BACKGROUND = 48  # dipoles of 1/f activity: more than there are electrodes, as in a head


@dataclass(frozen=True)
class Head:
    """One subject's sources and how electrodes see them.

    Parameters
    ----------
    mixing : ndarray, shape (32, n_sources)
        Average-referenced field of each source; its largest entry is 1, so that a source is in volts at that electrode.
    names, kinds : tuple of str
        A name a source, and what it is in ICLabel's words: ``brain``, ``eye blink``, ``muscle artifact``.
    exponents : ndarray, shape (48,)
        Exponents of the background's 1/f power.
    alpha : float
        Shift of this subject's rhythms in Hz.
    gains : ndarray, shape (n_oscillators,)
        This subject's own log amplitude of each rhythm.
    background : float
        Root mean square of one background source, V.
    heart_rate, blink_rate : float
        Per minute.
    """

    mixing: Array
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    exponents: Array
    alpha: float
    gains: Array
    background: float
    heart_rate: float
    blink_rate: float

    def artifacts(self) -> NDArray[np.bool_]:
        """Which sources are artifacts, shape (n_sources,)."""
        return np.array([k != "brain" for k in self.kinds])


@lru_cache(maxsize=8)
def make_head(seed: int, subject: int, stimuli: int = 0) -> Head:
    """Make one subject's head: places, orientations and strengths of sources vary about those of `OSCILLATORS`.

    Parameters
    ----------
    seed, subject : int
        The head is a function of these two; the places of stimulus signatures are one of `seed` alone.
    stimuli : int
        How many stimuli have a source of their own (the last columns), 0 for none.
    """
    rng = np.random.default_rng([seed, _HEAD, subject])
    places, moments, names, kinds = [], [], [], []

    def add(name: str, kind: str, place: Array, moment: Array) -> None:
        names.append(name)
        kinds.append(kind)
        places.append(place)
        moments.append(moment / np.linalg.norm(moment))

    for i in range(BACKGROUND):
        place = _unit(rng.normal(size=3) * [1, 1, 0.8] + [0, 0, 0.5])
        add(f"background {i}", "brain", place * rng.uniform(0.60, 0.85), _unit(rng.normal(size=3)) + 0.5 * place)
    for o in OSCILLATORS:
        place = _unit(np.array(o.place) + rng.normal(0, 0.07, 3))
        add(o.name, "brain", place * rng.uniform(0.76, 0.84), place + rng.normal(0, 0.25, 3))
    for name, at in MUSCLES:
        place = _unit(np.array(at) + rng.normal(0, 0.05, 3))
        add(name, "muscle artifact", place * 0.87, place + rng.normal(0, 0.6, 3))
    pattern = np.random.default_rng([seed, _STIMULUS])
    for i in range(stimuli):
        place = _unit(pattern.normal(size=3) * [1, 1, 0.6] + [0, 0, 0.5])
        moment = place + pattern.normal(0, 0.5, 3)
        add(f"stimulus {i + 1}", "brain", place * 0.82, moment + rng.normal(0, 0.1, 3))

    electrodes = _electrodes(rng)
    radius = 0.095 * rng.uniform(0.95, 1.05)
    fields = _sphere_fields(electrodes, np.array(places), np.array(moments), radius)  # (32, k)
    eyes = np.array([[-0.3, 0.9, -0.7], [0.3, 0.9, -0.7]]) + rng.normal(0, 0.02, (2, 3))
    eyes[:, 1] = eyes[:, 1].mean()  # (2, 3)
    lid = np.array([0.0, rng.uniform(-0.3, 0.0), 1.0])
    blink = sum(_ocular_field(electrodes, eye, lid) for eye in eyes)
    saccade = sum(_ocular_field(electrodes, eye, np.array([1.0, 0.0, rng.normal(0, 0.1)])) for eye in eyes)
    first = BACKGROUND + len(OSCILLATORS)
    mixing = np.insert(fields, [first, first], np.stack([blink, saccade], axis=1), axis=1)
    names[first:first] = ["blink", "saccade"]
    kinds[first:first] = ["eye blink", "eye blink"]
    mixing = mixing - mixing.mean(axis=0)
    mixing = mixing / np.abs(mixing).max(axis=0)
    return Head(
        mixing=mixing,
        names=tuple(names),
        kinds=tuple(kinds),
        exponents=rng.normal(rng.uniform(0.9, 1.3), 0.1, BACKGROUND),
        alpha=rng.normal(0, 0.5),
        gains=rng.normal(0, 0.15, len(OSCILLATORS)),
        background=2.6e-6 * np.exp(rng.normal(0, 0.15)),
        heart_rate=rng.uniform(56, 88),
        blink_rate=rng.uniform(12, 20),
    )


def _unit(vector: Array) -> Array:
    return np.asarray(vector / np.linalg.norm(vector))


def _electrodes(rng: np.random.Generator) -> Array:
    """Where the cap of this subject sits, (32, 3) on the unit sphere: a small turn and a few millimetres off."""
    placed = electrode_positions(CHANNELS) @ Rotation.from_rotvec(rng.normal(0, 0.03, 3)).as_matrix().T
    placed = placed + rng.normal(0, 0.015, placed.shape)
    return np.asarray(placed / np.linalg.norm(placed, axis=1, keepdims=True))


def _sphere_fields(electrodes: Array, places: Array, moments: Array, radius: float) -> Array:
    """Potentials (32, k) of dipoles at `places` (k, 3) of a unit head with `moments` (k, 3), by MNE's sphere model."""
    import mne

    info = mne.create_info(list(CHANNELS), 256.0, "eeg", verbose="error")
    spots = dict(zip(CHANNELS, electrodes * radius, strict=True))
    ends = {"nasion": [0, radius, 0], "lpa": [-radius, 0, 0], "rpa": [radius, 0, 0]}
    info.set_montage(mne.channels.make_dig_montage(spots, coord_frame="head", **ends), verbose="error")
    sphere = mne.make_sphere_model((0.0, 0.0, 0.0), head_radius=radius, verbose="error")
    source = {"rr": places * radius, "nn": moments}
    space = mne.setup_volume_source_space(pos=source, sphere=sphere, sphere_units="m", mindist=0.0, verbose="error")
    forward = mne.make_forward_solution(
        info, trans=None, src=space, bem=sphere, meg=False, eeg=True, mindist=0.0, verbose="error"
    )
    free = forward["sol"]["data"].reshape(len(CHANNELS), -1, 3)  # (32, k, 3)
    if free.shape[1] != len(places):
        raise RuntimeError(f"sphere model kept {free.shape[1]} of {len(places)} dipoles")
    return np.asarray(np.einsum("ckd,kd->ck", free, moments))


def _ocular_field(electrodes: Array, eye: Array, moment: Array) -> Array:
    """Potential (32,) of an eye's dipole outside the skull: the frontal ocular field.

    An eye is no point and bone and lid smear its field: distances are softened by 0.4 of the head's radius. So Fp1 and
    Fp2 see a blink most, AF3 and AF4 about 0.5 and F3 and F4 about 0.2 of it.
    """
    way = electrodes - eye  # (32, 3)
    return np.asarray(way @ moment / (np.linalg.norm(way, axis=1) ** 2 + 0.4**2) ** 1.5)
