"""DEAP as its publisher lays it out, and simulated studies in the same layout.

Videos are numbered in the order of presentation, signals and labels in the order of the stimuli (``Experiment_id``);
``participant_ratings.csv`` maps one to the other, and its ratings must be the labels of the signals.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milmer.datasets.base import MARKER, LazySignal, Recording, Signal, Trial
from milmer.datasets.opened import LastOpened
from milmer.datasets.safe_pickle import load_arrays
from milmer.errors import UserError, nearest

RATE = 128.0  # Hz
BASELINE = 3.0  # s before every stimulus
LABELS = ("valence", "arousal", "dominance", "liking")
_FIRST = ("Fp1", "AF3", "F3", "F7", "FC5", "FC1", "C3", "T7", "CP5", "CP1", "P3", "P7", "PO3", "O1", "Oz", "Pz")
_LAST = ("Fp2", "AF4", "Fz", "F4", "F8", "FC6", "FC2", "Cz", "C4", "T8", "CP6", "CP2", "P4", "P8", "PO4", "O2")
EEG_NAMES = _FIRST + _LAST  # Geneva order, which all of the preprocessed files have
EOG_NAMES = ("hEOG", "vEOG")
# Name -> (row of the data, SI unit, what one of the file's units is in it).
PERIPHERAL: Mapping[str, tuple[int, str, float]] = {
    "zEMG": (34, "V", 1e-6),
    "tEMG": (35, "V", 1e-6),
    "GSR": (36, "ohm", 1.0),
    "respiration": (37, "1", 1.0),
    "plethysmograph": (38, "1", 1.0),
    "temperature": (39, "degC", 1.0),
}
ICA_LABELS_OFF = (
    "DEAP's preprocessed files (128 Hz, 4-45 Hz, EOG already removed) are outside ICLabel's range; "
    "measured on real recordings, it then calls brain components heart beats and misses the blink"
)
_SIGNALS, _VIDEOS, _TABLE = "data_preprocessed_python", "face_video", "metadata_csv/participant_ratings.csv"
_LAYOUT = f"{_SIGNALS}/s01.dat, {_VIDEOS}/s01/s01_trial01.avi and {_TABLE}"
_COLUMNS = ("Participant_id", "Trial", "Experiment_id", "Start_time", "Valence", "Arousal", "Dominance", "Liking")
_CHANNELS = 40
_TOLERANCE = 1e-3  # both sides have two decimals
_PLAUSIBLE_UV = (0.1, 1000.0)
_VIDEO_NAME = re.compile(r"s\d+_trial(\d+)\.avi", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """One line of participant_ratings.csv."""

    line: int
    trial: int
    experiment: int
    start: float | None
    ratings: Mapping[str, float]


@dataclass(frozen=True)
class _Content:
    data: NDArray[np.floating]  # (trials, 40, S)
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Subject:
    """A subject's .dat, read when first asked for and checked against the table each time it is read."""

    path: Path
    table: Path
    rows: tuple[Row, ...]
    opened: LastOpened[_Content] = field(compare=False, repr=False)

    def __call__(self) -> Sequence[str]:
        """Check the file; `UserError` where it disagrees with the table."""
        self.content()
        return ()

    def content(self) -> _Content:
        return self.opened.get(self.path, self._read)

    def _read(self, path: Path) -> _Content:
        arrays = load_arrays(path)
        missing = [name for name in ("data", "labels") if name not in arrays]
        if missing:
            raise UserError(
                f"{path}: found {', '.join(sorted(arrays)) or 'nothing'}, expected data and labels; "
                "is it a file of data_preprocessed_python?"
            )
        data, labels = arrays["data"], arrays["labels"]
        count = len(self.rows)
        if data.ndim != 3 or data.shape[:2] != (count, _CHANNELS) or labels.shape != (count, len(LABELS)):
            raise UserError(
                f"{path}: found data {data.shape} and labels {labels.shape}, expected ({count}, {_CHANNELS}, samples) "
                f"and ({count}, {len(LABELS)}) for the {count} rows of {self.table}; get the file again"
            )
        if data.shape[2] < (BASELINE + 1) * RATE:
            raise UserError(
                f"{path}: found {data.shape[2]} samples a trial, expected {BASELINE:g} s of baseline and at least 1 s "
                f"at {RATE:g} Hz; get the file again"
            )
        if data.dtype.kind not in "fiu" or labels.dtype.kind not in "fiu":
            raise UserError(f"{path}: found {data.dtype} data and {labels.dtype} labels, expected numbers")
        self._compare(labels)
        return _Content(data, _judge(data))

    def _compare(self, labels: NDArray[np.floating]) -> None:
        differ = []
        for row in self.rows:
            given = np.array([row.ratings[name] for name in LABELS])  # (4,)
            found = labels[row.experiment - 1].astype(np.float64)  # (4,)
            # Written so that NaN on either side is a difference too.
            if not np.all(np.abs(found - given) <= _TOLERANCE):
                differ.append((row, found, given))
        if differ:
            row, found, given = differ[0]
            lines = ", ".join(str(r.line) for r, _, _ in differ[:8]) + (" ..." if len(differ) > 8 else "")
            raise UserError(
                f"{self.path}: labels disagree with {self.table} in {len(differ)} of {len(self.rows)} rows (lines "
                f"{lines}): line {row.line}, Trial {row.trial}, Experiment_id {row.experiment} has "
                f"{_numbers(given)}, labels row {row.experiment} has {_numbers(found)}; both files must come from the "
                "same release, unchanged"
            )


