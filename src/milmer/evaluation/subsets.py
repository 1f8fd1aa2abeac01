"""Every subset of the modalities that a model takes: what is left of its answers where the others are missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # importing pandas takes half a second, and only the annotations need it
    import pandas as pd

SUBSETS = "subsets.parquet"
PRESENT = "present"  # its column: which modalities the model was shown
EVIDENCE = "evidence"  # its column: whether the row holds anything of them
MOST = 5  # modalities of which all 31 subsets are tried; one more doubles them
_BULKY = ("frame_weights", "face_rows")


class Shown(NamedTuple):
    """What a model answers where only a subset of the modalities is shown to it.

    Parameters
    ----------
    present : tuple of str
        The subset.
    prob : ndarray, shape (n, n_classes)
    evidence : ndarray of bool, shape (n,)
        Whether the row holds anything of the subset; elsewhere the model was shown nothing at all.
    """

    present: tuple[str, ...]
    prob: NDArray[np.floating]
    evidence: NDArray[np.bool_]


def subsets(modalities: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return every subset that is not empty, the whole first, then smaller ones."""
    return tuple(s for n in range(len(modalities), 0, -1) for s in combinations(modalities, n))


def subset_name(present: Iterable[str]) -> str:
    """Name a subset: ``eeg+gsr``."""
    return "+".join(present)


def subset_rows(predictions: pd.DataFrame, classes: Sequence[str], found: Sequence[Shown]) -> pd.DataFrame:
    """Return the rows of predictions once for each subset, with the answers that were given to it.

    Parameters
    ----------
    predictions : DataFrame, n rows long
        As in predictions.parquet.
    classes : sequence of str
        Names in index order.
    found : sequence of Shown
        What was answered to each subset.

    Returns
    -------
    DataFrame
        Without frame weights, and with the columns ``present`` and ``evidence``.
    """
    import pandas as pd

    bare = predictions.drop(columns=[c for c in _BULKY if c in predictions])
    parts = []
    for present, prob, evidence in found:
        answers = {f"prob_{name}": prob[:, i] for i, name in enumerate(classes)}
        told = bare.assign(**answers, y_pred=prob.argmax(axis=1), **{PRESENT: subset_name(present)})
        parts.append(told.assign(**{EVIDENCE: evidence}))
    return pd.concat(parts, ignore_index=True)
