"""EAV as its publisher lays it out: conversations of 42 people with EEG, voice and the face on video.

``subject<N>/EEG`` holds the EEG of 200 stretches of 20 s and their classes, ``subject<N>/Video`` a video a stretch,
numbered in the same order.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milmer.datasets.base import Recording, Signal, Trial
from milmer.datasets.folders import inside, numbers, unreadable
from milmer.datasets.matfile import mat_variables, read_mat
from milmer.datasets.microvolts import to_volts
from milmer.datasets.opened import LastOpened
from milmer.errors import UserError
from milmer.signals.channels import clean_names

RATE = 500.0  # Hz
SECONDS = 20.0
SUBJECTS = 42
TRIALS = 200  # a subject
CLASSES = ("neutral", "sadness", "anger", "happiness", "calmness")
BLOCKS = ("listening", "speaking")  # of row 2 x class and of row 2 x class + 1
CHANNELS = (
    *("Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "FC5", "FC1", "FC2", "FC6", "T7", "C3", "Cz", "C4", "T8"),
    *("CP5", "CP1", "CP2", "CP6", "P7", "P3", "Pz", "P4", "P8", "PO9", "O1", "Oz", "O2", "PO10"),
)
_VARIABLES = ("seg1", "seg")  # the first wins where a file has both
_LAYOUT = "subject1/EEG/subject1_eeg.mat, subject1/EEG/subject1_eeg_label.mat and subject1/Video"
_SUBJECT = re.compile(r"subject[ _]?(\d+)_*", re.IGNORECASE)
_VIDEO = re.compile(r"(\d+)_(.*)\.(?:mp4|avi|mov|mkv)", re.IGNORECASE)

_Open = LastOpened[NDArray[Any]]


@dataclass(frozen=True)
class _File:
    """A subject's EEG: which variable of which file, for so many trials."""

    path: Path
    variable: str
    shape: tuple[int, ...]
    opened: _Open = field(compare=False, repr=False)

    def content(self) -> NDArray[Any]:
        return self.opened.get(self.path, self._read)  # (S, 30, trials)

    def _read(self, path: Path) -> NDArray[Any]:
        values = read_mat(path, [self.variable])[self.variable]
        if getattr(values, "shape", None) != self.shape:
            raise UserError(f"{path}: {self.variable} is not the array {self.shape} it was; list the study again")
        found: NDArray[Any] = values
        return found


@dataclass(frozen=True)
class _Stretch:
    """The EEG of one trial as a `Signal`: read when called."""

    file: _File
    index: int

    def __call__(self) -> Signal:
        clean = clean_names(CHANNELS)
        values = self.file.content()[:, :, self.index].T  # (30, S)
        samples, warnings = to_volts(values[clean.kept], self.file.path)  # (C, S)
        return Signal(samples, clean.names, RATE, warnings=warnings)


