"""What a simulated study is to be: its options, and who sees what, when, in which class and how it is rated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milmer.errors import UserError, nearest
from milmer.labels import FOUR_CLASSES

CARRIERS = ("eeg", "face", "both", "none")
BODIES = ("none", "valence", "arousal")
JOINTS = ("sum", "xor")
FLIPS = 0.1  # with a stimulus signature: share of trials that swap their class with another
_PLAN, _CLASSES = 1, 2  # what a random draw is for; part of its seed


@dataclass(frozen=True)
class SimulationOptions:
    """What is simulated; the same options give the same study, byte for byte, whatever `jobs` is.

    Parameters
    ----------
    subjects, trials : int
        How many, 1 to 99 and 4 to 99. Classes are balanced exactly when `trials` is a multiple of four.
    seconds : int
        Length of the signals, with 3 s of baseline; a video is 3 s shorter. 9 to 600.
    size : tuple of int
        Width and height of the videos, pixels, both even, at least 96.
    fps : int
        Frames a second of the videos.
    valence, arousal : {"both", "eeg", "face", "none"}
        Where it can be seen. Ratings are balanced whatever carries them.
    seed : int
        Everything random is a function of this.
    stimulus_signature : bool
        Give every stimulus a trace of its own in EEG and face, the same for all subjects, and let the class go with
        the stimulus: the confound of real studies.
    videos : bool
        Whether to write videos: they take most of the time.
    joint : {"sum", "xor"}
        "sum": EEG and face each show the class, as `valence` and `arousal` say. "xor": each shows a bit of its own as
        low or high arousal, and arousal is rated high where exactly one of the two is high, so that neither alone says
        anything of the rating; valence is rated at random and must be carried by "none".
    body : {"none", "valence", "arousal"}
        What heart rate and responses of the skin follow, beside what EEG and face show.
    """

    subjects: int = 6
    trials: int = 12
    seconds: int = 63
    size: tuple[int, int] = (720, 576)
    fps: int = 50
    valence: str = "both"
    arousal: str = "both"
    seed: int = 0
    stimulus_signature: bool = False
    videos: bool = True
    joint: str = "sum"
    body: str = "none"

    def check(self) -> None:
        """Refuse what cannot be simulated.

        Raises
        ------
        UserError
            Naming the option, what was found and what was expected.
        """
        ranges = {"subjects": (1, 99), "trials": (4, 99), "seconds": (9, 600), "fps": (10, 120), "seed": (0, 2**31)}
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                why = {"trials": " (one of each class)", "seconds": " (3 s of baseline and two windows)"}.get(name, "")
                raise UserError(f"--{name} {value}: expected a whole number from {low} to {high}{why}")
        if len(self.size) != 2 or any(n % 2 or not 96 <= n <= 4096 for n in self.size):
            found = "x".join(str(n) for n in self.size)
            raise UserError(f"--size {found}: expected even numbers from 96 to 4096, such as 720x576")
        for name in ("valence", "arousal"):
            value = getattr(self, name)
            if value not in CARRIERS:
                raise UserError(f"--{name} {value}: expected {', '.join(CARRIERS)}{nearest(str(value), CARRIERS)}")
        if self.joint not in JOINTS:
            raise UserError(f"--joint {self.joint}: expected {' or '.join(JOINTS)}{nearest(str(self.joint), JOINTS)}")
        if self.body not in BODIES:
            raise UserError(f"--body {self.body}: expected {', '.join(BODIES)}{nearest(str(self.body), BODIES)}")
        if self.joint == "xor" and self.body != "none":
            raise UserError(f"--body {self.body}: --joint xor is for EEG and face alone; leave --body out")
        if self.joint == "xor":
            for name, only in (("valence", "none"), ("arousal", "both")):
                if getattr(self, name) != only:
                    raise UserError(
                        f"--{name} {getattr(self, name)}: --joint xor says where arousal is and shows no valence; "
                        f"leave --{name} out or give {only}"
                    )

    def level(self, row: Mapping[Any, Any], dimension: str, where: str) -> int:
        """What `where` ("eeg", "face", "body") shows of `dimension` in a trial: -1 low, 1 high, 0 nothing.

        Parameters
        ----------
        row : mapping
            A row of `make_plan`.
        """
        high = row[f"high_{where}"] if self.joint == "xor" and where != "body" else row[f"high_{dimension}"]
        return (1 if high else -1) * self.shown(dimension, where)

    def shown(self, dimension: str, where: str) -> bool:
        """Whether `dimension` ("valence", "arousal") can be seen in `where` ("eeg", "face", "body")."""
        if where == "body":
            return self.body == dimension
        return getattr(self, dimension) in (where, "both")


def make_plan(options: SimulationOptions) -> pd.DataFrame:
    """Decide which subject sees what and when, and how it is rated.

    Parameters
    ----------
    options : SimulationOptions

    Returns
    -------
    DataFrame
        One row a trial, by subject and presentation: subject (number), trial (presentation, from 1), experiment_id,
        high_valence, high_arousal (bool), start_time (0.1 ms), valence, arousal, dominance, liking, familiarity; with
        ``joint="xor"`` also high_eeg and high_face (bool), what each of them shows.
    """
    n = options.trials
    xor = options.joint == "xor"
    draw = _balanced_bits if xor else _balanced
    common = draw(np.random.default_rng([options.seed, _CLASSES]), n)  # (T,)
    rows = []
    for subject in range(1, options.subjects + 1):
        rng = np.random.default_rng([options.seed, _PLAN, subject])
        classes = draw(rng, n)  # (T,) by Experiment_id
        if options.stimulus_signature:
            classes = _swap_some(rng, common)
        start = 0.0
        for trial, stimulus in enumerate(rng.permutation(n), start=1):
            start += rng.uniform(15, 40)  # rating the last one
            bits = {}
            if xor:
                code = int(classes[stimulus])
                bits = {"high_eeg": bool(code & 1), "high_face": bool(code & 2)}
                high = {"valence": bool(code & 4), "arousal": bits["high_eeg"] != bits["high_face"]}
            else:
                name = FOUR_CLASSES[classes[stimulus]]
                high = {"valence": name.endswith("HV"), "arousal": name.startswith("HA")}
            free = 1 + 8 * rng.beta(2, 2, 2)  # (2,) dominance, liking
            rows.append(
                {
                    "subject": subject,
                    "trial": trial,
                    "experiment_id": int(stimulus) + 1,
                    "high_valence": high["valence"],
                    "high_arousal": high["arousal"],
                    "start_time": round(start * 1e4),
                    "valence": _rating(rng, high["valence"]),
                    "arousal": _rating(rng, high["arousal"]),
                    "dominance": round(float(free[0]), 2),
                    "liking": round(float(free[1]), 2),
                    "familiarity": int(rng.integers(1, 6)),
                    **bits,
                }
            )
            start += options.seconds
    return pd.DataFrame(rows)


def _balanced(rng: np.random.Generator, trials: int) -> NDArray[np.int64]:
    """Class indexes, each as often as the others or once more, in random order, (trials,)."""
    order = rng.permutation(4)
    return rng.permutation(np.resize(order, trials))


def _balanced_bits(rng: np.random.Generator, trials: int) -> NDArray[np.int64]:
    """Codes EEG + 2 face + 4 valence, (T,): every pair of EEG and face bits as often as the others or once more.

    Within a pair valence alternates. Where a pair comes an odd number of times one valence is left over; two pairs of
    equal arousal never leave the same one: the ratings are balanced exactly when `trials` is a multiple of four.
    """
    pairs = _balanced(rng, trials)  # (T,)
    first = rng.integers(0, 2, 2)  # (2,) valence that an arousal's first pair starts with
    codes = np.empty_like(pairs)
    for pair, start in enumerate((first[0], first[1], 1 - first[1], 1 - first[0])):
        where = np.flatnonzero(pairs == pair)
        codes[where] = pair + 4 * ((start + np.arange(len(where))) % 2)
    return codes


def _swap_some(rng: np.random.Generator, classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Swap the classes of random pairs, about `FLIPS` of all trials: the balance stays."""
    swapped = classes.copy()
    pairs = rng.permutation(len(classes))[: len(classes) // 2 * 2].reshape(-1, 2)  # (T // 2, 2)
    for a, b in pairs[rng.random(len(pairs)) < FLIPS]:
        swapped[[a, b]] = swapped[[b, a]]
    return swapped


def _rating(rng: np.random.Generator, high: bool) -> float:
    """A rating on the right side of 5, at least 0.2 away from it, two decimals."""
    away = 0.2 + 3.8 * float(rng.beta(1.5, 1.5))
    return round(5 + away if high else 5 - away, 2)
