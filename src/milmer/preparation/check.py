"""What a study's folder holds, before anything is prepared: in seconds, from names, tables and headers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from milmer.datasets.base import BODY_KINDS, MARKER, Recording, Study, Trial, body_kind
from milmer.datasets.catalog import Facts
from milmer.datasets.folders import numbers
from milmer.errors import UserError
from milmer.preparation.lengths import MOST
from milmer.progress import Progress, silent

MODALITIES = ("eeg", "face", *BODY_KINDS)


@dataclass(frozen=True)
class Check:
    """What `check_study` found.

    Parameters
    ----------
    study : str
        Its name.
    subjects, recordings, trials : int
        How many could be prepared; those that are skipped are not among them.
    modalities : mapping of str to int
        Of `MODALITIES`, the trials that have it; those that none has are left out.
    labels : mapping of str to int
        Rating or ``label`` -> trials that have one.
    missing : tuple of str
        What the publisher's list has and this folder has not, a line each.
    skipped : tuple of str
        ``recording: why``, for what would not be prepared.
    odd : tuple of str
        ``recording: what``, for what would be prepared and noted.
    """

    study: str
    subjects: int
    recordings: int
    trials: int
    modalities: Mapping[str, int]
    labels: Mapping[str, int]
    missing: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether there is anything to prepare."""
        return self.trials > 0 and bool(self.modalities)


def check_study(study: Study, facts: Facts, progress: Progress = silent) -> Check:
    """Look at a study without preparing it.

    Parameters
    ----------
    study : Study
        The study. Where it has a method ``survey()``, that is asked for what is missing against the publisher's list
        or would be skipped, a line each.
    facts : Facts
        What its publisher says of it. A simulated study is not held against that.
    progress : callable
        Told of every recording.

    Returns
    -------
    Check
        What is there, what is missing, what would be skipped and why, what is odd.

    Raises
    ------
    UserError
        If the folder is not of the study's layout, or its table cannot be right.
    """
    recordings = study.recordings()
    survey = getattr(study, "survey", None)
    missing = list(survey()) if survey is not None else []
    good: list[Recording] = []
    skipped: list[str] = []
    odd: list[str] = []
    for done, recording in enumerate(recordings):
        progress(done, len(recordings), recording.key)
        try:
            notes = [*recording.notes, *(recording.check() if recording.check else ()), *_videos(recording)]
        except UserError as error:
            skipped.append(f"{recording.key}: {error}")
            continue
        good.append(recording)
        odd += [f"{recording.key}: {note}" for note in dict.fromkeys(notes)]
        odd += [f"{recording.key}: {line}" for line in _judge(recording, study.rating_ranges)]
    odd += _twice(good)
    trials = [t for r in good for t in r.trials]
    subjects = {t.subject for t in trials}
    if not _is_simulated(study):
        missing += _against(facts, len(subjects), len(trials))
    has = Counter(m for t in trials for m in _modalities(t))
    labels = Counter(name for t in trials for name in _labels(t))
    return Check(
        study=study.name,
        subjects=len(subjects),
        recordings=len(good),
        trials=len(trials),
        modalities={m: has[m] for m in MODALITIES if has[m]},
        labels=dict(labels),
        missing=tuple(missing),
        skipped=tuple(skipped),
        odd=tuple(odd),
    )


def _modalities(trial: Trial) -> set[str]:
    found = {body_kind(name) for name in trial.peripheral} - {""}
    if trial.eeg is not None:
        found.add("eeg")
    if trial.video is not None:
        found.add("face")
    if trial.eog is not None:
        found.add("eog")
    if trial.ecg is not None:
        found.add("ecg")
    return found


def _labels(trial: Trial) -> list[str]:
    rated = [name for name, value in trial.ratings.items() if not math.isnan(value)]
    return [*rated, *(["label"] if trial.label else [])]


def _judge(recording: Recording, ranges: Mapping[str, tuple[float, float]]) -> list[str]:
    """Say what is odd about a recording's trials: ratings, names of signals, nothing to read."""
    lines = []
    for name, (low, high) in ranges.items():
        values = {t.trial: t.ratings.get(name, math.nan) for t in recording.trials}
        beyond = [n for n, v in values.items() if not math.isnan(v) and not low <= v <= high]
        if beyond:
            trials = numbers(beyond)
            lines.append(f"{name} of trial {trials} is not from {low:g} to {high:g}: {values[beyond[0]]:g}")
    names = {name for t in recording.trials for name in t.peripheral if not body_kind(name)}
    if names:
        lines.append(f"signals of no known kind: {', '.join(sorted(names))}; known are {', '.join(BODY_KINDS)}")
    if bare := [t.trial for t in recording.trials if not _modalities(t)]:
        lines.append(f"trial {numbers(bare)} has neither signals nor a video")
    return lines


def _videos(recording: Recording) -> list[str]:
    """Open every video; say which are shorter or longer than their trials by more than a second.

    Raises
    ------
    UserError
        If one cannot be read: preparation would refuse the recording.
    """
    from milmer.faces.video import probe

    shared = Counter(t.video for t in recording.trials if t.video is not None)
    seconds = {path: probe(path).duration for path in shared}
    beyond: dict[int, float] = {}  # trial -> s by which its video is longer, from its start on
    for trial in recording.trials:
        if trial.video is not None and trial.duration is not None:
            beyond[trial.trial] = seconds[trial.video] - trial.video_start - trial.duration
            if shared[trial.video] > 1 or trial.video_start > MOST:
                beyond[trial.trial] = min(beyond[trial.trial], 0.0)  # a video of several trials is no trial's length
    lines = []
    if short := {n: -v for n, v in beyond.items() if v < -MOST}:
        lines.append(f"video of trial {numbers(short)} ends before its trial, by up to {max(short.values()):.1f} s")
    if long := {n: v for n, v in beyond.items() if v > MOST}:
        most = max(long.values())
        lines.append(
            f"video of trial {numbers(long)} is longer than its trial, by up to {most:.1f} s: is it this trial's?"
        )
    return lines


def _twice(recordings: Sequence[Recording]) -> list[str]:
    """Say where two files claim one trial, or two recordings one folder."""
    lines = []
    claims = Counter(t.key for r in recordings for t in r.trials)
    for (_, subject, session, trial), count in claims.items():
        if count > 1:
            where = f"{subject}{f', session {session}' if session else ''}"
            lines.append(f"{where}: trial {trial} is there {count} times; only one can be meant")
    folders = Counter(r.key for r in recordings)
    return lines + [f"{key}: {n} recordings have this name" for key, n in folders.items() if n > 1]


def _against(facts: Facts, subjects: int, trials: int) -> list[str]:
    lines = []
    for what, found, wanted in (("subjects", subjects, facts.subjects), ("trials", trials, facts.trials)):
        if wanted is not None and found < wanted:
            lines.append(f"{wanted - found} of the {wanted} {what} that the publisher's study has")
    return lines


def _is_simulated(study: Study) -> bool:
    root = getattr(study, "root", None)
    return isinstance(root, Path) and (root / MARKER).is_file()
