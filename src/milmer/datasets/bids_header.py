"""What an EEG file of a BIDS dataset holds, by the file itself and the tables beside it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from milmer.datasets.body_units import unit_of
from milmer.errors import UserError
from milmer.signals.channels import CleanNames, clean_names

# Kind of a channel in channels.tsv -> kind of body signal.
_BODY: Mapping[str, str] = {
    "ECG": "ecg",
    "EMG": "emg",
    "GSR": "gsr",
    "PPG": "ppg",
    "RESP": "respiration",
    "TEMP": "temperature",
}


@dataclass(frozen=True)
class Header:
    """What a file holds, without its samples.

    Parameters
    ----------
    rate : float
        Samples a second (Hz).
    samples : int
        Length in samples.
    clean : CleanNames
        Its EEG channels.
    eog : mapping of str to int
        Name as in the file -> index of the eye channels.
    body : mapping of str to (int, str, float)
        Name of a body signal -> channel, SI unit, and what one of the reader's units is in it.
    notes : tuple of str
        What was odd.
    """

    rate: float
    samples: int
    clean: CleanNames
    eog: Mapping[str, int]
    body: Mapping[str, tuple[int, str, float]]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Channels:
    """Kinds of channels.tsv, by name; empty where there is no such file."""

    kinds: Mapping[str, str] = field(default_factory=dict)
    bad: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)


def read_header(root: Path, file: Path) -> Header:
    """Read what an EEG file of the dataset in `root` holds.

    Raises
    ------
    UserError
        If it cannot be read, or none of its channels is an electrode of the 10-05 system.
    """
    from mne_bids import get_bids_path_from_fname, read_raw_bids

    path = get_bids_path_from_fname(file, check=False, verbose="error")
    path.root = root
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on sidecars that are not to the letter
            raw = read_raw_bids(path, on_ch_mismatch="rename", verbose="error")
    # MNE's readers raise whatever the format's own code raises; the user needs the file's name.
    except Exception as error:
        found = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{file}: cannot be read by MNE-BIDS ({found}); run the BIDS validator on it") from error
    table = beside(file, "channels")
    channels = _channels(table)
    names = [str(n) for n in raw.ch_names]
    kinds = [channels.kinds.get(n, str(k).upper()) for n, k in zip(names, raw.get_channel_types(), strict=True)]
    clean = clean_names([n if k == "EEG" else "" for n, k in zip(names, kinds, strict=True)])
    if not clean.kept:
        raise UserError(
            f"{file}: has no electrode of the 10-05 system; found {few(names)}, expected names such as Fp1, Cz or "
            "T7; rename them in channels.tsv"
        )
    body: dict[str, tuple[int, str, float]] = {}
    notes = []
    for i, kind in enumerate(kinds):
        if kind in _BODY:
            name = _BODY[kind] if _BODY[kind] not in body else f"{_BODY[kind]}-{names[i].lower()}"
            given = channels.units.get(names[i], "")
            unit, scale, note = unit_of(name, "" if given.lower() == "n/a" else given, file.suffix.lower())
            body[name] = (i, unit, scale)
            notes += [f"channels.tsv: {names[i]}: {note}"] if note else []
    eog = {names[i]: i for i, k in enumerate(kinds) if k in ("EOG", "HEOG", "VEOG")}
    if left := [names[i] for i, k in enumerate(kinds) if i not in clean.kept and k == "EEG"]:
        notes.append(f"not electrodes of the 10-05 system, left out: {few(left)}")
    if channels.bad:
        notes.append(f"marked as bad in channels.tsv: {', '.join(channels.bad)}")
    return Header(float(raw.info["sfreq"]), int(raw.n_times), clean, eog, body, tuple(notes))


def _channels(table: Path) -> _Channels:
    if not table.is_file():
        return _Channels()
    rows = read_table(table)
    if "name" not in rows:
        return _Channels()
    kinds = dict(zip(rows["name"], rows["type"].str.upper(), strict=True)) if "type" in rows else {}
    bad = tuple(rows.loc[rows["status"].str.lower() == "bad", "name"]) if "status" in rows else ()
    units = dict(zip(rows["name"], rows["units"], strict=True)) if "units" in rows else {}
    return _Channels(kinds, bad, units)


def read_table(path: Path) -> pd.DataFrame:
    """Read a TSV as text.

    Raises
    ------
    UserError
        If it cannot be read.
    """
    try:
        return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{path}: not readable as TSV ({' '.join(str(error).split())})") from error


def read_json(path: Path) -> Mapping[str, Any]:
    """Read a JSON object; empty where the file holds something else.

    Raises
    ------
    UserError
        If it cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from error
    return found if isinstance(found, dict) else {}


def few(names: Sequence[str], most: int = 8) -> str:
    """Write the first of some names."""
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")


def beside(file: Path, table: str) -> Path:
    """Return the path of a table of the same recording, such as ``sub-01_task-film_events.tsv``."""
    return file.with_name(file.name.removesuffix(file.suffix).removesuffix("_eeg") + f"_{table}.tsv")


def as_float(value: Any) -> float:
    """Return a number, or NaN where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
