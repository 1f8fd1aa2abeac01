"""`milmer studies`, and `milmer prepare STUDY --check ROOT`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from milmer.cli import app
from milmer.datasets.catalog import CATALOG
from milmer.errors import UserError

from ..datasets.deap_fixture import write_study
from ..datasets.deap_raw_fixture import write_raw_study, write_recording

ORDER = (3, 1, 4, 2)


def call(*words: object) -> Any:
    found = CliRunner().invoke(app, [str(w) for w in words], env={"COLUMNS": "80"})
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found


def test_every_study_is_listed_in_80_columns() -> None:
    lines = call("studies").output.splitlines()
    assert max(map(len, lines)) <= 80
    heads = [line.split()[0] for line in lines if line[:1].isalnum()]
    assert heads == list(CATALOG)
    deap = lines[lines.index(next(x for x in lines if x.startswith("deap "))) :][:4]
    assert "gsr" in deap[1]
    assert "valence 1-9" in deap[2]
    assert "32 subjects, 1280 trials" in deap[3]


def test_the_list_for_programs() -> None:
    found = {entry["name"]: entry for entry in json.loads(call("studies", "--json").output)}
    assert list(found) == list(CATALOG)
    assert found["deap"]["trials"] == 1280
    assert found["deap"]["labels"][0] == "valence 1-9"


@pytest.mark.parametrize("words", [("{root}", "--check"), ("--check", "{root}")])
def test_a_check_writes_nothing_and_says_what_is_there(tmp_path: Path, words: tuple[str, ...]) -> None:
    root = write_study(tmp_path / "deap", {1: ORDER, 2: ORDER}, videos=False)
    before = sorted(tmp_path.rglob("*"))
    found = call("prepare", "deap", *(w.format(root=root) for w in words))
    assert found.exit_code == 0
    text = " ".join(found.output.split())
    for part in ("2 subjects, 2 recordings, 8 trials", "eeg 8", "emg 8", "valence 8", "missing:", "--out STORE"):
        assert part in text
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_to_prepare_ends_in_2(tmp_path: Path) -> None:
    root = write_raw_study(tmp_path / "raw", {24: ORDER})
    write_recording(root, 24, 4, codes=False)
    found = call("prepare", "deap-raw", root, "--check")
    assert found.exit_code == 2
    assert "skipped: s24: " in found.output
    assert "found 0 events" in " ".join(found.output.split())
    assert "no trial that can be prepared" in " ".join(found.output.split())


def test_without_out_or_check_one_line_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"got no --out.*or --check"):
        call("prepare", "deap", tmp_path)


def test_the_wrong_folder_and_an_unknown_study(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected data_preprocessed_python"):
        call("prepare", "deap", tmp_path, "--check")
    with pytest.raises(UserError, match="did you mean 'deap'"):
        call("prepare", "deep", tmp_path, "--check")
