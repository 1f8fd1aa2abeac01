import json
import socket

import pytest
import torch
from safetensors.torch import load_file, save_file

from milmer.config import load_config
from milmer.errors import UserError
from milmer.models.baselines import Ensemble
from milmer.models.weights import CONFIG, WEIGHTS, load_model, save_model

EXTRA = {"classes": ["a", "b", "c", "d"], "channels": ["Fz"], "rate": 128.0}


@pytest.fixture
def stored(net, bag, tmp_path):
    model = net()
    model.fit_scales([bag(c=9)])
    save_model(model, tmp_path, EXTRA)
    return model, tmp_path


def test_round_trip_is_exact_and_needs_no_network(stored, bag, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    model, folder = stored
    again, extra = load_model(folder)
    given = bag(c=9)
    assert torch.equal(model(given).logits, again(given).logits)
    assert extra == EXTRA and not again.training
    assert again.modalities == ("eeg", "face") and again.config == model.config
    assert sorted(p.name for p in folder.iterdir()) == [CONFIG, WEIGHTS]


@pytest.mark.parametrize("modality", ["eeg", "face"])
def test_one_modality_and_channel_tokens(net, bag, tmp_path, modality):
    model = net({"model.eeg_tokens": "channel", "model.trainable_stages": 1}, modalities=(modality,), n_classes=2)
    save_model(model, tmp_path / "new" / "folder", {})
    again, _ = load_model(tmp_path / "new" / "folder")
    assert torch.equal(model(bag()).logits, again(bag()).logits)
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert frozen == [n for n, p in again.named_parameters() if not p.requires_grad]


def test_a_backbone_from_a_folder_is_saved_inside(net, bag, tmp_path):
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)
    SwinModel(config).save_pretrained(tmp_path / "swin")
    (tmp_path / "swin" / "preprocessor_config.json").write_text('{"image_mean": [0, 0, 0], "image_std": [2, 2, 2]}')
    model = net({"model.backbone": str(tmp_path / "swin")}, px=32, modalities=("face",))
    save_model(model, tmp_path / "model", {})
    for file in (tmp_path / "swin").iterdir():
        file.unlink()
    again, _ = load_model(tmp_path / "model")
    assert torch.equal(model(bag(px=32)).logits, again(bag(px=32)).logits)


def test_wrong_tensors_are_named_with_both_shapes(stored):
    _, folder = stored
    good = load_file(folder / WEIGHTS)
    for change, message in [
        ({"fuse.cls": torch.zeros(5)}, r"tensor fuse\.cls has shape \(5,\), expected \(64,\)"),
        ({"fuse.extra": torch.zeros(2)}, r"tensor fuse\.extra of shape \(2,\), expected none"),
        ({"eeg_tokens.scale.values": torch.zeros(9, 3)}, r"eeg_tokens\.scale\.values has shape \(9, 3\)"),
    ]:
        save_file({**good, **change}, folder / WEIGHTS)
        with pytest.raises(UserError, match=message):
            load_model(folder)
    save_file({k: v for k, v in good.items() if k != "fuse.cls"}, folder / WEIGHTS)
    with pytest.raises(UserError, match=r"found no tensor fuse\.cls, expected shape \(64,\)"):
        load_model(folder)


def test_missing_and_broken_files_are_named(stored):
    _, folder = stored
    described = json.loads((folder / CONFIG).read_text())
    (folder / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(UserError, match=rf"{WEIGHTS}: not readable as safetensors"):
        load_model(folder)
    for text, message in [
        ("{", "not readable as JSON"),
        ("{}", "not the description of a Milmer model"),
        (json.dumps({**described, "version": 99}), "version 99, expected 1"),
    ]:
        (folder / CONFIG).write_text(text)
        with pytest.raises(UserError, match=message):
            load_model(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(UserError, match=rf"found no {WEIGHTS}"):
        load_model(folder)


def test_a_description_that_lacks_something_is_refused(stored):
    _, folder = stored
    described = json.loads((folder / CONFIG).read_text())
    for key in ("n_classes", "extra", "backbone"):
        (folder / CONFIG).write_text(json.dumps({k: v for k, v in described.items() if k != key}))
        with pytest.raises(UserError, match=f"does not describe a model .*{key}"):
            load_model(folder)


def test_a_folder_of_before_there_were_kinds_loads(stored, bag):
    model, folder = stored
    described = json.loads((folder / CONFIG).read_text())
    assert described["kind"] == "milmer" and described["version"] == 1
    older = {k: v for k, v in described.items() if k not in ("kind", "n_frames", "n_windows")}
    (folder / CONFIG).write_text(json.dumps(older))
    again, extra = load_model(folder)
    assert torch.equal(model(bag(c=9)).logits, again(bag(c=9)).logits)
    assert extra == EXTRA == again.about == model.about
    assert (again.n_frames, again.n_windows) == (10, 1)
    (folder / CONFIG).write_text(json.dumps({**described, "kind": "oracle"}))
    with pytest.raises(UserError, match=r"does not describe a model .*kind 'oracle' is unknown"):
        load_model(folder)


def test_a_pair_loads_each_member_with_its_own_electrodes(net, bag, tmp_path):
    members = {name: net(modalities=(name,)) for name in ("eeg", "face")}
    members["eeg"].fit_scales([bag(c=9)])
    model = Ensemble(load_config("demo").model, members).eval()
    save_model(model, tmp_path, EXTRA)
    again, _ = load_model(tmp_path)
    assert torch.equal(model(bag(c=9)).logits, again(bag(c=9)).logits)
    described = json.loads((tmp_path / CONFIG).read_text())
    described["members"]["eeg"] = described["members"]["face"]
    (tmp_path / CONFIG).write_text(json.dumps(described))
    with pytest.raises(UserError, match=r"does not describe a model .*needs a model of eeg alone"):
        load_model(tmp_path)


def test_an_interrupted_write_leaves_the_old_weights(stored, net, monkeypatch):
    model, folder = stored
    before = (folder / WEIGHTS).read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("milmer.models.weights.save_file", fail)
    with pytest.raises(OSError, match="No space"):
        save_model(model, folder, {})
    assert (folder / WEIGHTS).read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == [CONFIG, WEIGHTS]
