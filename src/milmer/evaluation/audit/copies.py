"""Identical and near-identical arrays on two sides of a split.

Near-identical is judged by two rules at once, since either alone cries wolf on honest data.

1. Nearer than chance. Where points lie about evenly, the ratio of the distances to the nearest and to the
   second-nearest unit to the power of the dimension is uniform between 0 and 1 (both lie in one ball; E. Facco et al.,
   "Estimating the intrinsic dimension of datasets by a minimal neighborhood information", 2017). The dimension is
   learnt from the farther neighbours of the same rows. A row passes where its ratio has a probability below
   ``ERROR / rows``, so that the whole table passes by chance with a probability below `ERROR`.
2. Nearer than windows of one trial ever are. Half the least distance (its 1 % quantile) between windows of one trial
   on one side that share no second. This keeps trials, subjects and devices with a signature of their own from
   looking like copies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milmer.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from milmer.evaluation.audit.structure import Parts

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ERROR = 1e-4  # of a false alarm in one table, by rule 1; the rest of the promised 1e-3 is for a wrong dimension
NEIGHBOURS = 8  # units whose distances a row's dimension is learnt from
MOST_PAIRS = 2e7  # distances a fold: beyond it, test rows are drawn
CHUNK = 256  # test rows at a time
DIGITS = 9  # of each value, relative to its column's spread
RESOLUTION = 1e-7  # of a continuous column: single precision
FILLER_UNITS, FILLER_TIMES = 4, 10  # a filler is in so many units, and so many times commoner than a column's values


def duplicates(features: ArrayLike, rows: pd.DataFrame | Mapping[str, Any], parts: Parts) -> list[dict[str, Any]]:
    """Find arrays that are on two sides of a split.

    Parameters
    ----------
    features : array, shape (n_rows, ...)
        What a model sees of each row, or features of it; all but the first axis are flattened.
    rows : DataFrame or mapping of columns, n_rows long
        As for `milmer.evaluation.audit.structure.overlaps`.
    parts : Split, mapping, or sequence of either
        The folds.

    Returns
    -------
    list of dict
        Two: ``what`` (``identical arrays``, ``near-identical arrays``), ``found`` (a sentence), ``fault``, ``shared``
        (test rows with such a partner), ``of`` (test rows looked at). Rows without a finite value, without any
        variation, or half of fillers are not looked at: sensors that fell off all read the same.

    Raises
    ------
    UserError
        If there is not one array a row.
    """
    from milmer.evaluation.audit.structure import as_folds, unit_codes

    values = np.asarray(features, dtype=np.float64)
    count = len(rows["subject"])
    if values.shape[:1] != (count,):
        raise UserError(
            f"features: found {values.shape[0] if values.ndim else 0} arrays, expected one a row of the table, {count}"
        )
    values = values.reshape(count, -1)  # (n, d)
    good: NDArray[np.bool_] = np.asarray(np.isfinite(values).all(axis=1), dtype=np.bool_)  # (n,)
    if values.shape[1] > 1:
        good &= np.ptp(np.where(good[:, None], values, 0.0), axis=1) > 0  # (n,)
    trial = unit_codes(rows, "trial")
    units = np.arange(count) if trial is None else np.where(trial < 0, count + np.arange(count), trial)  # (n,)
    good &= ~_filled(values, units, good)
    folds = [{k: v[good[v]] for k, v in fold.items()} for fold in as_folds(parts)]
    scaled = _scaled(values, good)  # (n, d')
    if not scaled.shape[1]:
        return [_entry(kind, 0, 0, "not judged: the features do not vary") for kind in ("identical", "near-identical")]
    same = _identical(scaled, good, folds)
    spans = None
    if "start" in rows and "stop" in rows:
        spans = np.column_stack([np.asarray(rows[c], dtype=np.float64) for c in ("start", "stop")])  # (n, 2)
    return [same, _near(scaled, units, spans, folds)]


def _filled(values: Floats, units: Ints, good: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark rows half or more of whose columns hold a filler, (n,).

    A filler is what a feature is where there is nothing to measure, or beyond what can be (a floor, a zero, a limit):
    a value in several trials, far commoner in its column than values are.
    """
    filled = np.zeros(len(values), dtype=np.int64)  # (n,)
    if not good.any():
        return filled > 0
    for column in values[good].T:
        _, code, counts = np.unique(column, return_inverse=True, return_counts=True)
        often = np.flatnonzero(counts >= max(FILLER_UNITS, FILLER_TIMES * float(np.median(counts))))
        fillers = [c for c in often.tolist() if np.unique(units[good][code == c]).size >= FILLER_UNITS]
        filled[good] += np.isin(code, fillers)
    return np.asarray(filled * 2 >= max(values.shape[1], 1))  # (n,)


