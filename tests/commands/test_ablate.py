from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from milmer.cli import app
from milmer.config import load_config
from milmer.errors import UserError
from milmer.evaluation.ablations.plans import KINDS, PAPER_COLUMN, plan


def _said(*words: str) -> str:
    found = CliRunner().invoke(app, ["ablate", *words], env={"COLUMNS": "200"})
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.output


def test_the_help_names_every_cell() -> None:
    said = _said("--help")
    for kind in KINDS:
        assert f"{kind}:" in said
        if kind != "components":  # eight combinations, told by their parts
            assert all(cell.name in said for cell in plan(kind, load_config("demo")))


def test_the_list_runs_nothing_and_names_the_papers_protocol() -> None:
    lines = _said("balancing", "--list").splitlines()
    assert len(lines) == 7
    assert lines[0].startswith("16-queries: model.balancing.method=cross-attention, model.balancing.queries=16")
    assert lines[0].endswith(f"[{PAPER_COLUMN}: 93.84]")
    assert "paper" not in lines[4]  # 196 queries
    assert len(_said("components", "--list", "--cells", "tuned-mil-none").splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("balance", "--list"), "did you mean 'balancing'"),
        (("balancing",), "found no STORE"),
        (("balancing", "store"), "found no --out"),
        (("fusion", "--list", "--cells", "transformers"), "did you mean 'transformer'"),
        (("fusion", "store", "--out", "run", "--cells", " ,"), "--cells: found no name"),
        (("fusion", "store", "--out", "run", "--seeds", "0,x"), "expected numbers from 0"),
        (("fusion", "nowhere", "--out", "run"), "found no study.json"),
        (("fusion", "--list", "--set", "model.widht=3"), "did you mean 'width'"),
    ],
)
def test_a_mistake_is_one_line(
    words: tuple[str, ...], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=expected) as caught:
        _said(*words)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []
