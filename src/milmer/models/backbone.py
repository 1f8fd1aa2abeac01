"""The image backbone: any transformers vision model, by hub name, from a folder, or small with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from milmer.errors import UserError, nearest
from milmer.models.attention import init_linear
from milmer.models.backbone_files import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PROCESSOR,
    from_hub,
    from_pretrained,
    normalisation,
)
from milmer.models.backbone_parts import Cut, content_key, set_checkpointing

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "PROCESSOR", "Backbone", "BackboneSpec", "build_net", "load_backbone"]

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
        self._cut = Cut.of(net, spec.config, px, trainable_stages)
        self._frozen = self._cut.frozen(net)
        for part in self._frozen:
            part.requires_grad_(False)
        self._checkpointing = False
        self._rest: Callable[..., Tensor] = self._cut.rest
        self.channels_last = False
        training = net.training
        try:
            with torch.no_grad():
                net.eval()
                between = self._cut.first(net, torch.zeros(1, 3, px, px))  # (1, T', F')
                probe = self._cut.rest(net, between)  # (1, T, features)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:  # whatever a network raises
            why = " ".join(str(error).split())[:160]
            raise UserError(
                f"backbone '{spec.name}': gives no tokens of a picture of {px} px ({type(error).__name__}: {why}); "
                "give a vision model, such as a Swin"
            ) from error
        net.train(training)
        self.tokens, features = int(probe.shape[1]), int(probe.shape[2])
        self._between = (int(between.shape[1]), int(between.shape[2]))
        self.project = nn.Identity() if features == width else nn.Linear(features, width)
        if isinstance(self.project, nn.Linear):
            init_linear(self.project)
        self.width = width

    @property
    def has_prefix(self) -> bool:
        """Whether anything is frozen, that could be run once and kept."""
        return self._cut.at != "start"

    @property
    def prefix_shape(self) -> tuple[int, int]:
        """Tokens and features (T', F') of a frame between the frozen part and the rest.

        Raises
        ------
        ValueError
            If nothing is frozen.
        """
        self._need_prefix()
        return self._between

    def prefix_key(self) -> str:
        """Hash all that `prefix` depends on: frozen weights, architecture, normalisation, cut and size of the frames.

        It is made of contents only, so it is the same on every machine and whatever the backbone is called.

        Raises
        ------
        ValueError
            If nothing is frozen.
        """
        self._need_prefix()
        spec = self.spec
        return content_key([spec.config, spec.mean, spec.std, self.px, self._cut.at, self._between], self._frozen)

    def prefix(self, frames: Tensor) -> Tensor:
        """Run all before the first trained stage on `frames` (M, 3, P, P), without gradient; (M, T', F').

        Normalisation is part of it, and what is frozen is always in evaluation mode, so it is a function of the frame.

        Raises
        ------
        ValueError
            If nothing is frozen.
        """
        self._need_prefix()
        with torch.no_grad():
            return self._cut.first(self.net, self._normalised(frames))  # (M, T', F')

    def suffix(self, x: Tensor) -> Tensor:
        """Run the rest and the projection on what `prefix` gave (M, T', F'); (M, T, D).

        Where nothing is frozen, `x` is normalised frames (M, 3, P, P).
        """
        x = x.to(self.mean.dtype)  # (M, T', F')
        tokens: Tensor = self.project(self._rest(self.net, x, again=self._checkpointing))  # (M, T, D)
        return tokens  # (M, T, D)

    def before(self, frames: Tensor, mask: Tensor, prefix: Tensor | None = None) -> Tensor:
        """What `suffix` takes, of the M frames that are there.

        Parameters
        ----------
        frames : Tensor, shape (B, W, N, 3, P, P)
            Not looked at where there is a `prefix`.
        mask : Tensor of bool, shape (B, W, N)
        prefix : Tensor, shape (B, W, N, T', F'), optional
            What `Backbone.prefix` gave for these frames.

        Raises
        ------
        UserError
            If the frames are not of the size the model was made for.
        ValueError
            If a prefix is given that is not of this backbone.
        """
        there = mask.flatten()  # (B·W·N,)
        if prefix is not None:
            if prefix.shape[3:] != self.prefix_shape:
                raise ValueError(
                    f"prefix has shape {tuple(prefix.shape)}, expected {(*mask.shape, *self.prefix_shape)}"
                )
            return prefix.flatten(0, 2)[there]  # (M, T', F')
        if mask.shape[2] and frames.shape[-1] != self.px:
            raise UserError(
                f"frames of {frames.shape[-1]} px: this model was made for {self.px} px; set data.px={self.px}"
            )
        x = frames.flatten(0, 2)[there]  # (M, 3, P, P)
        return self._cut.first(self.net, self._normalised(x)) if len(x) else x  # (M, T', F')

    def forward(self, frames: Tensor, mask: Tensor, prefix: Tensor | None = None) -> Tensor:
        """Tokens of `frames` where `mask` (B, W, N), zeros elsewhere; (B, W·N, T, D).

        Parameters are those of `before`.

        Raises
        ------
        UserError
            If the frames are not of the size the model was made for.
        ValueError
            If a prefix is given that is not of this backbone.
        """
        x = self.before(frames, mask, prefix)  # (M, T', F')
        return self.placed(self.suffix(x) if len(x) else None, mask.flatten(1))  # (B, W·N, T, D)

    def placed(self, tokens: Tensor | None, there: Tensor) -> Tensor:
        """Put `tokens` (M, T, D) where `there` (B, N), zeros elsewhere; (B, N, T, D)."""
        shape = (*there.shape, self.tokens, self.width)
        if tokens is None:
            return next(self.parameters()).new_zeros(shape)  # (B, N, T, D)
        whole = tokens.new_zeros(shape)  # (B, N, T, D)
        return whole.masked_scatter(there[..., None, None], tokens)  # (B, N, T, D)

    def set_checkpointing(self, on: bool) -> None:
        """Keep no activations inside of blocks and run these again in the backward pass: less memory, more time.

        Raises
        ------
        UserError
            If the network is not made for it.
        """
        self._checkpointing = set_checkpointing(self._cut, self.net, on)

    def set_compiled(self, on: bool) -> None:
        """Compile all from the first trained stage on, when it is first run."""
        self._rest = torch.compile(self._cut.rest, dynamic=True) if on else self._cut.rest

    def train(self, mode: bool = True) -> Self:
        """Set the mode, except for what is frozen."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def _normalised(self, frames: Tensor) -> Tensor:
        x = frames.to(self.mean.dtype)  # (M, 3, P, P)
        x = x / 255 if frames.dtype == torch.uint8 else x  # (M, 3, P, P)
        x = (x - self.mean) / self.std  # (M, 3, P, P)
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x  # (M, 3, P, P)

    def _need_prefix(self) -> None:
        if not self.has_prefix:
            raise ValueError("all of this backbone is trained, so it has no prefix (see Backbone.has_prefix)")


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
        net, source = from_pretrained(str(folder), local=True), str(folder)
        name = folder.resolve().name  # weights travel: what they say of themselves names no path of this machine
    elif name.count("/") > 1 or name.startswith((".", "/", "~")) or not name:
        raise UserError(f"backbone '{name}': no such folder; expected a folder, a hub name or random:demo")
    else:
        net, source = from_hub(name, local_only), name
    mean, std, said = normalisation(source, name, local=local_only or folder.is_dir())
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
