import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milmer.errors import UserError
from milmer.evaluation.guard import Budget, Guard
from milmer.evaluation.protocols import Split
from milmer.labels import (
    FOUR_CLASSES,
    TWO_CLASSES,
    Threshold,
    Ties,
    make_labels,
    median_labels,
    permute_ratings,
    permute_trials,
)

RATING = st.one_of(st.floats(1, 9), st.just(5.0), st.just(float("nan")))


@given(st.lists(st.tuples(RATING, RATING), min_size=1, max_size=30), st.sampled_from([5.0, 4.5]))
def test_four_classes_follow_the_papers_rule(ratings: list[tuple[float, float]], threshold: float) -> None:
    rows = pd.DataFrame(ratings, columns=["rating_valence", "rating_arousal"])
    labels = make_labels(rows, threshold=threshold)
    assert labels.classes == FOUR_CLASSES == ("HAHV", "HALV", "LAHV", "LALV")
    assert labels.y.dtype == np.int64
    for (valence, arousal), y in zip(ratings, labels.y, strict=True):
        if np.isnan(valence) or np.isnan(arousal):
            assert y == -1
        else:
            name = ("HA" if arousal > threshold else "LA") + ("HV" if valence > threshold else "LV")
            assert labels.classes[y] == name


def test_a_rating_of_exactly_the_threshold_is_low_in_both_dimensions() -> None:
    rows = pd.DataFrame({"rating_valence": [6.0, 5.0, 5.0], "rating_arousal": [5.0, 6.0, 5.0]})
    labels = make_labels(rows)
    assert [labels.classes[i] for i in labels.y] == ["LAHV", "HALV", "LALV"]
    assert labels.rule == "valence > 5, arousal > 5"


def test_one_rating_makes_two_classes() -> None:
    rows = pd.DataFrame({"rating_arousal": [1.0, 4.0, np.nan, 9.0]})
    labels = make_labels(rows, "arousal", 3.5)
    assert labels.classes == TWO_CLASSES == ("low", "high")
    assert labels.y.tolist() == [0, 1, -1, 1]
    assert labels.rule == "arousal > 3.5"


@pytest.mark.parametrize("kind", ["Int64", "Float64", "float32", "object"])
def test_ratings_may_be_any_kind_of_number_column(kind: str) -> None:
    values = [1, 9, None] if kind != "float32" else [1, 9, np.nan]
    rows = pd.DataFrame({"rating_valence": pd.array(values, dtype=kind)})
    assert make_labels(rows, "valence").y.tolist() == [0, 1, -1]


def test_named_labels_are_sorted_and_blank_ones_missing() -> None:
    rows = pd.DataFrame({"label": ["task", "rest", "", None, "task"], "film": list("abcab")})
    labels = make_labels(rows, "label")
    assert labels.classes == ("rest", "task")
    assert labels.y.tolist() == [1, 0, -1, -1, 1]
    assert make_labels(rows, "film").classes == ("a", "b", "c")


def test_a_rating_wins_over_a_column_of_its_name() -> None:
    rows = pd.DataFrame({"valence": ["x", "y"], "rating_valence": [2.0, 8.0]})
    assert make_labels(rows, "valence").classes == TWO_CLASSES


def test_nothing_is_written_into_the_table() -> None:
    rows = pd.DataFrame({"rating_valence": [2.0, np.nan], "rating_arousal": [2.0, 7.0], "label": ["a", None]})
    before = rows.copy(deep=True)
    for target in ("valence-arousal", "valence"):
        make_labels(rows, target)
    with pytest.raises(UserError):
        make_labels(rows, "label")
    pd.testing.assert_frame_equal(rows, before)


def test_mistakes_are_named_with_what_there_is() -> None:
    rows = pd.DataFrame({"rating_valence": [1.0], "label": ["rest"]})
    with pytest.raises(UserError, match=r"target 'valnce': this study has label, valence.*did you mean 'valence'"):
        make_labels(rows, "valnce")
    with pytest.raises(UserError, match="needs ratings of arousal; this study has ratings of"):
        make_labels(rows)
    with pytest.raises(UserError, match="found only the class rest, expected at least two"):
        make_labels(rows, "label")
    unnamed = rows.assign(label=["", None][:1])  # every store has the column
    with pytest.raises(UserError, match="found no class, expected at least two"):
        make_labels(unnamed, "label")
    with pytest.raises(UserError, match="this study has valence, valence-arousal"):
        make_labels(unnamed, "nope")
    with pytest.raises(UserError) as error:
        make_labels(rows, "nothing")
    assert "\n" not in str(error.value)


RANGES = {"valence": (1, 9), "arousal": (1, 9), "liking": (0, 100)}


