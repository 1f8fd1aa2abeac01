"""AMIGOS, preprocessed: 40 subjects, 16 short and 4 long videos, EEG of 14 channels, ECG and GSR.

Short and long videos were shown in two experiments, on different days: they are two sessions of a subject, each a
recording of its own (electrodes were put on anew). A trial's number is its place in the file, its stimulus the
publisher's VideoIDs; the file does not say when a video was shown, so trials have no order. Self-assessments have
arousal first, then valence. The 5 s before a video serve as padding. How the face videos' files are named is not
public, so they are not read.

Miranda-Correa et al. (2021), AMIGOS: a dataset for affect, personality and mood research on individuals and groups,
IEEE Transactions on Affective Computing 12(2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milmer.datasets.base import Recording, Signal, Trial
from milmer.datasets.folders import not_understood, numbers, unreadable
from milmer.datasets.matfile import Left, Place, mat_variables, read_mat
from milmer.datasets.microvolts import to_volts
from milmer.datasets.opened import LastOpened
from milmer.datasets.rated import rating
from milmer.errors import UserError

RATE, BASELINE = 128.0, 5.0  # Hz; s before every video
SUBJECTS, SHORT, VIDEOS = 40, 16, 20
EEG_NAMES = ("AF3", "F7", "F3", "FC5", "T7", "P7", "O1", "O2", "P8", "T8", "FC6", "F4", "F8", "AF4")
PERIPHERAL: Mapping[str, int] = {"ecg-right": 14, "ecg-left": 15, "gsr": 16}  # name -> column
RATINGS = ("arousal", "valence", "dominance", "liking", "familiarity")  # in the file's order
EMOTIONS = ("neutral", "disgust", "happiness", "surprise", "anger", "fear", "sadness")  # behind them, 0 or 1
ICA_LABELS_OFF = "AMIGOS's preprocessed EEG (14 channels, 128 Hz, 4-45 Hz) is outside ICLabel's range of 1-100 Hz"
_COLUMNS = 17
_SIGNALS, _LABELS, _IDS = "joined_data", "labels_selfassessment", "VideoIDs"
_LAYOUT = "Data_Preprocessed_P01.mat ... Data_Preprocessed_P40.mat"
_NAME = re.compile(r"Data_Preprocessed_P(\d+)\.mat", re.IGNORECASE)


@dataclass(frozen=True)
class _Session:
    """The signals of one subject's short or long videos: read together, when first asked for."""

    path: Path
    block: str
    shown: tuple[int, ...]  # places of its trials in the file, from 0
    opened: LastOpened[list[Any]] = field(compare=False, repr=False)
    outlines: LastOpened[list[Any]] = field(compare=False, repr=False)

    def __call__(self) -> Sequence[str]:
        """Check the shapes of all trials, without keeping a signal.

        Raises
        ------
        UserError
            If the file is damaged or not of this layout.
        """
        found = self.outlines.get(self.path, lambda path: _trials(path, lambda _: False))
        lines = []
        for index in self.shown:
            shape: tuple[int, ...] = found[index].shape if index < len(found) else (0,)
            if 0 in shape:
                lines.append(f"trial {index + 1}: rated, but {_SIGNALS} has nothing of it: no EEG")
            elif len(shape) != 2 or shape[1] != _COLUMNS or shape[0] < (BASELINE + 1) * RATE:
                raise UserError(
                    f"{self.path}: trial {index + 1}: found {_SIGNALS} {shape}, expected (samples, {_COLUMNS}) with "
                    f"{BASELINE:g} s of baseline and at least 1 s at {RATE:g} Hz; get the file again"
                )
        return lines

    def samples(self, index: int) -> NDArray[np.float64]:
        """Read a trial, shape (S, 17); a trial without signals is NaN."""

        def of_session(place: Place) -> bool:
            return place[0] == _SIGNALS and place[1] in self.shown

        # A name for each session's part of the file: LastOpened keeps one at a time.
        found = self.opened.get(self.path / self.block, lambda _: _trials(self.path, of_session))
        if index >= len(found) or found[index].size == 0:
            return np.full((round((BASELINE + 1) * RATE), _COLUMNS), np.nan)
        return np.asarray(found[index])


