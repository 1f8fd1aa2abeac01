"""SEED-IV as its publisher lays it out: twenty-four films a session, other films in each of three sessions.

``eeg_raw_data/<session>/<subject>_<date>.mat`` holds the films of a session. The labels stand in the publisher's
ReadMe and nowhere in the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from milmer.datasets.base import Recording
from milmer.datasets.folders import find_folder, not_understood
from milmer.datasets.seed_common import SUBJECTS, Sitting, by_session, missing_sessions, read_films, subject_files
from milmer.errors import UserError

CLASSES = ("neutral", "sad", "fear", "happy")
LABELS: Mapping[int, tuple[int, ...]] = {
    1: (1, 2, 3, 0, 2, 0, 0, 1, 0, 1, 2, 1, 1, 1, 2, 3, 2, 2, 3, 3, 0, 3, 0, 3),
    2: (2, 1, 3, 0, 0, 2, 0, 2, 3, 3, 2, 3, 2, 0, 1, 1, 2, 1, 0, 3, 0, 1, 3, 1),
    3: (1, 2, 2, 1, 3, 3, 3, 1, 1, 2, 1, 0, 2, 3, 3, 0, 2, 3, 0, 0, 2, 0, 1, 0),
}
_FOLDER = "eeg_raw_data"
_LAYOUT = f"{_FOLDER}/1/1_20160518.mat, {_FOLDER}/2 and {_FOLDER}/3"
_NAME = r"(\d+)_\d{8}\.mat"


class SeedIVStudy:
    """SEED-IV's EEG.

    Parameters
    ----------
    root : Path
        The folder that holds eeg_raw_data, or that folder.
    name : str, optional
        What the study is called; by default ``seed-iv``.

    Raises
    ------
    UserError
        If the folder is not of this layout.

    Notes
    -----
    The sessions show other films: a film's name has its session (``ses1-film01``).
    """

    rating_ranges: Mapping[str, tuple[float, float]] = {}

    def __init__(self, root: Path, name: str | None = None) -> None:
        self.root = Path(root)
        self.name = name or "seed-iv"
        self._folder = find_folder(self.root, _FOLDER, _LAYOUT)

    def recordings(self) -> Sequence[Recording]:
        """One recording a subject and session; reads the files' lists of variables.

        Raises
        ------
        UserError
            If two files claim one session, or there are none.
        """
        files = self._files()
        if not files:
            raise UserError(f"{self._folder}: found no file such as 1/1_20160518.mat; unpack eeg_raw_data there")
        return [read_films(self._sitting(subject, session), path) for (subject, session), path in files.items()]

    def survey(self) -> Sequence[str]:
        """Say what of the publisher's files is not there, and which files are skipped."""
        lines = missing_sessions(self._files(), SUBJECTS)
        for folder in self._sessions().values():
            lines += not_understood(folder, subject_files(folder, _NAME)[1], "1_20160518.mat")
        return lines

    def _sitting(self, subject: int, session: int) -> Sitting:
        codes = LABELS[session]
        stimuli = [f"ses{session}-film{n:02d}" for n in range(1, len(codes) + 1)]
        return Sitting(self.name, subject, session, [CLASSES[c] for c in codes], stimuli)

    def _sessions(self) -> dict[int, Path]:
        return {n: self._folder / str(n) for n in LABELS if (self._folder / str(n)).is_dir()}

    def _files(self) -> dict[tuple[int, int], Path]:
        found = []
        for session, folder in self._sessions().items():
            found += [(path, int(match[1]), session) for path, match in subject_files(folder, _NAME)[0]]
        return by_session(found, "move one away")
