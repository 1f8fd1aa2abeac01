"""MAHNOB-HCI, emotion elicitation: every clip a session folder with session.xml, a BDF and videos.

The BDF has about 30 s before and after the clip, which the first two marks of its Status channel delimit. The face
video (the colour camera, ``C1 trigger``) is cut to the clip: its first frame is taken to be the first mark, which is
how others use it and is not documented to the frame. vidBeginSmp counts from the start of the camera's whole recording
and is no offset into the file; with vidEndSmp and vidRate it gives the file's length.

Soleymani et al. (2012), A multimodal database for affect recognition and implicit tagging, IEEE Transactions on
Affective Computing 3(1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from milmer.datasets.base import LazySignal, Recording, Trial
from milmer.datasets.bdf import BdfHeader, read_bdf_header
from milmer.datasets.deap_files import EEG_NAMES
from milmer.datasets.folders import find_folder, inside, numbers, unreadable
from milmer.datasets.mahnob_files import RATINGS, Clips, ClipSignal, Session, clip_of, read_session
from milmer.datasets.opened import LastOpened
from milmer.errors import UserError

SUBJECTS, FILMS = 27, 20
# The right and left end of the collarbones, and the left of the belly.
ECG: Mapping[str, str] = {"ecg-right": "EXG1", "ecg-left": "EXG2", "ecg-abdomen": "EXG3"}
OTHERS: Mapping[str, tuple[str, str]] = {
    "gsr": ("GSR1", "ohm"),
    "respiration": ("Resp", "1"),
    "temperature": ("Temp", "degC"),
}
_LONGEST_DIFFERENCE = 1.0  # s between a clip in the BDF and its video
_LAYOUT = "Sessions/<id>/session.xml, a .bdf and the videos beside it"


@dataclass(frozen=True)
class _Check:
    """Finds the clip in every BDF of a subject and holds its length against the video's."""

    sessions: tuple[tuple[Session, BdfHeader | None], ...]
    clips: Clips = field(compare=False, repr=False)

    def __call__(self) -> Sequence[str]:
        from milmer.faces.video import probe

        lines = []
        for session, header in self.sessions:
            clip = None
            if header is not None:
                first, last = clip_of(header, self.clips)
                clip = (last - first) / header.rate
            seconds = probe(session.video).duration if session.video is not None else None
            wanted = session.seconds if clip is None else clip
            if seconds is not None and wanted is not None and abs(seconds - wanted) > _LONGEST_DIFFERENCE:
                what = "session.xml" if clip is None else "the clip by Status"
                lines.append(f"session {session.number}: the video is {seconds:.1f} s long, {what} {wanted:.1f} s")
        return lines


