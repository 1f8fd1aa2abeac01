from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milmer.errors import UserError
from milmer.evaluation.protocols import (
    KINDS,
    LEAKY,
    PERMITTED,
    PROTOCOLS,
    WITHIN,
    Split,
    display_name,
    make_splits,
    permitted_table,
    trial_codes,
)


def table(subjects: int, trials: int, windows: int) -> pd.DataFrame:
    rows = [(f"s{s:02d}", "", t, w) for s in range(subjects) for t in range(trials) for w in range(windows)]
    return pd.DataFrame(rows, columns=["subject", "session", "trial", "window"])


def balanced(subjects: int, trials: int, windows: int, classes: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.repeat(
        np.concatenate([rng.permutation(np.arange(trials) % classes) for _ in range(subjects)]), windows
    ).astype(np.int64)


@st.composite
def studies(draw: st.DrawFn) -> tuple[pd.DataFrame, np.ndarray, dict[str, object]]:
    """Uneven studies: several sessions, trials of several windows, stimuli seen again in other sessions or not at all,
    some rows or whole trials without a label; and a request that such a table can serve."""
    protocol = draw(st.sampled_from(PROTOCOLS))
    seed = draw(st.integers(0, 1000))
    within = protocol in WITHIN and draw(st.booleans())
    rng = np.random.default_rng(seed)
    rows, y = [], []
    for study in ("a", "b", "c")[: draw(st.integers(2, 3)) if protocol == "cross-study" else draw(st.integers(1, 2))]:
        stimuli = int(rng.integers(5, 9))
        for s in range(int(rng.integers(3, 6))):
            sessions = ("a", "b")[: int(rng.integers(1, 3))]
            for session in sessions:
                for trial, stimulus in enumerate(rng.permutation(stimuli)):
                    if session == "b" and rng.random() < 0.4:
                        continue  # a session that was broken off
                    label = int(rng.integers(-1, 3)) if session == "b" else (trial + s) % 3
                    for window in range(int(rng.integers(1, 4))):
                        rows.append((study, f"s{s}", session, trial, f"e{stimulus}", window))
                        y.append(label if window == 0 or rng.random() > 0.1 else -1)
    columns = ["study", "subject", "session", "trial", "stimulus", "window"]
    order = rng.permutation(len(rows))
    frame = pd.DataFrame([rows[i] for i in order], columns=columns)
    folds = draw(st.sampled_from([None, 3, 4] if not within and protocol != "subject" else [None, 3]))
    if protocol == "subject-and-stimulus" and folds == 4:
        folds = 3
    ask: dict[str, object] = {"protocol": protocol, "folds": folds, "seed": seed}
    if within:
        ask["scope"] = "subject"
    if protocol == "cross-study" and draw(st.booleans()):
        ask["train_study"] = "a"
    return frame, np.array(y)[order], ask


def identities(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """What rows share, made without the code under test."""
    columns = {
        "time": ["study", "subject", "session", "trial", "window"],
        "trial": ["study", "subject", "session", "trial"],
        "recording": ["study", "subject", "session"],
        "subject": ["study", "subject"],
        "stimulus": ["study", "stimulus"],
        "study": ["study"],
    }
    texts = {c: rows[c].astype(str) + "|" for c in columns["time"] + columns["stimulus"]}
    return {kind: sum((texts[n] for n in names[1:]), texts[names[0]]).to_numpy() for kind, names in columns.items()}


def parts(split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return split.train, split.validation, split.test


@settings(max_examples=80, deadline=None)
@given(studies())
def test_every_split_keeps_its_promises(study: tuple[pd.DataFrame, np.ndarray, dict[str, object]]) -> None:
    rows, y, ask = study
    protocol = str(ask["protocol"])
    splits = make_splits(rows, y, **ask)
    labelled = np.flatnonzero(y >= 0)
    tested = np.sort(np.concatenate([s.test for s in splits]))
    if "train_study" in ask:
        labelled = labelled[(rows["study"] != "a").to_numpy()[labelled]]
    assert tested.tolist() == labelled.tolist()  # every labelled row once
    assert [s.fold for s in splits] == list(range(len(splits)))
    shared = identities(rows)
    for split in splits:
        assert all(p.dtype == np.int64 and p.size and (np.diff(p) > 0).all() for p in parts(split))
        assert np.unique(np.concatenate(parts(split))).size == sum(p.size for p in parts(split))
        assert (y[np.concatenate(parts(split))] >= 0).all()
        for kind in set(KINDS) - PERMITTED[protocol] - ({"trial"} if protocol == "window" else set()):
            train, validation, test = (set(shared[kind][p]) for p in parts(split))
            assert not train & test and not validation & test, kind
            # whole subjects of the training studies validate across studies: there the study is shared
            assert kind == "study" or not train & validation, kind
        if ask.get("scope") == "subject":
            mine = np.concatenate(parts(split))
            assert len(set(shared["subject"][mine])) == 1
            assert str(rows["subject"].iloc[mine[0]]) in split.name
    again = make_splits(rows, y, **ask)
    assert [s.notes for s in again] == [s.notes for s in splits]
    for one, other in zip(splits, again, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(parts(one), parts(other), strict=True))
    if protocol != "window":
        order = np.random.default_rng(1).permutation(len(rows))
        for one, other in zip(splits, make_splits(rows.iloc[order], y[order], **ask), strict=True):
            assert one.name == other.name and one.notes == other.notes
            assert all(set(a) == set(order[b]) for a, b in zip(parts(one), parts(other), strict=True))
    if protocol in ("trial", "subject", "stimulus", "window") and "scope" not in ask:
        for split in splits:
            assert np.array_equal(split.validation, splits[(split.fold + 1) % len(splits)].test)
            assert sum(p.size for p in parts(split)) == np.count_nonzero(y >= 0)  # nothing is lost


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
    for odd in (np.where(y == 1, np.nan, 0.0), np.array(["low", "high"])[y], y + 0.5):
        with pytest.raises(UserError, match=r"labels: found .*expected whole numbers, -1 where a row has none"):
            make_splits(rows, odd, "trial")


def films(subjects: int = 6, stimuli: int = 10, windows: int = 1, study: str = "x") -> tuple[pd.DataFrame, np.ndarray]:
    """Everybody sees the same films, in an order of their own; labels differ between people."""
    rng = np.random.default_rng(5)
    rows = [
        (study, f"s{s:02d}", "", trial, f"film{film}", w)
        for s in range(subjects)
        for trial, film in enumerate(rng.permutation(stimuli))
        for w in range(windows)
    ]
    frame = pd.DataFrame(rows, columns=["study", "subject", "session", "trial", "stimulus", "window"])
    return frame, np.array((frame["trial"] + frame["subject"].str[1:].astype(int)) % 2, dtype=np.int64)


def test_within_a_subject_nothing_is_known_of_the_others() -> None:
    rows, y = films(subjects=4, windows=2)
    splits = make_splits(rows, y, "trial", scope="subject")
    assert [s.name for s in splits] == [f"s{i:02d}" for i in range(4) for _ in range(5)]
    assert [s.fold for s in splits] == list(range(20))
    fewer = np.flatnonzero(rows["subject"] != "s00")
    alone = make_splits(rows.iloc[fewer], y[fewer], "trial", scope="subject")
    for one, other in zip(splits[5:], alone, strict=True):  # and folds stay whoever else is there
        assert np.array_equal(one.test, fewer[other.test])
    two = pd.concat([rows, rows.assign(study="z")], ignore_index=True)
    assert make_splits(two, np.r_[y, y], "stimulus", 3, scope="subject")[0].name == "x/s00"


def test_notes_of_a_subject_alone_name_it_once() -> None:
    rows, y = films(subjects=3)
    y = np.where((rows["subject"] == "s01").to_numpy() & (y == 1), 2, y)
    splits = make_splits(rows, y, "trial", 3, scope="subject", classes=("calm", "glad", "sad"))
    assert [s.notes for s in splits if s.notes] == [
        ("subject s00 has no trial of sad",),
        ("subject s01 has no trial of glad",),
        ("subject s02 has no trial of sad",),
    ]


@pytest.mark.parametrize("protocol", [p for p in PROTOCOLS if p not in ("trial", "window")])
def test_every_protocol_says_which_class_a_fold_lacks(protocol: str) -> None:
    rows, y = films(subjects=6, stimuli=6)
    rows.loc[rows["subject"] > "s02", "study"] = "z"
    rare = np.flatnonzero((rows["subject"] == "s00") & (rows["stimulus"] == "film0"))
    y[rare] = 2
    splits = make_splits(rows, y, protocol, 3, classes=("calm", "glad", "sad"))
    lacking = [n for s in splits for n in s.notes if "sad" in n]
    assert any("test has no trial of sad" in n for n in lacking)
    assert all(n.startswith("fold ") for n in lacking)
    if protocol == "subject-and-stimulus":
        assert lacking[0].startswith("fold 0 (subjects 1, stimuli 1): ")


def test_mistakes_of_the_new_protocols_are_named_with_their_mend() -> None:
    rows, y = films()
    for column in ("", "  ", None, np.nan):
        nameless = rows.assign(stimulus=rows["stimulus"].astype(object).where(rows["trial"] != 3, column))
        for protocol in ("stimulus", "subject-and-stimulus"):
            with pytest.raises(UserError, match=r"found 6 of 60 labelled rows without a name.*protocol 'trial'"):
                make_splits(nameless, y, protocol)
        assert len(make_splits(nameless, np.where(rows["trial"] == 3, -1, y), "stimulus")) == 5  # no label, no matter
    with pytest.raises(UserError, match="no column 'stimulus'"):
        make_splits(rows.drop(columns="stimulus"), y, "stimulus")
    with pytest.raises(UserError, match=r"more than one in trial \d of subject s\d+, expected one a trial"):
        make_splits(rows.assign(trial=rows["trial"] // 2), y, "stimulus")
    few = (rows["stimulus"] < "film2").to_numpy()
    with pytest.raises(UserError, match=r"'stimulus': found 2 labelled stimuli, expected at least 3.*protocol 'trial'"):
        make_splits(rows[few], y[few], "stimulus")
    with pytest.raises(UserError, match=r"found 2 labelled stimuli, expected at least 3.*protocol 'subject'"):
        make_splits(rows[few], y[few], "subject-and-stimulus")
    with pytest.raises(
        UserError, match=r"found 10 labelled stimuli, expected at least 11, one a fold.*evaluation.folds"
    ):
        make_splits(rows, y, "stimulus", 11)
    pair = (rows["subject"] < "s02").to_numpy()
    with pytest.raises(UserError, match=r"found 2 labelled subjects, expected at least 3.*protocol 'trial'"):
        make_splits(rows[pair], y[pair], "subject-and-stimulus")
    with pytest.raises(UserError, match="found 6 labelled subjects, expected at least 7"):
        make_splits(rows, y, "subject-and-stimulus", 7)
    with pytest.raises(UserError, match=r"cross-study': found one study, x.*--test-store"):
        make_splits(rows, y, "cross-study")
    with pytest.raises(UserError, match="one study, without a name"):
        make_splits(rows.drop(columns="study"), y, "cross-study")
    two = rows.assign(study=np.where(rows["subject"] == "s00", "deap", "mahnob"))
    with pytest.raises(
        UserError, match=r"no labelled row of 'daep', expected one of deap, mahnob .did you mean 'deap'"
    ):
        make_splits(two, y, "cross-study", train_study="daep")
    with pytest.raises(UserError, match="one labelled subject in deap, expected at least 2 of a study to train on"):
        make_splits(two, y, "cross-study")
    with pytest.raises(UserError, match="train_study: found 'x' with the protocol 'subject'"):
        make_splits(rows, y, "subject", train_study="x")


def test_mistakes_of_the_scope_are_named_with_their_mend() -> None:
    rows, y = films()
    for protocol in ("subject", "subject-and-stimulus", "cross-study"):
        with pytest.raises(
            UserError, match=f"scope subject: found the protocol '{protocol}', expected trial, stimulus"
        ):
            make_splits(rows, y, protocol, scope="subject")
    with pytest.raises(UserError, match="scope: found 'alone', expected pooled or subject"):
        make_splits(rows, y, "trial", scope="alone")
    short = ~((rows["subject"] == "s04") & (rows["trial"] > 3)).to_numpy()
    with pytest.raises(
        UserError, match=r"subject s04, .*found 4 labelled trials, expected at least 5.*evaluation.folds"
    ):
        make_splits(rows[short], y[short], "trial", scope="subject")
    assert len(make_splits(rows[short], y[short], "trial", 4, scope="subject")) == 24
    with pytest.raises(UserError, match="subject s02: found only the class class 1, expected at least two"):
        make_splits(rows, np.where(rows["subject"] == "s02", 1, y), "trial", scope="subject")


def test_the_table_of_permitted_overlaps_is_that_of_the_docs() -> None:
    assert set(PERMITTED) == set(PROTOCOLS) and all(p <= set(KINDS) for p in PERMITTED.values())
    head, *body = permitted_table()
    assert head == ["protocol", *KINDS]
    assert [row[0] for row in body] == [display_name(p) for p in PROTOCOLS]
    assert body[-1] == ["window (leaky)", "leak", "leak", "may", "may", "may", "may"]
    assert all(c in ("never", "may") for row in body[:-1] for c in row[1:])
    written = (Path(__file__).parents[2] / "docs" / "protocols.md").read_text(encoding="utf-8")
    for name, *cells in body:
        assert f"| {' | '.join([f'`{name.split()[0]}`' + name[len(name.split()[0]) :], *cells])} |" in written


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
