"""What a probe finds in labels that mean nothing: permuted ones, and random ones that go with the stimulus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milmer.evaluation.audit.findings import Film, OneByOne, Permuted
from milmer.evaluation.audit.probe import NAMES, Probe, predict_folds, recalls
from milmer.evaluation.audit.units import Units, trial_labels
from milmer.evaluation.statistics import exchangeable, permuted_labels

if TYPE_CHECKING:
    from milmer.evaluation.protocols import Split

__all__ = ["Film", "Permuted", "Units", "association", "permuted_scores", "stimulus_scores", "trial_labels"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Splitter = Callable[[Ints, int], "Sequence[Split]"]

RULES = (*NAMES, "both together")
DRAWS = (12, 48)  # permuted labels: first look, and all where the first look is not plainly clean
CONFIRM = 0.05  # below it labels drawn for each trial on its own must say the same
PLAIN = 1e-7  # found beyond doubt at the first look: that adds no more than this to the chance of a false alarm
LOOK_AGAIN = 0.2  # stopping early only where nothing is found cannot raise false alarms
FILM_DRAWS = 12  # random labels of the stimuli, averaged
FILM_NULLS = (39, 4999)  # names of stimuli permuted: first look, and at most
TIES = 20  # null scores as good as the observed one after which the rest cannot matter


def permuted_scores(
    probe: Probe,
    units: Units,
    y: ArrayLike,
    k: int,
    splits_of: Splitter,
    base_of: Splitter | None,
    *,
    draws: tuple[int, int] = DRAWS,
    seed: int = 0,
) -> Permuted | None:
    """Score the probe on labels permuted between the trials of each person: nothing true is left to find.

    Under a protocol that holds out what it says, such labels cannot be foretold: given the features, each draw of
    labels is a fresh experiment, and a t-test over draws of (score - base) is valid for these features and this way of
    splitting. But permuted labels of one person know of one another: who has one trial of each class gives the second
    away with the first. So what is found in them must be found again in labels drawn for each trial on its own, under
    splits made without them, where every honest protocol's expectation is ``1 / classes`` exactly; p is the larger.

    Parameters
    ----------
    probe : Probe
        Made of the n rows.
    units : Units
    y : array of int, shape (n,)
        True classes, -1 where there are none.
    k : int
        Number of classes.
    splits_of, base_of : callable (y, seed) -> splits
        Splits under the protocol and under ``trial`` with as many folds, made anew for each draw's labels; without
        `base_of` the score is compared with guessing alone.
    draws : (int, int)
        Draws of the first look and in all.

    Returns
    -------
    Permuted, or None
        None where no person has two labels: there is nothing to exchange.
    """
    labels = np.asarray(y, dtype=np.int64)
    of_trial = trial_labels(labels, units.trial, k)  # (T,)
    owner = np.zeros(of_trial.size, dtype=np.int64)  # (T,)
    owner[units.trial] = units.person
    known = np.flatnonzero(of_trial >= 0)
    if not known.size or not exchangeable(of_trial[known], owner[known]):
        return None
    rng = np.random.default_rng([seed, 31])
    drawn = np.tile(of_trial, (draws[1], 1))  # (R, T)
    drawn[:, known] = permuted_labels(of_trial[known], owner[known], draws[1], rng)  # (R, T')
    fresh = np.where(of_trial >= 0, rng.integers(0, k, drawn.shape), -1)  # (R, T)

    def tried(values: Ints, again: bool, first: int) -> tuple[Floats, Floats, int]:
        scores, bases, fits = [], [], 0
        for r, row in enumerate(values):
            now = np.where(labels >= 0, row[units.trial], -1)  # (n,)
            made_for = labels if again else now
            splits = splits_of(made_for, seed + r)
            score, chance = fold_scores(probe, units, now, k, splits, plain=again)  # (3,), ()
            base = np.full(3, chance)  # (3,)
            fits += len(splits)
            if base_of is not None:
                others = base_of(made_for, seed + r)
                base, _ = fold_scores(probe, units, now, k, others, plain=again)  # (3,)
                fits += len(others)
            scores.append(score)
            bases.append(base)
            if r + 1 == first:
                sofar = _tested(np.array(scores), np.array(bases))[0]
                if sofar > LOOK_AGAIN or sofar < PLAIN:
                    break
        return np.array(scores), np.array(bases), fits

    score, base, fits = tried(drawn, False, draws[0])  # (R, 3), (R, 3)
    first, rule = _tested(score, base)
    p, again = first, None
    if first <= CONFIRM:
        own, own_base, more = tried(fresh, True, draws[0])  # (R, 3), (R, 3)
        second, its = _tested(own, own_base)
        again = OneByOne(*_gain(own[:, its], own_base[:, its]), second)
        p, fits = max(p, second), fits + more
    n = len(score)
    against = "the protocol trial with as many folds" if base_of is not None else "guessing"
    how = (
        f"probe: {RULES[rule]}; labels permuted between the trials of each subject, {n} times, each split anew; "
        f"against {against}; t-test over the draws, for two rules; what is found must be found in labels drawn for "
        "each trial on its own too"
    )
    null = tuple(score[:, 2].tolist())
    return Permuted(*_gain(score[:, rule], base[:, rule]), p, n, fits, how, null, first, again)


def _gain(score: Floats, base: Floats) -> tuple[float, float, float, float, float]:
    """Mean score and base, and their mean difference with its 95 % interval over the draws."""
    gain = score - base  # (R,)
    mean, half = float(gain.mean()), float(_quantile(0.975, gain.size - 1) * gain.std(ddof=1) / np.sqrt(gain.size))
    return float(score.mean()), float(base.mean()), mean, mean - half, mean + half


def _tested(score: Floats, base: Floats) -> tuple[float, int]:
    """Smallest p over the probe's two rules times two, and the rule that has it."""
    tries = [_t_test(score[:, i] - base[:, i]) for i in range(len(NAMES))]
    best = int(np.argmin(tries))
    return min(1.0, 2 * tries[best]), best