@dataclass(frozen=True)
class _Columns:
    """Some columns of one trial as a `Signal`: read when called."""

    session: _Session
    index: int
    columns: tuple[int, ...]
    names: tuple[str, ...]
    volts: bool = False

    def __call__(self) -> Signal:
        samples = self.session.samples(self.index)[:, list(self.columns)].T  # (C, S)
        if not self.volts:
            return Signal(samples.astype(np.float64), self.names, RATE, "1", pad_before=BASELINE)
        volts, odd = to_volts(samples, self.session.path)  # (C, S)
        return Signal(volts, self.names, RATE, pad_before=BASELINE, warnings=odd)


class AmigosStudy:
    """AMIGOS's preprocessed Matlab files.

    Parameters
    ----------
    root : Path
        The folder that holds Data_Preprocessed_P01.mat and the others, or their unpacked folders.
    name : str, optional
        What the study is called; by default ``amigos``.

    Raises
    ------
    UserError
        If there is no such file, or two of one subject.

    Notes
    -----
    The publisher gives no unit for ECG and GSR: they are kept as they are. A trial's `label` is the basic emotion that
    was chosen, where it was exactly one.
    """

    rating_ranges: Mapping[str, tuple[float, float]] = dict.fromkeys(RATINGS, (1.0, 9.0))

    def __init__(self, root: Path, name: str | None = None) -> None:
        self.root, self.name = Path(root), name or "amigos"
        self._files = _find(self.root)
        self._opened: LastOpened[list[Any]] = LastOpened()
        self._outlines: LastOpened[list[Any]] = LastOpened()

    def recordings(self) -> Sequence[Recording]:
        """One recording a subject and session (``short``, ``long``); reads the self-assessments only."""
        return [recording for number in self._files for recording in self._of(number)]

    def survey(self) -> Sequence[str]:
        """Say which subjects, sessions and trials are not there or are left out."""
        lines = []
        if missing := sorted(set(range(1, SUBJECTS + 1)) - set(self._files)):
            lines.append(f"no file of subject {numbers(missing)}, of {SUBJECTS}")
        folders = {path.parent for path in self._files.values()}
        for folder in sorted(folders):
            others = [p for p in folder.glob("*.mat") if not _NAME.fullmatch(p.name)]
            lines += not_understood(folder, others, "Data_Preprocessed_P01.mat")
        for number in self._files:
            found = {t.trial for r in self._of(number) for t in r.trials}
            if absent := sorted(set(range(1, VIDEOS + 1)) - found):
                lines.append(f"p{number:02d}: left out, for no rating: trial {numbers(absent)}")
        return lines

    def _of(self, number: int) -> list[Recording]:
        path, key = self._files[number], f"p{number:02d}"
        try:
            rated, ids, notes = _assessments(path)
            made = [self._recording(key, path, block, rated, ids, notes) for block in ("short", "long")]
        except UserError as error:
            return [unreadable(key, error, [path])]
        return [recording for recording in made if recording.trials]

    def _recording(
        self, key: str, path: Path, block: str, rated: list[NDArray[Any]], ids: list[str], notes: list[str]
    ) -> Recording:
        places = range(SHORT) if block == "short" else range(SHORT, len(rated))
        shown = tuple(k for k in places if k < len(rated) and np.isfinite(rated[k][: len(RATINGS)]).any())
        session = _Session(path, block, shown, self._opened, self._outlines)
        trials = []
        for index in shown:
            where = f"{path}: trial {index + 1}: "
            values = {n: rating(v, 1, 9, where + n) for n, v in zip(RATINGS, rated[index], strict=False)}
            chosen = [n for n, v in zip(EMOTIONS, rated[index][len(RATINGS) :], strict=False) if v == 1]
            columns = partial(_Columns, session, index)
            trials.append(
                Trial(
                    study=self.name,
                    subject=key,
                    session=block,
                    trial=index + 1,
                    stimulus=ids[index] if index < len(ids) else f"v{index + 1:02d}",
                    recording=f"{key}-{block}",
                    block=block,
                    eeg=columns(tuple(range(len(EEG_NAMES))), EEG_NAMES, volts=True),
                    ecg=columns((14, 15), ("ecg-right", "ecg-left")),
                    peripheral={n: columns((c,), (n,)) for n, c in PERIPHERAL.items()},
                    ratings=values,
                    label=chosen[0] if len(chosen) == 1 else "",
                )
            )
        return Recording(f"{key}_ses-{block}", trials, [path], ICA_LABELS_OFF, notes, session)


