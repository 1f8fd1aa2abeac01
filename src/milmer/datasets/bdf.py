"""BioSemi's BDF read a stretch or a channel at a time, in the file's own numbers.

MNE reads BDF too, but every channel of every stretch, scaled by units that some of the files declare wrongly, and its
stimulus channel goes by a name that some of the files lack. Here one channel of a file of an hour is read in a
fraction of a second, which is what looking for events before anything is prepared needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from milmer.errors import UserError

_VOLTS = {"v": 1.0, "mv": 1e-3, "uv": 1e-6, "\u00b5v": 1e-6, "\u03bcv": 1e-6, "nv": 1e-9}
_FIELDS = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)  # bytes a channel: label, transducer, unit, four limits, filter, samples


@dataclass(frozen=True)
class BdfHeader:
    """What a BDF file says of itself.

    Parameters
    ----------
    path : Path
        The file.
    names, units : tuple of str
        Label and physical unit of each channel, as written; a label may be empty or there twice.
    rate : float
        Samples a second (Hz), of all channels.
    samples : int
        Length of each channel.
    gains, offsets : tuple of float
        A channel's number is ``gain * stored + offset``, in its unit.
    start, per_record : int
        Bytes of the header; samples of a channel in a record.
    """

    path: Path
    names: tuple[str, ...]
    units: tuple[str, ...]
    rate: float
    samples: int
    gains: tuple[float, ...]
    offsets: tuple[float, ...]
    start: int
    per_record: int

    def volts(self, channel: int) -> float | None:
        """What one of a channel's units is in volts; None where the unit is no voltage."""
        return _VOLTS.get(self.units[channel].casefold())

    def numbers(self, channels: tuple[int, ...], first: int, last: int) -> NDArray[np.float64]:
        """Read some channels from sample `first` to before `last`.

        Returns
        -------
        ndarray of float64, shape (len(channels), last - first)
            In each channel's own unit.

        Raises
        ------
        UserError
            If the file is shorter than its header says.
        """
        begin, end = first // self.per_record, -(-last // self.per_record)
        record = self._record_bytes
        with self.path.open("rb") as file:
            file.seek(self.start + begin * record)
            content = self._whole(file, (end - begin) * record)
        stored = np.frombuffer(content, np.uint8).reshape(end - begin, len(self.names), self.per_record, 3)
        values = _integers(stored[:, list(channels)])  # (records, C, per_record)
        joined = values.transpose(1, 0, 2).reshape(len(channels), -1)  # (C, records * per_record)
        cut: NDArray[np.int32] = joined[:, first - begin * self.per_record : last - begin * self.per_record]  # (C, S)
        gains = np.array([self.gains[c] for c in channels])[:, None]  # (C, 1)
        offsets = np.array([self.offsets[c] for c in channels])[:, None]  # (C, 1)
        numbers: NDArray[np.float64] = cut * gains + offsets  # (C, S)
        return numbers

    def stored(self, channel: int) -> NDArray[np.int32]:
        """Read one channel whole, as the integers that are stored, shape (samples,); the others are passed over."""
        size = 3 * self.per_record
        pieces = []
        with self.path.open("rb", buffering=0) as file:
            for record in range(self.samples // self.per_record):
                file.seek(self.start + record * self._record_bytes + channel * size)
                pieces.append(self._whole(file, size))
        return _integers(np.frombuffer(b"".join(pieces), np.uint8).reshape(-1, 3))  # (S,)

    @property
    def _record_bytes(self) -> int:
        return 3 * self.per_record * len(self.names)

    def _whole(self, file: BinaryIO, size: int) -> bytes:
        found = file.read(size)
        if len(found) != size:
            raise UserError(f"{self.path}: ended while it was read; get the file again")
        return found


def read_bdf_header(path: Path) -> BdfHeader:
    """Read what a BDF file holds, without its samples.

    Raises
    ------
    UserError
        If it is no BDF, ends before its header says, or its channels differ in rate.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            fixed = file.read(256)
            count = _whole_number(path, "number of channels", fixed[252:256]) if len(fixed) == 256 else 0
            table = file.read(256 * count) if 0 < count < 10_000 else b""
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); get the file again") from error
    if fixed[:8] != b"\xffBIOSEMI":
        raise UserError(f"{path}: found {size:,} bytes that are no BDF, expected BioSemi's BDF; get the file again")
    if not table or len(table) != 256 * count:
        raise UserError(f"{path}: ends within its header ({size:,} bytes); get the file again")
    columns = []
    at = 0
    for width in _FIELDS:
        columns.append([table[at + k * width : at + (k + 1) * width] for k in range(count)])
        at += width * count
    names = tuple(_text(v) for v in columns[0])
    lengths = {_whole_number(path, "samples a record", v) for v in columns[8]}
    if len(lengths) != 1 or min(lengths) < 1:
        raise UserError(f"{path}: channels of {sorted(lengths)} samples a record, expected one rate for all")
    per_record = lengths.pop()
    seconds = _number(path, "length of a record", fixed[244:252])
    if seconds <= 0:
        raise UserError(f"{path}: a record of {seconds:g} s, expected more than 0; get the file again")
    start = 256 * (count + 1)
    there = (size - start) / (3 * per_record * count)
    said = _whole_number(path, "number of records", fixed[236:244])
    records = int(there) if said < 0 else said  # -1: the recorder was stopped before it could write how many
    if records > there or records == 0:
        raise UserError(
            f"{path}: ends after {there * seconds:.1f} s, but its header says {records * seconds:.1f} s; "
            "get the file again"
        )
    limits = [[_number(path, "a limit", v) for v in column] for column in columns[3:7]]
    gains, offsets = [], []
    for low, high, least, most in zip(*limits, strict=True):
        usable = most > least and high != low
        gains.append((high - low) / (most - least) if usable else 1.0)
        offsets.append(low - gains[-1] * least if usable else 0.0)
    return BdfHeader(
        path=path,
        names=names,
        units=tuple(_text(v) for v in columns[2]),
        rate=per_record / seconds,
        samples=records * per_record,
        gains=tuple(gains),
        offsets=tuple(offsets),
        start=start,
        per_record=per_record,
    )


def _integers(triples: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Join three bytes, lowest first, the highest with a sign: (..., 3) -> (...)."""
    low, middle, high = (triples[..., k].astype(np.int32) for k in range(3))
    return low | (middle << 8) | (((high ^ 0x80) - 0x80) << 16)


def _text(field: bytes) -> str:
    return field.decode("latin-1").strip(" \0")


def _number(path: Path, what: str, field: bytes) -> float:
    try:
        return float(_text(field))
    except ValueError:
        raise UserError(f"{path}: {what} is '{_text(field)}', expected a number; get the file again") from None


def _whole_number(path: Path, what: str, field: bytes) -> int:
    value = _number(path, what, field)
    if value != int(value):
        raise UserError(f"{path}: {what} is {value:g}, expected a whole number; get the file again")
    return int(value)
