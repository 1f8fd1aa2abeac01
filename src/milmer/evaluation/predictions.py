"""Tables of predictions as arrays: parts, levels, people, trials, and what the training rows held."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from milmer.errors import UserError
from milmer.evaluation.coded import CODES, PARTS, Coded, renumbered, subject_names
from milmer.evaluation.metrics import Floats, Ints, checked
from milmer.evaluation.no_signal import Answers, answers

if TYPE_CHECKING:  # importing pandas takes half a second, and only the annotations need it
    import pandas as pd

LEVELS = ("window", "trial")
FOUR_CLASSES = ("HAHV", "HALV", "LAHV", "LALV")
# Which of the four classes are "high" of a dimension.
HIGH: Mapping[str, tuple[int, ...]] = {"valence": (0, 2), "arousal": (0, 1)}
_TRIAL_KEYS = ("protocol", "budget", "fold", "seed", "part", "study", "subject", "session", "trial", "y_true")
_TRIAL_KEPT = ("site", "recording", "block", "stimulus", "store_key", "trial_row", "label", "label_rule")
_ENDINGS = ("rating_", "threshold_")


@dataclass(frozen=True)
class Rated:
    """One continuous rating of rows: given, expected by the model, and what knows no signal; (n,) each, NaN for none.

    The model's expected rating is the mean rating of each class among the fold's training rows, weighted by the
    probabilities; `base` is the mean of all of them, `no_signal` the mean that other subjects gave the stimulus.
    """

    truth: Floats
    expected: Floats
    base: Floats
    no_signal: Floats


@dataclass(frozen=True)
class Rows:
    """Labelled rows of one part at one level, as arrays."""

    level: str
    part: str
    y: Ints  # (n,)
    p: Floats  # (n, k)
    person: Ints  # (n,)
    subject: NDArray[np.object_]  # (n,), its name
    trial: Ints  # (n,), what a label belongs to: a trial with two labels counts as two
    own: Ints  # (n,), the trial itself
    row: Ints  # (n,), the window or trial itself, the same under every seed
    seed: Ints  # (n,), 0 to seeds-1
    fold: Ints  # (n,), of seed and fold together
    stimulus: Ints  # (n,), -1 where it has no name
    training: Floats | None  # (n, k), class frequencies in training
    no_signal: Answers | None  # of these rows; None where no stimulus was in training with another subject
    ratings: Mapping[str, Rated]

    def of(self, keep: Ints) -> Rows:
        """Return some of the rows, people, trials and seeds numbered anew."""
        quiet = self.no_signal
        if quiet is not None:
            quiet = Answers(quiet.p[keep], quiet.known[keep], {n: v[keep] for n, v in quiet.ratings.items()})
        return replace(
            self,
            person=renumbered(self.person[keep]),
            trial=renumbered(self.trial[keep]),
            own=renumbered(self.own[keep]),
            row=renumbered(self.row[keep]),
            seed=renumbered(self.seed[keep]),
            fold=self.fold[keep],
            y=self.y[keep],
            p=self.p[keep],
            subject=self.subject[keep],
            stimulus=self.stimulus[keep],
            training=None if self.training is None else self.training[keep],
            no_signal=quiet,
            ratings={
                n: Rated(r.truth[keep], r.expected[keep], r.base[keep], r.no_signal[keep])
                for n, r in self.ratings.items()
            },
        )

    def binary(self, dimension: str) -> Rows:
        """Return the rows of four classes as low and high of ``valence`` or ``arousal``, probabilities summed."""
        high = list(HIGH[dimension])

        def summed(p: Floats) -> Floats:
            of = p[:, high].sum(axis=1)  # (n,)
            return np.stack([1 - of, of], axis=1)  # (n, 2)

        y = np.isin(self.y, high).astype(np.int64)  # (n,)
        quiet = self.no_signal
        return replace(
            self,
            y=y,
            p=summed(self.p),
            trial=renumbered(self.own * 2 + y),
            training=None if self.training is None else summed(self.training),
            no_signal=None if quiet is None else replace(quiet, p=summed(quiet.p)),
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
        One row a trial, fold, seed and part, with its identity columns, ratings, thresholds, ``y_true``, mean
        probabilities, ``y_pred`` (the most probable class) and ``windows`` (how many were averaged). Under the
        protocol ``window`` a trial's windows lie in several folds, and it has a row in each.

    Raises
    ------
    UserError
        If columns are missing.
    """
    prob = required(predictions, classes)
    keys = [c for c in _TRIAL_KEYS if c in predictions.columns]
    kept = [c for c in predictions.columns if c in _TRIAL_KEPT or c.startswith(_ENDINGS)]
    groups = predictions.groupby(keys, sort=False, dropna=False, observed=True)
    out = groups[kept].first() if kept else groups[prob].mean()[[]]
    out[prob] = groups[prob].mean()
    out["windows"] = groups.size()
    out = out.reset_index()
    out["y_pred"] = out[prob].to_numpy(dtype=np.float64).argmax(axis=1) if len(out) else np.zeros(0, dtype=np.int64)
    return out


