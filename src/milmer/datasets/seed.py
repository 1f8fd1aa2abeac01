"""SEED as its publisher lays it out: the preprocessed EEG of fifteen films, three times for each of fifteen people.

``Preprocessed_EEG/<subject>_<date>.mat`` holds the films of a session, ``label.mat`` the films' labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from milmer.datasets.base import Recording
from milmer.datasets.folders import find_folder, not_understood
from milmer.datasets.matfile import read_mat
from milmer.datasets.seed_common import (
    SESSIONS,
    SUBJECTS,
    Sitting,
    by_session,
    missing_sessions,
    read_films,
    subject_files,
)
from milmer.errors import UserError

CLASSES: Mapping[int, str] = {-1: "negative", 0: "neutral", 1: "positive"}
FILMS = 15
_FOLDER, _LABELS = "Preprocessed_EEG", "label.mat"
_LAYOUT = f"{_FOLDER}/1_20131027.mat and {_FOLDER}/{_LABELS}"


class SeedStudy:
    """SEED's preprocessed EEG.

    Parameters
    ----------
    root : Path
        The folder that holds Preprocessed_EEG, or that folder.
    name : str, optional
        What the study is called; by default ``seed``.

    Raises
    ------
    UserError
        If the folder is not of this layout.

    Notes
    -----
    A file's date says which session it is: the publisher numbers none, and the earliest is the first. The films are the
    same in every session: a film's name has no session, so that a protocol by stimulus keeps all its viewings together.
    """

    rating_ranges: Mapping[str, tuple[float, float]] = {}

    def __init__(self, root: Path, name: str | None = None) -> None:
        self.root = Path(root)
        self.name = name or "seed"
        self._folder = find_folder(self.root, _FOLDER, _LAYOUT)

    def recordings(self) -> Sequence[Recording]:
        """One recording a subject and session; reads the labels and the files' lists of variables.

        Raises
        ------
        UserError
            If label.mat is missing or wrong, a subject has more files than sessions, or there are none.
        """
        files = self._files()
        if not files:
            raise UserError(f"{self._folder}: found no file such as 1_20131027.mat; unpack Preprocessed_EEG there")
        labels = self._labels()
        stimuli = [f"film{n:02d}" for n in range(1, FILMS + 1)]
        return [
            read_films(Sitting(self.name, subject, session, labels, stimuli), path, [self._folder / _LABELS])
            for (subject, session), path in files.items()
        ]

    def survey(self) -> Sequence[str]:
        """Say what of the publisher's files is not there, and which files are skipped."""
        files = self._files()
        lines = missing_sessions(files, SUBJECTS)
        some = sorted({s for s, _ in files if len([1 for k in files if k[0] == s]) < SESSIONS})
        if some:
            lines.append(
                "sessions are numbered by the dates of the files that are there: where one is missing, the numbers of "
                f"subject {', '.join(map(str, some))} may be too low"
            )
        _, left = subject_files(self._folder, r"\d+_\d{8}\.mat|label\.mat")
        return lines + not_understood(self._folder, left, "1_20131027.mat")

    def _files(self) -> dict[tuple[int, int], Path]:
        taken, _ = subject_files(self._folder, r"(\d+)_(\d{8})\.mat")
        mine: dict[int, list[tuple[str, Path]]] = {}
        for path, match in taken:
            mine.setdefault(int(match[1]), []).append((match[2], path))
        found = []
        for subject, dated in mine.items():
            dates = sorted({date for date, _ in dated})
            if len(dates) > SESSIONS:
                names = ", ".join(p.name for _, p in sorted(dated))
                raise UserError(
                    f"{self._folder}: subject {subject} has {len(dates)} files ({names}), expected {SESSIONS}; "
                    "move away what is not SEED's"
                )
            found += [(path, subject, dates.index(date) + 1) for date, path in dated]
        return by_session(found, "move one away")

    def _labels(self) -> list[str]:
        path = self._folder / _LABELS
        if not path.is_file():
            raise UserError(f"{path}: is missing, and no film has a label without it; it comes with Preprocessed_EEG")
        codes = np.ravel(read_mat(path, ["label"])["label"])  # (15,)
        wrong = codes.size != FILMS or codes.dtype.kind not in "fiu" or not set(codes.tolist()) <= set(CLASSES)
        if wrong:
            raise UserError(f"{path}: label is {codes.tolist()}, expected {FILMS} of -1, 0 and 1; get the file again")
        return [CLASSES[int(code)] for code in codes]
