"""Two laboratories, whole: recordings of other caps, prepared under two names, one tested on the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from milmer.cli import app
from milmer.errors import UserError
from milmer.store import Store

RATE, SECONDS, TRIALS = 128.0, 6, 4
CAPS = {"lab-a": ("Fp1", "Fp2", "C3", "C4", "P3", "P4", "O1", "O2"), "lab_b": ("O2", "FZ", "C4", "O1", "C3", "P4")}
FAST = ["--modalities", "eeg", "--fusion", "bandpower-logistic", "--target", "arousal", "--preset", "demo"]
FAST += ["--reject", "none", "--set", "evaluation.resamples=100", "--set", "evaluation.probes=false"]


def call(*words: object) -> Any:
    found = CliRunner().invoke(app, [str(w) for w in words], env={"COLUMNS": "200"})
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found


def write_study(folder: Path, names: tuple[str, ...], people: int, seed: int) -> Path:
    """Write one file a person, arousal in the alpha power, and the table ``trials.csv``."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    lines = ["subject,trial,stimulus,eeg_path,eeg_start_s,eeg_stop_s,video_path,arousal"]
    for person in range(1, people + 1):
        time = np.arange(round(TRIALS * SECONDS * RATE)) / RATE  # (S,)
        strength = np.where(time // SECONDS % 2, 2e-5, 3e-6)  # (S,)
        samples = rng.normal(0, 8e-6, (len(names), len(time)))  # (C, S)
        samples += strength * np.sin(2 * np.pi * 10 * time + rng.uniform(0, 6, (len(names), 1)))  # (C, S)
        info = mne.create_info(list(names), RATE, "eeg")
        mne.io.RawArray(samples, info, verbose="error").save(folder / f"p{person}_raw.fif", verbose="error")
        for t in range(TRIALS):
            start = t * SECONDS
            rating = 7 if t % 2 else 3
            lines.append(f"p{person},{t + 1},clip{t},p{person}_raw.fif,{start},{start + SECONDS},,{rating}")
    (folder / "trials.csv").write_text("\n".join(lines) + "\n")
    return folder / "trials.csv"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores lab-a and lab_b, and the tables they are made from (both called trials.csv)."""
    root = tmp_path_factory.mktemp("labs")
    for seed, (name, cap) in enumerate(CAPS.items()):
        table = write_study(root / f"study-{name}", cap, 4 - seed, seed)
        call("prepare", "table", table, "--out", root / name, "--name", name, "--ica", "none")
    return root


def test_one_laboratory_is_tested_on_the_other(stores: Path, tmp_path: Path) -> None:
    one, two = (Store(stores / name) for name in CAPS)
    assert [s.name for s in (one, two)] == list(CAPS) and set(two.trials["study"]) == {"lab_b"}
    assert [len(s.recording(s.keys[0]).names) for s in (one, two)] == [8, 6]
    words = ["--protocol", "cross-study", "--test-store", stores / "lab_b", *FAST]
    call("evaluate", stores / "lab-a", "--out", tmp_path / "run", *words)
    table = pd.read_parquet(tmp_path / "run/predictions.parquet")
    assert set(table.loc[table["part"] == "test", "study"]) == {"lab_b"}
    assert set(table.loc[table["part"] != "test", "study"]) == {"lab-a"}
    assert table.loc[table["part"] == "test", ["subject", "trial"]].drop_duplicates().shape[0] == 3 * TRIALS
    notes = json.loads((tmp_path / "run/run.json").read_text())["notes"]
    assert any("5 EEG channels are in both studies" in n for n in notes)


def test_the_name_is_part_of_the_store(stores: Path) -> None:
    again = ["prepare", "table", stores / "study-lab-a/trials.csv", "--out", stores / "lab-a", "--ica", "none"]
    assert "(4 were there)" in call(*again, "--name", "lab-a").output
    for other, words in (("lab-c", ["--name", "lab-c"]), ("trials", [])):
        with pytest.raises(
            UserError, match=f"holds a store of lab-a, asked for {other}; give the same --name"
        ) as found:
            call(*again, *words)
        assert "\n" not in str(found.value)


def test_one_name_for_two_studies_says_how_to_tell_them_apart(stores: Path, tmp_path: Path) -> None:
    words = ["--protocol", "cross-study", "--test-store", stores / "lab-a", *FAST]
    with pytest.raises(UserError, match=r"the study 'lab-a' twice.*--name NAME"):
        call("evaluate", stores / "lab-a", "--out", tmp_path / "run", *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["", "my lab", "a/b", "ä", ".", "lab\n"])
def test_a_name_is_one_word(name: str, stores: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected one word of letters"):
        call("prepare", "table", stores / "study-lab-a/trials.csv", "--out", tmp_path / "x", "--name", name)
    assert not (tmp_path / "x").exists()


def test_a_simulated_study_takes_a_name_but_not_deaps(tmp_path: Path) -> None:
    from milmer.datasets import open_study
    from milmer.datasets.simulated import SimulationOptions, simulate_study

    simulate_study(tmp_path / "study", SimulationOptions(subjects=1, trials=4, seconds=9, videos=False))
    names = [None, "simulated-2"]
    opened = [open_study("deap", tmp_path / "study", n) for n in names]
    assert [s.name for s in opened] == ["simulated", "simulated-2"]
    assert {t.study for t in opened[1].recordings()[0].trials} == {"simulated-2"}
    with pytest.raises(UserError, match="must not pass for DEAP's"):
        open_study("deap", tmp_path / "study", "my-DEAP")
