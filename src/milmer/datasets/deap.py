"""DEAP as its publisher lays it out, and simulated studies in the same layout.

Videos are numbered in the order of presentation, signals and labels in the order of the stimuli (``Experiment_id``);
``participant_ratings.csv`` maps one to the other, and its ratings must be the labels of the signals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from milmer.datasets.base import MARKER, LazySignal, Recording, Trial
from milmer.datasets.deap_files import EEG_NAMES, EOG_NAMES, ICA_LABELS_OFF, PERIPHERAL, Content, Rows, SubjectFile
from milmer.datasets.deap_layout import PYTHON, TABLE, VIDEOS, check_layout, find_videos, layout, numbered
from milmer.datasets.deap_ratings import LABELS, Row, read_ratings
from milmer.datasets.opened import LastOpened
from milmer.errors import UserError


class DeapStudy:
    """DEAP's preprocessed signals, face videos and ratings.

    Parameters
    ----------
    root : Path
        The folder that holds data_preprocessed_python, face_video and metadata_csv.
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

    def __init__(self, root: Path, name: str | None = None) -> None:
        self.root = Path(root)
        simulated = (self.root / MARKER).is_file()
        if simulated and name is not None and "deap" in name.lower():
            why = f"{self.root} is a simulated study, whose figures must not pass for DEAP's"
            raise UserError(f"--name {name}: {why}; give another, such as simulated-2")
        self.name = name or ("simulated" if simulated else "deap")
        self._table = self.root / TABLE
        self._opened: LastOpened[Content] = LastOpened()
        check_layout(self.root, (PYTHON,))

    def recordings(self) -> Sequence[Recording]:
        """One recording a participant with signals or videos, in the table's numbers; reads the table and names only.

        Raises
        ------
        UserError
            If the table cannot be right, or a participant's files have no rows in it.
        """
        table = read_ratings(self._table)
        whole = len(table) == 32 and all(len(rows) == 40 for rows in table.values())
        found = numbered(self.root / PYTHON, r"s(\d+)\.dat") | numbered(self.root / VIDEOS, r"s(\d+)")
        strange = sorted(found - set(table))
        if strange:
            raise UserError(
                f"{self._table}: found no rows for Participant_id {', '.join(map(str, strange[:8]))}, whose files are "
                f"in {self.root}; use the table of the same release or move these files away"
            )
        recordings = [self._recording(number, table[number], whole) for number in sorted(found)]
        if not recordings:
            raise UserError(
                f"{self.root}: found no s01.dat and no videos, expected {layout((PYTHON,))}; unpack DEAP there"
            )
        return recordings

    def _recording(self, number: int, rows: tuple[Row, ...], whole: bool) -> Recording:
        key = f"s{number:02d}"
        signals = self.root / PYTHON / f"{key}.dat"
        notes = []
        subject = None
        if signals.is_file():
            subject = SubjectFile(signals, self._table, rows, self._opened)
        else:
            notes.append(f"{signals.relative_to(self.root)} is missing: no EEG and no peripheral signals")
        videos, video_notes = find_videos(self.root, key, rows)
        site = ("Twente" if number <= 22 else "Geneva") if whole else ""
        trials = []
        for order, row in enumerate(sorted(rows, key=lambda r: r.trial)):
            index = row.experiment - 1
            peripheral: dict[str, LazySignal] = {}
            eeg = eog = None
            if subject is not None:
                eeg = Rows(subject, index, tuple(range(32)), EEG_NAMES, "V", 1e-6, judged=True)
                eog = Rows(subject, index, (32, 33), EOG_NAMES, "V", 1e-6)
                for name, (channel, unit, scale) in PERIPHERAL.items():
                    peripheral[name] = Rows(subject, index, (channel,), (name,), unit, scale)
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
                    duration=60.0 if whole else None,
                    eeg=eeg,
                    eog=eog,
                    peripheral=peripheral,
                    video=videos.get(row.trial),
                    ratings=row.ratings,
                )
            )
        sources = [self._table, *([signals] if subject else []), *videos.values()]
        return Recording(key, trials, sources, ICA_LABELS_OFF, [*notes, *video_notes], subject)
