"""The one form every study is read into: recordings of trials, nothing read before it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

MARKER = "SIMULATED.txt"  # in the root of a simulated study, so that nobody takes its figures for DEAP's
RATINGS = ("valence", "arousal", "dominance", "liking", "familiarity")

BODY_KINDS = ("gsr", "ppg", "ecg", "respiration", "temperature", "emg", "eog")
# Names that stores written before these kinds have.
_FORMER = {"GSR": "gsr", "plethysmograph": "ppg", "zEMG": "emg", "tEMG": "emg"}


def body_kind(name: str) -> str:
    """Kind of a peripheral signal by its name: ``emg-trapezius`` is ``emg``; empty where it is none of `BODY_KINDS`.

    A signal is called by its kind; where there are several of it, what tells them apart stands behind a hyphen.
    """
    if name in _FORMER:
        return _FORMER[name]
    kind = name.partition("-")[0]
    if kind.upper().startswith("ECG") and kind[3:].isdigit():
        return "ecg"  # ECG2, of older stores
    return kind.lower() if kind.lower() in BODY_KINDS else ""


@dataclass(frozen=True)
class Signal:
    """A stretch of a multi-channel signal in SI units.

    Parameters
    ----------
    samples : ndarray, shape (n_channels, n_samples)
        Values in `unit`. NaN marks samples that are missing.
    names : tuple of str
        One name a channel, as cleaned by `milmer.signals.channels`.
    rate : float
        Samples a second (Hz).
    unit : str
        ``"V"``, ``"S"``, ``"ohm"``, ``"degC"`` or ``"1"``.
    pad_before, pad_after : float
        Seconds at either end that belong to no trial: they serve as filter padding and are dropped after filtering.
    warnings : tuple of str
        What was odd on reading (one line each), for the record.
    """

    samples: NDArray[np.floating]  # (C, S)
    names: tuple[str, ...]
    rate: float
    unit: str = "V"
    pad_before: float = 0.0
    pad_after: float = 0.0
    warnings: tuple[str, ...] = ()


LazySignal = Callable[[], Signal]


@dataclass(frozen=True)
class Trial:
    """One subject watching one stimulus. Any of EEG, peripheral signals, video and ratings may be missing.

    Time zero is the start of the stimulus for all signals. `video_start` is the time in the video file at which the
    trial starts, `duration` its length in seconds where the study says so.
    """

    study: str
    subject: str
    trial: int  # presentation number, from 1
    stimulus: str
    site: str = ""
    session: str = ""
    recording: str = ""  # what was recorded without a break: trials of one recording share electrodes and drift
    block: str = ""
    order: int = 0  # place within the recording, from 0
    onset: float | None = None  # seconds from the start of the recording
    duration: float | None = None
    eeg: LazySignal | None = None
    eog: LazySignal | None = None  # same length and rate as `eeg`, for artifact detection only
    ecg: LazySignal | None = None  # likewise; a body signal too, where it is in `peripheral`
    peripheral: Mapping[str, LazySignal] = field(default_factory=dict)  # by `body_kind` and what tells two apart
    video: Path | None = None
    video_start: float = 0.0
    ratings: Mapping[str, float] = field(default_factory=dict)  # native range; NaN where not given
    label: str = ""  # a named class where the study has one ("rest", "happy")

    @property
    def key(self) -> tuple[str, str, str, int]:
        """(study, subject, session, trial): unique within a store."""
        return (self.study, self.subject, self.session, self.trial)


@dataclass(frozen=True)
class Recording:
    """The unit of preparation: all trials of one subject and session.

    `key` names its folder in the store (``s01``, ``s01_ses-2``). `sources` are the files it is made from.
    `ica_labels_off` is a reason for not using ICLabel by default (out of range), empty where it may be used. `check`
    is called once before any signal is read: it opens the recording's files, returns what is odd and raises
    `UserError` where they cannot be right. `digest` stands for the sources of a recording that is in no file.
    """

    key: str
    trials: Sequence[Trial]
    sources: Sequence[Path]
    ica_labels_off: str = ""
    notes: Sequence[str] = ()
    check: Callable[[], Sequence[str]] | None = None
    digest: str = ""


class Study(Protocol):
    """A dataset on disk in its publisher's layout."""

    @property
    def name(self) -> str:
        """Name of the study."""
        ...

    @property
    def rating_ranges(self) -> Mapping[str, tuple[float, float]]:
        """Lowest and highest value of each rating."""
        ...

    def recordings(self) -> Sequence[Recording]:
        """List every recording, cheaply: read tables and file names, not signals.

        Raises
        ------
        UserError
            If the folder is not of this layout, naming what was found and what was expected.
        """
        ...
