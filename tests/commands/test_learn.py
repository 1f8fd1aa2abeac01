from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.conftest import make_store
from tests.test_store_join import other_study
from typer.testing import CliRunner

from milmer.cli import app
from milmer.commands.app import SAID
from milmer.commands.learn import typed
from milmer.errors import UserError

FAST = ["--modalities", "eeg", "--fusion", "bandpower-logistic", "--target", "arousal", "--preset", "demo"]
FAST += ["--set", "evaluation.resamples=100"]


def _call(*words: object) -> Any:
    found = CliRunner().invoke(app, [str(w) for w in words], env={"COLUMNS": "200"})
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the commands hand to evaluate and train; nothing is fitted."""
    from milmer.evaluation import evaluate as module

    seen: dict[str, Any] = {}

    def fake(store: Any, config: Any, out: Path, **more: Any) -> list[dict[str, Any]]:
        seen.update(store=store, config=config, out=out, **more)
        if seen.get("stop"):
            raise KeyboardInterrupt
        out.mkdir(parents=True)
        (out / "run.json").write_text(json.dumps({"notes": []}))
        return []

    monkeypatch.setattr(module, "evaluate", fake)
    monkeypatch.setattr(module, "train", fake)
    return seen


def test_every_option_reaches_the_run(given: dict[str, Any], tiny_store: Path, tmp_path: Path) -> None:
    other, splits = other_study(tmp_path / "other", face=False), tmp_path / "splits.csv"
    words = ["--protocol", "cross-study", "--test-store", other, "--scope", "pooled", "--budget", "unlabelled:30"]
    words += ["--seeds", 3, "--splits", splits, "--jobs", 2, "--resume"]
    _call("evaluate", tiny_store, "--out", tmp_path / "run", *words)
    evaluation = given["config"].evaluation
    assert (evaluation.protocol, evaluation.budget, evaluation.seeds) == ("cross-study", "unlabelled:30", 3)
    assert (evaluation.scope, evaluation.folds) == ("pooled", None)
    assert given["test_store"].path == other and given["splits"] == splits
    assert given["jobs"] == 2 and given["resume"] is True
    _call("evaluate", tiny_store, "--out", tmp_path / "again", "--folds", 4)
    assert given["config"].evaluation.folds == 4


def test_train_takes_a_protocol_and_a_budget(given: dict[str, Any], tiny_store: Path, tmp_path: Path) -> None:
    _call("train", tiny_store, "--out", tmp_path / "run", "--protocol", "stimulus", "--budget", "none")
    assert given["config"].evaluation.protocol == "stimulus" and given["config"].evaluation.budget == "none"
    assert "jobs" not in given and "test_store" not in given


def test_a_wrong_budget_or_scope_is_one_line(given: dict[str, Any], tiny_store: Path, tmp_path: Path) -> None:
    for words in (["--budget", "some"], ["--scope", "people"], ["--protocol", "trials"]):
        with pytest.raises(UserError, match=words[0].removeprefix("--")) as caught:
            _call("evaluate", tiny_store, "--out", tmp_path / "run", *words)
        assert "\n" not in str(caught.value) and not given


def test_ctrl_c_says_how_to_go_on(given: dict[str, Any], tiny_store: Path, tmp_path: Path) -> None:
    given["stop"] = True
    found = _call("evaluate", tiny_store, "--out", tmp_path / "run")
    assert found.exit_code == SAID and "the same command with --resume goes on in" in found.output


def test_the_command_is_what_was_typed_without_the_programs_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/some/where/bin/milmer", "evaluate", "my store", "--set", "data.window=2"])
    assert typed() == "milmer evaluate 'my store' --set data.window=2"


def test_a_study_is_tested_on_another_from_the_shell(tmp_path: Path) -> None:
    """The installed command, whole: two stores in, a run with figures and its own words out."""
    make_store(tmp_path / "one", seconds=6.0, face=False)
    other_study(tmp_path / "two", face=False)
    program = Path(sys.executable).with_name("milmer")
    words = ["evaluate", "one", "--test-store", "two", "--out", "run", "--protocol", "cross-study", *FAST]
    found = subprocess.run([program, *words], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["command"] == " ".join(["milmer", *words]) and record["protocol"] == "cross-study"
    tested = pd.read_parquet(tmp_path / "run/predictions.parquet").query("part == 'test'")
    assert set(tested["study"]) == {"other"} and "cross-study" in found.stdout
