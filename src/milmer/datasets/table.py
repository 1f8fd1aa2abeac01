"""Bring your own: a table with one row a trial that names EEG and video files.

Columns (CSV with comma, semicolon or tab, or Parquet):

* ``subject``, ``trial`` (whole number from 1): needed;
* ``eeg_path``, ``eeg_start_s``, ``eeg_stop_s``: EEG in any format that MNE reads, and the trial's span in it, in
  seconds from the file's first sample (empty: from the start, to the end);
* ``video_path``, ``video_start_s``: video, and the time in it at which the trial starts (empty: 0); one of the two
  paths may be empty;
* ``stimulus``: optional name of what was shown, the same for everybody who saw it; without names nothing can be said of
  stimuli, and no protocol can hold them out;
* ``session``, ``site``, ``recording``, ``block``, ``order``: optional; a recording is what was recorded without a break
  and is by default the EEG file;
* ``duration_s``: optional length of a trial without EEG (empty: to the end of the video);
* ``label``: optional named class;
* every other column is a rating of its name (``valence``, ``arousal``, ...; ``rating_valence`` is the same), a number a
  row or empty. At least one rating or a label must be there. Columns without a name are left out.

Relative paths start at the table's folder.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd

from milmer.datasets.base import RATINGS, LazySignal, Recording, Trial
from milmer.datasets.mne_files import Header, Opened, Span, read_header
from milmer.datasets.opened import LastOpened
from milmer.errors import UserError, nearest
from milmer.signals.channels import CleanNames

NEEDED = ("subject", "trial")
PATHS = ("eeg_path", "video_path")
SECONDS = ("eeg_start_s", "eeg_stop_s", "video_start_s", "duration_s")
OPTIONAL = ("stimulus", "session", "site", "recording", "block", "order", "label")
KNOWN = NEEDED + PATHS + SECONDS + OPTIONAL
_NO_NUMBER = frozenset({"", "nan", "na", "n/a", "null"})


@dataclass(frozen=True)
class _Row:
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


class TableStudy:
    """A study described by a table of its trials.

    Parameters
    ----------
    path : Path
        CSV or Parquet; the module's docstring gives the columns.
    name : str, optional
        Name of the study; by default the table's file name without its ending.

    Raises
    ------
    UserError
        If the table cannot be read or a row cannot be right: a missing column (with the nearest name), a file that is
        not there, a span without length, a trial given twice.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = Path(path)
        self.name = name or self.path.stem
        self._rows, ratings = _read_rows(self.path)
        self.rating_ranges: Mapping[str, tuple[float, float]] = dict.fromkeys(ratings, (1.0, 9.0))
        self._opened: Opened = LastOpened()

    def recordings(self) -> Sequence[Recording]:
        """One recording a subject and session, in the table's order; reads the headers of the EEG files.

        Raises
        ------
        UserError
            If an EEG file cannot be read or has no electrode of the 10-05 system, a span lies outside of it, or the
            files of one subject and session differ in rate or share no electrode.
        """
        groups: dict[tuple[str, str], list[_Row]] = {}
        for row in self._rows:
            groups.setdefault((row.subject, row.session), []).append(row)
        keys = _folder_names(list(groups))
        return [self._recording(key, rows) for key, rows in zip(keys, groups.values(), strict=True)]

    def _recording(self, key: str, rows: list[_Row]) -> Recording:
        headers: dict[Path, Header] = {}
        for row in rows:
            if row.eeg is not None and row.eeg not in headers:
                headers[row.eeg] = read_header(row.eeg, row.where)
        names, notes = _shared([h.clean for h in headers.values()], list(headers), rows)
        rates = {h.rate: p for p, h in headers.items()}
        if len(rates) > 1:
            (a, first), (b, second) = list(rates.items())[:2]
            raise UserError(
                f"{self.path}: the files of '{key}' differ in rate: {first.name} has {a:g} Hz, {second.name} {b:g} Hz; "
                "give them different sessions"
            )
        eyes = [set(h.eog) for h in headers.values()]
        eog = tuple(n for n in next(iter(headers.values())).eog if all(n in e for e in eyes)) if headers else ()
        by_recording: dict[str, list[_Row]] = {}
        recorded = _recording_names(rows)
        for row, name in zip(rows, recorded, strict=True):
            by_recording.setdefault(name, []).append(row)
        trials = []
        for row, name in zip(rows, recorded, strict=True):
            beside = sorted(r.trial for r in by_recording[name])
            header = headers[row.eeg] if row.eeg is not None else None
            trials.append(self._trial(row, name, beside.index(row.trial), header, names, eog))
        videos = {r.video for r in rows if r.video is not None}
        return Recording(key, trials, [self.path, *headers, *sorted(videos)], notes=notes)

    def _trial(
        self, row: _Row, recording: str, order: int, header: Header | None, names: tuple[str, ...], eog: tuple[str, ...]
    ) -> Trial:
        eeg: LazySignal | None = None
        eyes: LazySignal | None = None
        heart: LazySignal | None = None
        peripheral: dict[str, LazySignal] = {}
        duration = row.duration
        if header is not None:
            first, last = _span(row, header)
            duration = (last - first) / header.rate
            index = dict(zip(header.clean.names, header.clean.kept, strict=True))
            eeg = Span(
                self._opened,
                header.path,
                tuple(index[n] for n in names),
                names,
                first,
                last,
                judged=True,
                warnings=header.warnings,
            )
            if eog:
                eyes = Span(self._opened, header.path, tuple(header.eog[n] for n in eog), eog, first, last)
            if "ecg" in header.peripheral:
                heart = Span(self._opened, header.path, (header.peripheral["ecg"],), ("ecg",), first, last)
            for name, channel in header.peripheral.items():
                peripheral[name] = Span(self._opened, header.path, (channel,), (name,), first, last)
        return Trial(
            study=self.name,
            subject=row.subject,
            trial=row.trial,
            stimulus=row.text.get("stimulus", ""),
            site=row.text.get("site", ""),
            session=row.session,
            recording=recording,
            block=row.text.get("block", ""),
            order=order if row.order is None else row.order,
            onset=row.start if header is not None else None,
            duration=duration,
            eeg=eeg,
            eog=eyes,
            ecg=heart,
            peripheral=peripheral,
            video=row.video,
            video_start=row.video_start,
            ratings=row.ratings,
            label=row.text.get("label", ""),
        )


