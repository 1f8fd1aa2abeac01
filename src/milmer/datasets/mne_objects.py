"""Recordings that are in memory already, as MNE-Python holds them: `mne.io.Raw` and `mne.Epochs` become a study."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from milmer.datasets.base import LazySignal, Recording, Signal, Trial
from milmer.datasets.body_names import BodyChannel, body_channels, eye_channels
from milmer.datasets.body_units import channel_units, known_unit
from milmer.datasets.mne_files import PADDING, judge_siemens
from milmer.errors import UserError, nearest
from milmer.signals.channels import clean_names

_PLACE = ("subject", "session", "trial", "start_s", "stop_s")
_TEXT = ("stimulus", "label", "site", "block", "recording")


@dataclass(frozen=True)
class _Stretch:
    """Some channels of a stretch of a Raw, or of one epoch, as a `Signal`: cut out when called."""

    recorded: Any = field(compare=False, repr=False)  # mne.io.BaseRaw, or mne.BaseEpochs of one epoch
    picks: tuple[int, ...]
    names: tuple[str, ...]
    first: int  # samples
    last: int
    unit: str = "V"
    scale: float = 1.0

    def __call__(self) -> Signal:
        rate = float(self.recorded.info["sfreq"])
        margin = round(PADDING * rate)
        length = len(self.recorded.times)
        begin, end = max(0, self.first - margin), min(length, self.last + margin)
        picks = list(self.picks)
        if _is_epochs(self.recorded):
            samples = self.recorded.get_data(picks=picks, verbose="error")[0][:, begin:end]  # (C, S)
        else:
            samples = self.recorded.get_data(picks=picks, start=begin, stop=end, verbose="error")  # (C, S)
        before, after = (self.first - begin) / rate, (end - self.last) / rate
        samples = np.asarray(samples) * self.scale  # (C, S)
        odd = judge_siemens(samples, self.names[0], "in memory") if self.unit == "S" else ()
        return Signal(samples, self.names, rate, self.unit, before, after, odd)


class MneStudy:
    """A study of recordings that MNE-Python has open; `milmer.preparation.prepare_study` makes a store of it.

    Parameters
    ----------
    recorded : mapping of str, or of (str, str), to mne.io.Raw or mne.Epochs
        By subject, or by subject and session. Of epochs every one is a trial: what lies before its time zero serves as
        filter padding.
    trials : DataFrame, optional
        One row a trial: ``subject``, ``session`` (where there are any), ``trial`` (from 1), for a Raw ``start_s`` and
        ``stop_s`` (seconds from its first sample); ``stimulus``, ``label``, ``site``, ``block``, ``recording`` are
        text; every other column of numbers is a rating of its name. Epochs need none: their metadata has the same
        columns, and without a ``label`` the name of an epoch's event is its label.
    name : str
        What the study is called.
    rating_ranges : mapping of str to (float, float), optional
        Lowest and highest value of a rating; 1 to 9 where not given.

    Raises
    ------
    UserError
        If a recording has no electrode of the 10-05 system, or a row fits no recording.

    Examples
    --------
    >>> study = MneStudy({"s01": raw}, table, name="lab")  # doctest: +SKIP
    >>> prepare_study(study, Path("store"), load_config().preparation)  # doctest: +SKIP
    """

    def __init__(
        self,
        recorded: Mapping[str | tuple[str, str], Any],
        trials: pd.DataFrame | None = None,
        *,
        name: str = "mne",
        rating_ranges: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self.name = name
        self._recordings = []
        ratings: set[str] = set()
        places = {(k, "") if isinstance(k, str) else k: v for k, v in recorded.items()}
        _check_recorded(places)
        if trials is not None:
            _check_rows(trials, set(places))
        for (subject, session), one in places.items():
            rows = _rows(subject, session, one, trials)
            found, made = _recording(name, subject, session, one, rows)
            ratings |= found
            self._recordings.append(made)
        given = dict(rating_ranges or {})
        self.rating_ranges: Mapping[str, tuple[float, float]] = {r: given.get(r, (1.0, 9.0)) for r in sorted(ratings)}
        for made in self._recordings:
            _check_ratings(made, self.rating_ranges)

    def recordings(self) -> Sequence[Recording]:
        """One recording a subject and session."""
        return self._recordings


def _is_epochs(recorded: Any) -> bool:
    import mne

    return isinstance(recorded, mne.BaseEpochs)


def _check_recorded(places: Mapping[tuple[str, str], Any]) -> None:
    import mne

    if not places:
        raise UserError("recorded: found nothing, expected a Raw or Epochs for each subject; give {subject: raw}")
    for (subject, _), one in places.items():
        if not isinstance(one, mne.io.BaseRaw | mne.BaseEpochs):
            raise UserError(
                f"subject '{subject}': found {type(one).__name__}, expected mne.io.Raw or mne.Epochs; open a file with "
                "mne.io.read_raw or mne.read_epochs"
            )


def _check_ratings(recording: Recording, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Refuse ratings out of range, as in a table: the middle of the range may be what makes a rating high."""
    for trial in recording.trials:
        for name, value in trial.ratings.items():
            low, high = ranges[name]
            if not (math.isnan(value) or low <= value <= high):
                raise UserError(
                    f"{recording.key}: trial {trial.trial} has {name} {value:g}, expected {low:g} to {high:g}; mend "
                    f"it, or give the scale with rating_ranges={{'{name}': (LOW, HIGH)}}"
                )


