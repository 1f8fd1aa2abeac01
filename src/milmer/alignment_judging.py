"""How alike the pulses of videos and signals are, and which order of trials that speaks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Verdict = Literal["proved", "wrong", "unknown"]

RATE = 25.0  # Hz: to which both waves are brought
REACH = 1.0  # seconds by which the two clocks may differ
APART = 3.0  # seconds from which on two waves of one heart count as shifted against each other
DRAWS = 9999  # random orders
SHIFTS = 999  # tables of shifted waves
PROVED = 0.01  # the mapped order is proved where chance does as well no more often than this
ALARM = 0.002  # and another one where chance does so no more often than this, for an alarm costs more than a doubt
DOUBT = 0.05  # while the mapped one does no better than this
SPREAD = 0.1  # seconds: one clock runs by the same time after the other in all trials, while chance has any lag
STRAY = 5.0  # deviations of other pairs by which one stands out that is put elsewhere than mapped
MAPPED = "as mapped"


@dataclass(frozen=True)
class Pairs:
    """Every video of a recording with every signal; T is the number of trials.

    Parameters
    ----------
    key, signal : str
        The recording and what its videos are compared with.
    trials : tuple of int
        Presentation numbers of the rows and columns.
    similarity : ndarray, shape (T, T)
        Highest correlation within `REACH` of videos (rows) and signals (columns).
    lags : ndarray, shape (T, T)
        Seconds by which the video comes later where that correlation is highest.
    shifted : ndarray, shape (R, T, T)
        The same with every signal shifted in time by a random amount: what two hearts that do not beat together give.
    correlograms : ndarray, shape (T, T, L)
        Correlation at lags from -`REACH` to `REACH`, positive where the video comes later.
    orders : dict of str to ndarray, shape (T,)
        Wrong orders: the column of each row, -1 where it is not among these trials.
    """

    key: str
    signal: str
    trials: tuple[int, ...]
    similarity: Array
    lags: Array
    shifted: NDArray[np.float32]
    correlograms: Array
    orders: Mapping[str, NDArray[np.int64]]

    @property
    def lag(self) -> float:
        """Seconds that the video's pulse comes after the signal's, by all mapped pairs together, whatever the sign.

        One pair alone cannot tell a lag from the same lag and a beat; pairs with other heart rates can.
        """
        own = np.diagonal(self.correlograms).mean(axis=1)  # (L,)
        return float((int(np.abs(own).argmax()) - len(own) // 2) / RATE)

    @property
    def strays(self) -> tuple[tuple[int, int], ...]:
        """(trial of the video, trial of the signal) that fit beyond doubt and are not one trial.

        Only for a recording whose order as a whole is proved, since they are judged by its lag: both in the best
        assignment at that lag, where other pairs are seldom alike, and with own partners that are not. All trials that
        give and take signals among each other must be such.
        """
        middle, near = round((self.lag + REACH) * RATE), round(SPREAD * RATE)
        around = self.correlograms[:, :, max(middle - near, 0) : middle + near + 1]  # (T, T, l)
        table = around.max(axis=2)  # (T, T)
        best = _assigned(table)[0]  # (T,)
        own = np.arange(len(best))  # (T,)
        rest = np.ones(table.shape, dtype=np.bool_)  # (T, T)
        rest[own, best] = rest[own, own] = False
        if not rest.any():
            return ()
        usual = np.median(table[rest])
        spread = 1.4826 * np.median(np.abs(table[rest] - usual)) + 1e-9
        sure = (table[own, best] - usual) / spread >= STRAY  # (T,)
        sure &= table[own, own] - usual < 0.5 * (table[own, best] - usual)
        moved = best != own  # (T,)
        found = []
        for i in np.flatnonzero(moved & sure):
            ring = [int(i)]
            while (following := int(best[ring[-1]])) != i:
                ring.append(following)
            if sure[ring].all():
                found.append((self.trials[i], self.trials[int(best[i])]))
        return tuple(found)


@dataclass(frozen=True)
class Judgement:
    """What one recording, or all together, say.

    Parameters
    ----------
    scores : dict of str to float
        Mean similarity of the pairs that an order makes, less what random orders give on average.
    p : dict of str to float
        Share of random orders that score as high.
    better : dict of str to float
        For wrong orders: how often random signs of the differences between its pairs and the mapped ones sum as high.
    best_p : float
        Share of tables of shifted waves whose best assignment of signals to videos is as good as the one found.
    verdict : {"proved", "wrong", "unknown"}
    """

    scores: Mapping[str, float]
    p: Mapping[str, float]
    better: Mapping[str, float]
    best_p: float
    verdict: Verdict

    @property
    def rival(self) -> str:
        """The wrong order that scores highest; empty where none was tried."""
        others = [k for k in self.scores if k != MAPPED]
        return max(others, key=lambda k: self.scores[k]) if others else ""


@dataclass(frozen=True)
class _Order:
    """Sums over rows: of an order's similarities, of random orders', and of random signs of its gain on the mapped."""

    rows: int
    value: float
    drawn: Array  # (B,)
    gain: float
    flipped: Array  # (B,)


@dataclass(frozen=True)
class Evidence:
    """All that `conclude` needs of a recording; that of several adds up."""

    orders: Mapping[str, _Order]
    best: NDArray[np.int64]  # (T,) column of each row in the best assignment
    best_value: float
    best_shifted: Array  # (R,)
    best_spread: float  # seconds: median distance of these pairs' lags from their median


def compare(
    videos: Sequence[Array],
    signals: Sequence[Array],
    *,
    key: str = "",
    signal: str = "ppg",
    trials: Sequence[int] | None = None,
    orders: Mapping[str, NDArray[np.int64]] | None = None,
    seed: int = 0,
) -> Pairs:
    """Correlate every video's pulse with every signal's, as they are and shifted against each other.

    Parameters
    ----------
    videos, signals : sequence of ndarray, T of each, shape (n,)
        Pulse waves at `RATE`, of one trial each, from the same moment on; 0 where missing.
    key, signal, trials
        Names for the record; by default trials are 1 to T.
    orders : dict, optional
        Wrong orders to try; by default `wrong_orders`.
    seed : int
        Of the shifts.
    """
    count = len(videos)
    rng = np.random.default_rng([seed, count])
    reach, apart = round(REACH * RATE), round(APART * RATE)
    moves = rng.random((SHIFTS, count))  # (R, T) how far each signal is shifted, 0 to 1 of what is possible
    long_enough = min(map(len, [*videos, *signals]), default=0) >= 2 * apart + 2 * reach
    shifted = np.zeros((SHIFTS if long_enough else 0, count, count), dtype=np.float32)  # (R, T, T)
    correlograms = np.zeros((count, count, 2 * reach + 1))  # (T, T, L)
    for i, video in enumerate(videos):
        for j, other in enumerate(signals):
            n = min(len(video), len(other))
            r = _circular(video[:n], other[:n])  # (n,) at all lags, from 0 on
            if n > 2 * reach:  # a video that comes later is a signal that comes earlier
                correlograms[i, j] = np.concatenate([r[-reach:], r[: reach + 1]])[::-1]  # (L,)
            if long_enough:
                high = _highest(r, reach)  # (n,)
                shifted[:, i, j] = high[(apart + moves[:, j] * (n - 2 * apart)).astype(np.int64)]
    similarity, lags = correlograms.max(axis=2), (correlograms.argmax(axis=2) - reach) / RATE  # (T, T) each
    names = tuple(trials) if trials is not None else tuple(range(1, count + 1))
    return Pairs(
        key, signal, names, similarity, lags, shifted, correlograms, wrong_orders(count) if orders is None else orders
    )


def wrong_orders(count: int, stimuli: Sequence[int] | None = None) -> dict[str, NDArray[np.int64]]:
    """Return the wrong orders that happen: (T,) index of the signal that each video gets.

    Parameters
    ----------
    count : int
        T, trials in order of presentation.
    stimuli : sequence of int, optional
        Number of the stimulus of each, 1 to T each once: then the order of stimuli is one of them.
    """
    own = np.arange(count)  # (T,)
    found = {"one later": (own + 1) % count, "one earlier": (own - 1) % count, "reversed": own[::-1].copy()}
    if stimuli is not None and sorted(stimuli) == list(range(1, count + 1)):
        # Signals are stored by stimulus and videos by presentation: row t taken for the t-th trial shown.
        found = {"by stimulus number": np.argsort(np.asarray(stimuli))} | found
    return {k: v for k, v in found.items() if not np.array_equal(v, own)}


def gather(pairs: Pairs, seed: int = 0) -> Evidence:
    """Score the mapped order, wrong ones, random ones and the best assignment of one recording."""
    rng = np.random.default_rng([seed, len(pairs.trials)])
    table = _centred(pairs.similarity)  # (T, T)
    own = np.arange(len(table))  # (T,)
    drawn = table[own, rng.permuted(np.tile(own, (DRAWS, 1)), axis=1)]  # (B, T)
    signs = rng.choice(np.array([-1.0, 1.0]), (DRAWS, len(own)))  # (B, T)
    orders = {}
    for name, order in {MAPPED: own, **pairs.orders}.items():
        rows = np.flatnonzero(order >= 0)  # (t,)
        if rows.size:
            given = table[rows, order[rows]]  # (t,)
            gains = given - table[rows, rows]  # (t,)
            random = drawn[:, rows].sum(axis=1)  # (B,)
            flipped = signs[:, rows] @ gains  # (B,)
            orders[name] = _Order(rows.size, float(given.sum()), random, float(gains.sum()), flipped)
    others = np.array([_assigned(_centred(t))[1] for t in pairs.shifted])  # (R,)
    best, value = _assigned(table)  # (T,)
    lags = pairs.lags[own, best]  # (T,)
    return Evidence(orders, best, value, others, float(np.median(np.abs(lags - np.median(lags)))))


def conclude(evidence: Sequence[Evidence], alarms: int = 1) -> Judgement:
    """Judge one recording, or several together.

    Parameters
    ----------
    evidence : sequence of Evidence
        At least one.
    alarms : int
        Judgements that are made: each must be surer by as much.
    """
    names = list(dict.fromkeys(k for e in evidence for k in e.orders))
    scores, p, better = {}, {}, {}
    for name in names:
        # A recording that lacks a wrong order (there it is the mapped one) counts as mapped.
        parts = [e.orders.get(name, e.orders[MAPPED]) for e in evidence]
        value = sum(o.value for o in parts)
        scores[name] = value / sum(o.rows for o in parts)
        p[name] = _share(value, np.sum([o.drawn for o in parts], axis=0))
        better[name] = _share(sum(o.gain for o in parts), np.sum([o.flipped for o in parts], axis=0))
    del better[MAPPED]
    tables = [e.best_shifted for e in evidence]
    known = all(len(t) for t in tables)
    best_p = _share(sum(e.best_value for e in evidence), np.sum(tables, axis=0)) if known else 1.0
    level = ALARM / alarms
    verdict: Verdict = "unknown"
    # As many wrong orders as are tried may stand out by luck.
    if any(scores[k] > scores[MAPPED] and p[k] <= level / len(better) and better[k] <= PROVED for k in better):
        verdict = "wrong"
    elif p[MAPPED] <= PROVED / alarms:
        verdict = "proved"
    elif (
        p[MAPPED] > DOUBT
        # Of three trials the mapped order can be the best one and still not stand out.
        and any(not np.array_equal(e.best, np.arange(len(e.best))) for e in evidence)
        and best_p <= max(level, 1 / (1 + SHIFTS))
        and np.median([e.best_spread for e in evidence]) <= SPREAD
    ):
        verdict = "wrong"
    return Judgement(scores, p, better, best_p, verdict)


def _circular(video: Array, signal: Array) -> Array:
    """Correlation at every circular lag of the signal against the video, (n,)."""
    size = float(np.sqrt((video**2).sum() * (signal**2).sum()))
    if size <= 1e-9:
        return np.zeros(len(video))  # (n,)
    spectrum = np.conj(np.fft.rfft(video)) * np.fft.rfft(signal)  # (F,)
    return np.asarray(np.fft.irfft(spectrum, len(video)) / size)  # (n,)


def _highest(r: Array, reach: int) -> Array:
    """Highest of each value and its neighbours up to `reach` away, around the circle, (n,)."""
    from scipy.ndimage import maximum_filter1d

    return np.asarray(maximum_filter1d(r, 2 * reach + 1, mode="wrap"))  # (n,)


def _centred(table: NDArray[np.floating]) -> Array:
    """Take off what a row or a column has throughout: (T, T)."""
    s = np.asarray(table, dtype=np.float64)  # (T, T)
    return np.asarray(s - s.mean(axis=1, keepdims=True) - s.mean(axis=0, keepdims=True) + s.mean())


def _assigned(table: Array) -> tuple[NDArray[np.int64], float]:
    """Return the column of each row in the best assignment, (T,), and its mean in deviations of all other entries.

    In deviations, because what all trials have in common (a start at the first scene, breathing) spreads the entries of
    a table wider than those of a shifted one.
    """
    from scipy.optimize import linear_sum_assignment

    rows, best = linear_sum_assignment(table, maximize=True)  # (T,), (T,)
    rest = np.ones(table.shape, dtype=np.bool_)  # (T, T)
    rest[rows, best] = False
    given = table[rows, best]  # (T,)
    return np.asarray(best), float((given.mean() - table[rest].mean()) / (table[rest].std() + 1e-9))


def _share(value: float, drawn: Array) -> float:
    """Share of draws that are at least `value`, itself counted, so never 0."""
    return float((1 + (drawn >= value - 1e-9).sum()) / (1 + len(drawn)))
