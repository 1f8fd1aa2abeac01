"""Electrodes that EEG can be interpolated to, and the spherical spline that does it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

from milmer.errors import UserError, nearest

Array = NDArray[np.float64]

COMMON = "common"
# Sets of electrodes by name, each in the order that its maker or publisher lists them.
_LISTS = {
    "deap": "Fp1 AF3 F3 F7 FC5 FC1 C3 T7 CP5 CP1 P3 P7 PO3 O1 Oz Pz Fp2 AF4 Fz F4 F8 FC6 FC2 Cz C4 T8 CP6 CP2 P4 P8 "
    "PO4 O2",
    "emotiv": "AF3 F7 F3 FC5 T7 P7 O1 O2 P8 T8 FC6 F4 F8 AF4",
    "10-20": "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2",
}
SETS: Mapping[str, tuple[str, ...]] = MappingProxyType({name: tuple(text.split()) for name, text in _LISTS.items()})
STIFFNESS = 4  # m of Perrin et al.: how smooth the surface is
TERMS = 50  # of the Legendre series; with m = 4 what follows is below 1e-12
SMOOTHING = 1e-5  # on the diagonal: electrodes that nearly touch must not be told apart by their noise
SAME_PLACE = 1e-3  # of the radius, a tenth of a millimetre on a head


def montage_names(montage: str) -> tuple[str, ...]:
    """Return the electrodes that ``data.montage`` names, in 10-05 spelling; none for ``common``.

    Parameters
    ----------
    montage : str
        ``common``, one of `SETS`, or names with commas between them (``"Fz,Cz,T3"``).

    Raises
    ------
    UserError
        If it is neither a set nor names of the 10-05 system, or names an electrode twice.
    """
    from milmer.signals.channels import clean_names

    if montage == COMMON:
        return ()
    if montage in SETS:
        return SETS[montage]
    words = [w.strip() for w in montage.split(",") if w.strip()]
    found: list[str] = []
    for word in words:
        clean = clean_names([word]).names
        if not clean:
            known = (COMMON, *SETS) if len(words) == 1 else SETS["deap"]
            raise UserError(
                f"montage '{montage}': {word} is no electrode of the 10-05 system; expected "
                f"{', '.join((COMMON, *SETS))} or names of electrodes with commas{nearest(word, known)}"
            )
        if clean[0] in found:
            raise UserError(f"montage '{montage}': {clean[0]} is named twice; name each electrode once")
        found += clean
    if not found:
        raise UserError(f"montage '{montage}': found no electrode, expected {', '.join((COMMON, *SETS))} or names")
    return tuple(found)


def spline_matrix(positions_from: Array, positions_to: Array) -> Array:
    """Return the matrix that interpolates potentials on a sphere: ``matrix @ eeg``.

    Spherical splines of Perrin et al. (1989), Electroencephalography and Clinical Neurophysiology 72, 184-187,
    equations 1 to 3, with m = 4. A place that is one of those measured takes its signal as it is.

    Parameters
    ----------
    positions_from : ndarray, shape (C, 3)
        Electrodes that were measured; only their direction counts.
    positions_to : ndarray, shape (T, 3)
        Electrodes that are wanted.

    Returns
    -------
    ndarray of float64, shape (T, C)
        Each row sums to 1: what all electrodes share stays.
    """
    have, want = _unit(positions_from), _unit(positions_to)  # (C, 3), (T, 3)
    n = len(have)
    system = np.ones((n + 1, n + 1))  # (C + 1, C + 1)
    system[:n, :n] = _kernel(have @ have.T) + SMOOTHING * np.eye(n)  # (C, C)
    system[n, n] = 0.0
    wanted = np.concatenate([_kernel(want @ have.T), np.ones((len(want), 1))], axis=1)  # (T, C + 1)
    matrix = (wanted @ np.linalg.pinv(system))[:, :n]  # (T, C)
    away = np.linalg.norm(want[:, None] - have[None], axis=2)  # (T, C)
    for t in np.flatnonzero(away.min(axis=1) < SAME_PLACE):
        matrix[t] = np.eye(n)[away[t].argmin()]  # (C,)
    return np.asarray(matrix)


def _unit(positions: Array) -> Array:
    places = np.asarray(positions, dtype=np.float64).reshape(-1, 3)  # (n, 3)
    return np.asarray(places / np.linalg.norm(places, axis=1, keepdims=True))  # (n, 3)


def _kernel(cosine: Array) -> Array:
    """Return g of Perrin et al. (1989), equation 3, of the cosine of the angle between two places."""
    n = np.arange(1, TERMS + 1, dtype=np.float64)  # (N,)
    weights = np.concatenate([[0.0], (2 * n + 1) / (n * (n + 1)) ** STIFFNESS])  # (N + 1,)
    return np.asarray(legendre.legval(np.clip(cosine, -1.0, 1.0), weights) / (4 * np.pi))
