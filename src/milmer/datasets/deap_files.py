"""DEAP's preprocessed signals: one file a subject, checked against the table each time it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from milmer.datasets.base import Signal
from milmer.datasets.deap_ratings import LABELS, Row
from milmer.datasets.matfile import read_mat
from milmer.datasets.opened import LastOpened
from milmer.datasets.safe_pickle import load_arrays
from milmer.errors import UserError

RATE = 128.0  # Hz
BASELINE = 3.0  # s before every stimulus
_FIRST = ("Fp1", "AF3", "F3", "F7", "FC5", "FC1", "C3", "T7", "CP5", "CP1", "P3", "P7", "PO3", "O1", "Oz", "Pz")
_LAST = ("Fp2", "AF4", "Fz", "F4", "F8", "FC6", "FC2", "Cz", "C4", "T8", "CP6", "CP2", "P4", "P8", "PO4", "O2")
EEG_NAMES = _FIRST + _LAST  # Geneva order, which all of the preprocessed files have
EOG_NAMES = ("hEOG", "vEOG")
# Name -> (row of the data, SI unit, what one of the file's units is in it).
PERIPHERAL: Mapping[str, tuple[int, str, float]] = {
    "emg-zygomaticus": (34, "V", 1e-6),
    "emg-trapezius": (35, "V", 1e-6),
    "gsr": (36, "ohm", 1.0),
    "respiration": (37, "1", 1.0),
    "ppg": (38, "1", 1.0),
    "temperature": (39, "degC", 1.0),
}
ICA_LABELS_OFF = (
    "DEAP's preprocessed files (128 Hz, 4-45 Hz, EOG already removed) are outside ICLabel's range; "
    "measured on real recordings, it then calls brain components heart beats and misses the blink"
)
_CHANNELS = 40
_TOLERANCE = 1e-3  # both sides have two decimals
_PLAUSIBLE_UV = (0.1, 1000.0)


@dataclass(frozen=True)
class Content:
    """What a subject's file holds, checked."""

    data: NDArray[np.floating]  # (trials, 40, S)
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class SubjectFile:
    """A subject's .dat or .mat, read when first asked for and checked against the table each time it is read."""

    path: Path
    table: Path
    rows: tuple[Row, ...]
    opened: LastOpened[Content] = field(compare=False, repr=False)

    def __call__(self) -> Sequence[str]:
        """Check the file; `UserError` where it disagrees with the table."""
        self.content()
        return ()

    def content(self) -> Content:
        """Read the file, unless it was the last one read."""
        return self.opened.get(self.path, self._read)

    def _read(self, path: Path) -> Content:
        arrays = read_mat(path) if path.suffix == ".mat" else load_arrays(path)
        arrays = {k: v for k, v in arrays.items() if isinstance(v, np.ndarray)}
        missing = [name for name in ("data", "labels") if name not in arrays]
        if missing:
            raise UserError(
                f"{path}: found {', '.join(sorted(arrays)) or 'nothing'}, expected data and labels; "
                f"is it a file of DEAP's {path.parent.name}?"
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
        return Content(data, _judge(data))

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
class Rows:
    """Some rows of one trial as a `Signal`: read when called."""

    subject: SubjectFile
    index: int  # Experiment_id - 1
    channels: tuple[int, ...]
    names: tuple[str, ...]
    unit: str
    scale: float
    judged: bool = False  # whether the file's warnings belong to this signal

    def __call__(self) -> Signal:
        """Read the rows."""
        content = self.subject.content()
        # A copy in the reader's own type: a view would hold the whole file in memory.
        samples = content.data[self.index, list(self.channels)].astype(np.float64) * self.scale  # (C, S)
        unit, warnings = self.unit, content.warnings if self.judged else ()
        if unit == "degC":
            unit, warnings = judge_temperature(samples)
        return Signal(samples, self.names, RATE, unit, pad_before=BASELINE, warnings=warnings)


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


def judge_temperature(samples: NDArray[np.float64]) -> tuple[str, tuple[str, ...]]:
    """Call it degrees only where it can be: the publisher does not give the unit."""
    typical = float(np.nanmedian(samples)) if np.isfinite(samples).any() else float("nan")
    if 10.0 <= typical <= 45.0:
        return "degC", ()
    return "1", ("temperature is not in degrees Celsius (its size is not a skin's): kept without a unit",)


def _numbers(values: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{v:g}" for v in values) + ")"
