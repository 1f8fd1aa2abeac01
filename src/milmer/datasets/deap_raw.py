"""DEAP as it was recorded: 32 BDF files at 512 Hz, trials in the order of presentation.

The two sites wrote their electrodes in different orders and skin conductance in different units, and the channel that
holds the events is called ``Status`` (s01-s23) or nothing at all (s24-s32, where readers that number such channels make
it ``-0`` or ``-1``). Everything is therefore taken by name, and the events are looked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from milmer.datasets.base import LazySignal, Signal
from milmer.datasets.bdf import BdfHeader, read_bdf_header
from milmer.datasets.deap import DeapStudy, Signals
from milmer.datasets.deap_files import EEG_NAMES, EOG_NAMES, judge_temperature
from milmer.datasets.deap_layout import RAW
from milmer.datasets.deap_ratings import Row
from milmer.datasets.folders import numbers
from milmer.datasets.mne_files import judge_volts
from milmer.datasets.opened import LastOpened
from milmer.errors import UserError

FILM = 60.0  # s from the event that starts a film
PAD_BEFORE, PAD_AFTER = 5.0, 3.0  # s: the fixation cross before, and the one after
STARTS, ENDS = 4, 5  # event codes: a film starts; the fixation after it
_TWENTE = (
    "Fp1 AF3 F7 F3 FC1 FC5 T7 C3 CP1 CP5 P7 P3 Pz PO3 O1 Oz O2 PO4 P4 P8 CP6 CP2 C4 T8 FC6 FC2 F4 F8 AF4 Fp2 Fz Cz"
)
ORDERS: Mapping[str, tuple[str, ...]] = {"Twente": tuple(_TWENTE.split()), "Geneva": EEG_NAMES}
# Electrode minus electrode: left minus right of the eyes, above minus below, and along the two muscles.
EYES = (("EXG1", "EXG2"), ("EXG3", "EXG4"))
MUSCLES: Mapping[str, tuple[str, str]] = {"emg-zygomaticus": ("EXG5", "EXG6"), "emg-trapezius": ("EXG7", "EXG8")}
OTHERS: Mapping[str, str] = {"gsr": "GSR1", "respiration": "Resp", "ppg": "Plet", "temperature": "Temp"}
_OFF = 2.0  # s
_NO_NAME = ("", "-0", "-1")


@dataclass(frozen=True)
class Marks:
    """What a file holds, and where its films start."""

    header: BdfHeader
    index: Mapping[str, int]  # name without regard to case -> channel
    starts: tuple[int, ...]  # samples, in the order of presentation
    site: str  # whose order the electrodes are in; empty where it is neither's
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RawFile:
    """A participant's BDF: header and events are read when first asked for, samples a stretch at a time."""

    path: Path
    table: Path
    rows: tuple[Row, ...]
    opened: LastOpened[Marks] = field(compare=False, repr=False)

    def __call__(self) -> Sequence[str]:
        """Find the films, and say what is odd.

        Raises
        ------
        UserError
            If the file is damaged, lacks electrodes or events, or has another number of films than the table.
        """
        return self.marks().notes

    def marks(self) -> Marks:
        """Read header and events, unless it was the last file asked for."""
        return self.opened.get(self.path, self._read)

    def _read(self, path: Path) -> Marks:
        header = read_bdf_header(path)
        index = {name.casefold(): k for k, name in reversed(list(enumerate(header.names)))}
        if absent := [n for n in EEG_NAMES if n.casefold() not in index]:
            raise UserError(
                f"{path}: has no electrode {', '.join(absent[:6])}{' ...' if len(absent) > 6 else ''}; found "
                f"{', '.join(header.names[:6])} ..., expected DEAP's 32; is it a file of {RAW}?"
            )
        codes = self._codes(header)
        starts = _onsets(codes, STARTS)
        if len(starts) != len(self.rows):
            raise UserError(
                f"{path}: found {len(starts)} events of code {STARTS} (a film starts), expected {len(self.rows)} for "
                f"the {len(self.rows)} rows of {self.table}: which film is which cannot be told; get the file again"
            )
        length = round(FILM * header.rate)
        if starts and starts[-1] + length > header.samples:
            rest = (header.samples - starts[-1]) / header.rate
            raise UserError(
                f"{path}: ends {rest:.1f} s after its last film starts, expected {FILM:g} s; get the file again"
            )
        if short := [k + 1 for k in range(1, len(starts)) if starts[k] - starts[k - 1] < length]:
            raise UserError(
                f"{path}: films {', '.join(map(str, short[:8]))} start less than {FILM:g} s after the one before: "
                "these events cannot be films; get the file again"
            )
        site, notes = _judge(self.path, header, starts, _onsets(codes, ENDS))
        return Marks(header, index, starts, site, (*notes, *_judge_times(path, header, starts, self.rows)))

    def _codes(self, header: BdfHeader) -> NDArray[np.int32]:
        """Event codes, shape (samples,), of the first channel that has films: Status, else one without a name."""
        named = [k for k, n in enumerate(header.names) if n.casefold() == "status"]
        candidates = named + [k for k, n in enumerate(header.names) if n in _NO_NAME]
        if not candidates:
            raise UserError(
                f"{header.path}: has no channel Status, nor one without a name; found {', '.join(header.names[-4:])} "
                "as the last, so there are no events; get the file again"
            )
        found: NDArray[np.int32] = np.zeros(0, np.int32)
        for channel in candidates:
            # Above the lowest 16 bits is the amplifier's state. In s24-s32 the upper 8 of the 16 rest at 1: without an
            # event the channel is 1703680 = 0x19FF00, which is to be subtracted before the state is cut off.
            low = header.stored(channel) & 0xFFFF  # (S,)
            rest = 0xFF00 if np.median(low) >= 0xFF00 else 0
            found = (low - rest) & 0xFFFF  # (S,)
            if np.any(found == STARTS):
                break
        return found