def _check_rows(trials: pd.DataFrame, places: set[tuple[str, str]]) -> None:
    for column in ("subject", "trial"):
        if column not in trials:
            raise UserError(f"trials: has no column {column}{nearest(column, map(str, trials))}; give one row a trial")
    for subject, session in zip(trials["subject"].astype(str), _session(trials), strict=True):
        if (subject, session) not in places:
            known = ", ".join(" ".join(p).strip() for p in sorted(places)[:4])
            where = f"subject '{subject}'" + (f", session '{session}'" if session else "")
            raise UserError(f"trials: {where} has no recording; found those of {known}; name it as the recording is")


def _session(table: pd.DataFrame) -> pd.Series:
    return table["session"].astype(str) if "session" in table else pd.Series([""] * len(table), dtype=str)


def _rows(subject: str, session: str, one: Any, trials: pd.DataFrame | None) -> pd.DataFrame:
    """Return the trials of one recording: of the table, or of the epochs themselves."""
    if trials is not None:
        table = trials.reset_index(drop=True)
        mine = (table["subject"].astype(str) == subject) & (_session(table) == session)  # (n,)
        return table[mine.to_numpy()].reset_index(drop=True)
    if not _is_epochs(one):
        raise UserError(f"subject '{subject}': a Raw needs trials; give a table with subject, trial, start_s, stop_s")
    metadata = one.metadata
    table = pd.DataFrame(index=range(len(one))) if metadata is None else metadata.reset_index(drop=True)
    if "trial" not in table:
        table = table.assign(trial=np.arange(1, len(one) + 1))
    if "label" not in table:
        names = {code: event for event, code in one.event_id.items()}
        table = table.assign(label=[names[code] for code in one.events[:, 2]])
    return table


