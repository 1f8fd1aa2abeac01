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

from milmer.datasets.base import Signal
from milmer.datasets.opened import LastOpened
from milmer.errors import UserError
from milmer.signals.channels import CleanNames, clean_names

PADDING = 3.0  # s kept on either side of a trial for the filters, where the file has them
_PLAUSIBLE_VOLTS = (1e-8, 1e-3)

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
    peripheral : mapping of str to int
        ``ecg``, ``ecg-2``, ... -> index of the heart channels.
    warnings : tuple of str
        Channels left out, and why.
    """

    path: Path
    rate: float
    samples: int
    clean: CleanNames
    eog: Mapping[str, int]
    peripheral: Mapping[str, int]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Span:
    """Some channels of a stretch of a file, as a `Signal` in volts: read when called."""

    opened: Opened = field(compare=False, repr=False)
    path: Path
    picks: tuple[int, ...]
    names: tuple[str, ...]
    first: int
    last: int  # the sample after the last
    judged: bool = False  # whether its size is held against that of EEG
    warnings: tuple[str, ...] = ()

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
        found = self.warnings + (judge_volts(samples, self.path) if self.judged else ())
        before, after = (self.first - begin) / rate, (end - self.last) / rate
        return Signal(samples, self.names, rate, "V", before, after, found)


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
    eog = [i for i in range(len(names)) if i in cleaned.eog or (kinds[i] == "eog" and i not in cleaned.kept)]
    ecg = [i for i in range(len(names)) if i in cleaned.ecg or (kinds[i] == "ecg" and i not in cleaned.kept)]
    if not cleaned.kept:
        raise UserError(
            f"{where or path}: {path} has no electrode of the 10-05 system; found {', '.join(names[:8])}"
            f"{' ...' if len(names) > 8 else ''}, expected names such as Fp1, Cz or T7; rename them"
        )
    reasons = dict(cleaned.dropped)
    reasons.pop("", None)
    reasons |= {n: f"of kind {k}" for n, k in zip(names, kinds, strict=True) if k in ("stim", "misc")}
    reasons |= {names[i]: "eye (EOG): used to find blinks" for i in eog}
    heart = "heart (ECG): kept as a peripheral signal and used to find heart beats in the EEG"
    reasons |= {names[i]: heart for i in ecg}
    lines = []
    if reasons:
        lines.append(f"{path.name}: not EEG: " + "; ".join(f"'{n}' {why}" for n, why in reasons.items()))
    if marked := [n for n in raw.info["bads"] if n in names]:
        lines.append(f"{path.name}: marked as bad in the file: {', '.join(marked)}")
    return Header(
        path=path,
        rate=float(raw.info["sfreq"]),
        samples=int(raw.n_times),
        clean=cleaned,
        eog={names[i]: i for i in eog},
        peripheral={"ecg" if k == 0 else f"ecg-{k + 1}": i for k, i in enumerate(ecg)},
        warnings=tuple(lines),
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
