import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from milmer.evaluation.dealing import deal_groups, deal_subjects


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 7))
def test_groups_stay_whole_and_every_owner_and_class_is_even(seed: int, folds: int) -> None:
    rng = np.random.default_rng(seed)
    owners = rng.integers(0, 4, size=int(rng.integers(folds, 60)))  # (groups,)
    classes = rng.integers(0, 3, owners.size)  # (groups,)
    groups = np.repeat(np.arange(owners.size), rng.integers(1, 4, owners.size))  # (n_rows,)
    of_row = deal_groups(owners[groups], groups, classes[groups], folds, np.random.default_rng(seed))
    fold_of = np.array([of_row[groups == g][0] for g in range(owners.size)])
    np.testing.assert_array_equal(of_row, fold_of[groups])  # whole
    assert set(fold_of) == set(range(folds))  # no fold is empty
    for owner in np.unique(owners):
        mine = owners == owner
        assert np.ptp(np.bincount(fold_of[mine], minlength=folds)) <= 1
        for c in np.unique(classes[mine]):
            assert np.ptp(np.bincount(fold_of[mine & (classes == c)], minlength=folds)) <= 1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 6))
def test_groups_of_subjects_are_even_in_number(seed: int, folds: int) -> None:
    rng = np.random.default_rng(seed)
    people = np.repeat(np.arange(int(rng.integers(folds, 20))), 6)  # (n_rows,)
    trials = np.arange(people.size) // 2  # (n_rows,)
    labels = rng.integers(0, 3, people.size)  # (n_rows,): even two in a trial
    of_row = deal_subjects(people, trials, labels, folds, np.random.default_rng(seed))
    fold_of = of_row[::6]
    np.testing.assert_array_equal(of_row, np.repeat(fold_of, 6))
    assert np.ptp(np.bincount(fold_of, minlength=folds)) <= 1
    order = rng.permutation(people.size)
    mixed = deal_subjects(people[order], trials[order], labels[order], folds, np.random.default_rng(seed))
    np.testing.assert_array_equal(mixed, of_row[order])


def test_mixed_groups_are_dealt_so_that_rows_of_each_class_are_even() -> None:
    """Ten stimuli of the same commonest class, of which half carry nearly as much of another."""
    groups = np.repeat(np.arange(10), 10)  # (n_rows,)
    labels = np.zeros(100, dtype=np.int64)  # (n_rows,)
    for g in range(5):
        labels[g * 10 : g * 10 + 4] = 1
    owner = np.zeros(100, dtype=np.int64)  # (n_rows,)

    def unevenness(mixed: bool) -> float:
        spread = []
        for seed in range(30):
            of_row = deal_groups(owner, groups, labels, 5, np.random.default_rng(seed), mixed=mixed)
            spread.append(np.var(np.bincount(of_row[labels == 1], minlength=5)))
        return float(np.mean(spread))

    assert unevenness(True) < 0.3 * unevenness(False)