def rated(*trials: tuple[str, float, int], study: str | None = None) -> pd.DataFrame:
    """Rows of trials (subject, valence, windows), numbered from 1."""
    rows = [(s, t, v) for t, (s, v, n) in enumerate(trials, 1) for _ in range(n)]
    table = pd.DataFrame(rows, columns=["subject", "trial", "rating_valence"])
    return table if study is None else table.assign(study=study)


def test_the_midpoint_is_that_of_the_ratings_own_range() -> None:
    rows = pd.DataFrame({"rating_liking": [50.0, 51.0, np.nan], "rating_valence": [5.0, 6.0, 4.0]})
    labels = make_labels(rows, "liking", "midpoint", RANGES)
    assert labels.y.tolist() == [0, 1, -1] and labels.rule == "liking > 50"
    assert labels.thresholds["liking"].tolist() == [50, 50, 50]
    with pytest.raises(UserError, match=r"range of ratings of valence is not known \(known: liking\); give a number"):
        make_labels(rows, "valence", "midpoint", {"liking": (0, 100)})
    with pytest.raises(UserError, match=r"known: none\)"):
        make_labels(rows, "valence", "median")
    assert make_labels(rows, "valence", 5.0).thresholds["valence"].tolist() == [5.0] * 3  # needs no range


def test_two_studies_may_have_two_ranges() -> None:
    rows = pd.concat([rated(("a", 4, 1), ("a", 6, 1), study="one"), rated(("a", 4, 1), study="two")])
    labels = make_labels(rows, "valence", "midpoint", {"one": {"valence": (1, 9)}, "two": {"valence": (1, 5)}})
    assert labels.thresholds["valence"].tolist() == [5, 5, 3] and labels.y.tolist() == [0, 1, 1]
    assert labels.rule == "valence > 5 in one, 3 in two"
    with pytest.raises(UserError, match="range of ratings of valence in two is not known"):
        make_labels(rows, "valence", "midpoint", {"one": {"valence": (1, 9)}, "two": {}})


def test_ties_are_counted_in_trials() -> None:
    rows = rated(("a", 5, 3), ("a", 7, 1), ("b", 5, 2), ("b", 3, 1))
    assert make_labels(rows, "valence").notes == ("2 trials are rated exactly at the threshold and count as low",)
    assert make_labels(rows, "valence", 7).notes == ("1 trial is rated exactly at the threshold and counts as low",)
    assert make_labels(rows, "valence", 6).notes == ()


def fold_of(rows: pd.DataFrame, test: list[int], budget: str = "none", validation: list[int] | None = None) -> Guard:
    """Trials (by number) that test and validate; the others train."""
    trial = rows["trial"].to_numpy()
    parts = [np.isin(trial, t) for t in (test, validation or [])]
    train = np.flatnonzero(~parts[0] & ~parts[1])
    return Guard(Split(0, train, np.flatnonzero(parts[1]), np.flatnonzero(parts[0])), rows, Budget.parse(budget))


def test_medians_by_hand() -> None:
    rows = rated(
        ("a", 2, 1), ("a", 4, 1), ("a", 9, 5),  # training median 4, each trial counted once: of windows it were 9
        ("a", 5, 1),  # test: above 4
        ("b", 6, 2), ("b", 8, 1), ("b", 6.5, 1),  # training median 7; the last tests
        ("c", 5.5, 1), ("c", 1, 1),  # only in the test: midpoint 5
    )  # fmt: skip
    guard = fold_of(rows, [4, 7, 8, 9])
    provisional = make_labels(rows, "valence", "median", RANGES)
    assert provisional.y.tolist() == make_labels(rows, "valence", 5.0).y.tolist()
    labels = median_labels(rows, "valence", RANGES, guard)
    by_trial = {t: (labels.thresholds["valence"][i], labels.y[i]) for i, t in enumerate(rows["trial"])}
    assert by_trial == {
        1: (4, 0),
        2: (4, 0),
        3: (4, 1),
        4: (4, 1),
        5: (7, 0),
        6: (7, 1),
        7: (7, 0),
        8: (5, 1),
        9: (5, 0),
    }
    assert labels.rule == provisional.rule == "valence > median of the subject's training trials (else midpoint 5)"
    assert labels.notes == (
        "threshold of valence: midpoint 5 for c, of whom training holds no rating",
        "1 trial is rated exactly at the threshold and counts as low",
    )
    assert guard.log == [
        {"kind": "threshold", "what": "median valence of each subject", "rows": 10, "parts": {"train": 10}}
    ]


