from __future__ import annotations

import numpy as np
import pytest

from milmer.evaluation.expressions import expression_figures

CLASSES = ("angry", "happy", "sad")


def test_figures_agree_with_scikit_learn_and_intervals_are_over_people() -> None:
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

    rng = np.random.default_rng(0)
    y, prob = rng.integers(0, 3, 300), rng.random((300, 3))
    prob[np.arange(300), y] += 0.5
    people = np.repeat([f"p{i}" for i in range(10)], 30)
    prob[people == "p0"] = np.roll(prob[people == "p0"], 1, axis=1)  # one whom the net does not understand
    alone, table = expression_figures(y, prob, CLASSES, y, part="test", how="x")
    together, _ = expression_figures(y, prob, CLASSES, y, part="test", how="x", people=people)
    given = prob.argmax(1)
    for found, wanted in zip(
        alone,
        (accuracy_score(y, given), balanced_accuracy_score(y, given), f1_score(y, given, average="macro")),
        strict=True,
    ):
        assert found["value"] == pytest.approx(wanted) and found["low"] < wanted < found["high"]
    assert together[0]["high"] - together[0]["low"] > 1.3 * (alone[0]["high"] - alone[0]["low"])
    assert alone[0]["majority"] == np.bincount(y).max() / 300
    assert table.sum() == 300 and np.trace(table) == round(alone[0]["value"] * 300)
