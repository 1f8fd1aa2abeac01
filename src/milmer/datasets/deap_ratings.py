"""DEAP's participant_ratings.csv: what was shown when, and how it was rated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from milmer.errors import UserError, nearest

LABELS = ("valence", "arousal", "dominance", "liking")
_COLUMNS = ("Participant_id", "Trial", "Experiment_id", "Start_time", "Valence", "Arousal", "Dominance", "Liking")


@dataclass(frozen=True)
class Row:
    """One line of participant_ratings.csv."""

    line: int
    trial: int
    experiment: int
    start: float | None
    ratings: Mapping[str, float]


def read_ratings(path: Path) -> dict[int, tuple[Row, ...]]:
    """Read participant_ratings.csv: participant -> rows, in the file's order.

    ``Start_time`` is in units of 0.1 ms and becomes seconds. Familiarity is NaN where it was not asked.

    Raises
    ------
    UserError
        If a column is missing, a value is no number or out of range, or a participant's trials or experiments are not
        each of 1 to their number once.
    """
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skip_blank_lines=False)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{path}: not readable as CSV ({' '.join(str(error).split())}); get the file again") from error
    for column in _COLUMNS:
        if column not in frame.columns:
            raise UserError(
                f"{path}: has no column {column}{nearest(column, frame.columns)}; expected {', '.join(_COLUMNS)}"
            )
    by_participant: dict[int, list[Row]] = {}
    for line, record in enumerate(frame.to_dict("records"), start=2):
        if not any(str(v).strip() for v in record.values()):
            continue
        number = partial(_number, {str(k): str(v) for k, v in record.items()}, f"{path}: line {line}")
        ratings = {name: number(name.capitalize(), 1, 9) for name in LABELS}
        ratings["familiarity"] = number("Familiarity", empty=True)
        start = number("Start_time", empty=True)
        row = Row(
            line,
            int(number("Trial", 1, whole=True)),
            int(number("Experiment_id", 1, whole=True)),
            None if np.isnan(start) else start * 1e-4,
            ratings,
        )
        by_participant.setdefault(int(number("Participant_id", 1, whole=True)), []).append(row)
    if not by_participant:
        raise UserError(f"{path}: found no rows, expected one a participant and trial; get the file again")
    for participant, rows in by_participant.items():
        for column, values in (("Trial", [r.trial for r in rows]), ("Experiment_id", [r.experiment for r in rows])):
            wrong = [r.line for r, v in zip(rows, values, strict=True) if v > len(rows) or values.count(v) > 1]
            if wrong:
                raise UserError(
                    f"{path}: {column} of Participant_id {participant} is not each of 1-{len(rows)} once (lines "
                    f"{', '.join(map(str, wrong[:8]))}); get the file again"
                )
    return {participant: tuple(rows) for participant, rows in by_participant.items()}


def _number(
    record: Mapping[str, str],
    where: str,
    column: str,
    low: float = -np.inf,
    high: float = np.inf,
    *,
    whole: bool = False,
    empty: bool = False,
) -> float:
    text = record.get(column, "").strip()
    if empty and text.lower() in ("", "nan", "na", "null"):
        return float("nan")
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not (low <= value <= high) or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        limits = (f" from {low:g}" if np.isfinite(low) else "") + (f" to {high:g}" if np.isfinite(high) else "")
        raise UserError(f"{where}: {column} is '{text}', expected {kind}{limits}")
    return value
