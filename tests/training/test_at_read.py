"""What is decided at read goes all the way: through evaluation, two studies, and a new recording."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.conftest import make_store
from tests.test_store_join import other_study

from milmer.config import load_config
from milmer.evaluation.evaluate import evaluate, train
from milmer.models.weights import load_model
from milmer.store import Store

QUICK = {
    "data.modalities": ["eeg"],
    "data.target": "arousal",
    "data.reject": [],
    "model.fusion.method": "bandpower-logistic",
    "evaluation.folds": 3,
    "evaluation.resamples": 100,
    "evaluation.probes": False,
    "evaluation.samples": "none",
    "training.threads": 1,
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("small") / "store", seconds=6.0, face=False)


def notes_of(run: Path) -> str:
    return "\n".join(json.loads((run / "run.json").read_text())["notes"])


def test_two_studies_with_other_caps_are_tested_across_in_one_montage(small: Path, tmp_path: Path) -> None:
    names = ("F3", "F4", "C3", "C4", "P3", "P4", "Oz", "Cz")
    other = Store(other_study(tmp_path / "other", names, face=False))
    values = QUICK | {"evaluation.protocol": "cross-study", "evaluation.folds": None, "data.montage": "10-20"}
    evaluate(Store(small), load_config("demo", overrides=values), tmp_path / "run", test_store=other)
    found = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    assert set(found.loc[found["part"] == "test", "study"]) == {"other"}
    assert np.isfinite(found["prob_high"]).all()
    assert "montage 10-20 of 19 electrodes; some are interpolated" in notes_of(tmp_path / "run")


def test_operators_of_a_fold_leave_a_stranger_with_another_cap_as_it_is(small: Path, tmp_path: Path) -> None:
    names = ("F3", "F4", "C3", "C4", "P3", "P4", "Oz", "Cz")
    other = Store(other_study(tmp_path / "other", names, face=False))
    values = QUICK | {"evaluation.protocol": "cross-study", "evaluation.folds": None, "evaluation.budget": "none"}
    values |= {"data.operators": "fold", "data.reject": ["eye blink"]}
    evaluate(Store(small), load_config("demo", overrides=values), tmp_path / "run", test_store=other)
    assert "nothing to fit an ICA on, so no component is taken out" in notes_of(tmp_path / "run")
    assert not (tmp_path / "run" / "operators").exists()


@pytest.fixture(scope="module")
def model(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fitted with everything at once."""
    out = tmp_path_factory.mktemp("model") / "run"
    values: dict[str, Any] = QUICK | {"data.montage": "common", "data.band": [2, 30], "data.reject_uv": 400.0}
    values |= {"data.operators": "fold", "data.reject": ["eye blink"], "evaluation.folds": None}
    train(Store(small), load_config("demo", overrides=values), out)
    return out


def test_a_models_record_names_its_electrodes_and_its_ica(model: Path) -> None:
    _, record = load_model(next(model.glob("folds/*/model.safetensors")).parent)
    assert record["data"]["montage"] == "Fp1,Fp2,C3,C4,P3,P4,O1,O2"  # "common" is another cap elsewhere
    assert record["channels"] == record["data"]["montage"].split(",")
    assert record["data"]["band"] == [2.0, 30.0] and record["preparation"]["eeg"]["ica"] != "none"


def test_a_new_recording_is_read_as_the_training_data_were(model: Path, tmp_path: Path) -> None:
    import mne

    from milmer.inference.predictor import predict_recording

    names = ["Fp1", "Fp2", "C3", "C4", "Cz", "P3", "P4", "O1", "O2", "Oz"]
    rng = np.random.default_rng(0)
    raw = mne.io.RawArray(rng.normal(0, 1e-5, (len(names), 256 * 12)), mne.create_info(names, 256.0, "eeg"))
    raw.save(tmp_path / "new_raw.fif", verbose="ERROR")
    found = predict_recording(model, tmp_path / "out", eeg=tmp_path / "new_raw.fif")
    assert len(found.windows) == 4 and found.windows["has_eeg"].all()
    assert any("montage" in n and "8 electrodes" in n for n in found.notes)
    assert any("band 2-30 Hz" in n for n in found.notes)
