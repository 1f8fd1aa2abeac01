"""Channel names as recorders write them, and where on the head those electrodes are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Names of the older 10-20 system and of other spellings, by the name that the 10-05 system gives the same place.
_ALIASES = {"t3": "T7", "t4": "T8", "t5": "P7", "t6": "P8", "o9": "I1", "o10": "I2"}
_CEREBELLAR = frozenset({"cb1", "cb2"})  # of one maker's caps
_REFERENCES = frozenset({"a1", "a2", "m1", "m2"})
# What may stand behind the hyphen of a channel recorded against one reference for all.
_COMMON = (
    _REFERENCES
    | {"a1a2", "a2a1", "m1m2", "m2m1", "le", "cle", "ler", "lle", "rle", "lm", "rm", "linked"}  # ears and mastoids
    | {"ar", "av", "aa", "avg", "average", "car", "rest"}  # a mean of many
    | {"ref", "reference", "vref", "re", "com", "ne", "neutral", "org", "g1", "g2", "gnd"}  # the recorder's own
)
# What recorders write before a name: a kind, or the number of the input.
_PREFIX = re.compile(r"^(?:(?:eeg|pol|ch|chan|channel)(?:\s*\d+)?[\s._:-]+|\d+\s*[\s._:-]\s*)", re.IGNORECASE)
_UNIT = re.compile(r"\s*[(\[](?:[uµμmn]?v|microvolts?|volts?)[)\]]$", re.IGNORECASE)  # both letters mu
_BOTH = re.compile(r"^(\w+)\s*(?:/|\(|=)\s*(\w+)\)?$")  # one place under its older and newer name: T3/T7, T7 (T3)
_JOINED = re.compile(r"^([a-z]{1,3}[z\d]{1,2}h?)[\s_:/]*(a1|a2|m1|m2|ref|le|avg)$", re.IGNORECASE)  # C3A2, Fp1_Ref
SHARED_TAIL = 8  # channels that must name one scalp electrode behind the hyphen for it to be their common reference
_EYE = re.compile(r"eog|^[hv]eo[lrud]?\b|^(?:eye|loc|roc)\b", re.IGNORECASE)
_HEART = re.compile(r"ecg|ekg", re.IGNORECASE)


@dataclass(frozen=True)
class CleanNames:
    """Which channels are EEG, under which name and where.

    Parameters
    ----------
    kept : list of int
        Indexes of the EEG channels in the names given, in their order.
    names : tuple of str
        Their names in 10-05 spelling (``"Fp1"``, ``"T7"``), one for each of `kept`.
    positions : ndarray of float64, shape (n_channels, 3)
        x (right), y (front), z (up) on the unit sphere; see `electrode_positions`.
    dropped : dict of str to str
        Name as given -> why it is not EEG. Every name is either kept or in here.
    eog, ecg : list of int
        Indexes of the eye and heart channels, which are in `dropped` too.
    """

    kept: list[int]
    names: tuple[str, ...]
    positions: NDArray[np.float64]  # (C, 3)
    dropped: dict[str, str]
    eog: list[int]
    ecg: list[int]


def clean_names(names: Sequence[str]) -> CleanNames:
    """Tell EEG channels from others by name, and give them their 10-05 name and place.

    Upper and lower case, ``EEG`` or a number before the name, quotes, dots, a unit behind it, a common reference
    (``Fp1-A1``, ``EEG Fp1-Ref``, ``C3:M2``, ``Fp1_LE``) and the older names T3, T4, T5, T6 are understood. An ear or
    mastoid electrode alone is a reference and not EEG; a channel between two scalp electrodes (or the two ears) has no
    single place and is dropped, but where eight or more are all against one electrode, that is their reference. A name
    that is none of the 10-05 system is dropped with the nearest name of it.

    Parameters
    ----------
    names : sequence of str
        Channel names as the file gives them.
    """
    kept: list[int] = []
    clean: list[str] = []
    dropped: dict[str, str] = {}
    eog: list[int] = []
    ecg: list[int] = []
    first: dict[str, str] = {}
    shared = _shared_reference(names)
    for index, given in enumerate(names):
        electrode, reason = _electrode(given, shared)
        if electrode in first:
            reason = f"a second {electrode}, beside '{first[electrode]}'"
        elif electrode:
            first[electrode] = given
            kept.append(index)
            clean.append(electrode)
            continue
        elif _HEART.search(given):
            ecg.append(index)
            reason = "heart (ECG), not EEG"
        elif _EYE.search(given.strip()):
            eog.append(index)
            reason = "eye (EOG), not EEG"
        dropped[given] = reason
    return CleanNames(kept, tuple(clean), electrode_positions(clean), dropped, eog, ecg)


def electrode_positions(names: Sequence[str]) -> NDArray[np.float64]:
    """Places of electrodes on the unit sphere.

    The places are those of MNE's 10-05 montage on a real head (``standard_1005``). A sphere is fitted to all its scalp
    electrodes by least squares; each place is the direction from that sphere's centre, of length 1.

    Parameters
    ----------
    names : sequence of str
        10-05 names as `clean_names` gives them.

    Returns
    -------
    ndarray of float64, shape (n_names, 3)
        x (right), y (front), z (up).

    Raises
    ------
    KeyError
        If a name is no 10-05 electrode.
    """
    table = _montage()
    places = [table[name] for name in names]
    return np.array(places, dtype=np.float64).reshape(len(places), 3)  # (C, 3)


def _parts(given: str) -> tuple[str, str, str]:
    """Return (text without what is around the name, name, what it is measured against)."""
    text = given.strip().strip("'\"").strip()
    text = _UNIT.sub("", _PREFIX.sub("", text)).strip(" .'\"")
    text = re.sub(r"-\d+$", "", text)  # MNE numbers channels of the same name
    both = _BOTH.match(text)
    if both and _known(both[1]) and _known(both[1]) == _known(both[2]):
        return text, both[2], ""
    joined = _JOINED.match(text)
    if joined and not _known(text):
        return text, joined[1], joined[2]
    hyphen = text if "-" in text else re.sub(r"[:/]", "-", text, count=1)  # C3:A2, C3/A2
    head, _, tail = (part.strip(" .") for part in hyphen.partition("-"))
    return text, head, tail


def _electrode(given: str, shared: str) -> tuple[str, str]:
    """Return (10-05 name, "") or ("", why not); `shared` is the scalp electrode all are measured against."""
    text, head, tail = _parts(given)
    if head.lower() in _REFERENCES:
        between = tail.lower() in _REFERENCES or (tail and not _is_common(tail, ""))
        return "", f"between two references ({text})" if between else "an ear or mastoid reference"
    electrode = _known(head)
    if not electrode:
        return "", "not a name of the 10-05 system" + _nearest(head)
    if tail and not _is_common(tail, shared):
        return "", f"bipolar ({text}): between two places" if _known(tail) else f"an unknown reference '{tail}'"
    return electrode, ""


def _is_common(tail: str, shared: str) -> bool:
    """Whether a channel against `tail` has one place: ``(A1+A2)/2`` is as good a reference as ``A1``."""
    bare = re.sub(r"/2\)?$|[^a-z0-9]", "", tail.lower())
    return bare in _COMMON or (bool(shared) and _known(tail) == shared)


def _shared_reference(names: Sequence[str]) -> str:
    """Name the scalp electrode that nearly all channels with a hyphen are measured against, if there is one."""
    pairs = [(_known(head), _known(tail)) for _, head, tail in map(_parts, names)]
    tails = [tail for head, tail in pairs if head and tail and head != tail]
    most = max(set(tails), key=tails.count, default="")
    return most if tails.count(most) >= max(SHARED_TAIL, 0.9 * len(tails)) else ""


def _nearest(name: str) -> str:
    """Name the electrode that is meant, where one is near: nothing for ``Status`` or ``EXG1``."""
    if name.lower() in _CEREBELLAR:
        return ": a cap maker's place over the cerebellum"
    close = get_close_matches(name.lower(), _spelling(), n=1, cutoff=0.66) if re.search(r"[z\d]", name.lower()) else []
    return f" (did you mean '{_spelling()[close[0]]}'?)" if close else ""


def _known(name: str) -> str:
    key = name.lower()
    return _ALIASES.get(key) or _spelling().get(key, "")


@lru_cache(maxsize=1)
def _spelling() -> dict[str, str]:
    return {name.lower(): name for name in _montage() if name.lower() not in _REFERENCES}


@lru_cache(maxsize=1)
def _montage() -> dict[str, tuple[float, float, float]]:
    """Read MNE's montage once: a constant of the package, so keeping it is no state."""
    import mne

    # The montage goes by a new name from MNE 1.13 on, and the old one warns.
    new = "colin27_1005"
    name = new if new in mne.channels.get_builtin_montages() else "standard_1005"
    raw: dict[str, NDArray[np.float64]] = mne.channels.make_standard_montage(name).get_positions()["ch_pos"]
    scalp = np.array([p for n, p in raw.items() if n.lower() not in _REFERENCES])  # (n, 3)
    design = np.column_stack([2 * scalp, np.ones(len(scalp))])  # (n, 4)
    centre = np.linalg.lstsq(design, (scalp**2).sum(axis=1), rcond=None)[0][:3]  # (3,)
    found: dict[str, tuple[float, float, float]] = {}
    for electrode, place in raw.items():
        away = place - centre  # (3,)
        x, y, z = (float(v) for v in away / np.linalg.norm(away))
        found[electrode] = (x, y, z)
    return found