def _t_test(values: Floats) -> float:
    """One-sided p that the mean is above zero."""
    from scipy.special import stdtr

    n, spread = values.size, float(values.std(ddof=1))
    if spread < 1e-12:
        return 0.5**n if values.mean() > 1e-12 else 1.0
    return float(stdtr(n - 1, -values.mean() / spread * np.sqrt(n)))


def _quantile(q: float, free: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(free, q))


def fold_scores(
    probe: Probe, units: Units, y: ArrayLike, k: int, splits: Sequence[Split], *, plain: bool = False
) -> tuple[Floats, float]:
    """Mean recall of each of the probe's answers over tested people, shape (3,), and what guessing gives.

    With `plain` the mean share of right answers, over all people: it asks nobody to have two classes, and so is exact
    for labels drawn uniformly and one by one.
    """
    labels = np.asarray(y, dtype=np.int64)
    p, tested = predict_folds(probe, labels, splits, k)  # (3, n, k), (n,)
    mine = np.flatnonzero(tested & (labels >= 0))
    owner = units.person[mine]  # (m,)
    people = int(units.person.max(initial=-1)) + 1
    counts = np.bincount(owner, minlength=people)  # (G,)
    out, chance = np.full(3, np.nan), float("nan")
    for i in range(3):
        answer = p[i, mine].argmax(axis=1)  # (m,)
        if plain:
            right = np.bincount(owner, weights=answer == labels[mine], minlength=people)  # (G,)
            out[i], chance = float((right[counts > 0] / counts[counts > 0]).mean()), 1 / k
            continue
        score, guess = recalls(labels[mine], answer, owner, people, k)  # (G,), (G,)
        if np.isfinite(score).any():
            out[i], chance = float(np.nanmean(score)), float(np.nanmean(guess))
    return out, chance