def test_a_budget_of_labels_gives_a_test_person_a_median() -> None:
    rows = rated(("a", 2, 1), ("a", 4, 1), ("c", 8, 1), ("c", 9, 2), ("c", 1, 1), ("d", np.nan, 1), ("a", 9, 1))
    guard = fold_of(rows, [3, 4, 5, 6, 7], "labelled:2")
    labels = median_labels(rows, "valence", RANGES, guard)
    assert labels.thresholds["valence"].tolist() == [3, 3, 8.5, 8.5, 8.5, 8.5, 5, 3]  # a keeps its training median
    assert labels.notes[:2] == (
        "threshold of valence: median of the trials that budget labelled:2 names for c",
        "threshold of valence: midpoint 5 for d, of whom training holds no rating",
    )
    many = rated(*((f"s{i}", 3, 1) for i in range(9)))
    (note,) = median_labels(many, "valence", RANGES, fold_of(many, [2, 3, 4, 5, 6, 7, 8, 9])).notes[:1]
    assert "for s1, s2, s3, s4, s5 and 3 more, of whom" in note


def test_subjects_of_one_name_in_two_studies_are_two_people() -> None:
    rows = pd.concat([rated(("a", 2, 1), study="one"), rated(("a", 8, 1), study="two")], ignore_index=True)
    both = Guard(Split(0, np.arange(2), np.arange(0), np.arange(0)), rows)
    assert median_labels(rows, "valence", RANGES, both).thresholds["valence"].tolist() == [2, 8]
    one = Guard(Split(0, np.arange(1), np.arange(0), np.arange(1, 2)), rows)
    (note,) = median_labels(rows, "valence", RANGES, one).notes[:1]
    assert "for two/a, of whom" in note


def test_a_median_of_named_classes_is_nothing() -> None:
    rows = rated(("a", 2, 1), ("b", 3, 1)).assign(label=["rest", "task"])
    labels = median_labels(rows, "label", None, fold_of(rows, [2]))
    assert labels.y.tolist() == [0, 1] and labels.thresholds == {} and labels.rule == "label as given"