@dataclass(frozen=True)
class RawSignal:
    """Channels of one trial as a `Signal`, padded by what was recorded before and after: read when called."""

    file: RawFile
    trial: int
    plus: tuple[str, ...]
    names: tuple[str, ...]
    minus: tuple[str, ...] = ()  # taken off `plus`, one each
    kind: str = "V"

    def __call__(self) -> Signal:
        """Read the stretch.

        Raises
        ------
        UserError
            If the file cannot be right; see `RawFile`.
        """
        marks = self.file.marks()
        header = marks.header
        first = marks.starts[self.trial - 1]
        last = first + round(FILM * header.rate)
        begin = max(0, first - round(PAD_BEFORE * header.rate))
        end = min(header.samples, last + round(PAD_AFTER * header.rate))
        channels = tuple(marks.index[n.casefold()] for n in (*self.plus, *self.minus))
        samples = header.numbers(channels, begin, end)  # (C, S)
        unit = "1"
        warnings: tuple[str, ...] = ()
        if self.kind == "V":
            unit = "V"
            samples = samples * np.array([header.volts(c) or 1e-6 for c in channels])[:, None]  # (C, S)
            if self.minus:
                samples = samples[: len(self.plus)] - samples[len(self.plus) :]  # (C / 2, S)
            else:
                warnings = judge_volts(samples, self.file.path)
        elif self.kind == "gsr":
            samples, unit, warnings = _resistance(samples, marks.site, self.file.path)
        elif self.kind == "temperature":
            unit, warnings = judge_temperature(samples)
        before, after = (first - begin) / header.rate, (end - last) / header.rate
        return Signal(samples, self.names, header.rate, unit, before, after, warnings)


class DeapRawStudy(DeapStudy):
    """DEAP's original recordings with its face videos and ratings.

    Parameters
    ----------
    root : Path
        The folder that holds data_original, face_video and metadata_csv.
    name : str, optional
        What the study is called; by default ``deap-raw``.

    Raises
    ------
    UserError
        If the folder is not of this layout.

    Notes
    -----
    A trial is the 60 s from event 4 on, with 5 s before and 3 s after as padding for the filters. The n-th film of a
    file is the row with ``Trial`` n. EOG and EMG are differences of two electrodes each (EXG1-EXG8).
    """

    default_name = "deap-raw"
    folders = (RAW,)
    faces_alone = False
    seconds = FILM
    ica_labels_off = ""

    def __init__(self, root: Path, name: str | None = None) -> None:
        super().__init__(root, name)
        self._marks: LastOpened[Marks] = LastOpened()

    def _signals(self, path: Path, rows: tuple[Row, ...]) -> Signals:
        file = RawFile(path, self._table, rows, self._marks)
        try:
            there = {n.casefold() for n in read_bdf_header(path).names}
        except UserError:
            there = set()  # said by the file's check, which refuses this participant alone
        pairs = {n: p for n, p in MUSCLES.items() if {e.casefold() for e in p} <= there}
        single = {n: c for n, c in OTHERS.items() if c.casefold() in there}
        eyes = all(e.casefold() in there for pair in EYES for e in pair)

        def of(row: Row) -> tuple[LazySignal, LazySignal | None, Mapping[str, LazySignal]]:
            peripheral: dict[str, LazySignal] = {
                name: RawSignal(file, row.trial, (plus,), (name,), (minus,)) for name, (plus, minus) in pairs.items()
            }
            for name, channel in single.items():
                peripheral[name] = RawSignal(file, row.trial, (channel,), (name,), kind=name)
            plus, minus = zip(*EYES, strict=True)
            eog = RawSignal(file, row.trial, plus, EOG_NAMES, minus) if eyes else None
            return RawSignal(file, row.trial, EEG_NAMES, EEG_NAMES), eog, peripheral

        notes = []
        wanted = [e for pair in (*EYES, *MUSCLES.values()) for e in pair] + list(OTHERS.values())
        if there and (absent := [n for n in wanted if n.casefold() not in there]):
            notes.append(f"{path.name} has no channel {', '.join(absent)}")
        return Signals(path, file, of, notes)


