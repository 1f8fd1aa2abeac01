"""Tables of predictions as arrays: parts, levels, people, trials, and what the training rows held."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from milmer.errors import UserError
from milmer.evaluation.metrics import Floats, Ints, checked
from milmer.evaluation.protocols import person_codes, trial_codes

if TYPE_CHECKING:  # importing pandas takes half a second, and only the annotations need it
    import pandas as pd

PARTS = ("test", "validation")
LEVELS = ("window", "trial")
_TRIAL_KEYS = ("protocol", "budget", "fold", "seed", "part", "study", "subject", "session", "trial", "y_true")
_TRIAL_KEPT = ("site", "recording", "block", "stimulus", "store_key", "trial_row", "label", "label_rule", "threshold")


@dataclass(frozen=True)
class Rows:
    """Labelled rows of one part at one level, as arrays; `training` is each row's class frequencies in training."""

    level: str
    part: str
    y: Ints  # (n,)
    p: Floats  # (n, k)
    person: Ints  # (n,)
    subject: list[str]  # one a row
    trial: Ints  # (n,), a trial with two labels counts as two
    training: Floats | None  # (n, k)

    def of(self, keep: Ints) -> Rows:
        """Return some of the rows, people and trials numbered anew."""
        return Rows(
            self.level,
            self.part,
            self.y[keep],
            self.p[keep],
            np.unique(self.person[keep], return_inverse=True)[1],
            [self.subject[i] for i in keep.tolist()],
            np.unique(self.trial[keep], return_inverse=True)[1],
            None if self.training is None else self.training[keep],
        )


def trial_level(predictions: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Average the probabilities of a trial's windows.

    Parameters
    ----------
    predictions : DataFrame
        Rows of predictions.parquet, one a window.
    classes : sequence of str
        Names in index order; column ``prob_<class>`` each.

    Returns
    -------
    DataFrame
        One row a trial and fold and part, with its identity columns, ratings, ``y_true``, mean probabilities,
        ``y_pred`` (the most probable class) and ``windows`` (how many were averaged). Under the protocol ``window``
        a trial's windows lie in several folds, and it has a row in each.
    """
    prob = _require(predictions, classes)
    keys = [c for c in _TRIAL_KEYS if c in predictions.columns]
    kept = [c for c in predictions.columns if c in _TRIAL_KEPT or c.startswith("rating_")]
    groups = predictions.groupby(keys, sort=False, dropna=False, observed=True)
    out = groups[kept].first() if kept else groups[prob].mean()[[]]
    out[prob] = groups[prob].mean()
    out["windows"] = groups.size()
    out = out.reset_index()
    out["y_pred"] = out[prob].to_numpy(dtype=np.float64).argmax(axis=1)
    return out


def tables(predictions: pd.DataFrame, classes: Sequence[str]) -> Iterable[Rows]:
    """Yield the labelled rows of each part and level that the predictions have."""
    prob = _require(predictions, classes)
    labelled = predictions[predictions["y_true"].to_numpy() >= 0]
    if not len(labelled):
        raise UserError("predictions: found no row with a label (y_true >= 0), expected some; check data.target")
    if not labelled["part"].isin(PARTS).any():
        found = sorted(set(labelled["part"]))
        raise UserError(f"predictions: found the parts {found}, expected test or validation among them")
    training = _training_frequencies(labelled, len(classes))
    scored = labelled[labelled["part"].isin(PARTS)]
    for level in LEVELS:
        frame = scored if level == "window" else trial_level(scored, classes)
        for part in PARTS:
            rows = frame[frame["part"] == part]
            if not len(rows):
                continue
            y, p = checked(rows["y_true"].to_numpy(), rows[prob].to_numpy(dtype=np.float64), len(classes))
            names = rows["subject"].astype(str)
            if "study" in rows.columns and rows["study"].nunique() > 1:
                names = rows["study"].astype(str) + "/" + names
            known = [training.get(key) for key in _fold_keys(rows)]
            prior = None if any(f is None for f in known) else np.array(known, dtype=np.float64)  # (n, k)
            trial = np.unique(trial_codes(rows) * len(classes) + y, return_inverse=True)[1]
            yield Rows(level, part, y, p, person_codes(rows), names.tolist(), trial, prior)


def _training_frequencies(labelled: pd.DataFrame, k: int) -> dict[tuple[Any, Any], Floats]:
    """Class frequencies (k,) of each fold's training rows.

    Where the table has no training rows they follow from the rest: every labelled row is tested in one fold, so a
    fold was trained on what is neither tested nor validated in it.
    """
    y, parts = labelled["y_true"].to_numpy(dtype=np.int64), labelled["part"].to_numpy()
    keys = np.empty(len(labelled), dtype=object)
    keys[:] = _fold_keys(labelled)
    numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    number = np.array([numbers[key] for key in keys])
    counts = {
        part: np.bincount(number[parts == part] * k + y[parts == part], minlength=len(numbers) * k).reshape(-1, k)
        for part in ("train", *PARTS)
    }  # (folds, k) each
    out: dict[tuple[Any, Any], Floats] = {}
    for key, i in numbers.items():
        same_seed = [j for other, j in numbers.items() if other[0] == key[0]]
        rest = counts["test"][same_seed].sum(axis=0) - counts["test"][i] - counts["validation"][i]  # (k,)
        whole = counts["test"][i].any() and counts["validation"][i].any()
        found = counts["train"][i] if counts["train"][i].any() or not whole else rest  # (k,)
        if found.any() and (found >= 0).all():
            out[key] = found / found.sum()
    return out


def _fold_keys(rows: pd.DataFrame) -> list[tuple[Any, Any]]:
    seeds = rows["seed"].tolist() if "seed" in rows.columns else [0] * len(rows)
    return list(zip(seeds, rows["fold"].tolist(), strict=True))


def by_subject(table: Rows) -> Iterable[tuple[str, Rows]]:
    """Yield each subject's name and rows."""
    for person in np.unique(table.person):
        mine = np.flatnonzero(table.person == person)
        yield table.subject[mine[0]], table.of(mine)


def labels_of(table: Rows) -> Ints:
    """Return the label of each trial, shape (n_trials,), in the order of the trials' numbers."""
    _, first = np.unique(table.trial, return_index=True)
    return np.asarray(table.y[first], dtype=np.int64)


def _require(predictions: pd.DataFrame, classes: Sequence[str]) -> list[str]:
    prob = [f"prob_{name}" for name in classes]
    missing = [c for c in ("part", "fold", "subject", "trial", "y_true", *prob) if c not in predictions.columns]
    if missing:
        raise UserError(
            f"predictions: found no column {', '.join(missing)}, expected those of a run's predictions.parquet; "
            "write them, or name the classes as the run did"
        )
    return prob
