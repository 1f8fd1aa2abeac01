from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from tests.reports.conftest import write_run, write_store
from tests.reports.test_page import Page

from milmer.errors import UserError
from milmer.reports.page import write_report
from milmer.reports.protocols import compare_protocols, read_beside
from milmer.reports.reading import Run, read_run

Made = tuple[Path, Path]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A run of `trial` and, better by its leak, one of `window`, of seven subjects."""
    path = tmp_path_factory.mktemp("beside")
    store = write_store(path / "store", 7, 8, ("face",))
    options: dict[str, Any] = {"data.modalities": ["face"], "evaluation.folds": 3, "evaluation.samples": "none"}
    write_run(path / "trial", store, options, skill=0.3)
    write_run(path / "window", store, options | {"evaluation.protocol": "window"}, skill=3.0)
    return path / "trial", path / "window"


def both(runs: Made) -> tuple[Run, Run]:
    return read_run(runs[0], pictures=False), read_run(runs[1], pictures=False)


def test_the_inflation_is_the_mean_of_the_subjects_differences(runs: Made) -> None:
    honest, leaky = both(runs)
    for main, other in ((honest, leaky), (leaky, honest)):  # whichever the page is of
        found = compare_protocols(main, [other])
        assert [b["leaky"] for b in found["bars"]] == [False, True] and found["base"] == "trial"
        assert [b["this"] for b in found["bars"]] == [main is honest, main is leaky]
        (row,) = found["differences"]

        def own(run: Run, subject: str) -> float:
            got = run.metric("macro_f1", "window", subject)
            assert got is not None
            return float(got["value"])

        subjects = [f"s{i:02d}" for i in range(1, 8)]
        differ = np.array([own(leaky, s) - own(honest, s) for s in subjects])
        low, high = stats.t.interval(0.95, 6, differ.mean(), stats.sem(differ))
        assert row["value"] == f"+{100 * differ.mean():.0f}"
        assert row["interval"] == f"[{100 * low:.0f}, {100 * high:.0f}]"
        assert row["said"] == "inflated by the leak" and row["leaky"]


def test_the_page_draws_them_and_calls_the_leaky_one_leaky(runs: Made) -> None:
    page = Page(write_report(runs[0], beside=[runs[1]]))
    assert "The same study under other protocols" in page.text and "window (leaky) less trial" in page.text
    fills = [a["class"] for t, a in page.tags if t == "i" and a.get("class", "").startswith("fill")]
    assert fills == ["fill", "fill leaky", "fill leaky"]
    assert "The same study under other protocols" not in Page(write_report(runs[0])).text


def test_runs_of_something_else_are_refused(runs: Made, make: Callable[..., Any]) -> None:
    honest, _ = both(runs)
    other = make(modalities=("face",), data__target="valence")
    with pytest.raises(UserError, match=r"same data\.target"):
        read_beside(honest, [other.run])
    with pytest.raises(UserError, match="label rule"):
        read_beside(replace(honest, record={**honest.record, "label_rule": "valence > 3"}), [runs[1]])
    with pytest.raises(UserError, match="cannot be paired"):
        read_beside(replace(honest, record={**honest.record, "study": "another"}), [runs[1]])
    with pytest.raises(UserError, match="found no run"):
        read_beside(honest, [other.store])
    assert compare_protocols(honest, []) == {}


def test_too_few_subjects_give_no_interval(runs: Made) -> None:
    honest, leaky = both(runs)
    few = [r for r in leaky.metrics if r.get("subject") in (None, "s01", "s02", "s03")]
    (row,) = compare_protocols(honest, [replace(leaky, metrics=few)])["differences"]
    assert row["interval"] == "" and row["ci"] is None and "too few" in row["said"] and row["n"] == "3 subjects"
    none = [r for r in leaky.metrics if r.get("subject") is None]
    assert compare_protocols(honest, [replace(leaky, metrics=none)])["differences"] == []
