"""The image backbone: any transformers vision model, by hub name, from a folder, or small with random weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from milmer.errors import UserError, nearest
from milmer.models.attention import init_linear

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PROCESSOR = "preprocessor_config.json"

# `demo` is the fastest that learns on two cores from 64 px (a drawn mouth's curvature): patches of 8 px in two stages
# cost a third of patches of 4 px in three and learn as well. Larger initial weights than Swin's own 0.02 learn later.
RANDOM_SIZES: dict[str, dict[str, Any]] = {
    "demo": {
        "image_size": 64,
        "patch_size": 8,
        "window_size": 4,
        "embed_dim": 48,
        "depths": [1, 1],
        "num_heads": [2, 4],
        "mlp_ratio": 2.0,
        "drop_path_rate": 0.0,
    },
    "tiny": {"image_size": 224},
}


@dataclass(frozen=True)
class BackboneSpec:
    """What a backbone is, without its weights: enough to build it again with neither hub nor folder.

    Parameters
    ----------
    name : str
        What the user asked for.
    config : dict
        The transformers configuration.
    mean, std : tuple of float
        Normalisation constants for RGB in [0, 1].
    normalised_by : str
        Where these come from, in words, for the record.
    """

    name: str
    config: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    normalised_by: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `to_dict` gave."""
        return cls(
            values["name"], values["config"], tuple(values["mean"]), tuple(values["std"]), values["normalised_by"]
        )


