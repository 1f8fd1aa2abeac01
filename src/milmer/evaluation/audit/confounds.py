"""What the label goes with besides the feeling: the subject, the recording, the time in the session, the stimulus.

Each is judged on trials (every trial once), and each chance level comes from the same figure with the labels permuted
between the trials of each subject, so that a subject's own class counts play no part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milmer.errors import UserError
from milmer.evaluation.audit.structure import unit_codes

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rows: TypeAlias = "pd.DataFrame | Mapping[str, Any]"

ALPHA = 0.005
PERMUTATIONS = 1999  # the least p-value is then 0.0005, well below an even share of alpha
TESTS = 4  # recording, time, neighbours, stimulus: each has an even share of alpha
FEWEST = 10  # trials, below which no p-value is given


def confounds(
    rows: Rows, y: ArrayLike, *, alpha: float = ALPHA, permutations: int = PERMUTATIONS, seed: int = 0
) -> list[dict[str, Any]]:
    """Judge what a model could read in place of the feeling.

    Parameters
    ----------
    rows : DataFrame or mapping of columns, n_rows long
        Windows or trials: ``subject``, ``trial`` and where there are any ``study``, ``session``, ``recording``,
        ``stimulus``, ``order`` or ``onset``.
    y : array of int, shape (n_rows,)
        Class of each row, -1 where it has none. A trial's class is that of its first labelled row.
    alpha : float
        Error rate of all statistical findings together: a quarter of it each.
    permutations : int
        Relabellings behind each p-value.

    Returns
    -------
    list of dict
        ``what`` (subject, recording, time, neighbours, stimulus), ``value``, ``chance``, ``p`` (None where the finding
        is a fact of the table and not a matter of chance), ``found`` (whether it is a confound), ``fixed`` (whether it
        settles the label altogether), ``sentence``. What the table does not name is left out.

    Raises
    ------
    UserError
        If no row or one class only is labelled.
    """
    labels = np.asarray(y, dtype=np.int64)
    trial = unit_codes(rows, "trial")
    subject = unit_codes(rows, "subject")
    if trial is None or subject is None:
        raise UserError("confounds: found no columns 'subject' and 'trial' with content, expected both; add them")
    if trial.shape != labels.shape:
        raise UserError(f"labels: found {labels.shape[0]}, expected one a row of the table, {trial.size}")
    known = np.flatnonzero((labels >= 0) & (trial >= 0))
    _, first = np.unique(trial[known], return_index=True)
    pick = known[np.sort(first)]  # (n_trials,)
    label = labels[pick]
    classes, label = np.unique(label, return_inverse=True)
    if classes.size < 2:
        raise UserError(
            f"labels: found {classes.size} class{'es' * (classes.size != 1)} in {pick.size} labelled trials, expected "
            "at least two; choose another target"
        )
    label, people = label.astype(np.int64), subject[pick]
    drawn = permuted(label, people, permutations, np.random.default_rng([seed, 7]))  # (P, n_trials)
    each = alpha / TESTS
    found = [_subject(label, people)]
    recording = unit_codes(rows, "recording")
    if recording is not None:
        found.append(_recording(label, people, recording[pick], drawn, each))
    found += _time(rows, pick, label, drawn, each)
    stimulus = unit_codes(rows, "stimulus")
    if stimulus is not None:
        found.append(_stimulus(label, people, stimulus[pick], drawn, each))
    return [f for f in found if f is not None]


def permuted(label: Ints, groups: Ints, permutations: int, rng: np.random.Generator) -> Ints:
    """Permute labels within each group, shape (permutations, n)."""
    order = np.argsort(groups, kind="stable")  # (n,)
    ends = np.flatnonzero(np.diff(groups[order])) + 1
    out = np.tile(label, (permutations, 1))  # (P, n)
    for mine in np.split(order, ends):
        out[:, mine] = rng.permuted(out[:, mine], axis=1)  # (P, m)
    return out


def tail(value: float, null: Floats) -> float:
    """Return ``(1 + #{null at least as great}) / (1 + n)``: never zero, valid for any n."""
    return float((1 + np.count_nonzero(null >= value - 1e-12)) / (1 + null.size))


def _entry(
    what: str, value: float, chance: float | None, p: float | None, found: bool, sentence: str
) -> dict[str, Any]:
    return {
        "what": what,
        "value": value,
        "chance": chance,
        "p": p,
        "found": bool(found),
        "fixed": bool(found and p is None),
        "sentence": sentence,
    }


def _subject(label: Ints, people: Ints) -> dict[str, Any] | None:
    """Say where every subject has one class only: then telling people apart is telling classes apart."""
    kinds = _kinds(label, people)  # (n_people,)
    share = float((kinds == 1).mean())
    if share == 1 and kinds.size > 1:
        text = (
            f"The label is the subject: each of the {kinds.size} subjects has one class only, so a model that tells "
            "people apart tells classes apart. Only figures over subjects never seen mean anything, and permuting "
            "labels within a subject changes nothing."
        )
        return _entry("subject", share, None, None, True, text)
    if share >= 0.5 and kinds.size > 1:
        text = f"{(kinds == 1).sum()} of {kinds.size} subjects have one class only."
        return _entry("subject", share, None, None, False, text)
    return None


def _recording(label: Ints, people: Ints, recording: Ints, drawn: Ints, alpha: float) -> dict[str, Any] | None:
    """Judge whether recordings hold one class each, among subjects with two classes or more."""
    apart = one_recording_a_class(label[recording >= 0], people[recording >= 0], recording[recording >= 0], alpha)
    mixed = np.isin(people, np.unique(people)[_kinds(label, people) > 1]) & (recording >= 0)  # (n,)
    label, people, recording, drawn = label[mixed], people[mixed], recording[mixed], drawn[:, mixed]
    if not label.size:
        return None
    names, code = np.unique(recording, return_inverse=True)
    several = np.unique(np.unique(np.stack([people, recording]), axis=1)[0], return_counts=True)[1]  # recordings each
    if (several == 1).all():
        text = "Each subject is one recording, which holds all of the subject's classes."
        return _entry("recording", 0.0, None, None, False, text)
    single = _kinds(label, code) == 1  # (n_recordings,)
    share = float(single.mean())
    lone = code.size == names.size  # each trial is a recording of its own
    value, null, p = 0.0, np.zeros(1), None  # (P,)
    if not lone:
        value = _information(label, code)
        null = np.array([_information(row, code) for row in drawn])  # (P,)
        p = tail(value, null) if label.size >= FEWEST else None
    found = p is not None and p <= alpha
    # One class a recording is a fact, but a few trials fall like that by chance: it counts where that is not likely.
    if share == 1 and (apart or found):
        text = (
            f"The label is the recording: each of the {names.size} recordings holds one class only"
            f"{' (and each subject has one recording a class)' if apart else ''}, so the state of electrodes, "
            "light or the hour of a recording can stand for the class, and no split of these data can tell the two "
            "apart."
        )
        return _entry("recording", share, None, None, True, text)
    if lone:
        text = "Each trial is a recording of its own: recordings say nothing of the class that trials do not."
        return _entry("recording", share, None, None, False, text)
    about = f"{single.sum()} of {names.size} recordings hold one class only"
    text = (
        f"The label goes with the recording: {about}, and knowing the recording tells {value:.2f} bits of the label "
        f"(labels permuted within subjects: {null.mean():.2f}). A model may read the recording."
        if found
        else f"{about.capitalize()}; recordings tell no more of the label than they would by chance."
    )
    return _entry("recording", value, float(null.mean()), p, found, text)


def one_recording_a_class(label: Ints, people: Ints, recording: Ints, alpha: float = ALPHA / TESTS) -> bool:
    """Whether every subject has one recording of each class, and classes are kept apart by it: nothing tells them.

    Where subjects lack classes, recordings may fall so by chance: then that must be less likely than `alpha`.
    """
    if not label.size:
        return False
    cells = np.unique(np.stack([people, label, recording]), axis=1)  # (3, n_cells)
    recordings = np.unique(cells[2]).size
    pairs = np.unique(cells[:2], axis=1).shape[1]
    if not pairs == cells.shape[1] == recordings:
        return False
    k = int(np.unique(label).size)
    each = np.unique(cells[0], return_counts=True)[1]  # (n_people,), recordings
    if (each == k).all():
        return True
    # Of all ways to draw labels, those that are equally likely give different ones most often.
    chance = np.prod([(k - i) / k for count in each.tolist() for i in range(count)])
    return bool(chance <= alpha)


def _time(rows: Rows, pick: Ints, label: Ints, drawn: Ints, alpha: float) -> list[dict[str, Any]]:
    """Judge whether the label drifts with time in the session, and whether neighbouring trials are alike."""
    when = _when(rows, pick)  # (n,)
    sitting = _sittings(rows)[pick]
    if when is None or label.size < FEWEST:
        return []
    order = np.lexsort((when, sitting))  # (n,)
    ends = np.flatnonzero(np.diff(sitting[order])) + 1
    blocks = [b for b in np.split(order, ends) if b.size >= 3]
    if not blocks:
        return []
    place = np.full(label.size, np.nan)  # (n,): -0.5 at the start of the session to 0.5 at its end
    for block in blocks:
        place[block] = np.arange(block.size) / (block.size - 1) - 0.5
    used = np.concatenate(blocks)
    width = int(label.max()) + 1

    def drift(labels: Ints) -> tuple[float, float]:
        """Share of the variance of time that classes explain: of all sessions alike, and session by session."""
        return _explained(labels[used], place[used], np.zeros(used.size, dtype=np.int64), width), _explained(
            labels[used], place[used], sitting[used], width
        )

    value = drift(label)
    null = np.array([drift(row) for row in drawn])  # (P, 2)
    # Two ways to drift are looked for, so the smaller p counts twice.
    ps = [tail(value[i], null[:, i]) for i in (0, 1)]
    best = int(np.argmin(ps))
    p = min(1.0, 2 * ps[best])
    means = [float(place[used][label[used] == c].mean()) for c in range(width)]
    text = (
        f"The label goes with the time in the session: classes explain {value[best]:.0%} of where in the session a "
        f"trial lies (by chance {null[:, best].mean():.0%}; classes' mean places are {_range(means)} of a session "
        "apart). Drift of electrodes or tiredness can stand for the class."
        if p <= alpha
        else f"No drift of the label with the time in the session (classes explain {value[best]:.0%} of it, by chance "
        f"{null[:, best].mean():.0%})."
    )
    found = [_entry("time", value[best], float(null[:, best].mean()), p, p <= alpha, text)]
    left = np.concatenate([b[:-1] for b in blocks])
    right = np.concatenate([b[1:] for b in blocks])
    same = float((label[left] == label[right]).mean())
    alike = (drawn[:, left] == drawn[:, right]).mean(axis=1)  # (P,)
    p = tail(same, alike)
    text = (
        f"Trials of one class follow each other: {same:.0%} of neighbouring trials have the same class (by chance "
        f"{alike.mean():.0%}), so slow drift of the signal tells the class."
        if p <= alpha
        else f"Neighbouring trials are no more alike in class than by chance ({same:.0%}; {alike.mean():.0%})."
    )
    found.append(_entry("neighbours", same, float(alike.mean()), p, p <= alpha, text))
    return found


def _stimulus(label: Ints, people: Ints, stimulus: Ints, drawn: Ints, alpha: float) -> dict[str, Any] | None:
    """Judge how well other subjects' labels of a stimulus foretell a trial's label."""
    right = _agreement(people, stimulus, int(label.max()) + 1)
    value, tried = right(label)
    if tried < FEWEST:
        return None
    null = np.array([right(row)[0] for row in drawn])  # (P,)
    p = tail(value, null)
    named = stimulus >= 0
    fixed = bool((_kinds(label[named], stimulus[named]) == 1).all())
    head = "The stimulus fixes the label" if fixed else "The label goes with the stimulus"
    found = p <= alpha or fixed
    text = (
        f"{head}: what other subjects' trials with a stimulus are mostly labelled is right in {value:.0%} of {tried} "
        f"trials (labels permuted within subjects: {null.mean():.0%}). Where a stimulus is on two sides, a model may "
        "recognise the film and not the feeling."
        if found
        else f"Other subjects' labels of a stimulus foretell a trial's label in {value:.0%} of {tried} trials (by "
        f"chance {null.mean():.0%}, p = {p:.2g}): not more than chance may do."
    )
    return _entry("stimulus", value, float(null.mean()), None if fixed else p, found, text)


def _agreement(people: Ints, stimulus: Ints, width: int) -> Callable[[Ints], tuple[float, int]]:
    """Return a function of labels: share foretold by the commonest class of other subjects' trials, trials tried."""
    use = np.flatnonzero(stimulus >= 0)
    _, item = np.unique(stimulus[use], return_inverse=True)
    _, own = np.unique(np.stack([item, people[use]]), axis=1, return_inverse=True)
    own = own.reshape(-1)
    items, cells = int(item.max(initial=-1)) + 1, int(own.max(initial=-1)) + 1

    def share(labels: Ints) -> tuple[float, int]:
        mine = labels[use]
        every = np.bincount(item * width + mine, minlength=items * width).reshape(items, width)
        cell = np.bincount(own * width + mine, minlength=cells * width).reshape(cells, width)
        others = every[item] - cell[own]  # (n, k): labels that other subjects' trials of the stimulus have
        tried = others.sum(axis=1) >= 2
        if not tried.any():
            return float("nan"), 0
        top = others == others.max(axis=1, keepdims=True)  # (n, k)
        right = top[np.arange(mine.size), mine] / top.sum(axis=1)  # a tie counts its share
        return float(right[tried].mean()), int(tried.sum())

    return share


def _kinds(label: Ints, groups: Ints) -> Ints:
    """Count the classes of each group, shape (n_groups,), in the order of the sorted groups."""
    pairs = np.unique(np.stack([groups, label]), axis=1)  # (2, n_pairs)
    return np.unique(pairs[0], return_counts=True)[1]


def _information(label: Ints, code: Ints) -> float:
    """Mutual information of label and group in bits, from counts."""
    joint = np.zeros((int(code.max()) + 1, int(label.max()) + 1))  # (G, k)
    np.add.at(joint, (code, label), 1 / label.size)
    outer = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)  # (G, k)
    seen = joint > 0
    return float((joint[seen] * np.log2(joint[seen] / outer[seen])).sum())


