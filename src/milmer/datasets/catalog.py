"""Every study that can be read: what it offers, what to expect of it, and which loader reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Facts:
    """What the publisher of a study says of it.

    Parameters
    ----------
    title : str
        A line that says what it is.
    loader : str
        ``module:class`` in `milmer.datasets`, called with the root and a name.
    modalities : tuple of str
        Of ``eeg``, ``face`` and `milmer.datasets.base.BODY_KINDS`.
    labels : tuple of str
        Ratings with their range (``valence 1-9``), or the named classes; empty where the user's files say.
    subjects, trials : int or None
        Subjects, and trials in all, of the whole study.
    access : str
        How it is had.
    """

    title: str
    loader: str
    modalities: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    subjects: int | None = None
    trials: int | None = None
    access: str = ""


_DEAP_BODY = ("eeg", "face", "gsr", "ppg", "respiration", "temperature", "emg", "eog")
_DEAP_LABELS = ("valence 1-9", "arousal 1-9", "dominance 1-9", "liking 1-9", "familiarity 1-5")

CATALOG: Mapping[str, Facts] = MappingProxyType(
    {
        "deap": Facts(
            "DEAP, preprocessed signals (Python or Matlab), and simulated studies",
            "deap:DeapStudy",
            _DEAP_BODY,
            _DEAP_LABELS,
            32,
            1280,
            "by request (EULA)",
        ),
        "table": Facts("your own: a table with one row a trial", "table:TableStudy"),
    }
)