def _find(root: Path) -> dict[int, Path]:
    """Files by subject, in the folder or up to two folders below it."""
    if not root.is_dir():
        raise UserError(f"{root}: found {'a file' if root.exists() else 'nothing'}, expected a folder with {_LAYOUT}")
    found: dict[int, Path] = {}
    for path in sorted(p for depth in ("*", "*/*", "*/*/*") for p in root.glob(f"{depth}.mat")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        number = int(match[1])
        if number in found:
            raise UserError(f"{root}: {found[number]} and {path} are both of subject {number}; move one away")
        found[number] = path
    if not found:
        zips = sorted(p.name for p in root.glob("*.zip"))
        here = ", ".join(zips[:3] or sorted(p.name for p in root.iterdir())[:6]) or "nothing"
        mend = "unpack them there" if zips else "unpack the publisher's archives there"
        raise UserError(f"{root}: found {here}, expected {_LAYOUT}; {mend}")
    return dict(sorted(found.items()))


def _cells(value: Any) -> list[Any]:
    """Items of a cell array, each freed from cells of one item around it."""
    items = list(value.ravel(order="F")) if isinstance(value, np.ndarray) and value.dtype == object else [value]
    return [_bare(item) for item in items]


def _bare(value: Any) -> Any:
    while isinstance(value, np.ndarray) and value.dtype == object and value.size == 1:
        value = value.flat[0]
    return value


def _assessments(path: Path) -> tuple[list[NDArray[Any]], list[str], list[str]]:
    """Self-assessments (empty where there are none), video names and notes, one a place."""
    there = mat_variables(path)
    for name in (_SIGNALS, _LABELS):
        if name not in there:
            raise UserError(
                f"{path}: has no variable {name}; found {', '.join(list(there)[:8]) or 'none'}; is it AMIGOS?"
            )
    content = read_mat(path, [n for n in (_LABELS, _IDS) if n in there])
    rated = []
    for k, item in enumerate(_cells(content[_LABELS]), start=1):
        values = np.asarray(item, dtype=np.float64).ravel() if _is_numbers(item) else None  # (12,)
        if values is None or values.size not in (0, len(RATINGS), len(RATINGS) + len(EMOTIONS)):
            what = values.shape if values is not None else type(item).__name__
            raise UserError(f"{path}: trial {k}: found {_LABELS} {what}, expected 12 numbers; get the file again")
        rated.append(values)
    if len(rated) > VIDEOS or len(rated) < SHORT:
        raise UserError(f"{path}: found {len(rated)} trials in {_LABELS}, expected {VIDEOS}; get the file again")
    ids = [str(v).strip() for v in _cells(content.get(_IDS, ""))]
    if len(ids) != len(rated) or not all(ids) or len(set(ids)) != len(ids):
        note = f"{path.name}: {_IDS} does not name each of {len(rated)} videos: stimuli are called by their place"
        return rated, [], [note]
    return rated, ids, []


def _is_numbers(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub"


def _trials(path: Path, wanted: Any) -> list[Any]:
    """Signals of all trials: arrays, or their shapes where they are not wanted."""
    found = _cells(read_mat(path, [_SIGNALS], wanted)[_SIGNALS])
    for k, item in enumerate(found, start=1):
        if not (_is_numbers(item) or isinstance(item, Left) or (isinstance(item, np.ndarray) and item.size == 0)):
            what = "text" if isinstance(item, str) else type(item).__name__
            raise UserError(f"{path}: trial {k}: found {what} in {_SIGNALS}, expected numbers; get the file again")
    return found
