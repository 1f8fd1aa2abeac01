"""What SEED, SEED-IV and SEED-V share: the cap, the films in Matlab files, labels by film."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from milmer.datasets.base import LazySignal, Recording, Signal, Trial
from milmer.datasets.folders import inside, numbers, unreadable
from milmer.datasets.matfile import mat_variables, read_mat
from milmer.datasets.microvolts import to_volts
from milmer.errors import UserError
from milmer.signals.channels import clean_names

RATE = 200.0  # Hz, of the Matlab files
SUBJECTS = 15  # of SEED and SEED-IV
SESSIONS = 3
# Rows of the Matlab files, from the front row of the cap to the back.
CHANNELS = (
    *("FP1", "FPZ", "FP2", "AF3", "AF4"),
    *("F7", "F5", "F3", "F1", "FZ", "F2", "F4", "F6", "F8"),
    *("FT7", "FC5", "FC3", "FC1", "FCZ", "FC2", "FC4", "FC6", "FT8"),
    *("T7", "C5", "C3", "C1", "CZ", "C2", "C4", "C6", "T8"),
    *("TP7", "CP5", "CP3", "CP1", "CPZ", "CP2", "CP4", "CP6", "TP8"),
    *("P7", "P5", "P3", "P1", "PZ", "P2", "P4", "P6", "P8"),
    *("PO7", "PO5", "PO3", "POZ", "PO4", "PO6", "PO8"),
    *("CB1", "O1", "OZ", "O2", "CB2"),
)
# CB1 and CB2 sit below O1 and O2, over the cerebellum. No publisher gives their coordinates and the 10-05 system has no
# such name: a guessed place would move what they measured to another electrode's.
WITHOUT_PLACE = "CB1 and CB2 are left out, for the 10-05 system has no place for them"
_VARIABLE = re.compile(r"(?:(?P<prefix>.*)_)?eeg_?(?P<film>\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Film:
    """The EEG of one film in a Matlab file as a `Signal` in volts: that variable alone is read when called."""

    path: Path
    variable: str

    def __call__(self) -> Signal:
        """Read the film's array.

        Raises
        ------
        UserError
            If the file cannot be read or the array is not (62, samples) of numbers.
        """
        values = read_mat(self.path, [self.variable])[self.variable]  # (62, S)
        _check_shape(self.path, self.variable, getattr(values, "shape", ()))
        clean = clean_names(CHANNELS)
        samples, warnings = to_volts(values[clean.kept], self.path)  # (C, S)
        return Signal(samples, clean.names, RATE, warnings=warnings)


@dataclass(frozen=True)
class Sitting:
    """One subject's session.

    `labels` has one name a film, in the order of the films, and `stimuli` their names.
    """

    study: str
    subject: int
    session: int
    labels: Sequence[str]
    stimuli: Sequence[str]

    @property
    def key(self) -> str:
        """Folder in the store."""
        return f"s{self.subject:02d}_ses-{self.session}"

    def trial(
        self,
        film: int,
        eeg: LazySignal,
        seconds: float,
        *,
        eog: LazySignal | None = None,
        onset: float | None = None,
    ) -> Trial:
        """Return the trial of a film (from 1), `seconds` long, from `onset` of its recording on."""
        return Trial(
            study=self.study,
            subject=f"s{self.subject:02d}",
            session=str(self.session),
            recording=self.key,
            trial=film,
            order=film - 1,
            stimulus=self.stimuli[film - 1],
            label=self.labels[film - 1],
            onset=onset,
            duration=seconds,
            eeg=eeg,
            eog=eog,
        )


def film_variables(path: Path, films: int) -> dict[int, tuple[str, float]]:
    """Find the films in a Matlab file by what stands behind the prefix, which is another in every file.

    Parameters
    ----------
    path : Path
        The file; only its list of variables is read.
    films : int
        How many films there were.

    Returns
    -------
    dict of int to (str, float)
        Film (from 1) -> its variable and seconds. Films without a second of EEG are left out.

    Raises
    ------
    UserError
        If the file cannot be read, holds no films, two of one number, one too many, or an array of another shape.
    """
    found: dict[int, tuple[str, float]] = {}
    variables = mat_variables(path)
    for name, shape in variables.items():
        match = _VARIABLE.fullmatch(name)
        if match is None:
            continue
        film = int(match["film"])
        if film in found:
            raise UserError(
                f"{path}: {found[film][0]} and {name} both claim film {film}; one file holds one session: get it again"
            )
        if not 1 <= film <= films:
            raise UserError(f"{path}: found {name}, expected films 1-{films}; is it a file of this study?")
        if shape and min(shape) == 0:
            continue
        _check_shape(path, name, shape)
        if shape[1] >= RATE:
            found[film] = (name, shape[1] / RATE)
    if not found:
        some = ", ".join(list(variables)[:8]) or "nothing"
        raise UserError(f"{path}: found {some}, expected films such as xyz_eeg1; is it a file of this study?")
    return found


def read_films(sitting: Sitting, path: Path, sources: Sequence[Path] = ()) -> Recording:
    """Return a session's recording; a file that cannot be read becomes one that is refused when it is checked.

    Parameters
    ----------
    sitting : Sitting
        Whose it is, and the films' labels.
    path : Path
        The Matlab file.
    sources : sequence of Path
        What else it is made from.
    """
    sources = [path, *sources]
    try:
        found = film_variables(path, len(sitting.labels))
    except UserError as error:
        return unreadable(sitting.key, error, sources)
    notes = [WITHOUT_PLACE]
    if missing := set(range(1, len(sitting.labels) + 1)) - set(found):
        notes.append(f"{path.name}: no EEG of film {numbers(missing)}")
    trials = [sitting.trial(n, Film(path, v), seconds) for n, (v, seconds) in sorted(found.items())]
    return Recording(sitting.key, trials, sources, notes=notes)


def subject_files(folder: Path, pattern: str) -> tuple[list[tuple[Path, re.Match[str]]], list[Path]]:
    """Sort the files of a folder into those whose name is `pattern`, by name, and other data files."""
    taken, left = [], []
    for path in inside(folder):
        match = re.fullmatch(pattern, path.name, re.IGNORECASE)
        if match is not None:
            taken.append((path, match))
        elif path.suffix.lower() in (".mat", ".cnt") and not path.name.startswith("."):
            left.append(path)
    return taken, left


def by_session(files: Sequence[tuple[Path, int, int]], mend: str) -> dict[tuple[int, int], Path]:
    """Return (subject, session) -> file.

    Raises
    ------
    UserError
        If two files claim one session, naming both and `mend`.
    """
    found: dict[tuple[int, int], Path] = {}
    for path, subject, session in files:
        if (subject, session) in found:
            raise UserError(
                f"{path}: subject {subject}, session {session} is claimed by {found[subject, session].name} too; {mend}"
            )
        found[subject, session] = path
    return dict(sorted(found.items()))


def missing_sessions(found: Mapping[tuple[int, int], Path], subjects: int) -> list[str]:
    """One line each for subjects of the publisher's list without files, and for sessions that are not there."""
    present = {subject for subject, _ in found}
    lines = []
    if absent := set(range(1, subjects + 1)) - present:
        lines.append(f"no files of subject {numbers(absent)} (the whole study has {subjects})")
    for subject in sorted(present):
        if lost := set(range(1, SESSIONS + 1)) - {session for s, session in found if s == subject}:
            lines.append(f"subject {subject}: no file of session {numbers(lost)}")
    return lines


def _check_shape(path: Path, name: str, shape: Sequence[int]) -> None:
    if len(shape) != 2 or shape[0] != len(CHANNELS):
        raise UserError(
            f"{path}: {name} is {tuple(shape)}, expected ({len(CHANNELS)}, samples); is it a file of this study?"
        )
