import json
import socket

import numpy as np
import pytest
import torch

from milmer.errors import UserError
from milmer.models import backbone as module
from milmer.models.backbone import IMAGENET_MEAN, load_backbone


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A Swin with the paper's patches and window for 56 px, as transformers saves it, with constants of its own."""
    from transformers import SwinConfig, SwinModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("swin")
    config = SwinConfig(image_size=56, embed_dim=12, depths=[1, 2], num_heads=[2, 4], window_size=7, drop_path_rate=0.0)
    net = SwinModel(config).eval()
    net.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2] * 3})
    )
    return folder, net


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def frames_of(b: int, w: int, n: int, px: int) -> torch.Tensor:
    return torch.randint(0, 256, (b, w, n, 3, px, px), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_saved_checkpoint_gives_bit_equal_features(saved, no_network):
    folder, net = saved
    backbone = load_backbone(str(folder), px=56, width=24).eval()
    frames = frames_of(2, 1, 3, 56)
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2] * 3).view(3, 1, 1)
    with torch.no_grad():
        expected = net(pixel_values=(frames.flatten(0, 2) / 255 - mean) / std).last_hidden_state
        got = backbone(frames, torch.ones(2, 1, 3, dtype=torch.bool))
    assert torch.equal(got.flatten(0, 1), expected)
    assert backbone.spec.normalised_by.startswith("preprocessor_config.json")


def test_constants_fall_back_to_imagenets_and_say_so(saved, tmp_path):
    _, net = saved
    net.save_pretrained(tmp_path)
    backbone = load_backbone(str(tmp_path), px=56, width=24)
    assert backbone.spec.mean == IMAGENET_MEAN and "has no preprocessor_config.json" in backbone.spec.normalised_by
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false}')
    assert load_backbone(str(tmp_path), px=56, width=24).spec.mean == (0.0, 0.0, 0.0)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [1, 2]}')
    with pytest.raises(UserError, match=r"preprocessor_config\.json"):
        load_backbone(str(tmp_path), px=56, width=24)


def test_masked_frames_are_not_run(monkeypatch):
    torch.manual_seed(0)
    backbone = load_backbone("random:demo", px=64, width=16).eval()
    seen: list[int] = []
    backbone.net.register_forward_pre_hook(
        lambda _, __, given: seen.append(len(given["pixel_values"])), with_kwargs=True
    )
    frames, mask = frames_of(2, 2, 3, 64), torch.ones(2, 2, 3, dtype=torch.bool)
    mask[0, 1] = False
    tokens = backbone(frames, mask)
    assert seen == [9] and tokens.shape == (2, 6, backbone.tokens, 16)
    assert tokens[0, 3:].eq(0).all() and tokens[1].abs().sum(-1).min() > 0
    assert backbone(frames, torch.zeros_like(mask)).eq(0).all() and len(seen) == 1


def test_bytes_and_floats_are_the_same_picture():
    backbone = load_backbone("random:demo", px=64, width=16).eval()
    frames, mask = frames_of(1, 1, 2, 64), torch.ones(1, 1, 2, dtype=torch.bool)
    torch.testing.assert_close(backbone(frames, mask), backbone(frames / 255, mask))


@pytest.mark.parametrize("stages", [0, 1, 2, 4, "all"])
def test_trainable_stages(stages):
    backbone = load_backbone("random:demo", px=64, width=96, trainable_stages=stages).train()
    net = backbone.net
    tokens = backbone(frames_of(1, 1, 2, 64), torch.ones(1, 1, 2, dtype=torch.bool))
    if stages == 0:
        assert not tokens.requires_grad and not net.training
        return
    tokens.square().sum().backward()

    def trained(part: torch.nn.Module) -> bool:
        return any(p.grad is not None for p in part.parameters())

    parts = [net.embeddings, *net.encoder.layers, net.layernorm]
    expected = {1: [0, 0, 1, 1], 2: [0, 1, 1, 1], 4: [0, 1, 1, 1], "all": [1, 1, 1, 1]}[stages]
    assert [trained(p) for p in parts] == [bool(e) for e in expected]
    assert [p.training for p in parts] == [bool(e) for e in expected]


def test_frames_of_the_wrong_size_name_the_setting():
    for name, px, least in [("random:tiny", 64, 224), ("random:demo", 32, 64), ("random:demo", 68, 64)]:
        with pytest.raises(UserError, match=rf"data\.px is {px}: .*set data\.px={least}"):
            load_backbone(name, px=px, width=16)
    backbone = load_backbone("random:demo", px=64, width=16)
    with pytest.raises(UserError, match=r"frames of 96 px.*data\.px=64"):
        backbone(frames_of(1, 1, 1, 96), torch.ones(1, 1, 1, dtype=torch.bool))


def test_names_that_lead_nowhere_say_what_to_type(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"random:demo.*did you mean 'demo'"):
        load_backbone("random:demmo", px=64, width=16)
    with pytest.raises(UserError, match="no such folder"):
        load_backbone(str(tmp_path / "nothing"), px=64, width=16)
    with pytest.raises(UserError, match=r"found no config\.json"):
        load_backbone(str(tmp_path), px=64, width=16)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"--backbone FOLDER .* or --backbone random:demo"):
        load_backbone("nobody/such-swin", px=224, width=16, local_only=True)


def test_incomplete_weights_are_refused_not_made_up(saved, tmp_path):
    from safetensors.torch import load_file, save_file

    _, net = saved
    net.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in tensors if "mlp" in name or "intermediate" in name)
    save_file({k: v for k, v in tensors.items() if k != gone}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="1 tensors are missing from its weights"):
        load_backbone(str(tmp_path), px=56, width=24)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_backbone(str(tmp_path), px=56, width=24)


def test_what_is_damaged_or_takes_no_pictures_is_one_line(saved, tmp_path):
    from transformers import BertConfig, BertModel

    _, net = saved
    net.save_pretrained(tmp_path / "swin")
    (tmp_path / "swin/model.safetensors").write_bytes(b"junk")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(**sizes, vocab_size=9)).save_pretrained(tmp_path / "words")
    for name, said in (("swin", "backbone '.*swin'"), ("words", "gives no tokens of a picture of 56 px")):
        with pytest.raises(UserError, match=said) as error:
            load_backbone(str(tmp_path / name), px=56, width=24)
        assert "\n" not in str(error.value)


def test_another_kind_of_vision_model(tmp_path):
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    backbone = load_backbone(str(tmp_path), px=32, width=8, trainable_stages=0)
    assert backbone(frames_of(1, 1, 2, 32), torch.ones(1, 1, 2, dtype=torch.bool)).shape == (1, 2, 17, 8)
    with pytest.raises(UserError, match=r"trainable_stages is 2: a vit backbone"):
        load_backbone(str(tmp_path), px=32, width=8, trainable_stages=2)
    with pytest.raises(UserError, match=r"set data\.px=32"):
        load_backbone(str(tmp_path), px=64, width=8)


def test_random_sizes_are_all_reachable():
    assert set(module.RANDOM_SIZES) == {"demo", "tiny"}
    assert np.prod(module.RANDOM_SIZES["demo"]["depths"]) >= 1
