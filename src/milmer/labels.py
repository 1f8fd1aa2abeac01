"""Ratings become classes here, at read; a store never holds a threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milmer.errors import UserError, nearest

FOUR_CLASSES = ("HAHV", "HALV", "LAHV", "LALV")
TWO_CLASSES = ("low", "high")


@dataclass(frozen=True)
class Labels:
    """Classes of rows of a table.

    Parameters
    ----------
    y : ndarray of int64, shape (n_rows,)
        Class index, or -1 where the row has no rating or label.
    classes : tuple of str
        Names in index order: the paper's for four classes, low/high for two, sorted for named labels.
    rule : str
        How ratings became classes, in words, for the predictions file (``"valence > 5, arousal > 5"``).
    """

    y: NDArray[np.int64]
    classes: tuple[str, ...]
    rule: str


def make_labels(rows: pd.DataFrame, target: str = "valence-arousal", threshold: float = 5.0) -> Labels:
    """Turn ratings or a label column into classes.

    Parameters
    ----------
    rows : DataFrame
        With columns ``rating_<name>`` and/or ``label``, or a column called `target`.
    target : str
        ``valence-arousal`` (four classes), a rating's name (two classes), ``label`` or any column of named classes.
    threshold : float
        "High" is a rating strictly above it (PAPER: rating > 5, for both dimensions).

    Raises
    ------
    UserError
        If the table has no such rating or column.
    """
    if target == "valence-arousal":
        high = {}
        for name in ("valence", "arousal"):
            high[name] = _rating(rows, name, target)
        missing = np.isnan(high["valence"]) | np.isnan(high["arousal"])
        index = 2 * (high["arousal"] <= threshold) + (high["valence"] <= threshold)
        y = np.where(missing, -1, index).astype(np.int64)
        return Labels(y, FOUR_CLASSES, f"valence > {threshold:g}, arousal > {threshold:g}")
    if f"rating_{target}" in rows.columns:
        values = _rating(rows, target, target)
        y = np.where(np.isnan(values), -1, values > threshold).astype(np.int64)
        return Labels(y, TWO_CLASSES, f"{target} > {threshold:g}")
    column = target if target in rows.columns else None
    if column is None:
        known = [c.removeprefix("rating_") for c in rows.columns if c.startswith("rating_")]
        known += [c for c in ("label",) if c in rows.columns]
        known += ["valence-arousal"]
        raise UserError(f"target '{target}': this study has {', '.join(sorted(known))}{nearest(target, known)}")
    text = rows[column].astype(object).where(rows[column].notna(), "").astype(str).str.strip()
    classes = tuple(sorted(set(text) - {""}, key=_natural))
    if len(classes) < 2:
        raise UserError(
            f"target '{target}': found the classes {list(classes)}, expected at least two; name another target"
        )
    lookup = {name: i for i, name in enumerate(classes)}
    return Labels(np.array([lookup.get(t, -1) for t in text], dtype=np.int64), classes, f"{target} as given")


def _rating(rows: pd.DataFrame, name: str, target: str) -> NDArray[np.float64]:
    column = f"rating_{name}"
    if column not in rows.columns:
        have = ", ".join(c.removeprefix("rating_") for c in rows.columns if c.startswith("rating_")) or "nothing"
        named = "label" in rows.columns and rows["label"].astype(str).str.strip().any()
        hint = "; it has named classes: --target label" if named else ""
        raise UserError(f"target '{target}' needs ratings of {name}; this study has ratings of {have}{hint}")
    try:
        return np.asarray(rows[column].to_numpy(dtype=np.float64, na_value=np.nan))  # (n_rows,)
    except ValueError as error:
        raise UserError(f"ratings of {name}: {error}; expected numbers or nothing") from error


def _natural(name: str) -> tuple[float, str]:
    """Sort numbers by value, before words."""
    try:
        return float(name), name
    except ValueError:
        return float("inf"), name
