import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milmer.errors import UserError
from milmer.labels import FOUR_CLASSES, TWO_CLASSES, make_labels

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
    with pytest.raises(UserError, match=r"found the classes \['rest'\], expected at least two"):
        make_labels(rows, "label")
    with pytest.raises(UserError) as error:
        make_labels(rows, "nothing")
    assert "\n" not in str(error.value)
