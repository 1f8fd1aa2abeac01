"""A session of MAHNOB-HCI: what its session.xml says, which files belong to it, and its clip within the BDF."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from milmer.datasets.base import Signal
from milmer.datasets.bdf import BdfHeader
from milmer.datasets.deap_files import judge_temperature
from milmer.datasets.folders import inside
from milmer.datasets.mne_files import judge_volts
from milmer.datasets.opened import LastOpened
from milmer.datasets.rated import rating
from milmer.errors import UserError

PADDING = 5.0  # s kept on either side of the clip for the filters, of the 30 s that were recorded
RATINGS: Mapping[str, str] = {
    "valence": "feltVlnc",
    "arousal": "feltArsl",
    "dominance": "feltCtrl",
    "predictability": "feltPred",
}
EMOTIONS: Mapping[int, str] = {
    0: "neutral",
    1: "anger",
    2: "disgust",
    3: "fear",
    4: "joy",
    5: "sadness",
    6: "surprise",
    7: "scream",
    8: "bored",
    9: "sleepy",
    10: "unknown",
    11: "amusement",
    12: "anxiety",
}
_BDF_NAME = re.compile(r"Part_(\d+)_.*?Trial(\d+)_.*\.bdf", re.IGNORECASE)
_FACE = "c1trigger_c_section_"  # the colour camera before the face, in a name without spaces
_VIDEO_NAME = re.compile(r"p(\d+)-rec.*?(?:_section_(\d+))?\.avi")  # likewise
_LARGEST_XML = 1 << 20  # bytes; the publisher's have a few thousand


@dataclass(frozen=True)
class Session:
    """A session folder that has ratings.

    Parameters
    ----------
    folder : Path
        ``Sessions/<id>``.
    number : int
        Its id.
    subject : int
        The participant.
    trial : int or None
        Presentation number, which only the BDF's name gives.
    bdf, video : Path or None
        Body and brain; colour video of the face.
    stimulus, label : str
        The clip's file and the emotion that was felt.
    ratings : dict of str to float
        1 to 9, NaN where not given.
    seconds : float or None
        Length of the face video by its first and last frame.
    notes : tuple of str
        What is odd or missing.
    """

    folder: Path
    number: int
    subject: int
    trial: int | None
    bdf: Path | None
    video: Path | None
    stimulus: str
    label: str
    ratings: Mapping[str, float]
    seconds: float | None
    notes: tuple[str, ...]


def read_session(folder: Path) -> Session | None:
    """Read a session's table and find its files; None where nobody rated it (neutral clips, tagging).

    Raises
    ------
    UserError
        If session.xml cannot be read, a rating is out of range, or two files claim to be the session's.
    """
    path = folder / "session.xml"
    try:
        if path.stat().st_size > _LARGEST_XML:
            raise UserError(f"{path}: {path.stat().st_size:,} bytes, expected a few thousand; get the file again")
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError, LookupError, ValueError) as error:  # the latter of its encoding
        raise UserError(f"{path}: not readable as XML ({error}); get the file again") from error
    if "feltArsl" not in root.attrib:
        return None
    notes = []
    subject = root.find("subject")
    given = "" if subject is None else subject.get("id", "").strip()
    if not given.isdecimal():
        raise UserError(f"{path}: subject is '{given}', expected its number; get the file again")
    ratings = {name: rating(root.get(key), 1, 9, f"{path}: {key}") for name, key in RATINGS.items()}
    emotion = root.get("feltEmo", "").strip()
    label = EMOTIONS.get(int(emotion), "") if emotion.isdecimal() else ""
    if emotion and not label:
        notes.append(f"session {folder.name}: feltEmo is {emotion}, which stands for no emotion: no label")
    said = [track.get("filename", "") for track in root.iter("track") if track.get("type") == "Physiological"]
    bdf = _one(folder, said, [p for p in _files(folder, ".bdf") if "emotion" in p.name.lower()], "BDF")
    said = [track.get("filename", "") for track in root.iter("track") if track.get("color") == "1"]
    video = _one(folder, said, [p for p in _files(folder, ".avi") if _FACE in _plain(p.name)], "face video")
    for what, found in (("BDF: no EEG and no body signals", bdf), ("video of the face (C1 trigger)", video)):
        if found is None:
            notes.append(f"session {folder.name}: no {what}")
    named = _BDF_NAME.fullmatch(_plain(bdf.name)) if bdf is not None else None
    if named and int(named[1]) != int(given):
        raise UserError(f"{path}: is of subject {given}, but {bdf} is of participant {named[1]}; move one away")
    filmed = _VIDEO_NAME.fullmatch(_plain(video.name)) if video is not None else None
    if filmed and int(filmed[1]) != int(given):
        raise UserError(f"{path}: is of subject {given}, but {video} is of participant {filmed[1]}; move one away")
    if filmed and filmed[2] and named and int(filmed[2]) != 2 * int(named[2]):
        # Neutral clips stand between the films: of a recording without a break the k-th film is section 2 k.
        notes.append(
            f"session {folder.name}: the video is section {filmed[2]}, usual is {2 * int(named[2])} for the BDF's "
            f"trial {named[2]}: are they of one trial?"
        )
    return Session(
        folder=folder,
        number=int(folder.name),
        subject=int(given),
        trial=int(named[2]) if named else None,
        bdf=bdf,
        video=video,
        stimulus=root.get("mediaFile", "").strip(),
        label=label,
        ratings=ratings,
        seconds=_seconds(root.attrib),
        notes=tuple(notes),
    )


def _files(folder: Path, ending: str) -> list[Path]:
    # A name that starts with a dot is not the publisher's: macOS leaves such beside copies.
    return [p for p in inside(folder) if p.suffix.lower() == ending and not p.name.startswith(".")]


def _plain(name: str) -> str:
    return re.sub(r"\s+", "", name).lower()  # the publisher's names hold spaces, which copies lose or double


def _one(folder: Path, said: list[str], found: list[Path], what: str) -> Path | None:
    """The file that session.xml names, or the only one whose name fits."""
    named = {_plain(name) for name in said if name}
    chosen = [p for p in inside(folder) if _plain(p.name) in named] or found
    if len(chosen) > 1:
        raise UserError(
            f"{folder}: {' and '.join(p.name for p in sorted(chosen)[:3])} both claim to be its {what}; move one away"
        )
    return chosen[0] if chosen else None


def _seconds(attributes: Mapping[str, str]) -> float | None:
    try:
        begin, end, rate = (float(attributes[k]) for k in ("vidBeginSmp", "vidEndSmp", "vidRate"))
    except (KeyError, ValueError):
        return None
    return (end - begin) / rate if rate > 0 and end > begin else None


def find_clip(header: BdfHeader) -> tuple[int, int]:
    """First sample of the clip and the one after its last: the first two marks of Status, or the one long mark.

    Raises
    ------
    UserError
        If there are no such marks.
    """
    status = [k for k, name in enumerate(header.names) if name.casefold() == "status"]
    if not status:
        raise UserError(f"{header.path}: has no channel Status, so the clip cannot be found; get the file again")
    codes = header.stored(status[0]) & 0xFFFF  # (S,); above are the bits of the amplifier's state
    marked = codes != codes[0]  # (S,); inputs that nothing is plugged into may be high at rest
    starts = np.flatnonzero(marked & (np.diff(codes, prepend=codes[0]) != 0))
    if len(starts) == 1:
        held = int(np.count_nonzero(marked))
        last = int(starts[0]) + held
        if held > header.rate and last < header.samples:
            return int(starts[0]), last
    if len(starts) < 2:
        raise UserError(
            f"{header.path}: found {len(starts)} marks in Status, expected one at the clip's start and one at its end; "
            "get the file again"
        )
    return int(starts[0]), int(starts[1])


Clips = LastOpened[tuple[int, int]]


def clip_of(header: BdfHeader, clips: Clips) -> tuple[int, int]:
    """As `find_clip`, unless it was the last file asked for."""
    return clips.get(header.path, lambda _: find_clip(header))


@dataclass(frozen=True)
class ClipSignal:
    """Channels of a clip as a `Signal`, with up to 5 s before and after: read when called."""

    header: BdfHeader
    clips: Clips = field(compare=False, repr=False)
    plus: tuple[str, ...]
    names: tuple[str, ...]
    minus: tuple[str, ...] = ()  # taken off `plus`, one each
    unit: str = "V"
    judged: bool = False  # whether its size is held against that of EEG

    def __call__(self) -> Signal:
        """Read the stretch.

        Raises
        ------
        UserError
            If the clip cannot be found in the file.
        """
        header = self.header
        first, last = clip_of(header, self.clips)
        margin = round(PADDING * header.rate)
        begin, end = max(0, first - margin), min(header.samples, last + margin)
        index = {name.casefold(): k for k, name in reversed(list(enumerate(header.names)))}
        channels = tuple(index[name.casefold()] for name in (*self.plus, *self.minus))
        samples = header.numbers(channels, begin, end)  # (C, S)
        unit = self.unit
        warnings: tuple[str, ...] = ()
        if unit == "V":
            samples = samples * np.array([header.volts(c) or 1e-6 for c in channels])[:, None]  # (C, S)
            if self.minus:
                samples = samples[: len(self.plus)] - samples[len(self.plus) :]  # (C / 2, S)
            warnings = judge_volts(samples, header.path) if self.judged else ()
        elif unit == "degC":
            unit, warnings = judge_temperature(samples)
        elif unit == "ohm" and header.units[channels[0]].casefold() in ("ns", "us"):
            samples, unit = samples * {"ns": 1e-9, "us": 1e-6}[header.units[channels[0]].casefold()], "S"
        before, after = (first - begin) / header.rate, (end - last) / header.rate
        return Signal(samples, self.names, header.rate, unit, before, after, warnings)
