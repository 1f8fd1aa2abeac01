"""The unit that a file says a signal of the body is in, and what one of a reader's numbers is in SI.

MNE gives volts for what a file calls microvolts or millivolts. What is no voltage it gives in the file's own numbers,
but for a few units of BrainVision, and EEGLAB files, which it takes for microvolts throughout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from milmer.datasets.base import body_kind

_PREFIX = {"": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3}
_WORDS = {"nano": "n", "micro": "u", "milli": "m", "kilo": "k", "mega": "M", "µ": "u", "μ": "u"}
_SKIN = re.compile(r"([numkM]?)(s|siemens|mhos?|ohms?|Ω|Ω|o)", re.IGNORECASE)
_DEGREES = re.compile(r"(?:deg(?:rees?)?|°|grad)?(?:c|celsius)|℃", re.IGNORECASE)
_NO_VOLTAGE = ("gsr", "temperature", "ppg", "respiration")
_FIXED, _NAME, _TRANSDUCER, _DIMENSION = 256, 16, 80, 8  # bytes of an EDF header
_EDF = (".edf", ".bdf")


def si_unit(kind: str, unit: str, suffix: str = "") -> tuple[str, float] | None:
    """Return the SI unit of a signal and what one of the reader's numbers is in it.

    Parameters
    ----------
    kind : str
        One of `milmer.datasets.base.BODY_KINDS`.
    unit : str
        As the file, or a table beside it, says: ``uS``, ``kOhm``, ``degC``.
    suffix : str
        Of the file (``".edf"``): what its reader has multiplied already.

    Returns
    -------
    (str, float) or None
        Of skin conductance or resistance ``"S"`` or ``"ohm"``, of temperature ``"degC"``; None where the unit is none
        of theirs. Voltages stay as they are, pulse and breathing are without a unit.
    """
    if kind not in _NO_VOLTAGE:
        return "V", 1.0
    if kind in ("ppg", "respiration"):
        return "1", 1.0
    text = re.sub(r"\s", "", unit)
    found: tuple[str, float] | None = None
    if kind == "temperature":
        found = ("degC", 1.0) if _DEGREES.fullmatch(text) else None
    else:
        for word, letter in _WORDS.items():
            text = re.sub(f"^{word}", letter, text, flags=re.IGNORECASE)
        if match := _SKIN.fullmatch(text):
            found = _skin(match[1], match[2].lower())
    return None if found is None else (found[0], found[1] / _taken(unit, suffix))


def _skin(prefix: str, unit: str) -> tuple[str, float]:
    if unit in ("s", "siemens", "mho", "mhos"):
        return "S", _PREFIX[prefix.lower()]
    # No skin has milliohms: whoever writes mOhm means megaohms.
    return "ohm", 1e6 if prefix in ("m", "M") else _PREFIX[prefix.lower()]


def _taken(unit: str, suffix: str) -> float:
    """What MNE has multiplied the file's numbers by."""
    if suffix == ".set":
        return 1e-6
    return 1e-6 if suffix == ".vhdr" and unit in ("uS", "µS") else 1.0


def channel_units(raw: Any, path: Path) -> Sequence[str]:
    """Return the unit of each channel in the words of its file, empty where it does not say.

    Parameters
    ----------
    raw : mne.io.BaseRaw
        As MNE has opened the file.
    path : Path
        The file.
    """
    names = [str(n) for n in raw.ch_names]
    said: Mapping[str, str] = getattr(raw, "_orig_units", {}) or {}  # no public name; "n/a" for what MNE does not know
    if path.suffix.lower() in _EDF:
        labels, units = _dimensions(path)
        if len(units) == len(names):
            return units
        said = dict(zip(labels, units, strict=True))
    elif path.suffix.lower() == ".fif":
        return [known_unit(channel) for channel in raw.info["chs"]]
    return ["" if (unit := said.get(n, "")) == "n/a" else unit for n in names]


def known_unit(channel: Mapping[str, Any]) -> str:
    """Return the unit that MNE holds of a channel (an entry of ``info["chs"]``), of a body's signals only."""
    from mne.io.constants import FIFF

    units = {int(FIFF.FIFF_UNIT_S): "S", int(FIFF.FIFF_UNIT_OHM): "ohm", int(FIFF.FIFF_UNIT_CEL): "degC"}
    return units.get(int(channel["unit"]), "")


def _dimensions(path: Path) -> tuple[list[str], list[str]]:
    """Labels and physical dimensions of an EDF or BDF file, without its annotations."""
    with path.open("rb") as file:
        fixed = file.read(_FIXED)
        count = int(fixed[252:256])
        table = file.read((_NAME + _TRANSDUCER + _DIMENSION) * count)
    labels = [_cut(table, 0, _NAME, k) for k in range(count)]
    units = [_cut(table, (_NAME + _TRANSDUCER) * count, _DIMENSION, k) for k in range(count)]
    kept = [k for k in range(count) if labels[k] not in ("EDF Annotations", "BDF Annotations")]
    return [labels[k] for k in kept], [units[k] for k in kept]


def _cut(table: bytes, start: int, width: int, number: int) -> str:
    return table[start + width * number : start + width * (number + 1)].decode("latin-1").strip(" \0")


def unit_of(name: str, unit: str, suffix: str) -> tuple[str, float, str]:
    """Return SI unit, factor and a note (empty where all is known) of the body signal `name`; see `si_unit`."""
    kind = body_kind(name)
    if (found := si_unit(kind, unit, suffix)) is not None:
        return *found, ""
    wanted = "uS, nS or kOhm" if kind == "gsr" else "degC"
    given = f"'{unit}'" if unit else "none"
    return "1", 1.0, f"{name}: unit {given}, expected one such as {wanted}: kept in the reader's own numbers"
