"""What a fitted network uses, in figures: from the table that `milmer.training.probes` makes, without a network.

Two questions. Do the frames with large weights matter more than any others (a weight alone proves nothing)? And what
does each modality add: what is lost when the EEG or the face of a window is another trial's?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from milmer.evaluation.metrics import Floats, classification, from_confusion, row_losses
from milmer.evaluation.predictions import LEVELS, Rows, tables
from milmer.evaluation.scoring import clusters_of
from milmer.evaluation.statistics import cluster_weights, interval

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
NEUTRAL, LEAST = "frames known to be neutral", "the third of the subject's frames with the least weight"
FIGURES = ("accuracy", "macro_f1", "log_loss")
UNLEARNED = frozenset({"mean", "middle-frame", "published"})  # selection methods whose weights are not learned
Row = dict[str, Any]


def learns_weights(model: Model) -> bool:
    """Whether the selection method learns how much each frame weighs."""
    return model.selection.method not in UNLEARNED


def wanted(config: Config) -> tuple[str, ...]:
    """Return the probes that a configuration asks for: those that can say something of its model."""
    modalities = set(config.data.modalities)
    if not config.evaluation.probes or "face" not in modalities:
        return ()
    deletion = (TOP, RANDOM) if learns_weights(config.model) else ()
    return (*deletion, *(SHUFFLES if "eeg" in modalities else ()))


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
        Gives protocol, seed, bootstraps and confidence.
    classes : sequence of str
        Names in index order.

    Returns
    -------
    list of dict
        For each level (window, trial), probe and figure (accuracy, macro_f1, log_loss): ``name``, ``probe``,
        ``value`` (mean over the repeats), ``low``, ``high``, ``level``, ``interval_how``, ``n``, ``n_of``,
        ``repeats``, ``unchanged`` (share of bags in which nothing could be changed) and ``note`` (what was put in).
        Then the differences, whose ``probe`` is ``frames-top minus frames-random``, ``eeg-same-class minus intact``
        and so on. None stands for what is undefined.

    Raises
    ------
    UserError
        If columns are missing or no row has a label.

    Notes
    -----
    Every probe is figured from the same bags, and every resample of the bootstrap takes the same subjects (protocol
    ``subject``) or trials in all of them, so differences are paired.
    """
    table = table.assign(part="test")
    found: list[Row] = []
    notes = {str(probe): _note(str(probe), rows) for probe, rows in table.groupby("probe", sort=False)}
    left = {str(probe): float(rows["unchanged"].mean()) for probe, rows in table.groupby("probe", sort=False)}
    passes: dict[str, list[dict[str, Rows]]] = {}
    for (probe, _), rows in table.groupby(["probe", "repeat"], sort=False):
        passes.setdefault(str(probe), []).append({t.level: t for t in tables(rows, classes)})
    for number, level in enumerate(LEVELS):
        first = passes[INTACT][0][level]
        cluster, stratum, how = clusters_of(first, config.protocol)
        weights = None
        if stratum is not None:
            rng = np.random.default_rng([config.seed, number, 5])
            weights = cluster_weights(stratum, config.bootstraps, rng)  # (R, G)
        made = {
            p: _mean([_figures(one[level], cluster, weights, classes) for one in all_]) for p, all_ in passes.items()
        }
        pairs = [(TOP, RANDOM)] if {TOP, RANDOM} <= set(made) else []
        pairs += [(p, INTACT) for p in made if p != INTACT]
        shared = {"level": level, "interval_how": how, "n": _count(first), "n_of": f"{level}s"}
        known = [(p, made[p], len(passes[p]), notes[p]) for p in made]
        for one, other in pairs:
            both = {k: (v[0] - made[other][k][0], v[1] - made[other][k][1]) for k, v in made[one].items()}
            said = "; ".join(filter(None, (notes[one], notes[other] if other != INTACT else "")))
            known.append((minus(one, other), both, len(passes[one]), said))
            left[minus(one, other)] = left[one]
        for probe, values, repeats, note in known:
            for name, (value, resampled) in values.items():
                low = high = float("nan")
                if stratum is not None:
                    strata = int(np.unique(stratum).size)
                    low, high = interval(resampled, config.confidence, stratum.size, strata)
                row = {"name": name, "probe": probe, "value": _plain(value), "low": _plain(low), "high": _plain(high)}
                found.append({**row, **shared, "repeats": repeats, "unchanged": left[probe], "note": note})
    return found


def _figures(
    table: Rows, cluster: Any, weights: Floats | None, classes: Sequence[str]
) -> dict[str, tuple[float, Floats]]:
    """Value of each figure and its values in all resamples, (R,); without weights those are empty."""
    k = len(classes)
    values = classification(table.y, table.p, classes)
    if weights is None:
        return {name: (values[name], np.zeros(0)) for name in FIGURES}
    count = weights.shape[1]
    at = cluster * k * k + table.y * k + table.p.argmax(axis=1)  # (n,)
    cells = np.bincount(at, minlength=count * k * k).reshape(count, -1)  # (G, k*k)
    resampled = from_confusion((weights @ cells).reshape(-1, k, k), classes)
    losses = row_losses(table.p)[0][np.arange(table.y.size), table.y]  # (n,)
    sizes = np.bincount(cluster, minlength=count)  # (G,)
    resampled["log_loss"] = (weights @ np.bincount(cluster, weights=losses, minlength=count)) / (weights @ sizes)
    return {name: (values[name], resampled[name]) for name in FIGURES}


def _mean(repeats: Sequence[dict[str, tuple[float, Floats]]]) -> dict[str, tuple[float, Floats]]:
    """Mean over the repeats of a probe, of the values and of every resample."""
    return {
        name: (float(np.mean([r[name][0] for r in repeats])), np.mean([r[name][1] for r in repeats], axis=0))
        for name in FIGURES
    }


def _plain(value: float) -> float | None:
    """A figure for JSON; what is within rounding of 0 becomes 0, so that signs mean something."""
    return round(float(value), 12) + 0.0 if np.isfinite(value) else None


def _count(table: Rows) -> int:
    return int(table.y.size if table.level == "window" else np.unique(table.trial).size)


def _note(probe: str, rows: pd.DataFrame) -> str:
    """Say what was put in, and how many rows could not be changed."""
    first = rows[rows["repeat"] == rows["repeat"].iloc[0]]
    left = int(first["unchanged"].sum())
    if probe in (TOP, RANDOM):
        kinds = [k for k in dict.fromkeys(rows["replacement"]) if k]
        said = f"replaced by {' or '.join(kinds)}" if kinds else ""
        rest = f"{left} of {len(first)} bags have too few frames to replace any"
        return "; ".join(filter(None, (said, rest if left else "")))
    if probe in SHUFFLES and left:
        modality, same = SHUFFLES[probe]
        name = "EEG" if modality == "eeg" else "face"
        kind = "that class" if same else "the class drawn"
        return f"{left} of {len(first)} bags keep their own {name}: their subject has no other tested trial of {kind}"
    return ""
