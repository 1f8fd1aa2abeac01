"""DEAP's preprocessed form as its publisher lays it out, and simulated studies in the same layout.

Videos are numbered in the order of presentation, signals and labels in the order of the stimuli (``Experiment_id``);
``participant_ratings.csv`` maps one to the other, and its ratings must be the labels of the signals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from milmer.datasets.base import MARKER, LazySignal, Recording, Trial
from milmer.datasets.deap_files import EEG_NAMES, EOG_NAMES, ICA_LABELS_OFF, PERIPHERAL, Content, Rows, SubjectFile
from milmer.datasets.deap_layout import (
    EXAMPLES,
    FILMED,
    MATLAB,
    PARTICIPANTS,
    PYTHON,
    TABLE,
    VIDEOS,
    check_layout,
    find_videos,
    layout,
    missing_of_deap,
    numbered,
)
from milmer.datasets.deap_ratings import LABELS, Row, read_ratings
from milmer.datasets.folders import unreadable
from milmer.datasets.opened import LastOpened
from milmer.errors import UserError


@dataclass(frozen=True)
class Signals:
    """One participant's file of signals.

    `of` gives a row's EEG, EOG and peripheral signals, unread; `check` opens the file and says what is odd.
    """

    path: Path
    check: Callable[[], Sequence[str]]
    of: Callable[[Row], tuple[LazySignal, LazySignal | None, Mapping[str, LazySignal]]]
    notes: Sequence[str] = ()


class DeapStudy:
    """DEAP's preprocessed signals, face videos and ratings.

    Parameters
    ----------
    root : Path
        The folder that holds data_preprocessed_python (or data_preprocessed_matlab), face_video and metadata_csv.
    name : str, optional
        What the study is called; by default ``deap``, or ``simulated`` where `milmer simulate` wrote it.

    Raises
    ------
    UserError
        If the folder is not of this layout, or a simulated study is to be called after DEAP.

    Notes
    -----
    A study that `milmer simulate` wrote is never called after DEAP, wherever its figures go.

    A trial's number is its place in the order of presentation, its stimulus is ``e<Experiment_id>``. The site (Twente
    for s01-s22, Geneva for the others) is given only where the table has DEAP's own 32 participants with 40 trials.
    """

    rating_ranges: Mapping[str, tuple[float, float]] = dict.fromkeys(LABELS, (1.0, 9.0)) | {"familiarity": (1.0, 5.0)}
    default_name = "deap"
    folders: Sequence[str] = (PYTHON, MATLAB)  # where signals are looked for, the first that has a participant's first
    seconds: float | None = None  # of a trial, where signals say so, whoever's they are
    faces_alone = True  # a folder of videos without any signals is a study too
    ica_labels_off = ICA_LABELS_OFF

    def __init__(self, root: Path, name: str | None = None) -> None:
        self.root = Path(root)
        self.simulated = (self.root / MARKER).is_file()
        if self.simulated and name is not None and "deap" in name.lower():
            why = f"{self.root} is a simulated study, whose figures must not pass for DEAP's"
            raise UserError(f"--name {name}: {why}; give another, such as simulated-2")
        self.name = name or ("simulated" if self.simulated else self.default_name)
        self._table = self.root / TABLE
        self._opened: LastOpened[Content] = LastOpened()
        check_layout(self.root, self.folders, self.faces_alone)

    def recordings(self) -> Sequence[Recording]:
        """One recording a participant with signals or videos, in the table's numbers; reads the table and names only.

        Raises
        ------
        UserError
            If the table cannot be right, or a participant's files have no rows in it.
        """
        table = read_ratings(self._table)
        whole = len(table) == 32 and all(len(rows) == 40 for rows in table.values())
        found = self._participants()
        strange = sorted(found - set(table))
        if strange:
            raise UserError(
                f"{self._table}: found no rows for Participant_id {', '.join(map(str, strange[:8]))}, whose files are "
                f"in {self.root}; use the table of the same release or move these files away"
            )
        recordings = [self._recording(number, table[number], whole) for number in sorted(found)]
        if not recordings:
            names = " or ".join(Path(EXAMPLES[f]).name for f in self.folders)
            raise UserError(
                f"{self.root}: found no {names} and no videos, expected {layout(self.folders)}; unpack DEAP there"
            )
        return recordings

    def survey(self) -> Sequence[str]:
        """Say what is missing of what the publisher gives out, a line each; nothing of a simulated study.

        Raises
        ------
        UserError
            If the table cannot be right.
        """
        if self.simulated:
            return ()
        return missing_of_deap(self.root, self.folders, read_ratings(self._table), self._participants())

    def _participants(self) -> set[int]:
        found = numbered(self.root / VIDEOS)
        for folder in self.folders:
            found |= numbered(self.root / folder, Path(EXAMPLES[folder]).suffix)
        return found

    def _signals(self, path: Path, rows: tuple[Row, ...]) -> Signals:
        """Describe a participant's file without reading it."""
        subject = SubjectFile(path, self._table, rows, self._opened)

        def of(row: Row) -> tuple[LazySignal, LazySignal, Mapping[str, LazySignal]]:
            index = row.experiment - 1
            eeg = Rows(subject, index, tuple(range(32)), EEG_NAMES, "V", 1e-6, judged=True)
            eog = Rows(subject, index, (32, 33), EOG_NAMES, "V", 1e-6)
            return eeg, eog, {n: Rows(subject, index, (c,), (n,), unit, by) for n, (c, unit, by) in PERIPHERAL.items()}

        return Signals(path, subject, of)

    def _recording(self, number: int, rows: tuple[Row, ...], whole: bool) -> Recording:
        key = f"s{number:02d}"
        paths = [self.root / f / f"{key}{Path(EXAMPLES[f]).suffix}" for f in self.folders]
        there = [p for p in paths if p.is_file()]
        signals = self._signals(there[0], rows) if there else None
        notes = list(signals.notes) if signals else []
        if signals is None:
            names = " or ".join(
                p.relative_to(self.root).as_posix() for p in paths if p.parent.is_dir() or p == paths[0]
            )
            notes.append(f"{names} is missing: no EEG and no peripheral signals")
        elif len(there) > 1:
            notes.append(f"{there[0].parent.name} is read, not {there[1].parent.name}, which is there too")
        try:
            videos, video_notes = find_videos(self.root, key, rows)
        except UserError as error:
            return unreadable(key, error, [self._table, *there])
        if whole and number > FILMED and not videos:
            video_notes = [f"no videos: the faces of s{FILMED + 1:02d}-s{PARTICIPANTS} were not filmed"]
        site = ("Twente" if number <= 22 else "Geneva") if whole else ""
        trials = []
        for order, row in enumerate(sorted(rows, key=lambda r: r.trial)):
            eeg, eog, peripheral = signals.of(row) if signals else (None, None, {})
            trials.append(
                Trial(
                    study=self.name,
                    subject=key,
                    trial=row.trial,
                    stimulus=f"e{row.experiment:02d}",
                    site=site,
                    recording=key,
                    order=order,
                    onset=row.start,
                    duration=60.0 if whole else self.seconds,
                    eeg=eeg,
                    eog=eog,
                    peripheral=peripheral,
                    video=videos.get(row.trial),
                    ratings=row.ratings,
                )
            )
        sources = [self._table, *([signals.path] if signals else []), *videos.values()]
        check = signals.check if signals else None
        return Recording(key, trials, sources, self.ica_labels_off, [*notes, *video_notes], check)