def _span(row: _Row, header: Header) -> tuple[int, int]:
    """First sample and the one after the last; the file's last tenth of a second may be missing."""
    seconds = header.samples / header.rate
    first = round(row.start * header.rate)
    last = header.samples if row.stop is None else round(row.stop * header.rate)
    if first >= header.samples or last > header.samples + 0.1 * header.rate:
        column, value = ("eeg_start_s", row.start) if first >= header.samples else ("eeg_stop_s", row.stop)
        raise UserError(
            f"{row.where}: {column} is {value:g}, but {header.path} is {seconds:g} s long; give seconds within the file"
        )
    return first, min(last, header.samples)


def _shared(clean: list[CleanNames], paths: list[Path], rows: list[_Row]) -> tuple[tuple[str, ...], list[str]]:
    """Electrodes that all files of a recording have, in the first file's order."""
    if not clean:
        return (), []
    common = set(clean[0].names).intersection(*(c.names for c in clean))
    names = tuple(n for n in clean[0].names if n in common)
    if not names:
        raise UserError(
            f"{rows[0].where}: {' and '.join(p.name for p in paths[:3])} share no electrode; "
            "give them different sessions"
        )
    lost = sorted({n for c in clean for n in c.names} - common)
    if not lost:
        return names, []
    return names, [f"EEG files differ: the {len(names)} electrodes of all are kept, left out: {', '.join(lost)}"]


def _recording_names(rows: list[_Row]) -> list[str]:
    """What was recorded without a break: as given, else the file's name, longer where two files share it."""
    files = {p for r in rows if (p := r.eeg or r.video) is not None}
    names = [p.name for p in files]
    found = []
    for row in rows:
        path = row.eeg or row.video
        default = "" if path is None else path.name if names.count(path.name) == 1 else path.as_posix()
        found.append(row.text.get("recording", "") or default)
    return found


def _folder_names(groups: list[tuple[str, str]]) -> list[str]:
    """A folder's name for each (subject, session): safe on every file system, different also without case."""
    taken: set[str] = set()
    found = []
    for subject, session in groups:
        name = f"{subject}_ses-{session}" if session else subject
        safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip(".").rstrip(".") or "subject"
        unique, count = safe, 1
        while unique.lower() in taken:
            count += 1
            unique = f"{safe}-{count}"
        taken.add(unique.lower())
        found.append(unique)
    return found


def _read_rows(path: Path) -> tuple[list[_Row], list[str]]:
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
    rows: list[_Row] = []
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


def _read_row(path: Path, where: str, text: dict[str, str], ratings: Mapping[str, str]) -> _Row:
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
    return _Row(
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
