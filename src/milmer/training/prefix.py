"""When the frozen part of a backbone is run once for a study and kept, and which bags may be read from what was kept.

A cache changes what a fit costs, not what it learns: tokens are those of the same frames, rounded to half precision.
Whether pixels are changed afresh in every epoch or a few fixed views are learned from is said by the configuration
alone (``training.augment``, ``training.cache_views``), so that it does not hang on whether a cache could be written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from milmer.config import Config
from milmer.errors import UserError
from milmer.models.backbone import Backbone, load_backbone
from milmer.progress import Progress, silent
from milmer.training.augment import changes_pixels, views_of
from milmer.training.cache import FrameCache, NoCache
from milmer.training.data import Bags

AT_ONCE = 8 * 224 * 224  # pixels that go through the frozen part together: more only wait for memory


def no_use(config: Config, spec: Mapping[str, Any] | None = None) -> str:
    """Say why nothing can be kept of the frames under a configuration; empty where something can.

    Parameters
    ----------
    spec : mapping, optional
        The backbone's transformers configuration, where it is known.
    """
    model, training = config.model, config.training
    if "face" not in config.data.modalities or model.fusion.method == "bandpower-logistic":
        return "no face is looked at"
    stages = model.trainable_stages
    if stages == "all" or (spec is not None and stages and stages >= len(spec.get("depths", ())) > 0):
        return f"model.trainable_stages is {stages}: no stage of the backbone is frozen"
    if changes_pixels(training, model):
        return (
            "training.augment changes the frames afresh in every epoch; training.cache_views=4 learns from four fixed "
            f"views instead, training.augment=false from one (now {training.cache_views})"
        )
    return ""


def with_cache(
    config: Config,
    bags: Bags,
    *,
    build: bool,
    verify: bool = False,
    say: Callable[[str], None] | None = None,
    progress: Progress = silent,
) -> Bags:
    """Return the same bags, read from a cache where ``training.cache`` wants one and there can be one.

    Parameters
    ----------
    build : bool
        Write what is missing; else only what is there is used.
    verify : bool
        Read all of what is there and hold it against its hashes first; what is damaged is written again.
    say : callable, optional
        Called with one line: what was written, or why nothing was.

    Raises
    ------
    UserError
        If ``training.cache`` is ``require`` and there can be none.
    """
    wanted = config.training.cache
    why = "training.cache is none" if wanted == "none" else no_use(config)
    if why:
        return _without(config, bags, why)
    torch.set_num_threads(config.training.threads)
    backbone = _backbone(config)
    why = no_use(config, backbone.spec.config)
    if why:
        return _without(config, bags, why)
    cache = FrameCache(
        bags.store,
        backbone.prefix_key(),
        backbone.prefix_shape,
        px=config.data.px,
        views=views_of(config.training, config.model),
    )
    seen = (bags.face_rows >= 0).any(axis=(1, 2))  # (n_bags,)
    keys = sorted(set(bags.table["store_key"].astype(str).to_numpy()[seen]))
    try:
        if build:
            written = cache.ensure(keys, _runner(backbone, config), verify=verify, progress=progress)
            if written and say is not None:
                say(
                    f"kept what the frozen part of the backbone gives for every frame: {written / 1e9:.2f} GB in "
                    f"{cache.file(keys[0]).parent}" + _beside(cache.others(keys))
                )
        elif cache.missing(keys):
            return bags.with_cache(None)
    except NoCache as error:
        why = f"nothing is kept of the backbone's frozen part: {error}"
        if say is not None:
            say(f"{why}; the fits go on without, slower")
        return _without(config, bags, why)
    return bags.with_cache(cache)


def suited(bags: Bags, model: nn.Module) -> Bags:
    """Return the same bags, read as pixels where their cache is not of the backbone of `model`."""
    if bags.cache is None:
        return bags
    backbones = [part for part in model.modules() if isinstance(part, Backbone)]
    alike = all(part.has_prefix and part.prefix_key() == bags.cache.of for part in backbones)
    return bags if alike else bags.with_cache(None)


def _beside(size: int) -> str:
    """Say what caches of something else take."""
    if not size:
        return ""
    return f" ({size / 1e9:.2f} GB of other backbones or views beside it; what is not needed may be deleted)"


def _without(config: Config, bags: Bags, why: str) -> Bags:
    if config.training.cache == "require":
        raise UserError(f"training.cache is require: {why}; use training.cache=auto to go on without")
    return bags.with_cache(None)


def _backbone(config: Config) -> Backbone:
    """Open the backbone as a fit does: random weights are a function of the seed, and are drawn first."""
    model, px = config.model, config.data.px
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        return load_backbone(model.backbone, px=px, width=model.width, trainable_stages=model.trainable_stages)


def _runner(backbone: Backbone, config: Config) -> Callable[[Tensor], Tensor]:
    """Return the frozen part in float32, on the device that fits are made on."""
    gpu = config.training.device != "cpu" and torch.cuda.is_available()
    backbone.to("cuda" if gpu else "cpu").eval()
    place = backbone.mean.device

    def run(frames: Tensor) -> Tensor:
        parts = torch.split(frames, max(1, AT_ONCE // config.data.px**2))
        return torch.cat([backbone.prefix(part.to(place)).cpu() for part in parts])  # (M, T', F')

    return run
