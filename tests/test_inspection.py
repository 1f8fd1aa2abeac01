from __future__ import annotations

from pathlib import Path

import numpy as np

from milmer.config import Data
from milmer.inspection import confounds, inspect_store
from milmer.labels import make_labels
from milmer.store import Store


def test_counts_classes_and_faces(tiny_store: Path) -> None:
    found = inspect_store(Store(tiny_store), Data())
    assert found.counts == {
        "subjects": 4,
        "recordings": 4,
        "trials": 32,
        "with EEG": 32,
        "with face": 32,
        "with both": 32,
        "windows": 128,
    }
    assert sum(found.classes.values()) == 32 and set(found.classes.values()) == {8}
    assert abs(found.faces_missing["s01"] - 1 / 7) < 0.02
    assert found.components["s01"] == {"brain": 2, "other": 1}


def test_missing_parts_are_named(tiny_store: Path) -> None:
    store = Store(tiny_store)
    absent = (store.trials["subject"] == "s03") & store.trials["trial"].isin([2, 5])
    store.trials = store.trials.assign(has_face=~absent, has_eeg=store.trials["subject"] != "s04")
    found = inspect_store(store, Data())
    assert "s03: no face in trial 2, 5" in found.missing
    assert "s04: no eeg" in found.missing


def test_a_recording_of_one_class_is_a_confound(tiny_store: Path) -> None:
    trials = Store(tiny_store).trials
    trials["label"] = np.where(trials["trial"] % 2 == 0, "rest", "task")
    balanced = confounds(trials, make_labels(trials, "label"))
    assert not any("one class only" in line for line in balanced)
    trials["recording"] = trials["subject"] + "_" + trials["label"]
    (line,) = (c for c in confounds(trials, make_labels(trials, "label")) if "one class only" in c)
    assert line.startswith("8 of 8 files")


def test_a_stimulus_that_fixes_the_label_is_a_confound(tiny_store: Path) -> None:
    trials = Store(tiny_store).trials
    # planted: the class of a trial is a function of its stimulus number, for every subject
    assert any("stimulus predicts the label" in c for c in confounds(trials, make_labels(trials)))
    rng = np.random.default_rng(0)
    for name in ("valence", "arousal"):
        trials[f"rating_{name}"] = rng.permutation(trials[f"rating_{name}"].to_numpy())
    assert not any("stimulus" in c for c in confounds(trials, make_labels(trials)))


def test_a_target_the_study_lacks_is_said_not_raised(tiny_store: Path) -> None:
    found = inspect_store(Store(tiny_store), Data(target="dominance"))
    assert found.classes == {} and any("dominance" in line for line in found.missing)


def test_thresholds_are_those_asked_for_and_ties_are_told(tiny_store: Path) -> None:
    store = Store(tiny_store)
    first = store.trials.index == 0
    store.trials = store.trials.assign(rating_valence=store.trials["rating_valence"].mask(first, 5.0))
    found = inspect_store(store, Data(threshold="midpoint"))
    assert found.label_rule == "valence > 5, arousal > 5"
    assert "1 trial is rated exactly at the threshold and counts as low" in found.notes
    median = inspect_store(store, Data(threshold="median", target="valence"))
    assert median.label_rule == "valence > median of the subject's training trials (else midpoint 5)"
    assert "the median is fitted in each fold; until then the midpoint stands for it" in median.notes
    assert not any("trial" in n for n in inspect_store(store, Data(threshold=4.0)).notes)
    store.info = store.info | {"rating_ranges": {}}
    unknown = inspect_store(store, Data(threshold="midpoint"))
    assert unknown.classes == {} and any("the range of ratings of valence" in line for line in unknown.missing)


def test_files_and_recordings_are_told_apart(tiny_store: Path) -> None:
    """What the store calls a recording is a subject's session, here of two files."""
    store = Store(tiny_store)
    store.trials["recording"] = np.where(store.trials["trial"] > 4, "b.edf", "a.edf")
    counts = inspect_store(store, Data()).counts
    assert list(counts)[:4] == ["subjects", "recordings", "files", "trials"]
    assert (counts["recordings"], counts["files"]) == (4, 8)


def test_a_file_for_each_trial_is_no_confound(tiny_store: Path) -> None:
    trials = Store(tiny_store).trials
    trials["recording"] = trials["trial"].astype(str)
    assert not any("one class only" in c for c in confounds(trials, make_labels(trials)))
    two = trials[trials["trial"] <= 2].reset_index(drop=True)
    two["label"] = np.where(two["trial"] == 1, "rest", "task")
    assert any("8 of 8 files hold one class only" in c for c in confounds(two, make_labels(two, "label")))
