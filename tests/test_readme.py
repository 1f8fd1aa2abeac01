"""Every command of the README runs, in its order, on a study made smaller; what the docs say of the models is so."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

ROOT = Path(__file__).parents[1]
# One process runs all commands: most of the time of so small ones goes into importing torch. (The installed command
# itself is tested in test_cli.py.)
RUNNER = """
import json, shutil, sys
from milmer.cli import main
for old, words in json.load(sys.stdin):
    if old:
        shutil.rmtree(old, ignore_errors=True)
    sys.argv = ["milmer", *words]
    try:
        main()
    except SystemExit as end:
        if end.code:
            sys.exit(f"milmer {' '.join(words)}: exit code {end.code}")
"""
ALONE = ["--jobs", "1"]  # a second process costs more than all there is to do
# A README's reader waits minutes; a test does not. Nothing else of a command is changed.
SMALLER = {
    "simulate": ["--subjects", "3", "--trials", "8", "--seconds", "9", "--fps", "10", *ALONE],
    "prepare": ["--ica", "none", *ALONE],
    "evaluate": ["--epochs", "1", "--folds", "3", *ALONE],
    "train": ["--epochs", "1"],
    "pretrain": ["--epochs", "1"],
    "ablate": ["--epochs", "1", "--folds", "3"],
}
EXPRESSIONS = ["--expressions", "6", "--subjects", "4", *ALONE]
# Two cells of each table; those of the components are cells of the first two as well, and found there; those of the
# modalities share a run.
CELLS = {
    "balancing": "16-queries,none",
    "fusion": "transformer,eeg-only",
    "components": "tuned-mil-attention,tuned-mil-none",
    "modalities": "eeg+face,face",
}


def smaller(words: list[str]) -> list[str]:
    """What to add to a command, so that it takes seconds."""
    if "--expressions" in words:
        return EXPRESSIONS
    return [*SMALLER.get(words[0], []), *(["--cells", CELLS[words[1]]] if words[0] == "ablate" else [])]


def python_blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), flags=re.S)


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
    assert {"train", "predict", "pretrain", "audit", "compare", "plan"} <= set(verbs) and verbs.count("prepare") == 2
    assert {c.split()[2] for c in commands() if c.startswith("milmer ablate")} == set(CELLS)


def test_make_targets_of_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"make (\w+)", text))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test", "install"} <= targets
    assert all(re.search(rf"^{t}:", makefile, flags=re.M) for t in targets)


def test_every_command_runs(tmp_path: Path, samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    todo = []
    for command in commands():
        words = shlex.split(command)[1:]
        # The README tells two stories with the same names; ablations share a folder.
        old = words[words.index("--out") + 1] if "--out" in words and words[0] != "ablate" else ""
        todo.append((old, [*words, *smaller(words)]))
    call = [sys.executable, "-c", RUNNER]
    found = subprocess.run(call, cwd=tmp_path, input=json.dumps(todo), capture_output=True, text=True, check=False)
    assert found.returncode == 0, f"{found.stdout}\n{found.stderr}"
    assert (tmp_path / "answers/timeline.png").exists() and (tmp_path / "answers/predictions.csv").exists()
    cells = {"16-queries", "none", "transformer", "eeg-only", "eeg+face"}
    assert {p.name for p in (tmp_path / "tables/cells").iterdir()} == cells
    assert all((tmp_path / f"tables/plot-{kind}.png").exists() for kind in CELLS)
    run_python("README.md", tmp_path, monkeypatch)


def run_python(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the Python examples of a page one after the other in `folder`."""
    monkeypatch.chdir(folder)
    blocks = python_blocks(name)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, name, "exec"), names)


def test_the_examples_of_the_models_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_python("docs/models.md", tmp_path, monkeypatch)
    assert (tmp_path / "my-model/model.safetensors").exists()


def test_the_parameters_on_the_models_page_are_those_of_the_presets() -> None:
    import torch

    from milmer.config import load_config
    from milmer.models.milmer import Milmer

    table = (ROOT / "docs/models.md").read_text(encoding="utf-8").split("| part |")[1].split("\n\n")[0]
    said = {
        (cells := [c.strip(" *`") for c in line.strip("|").split("|")])[0]: [int(c.replace(",", "")) for c in cells[1:]]
        for line in table.splitlines()[2:]
    }
    overview = (ROOT / "README.md").read_text(encoding="utf-8")
    for column, preset in enumerate(("paper", "published", "default", "demo")):
        small = preset == "demo"
        size = {"model.backbone": "random:demo" if small else "random:tiny"}
        with torch.device("meta"):
            model = Milmer(load_config(preset, overrides=size).model, n_classes=4, px=64 if small else 224)
        found = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
        found = {name: n for name, n in found.items() if n or name in said}  # what has no parameters needs no row
        found["all"] = sum(p.numel() for p in model.parameters())
        assert {name: values[column] for name, values in said.items()} == found, preset
        millions = f"{found['all'] / 1e6:.{2 if small else 1}f} M |"
        assert re.search(rf"^\| `{preset}` .*{re.escape(millions)}$", overview, flags=re.M), preset


def test_every_variant_is_on_the_models_page() -> None:
    from milmer.sections import EEG_TOKENS, Balancing, Fusion, Selection

    text = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for section in (Selection, Balancing, Fusion):
        for method in get_args(section.model_fields["method"].annotation):
            assert f"| `{method}`" in text and f"`{method}`" in readme, method
    assert all(f"| `{kind}`" in text and f"`{kind}`" in readme for kind in EEG_TOKENS)


@pytest.mark.parametrize("page", ["README.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    file = ROOT / page
    links = re.findall(r"\]\(([^)#:]+)\)", file.read_text(encoding="utf-8"))
    assert [link for link in links if not (file.parent / link).exists()] == []


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE"])
def test_what_a_visitor_looks_for_is_there(name: str) -> None:
    assert (ROOT / name).stat().st_size > 100
