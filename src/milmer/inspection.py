"""What is in a store, what is missing, what its labels are confounded with."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milmer.alignment import Alignment, check_alignment
from milmer.config import Data
from milmer.errors import UserError
from milmer.evaluation.audit.confounds import one_recording_a_class
from milmer.labels import Labels, make_labels
from milmer.signals.body_channels import BODY_CHANNELS
from milmer.store import Store
from milmer.training.reading import EEGReader
from milmer.training.rejection import kept_windows
from milmer.windows import build_windows

_USUAL = {"heart_rate": (40, 180), "respiration_rate": (5, 40)}  # a minute, of a person who sits


@dataclass
class Inspection:
    """Everything `milmer inspect` shows, as plain values.

    Parameters
    ----------
    counts : dict of str to int
        Subjects, recordings, files where they are others, trials, those with EEG, face and ratings, windows.
    classes : dict of str to int
        Trials of each class; empty where the study has no such label.
    faces_missing : dict of str to float
        Share of frames without a face, per recording.
    components : dict of str to Counter
        Independent components per label, per recording.
    body : dict of str to int
        Trials with each kind of body signal.
    rates : dict of str to float
        Heart and respiration rate, a minute, median over recordings.
    missing, confounds, notes : list of str
        One line each.
    alignment : Alignment or None
        Whether videos and signals belong together, by the pulse; None where the store has no face.
    """

    counts: dict[str, int]
    classes: dict[str, int]
    label_rule: str
    faces_missing: dict[str, float] = field(default_factory=dict)
    components: dict[str, Counter[str]] = field(default_factory=dict)
    body: dict[str, int] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    confounds: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    alignment: Alignment | None = None


def inspect_store(store: Store, data: Data) -> Inspection:
    """Describe a store under one `Data` configuration (windows, target, threshold)."""
    trials = store.trials
    counts = {
        "subjects": int(trials["subject"].nunique()),
        "recordings": len(store.keys),
        "trials": len(trials),
        "with EEG": int(trials["has_eeg"].sum()),
        "with face": int(trials["has_face"].sum()),
        "with both": int((trials["has_eeg"] & trials["has_face"]).sum()),
    }
    if (files := _recordings(trials).nunique()) != len(store.keys):
        # What the store calls a recording is a subject's session; it may be of several files.
        place = list(counts).index("recordings") + 1
        counts = dict([*list(counts.items())[:place], ("files", files), *list(counts.items())[place:]])
    found = Inspection(counts, {}, "")
    try:
        windows = build_windows(trials, data.window, data.step)
    except UserError:
        counts["windows"] = 0
    else:
        faces = np.where(windows["has_face"].to_numpy(dtype=bool), 0, -1)[:, None]  # (n_windows, 1)
        kept, _, _, said = kept_windows(EEGReader(store, data), windows, faces)
        counts["windows"] = len(kept)
        found.notes += said
    try:
        labels = make_labels(trials, data.target, data.threshold, store.info.get("rating_ranges"), data.ties)
    except UserError as error:
        found.missing.append(str(error))
    else:
        found.label_rule = labels.rule
        found.classes = {c: int((labels.y == i).sum()) for i, c in enumerate(labels.classes)}
        if unlabelled := int((labels.y < 0).sum()):
            found.missing.append(f"{unlabelled} trials have no {data.target}")
        found.notes += labels.notes
        found.confounds = confounds(trials, labels)
    _missing(store, found)
    for key in store.keys:
        info = store.recording(key)
        found.notes += [f"{key}: {n}" for n in info.notes]
        if info.components:
            found.components[key] = Counter(info.components)
        rows = trials[trials["store_key"] == key]
        frames = int(rows["face_rows"].sum())
        if frames:
            found.faces_missing[key] = 1 - int(rows["faces_found"].sum()) / frames
    _body(store, found)
    if trials["has_face"].any():
        found.alignment = check_alignment(store)
    return found


def _body(store: Store, found: Inspection) -> None:
    """Count body signals, and note rates that no viewer of films has."""
    columns = {k: f"has_{k}" for k in BODY_CHANNELS}
    found.body = {k: int(store.trials[c].sum()) for k, c in columns.items() if c in store.trials}
    rates: dict[str, list[float]] = {}
    for key in store.keys:
        for kind, about in store.recording(key).body.items():
            for name, hertz in about.get("quality", {}).items():
                low, high = _USUAL[name]
                rates.setdefault(name, []).append(60 * hertz)
                if not low <= 60 * hertz <= high:
                    found.notes.append(
                        f"{key}: {name.replace('_', ' ')} {60 * hertz:.0f} a minute by {kind}, expected {low}-{high}: "
                        "the signal may be noise, or of another rate than its file says"
                    )
    found.rates = {name: float(np.median(values)) for name, values in rates.items()}


def _missing(store: Store, found: Inspection) -> None:
    trials = store.trials
    for key, why in store.info.get("failed", {}).items():
        found.missing.append(f"{key} was refused: {why}")
    for key in store.keys:
        rows = trials[trials["store_key"] == key]
        for name in ("eeg", "face"):
            without = rows.loc[~rows[f"has_{name}"], "trial"]
            if len(without) == len(rows):
                found.missing.append(f"{key}: no {name}")
            elif len(without):
                found.missing.append(f"{key}: no {name} in trial {', '.join(map(str, without))}")
        info = store.recording(key)
        if info.bad:
            found.missing.append(f"{key}: interpolated channels {', '.join(info.bad)}")
        if info.masked:
            found.missing.append(f"{key}: channels masked {', '.join(info.masked)}")


def confounds(trials: pd.DataFrame, labels: Labels) -> list[str]:
    """Say in words what a model could read instead of emotion: the recording, or the stimulus.

    A recording that holds one class only lets electrode state and light stand for the class. A stimulus that fixes
    the label lets a model recognise the film; it is reported where the other subjects' labels of a stimulus predict
    a trial's label better than the commonest class does, by more than two standard errors.
    """
    found = []
    y = labels.y
    known = y >= 0
    recordings = _recordings(trials)
    groups = pd.Series(y[known]).groupby(recordings.to_numpy()[known])
    sizes, kinds = groups.size(), groups.nunique()
    single = kinds[kinds == 1]
    word = "recording" if recordings.nunique() == trials["store_key"].nunique() else "file"
    # A file for each trial holds one class whatever the classes are: no news, unless each class has but one file.
    lone = len(sizes) and sizes.max() == 1
    if len(single) and len(labels.classes) > 1 and not (lone and not _one_file_a_class(trials[known], y[known])):
        names = ", ".join(str(n) for n in single.index[:3]) + (" ..." if len(single) > 3 else "")
        found.append(
            f"{len(single)} of {len(kinds)} {word}s hold one class only ({names}): the {word} fixes "
            "the label, so electrode state or light may stand for it"
        )
    agree, tried = _stimulus_agreement(trials, y)
    if tried >= 10:
        base = float(np.bincount(y[known]).max() / known.sum())
        share = agree / tried
        if share > base + 2 * np.sqrt(base * (1 - base) / tried):
            found.append(
                f"the stimulus predicts the label: other subjects' commonest class of a stimulus is right in "
                f"{share:.0%} of {tried} trials (commonest class: {base:.0%}); a model may recognise the film, "
                "not the feeling"
            )
    return found


def _recordings(trials: pd.DataFrame) -> pd.Series:
    """Name what was recorded without a break (a file, mostly) of each trial."""
    return trials["store_key"] + " " + trials["recording"].astype(str)


def _one_file_a_class(trials: pd.DataFrame, y: NDArray[np.int64]) -> bool:
    """Whether, of trials with a file each, every subject has one of each class."""
    _, people = np.unique(trials["subject"].to_numpy(dtype=str), return_inverse=True)
    _, files = np.unique(_recordings(trials).to_numpy(dtype=str), return_inverse=True)
    return one_recording_a_class(y, people, files)


def _stimulus_agreement(trials: pd.DataFrame, y: NDArray[np.int64]) -> tuple[int, int]:
    """Count trials whose class is the commonest among other subjects' trials of its stimulus, and trials tried."""
    agree = tried = 0
    subjects = trials["subject"].to_numpy()
    for name, indices in trials.groupby("stimulus").indices.items():
        rows = np.asarray(indices)  # (n,)
        rows = rows[y[rows] >= 0]  # (n,)
        if not name:
            continue
        for row in rows:
            others = y[rows[subjects[rows] != subjects[row]]]
            if len(others) >= 2:
                tried += 1
                agree += int(np.bincount(others).argmax() == y[row])
    return agree, tried
