from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milmer.evaluation.no_signal import Seen, answers


def study(seed: int, m: int = 60, folds: int = 2, people: int = 5, stimuli: int = 4, k: int = 3) -> Seen:
    rng = np.random.default_rng(seed)
    ratings = rng.uniform(1, 9, m)
    ratings[rng.random(m) < 0.1] = np.nan
    return Seen(
        rng.integers(0, folds, m),
        rng.integers(0, people, m),
        rng.integers(-1, stimuli, m),
        rng.integers(0, k, m),
        {"valence": ratings},
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_it_answers_what_other_subjects_of_the_fold_said(seed: int) -> None:
    seen, rng = study(seed), np.random.default_rng(seed + 1)
    fold, person, stimulus = rng.integers(0, 2, 30), rng.integers(0, 6, 30), rng.integers(-1, 5, 30)
    found = answers(seen, fold, person, stimulus, 3)
    np.testing.assert_allclose(found.p.sum(axis=1), 1)
    for i in range(30):
        of_fold = seen.fold == fold[i]
        mine = of_fold & (seen.stimulus == stimulus[i]) & (seen.person != person[i]) & (stimulus[i] >= 0)
        prior = np.bincount(seen.y[of_fold], minlength=3) / of_fold.sum()
        wanted = prior
        if mine.any():
            wanted = (np.bincount(seen.y[mine], minlength=3) + prior) / (mine.sum() + 1)
        assert found.known[i] == mine.any()
        np.testing.assert_allclose(found.p[i], wanted)
        rated = seen.ratings["valence"][mine]
        rated = rated[np.isfinite(rated)]
        base = np.nanmean(seen.ratings["valence"][of_fold])
        assert found.ratings["valence"][i] == pytest.approx(rated.mean() if rated.size else base)


def test_a_subjects_own_trials_and_other_folds_never_count() -> None:
    seen = Seen(np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([7, 7, 7]), np.array([1, 0, 1]), {})
    found = answers(seen, np.array([0, 0]), np.array([0, 1]), np.array([7, 7]), 2)
    np.testing.assert_allclose(found.p, [[0.75, 0.25], [0.25, 0.75]])  # one other trial, and a half of prior each
    alone = Seen(np.zeros(3, int), np.zeros(3, int), np.arange(3), np.array([0, 1, 1]), {})
    mine = answers(alone, np.zeros(3, int), np.zeros(3, int), np.arange(3), 2)
    assert not mine.known.any()
    np.testing.assert_allclose(mine.p, [[1 / 3, 2 / 3]] * 3)


def test_without_training_rows_nothing_is_answered() -> None:
    none = np.zeros(0, dtype=np.int64)
    found = answers(Seen(none, none, none, none, {}), np.zeros(2, int), np.zeros(2, int), np.zeros(2, int), 2)
    assert not found.known.any() and np.isnan(found.p).all()