def _explained(label: Ints, value: Floats, group: Ints, width: int) -> float:
    """Share of the variance of `value` within groups that the means of classes within groups explain."""
    _, code = np.unique(group, return_inverse=True)
    sums = np.bincount(code, value) / np.bincount(code)  # (G,)
    centred = value - sums[code]  # (n,)
    cell = code * width + label
    counts = np.bincount(cell)
    means = np.bincount(cell, centred) / np.maximum(counts, 1)  # (G * k,)
    total = float((centred**2).sum())
    return float((counts * means**2).sum() / total) if total > 0 else 0.0


def _when(rows: Rows, pick: Ints) -> Floats | None:
    """Return what orders trials in their session, or None where the table does not say."""
    for column in ("onset", "order"):
        if column in rows:
            try:
                values = np.asarray(rows[column], dtype=np.float64)[pick]  # (n,)
            except (TypeError, ValueError):
                continue  # the column holds words: the next may hold numbers
            if np.isfinite(values).all() and np.unique(values).size > 2:
                return values
    return None


def _sittings(rows: Rows) -> Ints:
    """Number the sittings, subject by subject and session by session, shape (n_rows,)."""
    count = len(rows["subject"])
    session = np.asarray(rows["session"]) if "session" in rows else np.zeros(count, dtype=np.int64)  # (n,)
    # A sitting is a "recording" of one session's name: where recordings are cut within a session, time goes on.
    columns: dict[str, Any] = {"subject": rows["subject"], "recording": [f"session {s}" for s in session]}
    if "study" in rows:
        columns["study"] = rows["study"]
    codes = unit_codes(columns, "recording")
    return np.zeros(count, dtype=np.int64) if codes is None else codes


def _range(means: list[float]) -> str:
    return f"{max(means) - min(means):.0%}"
