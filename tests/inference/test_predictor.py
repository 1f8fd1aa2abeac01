from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tests.conftest import make_store

from milmer.config import Data, load_config
from milmer.errors import UserError
from milmer.evaluation.evaluate import evaluate, train
from milmer.inference.predictor import _check_usable, fold_temperature, model_folders, predict_recording, whole_answer
from milmer.store import Store

QUICK = {"training.epochs": 1, "training.threads": 1, "evaluation.resamples": 100}


@pytest.fixture(scope="module")
def model(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "model"
    train(Store(tiny_store), load_config("demo", overrides=QUICK), out)
    return out


def test_real_eeg_and_real_video(model: Path, samples: Path, tmp_path: Path) -> None:
    """Another cap (64 electrodes, 160 Hz) and a real face, 19.7 s of 61 s: what is missing is masked, not invented."""
    made = predict_recording(model, tmp_path, eeg=samples / "S001R02.edf", video=samples / "WolfgangLanger_Pexels.mp4")
    table = pd.read_csv(made.table)
    assert len(table) == 20 and table["start"].tolist() == [3.0 * i for i in range(20)]
    np.testing.assert_allclose(table.filter(like="prob_").sum(axis=1), 1, atol=1e-3)
    assert table["has_eeg"].all()
    assert table["faces"].iloc[:6].sum() >= 0.95 * 60 and (table["faces"].iloc[7:] == 0).all()
    assert any("video ends at 19.7 s" in n for n in made.notes)
    times = [float(t) for t in table["chosen_frames_s"].iloc[1].split()]
    assert len(times) == 3 and all(3 <= t < 6 for t in times)
    with Image.open(made.picture) as picture:
        assert picture.size[0] > 800 and len(set(picture.convert("L").get_flattened_data())) > 20


def test_either_input_may_be_left_out_and_both_matter(model: Path, samples: Path, tmp_path: Path) -> None:
    video = predict_recording(model, tmp_path / "v", video=samples / "single_face.mp4")
    assert "no --eeg given: predicted without it" in video.notes
    assert not video.windows["has_eeg"].any() and video.windows["faces"].sum() > 0
    with pytest.raises(UserError, match="nothing to predict from"):
        predict_recording(model, tmp_path / "n")


def test_a_run_averages_its_folds_unless_told_one(tiny_store: Path, samples: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    evaluate(Store(tiny_store), load_config("demo", overrides=QUICK | {"evaluation.folds": 3}), run)
    assert [f.name for f in model_folders(run)] == ["0", "1", "2"]
    video = samples / "single_face.mp4"
    one = [predict_recording(run, tmp_path / str(k), video=video, fold=k).windows for k in range(3)]
    both = predict_recording(run, tmp_path / "all", video=video).windows
    columns = [c for c in both if c.startswith("prob_")]
    np.testing.assert_allclose(both[columns], sum(w[columns] for w in one) / 3, atol=1e-5)
    with pytest.raises(UserError, match="no fold 7; this run has folds 0, 1, 2"):
        predict_recording(run, tmp_path / "x", video=video, fold=7)


@pytest.mark.parametrize(("people", "scope"), [("ab", "subject"), ("aa", "subject"), ("ab", "pooled")])
def test_models_of_different_people_are_not_averaged(people: str, scope: str, tmp_path: Path) -> None:
    for k in range(2):
        (tmp_path / f"folds/{k}").mkdir(parents=True)
        (tmp_path / f"folds/{k}/model.safetensors").touch()
    (tmp_path / "run.json").write_text(json.dumps({"scope": scope}))
    rows = [(k, part, "lab", p if part == "train" else "z") for k, p in enumerate(people) for part in ("train", "test")]
    pd.DataFrame(rows, columns=["fold", "part", "study", "subject"]).to_parquet(tmp_path / "splits.parquet")
    assert [f.name for f in model_folders(tmp_path, 1)] == ["1"]
    if people == "aa" or scope == "pooled":
        assert len(model_folders(tmp_path)) == 2
        return
    with pytest.raises(UserError, match=r"different people .*name one with --fold: 0 \(a\), 1 \(b\)$") as caught:
        model_folders(tmp_path)
    assert "\n" not in str(caught.value)


def test_wrong_files_are_said_in_a_line(model: Path, samples: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("not a video")
    for arguments, expected in (
        ({"video": text}, "notes.mp4"),
        ({"eeg": text}, "notes.mp4"),
        ({"eeg": tmp_path / "absent.edf"}, "no such file"),
    ):
        with pytest.raises(UserError, match=expected) as caught:
            predict_recording(model, tmp_path / "out", **arguments)
        assert "\n" not in str(caught.value)
    broken = tmp_path / "model"
    shutil.copytree(model, broken)
    weights = broken / "folds/0/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        predict_recording(broken, tmp_path / "out", video=samples / "single_face.mp4")
    with pytest.raises(UserError, match="expected a model or a run"):
        predict_recording(tmp_path, tmp_path / "out", video=samples / "single_face.mp4")


def test_a_model_on_the_hub_needs_neither_run_nor_store(
    tiny_store: Path, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is looked up in the hub's cache; the run and the store that it came from are gone."""
    from milmer.models import hub
    from milmer.models.milmer import Milmer

    store = shutil.copytree(tiny_store, tmp_path / "store")
    train(Store(store), load_config("demo", overrides=QUICK), tmp_path / "run")
    video = samples / "single_face.mp4"
    before = predict_recording(tmp_path / "run", tmp_path / "a", video=video).windows
    trained = Milmer.from_pretrained(tmp_path / "run")
    assert trained.about["classes"] and trained.about["preparation"]
    assert len(trained.about["channels"]) == len(trained.about["positions"]) == 8
    cache = tmp_path / "cache" / "models--user--model"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/main").write_text("0" * 40)
    trained.save_pretrained(cache / "snapshots" / ("0" * 40))
    shutil.rmtree(tmp_path / "run")
    shutil.rmtree(store)
    monkeypatch.chdir(tmp_path)
    real = hub.snapshot_download
    monkeypatch.setattr(
        hub, "snapshot_download", lambda name, **o: real(name, **{**o, "cache_dir": tmp_path / "cache"})
    )
    after = predict_recording("user/model", tmp_path / "b", video=video).windows
    pd.testing.assert_frame_equal(before, after)


def test_a_mistyped_folder_is_said_in_a_line(samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from milmer.models import hub

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    video = samples / "single_face.mp4"
    for name in ("runs/x", "x", "./runs/x", "a/b/c"):
        with pytest.raises(UserError, match=r"no such folder.*(as a hub name it is not|or a hub name)") as caught:
            predict_recording(name, tmp_path / "out", video=video)
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_an_ablation_names_a_run_in_it(tmp_path: Path) -> None:
    (tmp_path / "ablation.json").write_text("{}")
    with pytest.raises(UserError, match=r"an ablation holds a run for each of its cells; give one of them$"):
        model_folders(tmp_path)
    fold = tmp_path / "cells/mean/seed-0-abc/folds/0"
    fold.mkdir(parents=True)
    (fold / "model.safetensors").touch()
    with pytest.raises(UserError, match=r"such as .*seed-0-abc$"):
        model_folders(tmp_path)


def test_a_run_that_is_not_finished_says_so(model: Path, samples: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(model, run)
    shutil.copytree(run / "folds/0", run / "folds/1")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"complete": False}))
    (run / "log.txt").write_text("fold 1 of 5: done (1 of 5)\nfold 2 of 5: done (2 of 5)\n")
    video = samples / "single_face.mp4"
    notes = predict_recording(run, tmp_path / "a", video=video).notes
    assert any("not finished, 2 of 5 folds are there" in n and "\n" not in n for n in notes)
    assert not any("not finished" in n for n in predict_recording(run, tmp_path / "b", video=video, fold=0).notes)
    assert not any("not finished" in n for n in predict_recording(model, tmp_path / "c", video=video).notes)
    (run / "log.txt").unlink()
    assert any("not all of its folds" in n for n in predict_recording(run, tmp_path / "d", video=video).notes)


def test_a_whole_answer_is_at_each_folds_temperature(tmp_path: Path) -> None:
    """By hand: at temperature 2 the odds 4 to 1 become 2 to 1, at 1 they stay; windows are averaged before."""
    one = np.array([[0.9, 0.1], [0.7, 0.3]], dtype=np.float32)
    other = np.array([[0.5, 0.5], [0.5, 0.5]], dtype=np.float32)
    np.testing.assert_allclose(whole_answer([one], [2.0]), [2 / 3, 1 / 3], atol=1e-6)
    np.testing.assert_allclose(
        whole_answer([one, other], [2.0, 1.0]), [(2 / 3 + 0.5) / 2, (1 / 3 + 0.5) / 2], atol=1e-6
    )
    np.testing.assert_allclose(whole_answer([one], [1.0]), [0.8, 0.2], atol=1e-6)
    assert fold_temperature(tmp_path) == 1.0
    file = tmp_path / "calibration.json"
    file.write_text('{"temperature": 2.5, "trials": 8}')
    assert fold_temperature(tmp_path) == 2.5
    file.write_text('{"temperature": 2.5, "trials": 8, "subsets": {"eeg+gsr": 2.5, "eeg": 4.0}}')
    assert fold_temperature(tmp_path, ("eeg",)) == 4.0  # what is shown less is less sure
    assert fold_temperature(tmp_path, ("eeg", "gsr")) == fold_temperature(tmp_path, ("gsr",)) == 2.5
    for text in ("{", "[]", "{}", '{"temperature": -1}', '{"temperature": null}'):
        file.write_text(text)
        with pytest.raises(UserError, match="delete it to go without"):
            fold_temperature(tmp_path)


def test_a_recordings_summary_is_calibrated_and_its_windows_are_not(model: Path, samples: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(model, run)
    video = samples / "single_face.mp4"
    said, tables = [], []
    for temperature in (1.0, 1e6):
        (run / "folds/0/calibration.json").write_text(json.dumps({"temperature": temperature}))
        made = predict_recording(run, tmp_path / "out", video=video)
        said.append(made.summary)
        tables.append(made.windows)
    pd.testing.assert_frame_equal(*tables)
    assert "25% (chance if nothing is known 25%)" in said[1] and said[0] != said[1]


def test_a_body_signal_comes_from_a_channel_of_the_recording(tmp_path: Path) -> None:
    import mne

    store = make_store(tmp_path / "store", subjects=3, trials=5, face=False, body=("ecg", "gsr"))
    overrides = QUICK | {"data.modalities": ["eeg", "ecg", "gsr"], "data.target": "arousal"}
    train(Store(store), load_config("demo", overrides=overrides), tmp_path / "model")
    rng, rate, seconds = np.random.default_rng(0), 128.0, 20
    names = ["Fp1", "Fp2", "C3", "C4", "P3", "P4", "O1", "O2", "ECG"]
    values = 1e-5 * rng.normal(size=(9, int(rate * seconds)))
    beat = np.exp(-0.5 * ((np.arange(values.shape[1]) / rate % 0.8 - 0.3) / 0.012) ** 2)
    values[8] = 1e-3 * beat + 1e-5 * rng.normal(size=beat.size)
    info = mne.create_info(names, rate, ["eeg"] * 8 + ["ecg"])
    mne.io.RawArray(values, info, verbose="error").save(tmp_path / "own_raw.fif", verbose="error")
    made = predict_recording(tmp_path / "model", tmp_path / "out", eeg=tmp_path / "own_raw.fif")
    assert "own_raw.fif: found no gsr: predicted without it" in made.notes
    table = pd.read_csv(made.table)
    assert table["has_ecg"].all() and not table["has_gsr"].any() and table["has_eeg"].all()


def test_a_model_of_the_body_alone_says_which_signal_it_lacks(tiny_store: Path) -> None:
    with pytest.raises(UserError, match=r"found no gsr and no ppg; give one with it$"):
        _check_usable(Store(tiny_store), Data(modalities=("gsr", "ppg")), ["ICA: 21 instead of 63 components"])
