import numpy as np
import pandas as pd
import pytest
from tests.evaluation.test_protocols import films

from milmer.errors import UserError
from milmer.evaluation.protocols import Split, make_splits


def parts(split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return split.train, split.validation, split.test


def test_a_film_shown_again_in_another_session_stays_on_one_side() -> None:
    rows, y = films()
    both = pd.concat([rows, rows.assign(session="again")[::2]], ignore_index=True)
    labels = np.r_[y, 1 - y[::2]]
    for split in make_splits(both, labels, "stimulus"):
        sides = [set(both["stimulus"].iloc[p]) for p in parts(split)]
        assert len(sides[2]) == 2 and not sides[2] & (sides[0] | sides[1]) and not sides[0] & sides[1]


@pytest.mark.parametrize("seed", range(5))
def test_stimuli_are_dealt_by_their_commonest_class(seed: int) -> None:
    rows, _ = films(subjects=3, stimuli=20)
    y = np.array(rows["stimulus"].str[4:].astype(int) % 4, dtype=np.int64)
    y[:20] = (y[:20] + 1) % 4  # one of three disagrees with the others
    for split in make_splits(rows, y, "stimulus", 5, seed):
        others = split.test[split.test >= 20]
        assert np.bincount(y[others], minlength=4).tolist() == [2, 2, 2, 2]


def test_the_grid_has_a_fit_for_each_cell_and_leaves_the_crossing_rows_out() -> None:
    rows, y = films(subjects=6, stimuli=12, windows=2)
    splits = make_splits(rows, y, "subject-and-stimulus", 3)
    assert [s.name for s in splits] == [f"subjects {i}, stimuli {j}" for i in (1, 2, 3) for j in (1, 2, 3)]
    for split in splits:
        assert [p.size for p in parts(split)] == [2 * 4 * 2] * 3  # 2 subjects x 4 films x 2 windows
    assert len(make_splits(rows, y, "subject-and-stimulus")) == 25
    assert len(make_splits(*films(subjects=4), "subject-and-stimulus")) == 16


def test_empty_cells_of_the_grid_are_left_out_and_validated_elsewhere() -> None:
    rows, y = films(subjects=9, stimuli=9)
    seen = np.random.default_rng(2).random(len(rows)) < 0.25
    rows, y = rows[seen].reset_index(drop=True), y[seen]
    splits = make_splits(rows, y, "subject-and-stimulus", 5)
    assert len(splits) < 25
    assert [s.fold for s in splits] == list(range(len(splits)))
    assert sorted(np.concatenate([s.test for s in splits])) == list(range(len(rows)))
    own = rows.assign(stimulus=rows["subject"].str[1:].astype(int) // 3 * 10 + np.arange(len(rows)) % 3)
    with pytest.raises(UserError, match=r"nothing to train or to validate on for subjects \d, stimuli \d.*'stimulus'"):
        make_splits(own[own["subject"] < "s03"], y[own["subject"] < "s03"], "subject-and-stimulus", 3, 0)


def test_across_studies_each_is_tested_once_or_one_trains() -> None:
    tables = [films(subjects=n, study=name) for n, name in ((5, "a"), (6, "b"), (3, "c"))]
    rows, y = pd.concat([t for t, _ in tables], ignore_index=True), np.concatenate([v for _, v in tables])
    splits = make_splits(rows, y, "cross-study")
    assert [s.name for s in splits] == ["a", "b", "c"]
    for split in splits:
        assert set(rows["study"].iloc[split.test]) == {split.name}
        assert set(rows["study"].iloc[split.validation]) == {"a", "b", "c"} - {split.name}
        assert sum(p.size for p in parts(split)) == len(rows)
    (one,) = make_splits(rows, y, "cross-study", train_study="b")
    assert one.name == "a, c" and set(rows["study"].iloc[one.train]) == {"b"} == set(rows["study"].iloc[one.validation])
    assert one.test.size == 80
    assert rows["subject"].iloc[one.validation].nunique() in (1, 2)  # a fifth of six
