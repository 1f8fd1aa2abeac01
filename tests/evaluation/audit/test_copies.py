"""Copies are found, and honest data raise no alarm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from milmer.errors import UserError
from milmer.evaluation.audit.structure import duplicates


def table(subjects: int, trials: int, windows: int) -> dict[str, Any]:
    s, t, w = (a.ravel() for a in np.indices((subjects, trials, windows)))
    return {"subject": s, "trial": t, "start": w * 3.0, "stop": w * 3.0 + 3.0}


def folds(rows: dict[str, Any], rng: np.random.Generator) -> list[dict[str, Any]]:
    trial = np.unique(np.stack([rows["subject"], rows["trial"]]), axis=1, return_inverse=True)[1].ravel()
    fold = (rng.permutation(trial.max() + 1) % 5)[trial]
    return [{"train": np.flatnonzero(fold != k), "test": np.flatnonzero(fold == k)} for k in range(5)]


def made(kind: str, rows: dict[str, Any], d: int, rng: np.random.Generator) -> Any:
    n = len(rows["subject"])
    trial = np.unique(np.stack([rows["subject"], rows["trial"]]), axis=1, return_inverse=True)[1].ravel()
    x = rng.normal(size=(n, d))
    if kind == "heavy":
        x = rng.standard_t(2, size=(n, d))
    if kind == "two dimensions":
        x = rng.normal(size=(n, 2)) @ rng.normal(size=(2, d))
    if kind == "signatures":
        x = x + 3 * rng.normal(size=(trial.max() + 1, d))[trial] + 5 * rng.normal(size=(9, d))[rows["subject"]]
    if kind == "drift":
        x = np.cumsum(x, axis=0)
    return x


@pytest.mark.parametrize("kind", ["plain", "heavy", "two dimensions", "signatures", "drift"])
def test_no_alarm_on_honest_data(kind: str) -> None:
    """60 tables a kind; docs/audit.md has the count over thousands."""
    for seed in range(60):
        rng = np.random.default_rng([seed, 5])
        rows = table(4, 8, 3)
        found = duplicates(made(kind, rows, int(rng.choice([1, 3, 10, 30])), rng), rows, folds(rows, rng))
        assert not [f for f in found if f["fault"]], (kind, seed, found)


@pytest.mark.parametrize("kind", ["fallen off", "half fallen off", "at its limits"])
def test_sensors_that_read_nothing_are_no_copies_of_each_other(kind: str) -> None:
    for seed in range(60):
        rng = np.random.default_rng([seed, 6])
        rows = table(6, 12, 5)
        x = made("signatures", rows, 12, rng)
        off = rng.random(len(x)) < 0.1  # (n,)
        if kind == "fallen off":
            x[off] = np.r_[np.full(11, -9.2), -8.0]
        elif kind == "half fallen off":
            x[off, :10] = 0.0
        else:
            x = np.clip(x, -1, 1)
        found = duplicates(x, rows, folds(rows, rng))
        assert not [f for f in found if f["fault"]], (kind, seed, found)
    i, j = np.flatnonzero(~off)[[0, -1]]
    if kind != "at its limits":  # a copy among them is still found
        x[i] = x[j]
        parts = {"train": np.flatnonzero(np.arange(len(x)) >= len(x) // 2), "test": np.arange(len(x) // 2)}
        assert duplicates(x, rows, parts)[0]["shared"] == 1


@pytest.mark.parametrize(("noise", "which"), [(0.0, 0), (0.02, 1)])
@pytest.mark.parametrize("kind", ["plain", "signatures"])
def test_one_copy_is_found(kind: str, noise: float, which: int) -> None:
    rng = np.random.default_rng(3)
    rows = table(6, 10, 3)
    x = made(kind, rows, 20, rng)
    parts = folds(rows, rng)
    i, j = parts[0]["test"][4], parts[0]["train"][40]
    x[i] = x[j] + noise * rng.normal(size=20)
    found = duplicates(x, rows, parts)
    assert [f["fault"] for f in found] == [which == 0, which == 1]
    # Both sides of the pair are tested in some fold.
    assert found[which]["shared"] in (1, 2) and found[which]["of"] == len(x)


def test_overlapping_windows_of_one_side_do_not_hide_a_copy() -> None:
    rng = np.random.default_rng(4)
    rows = table(5, 8, 6)
    rows["stop"] = rows["start"] + 6.0  # half of each window is in the next
    noise = rng.normal(size=(len(rows["start"]) + 1, 20))
    x = noise[:-1] + noise[1:]
    parts = folds(rows, rng)
    x[parts[0]["test"][0]] = x[parts[0]["train"][9]] + 0.02 * rng.normal(size=20)
    assert duplicates(x, rows, parts)[1]["fault"]


def test_coarse_features_are_not_judged() -> None:
    rng = np.random.default_rng(5)
    rows = table(4, 8, 3)
    found = duplicates(rng.integers(0, 3, (96, 2)), rows, folds(rows, rng))
    assert not found[0]["fault"] and "coarse" in found[0]["found"]
    assert "do not vary" in duplicates(np.ones((96, 3)), rows, folds(rows, rng))[0]["found"]


def test_flat_and_missing_rows_are_no_copies() -> None:
    rng = np.random.default_rng(6)
    rows = table(4, 8, 3)
    x = rng.normal(size=(96, 4, 8))
    parts = folds(rows, rng)
    x[parts[0]["test"][:2]] = 0.0
    x[parts[0]["train"][:2]] = 0.0
    x[parts[1]["train"][5:7]] = np.nan
    assert not [f for f in duplicates(x, rows, parts) if f["fault"]]


def test_one_array_a_row() -> None:
    rows = table(2, 2, 2)
    with pytest.raises(UserError, match="7 arrays, expected one a row of the table, 8"):
        duplicates(np.zeros((7, 3)), rows, {"train": [0], "test": [1]})