def _onsets(codes: NDArray[np.int32], code: int) -> tuple[int, ...]:
    """Samples at which `code` begins; (S,) -> its runs."""
    there = codes == code  # (S,)
    return tuple(int(s) for s in np.flatnonzero(there & ~np.concatenate([[False], there[:-1]])))


def _judge(path: Path, header: BdfHeader, starts: Sequence[int], ends: Sequence[int]) -> tuple[str, tuple[str, ...]]:
    """Tell whose order the electrodes are in, and what is odd."""
    known = {n.casefold(): n for n in EEG_NAMES}
    order = tuple(known[n.casefold()] for n in header.names if n.casefold() in known)
    site = next((s for s, names in ORDERS.items() if order == names), "")
    notes = []
    number = int("".join(c for c in path.stem if c.isdigit()) or 0)
    usual = "Twente" if number <= 22 else "Geneva"
    if site and site != usual:
        notes.append(f"{path.name}: electrodes in {site}'s order, and so GSR in its unit, though {usual} recorded it")
    if odd := [header.units[k] for k, n in enumerate(header.names) if n.casefold() in known and not header.volts(k)]:
        notes.append(f"{path.name}: EEG in '{odd[0]}', which is no unit of voltage: taken for microvolts")
    after = np.array(ends, dtype=np.float64)  # (events,)
    for k, start in enumerate(starts):
        later = after[after > start]
        if later.size and abs((later[0] - start) / header.rate - FILM) > 1.0:
            seconds = (later[0] - start) / header.rate
            notes.append(f"{path.name}: event {ENDS} is {seconds:.1f} s after film {k + 1} starts, expected {FILM:g} s")
    return site, tuple(notes)


def _judge_times(path: Path, header: BdfHeader, starts: Sequence[int], rows: Sequence[Row]) -> list[str]:
    """Hold the films' starts against the table's Start_time, which are in trials' order and another clock's.

    Where a film was taken for another, the line that fits the one to the other misses by seconds.
    """
    said = {row.trial: row.start for row in rows if row.start is not None}
    if len(said) < len(starts) or len(starts) < 4:
        return []
    table = np.array([said[t] for t in sorted(said)])  # (trials,)
    found = np.array(starts) / header.rate  # (trials,) s
    if np.ptp(table) == 0:
        return []
    off = np.abs(found - np.polyval(np.polyfit(table, found, 1), table))  # (trials,) s
    if off.max() <= _OFF:
        return []
    which = numbers(np.flatnonzero(off > _OFF) + 1)
    return [
        f"{path.name}: film {which} starts up to {off.max():.0f} s away from the table's Start_time: "
        "are all films those of the table's trials?"
    ]


def _resistance(
    samples: NDArray[np.float64], site: str, path: Path
) -> tuple[NDArray[np.float64], str, tuple[str, ...]]:
    """Skin resistance in ohm: Geneva wrote that, Twente conductance in nanosiemens."""
    if not site:
        return samples, "1", (f"{path.name}: electrodes in neither site's order: GSR is kept without a unit",)
    if site == "Geneva":
        return samples, "ohm", ()
    positive = samples > 0  # (1, S)
    warnings = () if positive.all() else (f"{path.name}: GSR of 0 nS or less is no conductance: taken as missing",)
    return np.divide(1e9, samples, out=np.full_like(samples, np.nan), where=positive), "ohm", warnings
