"""The network under optimisation. Every draw is a function of seed and step, so a resumed run repeats itself."""

from __future__ import annotations

import math
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from milmer.config import Training
from milmer.evaluation.metrics import classification
from milmer.evaluation.probes import learns_weights
from milmer.models.bag import Bag, Prediction
from milmer.models.milmer import Milmer
from milmer.training.augment import augment, changes_pixels
from milmer.training.switches import agreement, fused, turn_on
from milmer.training.watch import AttentionWatch, valid_frames

Batch = tuple[Bag, Tensor, Tensor]  # bag, (B,), (B, 2)


class MilmerModule(lightning.LightningModule):
    """Cross-entropy, AdamW and a warmed-up cosine decay (PAPER section 1) around `Milmer`.

    Parameters
    ----------
    model : Milmer
        The network.
    config : Training
        How to fit it.
    steps : int
        Optimiser steps of the whole fit.
    class_weights : Tensor, shape (n_classes,), optional
        Weights of the classes in the training loss.
    """

    class_weights: Tensor | None

    def __init__(self, model: Milmer, config: Training, steps: int, class_weights: Tensor | None = None) -> None:
        super().__init__()
        self.model, self.settings, self.steps = model, config, max(steps, 1)
        turn_on(model, config)
        self.register_buffer("class_weights", class_weights)
        self.history: list[dict[str, float]] = []
        self._losses: list[float] = []
        self._watch = AttentionWatch(model.config.selection.keep) if _weighs_frames(model) else None
        self._seen: list[tuple[Tensor, Tensor, float]] = []
        self._agreement: dict[str, float] = {}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make dropout and exploration a function of seed and step; let exploration fade over most of the fit."""
        torch.manual_seed(self.settings.seed * 1_000_003 + self.global_step)
        self.model.set_exploration(max(0.0, 1 - self.global_step / (0.6 * self.steps)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        bag, y, items = batch
        if self.settings.augment:
            bag = augment(
                bag,
                items,
                self.settings.seed,
                self.settings.channel_dropout,
                pixels=changes_pixels(self.settings, self.model.config),
            )
        loss = fit_loss(self.model(bag), y, self.model.config.auxiliary, self.class_weights)  # ()
        self._losses.append(float(loss.detach()))
        return loss

    def on_train_epoch_start(self) -> None:
        """Begin the epoch's mean loss."""
        self._losses = []

    def on_validation_epoch_start(self) -> None:
        """Begin the epoch's validation figures."""
        self._seen = []
        if self._watch is not None:
            self._watch.begin()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the validation probabilities."""
        bag, y, _ = batch
        said: Prediction = self.model(bag)
        logits = said.logits.float()  # (B, classes)
        loss = float(nn.functional.cross_entropy(logits, y, reduction="sum"))
        self._seen.append((logits.softmax(-1).cpu(), y.cpu(), loss))
        if batch_idx == 0 and getattr(self.model, "scoring", "exact") != "exact" and valid_frames(bag).any():
            self._agreement = {"selection_agreement": agreement(self.model, bag)}  # one batch tells, and is cheap
        if self._watch is not None:
            self._watch.add(said.frame_weights, valid_frames(bag))

    def on_validation_epoch_end(self) -> None:
        """Log validation loss and macro-F1; both decide about stopping, neither sees a test row."""
        prob = torch.cat([p for p, _, _ in self._seen]).numpy()  # (n, classes)
        y = torch.cat([t for _, t, _ in self._seen]).numpy()  # (n,)
        loss = sum(s for _, _, s in self._seen) / len(y)
        figures = classification(y, prob, [str(i) for i in range(prob.shape[1])])
        self.log("val_loss", loss, batch_size=len(y))
        if not self.trainer.sanity_checking:
            train = float(np.mean(self._losses)) if self._losses else math.nan
            self.history.append(
                {
                    "epoch": float(self.current_epoch),
                    "train_loss": train,
                    "val_loss": loss,
                    "val_macro_f1": figures["macro_f1"],
                    "val_accuracy": figures["accuracy"],
                    "lr": float(self.optimizers().param_groups[0]["lr"]),  # type: ignore[union-attr]  # one optimiser
                }
                | ({} if self._watch is None else self._watch.end())
                | self._agreement
            )

    def configure_optimizers(self) -> Any:
        """AdamW without decay on biases, norms and tokens; linear warm-up, then cosine to `lr_floor`."""
        decay: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                (decay if parameter.ndim >= 2 else plain).append(parameter)
        groups = [
            {"params": decay, "weight_decay": self.settings.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.settings.lr, **fused(self.settings, decay + plain))
        warm = max(1, round(self.settings.warmup * self.steps))
        floor = self.settings.lr_floor

        def factor(step: int) -> float:
            if step < warm:
                return (step + 1) / warm
            share = min(1.0, (step - warm) / max(1, self.steps - warm))
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm here: Lightning refuses to for a fused optimiser, though only a scaled loss is against it."""
        if gradient_clip_val:
            mine = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(mine, gradient_clip_val)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch; a `Bag` moves itself."""
        bag, y, items = batch
        return bag.to(device), y.to(device), items

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the learning curve with the state it belongs to."""
        checkpoint["history"] = self.history
        if self._watch is not None:
            checkpoint["attention"] = self._watch.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the learning curve up again."""
        self.history = list(checkpoint["history"])
        if self._watch is not None:
            self._watch.load(checkpoint.get("attention", {}))


def _weighs_frames(model: Milmer) -> bool:
    """Whether the network learns weights of frames, so that there is attention to watch."""
    return "face" in model.modalities and learns_weights(model.config)


def fit_loss(said: Prediction, y: Tensor, auxiliary: float = 0.0, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of the answer, and `auxiliary` times that of each modality's own answer.

    The second term is what trains a backbone from few labels: the fused answer can be had from the easier modality
    alone, and then the other gets next to no gradient.

    Returns
    -------
    Tensor, shape ()
    """
    loss = nn.functional.cross_entropy(said.logits, y, weight=class_weights)  # ()
    for logits in said.alone.values():
        loss = loss + auxiliary * nn.functional.cross_entropy(logits, y, weight=class_weights)  # ()
    return loss
