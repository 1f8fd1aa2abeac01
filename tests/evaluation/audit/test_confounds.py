"""Planted confounds are named, and nothing is found where nothing is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import mutual_info_score

from milmer.errors import UserError
from milmer.evaluation.audit import confounds as module
from milmer.evaluation.audit.confounds import _information, confounds, permuted


def trials(subjects: int = 8, count: int = 20, recordings: int = 1, seed: int = 0) -> pd.DataFrame:
    """Stimuli in an order of each subject's own."""
    rng = np.random.default_rng([seed, 1])
    rows = []
    for s in range(subjects):
        for order, stimulus in enumerate(rng.permutation(count)):
            recording = f"r{order * recordings // count}"
            rows.append({"subject": f"s{s}", "trial": order, "order": order, "stimulus": f"e{stimulus}"})
            rows[-1]["recording"] = recording
    return pd.DataFrame(rows)


def by_name(rows: pd.DataFrame, y: Any, **options: Any) -> dict[str, dict[str, Any]]:
    return {c["what"]: c for c in confounds(rows, y, **options)}


def test_two_files_a_subject_one_class_each() -> None:
    """The shape of the PhysioNet set on mental arithmetic: rest in one file, the task in the other."""
    rows = pd.DataFrame({"subject": np.repeat([f"s{i}" for i in range(12)], 2), "trial": [1, 2] * 12})
    rows["recording"] = rows["trial"].map({1: "rest.edf", 2: "task.edf"})
    got = by_name(rows, np.asarray(rows["trial"] - 1))["recording"]
    assert got["found"] and got["fixed"] and got["p"] is None
    assert got["sentence"].startswith("The label is the recording: each of the 24 recordings holds one class only")


def test_windows_of_such_files_say_the_same() -> None:
    rows = pd.DataFrame({"subject": np.repeat(["a", "b", "c"], 20), "trial": np.tile(np.repeat([1, 2], 10), 3)})
    rows["recording"] = rows["trial"]
    assert by_name(rows, np.asarray(rows["trial"] - 1))["recording"]["fixed"]


def test_blocks_of_one_class_in_recordings_of_many_trials() -> None:
    rows = trials(recordings=2)
    got = by_name(rows, (rows["recording"] == "r1").astype(int))
    assert got["recording"]["fixed"]
    assert got["time"]["found"] and got["time"]["p"] <= 0.005
    assert got["neighbours"]["found"]


def test_a_recording_that_only_leans_to_a_class_is_tested() -> None:
    rows = trials(recordings=4, subjects=10)
    rng = np.random.default_rng(0)
    y = ((rows["recording"].isin(["r0", "r2"])) ^ (rng.random(len(rows)) < 0.15)).astype(int)
    got = by_name(rows, y)["recording"]
    assert got["found"] and not got["fixed"] and got["p"] <= 0.005 and got["value"] > got["chance"]


def test_a_file_for_each_trial_is_no_confound() -> None:
    rows = trials()
    rows["recording"] = rows["order"]
    got = by_name(rows, rows["order"] % 2)["recording"]
    assert not got["found"] and "Each trial is a recording" in got["sentence"]


def test_one_class_a_subject_is_called_that() -> None:
    rows = trials()
    y = (rows["subject"].str[1:].astype(int) % 2).to_numpy()
    got = by_name(rows, y)
    assert got["subject"]["fixed"] and got["subject"]["sentence"].startswith("The label is the subject")


def test_time_in_the_session() -> None:
    rows = trials(seed=3)
    rng = np.random.default_rng(1)
    drift = (rows["order"] / 20 + rng.normal(0, 0.4, len(rows)) > 0.5).astype(int)
    assert by_name(rows, drift)["time"]["found"]
    alternate = by_name(rows, rows["order"] % 2)
    assert not alternate["time"]["found"] and not alternate["neighbours"]["found"]
    assert "time" not in by_name(rows.drop(columns="order"), drift)


def test_a_drift_that_turns_with_the_subject_is_found_too() -> None:
    rows = trials(seed=4)
    late = rows["order"] >= 10
    y = np.where(rows["subject"].str[1:].astype(int) % 2 == 0, late, ~late).astype(int)
    assert by_name(rows, y)["time"]["found"]