def _entry(kind: str, shared: int, of: int, found: str) -> dict[str, Any]:
    return {"what": f"{kind} arrays", "found": found, "fault": shared > 0, "shared": shared, "of": of}


def _scaled(values: Floats, good: NDArray[np.bool_]) -> Floats:
    """Put columns on one robust scale, with long tails drawn in, shape (n, d'); columns that do not vary go."""
    out = np.zeros(values.shape, dtype=np.float64)  # (n, d)
    if not good.any():
        return out[:, :0]
    known = values[good]  # (m, d)
    middle = np.median(known, axis=0)  # (d,)
    spread = np.subtract(*np.quantile(known, [0.75, 0.25], axis=0))  # (d,)
    spread = np.where(spread > 0, spread, known.std(axis=0))  # (d,)
    varies = spread > 1e-12 * np.maximum(np.abs(middle), 1e-300)  # (d,)
    unit = (known[:, varies] - middle[varies]) / spread[varies]  # (m, d')
    out = out[:, varies]
    out[good] = np.sign(unit) * np.log1p(np.abs(unit))  # (m, d')
    return out


def _identical(scaled: Floats, good: NDArray[np.bool_], folds: Sequence[Mapping[str, Ints]]) -> dict[str, Any]:
    rounded = np.round(scaled, DIGITS) + 0.0  # (n, d'); + 0.0 takes the sign off zero
    _, code = np.unique(rounded, axis=0, return_inverse=True)
    code = code.reshape(-1)  # (n,)
    pairs = sum(float(f["test"].size) * (f["train"].size + f["validation"].size) for f in folds)
    if pairs * _coincidence(rounded[good]) > ERROR:
        return _entry("identical", 0, 0, "not judged: the features are so coarse that rows agree by chance")
    hit: set[int] = set()
    tested: set[int] = set()
    for fold in folds:
        test = fold["test"]
        tested.update(test.tolist())
        here = np.isin(code[test], code[np.concatenate([fold["train"], fold["validation"]])])  # (n_test,)
        hit.update(test[here].tolist())
    return _entry("identical", len(hit), len(tested), _words(len(hit), len(tested), "has the same values as"))


def _coincidence(rounded: Floats) -> float:
    """Bound the probability that two unrelated rows agree in all columns.

    Columns go together, so the product of their probabilities would be far too small: its square root is taken. A
    column of which hardly a value comes twice is continuous; two values agree as often as its resolution lets them.
    """
    unique = np.unique(rounded, axis=0)  # (u, d')
    log = 0.0
    for column in unique.T:
        _, counts = np.unique(column, return_counts=True)
        continuous = counts.size >= 0.98 * column.size and column.size >= 20
        log += float(np.log(RESOLUTION if continuous else ((counts / column.size) ** 2).sum()))
    return float(np.exp(log / 2))


def _near(scaled: Floats, units: Ints, spans: Floats | None, folds: Sequence[Mapping[str, Ints]]) -> dict[str, Any]:
    floor = _floor(scaled, units, spans, folds)
    nearest: list[tuple[int, Floats]] = []
    tested: set[int] = set()
    rng = np.random.default_rng([0, scaled.shape[0]])
    for fold in folds:
        learnt = np.concatenate([fold["train"], fold["validation"]])  # (n_train,)
        if np.unique(units[learnt]).size < 4 or not fold["test"].size:
            continue
        most = max(20, int(MOST_PAIRS / learnt.size))
        test = fold["test"] if fold["test"].size <= most else rng.choice(fold["test"], most, replace=False)
        tested.update(test.tolist())
        for row, distances in _to_units(scaled, units, test, learnt):
            nearest.append((row, distances))
    if not nearest or floor is None:
        return _entry("near-identical", 0, 0, "not judged: too few trials to know how near trials lie by chance")
    width = min(len(d) for _, d in nearest)
    table = np.stack([d[:width] for _, d in nearest])  # (n_test, k), ascending
    positive = table[:, 1] > 0  # (n_test,)
    # Lower bound of the dimension (maximum likelihood over the second to last neighbours, E. Levina and P. Bickel,
    # 2004; the first is left out, since it is on trial): fewer dimensions make near neighbours likelier by chance.
    logs = np.log(table[positive, -1:] / table[positive, 1:-1])  # (m, k - 2)
    free = logs.size
    if not free or logs.sum() <= 0:
        return _entry("near-identical", 0, 0, "not judged: the features are too coarse for distances")
    dimension = 0.8 * max(free - 1, 1) / float(logs.sum())
    limit = (ERROR / len(nearest)) ** (1 / dimension)
    rare = table[:, 0] < limit * table[:, 1]  # (n_test,)
    close = table[:, 0] < floor  # (n_test,)
    identical = table[:, 0] <= 10.0**-DIGITS  # those are counted as identical
    hit = {nearest[i][0] for i in np.flatnonzero(rare & close & ~identical).tolist()}
    return _entry("near-identical", len(hit), len(tested), _words(len(hit), len(tested), "is all but equal to"))


