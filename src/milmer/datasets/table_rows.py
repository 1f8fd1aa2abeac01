"""The rows of a table that describes a study: read as text, refused where they cannot be right."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd

from milmer.datasets.base import RATINGS
from milmer.errors import UserError, nearest

NEEDED = ("subject", "trial")
PATHS = ("eeg_path", "video_path")
SECONDS = ("eeg_start_s", "eeg_stop_s", "video_start_s", "duration_s")
OPTIONAL = ("stimulus", "session", "site", "recording", "block", "order", "label")
KNOWN = NEEDED + PATHS + SECONDS + OPTIONAL
_NO_NUMBER = frozenset({"", "nan", "na", "n/a", "null"})


@dataclass(frozen=True)
class Row:
    """One row, as it was understood; `where` names it in errors (``"TABLE: line 3"``)."""

    where: str  # "TABLE: line 3"
    text: Mapping[str, str]
    subject: str
    session: str
    trial: int
    eeg: Path | None
    video: Path | None
    start: float
    stop: float | None
    video_start: float
    duration: float | None
    order: int | None
    ratings: Mapping[str, float]


def read_rows(path: Path) -> tuple[list[Row], list[str]]:
    """Return the rows and the names of the ratings.

    Raises
    ------
    UserError
        If the table cannot be read, or a row cannot be right.
    """
    frame, unit, first = _read_frame(path)
    columns = [str(c).strip() for c in frame.columns]
    twice = sorted({c for c in columns if c and columns.count(c) > 1})
    if twice:
        raise UserError(f"{path}: has column {twice[0]} twice; rename or remove one")
    if not any(v.strip() for c in frame for v in frame[c]):
        raise UserError(f"{path}: found no rows, expected one a trial")
    frame.columns = pd.Index(columns)
    frame = frame.loc[:, [c != "" for c in columns]]
    keep = [c for c in frame.columns if c in KNOWN or any(v.strip().lower() not in _NO_NUMBER for v in frame[c])]
    ratings = _check_columns(path, keep)
    rows: list[Row] = []
    seen: dict[tuple[str, str, int], str] = {}
    for number, record in enumerate(frame[keep].to_dict("records"), start=first):
        text = {str(k): str(v).strip() for k, v in record.items()}
        if not any(text.values()):
            continue
        row = _read_row(path, f"{path}: {unit} {number}", text, ratings)
        identity = (row.subject, row.session, row.trial)
        if identity in seen:
            session = f", session {row.session}" if row.session else ""
            raise UserError(
                f"{row.where}: subject {row.subject}{session}, trial {row.trial} is in {seen[identity]} too; "
                "give each trial of a subject and session its own number"
            )
        seen[identity] = f"{unit} {number}"
        rows.append(row)
    return rows, list(ratings.values())


def _read_frame(path: Path) -> tuple[pd.DataFrame, str, int]:
    """Return the table as text, the word for its rows and the first row's number."""
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            frame = pd.read_parquet(path)
            whole = {c: frame[c].dropna() for c in frame.columns if pd.api.types.is_float_dtype(frame[c])}
            for column, values in whole.items():  # pandas reads whole numbers with gaps as 1.0, 2.0
                if len(values) and np.all(values == np.floor(values)) and np.all(np.isfinite(values)):
                    frame[column] = frame[column].astype("Int64")
            return frame.astype(object).where(frame.notna(), "").astype(str), "row", 1
        with path.open(encoding="utf-8-sig") as file:
            first = file.readline()
        separator = max(",;\t", key=first.count)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            frame = pd.read_csv(
                path,
                sep=separator,
                header=None,  # read as a row, for pandas renames a column that is there twice
                index_col=False,
                dtype=str,
                keep_default_na=False,
                encoding="utf-8-sig",
                skip_blank_lines=False,
            )
        frame = frame.fillna("")  # a short row leaves NaN, whatever the options say
        names, frame = frame.iloc[0], frame.iloc[1:]
        return frame.set_axis(names.to_list(), axis="columns"), "line", 2
    except FileNotFoundError:
        raise UserError(f"{path}: no such table; give a CSV or Parquet file with one row a trial") from None
    except (OSError, ValueError, pd.errors.ParserWarning) as error:  # pandas' and pyarrow's errors are ValueErrors
        found = " ".join(str(error).split())
        raise UserError(f"{path}: not readable as a table ({found}), expected CSV (UTF-8) or Parquet") from error


