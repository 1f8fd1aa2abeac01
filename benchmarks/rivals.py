"""What is measured: the published design, and ours under named switches, as things that can be called."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks.published import Published, Sizes
from milmer.config import Config, load_config
from milmer.models.bag import Bag
from milmer.models.milmer import Milmer

CHANNELS, SAMPLES, CLASSES = 32, 384, 4


class NotThereError(RuntimeError):
    """A switch that this version of the package does not have."""


@dataclass(frozen=True)
class Scale:
    """Sizes of everything: the real ones, or tiny ones to see that all of it runs.

    Parameters
    ----------
    backbone : str
        ``random:tiny`` is a Swin-Tiny with random weights: time does not hang on what the weights are.
    px, frames : int
        Side and number of a bag's frames.
    published : Sizes
        Of the published design.
    extra : tuple of str
        Settings of ours, such as a smaller width.
    """

    backbone: str = "random:tiny"
    px: int = 224
    frames: int = 10
    published: Sizes = field(default_factory=Sizes)
    extra: tuple[str, ...] = ()


def tiny_scale() -> Scale:
    """Sizes at which everything runs in seconds; the figures mean nothing."""
    swin = {"image_size": 64, "patch_size": 8, "window_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4]}
    sizes = Sizes(swin=swin, queries=8, layers=1, heads=4, feedforward=32)
    extra = ("model.width=48", "model.fusion.heads=4", "model.fusion.feedforward=64", "model.balancing.queries=4")
    return Scale("random:demo", 64, 10, sizes, extra)


@dataclass(frozen=True)
class Rival:
    """One thing that is measured.

    Parameters
    ----------
    name : str
        What the row is called.
    model : str
        ``published`` or a preset.
    batch : int
        Bags a step.
    switches : tuple of str
        Settings beside the preset's, ``training.gradients=kept``.
    given : {"pixels", "prefix", "tokens"}
        What the network starts from: pictures, what the frozen part of the backbone made of them (as the cache on disk
        gives it), or the backbone's answer.
    warmth : float
        How soft frame selection is: 1 at the start of a fit, 0 once it is hard; 0.35 keeps as many frames as a whole
        fit does on average.
    """

    name: str
    model: str
    batch: int = 1
    switches: tuple[str, ...] = ()
    given: Literal["pixels", "prefix", "tokens"] = "pixels"
    warmth: float = 0.0

    def words(self) -> str:
        """Return its switches as a table shows them."""
        said = [s.removeprefix("training.").removeprefix("model.") for s in self.switches]
        said += {"pixels": [], "prefix": ["frozen prefix from the cache"], "tokens": ["frames already embedded"]}[
            self.given
        ]
        said += [f"warmth {self.warmth:g}"] if self.warmth else []
        return ", ".join(said) or "-"


def configured(rival: Rival, scale: Scale) -> Config:
    """Resolve a rival's configuration."""
    pairs = [
        f"model.backbone={scale.backbone}",
        f"data.px={scale.px}",
        f"data.frames={scale.frames}",
        "training.cache=none",  # nothing is kept behind the measurement's back: `given` says what is there
        "model.modality_dropout=0",  # a step whose face is hidden runs no backbone, and takes a twentieth of the others
        *scale.extra,
        *rival.switches,
    ]
    return load_config(rival.model, overrides=pairs)


def make_bag(batch: int, scale: Scale, frames: int | None = None, channels: int = CHANNELS) -> Bag:
    """Draw a batch: uint8 pictures, EEG in volts, electrodes on the sphere."""
    draw = torch.Generator().manual_seed(0)
    n = scale.frames if frames is None else frames
    places = torch.randn(batch, channels, 3, generator=draw)  # (B, C, 3)
    return Bag.of(
        frames=torch.randint(0, 256, (batch, 1, n, 3, scale.px, scale.px), generator=draw, dtype=torch.uint8),
        eeg=torch.randn(batch, 1, channels, SAMPLES, generator=draw) * 1e-5,  # (B, 1, C, S)
        positions=nn.functional.normalize(places, dim=-1),  # (B, C, 3)
    )


def build(rival: Rival, scale: Scale, channels: int = CHANNELS) -> tuple[Milmer, Config]:
    """Build ours, its scales fitted."""
    torch.manual_seed(0)
    config = configured(rival, scale)
    model = Milmer(
        config.model,
        n_classes=CLASSES,
        n_times=SAMPLES,
        px=scale.px,
        n_frames=scale.frames,
        n_chans=channels,
    )
    model.fit_scales([make_bag(2, scale, frames=1, channels=channels)])
    return model, config


