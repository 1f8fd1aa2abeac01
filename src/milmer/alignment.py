"""Whether face videos and body signals belong together: the pulse is in both, and no two trials have the same one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from milmer.alignment_judging import (
    ALARM,
    MAPPED,
    RATE,
    Judgement,
    Pairs,
    Verdict,
    compare,
    conclude,
    gather,
    wrong_orders,
)

if TYPE_CHECKING:
    import pandas as pd

    from milmer.store import Store

Array = NDArray[np.float64]

LONGEST = 180.0  # seconds of a trial that are compared, at most
LEAST_SECONDS = 5.0  # of skin colour and signal in a trial
LEAST_TRIALS = 3  # of a recording: of two there is only one wrong order


@dataclass(frozen=True)
class RecordingAlignment:
    """What the pulse says of one recording; T is the number of its trials that could be compared.

    Parameters
    ----------
    key : str
        The recording.
    signal : str
        Body signal that the videos were compared with.
    trials : tuple of int
        Their presentation numbers: rows and columns of `similarity`.
    similarity : ndarray, shape (T, T)
        Of every trial's video (rows) and every trial's signal (columns): the highest correlation of the two pulse
        waves within a second, -1 to 1.
    judgement : Judgement
        By this recording alone.
    best : tuple of int
        For each trial's video the trial whose signal it has in the best assignment.
    strays : tuple of (int, int)
        Videos that fit, beyond doubt, the signal of another trial: (trial of the video, trial of the signal).
    lag : float
        Seconds that the video's pulse comes after the signal's, by all own pairs together.
    """

    key: str
    signal: str
    trials: tuple[int, ...]
    similarity: Array  # (T, T)
    judgement: Judgement
    best: tuple[int, ...]
    strays: tuple[tuple[int, int], ...]
    lag: float

    @property
    def verdict(self) -> Verdict:
        """``proved``, ``wrong`` or ``unknown``."""
        return "wrong" if self.strays else self.judgement.verdict

    @property
    def own_best(self) -> int:
        """How many videos are more like their own trial's signal than like any other's."""
        return int((self.similarity.argmax(axis=1) == np.arange(len(self.trials))).sum())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "key": self.key,
            "signal": self.signal,
            "trials": list(self.trials),
            "similarity": np.round(self.similarity, 4).tolist(),
            **_plain(self.judgement),
            "verdict": self.verdict,
            "best": list(self.best),
            "strays": [list(s) for s in self.strays],
            "own_best": self.own_best,
            "lag": _number(self.lag),
        }


@dataclass(frozen=True)
class Alignment:
    """What the pulse says of a store.

    Parameters
    ----------
    recordings : tuple of RecordingAlignment
        Those that could be judged.
    judgement : Judgement or None
        Of all of them together; None where there are none.
    lag : float
        Median of the recordings' that are proved, seconds; NaN where none is.
    notes : tuple of str
        What was not compared and why, a line each.
    """

    recordings: tuple[RecordingAlignment, ...]
    judgement: Judgement | None
    lag: float
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """``proved``, ``wrong`` (here or in one recording) or ``unknown``."""
        if self.judgement is None:
            return "unknown"
        return "wrong" if any(r.verdict == "wrong" for r in self.recordings) else self.judgement.verdict

    @property
    def trials(self) -> int:
        """Trials compared."""
        return sum(len(r.trials) for r in self.recordings)

    @property
    def own_best(self) -> int:
        """Videos that are more like their own trial's signal than like any other's."""
        return sum(r.own_best for r in self.recordings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            **(_plain(self.judgement) if self.judgement else {}),
            "verdict": self.verdict,
            "trials": self.trials,
            "own_best": self.own_best,
            "lag": _number(self.lag),
            "notes": list(self.notes),
            "recordings": [r.to_dict() for r in self.recordings],
        }

    def lines(self) -> list[str]:
        """Say it in words, a line each; the first says whether it is proved."""
        said = self.judgement
        if said is None:
            return [f"not checked: {note}" for note in self.notes]
        signals = "/".join(dict.fromkeys(r.signal for r in self.recordings))
        counts = f"{self.own_best} of {self.trials} videos are most like their own trial's {signals}"
        figures = f"score {said.scores[MAPPED]:.2f}, a random order does as well with p {_p(said.p[MAPPED])}"
        if said.rival:
            figures += f", the best wrong order tried ({said.rival}) has {said.scores[said.rival]:.2f}"
        if said.verdict == "proved":
            found = [f"the pulse in the face fits the mapped order of trials: {counts}; {figures}"]
            if np.isfinite(self.lag):
                found.append(f"the face's pulse comes {_lag(self.lag)} the signal's")
        elif said.verdict == "unknown":
            found = [
                f"cannot tell: no order of trials stands out; the face may show too little pulse ({counts}; {figures})"
            ]
        else:
            found = [f"the pulse in the face does NOT fit the mapped order of trials ({counts}; {figures})"]
        return [*found, *(f"not compared: {note}" for note in self.notes)]

    def warnings(self) -> list[str]:
        """Say what must be mended, a line each: where another order than the mapped one fits."""
        said = self.judgement
        found = []
        if said is not None and said.verdict == "wrong":
            named = bool(said.rival) and said.scores[said.rival] > said.scores[MAPPED] and said.p[said.rival] <= ALARM
            other = f"the order '{said.rival}' (p {_p(said.p[said.rival])})" if named else "another order"
            found.append(
                f"videos and signals are mapped wrongly: the pulse fits {other}, not the mapped one "
                f"(p {_p(said.p[MAPPED])}); mend the study's table of trials and prepare again"
            )
        for r in self.recordings:
            if r.verdict == "wrong":
                moved = r.strays or [(v, s) for v, s in zip(r.trials, r.best, strict=True) if v != s]
                text = ", ".join(f"{v} -> {s}" for v, s in moved)
                found.append(f"{r.key}: videos fit the {r.signal} of other trials (video -> signal): {_short(text)}")
        return found


def check_alignment(store: Store, seed: int = 0) -> Alignment:
    """Compare the pulse in the skin with the body's pulse signal under the mapped order of trials and wrong ones.

    Parameters
    ----------
    store : Store
        Prepared with skin colour (`preparation.face.skin`).
    seed : int
        Of the random orders and shifts.

    Returns
    -------
    Alignment
        ``proved`` where the mapped order stands out of random ones and no other does better, ``wrong`` where another
        order stands out, ``unknown`` where none does. Without skin colour or pulse it holds no recording and says why.
    """
    compared, notes = [], []
    for key in store.keys:
        found = _compared(store, key, seed)
        if isinstance(found, str):
            notes.append(f"{key}: {found}")
        else:
            compared.append(found)
    lacking = {n.partition(": ")[2] for n in notes}
    if not compared and len(lacking) == 1:
        notes = list(lacking)
    return judge(compared, notes, seed)


def judge(compared: Sequence[Pairs], notes: Sequence[str] = (), seed: int = 0) -> Alignment:
    """Judge recordings one by one and all together.

    Parameters
    ----------
    compared : sequence of Pairs
        What `milmer.alignment_judging.compare` returned, one a recording.
    notes : sequence of str
        What was not compared.
    seed : int
        Of the random orders.
    """
    if not compared:
        return Alignment((), None, float("nan"), tuple(notes))
    evidence = [gather(pairs, seed + 1000 * place) for place, pairs in enumerate(compared)]
    recordings = []
    for pairs, one in zip(compared, evidence, strict=True):
        alone = conclude([one], alarms=len(compared))
        recordings.append(
            RecordingAlignment(
                key=pairs.key,
                signal=pairs.signal,
                trials=pairs.trials,
                similarity=pairs.similarity,
                judgement=alone,
                best=tuple(pairs.trials[int(j)] for j in one.best),
                strays=pairs.strays if alone.verdict == "proved" else (),
                lag=pairs.lag,
            )
        )
    together = conclude(evidence)
    lags = [r.lag for r in recordings]
    lag = float(np.median(lags)) if together.verdict == "proved" else float("nan")
    return Alignment(tuple(recordings), together, lag, tuple(notes))


def _compared(store: Store, key: str, seed: int) -> Pairs | str:
    """Return the waves of one recording compared, or the line that says why not."""
    from milmer.datasets.base import body_kind

    info = store.recording(key)
    kinds = {name: body_kind(name) for name in info.peripheral}
    named = [n for kind in ("ppg", "ecg") for n in sorted(kinds) if kinds[n] == kind]
    if not named:
        return "no pulse signal (ppg or ecg) to compare the face with"
    rows = store.trials.reset_index(drop=True)
    rows = rows[rows["store_key"] == key].sort_values("trial")
    if not info.skin:
        return (
            "the store has no skin colour; prepare it again, into another folder, with --set preparation.face.skin=25"
        )
    videos, signals, trials, places = [], [], [], []
    for place, row in enumerate(rows.index):
        pair = _waves(store, int(row), named[0], kinds[named[0]])
        if pair is not None:
            videos.append(pair[0])
            signals.append(pair[1])
            trials.append(int(rows.loc[row, "trial"]))
            places.append(place)
    if len(trials) < LEAST_TRIALS:
        return f"{len(trials)} trials with skin colour and {named[0]}, {LEAST_TRIALS} are needed"
    where = {place: i for i, place in enumerate(places)}
    orders = {
        name: np.array([where.get(int(order[place]), -1) for place in places])
        for name, order in wrong_orders(len(rows), _numbers(rows)).items()
    }
    return compare(videos, signals, key=key, signal=named[0], trials=trials, orders=orders, seed=seed)


def _waves(store: Store, row: int, name: str, kind: str) -> tuple[Array, Array] | None:
    """Return the pulse of a trial's video and signal at `RATE`, or None where there is too little of either."""
    from milmer.signals.pulse import body_wave, evened, pos

    skin = store.skin(row)
    samples = store.peripheral(row, name)  # (S,)
    if skin is None or not len(samples):
        return None
    times, rgb = skin
    rate = float(store.recording(str(store.trials.iloc[row]["store_key"])).peripheral[name]["rate"])
    known = np.isfinite(rgb).all(axis=1)  # (n,)
    seconds = min(len(samples) / rate, LONGEST)
    if known.sum() < 2:
        return None
    grid = np.arange(int(seconds * RATE)) / RATE  # (m,)
    near = np.abs(times[known][_nearest(times[known], grid)] - grid) <= 0.2  # (m,) a frame is close by
    if near.sum() < LEAST_SECONDS * RATE or np.isfinite(samples).sum() < LEAST_SECONDS * rate:
        return None
    colour = np.stack([np.interp(grid, times[known], c) for c in rgb[known].T], axis=1)  # (m, 3)
    colour[~near] = np.nan
    whole = body_wave(samples, rate, "ecg" if kind == "ecg" else "ppg")  # (S,)
    wave = np.interp(grid, np.arange(len(whole)) / rate, whole)  # (m,)
    return evened(pos(colour, RATE), RATE), evened(wave, RATE)  # (m,), (m,)


def _nearest(times: Array, grid: Array) -> NDArray[np.int64]:
    """Index of the time nearest to each point of the grid, (m,)."""
    after = np.clip(np.searchsorted(times, grid), 1, len(times) - 1)  # (m,)
    return np.asarray(after - (grid - times[after - 1] < times[after] - grid))  # (m,)


def _numbers(rows: pd.DataFrame) -> list[int] | None:
    """Return the number at the end of each stimulus' name, or None where one has none."""
    found = [re.search(r"(\d+)$", str(s)) for s in rows["stimulus"]]
    return [int(m[1]) for m in found if m] if all(found) else None


def _plain(said: Judgement) -> dict[str, Any]:
    return {"scores": dict(said.scores), "p": dict(said.p), "better": dict(said.better), "best_p": said.best_p}


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _p(value: float) -> str:
    return f"{value:.1g}" if value < 0.01 else f"{value:.2f}"


def _lag(seconds: float) -> str:
    if abs(seconds) < 1 / RATE:
        return "at the same time as"
    return f"{abs(seconds):.2f} s {'after' if seconds > 0 else 'before'}"


def _short(text: str, most: int = 120) -> str:
    return text if len(text) <= most else text[:most].rsplit(",", 1)[0] + ", ..."
