"""What a store knows of one recording beside its samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RecordingInfo:
    """What a store knows of one recording beside its samples.

    Parameters
    ----------
    names : tuple of str
        EEG channels, in the order of the rows of ``eeg.npy``.
    positions : ndarray, shape (C, 3)
        Electrode places on the unit sphere.
    masked : tuple of str
        Channels that could not be repaired: all zeros, given to no model.
    """

    key: str
    names: tuple[str, ...]
    positions: NDArray[np.float64]  # (C, 3)
    rate: float
    bad: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    components: tuple[str, ...] = ()  # label of each independent component
    component_scores: tuple[float, ...] = ()
    component_trials: tuple[int, ...] = ()  # trial of each, where each trial has components of its own
    labelled_by: str = ""
    reason: str = ""
    peripheral: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    skin: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # trial -> rows of skin.npy
    body: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # kind -> channels, rate, spans, quality


@dataclass(frozen=True)
class Faces:
    """The face track of a recording, as columns; a trial is a slice of it."""

    time: NDArray[np.float64]  # (F,) s from the trial's start
    found: NDArray[np.bool_]  # (F,)
    confidence: NDArray[np.float32]  # (F,)
    box: NDArray[np.float32]  # (F, 4)
    offset: NDArray[np.int64]  # (F,)
    length: NDArray[np.int64]  # (F,)
