"""Every subset of the modalities that a model takes: what is left of its answers where the others are missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # importing pandas takes half a second, and only the annotations need it
    import pandas as pd

SUBSETS = "subsets.parquet"
PRESENT = "present"  # its column: which modalities the model was shown
MOST = 5  # modalities of which all 31 subsets are tried; one more doubles them
_BULKY = ("frame_weights", "face_rows")


def subsets(modalities: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return every subset that is not empty, the whole first, then smaller ones."""
    return tuple(s for n in range(len(modalities), 0, -1) for s in combinations(modalities, n))


def subset_name(present: Iterable[str]) -> str:
    """Name a subset: ``eeg+gsr``."""
    return "+".join(present)


def subset_rows(
    predictions: pd.DataFrame, classes: Sequence[str], found: Sequence[tuple[tuple[str, ...], NDArray[np.floating]]]
) -> pd.DataFrame:
    """Return the rows of predictions once for each subset, with the answers that were given to it.

    Parameters
    ----------
    predictions : DataFrame, n rows long
        As in predictions.parquet.
    classes : sequence of str
        Names in index order.
    found : sequence of (tuple of str, ndarray of shape (n, n_classes))
        Each subset with its class probabilities.

    Returns
    -------
    DataFrame
        Without frame weights, and with a column ``present``.
    """
    import pandas as pd

    bare = predictions.drop(columns=[c for c in _BULKY if c in predictions])
    parts = []
    for present, prob in found:
        answers = {f"prob_{name}": prob[:, i] for i, name in enumerate(classes)}
        parts.append(bare.assign(**answers, y_pred=prob.argmax(axis=1), **{PRESENT: subset_name(present)}))
    return pd.concat(parts, ignore_index=True)