def _floor(scaled: Floats, units: Ints, spans: Floats | None, folds: Sequence[Mapping[str, Ints]]) -> float | None:
    """Return half the least distance between neighbouring windows of one trial that share no second.

    Where no trial has two rows: half the least distance between rows of one side.
    """
    order = np.lexsort((np.arange(units.size) if spans is None else spans[:, 0], units))  # (n,)
    used = np.zeros(units.size, dtype=np.bool_)  # (n,)
    for fold in folds:
        used[np.concatenate([fold["train"], fold["test"], fold["validation"]])] = True
    order = order[used[order]]
    found = []
    for step in (1, 2, 3):  # overlapping windows: the next that shares no second is a few steps on
        left, right = order[:-step], order[step:]
        pair = units[left] == units[right]  # (n - step,)
        if spans is not None:
            pair &= spans[left, 1] <= spans[right, 0] + 1e-6 * np.maximum(1, np.abs(spans[left, 1]))
        found.append(np.linalg.norm(scaled[left[pair]] - scaled[right[pair]], axis=1))  # (p,)
    distances = np.concatenate(found)  # (p,)
    distances = distances[distances > 10.0**-DIGITS]
    if distances.size >= 20:
        return float(np.quantile(distances, 0.01)) / 2
    side = folds[0]["train"] if folds else order[:0]
    side = side[:2000]
    if side.size < 20:
        return None
    own = np.concatenate([d[:1] for _, d in _to_units(scaled, np.arange(units.size), side, side, itself=False)])
    return float(np.quantile(own, 0.01)) / 2


def _to_units(
    scaled: Floats, units: Ints, test: Ints, learnt: Ints, *, itself: bool = True
) -> list[tuple[int, Floats]]:
    """Return, for each test row, its ascending distances to the nearest row of each of the nearest few units."""
    order = learnt[np.argsort(units[learnt], kind="stable")]  # (n_train,)
    starts = np.flatnonzero(np.r_[True, np.diff(units[order]) != 0])  # (U,)
    other = scaled[order].astype(np.float32)  # (n_train, d)
    norms = (other**2).sum(axis=1)  # (n_train,)
    keep = min(NEIGHBOURS, starts.size - (0 if itself else 1))
    out = []
    for begin in range(0, test.size, CHUNK):
        mine = test[begin : begin + CHUNK]  # (c,)
        some = scaled[mine].astype(np.float32)  # (c, d)
        square = norms - 2 * some @ other.T + (some**2).sum(axis=1)[:, None]  # (c, n_train)
        if not itself:
            square[mine[:, None] == order] = np.inf
        least = np.minimum.reduceat(square, starts, axis=1)  # (c, U)
        few = np.argpartition(least, keep - 1, axis=1)[:, :keep]  # (c, k)
        # The product above loses digits where two rows are near: exactly those distances are wanted exactly.
        for i, row in enumerate(mine.tolist()):
            exact = []
            for u in few[i].tolist():
                end = starts[u + 1] if u + 1 < starts.size else order.size
                best = order[starts[u] + int(np.argmin(square[i, starts[u] : end]))]
                exact.append(float(np.linalg.norm(scaled[row] - scaled[best])))
            out.append((row, np.sort(np.array(exact))))
    return out


def _words(shared: int, of: int, how: str) -> str:
    if not shared:
        return f"none of {of} test rows {how} a row of training"
    return f"{shared} of {of} test rows: each {how} a row of training or validation ({shared / max(of, 1):.1%})"
