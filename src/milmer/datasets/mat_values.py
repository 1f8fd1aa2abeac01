"""What a Matlab value becomes, whichever version of file it comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DEEPEST = 32  # structs in cells in structs ...: more than any study has, and a bound where references run in a circle
SMALL = 1000  # arrays of at most so many numbers are always read

Place = tuple[str | int, ...]
"""Where a value stands: its variable, then fields by name and cells by number, from 0 in Matlab's order."""

Wanted = Callable[[Place], bool]
"""Whether the numbers at a place are read."""


@dataclass(frozen=True)
class Left:
    """An array of numbers that was not read."""

    shape: tuple[int, ...]


def cell(items: Sequence[Any], shape: tuple[int, ...]) -> NDArray[np.object_]:
    """Return an object array of `shape` from items in Matlab's order (the first index runs fastest)."""
    made = np.empty(len(items), dtype=object)
    for k, item in enumerate(items):  # one by one: numpy would make an array of arrays of one length
        made[k] = item
    return made.reshape(shape, order="F")


def struct(items: Sequence[dict[str, Any]], shape: tuple[int, ...]) -> Any:
    """Return one struct as a dict, others as an object array of dicts."""
    return items[0] if len(items) == 1 else cell(items, shape)


def text(rows: Sequence[str]) -> Any:
    """Return one row as a str, several as an object array (rows, 1)."""
    if len(rows) < 2:
        return rows[0] if rows else ""
    return cell(rows, (len(rows), 1))
