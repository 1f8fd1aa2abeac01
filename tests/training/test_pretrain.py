from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from milmer.datasets.expressions import ExpressionSet, open_expressions
from milmer.errors import UserError
from milmer.models.backbone import IMAGENET_MEAN, load_backbone
from milmer.reports.pretrained import figure_lines, write_pages
from milmer.training import pretrain
from milmer.training.pictures import augment_pictures
from milmer.training.pretrain import Pretrained, check_pretraining, pretrain_faces

CLASSES = ("happy", "sad", "surprise")


def write_set(root: Path, per_class: dict[str, int], seed: int = 0) -> Path:
    """Noisy squares with a bright bar at a height that tells the class."""
    rng = np.random.default_rng(seed)
    for c, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for i in range(per_class[name]):
            image = rng.normal(110, 12, (64, 64, 3))  # (P, P, 3)
            image[8 + 20 * c : 18 + 20 * c] += 90
            values = np.clip(image, 0, 255).astype(np.uint8)
            Image.fromarray(values).save(root / name / f"p{i % 5}_{i}.jpg", quality=90)
    return root


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> ExpressionSet:
    root = write_set(tmp_path_factory.mktemp("set"), {"happy": 60, "sad": 60, "surprise": 30})
    test = write_set(root / "test", dict.fromkeys(CLASSES, 4), seed=1)
    (root / "train").mkdir()
    for name in CLASSES:
        (root / name).rename(root / "train" / name)
    assert test.is_dir()
    return open_expressions(root, group_by="prefix")


OPTIONS: dict[str, Any] = {
    "backbone": "random:demo",
    "epochs": 8,
    "batch": 16,
    "seed": 3,
    "device": "cpu",
    "threads": 1,
}