class MahnobStudy:
    """MAHNOB-HCI's emotion elicitation experiment.

    Parameters
    ----------
    root : Path
        The folder that holds Sessions, or Sessions itself.
    name : str, optional
        What the study is called; by default ``mahnob-hci``.

    Raises
    ------
    UserError
        If there is no such folder.

    Notes
    -----
    A trial's number is that in its BDF's name, its stimulus the clip's file, its label the emotion that was felt. ECG
    is as recorded, three electrodes against the common reference; for finding heart beats in the EEG it is left minus
    right.
    """

    rating_ranges: Mapping[str, tuple[float, float]] = dict.fromkeys(RATINGS, (1.0, 9.0))

    def __init__(self, root: Path, name: str | None = None) -> None:
        self.root, self.name = Path(root), name or "mahnob-hci"
        self._folder = find_folder(self.root, "Sessions", _LAYOUT)
        self._clips: Clips = LastOpened()

    def recordings(self) -> Sequence[Recording]:
        """One recording a subject; reads the session.xml files and the headers of the BDF files.

        Raises
        ------
        UserError
            If there is no rated session.
        """
        subjects, damaged, _ = self._sessions()
        if not subjects and not damaged:
            raise UserError(
                f"{self._folder}: found no session with feltArsl, expected {_LAYOUT}; unpack Sessions there"
            )
        return [self._recording(number, subjects[number]) for number in sorted(subjects)] + damaged

    def survey(self) -> Sequence[str]:
        """Say which sessions are skipped, and what subjects and films are missing."""
        subjects, _, skipped = self._sessions()
        lines = []
        if 0 < len(subjects) < SUBJECTS:
            lines.append(f"of {SUBJECTS} subjects there are rated sessions of {numbers(subjects)} only")
        if skipped:
            lines.append(f"{skipped} sessions are skipped, for they have no feltArsl (neutral clips, tagging)")
        for number, sessions in sorted(subjects.items()):
            if len(sessions) < FILMS:
                lines.append(f"s{number:02d}: {len(sessions)} rated sessions, the publisher has {FILMS}")
        return lines

    def _sessions(self) -> tuple[dict[int, list[Session]], list[Recording], int]:
        """Rated sessions by subject, those whose table or BDF cannot be read, and how many have no ratings."""
        subjects: dict[int, list[Session]] = {}
        damaged: list[Recording] = []
        skipped = 0
        folders = [p for p in inside(self._folder) if p.is_dir() and p.name.isdecimal()]
        for folder in sorted(folders, key=lambda p: int(p.name)):
            try:
                session = read_session(folder)
                if session is not None and session.bdf is not None:
                    read_bdf_header(session.bdf)  # a damaged file costs its film, not the subject's others
            except UserError as error:
                damaged.append(unreadable(f"session-{folder.name}", error, [folder / "session.xml"]))
                continue
            if session is None:
                skipped += 1
            else:
                subjects.setdefault(session.subject, []).append(session)
        return subjects, damaged, skipped

    def _recording(self, number: int, sessions: list[Session]) -> Recording:
        key = f"s{number:02d}"
        files = [p for s in sessions for p in (s.folder / "session.xml", s.bdf, s.video) if p is not None]
        try:
            numbered, notes = _numbered(key, sessions)
            headers = {s.number: read_bdf_header(s.bdf) for s in sessions if s.bdf is not None}
            names, more = _electrodes(key, list(headers.values()))
        except UserError as error:
            return unreadable(key, error, files)
        notes += [note for s in sessions for note in s.notes] + more
        if any(s.bdf and s.video for s in sessions):
            notes.append("the first frame of a face video is taken to be the first mark of Status")
        shared = [{n.casefold() for n in h.names} for h in headers.values()]
        body = {n: c for n, c in ECG.items() if all(c.casefold() in there for there in shared)}
        others = {n: c for n, c in OTHERS.items() if all(c[0].casefold() in there for there in shared)}
        if headers and (absent := [n for n in (*ECG, *OTHERS) if n not in body and n not in others]):
            notes.append(f"not all of the BDF files have {', '.join(absent)}: left out")
        trials = []
        for order, (trial, session) in enumerate(numbered):
            header = headers.get(session.number)
            signals = self._signals(header, names, body, others) if header is not None else (None, None, {})
            trials.append(
                Trial(
                    study=self.name,
                    subject=key,
                    trial=trial,
                    stimulus=session.stimulus,
                    recording=key,
                    order=order,
                    duration=None if header is not None else session.seconds,
                    eeg=signals[0],
                    ecg=signals[1],
                    peripheral=signals[2],
                    video=session.video,
                    ratings=session.ratings,
                    label=session.label,
                )
            )
        check = _Check(tuple((s, headers.get(s.number)) for _, s in numbered), self._clips)
        return Recording(key, trials, files, notes=notes, check=check)

    def _signals(
        self,
        header: BdfHeader,
        names: tuple[str, ...],
        body: Mapping[str, str],
        others: Mapping[str, tuple[str, str]],
    ) -> tuple[LazySignal, LazySignal | None, dict[str, LazySignal]]:
        clips = self._clips
        peripheral: dict[str, LazySignal] = {n: ClipSignal(header, clips, (c,), (n,)) for n, c in body.items()}
        for name, (channel, unit) in others.items():
            peripheral[name] = ClipSignal(header, clips, (channel,), (name,), unit=unit)
        heart = None
        if "ecg-left" in body and "ecg-right" in body:
            heart = ClipSignal(header, clips, (body["ecg-left"],), ("ecg",), (body["ecg-right"],))
        return ClipSignal(header, clips, names, names, judged=True), heart, peripheral


def _numbered(key: str, sessions: list[Session]) -> tuple[list[tuple[int, Session]], list[str]]:
    """Sessions by trial number; those whose number is not known take the numbers that are left, in their order."""
    taken: dict[int, Session] = {}
    for session in sessions:
        if session.trial is None:
            continue
        if session.trial in taken:
            raise UserError(
                f"{session.folder.parent}: sessions {taken[session.trial].number} and {session.number} are both trial "
                f"{session.trial} of {key}; move one away"
            )
        taken[session.trial] = session
    free = (n for n in range(1, len(sessions) + max(taken, default=0) + 1) if n not in taken)
    guessed = {next(free): s for s in sessions if s.trial is None}
    notes = [f"session {s.number}: no BDF gives its trial's number: counted as trial {n}" for n, s in guessed.items()]
    return sorted((taken | guessed).items()), notes


def _electrodes(key: str, headers: list[BdfHeader]) -> tuple[tuple[str, ...], list[str]]:
    """Electrodes that all files of a subject have, by name."""
    rates = {h.rate: h.path for h in headers}
    if len(rates) > 1:
        (a, first), (b, second) = list(rates.items())[:2]
        raise UserError(f"{key}: files differ in rate: {first} has {a:g} Hz, {second} {b:g} Hz; move one away")
    there = [{n.casefold() for n in h.names} for h in headers]
    names = tuple(n for n in EEG_NAMES if all(n.casefold() in t for t in there))
    if headers and not names:
        raise UserError(
            f"{headers[0].path}: found {', '.join(headers[0].names[:6])} ..., expected electrodes such as Fp1 and Cz; "
            "is it MAHNOB-HCI's file?"
        )
    absent = [n for n in EEG_NAMES if n not in names]
    return names, [f"not all of the BDF files have {', '.join(absent)}: left out"] if headers and absent else []
