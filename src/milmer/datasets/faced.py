"""FACED as its publisher lays it out: the preprocessed EEG of 123 people, the last 30 s of 28 films.

``Processed_data/sub000.pkl`` ... hold a pickled array (film, channel, sample), in the films' order and not in that of
presentation. Labels are the films'.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from milmer.datasets.base import Recording, Signal, Trial
from milmer.datasets.folders import find_folder, inside, not_understood, numbers
from milmer.datasets.microvolts import to_volts
from milmer.datasets.opened import LastOpened
from milmer.datasets.safe_pickle import ends_whole, load_array
from milmer.errors import UserError
from milmer.signals.channels import clean_names

RATE = 250.0  # Hz
SECONDS = 30.0
SUBJECTS = 123
# Class of each film, from the first to the last: three films each, four that are neutral.
LABELS = (
    *("anger", "anger", "anger"),
    *("disgust", "disgust", "disgust"),
    *("fear", "fear", "fear"),
    *("sadness", "sadness", "sadness"),
    *("neutral", "neutral", "neutral", "neutral"),
    *("amusement", "amusement", "amusement"),
    *("inspiration", "inspiration", "inspiration"),
    *("joy", "joy", "joy"),
    *("tenderness", "tenderness", "tenderness"),
)
CHANNELS = (
    *("FP1", "FP2", "FZ", "F3", "F4", "F7", "F8", "FC1", "FC2", "FC5", "FC6", "CZ", "C3", "C4", "T7", "T8"),
    *("CP1", "CP2", "CP5", "CP6", "PZ", "P3", "P4", "P7", "P8", "PO3", "PO4", "OZ", "O1", "O2", "A2", "A1"),
)
ICA_LABELS_OFF = (
    "FACED's processed files (0.05-47 Hz, eye components already removed) are outside ICLabel's range of 1-100 Hz: "
    "half of the spectrum that it looks at is empty, and the blinks it knows are gone"
)
SHAPE = (len(LABELS), len(CHANNELS), round(SECONDS * RATE))
_FOLDER = "Processed_data"
_LAYOUT = f"{_FOLDER}/sub000.pkl"
_NAME = re.compile(r"sub(\d{1,3})\.pkl", re.IGNORECASE)

_Open = LastOpened[NDArray[Any]]


@dataclass(frozen=True)
class _Subject:
    """A subject's file, read when first asked for."""

    path: Path
    opened: _Open = field(compare=False, repr=False)

    def __call__(self) -> Sequence[str]:
        """Raise `UserError` where the file's end is missing; what is in it is checked when it is read."""
        ends_whole(self.path)
        return ()

    def content(self) -> NDArray[Any]:
        return self.opened.get(self.path, _read)  # (28, 32, 7500)


@dataclass(frozen=True)
class _Film:
    """The EEG of one film as a `Signal`: read when called."""

    subject: _Subject
    index: int

    def __call__(self) -> Signal:
        clean = clean_names(CHANNELS)
        samples, warnings = to_volts(self.subject.content()[self.index, clean.kept], self.subject.path)  # (C, S)
        return Signal(samples, clean.names, RATE, warnings=warnings)


class FacedStudy:
    """FACED's preprocessed EEG.

    Parameters
    ----------
    root : Path
        The folder that holds Processed_data, or that folder.
    name : str, optional
        What the study is called; by default ``faced``.

    Raises
    ------
    UserError
        If the folder is not of this layout.

    Notes
    -----
    A trial's number is the film's. The order of presentation is another for everybody and is not in these files: all
    trials have the order 0, so that nobody takes the films' order for time. The two mastoids (A1, A2) are left out.
    Time zero is 30 s before a film's end.
    """

    rating_ranges: Mapping[str, tuple[float, float]] = {}

    def __init__(self, root: Path, name: str | None = None) -> None:
        self.root = Path(root)
        self.name = name or "faced"
        self._folder = find_folder(self.root, _FOLDER, _LAYOUT)
        self._opened: _Open = LastOpened()

    def recordings(self) -> Sequence[Recording]:
        """One recording a subject; reads file names only.

        Raises
        ------
        UserError
            If two files claim one subject, or there are none.
        """
        files = self._files()
        if not files:
            raise UserError(f"{self._folder}: found no file such as sub000.pkl; unpack Processed_data there")
        return [self._recording(number, path) for number, path in sorted(files.items())]

    def survey(self) -> Sequence[str]:
        """Say which subjects are missing, which files are skipped and which are of another size than most."""
        files = self._files()
        lines = []
        if absent := set(range(SUBJECTS)) - set(files):
            lines.append(f"no file of subject {numbers(absent)} (the whole study has 0-{SUBJECTS - 1})")
        if files:
            usual = Counter(p.stat().st_size for p in files.values()).most_common(1)[0][0]
            for path in files.values():
                # Pickles of one shape and type differ by some bytes at most.
                if abs((size := path.stat().st_size) - usual) > 1024:
                    lines.append(f"{path.name} has {size:,} bytes, most files have {usual:,}: it may be cut or another")
        taken = set(files.values())
        left = [p for p in self._folder.glob("*.pkl") if p not in taken]
        return lines + not_understood(self._folder, left, "sub000.pkl")

    def _files(self) -> dict[int, Path]:
        found: dict[int, Path] = {}
        for path in inside(self._folder):
            match = _NAME.fullmatch(path.name)
            if match is None:
                continue
            number = int(match[1])
            if number in found:
                raise UserError(f"{path}: subject {number} is claimed by {found[number].name} too; move one away")
            found[number] = path
        return found

    def _recording(self, number: int, path: Path) -> Recording:
        key = f"sub{number:03d}"
        subject = _Subject(path, self._opened)
        trials = [
            Trial(
                study=self.name,
                subject=key,
                trial=film,
                stimulus=f"film{film:02d}",
                recording=key,
                duration=SECONDS,
                eeg=_Film(subject, film - 1),
                label=label,
            )
            for film, label in enumerate(LABELS, start=1)
        ]
        return Recording(key, trials, [path], ICA_LABELS_OFF, check=subject)


def _read(path: Path) -> NDArray[Any]:
    data = load_array(path)
    if data.shape != SHAPE:
        raise UserError(
            f"{path}: found an array {data.shape}, expected {SHAPE} (film, channel, sample); "
            "is it a file of Processed_data?"
        )
    return data