@pytest.fixture(scope="module")
def made(faces: ExpressionSet, tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    return pretrain_faces(faces, tmp_path_factory.mktemp("out") / "backbone", **OPTIONS)


def test_it_learns_and_says_how_well(made: Pretrained, faces: ExpressionSet) -> None:
    record = json.loads((made.folder / "milmer_pretrain.json").read_text())
    figures = {(f["part"], f["name"]): f for f in record["figures"]}
    for part, n in (("validation", 60), ("test", 12)):
        found = figures[part, "macro_f1"]
        assert found["value"] > 0.7 > 0.4 > found["majority"] and found["n"] == n
        assert (found["low"], found["high"]) == (None, None)  # of two people, and of pictures of four: too few
        assert np.sum(record["confusion"][part]) == n
    assert record["classes"] == list(faces.classes) and record["validation"].startswith("2 of 5 people held out")
    history = pd.read_csv(made.folder / "history.csv")
    assert len(history) == 8 and history["val_macro_f1"].max() == history["val_macro_f1"][record["best_epoch"]]
    assert figures["validation", "macro_f1"]["value"] == pytest.approx(history["val_macro_f1"].max())
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    lines = figure_lines(record)
    assert [line.split(",")[0] for line in lines] == ["validation", "test"] and "macro F1" in lines[0]


def test_nothing_but_the_backbone_is_left(made: Pretrained) -> None:
    write_pages(made.folder, made.record)
    assert {p.name for p in made.folder.iterdir()} == {
        "README.md",
        "config.json",
        "confusion.png",
        "history.csv",
        "milmer_pretrain.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    assert not made.folder.with_name("backbone.part").exists()
    with Image.open(made.folder / "confusion.png") as image:
        assert min(image.size) > 300
    assert "random:demo" in (made.folder / "README.md").read_text()
    assert str(made.folder.parent) not in (made.folder / "README.md").read_text()


def test_transformers_and_the_backbone_option_read_the_trained_net(
    made: Pretrained, faces: ExpressionSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoImageProcessor, SwinModel

    kept: list[torch.nn.Module] = []
    original = pretrain._save_network
    monkeypatch.setattr(pretrain, "_save_network", lambda net, folder: (kept.append(net), original(net, folder)))
    again = pretrain_faces(faces, tmp_path / "again", **{**OPTIONS, "epochs": 1})
    pictures = np.stack([faces.picture(i, 64) for i in range(6)])  # (6, P, P, 3)
    backbone = load_backbone(str(again.folder), px=64, width=96).eval()
    assert backbone.spec.mean == IMAGENET_MEAN and "preprocessor_config.json" in backbone.spec.normalised_by
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2)  # (6, 3, P, P)
    x = (pixels / 255 - backbone.mean) / backbone.std  # (6, 3, P, P)
    with torch.inference_mode():
        trained = kept[0].eval()(pixel_values=x).last_hidden_state  # (6, T, D)
        theirs = SwinModel.from_pretrained(again.folder).eval()(pixel_values=x).last_hidden_state  # (6, T, D)
        ours = backbone(pixels[:, None, None], torch.ones(6, 1, 1, dtype=torch.bool))  # (6, 1, T, D)
    assert torch.equal(theirs, trained)
    assert torch.equal(ours[:, 0], trained)
    fresh = load_backbone("random:demo", px=64, width=96).net.state_dict()
    assert any(not torch.equal(v, fresh[n]) for n, v in kept[0].state_dict().items())
    processor = AutoImageProcessor.from_pretrained(made.folder)
    assert tuple(processor.image_mean) == IMAGENET_MEAN


def test_interrupted_and_resumed_is_bit_equal(made: Pretrained, faces: ExpressionSet, tmp_path: Path) -> None:
    def stop(done: int, total: int, text: str) -> None:
        if done == 14:  # in the third epoch
            raise KeyboardInterrupt

    out = tmp_path / "backbone"
    with pytest.raises(KeyboardInterrupt):
        pretrain_faces(faces, out, **OPTIONS, progress=stop)
    assert not out.exists()
    with pytest.raises(UserError, match="add --resume to go on"):
        pretrain_faces(faces, out, **OPTIONS)
    with pytest.raises(UserError, match="begun with batch 16, asked for 8"):
        pretrain_faces(faces, out, **{**OPTIONS, "batch": 8}, resume=True)
    steps: list[int] = []
    resumed = pretrain_faces(faces, out, **OPTIONS, resume=True, progress=lambda done, total, text: steps.append(done))
    assert steps[0] == 13  # the two whole epochs of six steps were not learnt again
    assert resumed.record == made.record
    assert (out / "history.csv").read_text() == (made.folder / "history.csv").read_text()
    ours, theirs = load_file(out / "model.safetensors"), load_file(made.folder / "model.safetensors")
    assert ours.keys() == theirs.keys() and all(torch.equal(v, theirs[n]) for n, v in ours.items())
    assert pretrain_faces(faces, out, **OPTIONS, resume=True).record == made.record  # finished: nothing to do


def test_it_goes_on_from_a_folder_of_its_own(made: Pretrained, faces: ExpressionSet, tmp_path: Path) -> None:
    start = str(made.folder)
    second = pretrain_faces(faces, tmp_path / "b", **{**OPTIONS, "backbone": start, "epochs": 1}, trainable_stages=1)
    assert start not in (second.folder / "milmer_pretrain.json").read_text()  # it travels, that place does not
    assert second.record["settings"]["px"] == 64 and second.record["settings"]["lr"] == pretrain.LR
    before, after = load_file(made.folder / "model.safetensors"), load_file(second.folder / "model.safetensors")
    changed = {n for n, v in after.items() if not torch.equal(v, before[n])}
    assert changed and not [n for n in changed if n.startswith(("embeddings.", "encoder.layers.0."))]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"trainable_stages": 0}, "nothing of the backbone would be trained"),
        ({"epochs": 0}, "--epochs 0"),
        ({"lr": 3.0}, "--lr 3"),
        ({"device": "tpu"}, "--device tpu"),
        ({"backbone": "random:dem"}, "did you mean 'demo'"),
        ({"backbone": "./nowhere"}, "no such folder"),
        ({"px": 60}, "--px 60: the backbone random:demo takes frames of at least 64 px"),
    ],
)
def test_a_wrong_option_is_one_line_and_leaves_nothing(
    faces: ExpressionSet, tmp_path: Path, options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UserError) as error:
        pretrain_faces(faces, tmp_path / "out", **{**OPTIONS, **options})
    assert expected in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
    if "epochs" not in options:  # the command line asks before the pictures are read
        with pytest.raises(UserError) as early:
            check_pretraining(tmp_path / "out", **{"backbone": "random:demo", **options})
        assert str(early.value) == str(error.value)


def test_a_folder_that_is_taken_is_refused(faces: ExpressionSet, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(UserError, match="not empty"):
            pretrain_faces(faces, tmp_path, **OPTIONS, resume=resume)
        with pytest.raises(UserError, match="not empty"):
            check_pretraining(tmp_path, backbone="random:demo", resume=resume)


def test_augmentation_keeps_the_picture_and_is_a_function_of_seed_and_step() -> None:
    face = torch.zeros(64, 3, 32, 32, dtype=torch.uint8)  # (B, 3, P, P)
    face[:, :, 14:18, 4:8] = 200  # to the left of the middle
    a, b, c = augment_pictures(face, 0, 7), augment_pictures(face, 0, 7), augment_pictures(face, 0, 8)
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert a.shape == face.shape and a.min() >= 0 and a.max() <= 1
    weight = a.mean(dim=1) - a.mean(dim=1).amin(dim=(1, 2), keepdim=True)  # (B, P, P)
    weight = weight / weight.sum(dim=(1, 2), keepdim=True)  # (B, P, P)
    at = torch.arange(32) - 15.5  # (P,)
    across, down = (weight.sum(1) * at).sum(1), (weight.sum(2) * at).sum(1)  # (B,), (B,)
    assert 0.25 < (across > 4).float().mean() < 0.75 and 0.25 < (across < -4).float().mean() < 0.75  # mirrored or not
    assert down.abs().median() < 5  # a small turn, not a quarter
