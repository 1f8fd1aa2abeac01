"""What two sides of a split share, against counting by hand and against the protocols' own promises."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milmer.errors import UserError
from milmer.evaluation.audit.structure import as_folds, guess_protocol, overlaps, sentence, unit_codes
from milmer.evaluation.protocols import PERMITTED, make_splits


def table(subjects: int = 6, trials: int = 6, windows: int = 2, step: float = 3.0) -> pd.DataFrame:
    """Windows of 3 s; everybody sees the same stimuli."""
    index = pd.MultiIndex.from_product([range(subjects), range(trials), range(windows)], names=["s", "trial", "w"])
    rows = index.to_frame(index=False)
    rows["subject"] = [f"s{s}" for s in rows["s"]]
    rows["recording"] = rows["subject"]
    rows["stimulus"] = [f"e{t}" for t in rows["trial"]]
    return rows.assign(study="a", session="", start=rows["w"] * step, stop=rows["w"] * step + 3.0)


def found(rows: pd.DataFrame, parts: object, protocol: str) -> dict[str, dict[str, object]]:
    return {o["kind"]: o for o in overlaps(rows, parts, protocol)}  # type: ignore[arg-type]  # any kind of parts


def test_counts_by_hand() -> None:
    rows = table(2, 2, 2)  # rows 0, 1: s0 trial 0; 2, 3: s0 trial 1; 4, 5: s1 trial 0; 6, 7: s1 trial 1
    got = found(rows, {"train": [0, 2, 3], "validation": [4], "test": [1, 5, 6, 7]}, "trial")
    assert (got["trial"]["shared"], got["trial"]["of"]) == (2, 3)
    assert (got["trial"]["training"], got["trial"]["validation"]) == (1, 1)
    assert got["trial"]["dose"] == 0.5
    assert not got["trial"]["permitted"]
    assert got["subject"]["permitted"] and got["subject"]["shared"] == 2
    assert got["time"]["shared"] == 0
    assert "2 of 3 trials" in sentence(got["trial"])


def test_numbers_that_come_twice_are_told_apart_by_subject_and_session() -> None:
    rows = pd.DataFrame({"subject": ["a", "b", "a"], "trial": [1, 1, 1], "session": ["x", "x", "y"]})
    codes = unit_codes(rows, "trial")
    assert codes is not None and np.unique(codes).size == 3


def test_what_the_table_does_not_name_is_left_out() -> None:
    rows = table().drop(columns=["recording", "start"]).assign(stimulus="")
    kinds = {o["kind"] for o in overlaps(rows, {"train": [0], "test": [1]}, "trial")}
    assert kinds == {"trial", "subject", "study"}


def test_a_trial_number_is_one_whether_whole_or_float() -> None:
    rows = {"subject": ["a", "a"], "trial": np.array([3.0, np.nan])}
    codes = unit_codes(rows, "trial")
    assert codes is not None and codes[1] == -1
    same = unit_codes({"subject": ["a", "a"], "trial": ["3", 3.0]}, "trial")
    assert same is not None


@pytest.mark.parametrize("protocol", ["trial", "subject", "stimulus", "subject-and-stimulus"])
def test_our_splits_share_nothing_forbidden_and_are_recognised(protocol: str) -> None:
    rows = table(6, 8, 2, step=1.5)
    y = np.asarray(rows["trial"] % 2)
    splits = make_splits(rows, y, protocol)
    assert not [o for o in overlaps(rows, splits, protocol) if o["shared"] and not o["permitted"]]
    assert guess_protocol(rows, splits) == protocol


def test_random_windows_are_recognised_as_leaky() -> None:
    rows = table(4, 5, 6, step=1.5)
    splits = make_splits(rows, np.asarray(rows["trial"] % 2), "window")
    assert guess_protocol(rows, splits) == "window"
    got = found(rows, splits, "window")
    assert got["trial"]["shared"] and not got["trial"]["permitted"]
    assert got["time"]["shared"] and not got["time"]["permitted"]


def test_studies_apart_are_cross_study() -> None:
    rows = pd.concat([table(3).assign(study="a"), table(3).assign(study="b")], ignore_index=True)
    half = len(rows) // 2
    parts = {"train": np.arange(half), "test": np.arange(half, len(rows))}
    assert guess_protocol(rows, parts) == "cross-study"
    assert guess_protocol(rows.drop(columns="study"), parts) == "window"  # s0 of both is then one subject


def test_stimuli_that_are_not_named_cannot_be_ruled_out() -> None:
    rows = table()
    apart = {"train": np.flatnonzero(rows["trial"] < 3), "test": np.flatnonzero(rows["trial"] >= 3)}
    assert guess_protocol(rows, apart) == "stimulus"
    assert guess_protocol(rows.drop(columns="stimulus"), apart) == "trial"


def test_folds_may_come_as_splits_or_mappings() -> None:
    split = SimpleNamespace(train=[0], validation=[], test=[1])
    for parts in (split, [split], {"train": [0], "test": [1]}):
        folds = as_folds(parts)  # type: ignore[arg-type]  # a stand-in for a split
        assert [f["test"].tolist() for f in folds] == [[1]] and folds[0]["validation"].size == 0


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'subject'"):
        overlaps(table(), {"train": [0], "test": [1]}, "subjects")
    assert set(PERMITTED) >= {"trial", "window"}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 14))
def test_time_overlap_is_that_of_all_pairs(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 12, count).astype(float)
    rows = {
        "subject": ["s"] * count,
        "trial": rng.integers(0, 2, count),
        "start": start,
        "stop": start + rng.integers(1, 5, count),
    }
    test = rng.random(count) < 0.4
    parts = {"train": np.flatnonzero(~test), "test": np.flatnonzero(test)}
    expected = 0
    for i in parts["test"]:
        expected += any(
            rows["trial"][i] == rows["trial"][j] and rows["start"][i] < rows["stop"][j] and start[j] < rows["stop"][i]
            for j in parts["train"]
        )
    assert found(rows, parts, "trial")["time"]["shared"] == expected  # type: ignore[arg-type]  # a mapping is a table
