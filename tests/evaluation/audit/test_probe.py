"""The probe's rules against scikit-learn's and against what they must be."""

from __future__ import annotations

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score

from milmer.evaluation.audit.probe import SHRINKAGE, joined, make_probe, recalls


def test_the_linear_rule_is_shrunken_discriminant_analysis_with_equal_priors() -> None:
    rng = np.random.default_rng(0)
    y = rng.choice(3, 200, p=[0.6, 0.3, 0.1])  # (n,)
    x = rng.normal(0, 1, (200, 6)) + rng.normal(0, 1, (3, 6))[y]  # (n, F)
    probe = make_probe(x)
    train, test = np.arange(150), np.arange(150, 200)
    mine = probe.predict(y, train, test, 3)[1]  # (m, 3)

    class Shrunken:
        def fit(self, part: np.ndarray) -> Shrunken:
            # scikit-learn weighs covariances of the classes by their priors; the rule here pools all rows.
            within = self.centred.T @ self.centred / (len(self.centred) - 3)
            d = len(within)
            self.covariance_ = (1 - SHRINKAGE) * within + np.eye(d) * SHRINKAGE * np.trace(within) / d
            return self

    z = probe.z[train]  # (t, d)
    estimator = Shrunken()
    estimator.centred = z - np.stack([z[y[train] == c].mean(axis=0) for c in range(3)])[y[train]]  # type: ignore[attr-defined]  # (t, d), set for the test
    theirs = LinearDiscriminantAnalysis(solver="lsqr", priors=[1 / 3] * 3, covariance_estimator=estimator)
    theirs.fit(z, y[train])
    np.testing.assert_allclose(mine, theirs.predict_proba(probe.z[test]), atol=1e-6)


def test_neighbours_weigh_by_rank_and_forget_what_is_not_in_training() -> None:
    x = np.array([[0.0], [1.0], [3.0], [10.0]])  # (n, F)
    probe = make_probe(x)
    np.testing.assert_allclose(probe.near[0], [0, 1, 1 / 4, 1 / 9], rtol=1e-6)
    p = probe.predict(np.array([0, 0, 1, 0]), np.array([2, 3]), np.array([0]), 2)[0]  # (1, 2)
    np.testing.assert_allclose(p, [[(1 / 9) / (1 / 4 + 1 / 9), (1 / 4) / (1 / 4 + 1 / 9)]], rtol=1e-5)


def test_a_class_that_training_lacks_gets_nothing() -> None:
    rng = np.random.default_rng(1)
    probe = make_probe(rng.normal(0, 1, (30, 4)))
    p = probe.predict(rng.integers(0, 2, 30), np.arange(20), np.arange(20, 30), 3)  # (2, 10, 3)
    assert (p[:, :, 2] == 0).all()
    np.testing.assert_allclose(p.sum(axis=2), 1.0)
    assert (joined(p).argmax(axis=1) < 2).all()


def test_recalls_are_balanced_accuracy_of_each_group() -> None:
    rng = np.random.default_rng(2)
    y, answer, group = rng.integers(0, 3, 300), rng.integers(0, 3, 300), rng.integers(0, 4, 300)  # (n,) each
    y[group == 3] = 1
    score, chance = recalls(y, answer, group, 4, 3)
    for g in range(3):
        np.testing.assert_allclose(score[g], balanced_accuracy_score(y[group == g], answer[group == g]))
    assert np.isnan(score[3]) and np.isnan(chance[3]) and chance[0] == 1 / 3


def test_more_features_than_rows_give_the_same_neighbours() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(0, 1, (20, 10))  # (n, F)
    wide = np.concatenate([x, np.zeros((20, 30))], axis=1)  # (n, F + 30)
    np.testing.assert_allclose(make_probe(x).near, make_probe(wide).near)
    np.testing.assert_allclose(np.abs(make_probe(x).z), np.abs(make_probe(wide).z), atol=1e-8)


def test_whole_trials_are_the_means_of_their_windows() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(0, 1, (48, 3))  # (n, F)
    of = np.repeat(np.arange(12), 4)  # (n,)
    mean = np.stack([x[of == t].mean(axis=0) for t in range(12)])  # (T, F)
    np.testing.assert_allclose(make_probe(x).averaged(of).near, make_probe(mean, 3).near)