def _recording(study: str, subject: str, session: str, one: Any, rows: pd.DataFrame) -> tuple[set[str], Recording]:
    names = [str(n) for n in one.ch_names]
    kinds = [str(k) for k in one.get_channel_types()]
    clean = clean_names(names)
    body = body_channels(names, kinds, clean, *_units(one))
    eyes = eye_channels(names, kinds, clean, body)
    key = f"{subject}_ses-{session}" if session else subject
    if not clean.kept:
        raise UserError(
            f"{key}: no channel is an electrode of the 10-05 system; found {', '.join(names[:8])}, expected names such "
            "as Fp1, Cz or T7; rename them (raw.rename_channels)"
        )
    epochs = _is_epochs(one)
    if epochs and len(rows) != len(one):
        raise UserError(
            f"{key}: {len(one)} epochs and {len(rows)} rows of trials; give one row an epoch, in their order"
        )
    ratings = {str(c): c for c in rows if c not in (*_PLACE, *_TEXT) and pd.api.types.is_numeric_dtype(rows[c])}
    trials = []
    for order, row in enumerate(rows.to_dict("records")):
        source = one[order] if epochs else one
        first, last = _epoch_span(one) if epochs else _raw_span(key, one, row)
        trials.append(
            Trial(
                study=study,
                subject=subject,
                session=session,
                trial=int(row["trial"]),
                stimulus=_text(row, "stimulus"),
                site=_text(row, "site"),
                block=_text(row, "block"),
                recording=_text(row, "recording") or key,
                order=order,
                onset=None if epochs else first / float(one.info["sfreq"]),
                duration=(last - first) / float(one.info["sfreq"]),
                eeg=_Stretch(source, tuple(clean.kept), clean.names, first, last),
                eog=_Stretch(source, tuple(eyes), tuple(names[i] for i in eyes), first, last) if eyes else None,
                ecg=_Stretch(source, (body["ecg"].index,), ("ecg",), first, last) if "ecg" in body else None,
                peripheral=_body(source, body, first, last),
                ratings={name: float(row[column]) for name, column in ratings.items()},
                label=_text(row, "label"),
            )
        )
    numbers = [t.trial for t in trials]
    if twice := sorted({n for n in numbers if numbers.count(n) > 1}):
        raise UserError(f"{key}: trial {twice[0]} is there twice; give each trial of a subject its own number")
    used = {names[c.index]: f"{name}: kept as a peripheral signal" for name, c in body.items()}
    dropped = clean.dropped | used
    notes = [f"not EEG: {'; '.join(f'{n!r} {why}' for n, why in dropped.items())}"] if dropped else []
    notes += [f"{names[c.index]}: {c.note}" for c in body.values() if c.note]
    return set(ratings), Recording(key, trials, [], notes=notes, digest=_digest(one))


def _units(one: Any) -> tuple[Sequence[str], str]:
    """Return each channel's unit and the kind of file whose own numbers they are in.

    What was loaded may have been changed: then only what MNE itself holds of a channel counts.
    """
    known = [known_unit(channel) for channel in one.info["chs"]]
    files = [] if _is_epochs(one) or one.preload else [Path(f) for f in one.filenames if f is not None]
    if not files or not files[0].is_file():
        return known, ""
    # The file's word first: where a kind is set by hand, MNE changes its own word and not the numbers.
    said = zip(channel_units(one, files[0]), known, strict=True)
    return [a or b for a, b in said], files[0].suffix.lower()


def _body(source: Any, body: Mapping[str, BodyChannel], first: int, last: int) -> dict[str, LazySignal]:
    return {n: _Stretch(source, (c.index,), (n,), first, last, c.unit, c.scale) for n, c in body.items()}


def _epoch_span(epochs: Any) -> tuple[int, int]:
    return max(0, int(np.searchsorted(epochs.times, -1e-9))), len(epochs.times)


def _raw_span(key: str, raw: Any, row: Mapping[Any, Any]) -> tuple[int, int]:
    rate, length = float(raw.info["sfreq"]), int(raw.n_times)
    for column in ("start_s", "stop_s"):
        if column not in row:
            raise UserError(f"{key}: trials have no column {column}; give the seconds where each begins and ends")
    first, last = round(float(row["start_s"]) * rate), round(float(row["stop_s"]) * rate)
    if not 0 <= first < last or last > length + 0.1 * rate:
        raise UserError(
            f"{key}: trial {row['trial']} is from {row['start_s']:g} to {row['stop_s']:g} s, the recording is "
            f"{length / rate:g} s long; give seconds within it"
        )
    return first, min(last, length)


def _text(row: Mapping[Any, Any], column: str) -> str:
    value = row.get(column, "")
    return "" if pd.isna(value) else str(value)


def _digest(one: Any) -> str:
    """Hash of names, rate and samples, a trial or a minute at a time: what a file's size and time are to a file."""
    found = hashlib.sha256(repr((one.ch_names, one.info["sfreq"])).encode())
    if _is_epochs(one):
        for k in range(len(one)):
            found.update(np.ascontiguousarray(one[k].get_data(verbose="error")).tobytes())
        return found.hexdigest()
    step = round(60 * float(one.info["sfreq"]))
    for begin in range(0, int(one.n_times), step):
        piece = one.get_data(start=begin, stop=min(begin + step, int(one.n_times)), verbose="error")  # (C, S)
        found.update(np.ascontiguousarray(piece).tobytes())
    return found.hexdigest()
