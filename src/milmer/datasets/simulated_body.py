"""What the rest of a simulated body shows of emotion, where it is asked to: responses of the skin, a faster heart."""

from __future__ import annotations

import numpy as np

from milmer.datasets.simulated_head import Array

FASTER = 0.12  # log of the heart rate, high or low against neither: about 9 beats a minute of 75
PER_MINUTE = {-1: 3.0, 1: 10.0}  # responses of the skin
_FALL, _RISE = 2.5, 0.8  # s, time constants of a response
APEX = float(np.log(_FALL / _RISE) * _FALL * _RISE / (_FALL - _RISE))  # s after its onset: 1.34
_BODY = 21  # what a random draw is for; part of its seed


def skin_responses(seed: int, subject: int, trial: int, seconds: float, level: int) -> tuple[Array, Array]:
    """Draw when the skin responds from stimulus start on, and how much.

    Parameters
    ----------
    seed, subject, trial : int
        All randomness is a function of these.
    seconds : float
        Length of the stimulus.
    level : int
        -1 low, 1 high: few weak, or many strong ones; 0 none.

    Returns
    -------
    onsets, sizes : ndarray, shape (n,)
        Seconds from the start of the stimulus, siemens at the peak.
    """
    if level == 0:
        return np.zeros(0), np.zeros(0)
    rng = np.random.default_rng([seed, _BODY, subject, trial])
    pause = 60 / PER_MINUTE[level]
    onsets = [1.0 + rng.exponential(pause - 1.0) % pause]  # one at least, wherever the stimulus is long enough
    while onsets[-1] < seconds:
        onsets.append(onsets[-1] + 1.0 + rng.exponential(pause - 1.0))
    when = np.array(onsets[:-1])  # (n,)
    return when, 0.3e-6 * np.exp(0.4 * level + rng.normal(0, 0.2, len(when)))  # (n,), (n,)


def respond(ohm: Array, times: Array, onsets: Array, sizes: Array) -> Array:
    """Add responses to a skin's resistance: conductance rises to its apex and falls back more slowly, (S,) ohm."""
    if not len(onsets):
        return ohm
    since = np.maximum(times[None] - onsets[:, None], 0.0)  # (n, S)
    shape = (np.exp(-since / _FALL) - np.exp(-since / _RISE)) / (
        np.exp(-APEX / _FALL) - np.exp(-APEX / _RISE)
    )  # (n, S)
    return np.asarray(1 / (1 / ohm + (sizes[:, None] * shape).sum(axis=0)))  # (S,)


def response_events(onsets: Array) -> list[dict[str, str | float]]:
    """Rows of truth/events.csv."""
    return [
        {
            "signal": "gsr",
            "kind": "skin response",
            "start": round(t, 4),
            "apex": round(t + APEX, 4),
            "stop": round(t + 3 * _FALL, 4),
        }
        for t in onsets.tolist()
    ]
