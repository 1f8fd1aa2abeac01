"""The network. Read `Milmer._fused` beside the paper's figure, top to bottom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from milmer.config import Model
from milmer.models.backbone import Backbone, load_backbone
from milmer.models.bag import EEG, Bag, Prediction, Tokens
from milmer.models.balancing import make_balance
from milmer.models.body import BodyTokens
from milmer.models.eeg import make_eeg_tokens
from milmer.models.fusion import Head, make_fuse
from milmer.models.hub import HubModel
from milmer.models.kept import Scoring, learn_from_kept
from milmer.models.selection import make_selection
from milmer.sections import BODY, Modality
from milmer.signals.body_channels import BODY_RATE

ALL: tuple[Modality, ...] = get_args(Modality)


class Milmer(HubModel):
    """Emotion from EEG, face video and the body: choose frames, balance tokens, fuse (Milmer, arXiv 2502.00547).

    Any number of EEG channels (by their positions), of frames, and of windows in a bag will do, and windows shorter
    than `n_times`; any modality may be absent from a bag, or from the model. With the paper preset and Swin-Tiny it has
    69.0 M parameters for four classes: 27.5 M are Swin's, 33.1 M the six encoder layers', 7.2 M the two cross-attention
    layers', 0.2 M the selection's.

    Parameters
    ----------
    config : milmer.config.Model
        Sizes and choices.
    n_classes : int
        Number of classes.
    n_times : int
        Samples of a whole window.
    sfreq : float
        Rate of the EEG in Hz (band-power tokens need it).
    px : int
        Side of the frames in pixels.
    n_frames, n_windows : int
        Frames of a window and windows of a bag; only a selection that learns a weight per position needs them.
    n_chans : int
        Most channels of a recording; only a braindecode network needs it.
    modalities : tuple of str
        ``"eeg"``, ``"face"``, and signals of the body such as ``"gsr"`` (`milmer.sections.BODY`), one at least. What is
        left out has no parameters, and is ignored in a bag.
    backbone : Backbone, optional
        A ready one, instead of the one that ``config.backbone`` names.
    eeg_architecture : mapping, optional
        Of saved EEG tokens whose weights will be loaded: how their braindecode network was built.

    Attributes
    ----------
    gradients, scoring : str
        What the backbone learns from while training (`milmer.models.kept`); the trainer sets them.

    Raises
    ------
    UserError
        If the backbone cannot be opened or does not suit `px`.
    ValueError
        If there is no modality or an unknown one, or the width is no multiple of the heads.
    """

    how: ClassVar[str] = "by choosing frames, balancing tokens and fusing all"

    def __init__(
        self,
        config: Model,
        *,
        n_classes: int,
        n_times: int = 384,
        sfreq: float = 128.0,
        px: int = 224,
        n_frames: int = 10,
        n_windows: int = 1,
        n_chans: int = 32,
        modalities: tuple[Modality, ...] = ("eeg", "face"),
        backbone: Backbone | None = None,
        eeg_architecture: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not modalities or not set(modalities) <= set(ALL):
            raise ValueError(f"modalities is {modalities!r}, expected some of {', '.join(ALL)}")
        if config.width % config.fusion.heads:
            raise ValueError(f"width {config.width} must be a multiple of fusion.heads {config.fusion.heads}")
        self.config = config
        self.about: dict[str, Any] = {}  # what a user of the weights must know; goes into config.json
        self.n_classes, self.n_times, self.sfreq, self.px = n_classes, n_times, sfreq, px
        self.n_frames, self.n_windows, self.n_chans = n_frames, n_windows, n_chans
        self.modalities = tuple(m for m in ALL if m in modalities)
        self.gradients: Literal["all", "kept"] = "all"
        self.scoring: Scoring = "exact"
        width, fusion = config.width, config.fusion
        if "face" in modalities:
            stages = config.trainable_stages
            self.backbone = backbone or load_backbone(config.backbone, px=px, width=width, trainable_stages=stages)
            self.select = make_selection(width, config.selection, n_frames=n_frames, n_windows=n_windows)
            tokens, positions = self.backbone.tokens, config.positions
            self.balance = make_balance(width, tokens, config.balancing, heads=fusion.heads, positions=positions)
        if "eeg" in modalities:
            self.eeg_tokens = make_eeg_tokens(
                config.eeg_tokens,
                width,
                n_times=n_times,
                sfreq=sfreq,
                positions=config.positions,
                n_chans=n_chans,
                architecture=eeg_architecture,
            )
        samples = round(n_times / sfreq * BODY_RATE)
        self.body = nn.ModuleDict(
            {k: BodyTokens(width, k, samples, positions=config.positions) for k in self.modalities if k in BODY}
        )
        self.fuse = make_fuse(width, fusion, self.modalities)
        self.head = Head(width, n_classes, config.head_dropout)
        self.alone = nn.ModuleDict()
        if config.auxiliary > 0:
            self.alone.update({name: nn.Linear(width, n_classes) for name in sorted(self.modalities)})

    def forward(self, bag: Bag) -> Prediction:
        """Classify a batch of bags.

        Returns
        -------
        Prediction
            Logits (B, n_classes) and frame weights (B, W, N).
        """
        cls, weights, alone = self._fused(bag)  # (B, D), (B, W, N)
        return Prediction(self.head(cls), weights, alone)  # (B, n_classes), (B, W, N)

    def features(self, bag: Bag) -> tuple[Tensor, Tensor]:
        """Return what the head is given, and the frame weights: (B, D), (B, W, N)."""
        cls, weights, _ = self._fused(bag)  # (B, D), (B, W, N)
        return cls, weights

    def _fused(self, bag: Bag) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """All but the head: what it is given (B, D), frame weights (B, W, N), each modality's own logits."""
        given = self._given(bag)  # (B, 2 + body kinds)
        bag = bag.settled(given[:, :2], {kind: given[:, 2 + i] for i, kind in enumerate(bag.body) if kind in self.body})
        weights = torch.zeros(bag.frame_mask.shape, device=bag.frames.device)  # (B, W, N)
        parts, alone = dict[str, Tokens](), {}
        if "face" in self.modalities:
            if self.gradients == "kept" and self.training and torch.is_grad_enabled():
                frames, kept, weights = learn_from_kept(self.backbone, self.select, bag, self.scoring)
            else:
                frames = self.backbone(bag.frames, bag.frame_mask, bag.prefix)  # (B, W·N, T, D)
                kept, weights = self.select(frames, bag.frame_mask)  # (B, K, T, D), (B, W, N)
            parts["face"] = self.balance(kept)  # (B, Q, D)
            if self.alone:
                # All frames by their weights, kept or not: so the scorer hears of a frame that it passes over.
                seen = torch.einsum("bn,bntd->bd", weights.flatten(1).to(frames), frames) / frames.shape[2]  # (B, D)
                alone["face"] = self.alone["face"](seen)  # (B, n_classes)
        if "eeg" in self.modalities:
            parts["eeg"] = self.eeg_tokens(bag)  # (B, M, D)
        for kind, tokens in self.body.items():
            parts[kind] = tokens(bag)  # (B, W·P, D)
        if self.alone:
            alone |= {m: self.alone[m](part.mean()) for m, part in parts.items() if m != "face"}  # (B, n_classes) each
        cls = self.fuse(parts)  # (B, D)
        return cls, weights, alone

    def fit_scales(self, bags: Sequence[Bag]) -> None:
        """Fit the scale of every electrode and of every body channel; `bags` are of training rows only.

        There is nothing to do for faces.

        Raises
        ------
        ValueError
            If no bag holds any EEG, or any of a body signal.
        """
        if "eeg" in self.modalities:
            self.eeg_tokens.fit([bag for bag in bags if bag.modality_mask[:, EEG].any()])
        for tokens in self.body.values():
            assert isinstance(tokens, BodyTokens)  # for the type checker
            tokens.fit(bags)

    def set_exploration(self, share: float) -> None:
        """Set how soft and noisy frame selection is in training: `share` is 1 at the start and 0 after warm-up."""
        if "face" in self.modalities and self.select.explores:
            self.select.warmth = share

    def _given(self, bag: Bag) -> Tensor:
        """What this model takes of a bag, in the order of ``bag.kinds``: its modalities, less some while training.

        Modality dropout hides one of two, each as often as the other. Of more, each is hidden on its own with that
        chance, so that every subset is met; where all that a bag has would be hidden, one of them, drawn evenly, stays.
        """
        takes = torch.tensor([k in self.modalities for k in bag.kinds], device=bag.modality_mask.device)  # (M,)
        given = takes.expand(bag.frames.shape[0], -1).clone()  # (B, M)
        if not self.training or self.config.modality_dropout == 0:
            return given  # (B, M)
        here, mine = bag.present() & given, torch.nonzero(takes).flatten()  # (B, M), (m,)
        if len(mine) == 2:
            draw = torch.rand(2, len(bag), device=given.device)  # (2, B)
            drop = here[:, mine].all(1) & (draw[0] < self.config.modality_dropout)  # (B,)
            given[:, mine[0]] &= ~(drop & (draw[1] < 0.5))
            given[:, mine[1]] &= ~(drop & (draw[1] >= 0.5))
        elif len(mine) > 2:
            draw = torch.rand(len(bag), len(bag.kinds), device=given.device)  # (B, M)
            left = here & (draw >= self.config.modality_dropout)  # (B, M)
            kept = draw.masked_fill(~here, -1.0).argmax(1, keepdim=True)  # (B, 1)
            left = left | (torch.zeros_like(left).scatter(1, kept, True) & here)  # (B, M)
            given = given & (left | ~here)  # (B, M)
        return given  # (B, M)
