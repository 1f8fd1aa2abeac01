"""Every command of the README runs, in its order, on a study made smaller."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MILMER = Path(sys.executable).with_name("milmer")
# A README's reader waits minutes; a test does not. Nothing else of a command is changed.
SMALLER = {
    "simulate": ["--subjects", "3", "--trials", "8", "--seconds", "9", "--fps", "10"],
    "prepare": ["--ica", "none"],
    "evaluate": ["--epochs", "1", "--folds", "3"],
    "train": ["--epochs", "1"],
}


def commands() -> list[str]:
    """All lines of the README's shell blocks that call milmer, and those in the running text that take a store."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.S)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    inline = [c for c in re.findall(r"`(milmer [^`]+)`", text) if "--out" in c]
    return [line for line in [*lines, *inline] if line.startswith("milmer ")]


def test_the_readme_shows_every_step() -> None:
    verbs = [c.split()[1] for c in commands()]
    assert verbs[:5] == ["simulate", "prepare", "inspect", "evaluate", "report"]
    assert {"train", "predict"} <= set(verbs) and verbs.count("prepare") == 2


def test_make_targets_of_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"make (\w+)", text))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test", "install"} <= targets
    assert all(re.search(rf"^{t}:", makefile, flags=re.M) for t in targets)


def test_every_command_runs(tmp_path: Path, samples: Path) -> None:
    shutil.copy(samples / "S001R02.edf", tmp_path / "recording.edf")
    shutil.copy(samples / "WolfgangLanger_Pexels.mp4", tmp_path / "recording.mp4")
    head = "subject,trial,stimulus,eeg_path,eeg_start_s,eeg_stop_s,video_path,video_start_s,valence,arousal,label"
    rows = []
    for person in range(3):
        for t in range(8):
            start, label = 5 + 6 * t, ("rest", "arithmetic")[t % 2]
            valence, arousal = 3 + 4 * (t % 2), 3 + 4 * (t // 2 % 2)
            paths = f"recording.edf,{start},{start + 6},recording.mp4,{t}"
            rows.append(f"p{person},{t + 1},clip{t},{paths},{valence},{arousal},{label}")
    (tmp_path / "trials.csv").write_text("\n".join([head, *rows]) + "\n")
    for command in commands():
        words = shlex.split(command)[1:]
        out = tmp_path / words[words.index("--out") + 1] if "--out" in words else None
        if out is not None and out.exists():  # the README tells two stories with the same names
            shutil.rmtree(out)
        extra = SMALLER.get(words[0], [])
        found = subprocess.run([MILMER, *words, *extra], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert found.returncode == 0, f"{command}\n{found.stdout}\n{found.stderr}"
    assert (tmp_path / "answers/timeline.png").exists() and (tmp_path / "answers/predictions.csv").exists()


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE"])
def test_what_a_visitor_looks_for_is_there(name: str) -> None:
    assert (ROOT / name).stat().st_size > 100
