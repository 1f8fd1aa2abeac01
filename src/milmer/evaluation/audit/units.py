"""Which rows of a table go together: people, trials, stimuli."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milmer.evaluation.protocols import person_codes, trial_codes

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Units:
    """Which rows go together.

    Parameters
    ----------
    person, trial : ndarray of int, shape (n,)
        Codes of each row, from 0; a trial belongs to one person.
    stimulus : ndarray of int, shape (n,)
        -1 where the row does not say.
    """

    person: Ints
    trial: Ints
    stimulus: Ints

    @staticmethod
    def of(rows: Mapping[str, Any] | Any) -> Units:
        """Read the columns study, subject, session, trial and stimulus of a table."""
        person, trial = person_codes(rows), trial_codes(rows)
        stimulus = np.full(person.size, -1, dtype=np.int64)  # (n,)
        if "stimulus" in rows:
            names = np.array([_text(v) for v in np.asarray(rows["stimulus"], dtype=object)])  # (n,)
            if "study" in rows:
                studies = np.array([_text(v) for v in np.asarray(rows["study"], dtype=object)])  # (n,)
                codes = np.unique(np.stack([studies, names]), axis=1, return_inverse=True)[1]
            else:
                codes = np.unique(names, return_inverse=True)[1]
            stimulus[names != ""] = np.asarray(codes).reshape(-1)[names != ""]
        person, trial = (np.unique(codes, return_inverse=True)[1] for codes in (person, trial))
        return Units(person, trial, stimulus)


def _text(value: Any) -> str:
    return "" if value is None or value != value else str(value).strip()


def trial_labels(y: ArrayLike, trial: ArrayLike, k: int) -> Ints:
    """Label of each trial, the commonest of its rows; -1 where none has one; shape (n_trials,)."""
    labels, of = np.asarray(y, dtype=np.int64), np.asarray(trial, dtype=np.int64)
    known = labels >= 0
    votes = np.bincount(of[known] * k + labels[known], minlength=(int(of.max(initial=-1)) + 1) * k).reshape(-1, k)
    return np.where(votes.any(axis=1), votes.argmax(axis=1), -1)