def _check_columns(path: Path, columns: list[str]) -> dict[str, str]:
    """Refuse missing and misspelt columns; return rating columns -> names."""
    for column in NEEDED:
        if column not in columns:
            raise UserError(f"{path}: has no column {column}{nearest(column, columns)}; found {', '.join(columns)}")
    extra = [c for c in columns if c not in KNOWN]
    if not any(c in columns for c in PATHS):
        raise UserError(f"{path}: has no column eeg_path or video_path{nearest('eeg_path', extra)}; give one of them")
    absent = [c for c in (*KNOWN, *RATINGS) if c not in columns]
    for column in extra:
        # A misspelt column must not become a rating or a default in silence.
        close = get_close_matches(column.lower(), absent, n=1, cutoff=0.85)
        if column not in RATINGS and close:
            raise UserError(f"{path}: unknown column {column} (did you mean '{close[0]}'?); rename it")
        if column.endswith(("_s", "_path")):
            raise UserError(f"{path}: unknown column {column}{nearest(column, PATHS + SECONDS)}; rename or remove it")
    ratings = {c: c.removeprefix("rating_") for c in extra}
    double = [n for n in ratings.values() if list(ratings.values()).count(n) > 1]
    if double:
        raise UserError(f"{path}: has columns {double[0]} and rating_{double[0]}, which are the same; remove one")
    if not ratings and "label" not in columns:
        raise UserError(f"{path}: found neither a rating (such as valence) nor a label; add such a column")
    return ratings


def _read_row(path: Path, where: str, text: dict[str, str], ratings: Mapping[str, str]) -> Row:
    for column in NEEDED:
        if not text[column]:
            raise UserError(f"{where}: {column} is empty; give every row one")
    files: dict[str, Path | None] = dict.fromkeys(PATHS)
    for column in PATHS:
        if text.get(column):
            # Not resolved: a link keeps its own name and ending.
            file = path.parent / text[column]
            if not file.exists():
                raise UserError(f"{where}: {column} {file} is not there; paths start at the table's folder")
            if column == "video_path" and not file.is_file():
                raise UserError(f"{where}: {column} {file} is a folder, expected a video file")
            files[column] = file
    if not any(files.values()):
        raise UserError(f"{where}: has neither eeg_path nor video_path; give one or remove the row")
    start, stop = _number(where, text, "eeg_start_s", 0), _number(where, text, "eeg_stop_s", 0)
    if stop is not None and stop <= (start or 0.0):
        raise UserError(f"{where}: eeg_stop_s {stop:g} is not after eeg_start_s {start or 0:g}; swap or mend them")
    duration = _number(where, text, "duration_s", 0)
    if duration == 0:
        raise UserError(f"{where}: duration_s is 0; give the trial's length or leave it empty")
    trial = _whole(where, text, "trial", 1)
    if trial is None:
        raise UserError(f"{where}: trial is '{text['trial']}', expected a whole number from 1")
    return Row(
        where=where,
        text=text,
        subject=text["subject"],
        session=text.get("session", ""),
        trial=trial,
        eeg=files["eeg_path"],
        video=files["video_path"],
        start=start or 0.0,
        stop=stop,
        video_start=_number(where, text, "video_start_s", 0) or 0.0,
        duration=duration,
        order=_whole(where, text, "order", 0),
        ratings={n: float("nan") if (v := _number(where, text, c)) is None else v for c, n in ratings.items()},
    )


def _number(where: str, text: Mapping[str, str], column: str, low: float | None = None) -> float | None:
    given = text.get(column, "")
    if given.lower() in _NO_NUMBER:
        return None
    try:
        value = float(given)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value) or (low is not None and value < low):
        limit = "" if low is None else f" of at least {low:g}"
        mend = "mend it"
        if column not in KNOWN:
            mend = f"call a column of classes label, remove others{nearest(column, KNOWN)}"
        raise UserError(f"{where}: {column} is '{given}', expected a number{limit} or nothing; {mend}")
    return value


def _whole(where: str, text: Mapping[str, str], column: str, low: int) -> int | None:
    value = _number(where, text, column, low)
    if value is not None and value != int(value):
        raise UserError(f"{where}: {column} is '{text[column]}', expected a whole number")
    return None if value is None else int(value)


def check_ratings(rows: list[Row], limits: tuple[float, float]) -> None:
    """Refuse ratings out of range: the middle of the range may be what makes a rating high."""
    low, high = limits
    for row in rows:
        for name, value in row.ratings.items():
            if not np.isnan(value) and not low <= value <= high:
                raise UserError(
                    f"{row.where}: {name} is {value:g}, expected {low:g} to {high:g}; mend it, or give the "
                    "scale of the study with --rating-range LOW,HIGH"
                )


def check_stretches(rows: list[Row]) -> None:
    """Refuse a stretch of EEG, or a video from one moment on, that is two trials: a split would part it from itself."""
    for what in ("EEG", "video"):
        taken: dict[tuple[str | Path | float | None, ...], Row] = {}
        for row in rows:
            file = row.eeg if what == "EEG" else row.video
            begin = (row.start, row.stop) if what == "EEG" else (row.video_start,)
            at = (row.subject, row.session, file, *begin)
            if file is None:
                continue
            if at in taken:
                raise UserError(
                    f"{row.where}: is the same stretch of {file} as in {taken[at].where.rpartition(': ')[2]}; one "
                    f"{what} is one trial: mend the path or the seconds"
                )
            taken[at] = row
