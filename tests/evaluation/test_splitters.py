import copy

import numpy as np
import pandas as pd
import pytest

from milmer.errors import UserError
from milmer.evaluation.protocols import PROTOCOLS, make_splits
from milmer.evaluation.splitters import (
    CrossStudySplit,
    StimulusSplit,
    SubjectAndStimulusSplit,
    SubjectSplit,
    TrialSplit,
    WindowSplit,
)

SPLITTERS = (TrialSplit, SubjectSplit, StimulusSplit, SubjectAndStimulusSplit, CrossStudySplit, WindowSplit)


def study(subjects: int = 6, trials: int = 10, windows: int = 2) -> tuple[pd.DataFrame, np.ndarray]:
    """Two studies of different people and films, two classes a subject."""
    rows = [
        ("ab"[s % 2], f"s{s}", "", t, f"e{(t + s) % trials}", w)
        for s in range(subjects)
        for t in range(trials)
        for w in range(windows)
    ]
    frame = pd.DataFrame(rows, columns=["study", "subject", "session", "trial", "stimulus", "window"])
    return frame, np.array((frame["trial"] // 2 + frame["subject"].str[1:].astype(int)) % 2, dtype=np.int64)


def test_there_is_a_splitter_for_every_protocol() -> None:
    assert tuple(s.protocol for s in SPLITTERS) == PROTOCOLS


@pytest.mark.parametrize(
    ("splitter", "count"),
    [
        (TrialSplit(), 5),
        (TrialSplit(scope="subject"), 30),
        (SubjectSplit(), 6),
        (SubjectSplit(3), 3),
        (StimulusSplit(), 5),
        (StimulusSplit(4), 4),
        (StimulusSplit(3, scope="subject"), 18),
        (SubjectAndStimulusSplit(3), 9),
        (CrossStudySplit(), 2),
        (CrossStudySplit(train_study="b"), 1),
        (WindowSplit(n_splits=4, random_state=2), 4),
    ],
)
def test_splitters_serve_scikit_learn(splitter: TrialSplit, count: int) -> None:
    from sklearn.dummy import DummyClassifier
    from sklearn.model_selection import GridSearchCV, check_cv, cross_val_score

    rows, y = study()
    x = np.zeros((len(rows), 1))
    scores = cross_val_score(DummyClassifier(), x, y, groups=rows, cv=splitter)
    assert len(scores) == count == splitter.get_n_splits(x, y, rows) == splitter.get_n_splits(rows, y)
    assert check_cv(splitter) is splitter and copy.deepcopy(splitter) == splitter
    if count > 1:
        search = GridSearchCV(DummyClassifier(), {"strategy": ["prior", "uniform"]}, cv=splitter)
        assert search.fit(x, y, groups=rows).best_params_ is not None
    for (_, test), part in zip(splitter.split(x, y, rows), splitter.parts(rows, y), strict=True):
        np.testing.assert_array_equal(test, part.test)


def test_classes_may_have_names_and_validation_rows_may_be_kept() -> None:
    rows, y = study()
    names = np.array(["rest", "task"])[y]
    for (train, test), part in zip(TrialSplit().split(rows, names), TrialSplit().parts(rows, y), strict=True):
        assert sorted(np.r_[train, test]) == list(range(len(rows)))
        np.testing.assert_array_equal(test, part.test)
    some = np.where(np.arange(len(y)) < 9, np.nan, y)  # a float column with gaps
    for one, other in zip(
        TrialSplit().parts(rows, some), TrialSplit().parts(rows, np.nan_to_num(some, nan=-1)), strict=True
    ):
        np.testing.assert_array_equal(one.test, other.test)
    for cls in SPLITTERS:
        kept, _ = next(cls(3, keep_validation=True).split(rows, y))
        np.testing.assert_array_equal(kept, make_splits(rows, y, cls.protocol, 3)[0].train)


def test_without_validation_the_grid_trains_on_all_that_shares_nothing_with_the_test() -> None:
    rows, y = study()
    y[:7] = -1
    more = SubjectAndStimulusSplit(3)
    for (train, test), part in zip(more.split(rows, y), more.parts(rows, y), strict=True):
        people, films = rows["study"] + rows["subject"], rows["study"] + rows["stimulus"]
        free = ~people.isin(people.iloc[test]) & ~films.isin(films.iloc[test]) & (y >= 0)
        assert train.tolist() == np.flatnonzero(free).tolist()
        assert set(part.train) | set(part.validation) < set(train)


def test_a_missing_table_or_target_is_named() -> None:
    rows, y = study()
    with pytest.raises(UserError, match=r"SubjectSplit: found ndarray, expected y and a table"):
        next(SubjectSplit().split(np.zeros((len(y), 2)), y))
    with pytest.raises(UserError, match="StimulusSplit: found no y"):
        next(StimulusSplit().split(rows))
    with pytest.raises(UserError, match="scope subject"):
        SubjectSplit(scope="subject").get_n_splits(rows, y)
