"""What usual mistakes would gain on this study, and what is gained over no signal at all. Context, not a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milmer.evaluation.audit.probe import Probe, predict_folds, recalls
from milmer.evaluation.audit.units import Units, trial_labels
from milmer.evaluation.intervals import mean_interval
from milmer.evaluation.no_signal import Seen, answers
from milmer.evaluation.statistics import permuted_labels

if TYPE_CHECKING:
    from milmer.evaluation.protocols import Split

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EPOCHS = 60
RATE, MOMENTUM = 0.5, 0.9  # of gradient descent on features of unit variance


def paired(what: str, one: Floats, other: Floats) -> dict[str, Any]:
    """Compare two scores of each subject: mean difference, with Student's interval over subjects (None below six).

    Parameters
    ----------
    what : str
    one, other : ndarray, shape (n_subjects,)
        NaN where a subject has none; such subjects are left out.
    """
    both = np.isfinite(one) & np.isfinite(other)  # (n_subjects,)
    if not both.any():
        return {"what": what, "one": None, "other": None, "difference": None, "low": None, "high": None, "n": 0}
    gap = one[both] - other[both]  # (n,)
    low, high = mean_interval(gap)
    return {
        "what": what,
        "one": float(one[both].mean()),
        "other": float(other[both].mean()),
        "difference": float(gap.mean()),
        "low": low if np.isfinite(low) else None,
        "high": high if np.isfinite(high) else None,
        "n": int(both.sum()),
    }


def by_person(
    probe: Probe, units: Units, y: ArrayLike, k: int, splits: Sequence[Split], *, trials: bool = False
) -> Floats:
    """Mean recall of each person by the probe's joint answer, shape (n_people,); NaN where it is not defined.

    With `trials`, probabilities are averaged over a trial's windows first.
    """
    labels = np.asarray(y, dtype=np.int64)
    p, tested = predict_folds(probe, labels, splits, k)  # (3, n, k), (n,)
    mine = np.flatnonzero(tested & (labels >= 0))
    people = int(units.person.max(initial=-1)) + 1
    if not trials:
        return recalls(labels[mine], p[2, mine].argmax(axis=1), units.person[mine], people, k)[0]  # (G,)
    names, first, of = np.unique(units.trial[mine], return_index=True, return_inverse=True)
    mean = np.stack([np.bincount(of, weights=c, minlength=names.size) for c in p[2, mine].T], axis=1)  # (T, k)
    return recalls(labels[mine][first], mean.argmax(axis=1), units.person[mine][first], people, k)[0]  # (G,)


def window_against_trial(
    probe: Probe, units: Units, y: ArrayLike, k: int, window: Sequence[Split], trial: Sequence[Split]
) -> dict[str, Any]:
    """Score with true labels under ``window`` less that under ``trial`` with as many folds, paired by subject."""
    return paired(
        "random windows (window) against whole trials (trial), true labels",
        by_person(probe, units, y, k, window),
        by_person(probe, units, y, k, trial),
    )


def best_epochs(
    probe: Probe, units: Units, y: ArrayLike, k: int, splits: Sequence[Split], *, seed: int = 0
) -> list[dict[str, Any]]:
    """Score at the epoch best on the test less that at the epoch best on validation, for true and permuted labels.

    A softmax regression by gradient descent, whose epochs are all recorded. With permuted labels nothing can be learnt:
    what the test's own best epoch gains there is optimism alone.
    """
    labels = np.asarray(y, dtype=np.int64)
    of_trial = trial_labels(labels, units.trial, k)  # (T,)
    owner = np.zeros(of_trial.size, dtype=np.int64)  # (T,)
    owner[units.trial] = units.person
    mixed = permuted_labels(of_trial, owner, 1, np.random.default_rng([seed, 34]))[0]  # (T,)
    out = []
    for what, now in (("true", labels), ("permuted", np.where(labels >= 0, mixed[units.trial], -1))):
        answer = np.full((2, labels.size), -1, dtype=np.int64)  # (2, n)
        for split in splits:
            parts = [part[now[part] >= 0] for part in (split.train, split.validation, split.test)]
            if not all(part.size for part in parts):
                continue
            curve = _epochs(probe.z, now, k, parts)  # (E, m_validation + m_test)
            truth = np.concatenate([now[parts[1]], now[parts[2]]])  # (m,)
            right = curve == truth  # (E, m)
            validation = right[:, : parts[1].size].mean(axis=1)  # (E,)
            test = right[:, parts[1].size :].mean(axis=1)  # (E,)
            for i, epoch in enumerate((int(test.argmax()), int(validation.argmax()))):
                answer[i, parts[2]] = curve[epoch, parts[1].size :]
        mine = np.flatnonzero((answer[0] >= 0) & (now >= 0))
        people = int(units.person.max(initial=-1)) + 1
        scores = [recalls(now[mine], a[mine], units.person[mine], people, k)[0] for a in answer]  # (G,) each
        out.append(paired(f"epoch best on the test against epoch best on validation, {what} labels", *scores))
    return out


def _epochs(z: Floats, y: Ints, k: int, parts: Sequence[Ints]) -> NDArray[np.int64]:
    """Answers at each epoch for validation and test rows, (EPOCHS, m)."""
    train, seen = parts[0], np.concatenate(parts[1:])
    one = np.ones((1,))
    x = np.column_stack([z[train], np.broadcast_to(one, train.size)])  # (t, d + 1)
    held = np.column_stack([z[seen], np.broadcast_to(one, seen.size)])  # (m, d + 1)
    counts = np.bincount(y[train], minlength=k)  # (k,)
    weight = (1.0 / np.maximum(counts, 1))[y[train]]  # (t,), every class counts alike
    weight = weight / weight.sum()
    target = np.eye(k)[y[train]]  # (t, k)
    w, speed = np.zeros((x.shape[1], k)), np.zeros((x.shape[1], k))  # (d + 1, k)
    out = np.empty((EPOCHS, seen.size), dtype=np.int64)  # (E, m)
    for epoch in range(EPOCHS):
        scores = x @ w  # (t, k)
        p = np.exp(scores - scores.max(axis=1, keepdims=True))  # (t, k)
        p /= p.sum(axis=1, keepdims=True)
        speed = MOMENTUM * speed - RATE * x.T @ ((p - target) * weight[:, None])  # (d + 1, k)
        w = w + speed
        out[epoch] = (held @ w).argmax(axis=1)
    return out


def over_no_signal(
    probe: Probe, units: Units, y: ArrayLike, k: int, splits: Sequence[Split], protocol: str
) -> dict[str, Any] | None:
    """Gain of the probe over the predictor that uses no signal: what others said of the stimulus, paired by subject.

    Returns
    -------
    dict, or None
        ``protocol``, ``score`` (no signal), ``probe``, ``gain``, ``low``, ``high``, ``n``, ``how``; None where no
        stimulus has a name.
    """
    labels = np.asarray(y, dtype=np.int64)
    if not (units.stimulus >= 0).any():
        return None
    _, first = np.unique(units.trial, return_index=True)
    people = int(units.person.max(initial=-1)) + 1
    truth, answer, owner = [], [], []
    for split in splits:
        train = first[np.isin(units.trial[first], units.trial[split.train]) & (labels[first] >= 0)]
        test = first[np.isin(units.trial[first], units.trial[split.test]) & (labels[first] >= 0)]
        if not train.size or not test.size:
            continue
        zero = np.zeros(train.size, dtype=np.int64)
        seen = Seen(zero, units.person[train], units.stimulus[train], labels[train], {})
        found = answers(seen, np.zeros(test.size, dtype=np.int64), units.person[test], units.stimulus[test], k)
        truth.append(labels[test])
        answer.append(found.p.argmax(axis=1))
        owner.append(units.person[test])
    if not truth:
        return None
    none = recalls(np.concatenate(truth), np.concatenate(answer), np.concatenate(owner), people, k)[0]  # (G,)
    gap = paired("", by_person(probe, units, labels, k, splits, trials=True), none)
    return {
        "protocol": protocol,
        "score": gap["other"],
        "probe": gap["one"],
        "gain": gap["difference"],
        "low": gap["low"],
        "high": gap["high"],
        "n": gap["n"],
        "how": "mean recall of whole trials; no signal: the commonest class other subjects' training trials gave the "
        "stimulus; interval over subjects",
    }


def recognised(
    own: Probe, centred: Probe, units: Units, trial: Sequence[Split], subject: Sequence[Split] | None
) -> list[dict[str, Any]]:
    """How well a window's features tell its subject, its trial and its stimulus. Context: every study has some of it.

    Parameters
    ----------
    own : Probe
        Of features as they are.
    centred : Probe
        Of features centred within each subject.
    units : Units
    trial, subject : sequences of Split
        Splits by whole trials, for the subject; by subjects, for the stimulus (None: not tried).
    """
    out = []
    people = int(units.person.max(initial=-1)) + 1
    if people > 1:
        out.append({"what": "subject", "score": _hits(own, units.person, trial, people), "chance": 1 / people})
    trials = int(units.trial.max(initial=-1)) + 1
    # Every other window of a trial is trained on: the neighbours in time are on the other side.
    order = np.argsort(units.trial, kind="stable")
    place = np.empty(order.size, dtype=np.int64)  # (n,)
    begin = np.flatnonzero(np.diff(units.trial[order], prepend=-1))
    place[order] = np.arange(order.size) - np.repeat(begin, np.diff(np.append(begin, order.size)))
    if trials > 1 and (place >= 1).any():
        even, odd = np.flatnonzero(place % 2 == 0), np.flatnonzero(place % 2 == 1)
        p = centred.predict(units.trial, even, odd, trials)[0]  # (m, trials), by neighbours
        score = float((p.argmax(axis=1) == units.trial[odd]).mean())
        out.append({"what": "trial", "score": score, "chance": 1 / trials})
    films = np.unique(units.stimulus[units.stimulus >= 0])
    if films.size > 1 and subject is not None:
        code = np.where(units.stimulus >= 0, np.searchsorted(films, units.stimulus), -1)  # (n,)
        out.append({"what": "stimulus", "score": _hits(centred, code, subject, films.size), "chance": 1 / films.size})
    return out


def _hits(probe: Probe, codes: Ints, splits: Sequence[Split], k: int) -> float:
    p, tested = predict_folds(probe, codes, splits, k)  # (3, n, k), (n,)
    mine = np.flatnonzero(tested & (codes >= 0))
    return float((p[1, mine].argmax(axis=1) == codes[mine]).mean())