def stimulus_scores(
    probe: Probe,
    units: Units,
    splits: Sequence[Split],
    *,
    draws: int = FILM_DRAWS,
    nulls: tuple[int, int] = FILM_NULLS,
    seed: int = 0,
) -> Film | None:
    """Give each stimulus one random label, the same for everybody, and see whether the probe foretells it.

    It can only by recognising the stimulus. Exact test: if features do not know the stimulus, the names of the stimuli
    that one person saw may be exchanged among that person's trials, and the score, averaged over `draws` labellings,
    comes from the distribution that such exchanges give. Exchanges stop early once `TIES` of them did as well (Besag
    and Clifford 1991), which keeps p valid.

    Trials are taken whole, and what training has of a tested trial is left out: this asks for the film, not for the
    trial. Only trials whose film is in training are tested. Where nothing is left by this (random windows; films that
    are all unseen, which cannot be recognised), all is taken as it is, and the score is shown without p.

    Parameters
    ----------
    probe : Probe
        Made of the n rows.
    units : Units
    splits : sequence of Split
    draws : int
        Labellings that are averaged.
    nulls : (int, int)
        Exchanges of the first look, and at most.

    Returns
    -------
    Film, or None
        None where no two people saw the same stimulus, or nobody saw two.
    """
    seen = np.unique(np.stack([units.person, units.stimulus])[:, units.stimulus >= 0], axis=1)  # (2, pairs)
    _, viewers = np.unique(seen[1], return_counts=True)
    _, films = np.unique(seen[0], return_counts=True)
    if not seen.size or viewers.max() < 2 or films.max() < 2:
        return None
    _, first = np.unique(units.trial, return_index=True)
    stimulus, owner = units.stimulus[first], units.person[first]  # (T,), (T,)
    folds = []
    for split in splits:
        train, test = (np.unique(units.trial[part]) for part in (split.train, split.test))
        folds.append((np.setdiff1d(train, test), test))
    whole = all(
        train.size >= 0.3 * np.unique(units.trial[s.train]).size for (train, _), s in zip(folds, splits, strict=True)
    )
    row_of, untested = np.arange(stimulus.size), ""  # (rows,), the trial of each row
    if whole:
        probe = probe.averaged(units.trial)
    else:
        folds, row_of = [(s.train, s.test) for s in splits], units.trial
        untested = "trials are on two sides: a film's label is found through its trial"
    film_of = stimulus[row_of]  # (rows,)
    folds = [(train[film_of[train] >= 0], test[film_of[test] >= 0]) for train, test in folds]
    met = [(train, test[np.isin(film_of[test], film_of[train])]) for train, test in folds]
    if any(test.size for _, test in met):
        folds = met
    else:
        untested = untested or "no film that is tested is in training: there is none to recognise"
    folds = [(train, test) for train, test in folds if train.size and test.size]
    if not folds:
        return None
    if untested:
        nulls = (nulls[0], nulls[0])
    rng = np.random.default_rng([seed, 32])
    names, code = np.unique(stimulus, return_inverse=True)
    labels = rng.permuted(np.tile(np.resize([1.0, -1.0], names.size), (draws, 1)), axis=1)  # (D, stimuli)
    if names.size % 2:
        labels *= rng.choice([-1.0, 1.0], size=(draws, 1))  # (D, 1)
    of_trial = labels[:, code].T  # (T, D)
    makers = [_maker(probe, train, test) for train, test in folds]
    observed = float(_film_scores(makers, of_trial[row_of], draws)[0])
    named = np.flatnonzero(stimulus >= 0)
    step = max(1, min(64, 4_000_000 // (row_of.size * draws)))
    null: list[float] = []
    while len(null) < nulls[1]:
        count = min(step, (nulls[0] if len(null) < nulls[0] else nulls[1]) - len(null))
        order = np.tile(np.arange(stimulus.size), (count, 1))  # (P, T)
        order[:, named] = permuted_labels(named, owner[named], count, rng)  # (P, T')
        mixed = np.concatenate([of_trial[o] for o in order], axis=1)  # (T, P·D)
        null += _film_scores(makers, mixed[row_of], draws).tolist()
        if len(null) >= nulls[0] and sum(v >= observed - 1e-12 for v in null) >= TIES:
            break
    values = np.array(null)  # (P,)
    how = (
        f"one random label a stimulus, {draws} times; against {values.size} exchanges of the stimuli's names among "
        "each subject's trials"
    )
    p = None if untested else float((1 + np.count_nonzero(values >= observed - 1e-12)) / (1 + values.size))
    fits = len(folds) * draws * (1 + values.size)
    return Film(observed, float(values.mean()), p, values.size, fits, how, untested)


def _maker(probe: Probe, train: Ints, test: Ints) -> Callable[[Floats], tuple[Floats, Ints]]:
    """Prepare one fold: labels of ±1 of all rows (n, L) -> whether each test row is right (m, L), and the test rows."""
    z = probe.z[train]  # (t, d)
    centre = z.mean(axis=0)  # (d,)
    z = z - centre  # (t, d)
    gram = z.T @ z  # (d, d)
    d = gram.shape[0]
    inverse = np.linalg.inv(gram + np.eye(d) * (0.1 * np.trace(gram) / max(d, 1) + 1e-9))  # (d, d)
    to_test = (probe.z[test] - centre) @ inverse @ z.T  # (m, t): a ridge regression is linear in the labels
    near = probe.near[np.ix_(test, train)].astype(np.float64)  # (m, t)
    near /= np.maximum(near.sum(axis=1, keepdims=True), 1e-30)  # (m, t)
    spread = np.sqrt((to_test**2).sum(axis=1).mean())
    near_spread = np.sqrt((near**2).sum(axis=1).mean())
    # Both answers as one, each in units of what random labels make of it.
    both = (to_test / max(spread, 1e-30) + near / max(near_spread, 1e-30)).astype(np.float32)  # (m, t)

    def right(labels: Floats) -> tuple[Floats, Ints]:
        mine = labels[train]  # (t, L)
        mine = mine - mine.mean(axis=0)  # (t, L), classes of unequal size
        return both @ mine.astype(np.float32) * labels[test], test  # (m, L)

    return right


def _film_scores(makers: Sequence[Callable[[Floats], tuple[Floats, Ints]]], labels: Floats, draws: int) -> Floats:
    """Share of right answers, averaged over folds' rows and labellings; labels (n, P·D) -> (P,)."""
    right = np.zeros(labels.shape[1])  # (P·D,)
    count = 0
    for make in makers:
        margin, test = make(labels)  # (m, P·D), (m,)
        right += (margin > 0).sum(axis=0) + 0.5 * (margin == 0).sum(axis=0)  # (P·D,)
        count += test.size
    return np.asarray((right / count).reshape(-1, draws).mean(axis=1))  # (P,)


def association(y: ArrayLike, groups: ArrayLike, within: ArrayLike, *, draws: int = 4999, seed: int = 0) -> float:
    """Return p that labels go with groups (stimuli) no more than their exchange within each person allows.

    The statistic is how many pairs of trials of one group have the same label.

    Parameters
    ----------
    y, groups, within : arrays of int, shape (n_trials,)
        Label, group and person of each trial; -1 as label or group: left out.

    Returns
    -------
    float
        1 where nothing can be exchanged.
    """
    label, group, person = (np.asarray(a, dtype=np.int64) for a in (y, groups, within))
    known = np.flatnonzero((label >= 0) & (group >= 0))
    if not known.size or not exchangeable(label[known], person[known]):
        return 1.0
    group = np.unique(group[known], return_inverse=True)[1]
    k = int(label[known].max()) + 1
    drawn = permuted_labels(label[known], person[known], draws, np.random.default_rng([seed, 33]))  # (R, T)
    drawn = np.concatenate([label[known][None], drawn])  # (1 + R, T)
    cells = (int(group.max()) + 1) * k
    values = np.empty(len(drawn))  # (1 + R,)
    for begin in range(0, len(drawn), 500):
        part = drawn[begin : begin + 500]  # (r, T)
        index = (np.arange(len(part))[:, None] * cells + group * k + part).ravel()
        counts = np.bincount(index, minlength=len(part) * cells).reshape(len(part), cells)  # (r, cells)
        values[begin : begin + 500] = (counts.astype(np.float64) ** 2).sum(axis=1)  # (r,)
    return float((1 + np.count_nonzero(values[1:] >= values[0])) / (1 + draws))
