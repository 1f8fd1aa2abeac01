"""What a fitted network uses, in figures: from the table that `milmer.training.probes` makes, without a network.

Two questions. Do the frames with large weights matter more than any others (a weight alone proves nothing)? And what
does each modality add: what is lost when the EEG, the face or a body signal of a window is another trial's?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from milmer.evaluation.intervals import jackknife, scale_of
from milmer.evaluation.metrics import Floats, Ints, classification, from_confusion, row_losses
from milmer.evaluation.predictions import LEVELS, Rows, tables
from milmer.evaluation.scoring import clusters_of
from milmer.evaluation.statistics import left_tables
from milmer.sections import BODY

if TYPE_CHECKING:  # importing pandas takes half a second, and only the annotations need it
    import pandas as pd

    from milmer.config import Config, Evaluation, Model

INTACT, TOP, RANDOM = "intact", "frames-top", "frames-random"
# Whose signal is exchanged, and whether only with a trial of the same class.
SHUFFLES: Mapping[str, tuple[str, bool]] = {
    "eeg-same-class": ("eeg", True),
    "eeg-any-class": ("eeg", False),
    "face-same-class": ("face", True),
    "face-any-class": ("face", False),
}
PROBES = (TOP, RANDOM, *SHUFFLES)
SIGNALS: Mapping[str, str] = {
    "eeg": "EEG",
    "face": "face",
    "gsr": "skin conductance",
    "ppg": "pulse",
    "ecg": "ECG",
    "respiration": "breathing",
    "temperature": "skin temperature",
    "emg": "muscles' signal",
    "eog": "eyes' signal",
}
# The same for signals of the body, after the first four: their place in this order is part of a draw's seed.
EXCHANGES: Mapping[str, tuple[str, bool]] = {
    **SHUFFLES,
    **{f"{kind}-{which}-class": (kind, which == "same") for kind in BODY for which in ("same", "any")},
}
NEUTRAL, LEAST = "frames known to be neutral", "the third of the subject's frames with the least weight"
FIGURES = ("accuracy", "macro_f1", "log_loss")
UNLEARNED = frozenset({"mean", "middle-frame", "published"})  # selection methods whose weights are not learned
Row = dict[str, Any]
Made = dict[str, tuple[float, Floats]]  # of each figure its value, and its values without each unit (G,)


def learns_weights(model: Model) -> bool:
    """Whether the selection method learns how much each frame weighs."""
    return model.selection.method not in UNLEARNED


def wanted(config: Config) -> tuple[str, ...]:
    """Return the probes that a configuration asks for: those that can say something of its model."""
    modalities = set(config.data.modalities)
    if not config.evaluation.probes:
        return ()
    deletion = (TOP, RANDOM) if "face" in modalities and learns_weights(config.model) else ()
    if len(modalities) < 2:
        return deletion
    return (*deletion, *(name for name, (kind, _) in EXCHANGES.items() if kind in modalities))


def minus(probe: str, other: str) -> str:
    """Name the difference of two probes, as in the column ``probe`` of probes.json."""
    return f"{probe} minus {other}"


def probe_figures(table: pd.DataFrame, config: Evaluation, classes: Sequence[str]) -> list[Row]:
    """Return the rows of probes.json.

    Parameters
    ----------
    table : DataFrame
        As from `milmer.training.probes.run_probes`, of all folds, with ``fold``.
    config : milmer.config.Evaluation
        Gives confidence.
    classes : sequence of str
        Names in index order.

    Returns
    -------
    list of dict
        For each level (window, trial), probe and figure (accuracy, macro_f1, log_loss): ``name``, ``probe``,
        ``value`` (mean over the repeats), ``low``, ``high``, ``intact`` (the same figure of the same rows, untouched),
        ``level``, ``interval_how``, ``n``, ``of`` (rows that were tested), ``n_of``, ``repeats`` and ``note`` (what was
        put in, and what was left out). Then the differences, whose ``probe`` is ``frames-top minus frames-random``,
        ``eeg-same-class minus intact`` and so on. None stands for what is undefined, as where ``n`` is 0.

    Raises
    ------
    UserError
        If columns are missing or no row has a label.

    Notes
    -----
    A row in which nothing could be put in says nothing of a probe, and is left out of all its figures, ``intact`` too.
    A difference is of rows that both sides have, and its interval leaves the same subject (or trial, of a lone
    subject) out of both, so it is paired (`milmer.evaluation.intervals.jackknife`).
    """
    table = table.assign(part="test", row=table.groupby(_keys(table), dropna=False, sort=False).ngroup())
    passes = {
        str(probe): [one.set_index("row", drop=False) for _, one in rows.groupby("repeat", sort=False)]
        for probe, rows in table.groupby("probe", sort=False)
    }
    usable = {probe: _usable(all_) for probe, all_ in passes.items()}
    notes = {probe: _note(probe, all_[0], usable[probe]) for probe, all_ in passes.items()}
    of = {t.level: _count(t) for t in tables(passes[INTACT][0], classes)}
    pairs = [(TOP, RANDOM)] if {TOP, RANDOM} <= set(passes) else []
    pairs += [(p, INTACT) for p in passes if p != INTACT]
    asked = [(p, p, INTACT, usable[p], notes[p]) for p in passes]
    for one, other in pairs:
        both = usable[one].intersection(usable[other], sort=False)
        asked.append((minus(one, other), one, other, both, notes[one]))
    found: list[Row] = []
    made: dict[tuple[str, bytes], Made] = {}
    for level in LEVELS:
        for probe, one, other, rows, note in asked:
            shared = {"level": level, "of": of[level], "n_of": f"{level}s", "repeats": len(passes[one]), "note": note}
            first = _at(passes[INTACT][0], rows, level, classes)
            if first is None:
                empty = {"value": None, "low": None, "high": None, "intact": None, "interval_how": "", "n": 0}
                found += [{"name": name, "probe": probe, **empty, **shared} for name in FIGURES]
                continue
            cluster, how = clusters_of(first)
            for side in (one, other, INTACT):
                key = (f"{level} {side}", rows.to_numpy().tobytes())
                if key not in made:
                    each = [_at(one_pass, rows, level, classes) for one_pass in passes[side]]
                    made[key] = _mean([_figures(t, cluster, classes) for t in each if t is not None])
            mine, base, whole = (made[f"{level} {p}", rows.to_numpy().tobytes()] for p in (one, other, INTACT))
            shared |= {"interval_how": how, "n": _count(first)}
            for name in FIGURES:
                value, left = mine[name]
                if probe != one:
                    value, left = value - base[name][0], left - base[name][1]
                low, high = jackknife(value, left, config.confidence, scale_of(name) if probe == one else "plain")
                row = {"name": name, "probe": probe, "value": _plain(value), "low": _plain(low), "high": _plain(high)}
                found.append({**row, "intact": _plain(whole[name][0]), **shared})
    return found


def _keys(table: pd.DataFrame) -> list[str]:
    """Columns that together name a tested row."""
    return [c for c in ("seed", "fold", "study", "subject", "session", "trial", "window") if c in table]


def _usable(passes: Sequence[pd.DataFrame]) -> pd.Index[int]:
    """Rows that were changed in every repeat of a probe; of the untouched ones all are."""
    rows = passes[0].index
    for one in passes:
        rows = rows.intersection(one.index[~one["unchanged"].to_numpy(dtype=bool)], sort=False)
    return rows


def _at(one: pd.DataFrame, rows: pd.Index[int], level: str, classes: Sequence[str]) -> Rows | None:
    """Labelled rows of a pass, in the order of `rows`; None where there is none."""
    mine = one.loc[rows]
    if not (mine["y_true"] >= 0).any():
        return None
    return next((t for t in tables(mine, classes) if t.level == level), None)


def _figures(table: Rows, cluster: Ints | None, classes: Sequence[str]) -> Made:
    """Value of each figure and its values with each unit left out, (G,); without units those are empty."""
    values = classification(table.y, table.p, classes)
    if cluster is None:
        return {name: (values[name], np.zeros(0)) for name in FIGURES}
    left = from_confusion(left_tables(table.y, table.p.argmax(axis=1), cluster, len(classes)), classes)
    losses = row_losses(table.p)[0][np.arange(table.y.size), table.y]  # (n,)
    sums, sizes = np.bincount(cluster, weights=losses), np.bincount(cluster)  # (G,), (G,)
    left["log_loss"] = (sums.sum() - sums) / (sizes.sum() - sizes)  # (G,)
    return {name: (values[name], left[name]) for name in FIGURES}


def _mean(repeats: Sequence[Made]) -> Made:
    """Mean over the repeats of a probe, of the values and of those without each unit."""
    return {
        name: (float(np.mean([r[name][0] for r in repeats])), np.mean([r[name][1] for r in repeats], axis=0))
        for name in FIGURES
    }


def _plain(value: float) -> float | None:
    """A figure for JSON; what is within rounding of 0 becomes 0, so that signs mean something."""
    return round(float(value), 12) + 0.0 if np.isfinite(value) else None


def _count(table: Rows) -> int:
    return int(table.y.size if table.level == "window" else np.unique(table.trial).size)


def _note(probe: str, rows: pd.DataFrame, usable: pd.Index[int]) -> str:
    """Say what was put in, and which rows were left out and why."""
    out, n = len(rows) - len(usable), len(rows)
    left = f"{out} of {n} bags are left out" if usable.size else f"all {n} bags are left out"
    if probe in (TOP, RANDOM):
        kinds = [k for k in dict.fromkeys(rows["replacement"]) if k]
        said = f"replaced by {' or '.join(kinds)}" if kinds else ""
        why = "they have fewer than two frames, or their subject no other frames to put in"
        return "; ".join(filter(None, (said, f"{left}: {why}" if out else "")))
    if probe in EXCHANGES and out:
        name = SIGNALS[EXCHANGES[probe][0]]
        return (
            f"{left}: they have no {name}, or their subject no other tested or validation trial of their class with one"
        )
    return ""