class Backbone(nn.Module):
    """Frames become tokens: normalise, one pass for all frames that are there, project to the model's width.

    Parameters
    ----------
    net : nn.Module
        A transformers vision model.
    spec : BackboneSpec
        What it is.
    px : int
        Side of the frames in pixels.
    width : int
        Token width `D`; a projection is added where the network's differs.
    trainable_stages : int or "all"
        How many of the last stages are trained: 0 none, 4 all of a Swin-Tiny's stages, ``"all"`` its patch
        embedding too. What is frozen has no gradient and stays in evaluation mode.

    Raises
    ------
    UserError
        If frames of `px` do not suit the network, or it has no stages to choose from.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, net: nn.Module, spec: BackboneSpec, *, px: int, width: int, trainable_stages: int | Literal["all"] = "all"
    ) -> None:
        super().__init__()
        _check_px(spec, px)
        self.net = net
        self.spec = spec
        self.px = px
        self.register_buffer("mean", torch.tensor(spec.mean).view(3, 1, 1), persistent=False)  # (3, 1, 1)
        self.register_buffer("std", torch.tensor(spec.std).view(3, 1, 1), persistent=False)  # (3, 1, 1)
        self._frozen = _freeze(net, spec, trainable_stages)
        training = net.training
        try:
            with torch.no_grad():
                probe = self._features(torch.zeros(1, 3, px, px), net.eval())  # (1, T, features)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:  # whatever a network raises
            why = " ".join(str(error).split())[:160]
            raise UserError(
                f"backbone '{spec.name}': gives no tokens of a picture of {px} px ({type(error).__name__}: {why}); "
                "give a vision model, such as a Swin"
            ) from error
        net.train(training)
        self.tokens, features = int(probe.shape[1]), int(probe.shape[2])
        self.project = nn.Identity() if features == width else nn.Linear(features, width)
        if isinstance(self.project, nn.Linear):
            init_linear(self.project)
        self.width = width

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Tokens of `frames` (B, W, N, 3, P, P) where `mask` (B, W, N), zeros elsewhere; (B, W·N, T, D).

        Raises
        ------
        UserError
            If the frames are not of the size the model was made for.
        """
        b, w, n = mask.shape
        there = mask.flatten()  # (B·W·N,)
        if n and frames.shape[-1] != self.px:
            raise UserError(
                f"frames of {frames.shape[-1]} px: this model was made for {self.px} px; set data.px={self.px}"
            )
        if not there.any():
            weight = next(self.parameters())
            return weight.new_zeros((b, w * n, self.tokens, self.width))  # (B, W·N, T, D)
        x = frames.flatten(0, 2)[there]  # (M, 3, P, P)
        x = x.to(self.mean.dtype) / 255 if x.dtype == torch.uint8 else x.to(self.mean.dtype)  # (M, 3, P, P)
        tokens: Tensor = self.project(self._features((x - self.mean) / self.std, self.net))  # (M, T, D)
        whole = tokens.new_zeros((b * w * n, self.tokens, self.width))  # (B·W·N, T, D)
        return whole.masked_scatter(there[:, None, None], tokens).view(
            b, w * n, self.tokens, self.width
        )  # (B, W·N, T, D)

    def train(self, mode: bool = True) -> Self:
        """Set the mode, except for what is frozen."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    @staticmethod
    def _features(x: Tensor, net: nn.Module) -> Tensor:
        out: Tensor = net(pixel_values=x).last_hidden_state  # (M, T, F) or (M, F, H, W)
        return out.flatten(2).transpose(1, 2) if out.ndim == 4 else out  # (M, T, F)


def load_backbone(
    name: str, *, px: int, width: int, trainable_stages: int | Literal["all"] = "all", local_only: bool = False
) -> Backbone:
    """Open the backbone that ``model.backbone`` names.

    Parameters
    ----------
    name : str
        ``random:demo``, ``random:tiny``, a folder written by ``save_pretrained``, or a hub name. Only a hub name may
        use the network, and only where its files are not in the local cache.
    px, width, trainable_stages
        See `Backbone`.
    local_only : bool
        Never use the network.

    Raises
    ------
    UserError
        If the name is none of these, files are missing, weights are incomplete, or `px` does not suit.
    """
    if name.startswith("random:"):
        spec = _random_spec(name)
        _check_px(spec, px)
        return Backbone(build_net(spec), spec, px=px, width=width, trainable_stages=trainable_stages)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(
                f"{folder}: found no config.json, expected a folder written by transformers' save_pretrained"
            )
        net, source = _from_pretrained(str(folder), local=True), str(folder)
        name = folder.resolve().name  # weights travel: what they say of themselves names no path of this machine
    elif name.count("/") > 1 or name.startswith((".", "/", "~")) or not name:
        raise UserError(f"backbone '{name}': no such folder; expected a folder, a hub name or random:demo")
    else:
        net, source = _from_hub(name, local_only), name
    mean, std, said = _normalisation(source, name, local=local_only or folder.is_dir())
    spec = BackboneSpec(name, _plain(net.config), mean, std, said)
    return Backbone(net, spec, px=px, width=width, trainable_stages=trainable_stages)


def build_net(spec: BackboneSpec) -> Any:
    """Build the network of `spec` with random weights (loading a model fills them in)."""
    from transformers import AutoConfig, AutoModel, SwinConfig, SwinModel

    values = dict(spec.config)
    kind = values.pop("model_type")
    if kind == "swin":
        return SwinModel(SwinConfig(**values), add_pooling_layer=False)
    make: Any = AutoModel  # transformers leaves its types out
    return make.from_config(AutoConfig.for_model(kind, **values))


def _random_spec(name: str) -> BackboneSpec:
    from transformers import SwinConfig

    size = name.removeprefix("random:")
    if size not in RANDOM_SIZES:
        known = ", ".join(f"random:{s}" for s in RANDOM_SIZES)
        raise UserError(f"backbone '{name}': known sizes are {known}{nearest(size, RANDOM_SIZES)}")
    config = _plain(SwinConfig(**RANDOM_SIZES[size]))
    return BackboneSpec(name, config, IMAGENET_MEAN, IMAGENET_STD, "ImageNet constants (random weights)")


def _plain(config: Any) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    for private in ("_name_or_path", "architectures", "dtype", "transformers_version", "id2label", "label2id"):
        values.pop(private, None)  # where it came from, and the classes of a head that is not used
    return values


def _from_hub(name: str, local_only: bool) -> Any:
    try:
        return _from_pretrained(name, local=True)
    except OSError as error:
        if local_only:
            raise _not_there(name, error) from error
    try:
        return _from_pretrained(name, local=False)
    except (OSError, RuntimeError) as error:  # no network reads as either
        raise _not_there(name, error) from error


def _not_there(name: str, error: Exception) -> UserError:
    why = " ".join(str(error).split())[:160]
    return UserError(
        f"backbone '{name}': not in the local cache and not to be had from the hub ({why}); run once with a network, "
        "or give --backbone FOLDER (written by save_pretrained) or --backbone random:demo"
    )


def _from_pretrained(source: str, *, local: bool) -> Any:
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging  # transformers leaves its types out
    shown = logging.get_verbosity()
    logging.set_verbosity_error()  # the classifier head that is left out is no news
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # half a second of reading a file needs none, and ours says what goes on
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=local)
        extra = {"add_pooling_layer": False} if config.model_type in ("swin", "vit") else {}
        net, info = AutoModel.from_pretrained(
            source, config=config, local_files_only=local, output_loading_info=True, dtype=torch.float32, **extra
        )
    except (ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise UserError(f"backbone '{source}': {' '.join(str(error).split())[:300]}") from error
    except OSError as error:
        if Path(source).is_dir():
            why = " ".join(str(error).split())[:200]
            raise UserError(f"backbone '{source}': no readable weights, expected model.safetensors ({why})") from error
        raise
    finally:
        logging.set_verbosity(shown)
        if bars:
            logging.enable_progress_bar()
    missing = sorted(info["missing_keys"])
    if missing:  # transformers fills these with random numbers, silently
        raise UserError(f"backbone '{source}': {len(missing)} tensors are missing from its weights, first {missing[0]}")
    return net


def _normalisation(source: str, name: str, *, local: bool) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(source, PROCESSOR, local_files_only=local, _raise_exceptions_for_missing_entries=False)
    except OSError:
        found = None
    if found is None:
        return IMAGENET_MEAN, IMAGENET_STD, f"ImageNet constants ({name} has no {PROCESSOR})"
    try:
        values = json.loads(Path(found).read_text(encoding="utf-8"))
        if not values.get("do_normalize", True):
            return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), f"{PROCESSOR} of {name}: not normalised"
        mean, std = tuple(map(float, values["image_mean"])), tuple(map(float, values["image_std"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{found}: found no image_mean and image_std, expected three numbers each") from error
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UserError(f"{found}: image_mean {mean} and image_std {std}, expected three numbers each, std above 0")
    return mean, std, f"{PROCESSOR} of {name}"


def _check_px(spec: BackboneSpec, px: int) -> None:
    config = spec.config
    if config["model_type"] == "swin":
        # transformers' Swin shrinks its window to a smaller grid but not the window's table of biases.
        patch, window = int(config["patch_size"]), int(config["window_size"])
        least = patch * window * 2 ** (len(config["depths"]) - 1)
        size = int(config["image_size"])
        if config.get("use_absolute_embeddings") and px != size:
            raise UserError(f"data.px is {px}: the backbone {spec.name} takes frames of {size} px; set data.px={size}")
        if px < least or px % patch:
            raise UserError(
                f"data.px is {px}: the backbone {spec.name} takes frames of at least {least} px, in multiples of "
                f"{patch}; set data.px={least}"
            )
        return
    size = config.get("image_size", px)
    if isinstance(size, int) and size != px:
        raise UserError(f"data.px is {px}: the backbone {spec.name} takes frames of {size} px; set data.px={size}")


def _freeze(net: Any, spec: BackboneSpec, trainable_stages: int | Literal["all"]) -> list[nn.Module]:
    """Freeze all but the last stages; return what is frozen."""
    if trainable_stages == "all":
        return []
    if trainable_stages == 0:
        frozen: list[nn.Module] = [net]
    elif spec.config["model_type"] == "swin":
        stages = list(net.encoder.layers)
        frozen = [net.embeddings, *stages[: max(len(stages) - trainable_stages, 0)]]
    else:
        kind = spec.config["model_type"]
        raise UserError(f"model.trainable_stages is {trainable_stages}: a {kind} backbone knows only 0 and all")
    for part in frozen:
        part.requires_grad_(False)
    return frozen
