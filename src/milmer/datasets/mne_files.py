"""Stretches of EEG files in any format that MNE reads, without loading the rest."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milmer.datasets.base import LazySignal, Signal
from milmer.datasets.body_names import BodyChannel, body_channels, eye_channels
from milmer.datasets.body_units import channel_units
from milmer.datasets.opened import LastOpened
from milmer.errors import UserError
from milmer.signals.channels import CleanNames, clean_names

PADDING = 3.0  # s kept on either side of a trial for the filters, where the file has them
_PLAUSIBLE_VOLTS = (1e-8, 1e-3)
_MOST_SIEMENS = 2e-4  # no skin conducts better

Opened = LastOpened[Any]  # of MNE's Raw, which has no types


@dataclass(frozen=True)
class Header:
    """What a file holds, without its samples.

    Parameters
    ----------
    path : Path
        The file.
    rate : float
        Samples a second (Hz).
    samples : int
        Length in samples.
    clean : CleanNames
        Its EEG channels.
    eog : mapping of str to int
        Name as in the file -> index of the eye channels.
    peripheral : mapping of str to BodyChannel
        ``ecg``, ``ecg-2``, ``gsr``, ``emg-chin``, ... -> the channel; see `milmer.datasets.body_names`.
    warnings : tuple of str
        Channels left out, and why.
    """

    path: Path
    rate: float
    samples: int
    clean: CleanNames
    eog: Mapping[str, int]
    peripheral: Mapping[str, BodyChannel]
    warnings: tuple[str, ...]

    def body(self, opened: Opened, first: int, last: int) -> dict[str, LazySignal]:
        """Return the body's signals from sample `first` to `last`, by name, for a trial's ``peripheral``."""
        return {
            name: Span(opened, self.path, (c.index,), (name,), first, last, unit=c.unit, scale=c.scale)
            for name, c in self.peripheral.items()
        }


@dataclass(frozen=True)
class Span:
    """Some channels of a stretch of a file, as a `Signal`, in volts unless another unit is given: read when called."""

    opened: Opened = field(compare=False, repr=False)
    path: Path
    picks: tuple[int, ...]
    names: tuple[str, ...]
    first: int
    last: int  # the sample after the last
    judged: bool = False  # whether its size is held against that of EEG
    warnings: tuple[str, ...] = ()
    unit: str = "V"
    scale: float = 1.0  # what one of the reader's numbers is in `unit`

    def __call__(self) -> Signal:
        """Read the stretch and up to 3 s of the file on either side.

        Raises
        ------
        UserError
            If the file cannot be read.
        """
        raw = self.opened.get(self.path, lambda path: _open(path, str(path)))
        rate = float(raw.info["sfreq"])
        margin = round(PADDING * rate)
        begin, end = max(0, self.first - margin), min(int(raw.n_times), self.last + margin)
        try:
            samples = np.asarray(raw.get_data(picks=list(self.picks), start=begin, stop=end, verbose="error"))  # (C, S)
        # MNE's readers raise whatever the format's own code raises; the user needs the file's name.
        except Exception as error:
            raise UserError(_unreadable(str(self.path), self.path, error)) from error
        samples = samples * self.scale if self.scale != 1.0 else samples  # (C, S)
        found = self.warnings + (judge_volts(samples, self.path) if self.judged else ())
        found += judge_siemens(samples, self.names[0], self.path.name) if self.unit == "S" else ()
        before, after = (self.first - begin) / rate, (end - self.last) / rate
        return Signal(samples, self.names, rate, self.unit, before, after, found)


def read_header(path: Path, where: str = "") -> Header:
    """Read what a file holds.

    Parameters
    ----------
    path : Path
        EDF, BDF, BrainVision, EEGLAB, FIF, ...
    where : str
        Who names the file (``"TABLE: line 3"``), for errors.

    Raises
    ------
    UserError
        If MNE cannot read the file, or none of its channels is an electrode of the 10-05 system.
    """
    raw = _open(path, where or str(path))
    names = [str(n) for n in raw.ch_names]
    kinds = [str(k) for k in raw.get_channel_types()]
    # By name; where the format has kinds of its own, its word counts for what a name does not tell.
    cleaned = clean_names([n if k not in ("stim", "misc") else "" for n, k in zip(names, kinds, strict=True)])
    body = body_channels(names, kinds, cleaned, channel_units(raw, path), path.suffix.lower())
    eog = eye_channels(names, kinds, cleaned, body)
    if not cleaned.kept:
        raise UserError(
            f"{where or path}: {path} has no electrode of the 10-05 system; found {', '.join(names[:8])}"
            f"{' ...' if len(names) > 8 else ''}, expected names such as Fp1, Cz or T7; rename them"
        )
    reasons = dict(cleaned.dropped)
    reasons.pop("", None)
    reasons |= {n: f"of kind {k}" for n, k in zip(names, kinds, strict=True) if k in ("stim", "misc")}
    reasons |= {names[i]: "eye (EOG): used to find blinks" for i in eog}
    reasons |= {names[c.index]: _use(name) for name, c in body.items()}
    lines = []
    if reasons:
        lines.append(f"{path.name}: not EEG: " + "; ".join(f"'{n}' {why}" for n, why in reasons.items()))
    lines += [f"{path.name}: {names[c.index]}: {c.note}" for c in body.values() if c.note]
    if marked := [n for n in raw.info["bads"] if n in names]:
        lines.append(f"{path.name}: marked as bad in the file: {', '.join(marked)}")
    return Header(
        path=path,
        rate=float(raw.info["sfreq"]),
        samples=int(raw.n_times),
        clean=cleaned,
        eog={names[i]: i for i in eog},
        peripheral=body,
        warnings=tuple(lines),
    )


def _use(name: str) -> str:
    if name == "ecg":
        return "heart (ECG): kept as a peripheral signal and used to find heart beats in the EEG"
    return f"{name}: kept as a peripheral signal"


def judge_siemens(samples: NDArray[np.floating], name: str, where: str) -> tuple[str, ...]:
    """Warn where values that should be siemens are more than any skin has.

    Parameters
    ----------
    samples : ndarray, shape (1, n_samples)
        Skin conductance in siemens, or so the file says.
    name, where : str
        The channel and its file, for the warning.
    """
    known = samples[np.isfinite(samples)]  # (n,)
    typical = float(np.median(np.abs(known))) if known.size else 0.0
    if typical <= _MOST_SIEMENS:
        return ()
    # Rounded, so that a file's trials say the same line.
    return (
        f"{where}: {name} is of the order of {10 ** round(np.log10(typical)):.0e} S, expected at most "
        f"{_MOST_SIEMENS:.0e} S: probably microsiemens declared as siemens",
    )


def judge_volts(samples: NDArray[np.floating], path: Path) -> tuple[str, ...]:
    """Warn where values that should be volts cannot be EEG in volts.

    Parameters
    ----------
    samples : ndarray, shape (n_channels, n_samples)
        EEG in volts, or so the file says.
    path : Path
        The file, for the warning.
    """
    some = samples[:, :: max(1, samples.shape[1] // 5000)]  # (C, <= 10000): enough for a median
    some = some[np.isfinite(some).all(axis=1)]  # (C', <= 10000)
    if not some.size:
        return ()
    typical = float(np.median(np.abs(some - np.median(some, axis=1, keepdims=True))))
    low, high = _PLAUSIBLE_VOLTS
    if typical == 0 or low <= typical <= high:  # flat is reported as flat, later
        return ()
    guess = "microvolts declared as volts" if typical > high else "volts scaled twice"
    # Rounded to a power of ten, so that a file's trials say the same line.
    return (
        f"{path.name}: EEG is of the order of {10 ** round(np.log10(typical)):.0e} V, expected {low:.0e}-{high:.0e} V: "
        f"probably {guess}",
    )


def _open(path: Path, where: str) -> Any:
    import mne

    if not os.access(path, os.R_OK):  # which some of MNE's readers do not say
        raise UserError(f"{where}: {path} cannot be read; check the path and its permissions")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on file names and on units, which are judged here
            raw = mne.io.read_raw(path, preload=False, verbose="error")
    # MNE's readers raise whatever the format's own code raises; the user needs the file's name.
    except Exception as error:
        raise UserError(_unreadable(where, path, error)) from error
    if raw.n_times == 0:
        raise UserError(f"{where}: {path} holds no samples; record or export it again")
    return raw


def _unreadable(where: str, path: Path, error: Exception) -> str:
    found = " ".join(str(error).split())[:200] or type(error).__name__
    about = "" if where == str(path) else f"{path} "
    return f"{where}: {about}cannot be read by MNE ({found}); check that it opens elsewhere, or export it as EDF"
