from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from milmer.evaluation.paired import (
    cohen_dz,
    friedman,
    holm,
    joined,
    midranks,
    paired,
    rank_biserial,
    sign_flip,
    wilcoxon,
)

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@pytest.mark.parametrize("n", [2, 5, 9, 12])
def test_all_sign_flips_agree_with_scipy(n: int) -> None:
    d = np.random.default_rng([n]).normal(0.3, 1, n)
    reference = scipy.stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    p, smallest, how = sign_flip(d)
    assert p == pytest.approx(reference.pvalue)
    assert smallest == 2 / 2**n and how == f"all {2**n} sign flips"


def test_sign_flips_with_ties_and_zeros_count_every_pattern() -> None:
    d = np.array([0.1, 0.1, 0.0, -0.1, 0.3])
    sums = [abs(np.dot(signs, d)) for signs in product((1, -1), repeat=5)]
    assert sign_flip(d)[0] == pytest.approx(np.mean([s >= abs(d.sum()) - 1e-12 for s in sums]))
    assert sign_flip(np.zeros(7))[0] == 1.0
    assert np.isnan(sign_flip([])[0])


def test_random_sign_flips_are_near_all_of_them_and_follow_the_seed() -> None:
    d = np.random.default_rng([3]).normal(0.35, 1, 18)
    sums = np.zeros(1)
    for value in d:
        sums = np.concatenate([sums + value, sums - value])  # (2 ** n,)
    exact = float(np.mean(np.abs(sums) >= abs(d.sum()) - 1e-12))
    p, smallest, how = sign_flip(d)
    assert p == pytest.approx(exact, abs=5 * np.sqrt(exact / 20_000))
    assert smallest == 1 / 20_001 and how == "20000 random sign flips"
    assert sign_flip(d) == sign_flip(d) and sign_flip(d, seed=1)[0] != p


def test_wilcoxon_is_scipys_without_the_units_that_tie() -> None:
    d = np.random.default_rng([1]).normal(0.4, 1, 15)
    assert wilcoxon(d) == pytest.approx(scipy.stats.wilcoxon(d).pvalue)
    assert wilcoxon(np.append(d, [0.0, 0.0])) == pytest.approx(wilcoxon(d))
    assert wilcoxon([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 2**5)  # all one way, by hand
    assert wilcoxon(np.zeros(4)) == 1.0


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1.0, 1.0])
    np.testing.assert_allclose(holm([0.02, np.nan, 0.04]), [0.04, np.nan, 0.04])
    assert holm([]).size == 0


@settings(max_examples=60, deadline=None)
@given(SHARES, st.randoms(use_true_random=False))
def test_holm_lies_between_p_and_bonferroni_keeps_the_order_and_knows_no_names(p: list[float], rnd: object) -> None:
    found, m = holm(p), len(p)
    assert (found >= np.array(p) - 1e-15).all() and (found <= np.minimum(np.array(p) * m, 1) + 1e-12).all()
    order = np.argsort(p)
    assert (np.diff(found[order]) >= -1e-15).all()
    shuffled = rnd.sample(range(m), m)  # type: ignore[attr-defined]  # random.Random
    np.testing.assert_allclose(holm(np.array(p)[shuffled]), found[shuffled])


def test_effect_sizes_by_hand() -> None:
    d = [3.0, 1.0, -2.0, 4.0, 0.0]
    assert cohen_dz(d) == pytest.approx(1.2 / np.sqrt(sum((v - 1.2) ** 2 for v in d) / 4))
    assert rank_biserial(d) == pytest.approx((3 + 1 + 4 - 2) / 10)  # ranks 3, 1, 2, 4; the zero is out
    assert rank_biserial([1.0, 2.0]) == 1.0 and rank_biserial([-1.0, -2.0]) == -1.0 and rank_biserial([0.0]) == 0.0
    assert np.isnan(cohen_dz([0.2, 0.2])) and np.isnan(cohen_dz([1.0])) and np.isnan(rank_biserial([]))


