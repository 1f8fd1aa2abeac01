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

The body's signals (skin conductance, pulse, heart, breathing, temperature, muscles, eyes) are channels of the file that
the EEG is in, known by their names (`milmer.datasets.body_names`) and by the kinds that the format has.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from milmer.datasets.base import LazySignal, Recording, Trial
from milmer.datasets.folders import unreadable
from milmer.datasets.mne_files import Header, Opened, Span, read_header
from milmer.datasets.opened import LastOpened
from milmer.datasets.table_rows import Row, check_ratings, check_stretches, read_rows
from milmer.errors import UserError
from milmer.signals.channels import CleanNames


class TableStudy:
    """A study described by a table of its trials.

    Parameters
    ----------
    path : Path
        CSV or Parquet; the module's docstring gives the columns.
    name : str, optional
        Name of the study; by default the table's file name without its ending.
    rating_range : (float, float)
        Lowest and highest value of every rating.

    Raises
    ------
    UserError
        If the table cannot be read or a row cannot be right: a missing column (with the nearest name), a file that is
        not there, a span without length, a trial given twice.
    """

    def __init__(self, path: Path, name: str | None = None, rating_range: tuple[float, float] = (1.0, 9.0)) -> None:
        self.path = Path(path)
        self.name = name or self.path.stem
        self._rows, ratings = read_rows(self.path)
        self.rating_ranges: Mapping[str, tuple[float, float]] = dict.fromkeys(ratings, rating_range)
        check_ratings(self._rows, rating_range)
        check_stretches(self._rows)
        self._opened: Opened = LastOpened()

    def recordings(self) -> Sequence[Recording]:
        """One recording a subject and session, in the table's order; reads the headers of the EEG files.

        A subject and session with an EEG file that cannot be read or has no electrode of the 10-05 system, a span
        outside of its file, or files that differ in rate or share no electrode, is refused when it is checked; the
        others go on.
        """
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in self._rows:
            groups.setdefault((row.subject, row.session), []).append(row)
        keys = _folder_names(list(groups))
        found = []
        for key, rows in zip(keys, groups.values(), strict=True):
            try:
                found.append(self._recording(key, rows))
            except UserError as error:
                found.append(unreadable(key, error, [self.path]))
        return found

    def survey(self) -> Sequence[str]:
        """Say which trials have no EEG where others have, no video where others have, and no rating at all."""
        lines = []
        for what, has in (
            ("EEG", [r.eeg is not None for r in self._rows]),
            ("video", [r.video is not None for r in self._rows]),
            ("rating or label", [_is_rated(r) for r in self._rows]),
        ):
            without = [row for row, there in zip(self._rows, has, strict=True) if not there]
            if without and any(has):
                some = ", ".join(row.where.rpartition(": ")[2] for row in without[:6])
                more = " ..." if len(without) > 6 else ""
                lines.append(f"{len(without)} of {len(has)} rows have no {what}: {some}{more}")
        return lines

    def _recording(self, key: str, rows: list[Row]) -> Recording:
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
        by_recording: dict[str, list[Row]] = {}
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
        self, row: Row, recording: str, order: int, header: Header | None, names: tuple[str, ...], eog: tuple[str, ...]
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
                heart = Span(self._opened, header.path, (header.peripheral["ecg"].index,), ("ecg",), first, last)
            peripheral = header.body(self._opened, first, last)
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


def _is_rated(row: Row) -> bool:
    return bool(row.text.get("label")) or any(not math.isnan(v) for v in row.ratings.values())


def _span(row: Row, header: Header) -> tuple[int, int]:
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


def _shared(clean: list[CleanNames], paths: list[Path], rows: list[Row]) -> tuple[tuple[str, ...], list[str]]:
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


def _recording_names(rows: list[Row]) -> list[str]:
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
