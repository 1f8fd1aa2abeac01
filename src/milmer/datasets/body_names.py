"""Which channels of a file are signals of the body, by their names and by the kinds that a format has of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from milmer.datasets.body_units import unit_of
from milmer.signals.channels import CleanNames, clean_names

# What MNE calls a channel -> kind. Of all others that can hold anything the name tells.
_KINDS = {"gsr": "gsr", "resp": "respiration", "temperature": "temperature", "emg": "emg"}
_OPEN = ("eeg", "misc", "bio", "eog", "ecg", *_KINDS)
# Words of a name -> kind. Numbers made of a wave (heart rate, oxygen) and of the device are not the wave.
_WORDS: Mapping[str, re.Pattern[str]] = {
    "emg": re.compile(r"emg|[zt]emg|zygom\w*|trapez\w*|corrugator\w*|chin|submental\w*|masseter\w*"),
    "gsr": re.compile(r"gsr\w*|eda|scr|scl|galvanic|electrodermal|skinconductance|conductance"),
    "ppg": re.compile(r"ppg\w*|pleth\w*|plet|bvp|photopleth\w*|pulse"),
    "respiration": re.compile(r"resp|rsp|respirat\w*|breath\w*|airflow|flow|belt|thorax|thoracic|abdomen|abdominal"),
    "temperature": re.compile(r"temp|temperature|skt|skintemp\w*"),
}
_NOT_A_WAVE = re.compile(r"rate|hr|bpm|spo|sao|ibi|sat|saturation|quality|status|trigger|trig|marker|event")
_DEVICE = re.compile(r"amp|amplifier|device|board|battery|cpu|room|ambient|head|headbox")
_MUSCLES = {"zyg": "zygomaticus", "trap": "trapezius", "corr": "corrugator", "mass": "masseter"}
_SHORT = {"z": "zygomaticus", "t": "trapezius", "zemg": "zygomaticus", "temg": "trapezius"}
_CONDUCTANCE = re.compile(r"\s*(?:eeg|bip|aux|misc|ch)?\d*[\s._:-]*sc[\s._-]*\d*\s*", re.IGNORECASE)


@dataclass(frozen=True)
class BodyChannel:
    """A channel of a file that is a signal of the body.

    Parameters
    ----------
    index : int
        Its place in the file.
    unit : str
        As of `milmer.datasets.base.Signal`.
    scale : float
        What one of the reader's numbers is in `unit`.
    note : str
        What is odd about its unit; empty where nothing is.
    """

    index: int
    unit: str = "V"
    scale: float = 1.0
    note: str = ""


def body_name(name: str, kind: str = "eeg") -> str:
    """Name a channel as a signal of the body: ``gsr``, ``ppg``, ``respiration``, ``temperature``, ``emg-<muscle>``.

    Parameters
    ----------
    name : str
        As in the file; no electrode's.
    kind : str
        What MNE takes the channel for. It decides where the name tells nothing.

    Returns
    -------
    str
        Empty where it is none of these. Hearts and eyes are told by `milmer.signals.channels.clean_names`.
    """
    if kind not in _OPEN:
        return ""
    words = _words(name)
    told = _told(name, words) or _KINDS.get(kind, "")
    return told if told != "emg" else _muscle(words)


def _words(name: str) -> list[str]:
    """Words of a name in small letters: ``SkinTemp_1`` is skin, temp, 1."""
    apart = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    return re.findall(r"[^\W\d_]+|\d+", apart.lower())


def _told(name: str, words: Sequence[str]) -> str:
    if _CONDUCTANCE.fullmatch(name):
        return "gsr"
    for kind, pattern in _WORDS.items():
        if not any(pattern.fullmatch(w) for w in words):
            continue
        if kind in ("ppg", "respiration") and any(_NOT_A_WAVE.fullmatch(w) for w in words):
            return "ppg" if any(w.startswith("pleth") for w in words) and "rate" not in words else ""
        return "" if kind == "temperature" and any(_DEVICE.fullmatch(w) for w in words) else kind
    return ""


def _muscle(words: Sequence[str]) -> str:
    for word in words:
        if muscle := _SHORT.get(word) or next((m for start, m in _MUSCLES.items() if word.startswith(start)), ""):
            return f"emg-{muscle}"
    if any(w == "chin" or w.startswith("submental") for w in words):
        return "emg-chin"
    rest = "-".join(w for w in words if w not in ("emg", "eeg", "bip", "aux", "ref"))
    return f"emg-{rest}" if rest else "emg"


def body_channels(
    names: Sequence[str], kinds: Sequence[str], clean: CleanNames, units: Sequence[str], suffix: str = ""
) -> dict[str, BodyChannel]:
    """Return the signals of the body among the channels of a file, by the name that a trial has them under.

    Parameters
    ----------
    names, kinds : sequence of str
        Each channel's name and what MNE takes it for.
    clean : CleanNames
        What `clean_names` made of the names: its electrodes stay EEG, its hearts are `ecg`.
    units : sequence of str
        Each channel's unit in the file's own words, empty where it does not say.
    suffix : str
        Of the file; see `milmer.datasets.body_units.si_unit`.

    Returns
    -------
    dict of str to BodyChannel
        ``ecg``, ``ecg-2``, ``gsr``, ``emg-trapezius``, ...: the second of a name has its number behind it. Eyes are
        not among them.
    """
    found: dict[str, BodyChannel] = {}
    other = _apart(names, kinds)
    for index, (given, kind) in enumerate(zip(names, kinds, strict=True)):
        if index in (*clean.kept, *clean.eog, *other.eog) or kind == "stim":
            continue
        name = "ecg" if index in (*clean.ecg, *other.ecg) else body_name(given, kind)
        name = name or ("ecg" if kind == "ecg" else "")
        if not name:
            continue
        number, free = 2, name
        while free in found:
            free, number = f"{name}-{number}", number + 1
        found[free] = BodyChannel(index, *unit_of(free, units[index], suffix))
    return found


def eye_channels(
    names: Sequence[str], kinds: Sequence[str], clean: CleanNames, body: Mapping[str, BodyChannel]
) -> list[int]:
    """Return the places of the eyes' channels; arguments as of `body_channels`, `body` is what it returned."""
    taken = {*clean.kept, *(c.index for c in body.values())}
    by_name = {*clean.eog, *_apart(names, kinds).eog}
    return [i for i, k in enumerate(kinds) if i not in taken and (i in by_name or k == "eog")]


def _apart(names: Sequence[str], kinds: Sequence[str]) -> CleanNames:
    """What the names say of channels that a format holds to be no EEG, and that are none, whatever they are called."""
    return clean_names([n if k == "misc" else "" for n, k in zip(names, kinds, strict=True)])
