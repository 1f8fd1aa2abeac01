"""SEED-V as its publisher lays it out: the whole recording of a session, fifteen films cut from it by time.

``EEG_raw/<subject>_<session>_<date>.cnt`` is Neuroscan's format at 1000 Hz. Labels and times stand in the publisher's
text files and are the same for everybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from milmer.datasets.base import Recording
from milmer.datasets.folders import find_folder, not_understood, numbers, unreadable
from milmer.datasets.mne_files import Header, Opened, Span, read_header
from milmer.datasets.opened import LastOpened
from milmer.datasets.seed_common import WITHOUT_PLACE, Sitting, by_session, missing_sessions, subject_files
from milmer.errors import UserError

CLASSES = ("disgust", "fear", "sad", "neutral", "happy")
SUBJECTS = 16
_FOLDER = "EEG_raw"
_LAYOUT = f"{_FOLDER}/1_1_20180804.cnt"
_NAME = r"(\d+)_([123])_\d{8}\.cnt"
_SHORTEST = 1.0  # s: what is left of a film that the file's end cuts


@dataclass(frozen=True)
class Plan:
    """A session's films: their class, and start and end in seconds from the file's first sample."""

    labels: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]


PLANS: Mapping[int, Plan] = {
    1: Plan(
        (4, 1, 3, 2, 0, 4, 1, 3, 2, 0, 4, 1, 3, 2, 0),
        (30, 132, 287, 555, 773, 982, 1271, 1628, 1730, 2025, 2227, 2435, 2667, 2932, 3204),
        (102, 228, 524, 742, 920, 1240, 1568, 1697, 1994, 2166, 2401, 2607, 2901, 3172, 3359),
    ),
    2: Plan(
        (2, 1, 3, 0, 4, 4, 0, 3, 2, 1, 3, 4, 1, 2, 0),
        (30, 299, 548, 646, 836, 1000, 1091, 1392, 1657, 1809, 1966, 2186, 2333, 2490, 2741),
        (267, 488, 614, 773, 967, 1059, 1331, 1622, 1777, 1908, 2153, 2302, 2428, 2709, 2817),
    ),
    3: Plan(
        (2, 1, 3, 0, 4, 4, 0, 3, 2, 1, 3, 4, 1, 2, 0),
        (30, 353, 478, 674, 825, 908, 1200, 1346, 1451, 1711, 2055, 2307, 2457, 2726, 2888),
        (321, 418, 643, 764, 877, 1147, 1284, 1418, 1679, 1996, 2275, 2425, 2664, 2857, 3066),
    ),
}


class SeedVStudy:
    """SEED-V's raw EEG, with the two eye channels.

    Parameters
    ----------
    root : Path
        The folder that holds EEG_raw, or that folder.
    name : str, optional
        What the study is called; by default ``seed-v``.

    Raises
    ------
    UserError
        If the folder is not of this layout.

    Notes
    -----
    Up to 3 s of the recording around a film serve as padding for the filters; the rate stays the file's, and is lowered
    by preparation behind a filter. The sessions show other films: a film's name has its session (``ses1-film01``).
    """

    rating_ranges: Mapping[str, tuple[float, float]] = {}

    def __init__(self, root: Path, name: str | None = None) -> None:
        self.root = Path(root)
        self.name = name or "seed-v"
        self._folder = find_folder(self.root, _FOLDER, _LAYOUT)
        self._opened: Opened = LastOpened()

    def recordings(self) -> Sequence[Recording]:
        """One recording a subject and session; reads the files' headers.

        Raises
        ------
        UserError
            If two files claim one session, or there are none.
        """
        files = self._files()
        if not files:
            raise UserError(f"{self._folder}: found no file such as 1_1_20180804.cnt; unpack EEG_raw there")
        return [self._recording(subject, session, path) for (subject, session), path in files.items()]

    def survey(self) -> Sequence[str]:
        """Say what of the publisher's files is not there, and which files are skipped."""
        left = subject_files(self._folder, _NAME)[1]
        return missing_sessions(self._files(), SUBJECTS) + not_understood(self._folder, left, "1_1_20180804.cnt")

    def _files(self) -> dict[tuple[int, int], Path]:
        taken, _ = subject_files(self._folder, _NAME)
        return by_session([(path, int(match[1]), int(match[2])) for path, match in taken], "move one away")

    def _recording(self, subject: int, session: int, path: Path) -> Recording:
        plan = PLANS[session]
        stimuli = [f"ses{session}-film{n:02d}" for n in range(1, len(plan.labels) + 1)]
        sitting = Sitting(self.name, subject, session, [CLASSES[c] for c in plan.labels], stimuli)
        try:
            header = read_header(path)
        except UserError as error:
            return unreadable(sitting.key, error, [path])
        notes = [WITHOUT_PLACE]
        if not header.eog:
            notes.append(f"{path.name}: has no eye channels (VEO, HEO)")
        trials, missing = [], []
        for film, (start, end) in enumerate(zip(plan.starts, plan.ends, strict=True), start=1):
            first, last = round(start * header.rate), round(end * header.rate)
            cut = min(last, header.samples)
            if cut - first < _SHORTEST * header.rate:
                missing.append(film)
                continue
            if cut < last:
                notes.append(f"{path.name}: film {film} ({start}-{end} s) is cut: the file ends at {_end(header)}")
            kept, eyes = header.clean, header.eog
            eeg = Span(self._opened, path, tuple(kept.kept), kept.names, first, cut, judged=True)
            eog = Span(self._opened, path, tuple(eyes.values()), tuple(eyes), first, cut) if eyes else None
            trials.append(sitting.trial(film, eeg, (cut - first) / header.rate, eog=eog, onset=float(start)))
        if missing:
            notes.append(f"{path.name}: no EEG of film {numbers(missing)}: the file ends at {_end(header)}")
        if not trials:
            why = UserError(f"{path}: ends at {_end(header)}, before the first film; get the file again")
            return unreadable(sitting.key, why, [path])
        return Recording(sitting.key, trials, [path], notes=notes)


def _end(header: Header) -> str:
    return f"{header.samples / header.rate:g} s"