def target_of(predictions: pd.DataFrame, classes: Sequence[str]) -> str:
    """Return what the classes are of: ``valence-arousal``, a rating's name, or the label's."""
    if tuple(classes) == FOUR_CLASSES:
        return "valence-arousal"
    rules = predictions["label_rule"].unique().tolist() if "label_rule" in predictions.columns else []
    words = str(rules[0]).split() if rules else []
    return words[0] if words else "label"


def tables(predictions: pd.DataFrame, classes: Sequence[str]) -> Iterable[Rows]:
    """Yield the labelled rows of each part and level that the predictions have.

    Raises
    ------
    UserError
        If columns are missing, no row has a label, or there is no row of a part that can be judged.
    """
    prob = required(predictions, classes)
    labelled = predictions[predictions["y_true"].to_numpy() >= 0]
    if not len(labelled):
        raise UserError("predictions: found no row with a label (y_true >= 0), expected some; check data.target")
    found = sorted(labelled["part"].unique().tolist())
    if not set(found) & set(PARTS):
        raise UserError(f"predictions: found the parts {found}, expected test or validation among them")
    k = len(classes)
    all_ = Coded.of(labelled)
    prior = all_.frequencies(labelled, k)  # (folds, k)
    means = {name: all_.class_means(values, k) for name, values in all_.ratings.items()}  # (folds, k + 1) each
    p_all, y_all = labelled[prob].to_numpy(dtype=np.float64), all_.y
    names = subject_names(labelled)
    seen = all_.seen()
    for level in LEVELS:
        for part in PARTS:
            rows = np.flatnonzero(all_.part == CODES[part])  # (n,)
            if not rows.size:
                continue
            y, p = checked(y_all[rows], p_all[rows], k)
            if level == "trial":
                rows, p = _averaged(rows, p, all_, k)
                y = y_all[rows]
            fold, own = all_.fold[rows], all_.trial[rows]  # (n,), (n,)
            quiet = answers(seen, fold, all_.person[rows], all_.stimulus[rows], k)
            known = quiet.known.any()
            ratings = {}
            for name, values in all_.ratings.items():
                of_class = means[name][fold]  # (n, k + 1)
                expected = (p * of_class[:, :k]).sum(axis=1)  # (n,)
                ratings[name] = Rated(values[rows], expected, of_class[:, k], quiet.ratings[name])
            training = prior[fold]  # (n, k)
            yield Rows(
                level=level,
                part=part,
                y=y,
                p=p,
                person=renumbered(all_.person[rows]),
                trial=renumbered(own * k + y),
                own=renumbered(own),
                row=renumbered(own if level == "trial" else all_.row[rows]),
                seed=renumbered(all_.seed[rows]),
                fold=fold,
                subject=names[rows],
                stimulus=all_.stimulus[rows],
                training=None if np.isnan(training).any() else training,
                no_signal=quiet if known and np.isfinite(quiet.p).all() else None,
                ratings=ratings,
            )


def _averaged(rows: Ints, p: Floats, all_: Coded, k: int) -> tuple[Ints, Floats]:
    """Return the first row of each trial, fold and label, and the mean probabilities of its rows."""
    trials = int(all_.trial.max()) + 1
    key = (all_.fold[rows] * trials + all_.trial[rows]) * k + all_.y[rows]  # (n,)
    _, first, at = np.unique(key, return_index=True, return_inverse=True)
    size = np.bincount(at)  # (trials,)
    mean = np.stack([np.bincount(at, weights=c) for c in p.T], axis=1) / size[:, None]  # (trials, k)
    # Means of equal numbers differ by rounding with how many there are, and areas would see an order in that.
    return rows[first], np.round(mean, 12)


def fold_keys(rows: pd.DataFrame) -> list[tuple[int, int]]:
    """Return seed and fold of each row."""
    seeds = rows["seed"].tolist() if "seed" in rows.columns else [0] * len(rows)
    return list(zip(seeds, rows["fold"].tolist(), strict=True))


def by_subject(table: Rows) -> Iterable[tuple[str, Rows]]:
    """Yield each subject's name and rows."""
    for person in np.unique(table.person):
        mine = np.flatnonzero(table.person == person)
        yield str(table.subject[mine[0]]), table.of(mine)


def labels_of(table: Rows) -> Ints:
    """Return the label of each trial, shape (n_trials,), in the order of the trials' numbers."""
    _, first = np.unique(table.trial, return_index=True)
    return np.asarray(table.y[first], dtype=np.int64)


def required(predictions: pd.DataFrame, classes: Sequence[str]) -> list[str]:
    """Return the probability columns of the classes, or raise `UserError` where a column that figures need is missing.

    ``part``, ``fold``, ``subject``, ``trial``, ``y_true`` and a ``prob_<class>`` each are needed; ``study``,
    ``session``, ``stimulus``, ``seed``, ``protocol``, ``window`` and ``rating_*`` are used where they are there.
    """
    prob = [f"prob_{name}" for name in classes]
    missing = [c for c in ("part", "fold", "subject", "trial", "y_true", *prob) if c not in predictions.columns]
    if missing:
        raise UserError(
            f"predictions: found no column {', '.join(missing)}, expected those of a run's predictions.parquet; "
            "write them, or name the classes as the run did"
        )
    return prob