class EavStudy:
    """EAV's EEG and face videos.

    Parameters
    ----------
    root : Path
        The folder that holds subject1 (or subject01), subject2, ...
    name : str, optional
        What the study is called; by default ``eav``.

    Raises
    ------
    UserError
        If the folder is not of this layout.

    Notes
    -----
    A trial's block is ``listening`` or ``speaking``. Trials have no stimulus: each is a stretch of a conversation, the
    files do not say which script it belongs to, and the same number is not known to be the same words for two people.
    Listening and speaking to one script stand side by side, so a protocol by trial may part them.
    """

    rating_ranges: Mapping[str, tuple[float, float]] = {}

    def __init__(self, root: Path, name: str | None = None) -> None:
        self.root = Path(root)
        self.name = name or "eav"
        self._opened: _Open = LastOpened()
        if not self._folders():
            self._refuse()

    def recordings(self) -> Sequence[Recording]:
        """One recording a subject; reads the labels, the lists of variables and the videos' names.

        Raises
        ------
        UserError
            If two folders claim one subject.
        """
        return [self._recording(number, folder) for number, folder in self._folders().items()]

    def survey(self) -> Sequence[str]:
        """Say which subjects are missing and which have other than the usual number of trials or videos."""
        folders = self._folders()
        lines = []
        if absent := set(range(1, SUBJECTS + 1)) - set(folders):
            lines.append(f"no folder of subject {numbers(absent)} (the whole study has {SUBJECTS})")
        for recording in self.recordings():
            if recording.trials and len(recording.trials) != TRIALS:
                lines.append(f"{recording.key}: {len(recording.trials)} trials, {TRIALS} are usual")
        return lines

    def _folders(self) -> dict[int, Path]:
        found: dict[int, Path] = {}
        for path in inside(self.root) if self.root.is_dir() else []:
            match = _SUBJECT.fullmatch(path.name)
            if match is None or not path.is_dir():
                continue
            number = int(match[1])
            if number in found:
                raise UserError(f"{path}: subject {number} is claimed by {found[number].name} too; move one away")
            found[number] = path
        return dict(sorted(found.items()))

    def _refuse(self) -> None:
        if not self.root.is_dir():
            what = "a file" if self.root.exists() else "nothing"
            raise UserError(f"{self.root}: found {what}, expected a folder with {_LAYOUT}")
        children = [p for p in inside(self.root) if p.is_dir()]
        likely = [p for p in children if os.access(p, os.R_OK) and any(_SUBJECT.fullmatch(c.name) for c in inside(p))]
        if _SUBJECT.fullmatch(self.root.resolve().name):
            likely.append(self.root.resolve().parent)
        here = ", ".join(p.name for p in children[:6]) or "no folders"
        mend = f"give {likely[0]} instead" if likely else "unpack EAV there"
        raise UserError(f"{self.root}: found {here}, expected {_LAYOUT}; {mend}")

    def _recording(self, number: int, folder: Path) -> Recording:
        key = f"s{number:02d}"
        labels = signals = None
        notes: list[str] = []
        try:
            labels = _find(folder, rf"subject_?0*{number}_+eeg_label\.mat")
            signals = _find(folder, rf"subject_?0*{number}_+eeg\.mat")
            if labels is None:
                raise UserError(
                    f"{folder / 'EEG'}: subject{number}_eeg_label.mat is missing, and no trial has a class without it; "
                    "unpack EAV again"
                )
            rows = _read_labels(labels)
            file = None if signals is None else self._file(signals, len(rows), notes)
            videos = _videos(folder, rows, notes)
        except UserError as error:
            return unreadable(key, error, [p for p in (labels, signals) if p is not None])
        if signals is None:
            notes.append(f"{folder.name}: subject{number}_eeg.mat is missing: no EEG")
        trials = [
            Trial(
                study=self.name,
                subject=key,
                trial=index + 1,
                stimulus="",
                recording=key,
                block=BLOCKS[row % 2],
                order=index,
                duration=SECONDS if file is None else file.shape[0] / RATE,
                eeg=None if file is None else _Stretch(file, index),
                video=videos.get(index + 1),
                label=CLASSES[row // 2],
            )
            for index, row in enumerate(rows)
        ]
        sources = [labels, *([signals] if signals else []), *videos.values()]
        return Recording(key, trials, sources, notes=notes)

    def _file(self, path: Path, count: int, notes: list[str]) -> _File:
        shapes = mat_variables(path)
        usable = [n for n in _VARIABLES if len(shapes.get(n, ())) == 3]
        if not usable:
            some = ", ".join(f"{n} {s}" for n, s in list(shapes.items())[:6]) or "nothing"
            raise UserError(f"{path}: found {some}, expected seg or seg1 (10000, 30, {TRIALS}); get the file again")
        name = usable[0]
        shape = shapes[name]
        if shape[0] < RATE or shape[1:] != (len(CHANNELS), count):
            raise UserError(
                f"{path}: {name} is {shape}, expected (samples, {len(CHANNELS)}, {count}) for the {count} labels; "
                "both files must come from the same release, unchanged"
            )
        if len(usable) > 1:
            notes.append(f"{path.name}: holds {' and '.join(usable)}; {name} is read")
        return _File(path, name, shape, self._opened)


def _find(folder: Path, pattern: str) -> Path | None:
    inner = next((p for p in inside(folder) if p.name == "EEG"), None)
    names = inside(inner) if inner is not None else []
    found = [p for p in names if re.fullmatch(pattern, p.name, re.IGNORECASE)]
    if len(found) > 1:
        raise UserError(f"{found[1]}: {found[0].name} claims the same trials; move one away")
    return found[0] if found else None


def _read_labels(path: Path) -> list[int]:
    """Return the row (2 x class, one more where the subject speaks) of each trial."""
    values = read_mat(path, ["label"])["label"]  # (10, trials)
    count = len(CLASSES) * len(BLOCKS)
    if (
        getattr(values, "ndim", 0) != 2
        or values.shape[0] != count
        or not values.size
        or values.dtype.kind not in "fiub"
    ):
        raise UserError(
            f"{path}: label is {getattr(values, 'shape', type(values).__name__)}, expected ({count}, {TRIALS}); "
            "get the file again"
        )
    wrong = ((values != 0) & (values != 1)).any(axis=0) | (values.sum(axis=0) != 1)  # (trials,)
    if wrong.any():
        raise UserError(
            f"{path}: trial {numbers(int(k) + 1 for k in np.flatnonzero(wrong)[:8])} has none or several of the "
            f"classes ({int(wrong.sum())} such), expected a single 1 in each column; get the file again"
        )
    return [int(row) for row in values.argmax(axis=0)]


def _videos(folder: Path, rows: Sequence[int], notes: list[str]) -> dict[int, Path]:
    """Return trial -> video; the words in a video's name must be the trial's.

    Raises
    ------
    UserError
        If two videos have one number, or a name's words are another trial's.
    """
    inner = folder / "Video"
    found: dict[int, Path] = {}
    for path in inside(inner) if inner.is_dir() else []:
        match = _VIDEO.fullmatch(path.name)
        if match is None or path.name.startswith("."):
            continue
        trial = int(match[1])
        if trial in found:
            raise UserError(f"{path}: trial {trial} is claimed by {found[trial].name} too; move one away")
        if not 1 <= trial <= len(rows):
            notes.append(f"left out, for no label has its number: {path.name}")
            continue
        row = rows[trial - 1]
        words = set(match[2].lower().split("_"))
        given = words & set(BLOCKS), words & set(CLASSES)
        wanted = {BLOCKS[row % 2]}, {CLASSES[row // 2]}
        if any(g and g != w for g, w in zip(given, wanted, strict=True)):
            raise UserError(
                f"{path}: its label is {BLOCKS[row % 2]}, {CLASSES[row // 2]}; names and labels must come from the "
                "same release, unchanged"
            )
        found[trial] = path
    if not inner.is_dir():
        notes.append(f"{folder.name}/Video is missing: no videos")
    elif missing := set(range(1, len(rows) + 1)) - set(found):
        notes.append(f"no video of trial {numbers(missing)}")
    return found
