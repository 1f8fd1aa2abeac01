"""Does a trial's EEG last as long as its video? Where it does not, one of them is probably another trial's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from milmer.datasets.base import Trial
from milmer.errors import UserError

MOST = 1.0  # s that EEG and video may differ by


def disagreements(trials: Sequence[Trial], rows: Sequence[Mapping[str, Any]], rate: float) -> list[str]:
    """Say which trials' EEG and video differ in length by more than a second, a line each.

    A video that ends before its trial is noted where it is decoded. A video that holds several trials, and a trial
    that is cut out of a longer video, says nothing of a length.

    Parameters
    ----------
    trials : sequence of Trial
        Of one recording.
    rows : sequence of mapping
        Of each trial, ``eeg_samples`` of the prepared EEG.
    rate : float
        Of the prepared EEG, Hz.
    """
    from milmer.faces.video import probe

    shared = Counter(t.video for t in trials if t.video is not None)
    found = []
    for trial, row in zip(trials, rows, strict=True):
        eeg = row["eeg_samples"] / rate
        if not eeg:
            continue
        if trial.duration is not None and abs(eeg - trial.duration) > MOST:
            found.append(f"trial {trial.trial}: EEG is {eeg:.1f} s long, the trial {trial.duration:.1f} s")
        if trial.video is None or shared[trial.video] > 1 or trial.video_start > MOST:
            continue
        try:
            video = probe(trial.video).duration - trial.video_start
        except UserError:  # what cannot be read at all is refused where it is decoded
            continue
        if video - eeg > MOST:
            name = trial.video.name
            found.append(f"trial {trial.trial}: EEG is {eeg:.1f} s long and {name} {video:.1f} s: is it this trial's?")
    return found
