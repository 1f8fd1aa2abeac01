import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milmer.errors import UserError
from milmer.evaluation.protocols import (
    LEAKY,
    PROTOCOLS,
    display_name,
    make_splits,
    trial_codes,
)
from milmer.evaluation.splitters import SubjectSplit, TrialSplit, WindowSplit


def table(subjects: int, trials: int, windows: int) -> pd.DataFrame:
    rows = [(f"s{s:02d}", "", t, w) for s in range(subjects) for t in range(trials) for w in range(windows)]
    return pd.DataFrame(rows, columns=["subject", "session", "trial", "window"])


def balanced(subjects: int, trials: int, windows: int, classes: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.repeat(
        np.concatenate([rng.permutation(np.arange(trials) % classes) for _ in range(subjects)]), windows
    ).astype(np.int64)


@st.composite
def studies(draw: st.DrawFn) -> tuple[pd.DataFrame, np.ndarray, str, int | None, int]:
    """Uneven studies: several sessions, trials of several windows, some rows or whole trials without a label."""
    protocol = draw(st.sampled_from(["trial", "subject", "window"]))
    subjects = draw(st.integers(3, 6))
    seed = draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    rows, y = [], []
    for s in range(subjects):
        for session in ("a", "b")[: int(rng.integers(1, 3))]:
            for trial in range(int(rng.integers(2, 7))):
                label = int(rng.integers(-1, 3))
                for window in range(int(rng.integers(1, 4))):
                    rows.append((f"s{s}", session, trial, window))
                    y.append(label if rng.random() > 0.1 else -1)
        for extra, label in enumerate((0, 1)):  # every subject has two labelled trials
            rows.append((f"s{s}", "c", extra, 0))
            y.append(label)
    order = rng.permutation(len(rows))
    frame = pd.DataFrame([rows[i] for i in order], columns=["subject", "session", "trial", "window"])
    folds = draw(st.one_of(st.none(), st.integers(3, subjects if protocol == "subject" else 6)))
    return frame, np.array(y)[order], protocol, folds, seed


@settings(max_examples=80, deadline=None)
@given(studies())
def test_every_split_keeps_its_promises(study: tuple[pd.DataFrame, np.ndarray, str, int | None, int]) -> None:
    rows, y, protocol, folds, seed = study
    splits = make_splits(rows, y, protocol, folds, seed)
    again = make_splits(rows, y, protocol, folds, seed)
    tested = np.concatenate([s.test for s in splits])
    assert sorted(tested) == np.flatnonzero(y >= 0).tolist()  # every labelled row once
    assert [s.fold for s in splits] == list(range(len(splits)))
    group = {
        "trial": rows["subject"] + "|" + rows["session"] + "|" + rows["trial"].astype(str),
        "subject": rows["subject"],
        "window": pd.Series(np.arange(len(rows)).astype(str)),
    }[protocol].to_numpy()
    for split, other in zip(splits, again, strict=True):
        parts = (split.train, split.validation, split.test)
        assert all(p.dtype == np.int64 and p.size for p in parts)
        assert sorted(np.concatenate(parts)) == np.flatnonzero(y >= 0).tolist()  # disjoint, nothing lost
        sides = [set(group[p]) for p in parts]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
        np.testing.assert_array_equal(split.validation, splits[(split.fold + 1) % len(splits)].test)
        for mine, theirs in zip(parts, (other.train, other.validation, other.test), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        assert split.notes == other.notes


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 500), st.sampled_from(["trial", "subject"]))
def test_permuted_labels_leave_groups_whole(seed: int, protocol: str) -> None:
    rows, y = table(4, 8, 3), balanced(4, 8, 3, 4, seed)
    shuffled = np.random.default_rng(seed).permutation(y)  # even where windows of a trial get different labels
    codes = trial_codes(rows)
    for split in make_splits(rows, shuffled, protocol, None, seed):
        assert not set(codes[split.test]) & set(codes[np.r_[split.train, split.validation]])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("trials", "classes"), [(12, 4), (40, 4), (10, 2), (15, 3)])
