import numpy as np
import pytest

from milmer.evaluation.metrics import BINS, checked, confusion, from_statistics, statistics_of
from milmer.evaluation.statistics import (
    chance_level,
    exchangeable,
    exchanged_alike,
    left_out,
    left_tables,
    p_value,
    permutation_statistics,
    permuted_labels,
    places,
)

NAMES = ("a", "b", "c")


def predictions(seed: int, n: int, k: int, effect: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    z = rng.normal(size=(n, k)) + effect * np.eye(k)[y]
    return y, np.round(np.exp(z) / np.exp(z).sum(axis=1, keepdims=True), 2)  # rounded: ties occur


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("groups", [7, 60])
def test_sums_without_a_cluster_equal_figures_of_the_other_rows(k: int, groups: int) -> None:
    y, p = predictions(0, 60, k)
    cluster = np.random.default_rng(1).permutation(np.arange(60) % groups)
    together = from_statistics(left_out(y, p, cluster), NAMES[:k])
    shared = from_statistics(left_out(y, p, cluster, places(p)), NAMES[:k])
    for g in range(groups):
        rest = cluster != g
        alone = from_statistics(statistics_of(*checked(y[rest], p[rest], k)), NAMES[:k])
        for name, values in together.items():
            np.testing.assert_allclose(values[g], alone[name][0], rtol=1e-9, atol=1e-9, err_msg=name)
            assert shared[name][g] == pytest.approx(values[g], nan_ok=True)
        np.testing.assert_array_equal(
            left_tables(y, p.argmax(axis=1), cluster, k)[g], confusion(y[rest], p[rest].argmax(axis=1), k)
        )


def test_a_cluster_that_holds_a_whole_class_leaves_the_area_undefined() -> None:
    y, p = np.array([0, 0, 0, 1, 1]), np.full((5, 2), 0.5)
    area = left_out(y, p, np.array([0, 1, 1, 2, 2])).auroc
    assert np.isnan(area[2]).all() and (area[:2] == 0.5).all()


@pytest.mark.parametrize("k", [2, 3])
def test_permuted_sums_equal_figures_of_relabelled_rows(k: int) -> None:
    _, p = predictions(3, 60, k)
    unit = np.repeat(np.arange(20), 3)
    of_unit = np.random.default_rng(4).integers(0, k, 20)
    labels = permuted_labels(of_unit, np.arange(20) % 2, 20, np.random.default_rng(5))
    together = from_statistics(permutation_statistics(p, unit, labels), NAMES[:k])
    for r in range(20):
        alone = from_statistics(statistics_of(*checked(labels[r][unit], p, k)), NAMES[:k])
        for name, values in together.items():
            np.testing.assert_allclose(values[r], alone[name][0], rtol=1e-9, atol=1e-9, err_msg=name)


def test_bins_count_every_row() -> None:
    y, p = predictions(6, 100, 3)
    sums = statistics_of(*checked(y, p, 3))
    assert sums.bins.shape == (1, BINS, 2)
    assert sums.bins[0, :, 1].sum() == (p.argmax(axis=1) == y).sum()


def test_labels_are_exchanged_within_strata_only() -> None:
    labels, strata = np.array([0, 1, 1, 2, 2, 2, 0, 1]), np.array([0, 0, 0, 1, 1, 1, 2, 2])
    shuffled = permuted_labels(labels, strata, 300, np.random.default_rng(0))
    for name in range(3):
        mine = strata == name
        assert (np.sort(shuffled[:, mine], axis=1) == np.sort(labels[mine])).all()
    first = shuffled[:, :3].argmin(axis=1)  # where the only 0 of the first stratum went
    assert np.bincount(first, minlength=3).min() > 60
    assert exchangeable(labels, strata)
    assert not exchangeable([0, 0, 1], [0, 0, 1])


def test_the_same_seed_gives_the_same_draws_and_the_global_state_is_left_alone() -> None:
    np.random.seed(3)  # noqa: NPY002 -- the global state is what is tested
    before = np.random.get_state()[1].tolist()  # noqa: NPY002 -- as above
    args = np.arange(40), np.arange(40) // 8, 5
    one, same, other = (permuted_labels(*args, np.random.default_rng([seed])) for seed in (1, 1, 2))
    assert (one == same).all() and (one != other).any()
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002 -- as above


def test_p_is_uniform_without_an_effect_and_small_with_one() -> None:
    found = {0.0: [], 1.0: []}
    for effect, ps in found.items():
        for study in range(300 if effect == 0 else 20):
            y, p = predictions(1000 + study, 48, 3, effect)
            labels = permuted_labels(y, np.arange(48) // 12, 99, np.random.default_rng([study, 1]))
            null = from_statistics(permutation_statistics(p, np.arange(48), labels), NAMES)["log_loss"]
            value = from_statistics(statistics_of(*checked(y, p, 3)), NAMES)["log_loss"][0]
            ps.append(p_value(value, null, greater=False))
    for alpha in (0.05, 0.25, 0.5):
        error = 3 * np.sqrt(alpha * (1 - alpha) / 300)
        assert abs(np.mean(np.array(found[0.0]) <= alpha) - alpha) < error
    assert np.mean(np.array(found[1.0]) <= 0.05) > 0.9


def test_p_value_counts_ties_and_never_is_zero() -> None:
    assert p_value(0.5, [0.5, 0.4, 0.3]) == 0.5
    assert p_value(0.9, [0.5, 0.4, 0.3]) == 0.25
    assert p_value(0.3, [0.5, 0.4, 0.3], greater=False) == 0.5
    assert p_value(0.4, [0.5, np.nan, 0.3]) == pytest.approx(2 / 3)
    assert np.isnan(p_value(0.5, [])) and np.isnan(p_value(np.nan, [0.5]))


def test_chance_level_of_nothing_is_undefined() -> None:
    null = np.arange(101) / 100
    assert chance_level(null) == pytest.approx((0.5, 0.95))
    assert chance_level(null, greater=False) == pytest.approx((0.5, 0.05))
    assert np.isnan(chance_level([])).all()


def test_an_exchange_of_stimuli_is_the_same_for_everybody() -> None:
    strata, films = np.repeat(np.arange(4), 6), np.tile(np.arange(6), 4)
    labels = films + 10 * strata  # says whose and which
    found = exchanged_alike(labels, strata, films, 50, np.random.default_rng(0)).reshape(50, 4, 6)
    assert (found // 10 == np.arange(4)[:, None]).all()  # within each subject
    assert (found % 10 == found[:, :1] % 10).all()
    assert len(np.unique(found[:, 0], axis=0)) > 30


def test_with_films_of_their_own_subjects_keep_their_labels() -> None:
    rng = np.random.default_rng(0)
    strata = np.repeat(np.arange(3), [5, 2, 7])
    films, labels = rng.integers(0, 9, 14), rng.integers(0, 3, 14)  # some see a film twice
    found = exchanged_alike(labels, strata, films, 80, rng)
    for s in range(3):
        assert (np.sort(found[:, strata == s], axis=1) == np.sort(labels[strata == s])).all()
