from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.evaluation.made_runs import make_run

MILMER = Path(sys.executable).with_name("milmer")


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([MILMER, *map(str, words)], capture_output=True, text=True, check=False)


def test_compare_prints_a_table_of_at_most_110_columns_and_writes_the_page(tmp_path: Path) -> None:
    names = ["a-run-with-quite-a-long-name-of-thirty-or-more", "b", "leaky"]
    runs = [make_run(tmp_path / n, 0.3 * i, seed=i, windows=1) for i, n in enumerate(names[:2])]
    runs.append(make_run(tmp_path / "leaky", 0.9, seed=7, windows=1, protocol="window"))
    found = run("compare", *runs, "--across", "--out", tmp_path / "out")
    assert found.returncode == 0, found.stderr
    table = found.stdout.split("Inflation between protocols:")[0].splitlines()
    assert max(map(len, table)) <= 110 and "…" not in "".join(table[4:])
    assert sum("inflation 3 −" in line for line in table) == 4  # over subjects, and for new stimuli
    assert "not a comparison of models" in found.stderr
    assert (tmp_path / "out" / "comparison.html").exists()


def test_compare_prints_the_difference_for_new_stimuli_and_what_decides(tmp_path: Path) -> None:
    for protocol in ("subject", "subject-and-stimulus"):
        runs = [make_run(tmp_path / f"{protocol}{i}", 0.8 * i, seed=i, windows=1, protocol=protocol) for i in range(2)]
        lines = run("compare", *runs).stdout.splitlines()
        at = lines.index(next(line for line in lines if line.startswith("also for new stimuli (8 subjects, 12 stim")))
        assert max(map(len, lines[at : at + 3])) <= 80 and "1 − 2" in lines[at + 2]
        heads = next(line for line in lines if "Wilcoxon" in line), lines[at + 1]
        assert ["apart" in head for head in heads] == [protocol == "subject", protocol != "subject"]


def test_plan_prints_differences_and_assumptions() -> None:
    found = run("plan", "--subjects", 32, "--stimuli", 40, "--classes", 2)
    assert found.returncode == 0, found.stderr
    for words in (
        "= 1280 trials, chance 50 %",
        "new subjects and new stimuli",
        "Assumed:",
        "exact binomial over trials",
    ):
        assert words in found.stdout
    assert json.loads(run("plan", "--subjects", 6, "--stimuli", 40, "--json").stdout)["trials"] == 240


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["compare", "nowhere", "else"], "nowhere: found no run.json"),
        (["plan", "--subjects", "9", "--stimuli", "4", "--chance", "2"], "--chance 2: expected"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], expected: str) -> None:
    found = run(*words)
    assert found.returncode == 2 and expected in found.stderr
    assert found.stderr.count("\n") == 1