@dataclass(frozen=True)
class _Rows:
    """Some rows of one trial as a `Signal`: read when called."""

    subject: _Subject
    index: int  # Experiment_id - 1
    channels: tuple[int, ...]
    names: tuple[str, ...]
    unit: str
    scale: float
    judged: bool = False  # whether the file's warnings belong to this signal

    def __call__(self) -> Signal:
        content = self.subject.content()
        # A copy in the reader's own type: a view would hold the whole file in memory.
        samples = content.data[self.index, list(self.channels)].astype(np.float64) * self.scale  # (C, S)
        unit, warnings = self.unit, content.warnings if self.judged else ()
        if unit == "degC":
            unit, warnings = _judge_temperature(samples)
        return Signal(samples, self.names, RATE, unit, pad_before=BASELINE, warnings=warnings)


class DeapStudy:
    """DEAP's preprocessed signals, face videos and ratings.

    Parameters
    ----------
    root : Path
        The folder that holds data_preprocessed_python, face_video and metadata_csv.
    name : str, optional
        What the study is called; by default ``deap``, or ``simulated`` where `milmer simulate` wrote it.

    Raises
    ------
    UserError
        If the folder is not of this layout, or a simulated study is to be called after DEAP.

    Notes
    -----
    A study that `milmer simulate` wrote is never called after DEAP, wherever its figures go.

    A trial's number is its place in the order of presentation, its stimulus is ``e<Experiment_id>``. The site (Twente
    for s01-s22, Geneva for the others) is given only where the table has DEAP's own 32 participants with 40 trials.
    """

    rating_ranges: Mapping[str, tuple[float, float]] = dict.fromkeys(LABELS, (1.0, 9.0)) | {"familiarity": (1.0, 5.0)}

    def __init__(self, root: Path, name: str | None = None) -> None:
        self.root = Path(root)
        simulated = (self.root / MARKER).is_file()
        if simulated and name is not None and "deap" in name.lower():
            why = f"{self.root} is a simulated study, whose figures must not pass for DEAP's"
            raise UserError(f"--name {name}: {why}; give another, such as simulated-2")
        self.name = name or ("simulated" if simulated else "deap")
        self._table = self.root / _TABLE
        self._opened: LastOpened[_Content] = LastOpened()
        _check_layout(self.root)

    def recordings(self) -> Sequence[Recording]:
        """One recording a participant with signals or videos, in the table's numbers; reads the table and names only.

        Raises
        ------
        UserError
            If the table cannot be right, or a participant's files have no rows in it.
        """
        table = read_ratings(self._table)
        whole = len(table) == 32 and all(len(rows) == 40 for rows in table.values())
        found = _numbered(self.root / _SIGNALS, r"s(\d+)\.dat") | _numbered(self.root / _VIDEOS, r"s(\d+)")
        strange = sorted(found - set(table))
        if strange:
            raise UserError(
                f"{self._table}: found no rows for Participant_id {', '.join(map(str, strange[:8]))}, whose files are "
                f"in {self.root}; use the table of the same release or move these files away"
            )
        recordings = [self._recording(number, table[number], whole) for number in sorted(found)]
        if not recordings:
            raise UserError(f"{self.root}: found no s01.dat and no videos, expected {_LAYOUT}; unpack DEAP there")
        return recordings

    def _recording(self, number: int, rows: tuple[Row, ...], whole: bool) -> Recording:
        key = f"s{number:02d}"
        signals = self.root / _SIGNALS / f"{key}.dat"
        notes = []
        subject = None
        if signals.is_file():
            subject = _Subject(signals, self._table, rows, self._opened)
        else:
            notes.append(f"{signals.relative_to(self.root)} is missing: no EEG and no peripheral signals")
        videos, video_notes = self._videos(key, rows)
        site = ("Twente" if number <= 22 else "Geneva") if whole else ""
        trials = []
        for order, row in enumerate(sorted(rows, key=lambda r: r.trial)):
            index = row.experiment - 1
            peripheral: dict[str, LazySignal] = {}
            eeg = eog = None
            if subject is not None:
                eeg = _Rows(subject, index, tuple(range(32)), EEG_NAMES, "V", 1e-6, judged=True)
                eog = _Rows(subject, index, (32, 33), EOG_NAMES, "V", 1e-6)
                for name, (channel, unit, scale) in PERIPHERAL.items():
                    peripheral[name] = _Rows(subject, index, (channel,), (name,), unit, scale)
            trials.append(
                Trial(
                    study=self.name,
                    subject=key,
                    trial=row.trial,
                    stimulus=f"e{row.experiment:02d}",
                    site=site,
                    recording=key,
                    order=order,
                    onset=row.start,
                    duration=60.0 if whole else None,
                    eeg=eeg,
                    eog=eog,
                    peripheral=peripheral,
                    video=videos.get(row.trial),
                    ratings=row.ratings,
                )
            )
        sources = [self._table, *([signals] if subject else []), *videos.values()]
        return Recording(key, trials, sources, ICA_LABELS_OFF, [*notes, *video_notes], subject)

    def _videos(self, key: str, rows: tuple[Row, ...]) -> tuple[dict[int, Path], list[str]]:
        folder = self.root / _VIDEOS / key
        if not folder.is_dir():
            return {}, [f"{folder.relative_to(self.root)} is missing: no videos"]
        found = {}
        for path in sorted(folder.iterdir()):
            match = _VIDEO_NAME.fullmatch(path.name)
            if match and path.name.lower().startswith(f"{key}_"):
                found[int(match[1])] = path
        known = {row.trial for row in rows}
        notes = []
        if missing := sorted(known - set(found)):
            notes.append(f"no video of trial {', '.join(map(str, missing))}")
        if extra := sorted(set(found) - known):
            notes.append(f"left out, for no row has its number: {', '.join(found[t].name for t in extra)}")
        return {t: path for t, path in found.items() if t in known}, notes


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


