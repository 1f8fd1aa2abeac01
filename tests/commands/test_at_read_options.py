"""Options of what is decided at read: from the command line to the configuration and to what inspect says."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from tests.conftest import make_store
from typer.testing import CliRunner

from milmer.cli import app
from milmer.errors import UserError
from milmer.options import resolve
from milmer.store import file_hash


def named(path: Path) -> Path:
    """A store as SEED's: a label each trial, and no ratings at all."""
    make_store(path, subjects=3, trials=6, seconds=6.0, face=False)
    info = json.loads((path / "study.json").read_text())
    for file in path.rglob("trials.parquet"):
        table = pd.read_parquet(file)
        words = ["happy" if high else "sad" for high in table["rating_arousal"] > 5]
        table.assign(label=words).drop(columns=["rating_valence", "rating_arousal"]).to_parquet(file)
        if file.parent == path:
            info["trials_sha256"] = file_hash(file)
        else:
            info["recordings"][file.parent.name]["trials.parquet"] = [file.stat().st_size, file_hash(file)]
    (path / "study.json").write_text(json.dumps(info | {"rating_ranges": {}}))
    return path


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return named(tmp_path_factory.mktemp("named") / "store")


def said(*words: str) -> str:
    found = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.output


def test_every_option_reaches_its_key() -> None:
    given = {"ties": "drop", "eeg_band": "1,30", "montage": "Fz,Cz", "reject_uv": 150.0, "operators": "fold"}
    data = resolve(given).data
    assert (data.ties, data.band, data.montage, data.reject_uv) == ("drop", (1.0, 30.0), "Fz,Cz", 150.0)
    assert data.operators == "fold"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"eeg_band": "30"}, "--eeg-band 30: expected LOW,HIGH"),
        ({"eeg_band": "30,1"}, "band 30-1 Hz must rise: LOW,HIGH such as 1,30$"),
        ({"ties": "hihg"}, "data.ties"),
        ({"sets": ["preparation.face.skin=5"]}, "'auto' or 'none', or greater than or equal to 20, found 5$"),
        ({"modalities": "GSR,EEG"}, "Input should be [^,]*, 'face', .* or 'eog', found 'GSR'$"),
        ({"operators": "folds"}, "data.operators"),
        ({"reject_uv": -1.0}, "data.reject_uv"),
    ],
)
def test_a_mistake_is_one_line(given: dict[str, object], expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        resolve(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("verb", ["evaluate", "train", "ablate"])
def test_the_verbs_that_learn_offer_all_of_them(verb: str) -> None:
    text = said(verb, "--help")
    assert all(f"--{o}" in text for o in ("ties", "eeg-band", "montage", "reject-uv", "operators"))
    if verb == "ablate":
        assert "cross-study" not in text  # an ablation is of one store


def test_inspect_of_a_study_without_ratings_takes_its_labels_and_says_what_is_left_out(labelled: Path) -> None:
    text = " ".join(
        said("inspect", str(labelled), "--reject-uv", "90", "--montage", "10-20", "--eeg-band", "2,30").split()
    )
    assert "happy" in text and "sad" in text
    assert "swing further than 90 uV peak to peak" in text
    assert "montage 10-20 of 19 electrodes" in text and "band 2-30 Hz" in text


def test_inspect_counts_ties(tiny_store: Path) -> None:
    text = " ".join(
        said("inspect", str(tiny_store), "--target", "valence", "--threshold", "7", "--ties", "drop").split()
    )
    assert "16 trials are rated exactly at the threshold and have no class" in text