def test_the_interval_is_students_and_there_is_none_below_six() -> None:
    d = np.random.default_rng([2]).normal(0.1, 0.2, 9)
    low, high = scipy.stats.ttest_1samp(d, 0).confidence_interval(0.9)
    found = paired(d, np.zeros(9), confidence=0.9)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert np.isnan(paired(d[:5], np.zeros(5)).low) and np.isfinite(paired(d[:6], np.zeros(6)).high)


def test_paired_counts_wins_the_right_way_and_leaves_out_what_is_undefined() -> None:
    first, second = [0.5, 0.7, 0.1 + 0.2, np.nan], [0.4, 0.8, 0.3, 0.1]
    found = paired(first, second)
    assert (found.n, found.wins, found.ties, found.losses) == (3, 1, 1, 1)
    turned = paired(second, first, less_is_better=True)
    assert (turned.wins, turned.losses) == (found.wins, found.losses)
    assert turned.difference == pytest.approx(-found.difference)


def test_midranks_are_scipys() -> None:
    values = np.random.default_rng([5]).integers(0, 4, (20, 6))
    np.testing.assert_allclose(midranks(values), scipy.stats.rankdata(values, axis=1))


def test_friedman_ranks_best_first_and_agrees_with_scipy_where_chi_squared_holds() -> None:
    values = np.random.default_rng([6]).normal([0.0, 0.1, 0.2, 0.45], 1, (40, 4))
    ranks, p = friedman(values)
    reference = scipy.stats.friedmanchisquare(*values.T).pvalue
    assert ranks.argmin() == values.mean(axis=0).argmax() and ranks.sum() == pytest.approx(10)
    assert p == pytest.approx(reference, rel=0.25, abs=0.004)
    np.testing.assert_allclose(friedman(-values, less_is_better=True)[0], ranks)
    assert np.isnan(friedman(values[:, :2])[1])


def test_friedman_raises_few_false_alarms_with_few_units() -> None:
    rng = np.random.default_rng([8])
    alarms = [friedman(rng.random((5, 3)), resamples=199, seed=i)[1] <= 0.05 for i in range(800)]
    assert np.mean(alarms) <= 0.065


def test_joined_groups_are_neighbours_of_which_no_two_are_separated() -> None:
    ranks = np.array([3.0, 1.0, 2.0, 4.0])
    apart = np.zeros((4, 4), dtype=bool)
    assert joined(ranks, apart) == [(1, 2, 0, 3)]
    apart[1, 3] = apart[3, 1] = True  # best against worst
    assert joined(ranks, apart) == [(1, 2, 0), (2, 0, 3)]
    apart[:] = True
    assert joined(ranks, apart) == []


@pytest.mark.parametrize(("n", "trials"), [(6, 20), (10, 40), (22, 12)])
def test_false_alarms_between_equal_models_stay_at_five_percent(n: int, trials: int) -> None:
    rng = np.random.default_rng([11, n])
    alarms = 0
    studies = 2500
    for _ in range(studies):
        gift = rng.uniform(0.2, 0.6, n)  # people differ, and the models do not
        hits = rng.binomial(trials, gift, (2, n)) / trials  # (2, n)
        alarms += sign_flip(np.round(hits[0] - hits[1], 12), resamples=399)[0] <= 0.05
    assert alarms / studies <= 0.065


def test_false_alarms_of_six_pairs_together_stay_at_five_percent() -> None:
    rng = np.random.default_rng([12])
    families = 700
    alarms = 0
    for _ in range(families):
        runs = rng.binomial(30, rng.uniform(0.2, 0.6, 12), (4, 12)) / 30  # (runs, n)
        p = [sign_flip(runs[i] - runs[j])[0] for i in range(4) for j in range(i)]
        alarms += bool((holm(p) <= 0.05).any())
    assert alarms / families <= 0.065