def _judge(data: NDArray[np.floating]) -> tuple[str, ...]:
    """Warn where the EEG's size cannot be that of EEG in microvolts."""
    some = data[:, :32, ::16].astype(np.float64).reshape(-1, -(-data.shape[2] // 16))  # (trials * 32, S / 16)
    some[~np.isfinite(some)] = np.nan
    some = some[~np.isnan(some).all(axis=1)]  # (rows, S / 16)
    if not len(some):
        return ()
    typical = float(np.nanmedian(np.abs(some - np.nanmedian(some, axis=1, keepdims=True))))
    low, high = _PLAUSIBLE_UV
    if typical == 0 or low <= typical <= high:  # flat is reported as flat, later
        return ()
    return (
        f"EEG is declared in microvolts, but its median size is {typical:.3g}, expected {low:g}-{high:g}: "
        "the file may be in another unit",
    )


def _judge_temperature(samples: NDArray[np.float64]) -> tuple[str, tuple[str, ...]]:
    """Call it degrees only where it can be: the publisher does not give the unit."""
    typical = float(np.nanmedian(samples)) if np.isfinite(samples).any() else float("nan")
    if 10.0 <= typical <= 45.0:
        return "degC", ()
    return "1", ("temperature is not in degrees Celsius (its size is not a skin's): kept without a unit",)


def _numbers(values: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{v:g}" for v in values) + ")"


def _numbered(folder: Path, pattern: str) -> set[int]:
    if not folder.is_dir():
        return set()
    matches = (re.fullmatch(pattern, path.name) for path in folder.iterdir())
    return {int(match[1]) for match in matches if match}


def _is_root(folder: Path) -> bool:
    return (folder / _TABLE).is_file() and any((folder / name).is_dir() for name in (_SIGNALS, _VIDEOS))


def _check_layout(root: Path) -> None:
    if _is_root(root):
        return
    if not root.is_dir():
        what = "a file" if root.exists() else "nothing"
        raise UserError(f"{root}: found {what}, expected a folder with {_LAYOUT}")
    children = sorted(p for p in root.iterdir() if p.is_dir())
    above = root.resolve()
    likely = [p for p in (above.parent, above.parent.parent) if _is_root(p)] + [p for p in children if _is_root(p)]
    here = ", ".join(p.name for p in children[:6]) or "no folders"
    mend = f"give {' or '.join(str(p) for p in likely[:3])} instead" if likely else "unpack DEAP's archives there"
    if (root / "data_preprocessed_matlab").is_dir() and not (root / _SIGNALS).is_dir():
        mend = "only the Python version of the preprocessed data is read: unpack data_preprocessed_python.zip there"
    elif (root / _SIGNALS).is_dir() or (root / _VIDEOS).is_dir():
        mend = f"{_TABLE} is missing: unpack metadata_csv.zip there"
    raise UserError(f"{root}: found {here}, expected {_LAYOUT}; {mend}")
