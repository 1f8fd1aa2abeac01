from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from milmer.config import load_config
from milmer.evaluation.ablations.plans import PAPER_COLUMN, plan
from milmer.evaluation.ablations.results import Ablation
from milmer.evaluation.ablations.table import FIGURES
from milmer.evaluation.predictions import LEVELS
from milmer.reports.ablation import describe, write_ablation_report
from milmer.reports.ablation_plot import draw


def made(
    kind: str = "balancing",
    protocol: str = "trial",
    seeds: tuple[int, ...] = (0, 1, 2),
    missing: tuple[str, ...] = ("mlp",),
) -> Ablation:
    """An ablation with figures made up: each cell 0.02 above the one before."""
    config = load_config("demo", overrides={"evaluation.protocol": protocol})
    cells = plan(kind, config)
    rows: list[dict[str, Any]] = []
    for i, cell in enumerate(cells):
        row: dict[str, Any] = {"cell": cell.name, "paper": cell.paper, "state": "done", "reason": "", "notes": []}
        row |= {"reference": cells[0].name, "shared_with": [], "seeds": list(seeds), "overrides": dict(cell.overrides)}
        if cell.name in missing:
            rows.append(row | {"state": "not run", "reason": "needs faces, and the store has none"})
            continue
        row |= {"parameters": 41_500_000, "seconds": 4000.0, "interval_how": "bootstrap over 32 trials"}
        for level in LEVELS:
            for j, figure in enumerate(FIGURES):
                value = 0.4 + 0.02 * i - 0.03 * j + (0.03 if level == "trial" else 0)
                key = f"{figure}_{level}"
                row |= {key: value, f"{key}_min": value - 0.02, f"{key}_max": value + 0.02}
                row |= {f"{key}_low": value - 0.06, f"{key}_high": value + 0.06}
                row |= {f"{key}_chance": 0.25, f"{key}_chance_high": 0.31, f"{key}_p": 0.001}
                gap = None if i == 0 else 0.02 * i
                row |= {f"{key}_difference": gap, f"{key}_difference_low": None if gap is None else gap - 0.05}
                row |= {f"{key}_difference_high": None if gap is None else gap + 0.05}
        rows.append(row)
    return Ablation(kind, protocol, "made up", seeds, cells[0].name, config, rows)


@pytest.fixture
def page(tmp_path: Path) -> str:
    return write_ablation_report(tmp_path, [made(), made("components", missing=())]).read_text()


def test_the_page_holds_everything_it_shows(page: str, tmp_path: Path) -> None:
    assert {p.name for p in tmp_path.iterdir()} == {
        "report.html",
        "table.md",
        "plot-balancing.png",
        "plot-components.png",
    }
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert page.count("data:image/png;base64,") == 2
    assert "not run: needs faces, and the store has none" in page


def test_the_papers_figures_stand_apart_with_their_protocol(page: str, tmp_path: Path) -> None:
    assert page.count(PAPER_COLUMN) == 2
    for figure in ("93.84", "95.05", "96.72", "95.51", "89.91", "88.83", "89.83"):
        assert f'paper">{figure}</td>' in page
    assert page.count('<td class="num paper">–</td>') == 7  # 196 queries, and six combinations of components
    lines = (tmp_path / "table.md").read_text().splitlines()
    (row,) = [line for line in lines if line.startswith("| 147-queries")]
    assert row.split(" | ")[9] == "95.51"
    heads = next(line for line in lines if line.startswith("| cell"))
    assert heads.split(" | ")[9] == PAPER_COLUMN and heads.count("|") == row.count("|")
    (row,) = [line for line in lines if line.startswith("| mlp")]
    assert heads.count("|") == row.count("|") and row.split(" | ")[9] == "88.83"


def test_selection_has_no_column_of_the_paper(tmp_path: Path) -> None:
    assert PAPER_COLUMN not in write_ablation_report(tmp_path, [made("selection")]).read_text()


def test_a_leaky_protocol_is_called_so_everywhere(page: str, tmp_path: Path) -> None:
    honest = page.replace(PAPER_COLUMN, "")
    assert "window (leaky)" not in honest and "Leaky protocol." not in honest
    folder = tmp_path / "leaky"
    folder.mkdir()
    leaky = write_ablation_report(folder, [made(protocol="window")]).read_text()
    assert "Leaky protocol." in leaky and "protocol window (leaky)" in leaky
    assert "Figures (leaky protocol)" in leaky and ", leaky (chance" in leaky
    text = (folder / "table.md").read_text()
    assert "protocol window (leaky)" in text and "accuracy, windows (leaky)" in text


def test_one_seed_is_said_and_has_no_spread() -> None:
    one, many = describe(made(seeds=(4,))), describe(made())
    assert one["seeds"] == "one seed (4)" and many["seeds"] == "3 seeds (0, 1, 2)"
    assert one["rows"][0]["figures"][0]["spread"] == ""
    assert many["rows"][0]["figures"][0]["spread"] == "seeds 0.38 to 0.42"


def test_differences_are_called_so_only_where_the_interval_says_so() -> None:
    found = describe(made())
    apart = [r["cell"] for r in found["rows"] if not r["reason"] and r["gaps"][0]["apart"]]
    assert apart == ["147-queries", "196-queries", "none"]  # 0.06, 0.08 and 0.10, each with 0.05 to either side
    assert "leaving out zero: 3 of 5 cells (147-queries, 196-queries, none)." in found["sentences"][2]


def test_the_page_marks_those_and_no_other(page: str) -> None:
    assert page.count('<b class="apart">') == 2 * (3 + 5)  # windows and trials, of two ablations


def test_without_intervals_nothing_is_called_a_difference() -> None:
    ablation = made()
    for row in ablation.rows:
        for key in row:
            if key.endswith(("_low", "_high")) and "chance" not in key:
                row[key] = None
    found = describe(ablation)
    assert "no difference can be called one" in found["sentences"][2]
    assert draw(ablation).startswith(b"\x89PNG")


def test_nothing_run_draws_nothing() -> None:
    ablation = made(missing=tuple(c.name for c in plan("balancing", load_config("demo"))))
    ablation.reference = ""
    assert draw(ablation) == b"" and describe(ablation)["sentences"] == ["No cell has been run."]