def test_the_stimulus() -> None:
    rows = trials()
    film = rows["stimulus"].str[1:].astype(int) % 2
    got = by_name(rows, film)["stimulus"]
    assert got["fixed"] and got["value"] == 1 and "fixes the label" in got["sentence"]
    mostly = by_name(rows, film ^ (np.random.default_rng(0).random(len(rows)) < 0.2))["stimulus"]
    assert mostly["found"] and not mostly["fixed"] and mostly["p"] <= 0.005


def test_few_false_alarms_where_labels_are_random() -> None:
    """300 findings at 0.05 each: 15 are expected, and more than 28 would come once in a thousand."""
    alarms = tried = 0
    for seed in range(75):
        rows = trials(5, 10, recordings=2, seed=seed)
        y = np.random.default_rng([seed, 2]).integers(0, 2, len(rows))
        for c in confounds(rows, y, alpha=0.05, permutations=199, seed=seed):
            if c["p"] is not None:
                tried += 1
                alarms += c["found"]
    assert tried == 300
    assert alarms <= 28


def test_every_labelled_trial_counts_once() -> None:
    rows = trials()
    y = np.random.default_rng(3).integers(0, 2, len(rows))
    windows = rows.loc[np.repeat(rows.index, 3)].reset_index(drop=True)
    assert confounds(rows, y) == confounds(windows, np.repeat(y, 3))


def test_information_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, 200), rng.integers(0, 3, 200)
    assert _information(b, a) == pytest.approx(mutual_info_score(a, b) / np.log(2))


def test_permuting_keeps_each_group() -> None:
    label, group = np.array([0, 1, 1, 2, 2, 2]), np.array([0, 1, 0, 1, 0, 1])
    drawn = permuted(label, group, 50, np.random.default_rng(0))
    for g in (0, 1):
        assert (np.sort(drawn[:, group == g], axis=1) == np.sort(label[group == g])).all()
    assert np.unique(drawn, axis=0).shape[0] > 5


def test_what_cannot_be_judged_is_said() -> None:
    rows = trials(2, 4)
    with pytest.raises(UserError, match="at least two"):
        confounds(rows, np.zeros(len(rows), dtype=int))
    with pytest.raises(UserError, match="subject"):
        confounds(rows.drop(columns="subject"), np.arange(len(rows)) % 2)
    with pytest.raises(UserError, match="one a row"):
        confounds(rows, [0, 1])


def test_all_findings_together_have_one_error_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four tests at alpha each would raise a false alarm nearly four times as often."""
    rows = trials(recordings=4)
    y = np.random.default_rng(0).integers(0, 2, len(rows))
    for p, found in ((0.004, False), (0.0006, True)):
        monkeypatch.setattr(module, "tail", lambda value, null, p=p: p)
        tested = [c for c in confounds(rows, y) if c["p"] is not None]
        assert [c["what"] for c in tested] == ["recording", "time", "neighbours", "stimulus"]
        assert all(c["found"] == found for c in tested)


def test_a_few_files_of_one_trial_each_fall_apart_by_chance_and_are_no_confound() -> None:
    """Five trials in four classes, a file each: most classes have one file a subject, whatever they are."""
    rng = np.random.default_rng(5)
    for count in (2, 3, 5):
        rows = pd.DataFrame({"subject": np.repeat(["a", "b", "c"], count), "trial": np.tile(np.arange(count), 3)})
        rows["recording"] = rows["trial"]
        y = np.concatenate([rng.permutation(4)[:count] if count < 5 else [0, 1, 2, 3, 3] for _ in range(3)])
        got = by_name(rows, y)["recording"]
        assert not got["found"] and "Each trial is a recording of its own" in got["sentence"], count


def test_one_file_of_two_trials_alike_makes_no_recording_of_one_class() -> None:
    rows = pd.DataFrame({"subject": np.repeat(["a", "b", "c", "d"], 10), "trial": np.tile(np.arange(10), 4)})
    rows["recording"] = rows["trial"].clip(upper=8)  # the last two trials of each share a file
    y = np.tile([0, 1, 0, 1, 0, 1, 0, 0, 1, 1], 4)
    got = by_name(rows, y)["recording"]
    assert not got["fixed"] and got["p"] is not None and got["p"] > 0.01


def test_subjects_who_lack_a_class_do_not_hide_a_design() -> None:
    rows = pd.DataFrame({"subject": np.repeat([f"s{i}" for i in range(16)], 2), "trial": [1, 2] * 16}).iloc[1:]
    rows["recording"] = rows["trial"]
    assert by_name(rows, np.asarray(rows["trial"] - 1))["recording"]["fixed"]