@given(st.data())
def test_test_ratings_change_neither_thresholds_nor_training_labels(data: st.DataObject) -> None:
    n = data.draw(st.integers(4, 24))
    ratings = st.one_of(st.sampled_from([1.0, 2.5, 4.0, 5.0, 7.0, 9.0]), st.just(float("nan")))
    subjects = data.draw(st.lists(st.sampled_from("abc"), min_size=n, max_size=n))
    part = np.array(data.draw(st.lists(st.sampled_from([1, 2, 3]), min_size=n, max_size=n)))
    table = pd.DataFrame({"subject": subjects, "trial": np.arange(n) // 2})
    found = []
    guard = Guard(Split(0, *(np.flatnonzero(part == p) for p in (1, 2, 3))), table)
    for name in ("valence", "arousal"):
        table[f"rating_{name}"] = data.draw(st.lists(ratings, min_size=n, max_size=n))
    for _ in range(2):
        labels = median_labels(table, "valence-arousal", RANGES, guard)
        found.append((labels.y[part == 1], labels.thresholds["valence"], labels.thresholds["arousal"]))
        for name in ("valence", "arousal"):
            anew = data.draw(st.lists(ratings, min_size=n, max_size=n))
            table[f"rating_{name}"] = np.where(part == 1, table[f"rating_{name}"], anew)
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one, other)


def test_ratings_of_a_trial_change_hands_together() -> None:
    rows = rated(("a", 1, 2), ("a", 2, 1), ("a", 3, 3), ("b", 7, 2), ("b", 8, 2), ("b", np.nan, 1))
    rows = rows.assign(trial_row=rows["trial"], rating_arousal=rows["rating_valence"] + 0.5, stimulus=rows["trial"])
    moved = {s: permute_ratings(rows, "valence", s, fixed=("stimulus",)) for s in range(8)}
    for seed, table in moved.items():
        assert table[["subject", "trial", "stimulus"]].equals(rows[["subject", "trial", "stimulus"]])
        assert (table["rating_arousal"] - table["rating_valence"]).dropna().eq(0.5).all()
        by = table.groupby("trial")["rating_valence"]
        assert (by.nunique(dropna=False) == 1).all()
        first = by.first(skipna=False)
        assert sorted(first[[1, 2, 3]]) == [1, 2, 3] and sorted(first[[4, 5, 6]].dropna()) == [7, 8]
        y = make_labels(rows, "valence", 2.5).y
        assert np.array_equal(make_labels(table, "valence", 2.5).y, permute_trials(rows, y, seed))
    assert len({tuple(t["rating_valence"].fillna(0)) for t in moved.values()}) > 3


def test_stimuli_change_places_for_all_subjects_alike() -> None:
    """Re-runs for protocols that test on new films only: what people agree on stays together."""
    rows = pd.DataFrame(
        [(s, t, f, w) for s in range(3) for t, f in enumerate(np.roll(np.arange(6), s)) for w in range(2)],
        columns=["subject", "trial", "film", "window"],
    )
    rows = rows.assign(trial_row=rows["subject"] * 10 + rows["trial"], stimulus="f" + rows["film"].astype(str))
    y = rows["film"] + 10 * rows["subject"]
    moved = set()
    for seed in range(20):
        found = rows.assign(y=permute_trials(rows, y, seed, alike=True))
        assert (found["y"] // 10 == found["subject"]).all()
        assert (found.groupby("film")["y"].agg(lambda v: (v % 10).nunique()) == 1).all()
        assert (found.groupby("trial_row")["y"].nunique() == 1).all()
        moved.add(tuple(found.groupby("film")["y"].first() % 10))
    assert len(moved) > 15


@given(
    st.lists(st.tuples(RATING, RATING), min_size=1, max_size=30),
    st.sampled_from([5.0, 4.5, "midpoint"]),
    st.sampled_from(["low", "high", "drop"]),
)
def test_ties_are_what_was_asked_for_and_nothing_else_changes(
    ratings: list[tuple[float, float]], threshold: Threshold, ties: Ties
) -> None:
    rows = pd.DataFrame(ratings, columns=["rating_valence", "rating_arousal"])
    ranges = {"valence": (1, 9), "arousal": (1, 9)}
    labels = make_labels(rows, threshold=threshold, ranges=ranges, ties=ties)
    cut = 5.0 if threshold == "midpoint" else float(threshold)
    values = rows.to_numpy()  # (n, 2)
    tied = (values == cut).any(axis=1) & ~np.isnan(values).any(axis=1)  # (n,)
    high = values >= cut if ties == "high" else values > cut  # (n, 2)
    expected = 2 * ~high[:, 1] + ~high[:, 0]  # (n,)
    expected[np.isnan(values).any(axis=1) | (tied & (ties == "drop"))] = -1
    assert labels.y.tolist() == expected.tolist()
    counted = [n for n in labels.notes if "exactly at the threshold" in n]
    assert [int(n.split()[0]) for n in counted] == ([int(tied.sum())] if tied.any() else [])
    np.testing.assert_array_equal(labels.y[~tied], make_labels(rows, threshold=threshold, ranges=ranges).y[~tied])


def test_the_note_and_the_rule_say_what_was_done_with_ties() -> None:
    rows = rated(("a", 5, 3), ("a", 7, 1), ("b", 5, 2))
    high, dropped = (make_labels(rows, "valence", ties=t) for t in ("high", "drop"))
    assert high.notes == ("2 trials are rated exactly at the threshold and count as high",)
    assert high.rule == "valence >= 5" and high.y.tolist() == [1] * 6
    assert dropped.notes == ("2 trials are rated exactly at the threshold and have no class",)
    assert dropped.rule == "valence > 5; none where a rating is exactly that"
    assert dropped.y.tolist() == [-1, -1, -1, 1, -1, -1]


def test_with_a_median_ties_are_those_of_the_training_trials() -> None:
    """Odd numbers of training trials have their median among them: the middle one is the tie."""
    rows = pd.DataFrame({"subject": "a", "trial": range(1, 6), "rating_valence": [2.0, 4.0, 8.0, 5.0, 4.0]})
    guard = Guard(Split(0, np.array([0, 1, 2]), np.array([3]), np.array([4])), rows, Budget())
    ranges = {"valence": (1, 9)}
    classes = {t: median_labels(rows, "valence", ranges, guard, t).y.tolist() for t in ("low", "high", "drop")}
    assert classes == {"low": [0, 0, 1, 1, 0], "high": [0, 1, 1, 1, 1], "drop": [0, -1, 1, 1, -1]}
    provisional = make_labels(rows, "valence", "median", ranges, "drop")
    assert (provisional.y >= 0).all()  # 5 is the midpoint, but need not be anybody's median
    known = guard.known(median_labels(rows, "valence", ranges, guard, "drop").y >= 0)
    assert (known.split.train.tolist(), known.split.test.tolist()) == ([0, 2], []) and known.log is guard.log


def test_a_part_that_ties_leave_empty_is_one_line() -> None:
    rows = pd.DataFrame({"subject": "a", "trial": [1, 2], "rating_valence": [5.0, 5.0]})
    guard = Guard(Split(3, np.array([0]), np.array([1]), np.array([], dtype=np.int64)), rows, Budget())
    with pytest.raises(UserError, match="fold 3: every train row is rated exactly at the threshold"):
        guard.known(np.array([False, True]))


def test_ratings_out_of_range_are_counted_in_trials_and_taken_as_given() -> None:
    rows = rated(("a", 5, 3), ("a", 70, 2), ("b", 0.5, 1)).assign(study="x")
    labels = make_labels(rows, "valence", ranges={"x": {"valence": (1, 9)}})
    assert "2 trials are rated outside of valence's range 1-9 in x (such as 70) and taken as given" in labels.notes
    assert labels.y.max() == 1 and labels.y.min() == 0
    assert not [n for n in make_labels(rows, "valence").notes if "outside" in n]  # no range is known