class Embedded(nn.Module):
    """Stands in for a backbone whose answer is known: what a window costs whose frames were embedded before."""

    def __init__(self, backbone: Any, bag: Bag) -> None:
        super().__init__()
        self.px, self.tokens, self.width = backbone.px, backbone.tokens, backbone.width
        with torch.inference_mode():
            self.answer = backbone(bag.frames, bag.frame_mask).clone()  # (B, W·N, T, D)

    def forward(self, *_: Any, **__: Any) -> Tensor:
        """Return the tokens of the frames, (B, W·N, T, D)."""
        return self.answer  # (B, W·N, T, D)


def with_prefix(model: Milmer, bag: Bag) -> Bag:
    """Return the bag with what the frozen part of the backbone makes of its frames, in half precision, as cached.

    Raises
    ------
    NotThereError
        If the package cannot start from it.
    """
    backbone: Any = model.backbone
    if not hasattr(backbone, "prefix") or "prefix" not in Bag.__dataclass_fields__:
        raise NotThereError("starting from a cached prefix")
    if not backbone.has_prefix:
        raise NotThereError("a prefix where nothing is frozen")
    b, w, n = bag.frame_mask.shape
    with torch.no_grad():
        known = backbone.prefix(bag.frames.flatten(0, 2)).half()  # (M, T', F')
    frames = torch.zeros((b, w, n, 3, 0, 0), dtype=torch.uint8)  # (B, W, N, 3, 0, 0)
    return replace(bag, frames=frames, prefix=known.view(b, w, n, *known.shape[1:]))  # type: ignore[call-arg]  # checked


def answering(rival: Rival, scale: Scale, published: Published | None = None) -> Callable[[], object]:
    """Return a function that classifies one batch."""
    bag = make_bag(rival.batch, scale)
    if rival.model == "published":
        net = _needed(published).eval()
        frames = (bag.frames[:, 0].float() / 255 - 0.45) / 0.225  # (B, N, 3, P, P)

        def classify() -> object:
            with torch.inference_mode():
                return net(frames, bag.eeg[:, 0])

        return classify
    model, config = build(rival, scale)
    model.eval()
    if rival.given == "tokens":
        model.backbone = Embedded(model.backbone, bag)  # type: ignore[assignment]  # stands in for it
    elif rival.given == "prefix":
        bag = with_prefix(model, bag)

    def answer() -> object:
        with torch.inference_mode(), precision(config):
            return model(bag).logits

    return answer


def learning(rival: Rival, scale: Scale, published: Published | None = None) -> Callable[[], object]:
    """Return a function that makes one step of training: loss, gradients, clipping, AdamW."""
    bag = make_bag(rival.batch, scale)
    y = torch.arange(rival.batch) % CLASSES  # (B,)
    if rival.model == "published":
        net = _needed(published).train()
        frames = (bag.frames[:, 0].float() / 255 - 0.45) / 0.225  # (B, N, 3, P, P)
        own = torch.optim.AdamW(net.parameters(), lr=1e-6)

        def learn() -> object:
            own.zero_grad(set_to_none=True)
            loss = nn.functional.cross_entropy(net(frames, bag.eeg[:, 0]), y)  # ()
            loss.backward()
            own.step()
            return loss.detach()

        return learn
    from milmer.training.module import MilmerModule  # heavy

    model, config = build(rival, scale)
    if rival.given == "prefix":
        bag = with_prefix(model, bag)
    module = MilmerModule(model, config.training, steps=1_000_000)
    module.train()
    model.set_exploration(rival.warmth)
    optimizer = module.configure_optimizers()["optimizer"]
    items = torch.stack([torch.zeros_like(y), torch.arange(rival.batch)], 1)  # (B, 2)

    def step() -> object:
        optimizer.zero_grad(set_to_none=True)
        with precision(config):
            loss = module.training_step((bag, y, items), 0)  # ()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.training.clip)
        optimizer.step()
        module._losses.clear()
        return loss.detach()

    return step


def agrees(rival: Rival, scale: Scale, bags: int = 8) -> float:
    """Share of the frames that exact scores keep and those of the rival's `training.scoring` keep too."""
    from milmer.training.switches import agreement, turn_on

    model, config = build(rival, scale)
    turn_on(model, config.training)
    return agreement(model, make_bag(bags, scale))


@contextlib.contextmanager
def precision(config: Config, device: str = "cpu") -> Iterator[None]:
    """Run in the half precision that the configuration asks for by name, as the trainer would."""
    kinds = {"bf16": torch.bfloat16, "16": torch.float16}
    kind = kinds.get(config.training.precision)
    with torch.autocast(device, dtype=kind) if kind else contextlib.nullcontext():
        yield


def _needed(published: Published | None) -> Published:
    if published is None:
        raise ValueError("the published design must be given: it is too large to be built twice")
    return published
