"""Channel names as recorders write them, and where on the head those electrodes are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Names of the older 10-20 system and of other spellings, by the name that the 10-05 system gives the same place.
_ALIASES = {"t3": "T7", "t4": "T8", "t5": "P7", "t6": "P8", "o9": "I1", "o10": "I2"}
_REFERENCES = frozenset({"a1", "a2", "m1", "m2"})
# What may stand behind the hyphen of a channel recorded against one reference for all.
_COMMON = _REFERENCES | {"ref", "reference", "re", "le", "ar", "av", "avg", "car", "g2", "gnd", "lm", "a1a2", "m1m2"}
_PREFIX = re.compile(r"^(?:eeg|pol)[\s._:-]+", re.IGNORECASE)
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

    Upper and lower case, ``EEG`` before the name, trailing dots, a common reference behind a hyphen and the older
    names T3, T4, T5, T6 are understood. An ear or mastoid electrode alone is a reference and not EEG; a channel
    between two scalp electrodes (or the two ears) has no single place and is dropped.

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
    for index, given in enumerate(names):
        electrode, reason = _electrode(given)
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


def _electrode(given: str) -> tuple[str, str]:
    """Return (10-05 name, "") or ("", why not)."""
    text = _PREFIX.sub("", given.strip()).strip(" .")
    text = re.sub(r"-\d+$", "", text)  # MNE numbers channels of the same name
    head, hyphen, tail = (part.strip(" .") for part in text.partition("-"))
    if head.lower() in _REFERENCES:
        return "", f"between two references ({text})" if hyphen else "an ear or mastoid reference"
    electrode = _known(head)
    if not electrode:
        return "", "not a name of the 10-05 system"
    if hyphen and tail.lower() not in _COMMON:
        return "", f"bipolar ({text}): between two places" if _known(tail) else f"an unknown reference '{tail}'"
    return electrode, ""


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
