"""What a probe found in labels that mean nothing, as figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class OneByOne:
    """Scores with labels drawn for each trial on its own; fields as those of `Permuted`."""

    score: float
    base: float
    excess: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Permuted:
    """Scores with permuted labels; all in shares (0 to 1).

    Parameters
    ----------
    score, base : float
        Mean recall under the protocol, and under what it is compared with.
    excess, low, high : float
        Their difference with its 95 % interval over the draws of labels.
    p : float
        One-sided, that the excess is none; twice the smaller over both rules of the probe.
    n : int
        Draws of labels.
    fits : int
        Times the probe was fitted.
    how : str
        What was compared with what.
    null : tuple of float
        The probe's joint score in each draw.
    first : float
        p of the permuted labels alone.
    again : OneByOne, optional
        The second look, where the first found something; `p` is the larger of both.
    """

    score: float
    base: float
    excess: float
    low: float
    high: float
    p: float
    n: int
    fits: int
    how: str
    null: tuple[float, ...] = ()
    first: float = 1.0
    again: OneByOne | None = None

    @property
    def lost(self) -> bool:
        """Whether the second look finds less than the first: then it decides."""
        return self.again is not None and self.again.p > self.first

    def record(self) -> dict[str, Any]:
        """Return what audit.json holds of it."""
        names = ("score", "base", "excess", "low", "high", "p", "n", "how")
        out: dict[str, Any] = {name: getattr(self, name) for name in names}
        out["again"] = asdict(self.again) if self.again else None
        out["decides"] = "one by one" if self.lost else "permuted"
        return out


@dataclass(frozen=True)
class Film:
    """Score with one random label a stimulus, that when the stimuli's names mean nothing, and p (None: not tested)."""

    score: float
    chance: float
    p: float | None
    n: int
    fits: int
    how: str
    untested: str = ""  # why there is no p

    def record(self) -> dict[str, Any]:
        """Return what audit.json holds of it."""
        return {name: getattr(self, name) for name in ("score", "chance", "p", "how")}