def test_trial_folds_are_even_for_each_subject_class_and_over_all(trials: int, classes: int, seed: int) -> None:
    rows, y = table(6, trials, 2), balanced(6, trials, 2, classes, seed)
    tests = [s.test for s in make_splits(rows, y, "trial", 5, seed)]
    pooled = np.array([np.bincount(y[t], minlength=classes) // 2 for t in tests])  # (folds, classes), in trials
    assert np.ptp(pooled, axis=0).max() <= 1
    for subject in rows["subject"].unique():
        mine = (rows["subject"] == subject).to_numpy()
        counts = np.array([np.bincount(y[t[mine[t]]], minlength=classes) // 2 for t in tests])
        assert np.ptp(counts, axis=0).max() <= 1
        assert np.ptp(counts.sum(axis=1)) <= 1


def test_the_order_of_rows_does_not_matter_to_trials() -> None:
    rows, y = table(4, 10, 3), balanced(4, 10, 3, 2)
    order = np.random.default_rng(1).permutation(len(rows))
    straight = make_splits(rows, y, "trial", 5, 3)
    mixed = make_splits(rows.iloc[order], y[order], "trial", 5, 3)
    for one, other in zip(straight, mixed, strict=True):
        assert set(one.test) == set(order[other.test])


def test_seeds_differ_and_reach_every_dealt_protocol() -> None:
    rows, y = table(6, 12, 2), balanced(6, 12, 2, 4)
    for protocol, folds in (("trial", None), ("window", None), ("subject", 3)):
        one, two = (make_splits(rows, y, protocol, folds, seed)[0].test for seed in (0, 1))
        assert set(one) != set(two)


def test_one_subject_a_fold_by_default_in_their_order() -> None:
    rows, y = table(5, 4, 2), balanced(5, 4, 2, 2)
    splits = make_splits(rows, y, "subject")
    assert [set(rows["subject"].iloc[s.test]) for s in splits] == [{f"s{i:02d}"} for i in range(5)]
    assert set(rows["subject"].iloc[splits[4].validation]) == {"s00"}


def test_groups_of_subjects_have_even_sizes_and_classes() -> None:
    rows = table(6, 4, 1)
    y = np.repeat([0, 0, 0, 1, 1, 1], 4)  # a subject has one class only: each group needs one of either
    for seed in range(5):
        for split in make_splits(rows, y, "subject", 3, seed):
            assert np.bincount(y[split.test]).tolist() == [4, 4]
            assert split.notes == ()


def test_two_studies_may_use_the_same_subject_names() -> None:
    rows = pd.concat([table(2, 6, 1).assign(study=name) for name in "ab"], ignore_index=True)
    assert len(make_splits(rows, balanced(4, 6, 1, 2), "subject")) == 4


def test_window_mixes_the_windows_of_a_trial_and_is_called_leaky() -> None:
    rows, y = table(2, 6, 10), balanced(2, 6, 10, 2)
    codes = trial_codes(rows)
    for split in make_splits(rows, y, "window"):
        assert set(codes[split.test]) & set(codes[split.train])
    assert {"window"} == LEAKY
    assert display_name("window") == "window (leaky)"
    assert display_name("trial") == "trial"


def test_notes_name_the_class_that_is_missing() -> None:
    rows, y = table(3, 4, 1), np.array([0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 2, 2])
    splits = make_splits(rows, y, "subject", classes=("calm", "glad", "sad"))
    assert any("test has no" in n and "calm, glad" in n for n in splits[2].notes)
    assert any("train has no" in n and "sad" in n for n in splits[2].notes)
    assert any("class 2" in n for n in make_splits(rows, y, "subject")[2].notes)


def test_mistakes_are_named_with_their_mend() -> None:
    rows, y = table(2, 4, 1), balanced(2, 4, 1, 2)
    with pytest.raises(UserError, match=r"found 2 labelled subjects, expected at least 3.*protocol 'trial'"):
        make_splits(rows, y, "subject")
    with pytest.raises(UserError, match="found 8 labelled trials, expected at least 9"):
        make_splits(rows, y, "trial", 9)
    with pytest.raises(UserError, match="found 2, expected at least 3"):
        make_splits(rows, y, "trial", 2)
    with pytest.raises(UserError, match="found 3 labelled subjects for 4 folds"):
        make_splits(table(3, 4, 1), balanced(3, 4, 1, 2), "subject", 4)
    with pytest.raises(UserError, match="only the class glad"):
        make_splits(rows, np.ones(8, dtype=int), "trial", classes=("calm", "glad"))
    with pytest.raises(UserError, match="no labelled row"):
        make_splits(rows, np.full(8, -1), "trial")
    with pytest.raises(UserError, match="did you mean 'subject'"):
        make_splits(rows, y, "subjects")
    with pytest.raises(UserError, match="no column 'trial'"):
        make_splits(rows.drop(columns="trial"), y, "trial")
    with pytest.raises(UserError, match=r"shape \(7,\)"):
        make_splits(rows, y[:-1], "trial")
    for error in (pytest.raises(UserError, match="SubjectSplit"),):
        with error:
            next(SubjectSplit().split(np.zeros((8, 2)), y))


def test_splitters_serve_scikit_learn() -> None:
    from sklearn.dummy import DummyClassifier
    from sklearn.model_selection import cross_val_score

    rows, y = table(4, 10, 2), balanced(4, 10, 2, 2)
    x = np.zeros((len(rows), 1))
    for splitter, count in ((TrialSplit(), 5), (SubjectSplit(), 4), (WindowSplit(n_splits=4, random_state=2), 4)):
        scores = cross_val_score(DummyClassifier(), x, y, groups=rows, cv=splitter)
        assert len(scores) == count == splitter.get_n_splits(x, y, rows)
    names = np.array(["rest", "task"])[y]
    for (train, test), part in zip(TrialSplit().split(rows, names), TrialSplit().parts(rows, y), strict=True):
        assert sorted(np.r_[train, test]) == list(range(len(rows)))
        np.testing.assert_array_equal(test, part.test)
    kept, _ = next(TrialSplit(keep_validation=True).split(x, y, rows))
    np.testing.assert_array_equal(kept, TrialSplit().parts(rows, y)[0].train)


def test_an_honest_null_is_not_pushed_far_below_chance() -> None:
    """With no emotion in it, a model that learns class frequencies by subject must not score far below 1/classes.

    With 12 trials a subject, holding out by trial alone makes each held-out class rarer where it was held out.
    """

    def null(stratified: bool) -> float:
        right, rng = [], np.random.default_rng(0)
        rows = table(6, 12, 1)
        for seed in range(20):
            y = balanced(6, 12, 1, 4, seed)
            if stratified:
                folds = [(np.r_[s.train, s.validation], s.test) for s in make_splits(rows, y, "trial", 5, seed)]
            else:
                of = rng.permutation(np.arange(72) % 5)
                folds = [(np.flatnonzero(of != k), np.flatnonzero(of == k)) for k in range(5)]
            for train, test in folds:
                frequent = np.bincount(y[train], minlength=4) + rng.random(4) * 0.5  # ties at random
                right += (y[test] == frequent.argmax()).tolist()
        return float(np.mean(right))

    assert null(True) > null(False) + 0.03
    assert null(True) > 0.19
