from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from milmer import cli
from milmer.cli import VERBS

MILMER = Path(sys.executable).with_name("milmer")


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([MILMER, *map(str, words)], capture_output=True, text=True, check=False)


def test_help_names_every_verb_in_under_a_second() -> None:
    run("--help")  # the first call may compile byte code
    begun = time.monotonic()
    found = run("--help")
    assert time.monotonic() - begun < 1.0
    assert found.returncode == 0
    places = [found.stdout.index(f"│ {verb} ") for verb in VERBS]
    assert places == sorted(places)


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    heavy = ["torch", "mne", "lightning", "sklearn", "av", "pandas"]
    code = f"import milmer.cli, milmer.config, sys; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["evaluat"], "No such command 'evaluat'"),
        (["report"], "Missing argument"),
        (["evaluate", "x", "--out", "y", "--bogus", "1"], "No such option: --bogus"),
        (["prepare", "deep", "x", "--out", "y"], "did you mean 'deap'"),
        (["prepare", "deap", "nowhere", "--out", "y"], "nowhere"),
        (["prepare", "table", "nowhere.csv", "--out", "y"], "nowhere.csv"),
        (["inspect", "nowhere"], "found no study.json"),
        (["evaluate", "nowhere", "--out", "y"], "found no study.json"),
        (["report", "nowhere"], "nowhere"),
        (["predict", "nowhere", "--out", "y"], "nowhere: no such folder"),
        (["config", "--set", "model.balancing.querys=3"], "did you mean 'queries'"),
        (["config", "--set", "model.width=101"], "multiple of model.fusion.heads"),
        (["config", "--preset", "papers"], "did you mean 'paper'"),
        (["config", "--config", "nowhere.yaml"], "no such configuration file"),
        (["simulate", "out", "--size", "big"], "expected WIDTHxHEIGHT"),
        (["simulate", "out", "--expressions", "2", "--joint", "xor"], "--expressions writes still faces"),
        (
            ["evaluate", "nowhere", "--out", "y", "--fusion", "deepcca", "--modalities", "eeg"],
            "joins a model of the EEG",
        ),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(words: list[str], expected: str, tmp_path: Path) -> None:
    found = subprocess.run([MILMER, *words], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert found.returncode == 2, found.stderr
    assert expected in found.stderr
    assert found.stderr.count("\n") == 1 and "Traceback" not in found.stderr
    assert list(tmp_path.iterdir()) == []  # nothing is begun


def test_an_unknown_key_of_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("training: {epoch: 3}\n")
    found = run("config", "--config", file)
    assert found.returncode == 2
    assert "mine.yaml: unknown option 'training.epoch' (did you mean 'epochs'?)" in found.stderr


def test_config_prints_what_it_reads_back(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(run("config", "--preset", "paper", "--set", "training.epochs=7").stdout)
    assert run("config", "--config", file).stdout == file.read_text()
    assert "epochs: 7" in file.read_text()


def test_inspect_exits_1_on_a_damaged_store(tiny_store: Path, tmp_path: Path) -> None:
    sound = run("inspect", tiny_store)
    assert sound.returncode == 0 and "every file is as it was written" in sound.stdout
    shutil.copytree(tiny_store, tmp_path / "store")
    file = tmp_path / "store/recordings/s02/faces.bin"
    file.write_bytes(file.read_bytes()[:-1])
    found = run("inspect", tmp_path / "store")
    assert found.returncode == 1
    assert "recordings/s02/faces.bin" in found.stderr and "expected" in found.stderr


def test_a_file_that_must_not_be_touched_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**_: object) -> int:
        raise PermissionError(13, "Permission denied", "STORE/study.json")

    monkeypatch.setattr(cli, "app", refuse)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    found = capsys.readouterr().err.strip()
    assert "STORE/study.json: found Permission denied" in found
    assert "\n" not in found
