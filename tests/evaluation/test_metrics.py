import itertools
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milmer.errors import UserError
from milmer.evaluation.metrics import BINS, PRINCIPAL, classification, confusion, from_confusion

NAMES = ("HAHV", "HALV", "LAHV", "LALV")


def reference(y: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """Every figure by scikit-learn, and the calibration error by its definition."""
    from sklearn import metrics as sk

    k = p.shape[1]
    answer, labels = p.argmax(axis=1), list(range(k))
    found = {
        "accuracy": sk.accuracy_score(y, answer),
        "macro_f1": sk.f1_score(y, answer, labels=labels, average="macro", zero_division=0),
        "log_loss": sk.log_loss(y, p, labels=labels),
        "brier": sk.brier_score_loss(y, p[:, 1] if k == 2 else p, labels=labels),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns where ours says NaN
        found["mcc"] = sk.matthews_corrcoef(y, answer)
        found["balanced_accuracy"] = sk.balanced_accuracy_score(y, answer)
        found["cohen_kappa"] = sk.cohen_kappa_score(y, answer, labels=labels)
        each = sk.precision_recall_fscore_support(y, answer, labels=labels, zero_division=0)
    for name, values in zip(("precision", "recall", "f1"), each, strict=False):
        found |= {f"{name}/{NAMES[c]}": values[c] for c in labels}
    if np.unique(y).size == k:
        found["auroc"] = sk.roc_auc_score(
            y, p[:, 1] if k == 2 else p, multi_class="ovr", average="macro", labels=labels
        )
    else:
        found["auroc"] = np.nan
    sure, edges, ece = p.max(axis=1), np.linspace(0, 1, BINS + 1), 0.0
    for low, high in itertools.pairwise(edges):
        inside = (sure > low) & (sure <= high)
        if inside.any():
            ece += inside.mean() * abs((answer == y)[inside].mean() - sure[inside].mean())
    return found | {"ece": ece}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(1, 60), st.sampled_from(["sharp", "flat", "ties"]))
def test_every_figure_is_scikit_learns(seed: int, k: int, n: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, rng.integers(1, k + 1), n)  # now and then a class is absent
    z = rng.normal(size=(n, k)) * (6 if kind == "sharp" else 1) + np.eye(k)[y]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    if kind == "ties":
        p = np.eye(k)[p.argmax(axis=1)] * 0.5 + 0.5 / k
    ours, theirs = classification(y, p, NAMES[:k]), reference(y, p)
    assert set(ours) == set(theirs) >= set(PRINCIPAL)
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("k", [2, 4])
def test_absent_classes_and_single_rows_raise_no_warning(k: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sure = np.eye(k)[[0, 0]]
        right = classification([0, 0], sure, NAMES[:k])
        wrong = classification([1], sure[:1], NAMES[:k])
    assert right["accuracy"] == 1 and right["macro_f1"] == 1 / k and right["balanced_accuracy"] == 1
    assert np.isnan(right["auroc"]) and np.isnan(right["cohen_kappa"]) and right["mcc"] == 0
    assert right["log_loss"] < 1e-12 and right["brier"] == 0 and right["ece"] == 0
    assert wrong["accuracy"] == 0 and np.isfinite(wrong["log_loss"]) and wrong["ece"] == 1


def test_known_values() -> None:
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    found = classification([0, 0, 1, 1], p, ("low", "high"))
    assert found["accuracy"] == 0.75
    assert found["auroc"] == 1.0
    assert found["recall/high"] == 0.5
    assert found["brier"] == pytest.approx((0.1**2 + 0.2**2 + 0.3**2 + 0.6**2) / 4)
    assert found["cohen_kappa"] == pytest.approx(0.5)


def test_confusion_has_truth_in_rows() -> None:
    assert confusion([0, 0, 2], [1, 1, 0], 3).tolist() == [[0, 2, 0], [0, 0, 0], [1, 0, 0]]


def test_many_tables_at_once_equal_one_by_one() -> None:
    tables = np.random.default_rng(0).integers(0, 5, (50, 3, 3))
    tables[0] = 0
    together = from_confusion(tables, NAMES[:3])
    for r in range(50):
        alone = from_confusion(tables[r : r + 1], NAMES[:3])
        for name, values in together.items():
            np.testing.assert_array_equal(values[r], alone[name][0])


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match=r"expected \(n,\) and \(n, 3\)"):
        classification([0, 1], np.full((2, 2), 0.5), NAMES[:3])
    with pytest.raises(UserError, match="classes -1 to 1"):
        classification([-1, 1], np.full((2, 2), 0.5), NAMES[:2])
    with pytest.raises(UserError, match="1 rows with probabilities that are not numbers"):
        classification([0, 1], [[0.5, np.nan], [0.5, 0.5]], NAMES[:2])
    with pytest.raises(UserError, match="no row"):
        classification([], np.zeros((0, 2)), NAMES[:2])


def test_evaluation_is_imported_in_under_a_second_without_heavy_packages() -> None:
    program = (
        "import sys, time; begun = time.perf_counter()\n"
        "import milmer.evaluation\n"
        "from milmer.evaluation import metrics, predictions, protocols, scoring, statistics\n"
        "took = time.perf_counter() - begun\n"
        "heavy = {'torch', 'lightning', 'transformers', 'mne', 'matplotlib', 'sklearn', 'scipy', 'pandas'}\n"
        "sys.stdout.write(f'{took} {sorted(heavy & set(sys.modules))}')"
    )
    answers = []
    for _ in range(3):  # the fastest of three: a busy machine is not our import's fault
        found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        seconds, _, heavy = found.stdout.partition(" ")
        assert heavy == "[]"
        answers.append(float(seconds))
        if answers[-1] < 1:
            break
    assert min(answers) < 1
