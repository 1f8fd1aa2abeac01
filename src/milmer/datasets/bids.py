"""EEG-BIDS (Pernet et al. 2019), the form of open studies such as OpenNeuro's: events are trials and their labels.

A trial is an event that lasts: a row of ``events.tsv`` with a duration of a second or more, or one of the events that
are named, from its onset for as long as is said. Its ``trial_type`` is the label, its ``stim_file`` the stimulus, and
every other column of numbers a rating.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from milmer.datasets.base import LazySignal, Recording, Trial
from milmer.datasets.bids_header import Header, as_float, beside, few, read_header, read_json, read_table
from milmer.datasets.folders import numbers, unreadable
from milmer.datasets.mne_files import Opened, Span
from milmer.datasets.opened import LastOpened
from milmer.errors import UserError, nearest

SHORTEST = 1.0  # s: what lasts less is a marker, not a trial
FORMATS = (".vhdr", ".edf", ".bdf", ".set", ".fif")
# Columns of events.tsv that BIDS gives a meaning, or that count: none is a rating.
_NO_RATING = frozenset(
    {
        "onset",
        "duration",
        "sample",
        "value",
        "response_time",
        "trial_type",
        "stim_file",
        "hed",
        "begsample",
        "endsample",
    }
    | {"offset", "trial", "trial_number", "event", "event_type", "channel", "code", "identifier", "database"}
)
_UNSET = frozenset({"", "n/a", "nan"})


@dataclass(frozen=True)
class _File:
    """One EEG file: its entities, channels, and which of its events are trials."""

    path: Path
    subject: str
    session: str
    task: str
    name: str  # without folder and ending
    events: pd.DataFrame
    others: Mapping[str, int]  # event that is no trial -> how often
    sidecar: Mapping[str, Any]
    refused: str = ""  # why its subject cannot be read


class BidsStudy:
    """A study in EEG-BIDS.

    Parameters
    ----------
    root : Path
        The folder with ``dataset_description.json``.
    name : str, optional
        What the study is called; by default as its description says, or the folder's name.
    events : sequence of str
        Events (``trial_type``) that are trials; without any all that last a second or more.
    event_seconds : float, optional
        How long the trial of an event is whose duration is not given.

    Raises
    ------
    UserError
        If the folder is no BIDS dataset, or has no EEG that can be read.
    """

    def __init__(
        self, root: Path, name: str | None = None, events: Sequence[str] = (), event_seconds: float | None = None
    ) -> None:
        self.root = Path(root)
        self._wanted, self._seconds = tuple(events), event_seconds
        if not self.root.is_dir():
            raise UserError(f"{root}: found no folder, expected an EEG-BIDS dataset")
        description = self.root / "dataset_description.json"
        if not description.is_file():
            raise UserError(
                f"{root}: has no dataset_description.json, expected an EEG-BIDS dataset (sub-01/eeg/...); give the "
                "folder that holds that file"
            )
        self.name = (
            name or _word(str(read_json(description).get("Name", ""))) or _word(self.root.resolve().name) or "bids"
        )
        self._files, self._unread = self._find()
        self._opened: Opened = LastOpened()
        self.rating_ranges = self._ranges()

    def recordings(self) -> Sequence[Recording]:
        """One recording a subject and session; reads the headers of its files.

        A subject and session whose files cannot be read, contradict each other, differ in rate or share no electrode
        is refused when it is checked; the others go on.

        Raises
        ------
        UserError
            If no event is a trial.
        """
        places: dict[tuple[str, str], list[_File]] = {}
        for file in self._files:
            if len(file.events) or file.refused:
                places.setdefault((file.subject, file.session), []).append(file)
        if not places:
            raise UserError(self._no_trials())
        found = []
        for (subject, session), files in places.items():
            key = f"sub-{subject}" + (f"_ses-{session}" if session else "")
            try:
                found.append(self._recording(key, files))
            except UserError as error:
                found.append(unreadable(key, error, [f.path for f in files]))
        return found

    def survey(self) -> Sequence[str]:
        """Say what is listed but not there, and which events are no trials."""
        found = list(self._unread)
        table = self.root / "participants.tsv"
        there = {f.subject for f in self._files}
        if table.is_file():
            column = read_table(table).get("participant_id", pd.Series(dtype=str))
            listed = [str(p).removeprefix("sub-") for p in column if str(p) not in _UNSET]
            if missing := [p for p in listed if p not in there]:
                found.append(f"no EEG of {len(missing)} participants that are listed: {', '.join(missing[:8])}")
        others: dict[str, int] = {}
        for file in self._files:
            for event, n in file.others.items():
                others[event] = others.get(event, 0) + n
            if not len(file.events) and not file.refused:
                found.append(f"{file.name}: no event is a trial, so the file is skipped")
        if others:
            most = sorted(others.items(), key=lambda x: -x[1])[:12]
            found.append("events that are no trials: " + ", ".join(f"{e} ({n})" for e, n in most))
        return found

    def _find(self) -> tuple[list[_File], list[str]]:
        from mne_bids import find_matching_paths

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on entities that are no BIDS; whatever is read is checked here
            paths = find_matching_paths(self.root, datatypes="eeg", suffixes="eeg", extensions=list(FORMATS))
        files: list[_File] = []
        unread = []
        for path in sorted(paths, key=lambda p: str(p.fpath)):
            fpath = Path(path.fpath)
            if "derivatives" in fpath.relative_to(self.root).parts:
                continue
            stem = fpath.name.removesuffix(fpath.suffix)
            table = fpath.with_name(stem.removesuffix("_eeg") + "_events.tsv")
            if not table.is_file():
                unread.append(f"{fpath.name}: has no {table.name}, so it is skipped")
                continue
            file = _File(
                fpath, str(path.subject), str(path.session or ""), str(path.task or ""), stem, pd.DataFrame(), {}, {}
            )
            try:
                if twin := next((f.path.name for f in files if f.name == stem), ""):
                    raise UserError(f"{fpath}: {twin} claims the same trials; keep one of the two files of {stem}")
                chosen, others = self._trials(table)
                about = table.with_suffix(".json")
                sidecar = read_json(about) if about.is_file() else {}
                files.append(dataclasses.replace(file, events=chosen, others=others, sidecar=sidecar))
            except UserError as error:
                files.append(dataclasses.replace(file, refused=str(error)))
        if not files:
            more = f"; {unread[0]}" if unread else ""
            raise UserError(
                f"{self.root}: found no EEG with events, expected sub-*/[ses-*/]eeg/*_eeg of {', '.join(FORMATS)} "
                f"beside *_events.tsv{more}"
            )
        return files, unread

    def _trials(self, table: Path) -> tuple[pd.DataFrame, dict[str, int]]:
        """Return the rows that are trials, with ``begin``, ``length`` and ``label``, and the other events."""
        rows = read_table(table)
        for column in ("onset", "duration"):
            if column not in rows:
                raise UserError(f"{table}: has no column {column}{nearest(column, map(str, rows))}; BIDS requires it")
        begin = pd.to_numeric(rows["onset"], errors="coerce")  # (n,)
        length = pd.to_numeric(rows["duration"], errors="coerce")  # (n,)
        label = rows["trial_type"] if "trial_type" in rows else rows.get("value", pd.Series([""] * len(rows)))
        label = label.where(~label.str.lower().isin(_UNSET), "")
        wanted = label.isin(self._wanted) if self._wanted else pd.Series(True, index=rows.index)  # (n,)
        if self._seconds is not None and self._wanted:
            length = length.where(length >= SHORTEST, self._seconds)
        use = wanted & begin.notna() & (length >= SHORTEST)  # (n,)
        counted = label[~use].replace("", "without a name").value_counts()
        others = {str(event): int(n) for event, n in counted.items()}
        return rows.assign(begin=begin, length=length, label=label)[use].reset_index(drop=True), others

    def _no_trials(self) -> str:
        every = sorted({e for f in self._files for e in f.others})
        if self._wanted:
            missing = next((w for w in self._wanted if w not in every), "")
            if missing:
                return f"{self.root}: no event is called '{missing}'{nearest(missing, every)}; there are {few(every)}"
        return (
            f"{self.root}: no event lasts {SHORTEST:g} s or more, so none is a trial; name those that are with "
            f"--events and their length with --event-seconds; there are {few(every)}"
        )

    def _recording(self, key: str, files: list[_File]) -> Recording:
        for file in files:
            if file.refused:
                raise UserError(file.refused)
            self._check_ratings(file)
        headers = [read_header(self.root, f.path) for f in files]
        rates = {h.rate for h in headers}
        if len(rates) > 1:
            raise UserError(
                f"{self.root}: the files of {key} differ in rate ({', '.join(f'{r:g} Hz' for r in sorted(rates))}); "
                "a recording has one"
            )
        names = tuple(n for n in headers[0].clean.names if all(n in h.clean.names for h in headers))
        if not names:
            raise UserError(f"{self.root}: the files of {key} share no electrode")
        eog = tuple(n for n in headers[0].eog if all(n in h.eog for h in headers))
        notes = list(dict.fromkeys(n for h in headers for n in h.notes))
        if lost := sorted({n for h in headers for n in h.clean.names} - set(names)):
            notes.append(f"files differ: left out {', '.join(lost)}")
        trials: list[Trial] = []
        for file, header in zip(files, headers, strict=True):
            for order, row in enumerate(file.events.to_dict("records")):
                first, last = round(row["begin"] * header.rate), round((row["begin"] + row["length"]) * header.rate)
                if first < 0 or first >= header.samples or last > header.samples + 0.1 * header.rate:
                    notes.append(
                        f"{file.name}: event '{row['label']}' at {row['begin']:g} s reaches beyond the file's "
                        f"{header.samples / header.rate:g} s: skipped"
                    )
                    continue
                span = (first, min(last, header.samples))
                trials.append(self._trial(file, header, row, span, order, len(trials) + 1, names, eog))
        if not trials:
            raise UserError(f"{self.root}: no trial of {key} lies within its files; mend the onsets in events.tsv")
        sources = [f.path for f in files] + [beside(f.path, "events") for f in files]
        return Recording(key, trials, sources, notes=notes)

    def _trial(
        self,
        file: _File,
        header: Header,
        row: Mapping[Any, Any],
        span: tuple[int, int],
        order: int,
        number: int,
        names: tuple[str, ...],
        eog: tuple[str, ...],
    ) -> Trial:
        index = dict(zip(header.clean.names, header.clean.kept, strict=True))
        eeg = Span(self._opened, file.path, tuple(index[n] for n in names), names, *span, judged=True)
        eyes: LazySignal | None = None
        if eog:
            eyes = Span(self._opened, file.path, tuple(header.eog[n] for n in eog), eog, *span)
        heart: LazySignal | None = None
        if "ecg" in header.body:
            heart = Span(self._opened, file.path, (header.body["ecg"][0],), ("ecg",), *span)
        stimulus = str(row.get("stim_file", ""))
        return Trial(
            study=self.name,
            subject=file.subject,
            session=file.session,
            trial=number,
            stimulus="" if stimulus.lower() in _UNSET else stimulus,
            recording=file.name,
            block=file.task,
            order=order,
            onset=span[0] / header.rate,
            duration=(span[1] - span[0]) / header.rate,
            eeg=eeg,
            eog=eyes,
            ecg=heart,
            peripheral={
                name: Span(self._opened, file.path, (channel,), (name,), *span, unit=unit, scale=scale)
                for name, (channel, unit, scale) in header.body.items()
            },
            ratings={name: as_float(row.get(name)) for name in self.rating_ranges},
            label=str(row["label"]),
        )

    def _check_ratings(self, file: _File) -> None:
        """Refuse ratings beyond what the sidecar says: the middle of the range may be what makes a rating high."""
        for name in self.rating_ranges:
            low, high = _limits(file.sidecar, name)
            if name not in file.events:
                continue
            given = pd.to_numeric(file.events[name], errors="coerce").to_numpy(dtype=np.float64)  # (trials,)
            beyond = np.flatnonzero((given < low) | (given > high))
            if beyond.size:
                raise UserError(
                    f"{beside(file.path, 'events')}: {name} of trial {numbers(int(k) + 1 for k in beyond[:8])} is "
                    f"{given[beyond[0]]:g}, beyond the Minimum or Maximum ({low:g}, {high:g}) in its .json; mend one"
                )

    def _ranges(self) -> Mapping[str, tuple[float, float]]:
        """Range of each rating: of the sidecar where it says, else the whole numbers around what was given."""
        found: dict[str, tuple[float, float]] = {}
        known = {"begin", "length", "label"}
        for file in self._files:
            for column in (str(c) for c in file.events if str(c) not in known and str(c).lower() not in _NO_RATING):
                values = pd.to_numeric(file.events[column].where(file.events[column] != "n/a"), errors="coerce")
                given = ~file.events[column].str.lower().isin(_UNSET)  # (n,)
                if not given.any() or values[given].isna().any():
                    continue
                low, high = _limits(file.sidecar, column)
                low = low if np.isfinite(low) else float(np.floor(values.min()))
                high = high if np.isfinite(high) else float(np.ceil(values.max()))
                before = found.get(column, (low, high))
                found[column] = (min(low, before[0]), max(high, before[1]))
        return {k: v for k, v in found.items() if v[0] < v[1]}


def _word(text: str) -> str:
    return "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in text).split())[:40]


def _limits(sidecar: Mapping[str, Any], column: str) -> tuple[float, float]:
    """Lowest and highest value of a column as its sidecar says; NaN where it does not."""
    about = sidecar.get(column)
    about = about if isinstance(about, dict) else {}
    return as_float(about.get("Minimum")), as_float(about.get("Maximum"))
