from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.evaluation.made_runs import make_run

from milmer.errors import UserError
from milmer.evaluation.comparison import compare
from milmer.reports.comparison import sentences, write_comparison


def page_of(out: Path) -> str:
    return (out / "comparison.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("runs", [2, 3, 12])
def test_page_pictures_and_numbers_are_written(runs: int, tmp_path: Path) -> None:
    folders = [make_run(tmp_path / f"run-{i}", 0.05 * i, seed=i, windows=1, subjects=6, trials=8) for i in range(runs)]
    found = compare(folders)
    written = write_comparison(tmp_path / "out", found)
    page = page_of(tmp_path / "out")
    assert all(f"run-{i}" in page for i in range(runs))
    assert not re.search(r"""(src|href)=["'](?!data:)""", page.replace('href="#', ""))  # self-contained
    pictures = {"differences"} if runs == 2 else {"ranks", "units"}
    assert {f.name for f in written[2:]} == {f"{p}.{kind}" for p in pictures for kind in ("png", "svg")}
    assert all(f.stat().st_size > 5000 for f in written[2:])
    data = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert data["kind"] == "comparison" and len(data["runs"]) == runs
    assert len(data["pairs"]) == 6 * runs * (runs - 1) // 2


def test_every_line_of_an_inflation_says_so(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", 0.1), make_run(tmp_path / "b", 0.8, seed=1, protocol="window")
    found = compare([a, b], across=True)
    write_comparison(tmp_path / "out", found)
    page = page_of(tmp_path / "out")
    assert page.count("inflation 2 − 1") == 6  # a line for every figure
    assert "not a comparison of models" in page and "window (leaky)" in page
    assert "b is better" not in page and "Best average rank" not in page
    assert sentences(found)[0].startswith("Inflation in macro-F1, window (leaky) less trial: +0.")
    assert b"not a comparison of models" not in (tmp_path / "out" / "differences.png").read_bytes()  # it is drawn there


def test_what_was_left_out_is_on_page_and_pictures(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", 0.1, subjects=9), make_run(tmp_path / "b", 0.8, seed=1)
    found = compare([a, b], shared=True)
    write_comparison(tmp_path / "out", found)
    words = "only the 96 of 108 test trials that all runs have"
    assert words in page_of(tmp_path / "out")
    from milmer.reports.comparison_plot import caption

    assert words in caption(found)


def test_a_difference_that_is_not_shown_is_not_called_none(tmp_path: Path) -> None:
    found = compare([make_run(tmp_path / "a", 0.2), make_run(tmp_path / "b", 0.2, seed=1)])
    first, second = sentences(found)
    assert first.startswith("Not shown to differ at 5 %") and second.startswith("That does not make them equal")


def test_names_are_text_and_a_run_is_not_written_into(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "<i>$a$"), make_run(tmp_path / "b", seed=1)
    found = compare([a, b])
    write_comparison(tmp_path / "out", found)
    assert "<i>$a$" not in page_of(tmp_path / "out") and "&lt;i&gt;$a$" in page_of(tmp_path / "out")
    with pytest.raises(UserError, match="is a run; give a folder of its own"):
        write_comparison(a, found)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_comparison(tmp_path / "file", found)


@pytest.mark.parametrize("trials", [8, 5])
def test_page_says_whether_it_holds_for_new_stimuli(trials: int, tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / n, 0.8 * i, seed=i, trials=trials, protocol="subject-and-stimulus")
        for i, n in enumerate("ab")
    ]
    found = compare(runs)
    write_comparison(tmp_path / "out", found)
    page, first = page_of(tmp_path / "out"), sentences(found)[0]
    if trials == 8:
        assert first.startswith("b is better, also for new stimuli: macro-F1")
        assert "over 8 subjects and 8 stimuli" in first and page.count(">Also for new stimuli<") == 2
    else:
        assert first.startswith("Not judged for new stimuli (8 subjects and 5 stimuli, where 6 of each are needed)")
        assert "not judged</td>" in page and "Also for new stimuli: no difference is given" in page
