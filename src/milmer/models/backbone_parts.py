"""An image network cut in two: what comes before its first trained stage, and the rest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from milmer.errors import UserError


@dataclass(frozen=True)
class Cut:
    """Where a network is cut.

    Parameters
    ----------
    swin : bool
        Whether it is transformers' Swin, which has stages; another network is frozen as a whole, or not at all.
    at : int or str
        Stages before the cut, after the patch embedding; ``"start"``: nothing is before it; ``"end"``: all of it is.
    side : int
        Patches along a side of the picture (of a Swin).
    """

    swin: bool
    at: int | Literal["start", "end"]
    side: int

    @classmethod
    def of(cls, net: Any, config: dict[str, Any], px: int, trainable_stages: int | Literal["all"]) -> Cut:
        """Cut `net` of `config` for frames of `px` before its last `trainable_stages`.

        Raises
        ------
        UserError
            If it has no stages to choose from.
        """
        kind = config["model_type"]
        swin = kind == "swin"
        side = px // int(config["patch_size"]) if swin else 0
        if trainable_stages == "all":
            return cls(swin, "start", side)
        if trainable_stages == 0:
            return cls(swin, "end", side)
        if not swin:
            raise UserError(f"model.trainable_stages is {trainable_stages}: a {kind} backbone knows only 0 and all")
        return cls(swin, max(len(net.encoder.layers) - trainable_stages, 0), side)

    def frozen(self, net: Any) -> list[nn.Module]:
        """Return the parts of `net` before the cut."""
        if self.at == "start":
            return []
        return [net] if self.at == "end" else [net.embeddings, *net.encoder.layers[: self.at]]

    def first(self, net: Any, x: Tensor) -> Tensor:
        """Run what is before the cut on normalised pictures (M, 3, P, P); (M, T', F'), or as it was at the start."""
        if self.at == "start":
            return x  # (M, 3, P, P)
        if self.at == "end":
            return features(net, x)  # (M, T, F)
        x, _ = net.embeddings(x)  # (M, T', F')
        return self._stages(net, x, range(self.at), again=False)  # (M, T', F')

    def rest(self, net: Any, x: Tensor, *, again: bool = False) -> Tensor:
        """Run the rest on what `first` gave; (M, T, F).

        `again` keeps no activations inside of a block and runs it once more in the backward pass, with the same noise.
        """
        if self.at == "end":
            return x  # (M, T, F)
        again = again and torch.is_grad_enabled()
        if not self.swin or (self.at == "start" and not again):
            return features(net, x)  # (M, T, F)
        if self.at == "start":
            x, _ = net.embeddings(x)  # (M, T', F')
        after = range(0 if self.at == "start" else self.at, len(net.encoder.layers))
        out: Tensor = net.layernorm(self._stages(net, x, after, again=again))  # (M, T, F)
        return out  # (M, T, F)

    def _stages(self, net: Any, x: Tensor, which: range, *, again: bool) -> Tensor:
        for i in which:
            stage = net.encoder.layers[i]
            side = self.side
            for _ in range(i):
                side = (side + 1) // 2
            for block in stage.blocks:
                run = _Block(block, (side, side))
                x = checkpoint(run, x, use_reentrant=False) if again else run(x)  # (M, T', F')
            if stage.downsample is not None:
                x = stage.downsample(x, (side, side))  # (M, T'/4, 2·F')
        return x


class _Block:
    """A Swin block that gives its tokens only."""

    def __init__(self, block: nn.Module, grid: tuple[int, int]) -> None:
        self.block, self.grid = block, grid

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x, self.grid)[0]  # (M, T', F')
        return out


def set_checkpointing(cut: Cut, net: Any, on: bool) -> bool:
    """Let a network run its blocks again in the backward pass; return whether `Cut.rest` must see to it.

    Raises
    ------
    UserError
        If the network is not made for it.
    """
    if cut.swin or cut.at == "end":
        return on and cut.swin
    if on and not net.supports_gradient_checkpointing:
        kind = net.config.model_type
        raise UserError(f"training.checkpointing: a {kind} backbone cannot do that; use training.checkpointing=false")
    name = "activation" if hasattr(net, "activation_checkpointing_enable") else "gradient"  # until transformers 5
    if on:
        getattr(net, f"{name}_checkpointing_enable")(**{f"{name}_checkpointing_kwargs": {"use_reentrant": False}})
    elif net.supports_gradient_checkpointing:
        getattr(net, f"{name}_checkpointing_disable")()
    return False


def features(net: Any, x: Tensor) -> Tensor:
    """Last tokens of a whole network for normalised pictures (M, 3, P, P); (M, T, F)."""
    out: Tensor = net(pixel_values=x).last_hidden_state  # (M, T, F) or (M, F, H, W)
    return out.flatten(2).transpose(1, 2) if out.ndim == 4 else out  # (M, T, F)


def content_key(about: Any, parts: Iterable[nn.Module]) -> str:
    """Hash plain values and the weights of `parts`, in 32 hexadecimal digits; the same on every machine."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, value in _weights(parts):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        if plain.numel():
            array = plain.flatten().view(torch.uint8).numpy()
            digest.update(array.data)
    return digest.hexdigest()[:32]


def _weights(parts: Iterable[nn.Module]) -> Iterator[tuple[str, Tensor]]:
    for i, part in enumerate(parts):
        for name, value in sorted(part.state_dict().items()):
            yield f"{i}.{name}", value
