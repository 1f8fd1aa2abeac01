"""The loop of a pretraining: a backbone under a linear answer, weighted cross-entropy, the best epoch kept."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from milmer.datasets.expressions import ExpressionSet
from milmer.errors import UserError
from milmer.evaluation.metrics import classification
from milmer.models.attention import init_linear
from milmer.models.backbone import Backbone
from milmer.progress import Progress
from milmer.training.pictures import Pictures, augment_pictures

Ints = NDArray[np.int64]

SMOOTHING, DECAY, CLIP, WARM_UP, FLOOR = 0.1, 0.05, 1.0, 0.05, 0.01
LAST, BEST = "last.pt", "best.pt"


class ExpressionNet(nn.Module):
    """A backbone and a linear answer on the mean of its tokens.

    Parameters
    ----------
    backbone : Backbone
        Its `width` is the network's own: nothing between the tokens and the head is thrown away later.
    classes : int
    """

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.norm = nn.LayerNorm(backbone.width)
        self.head = nn.Linear(backbone.width, classes)
        init_linear(self.head)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (B, classes) of pictures (B, 3, P, P), uint8 or in [0, 1]."""
        there = torch.ones(len(pictures), 1, 1, dtype=torch.bool, device=pictures.device)  # (B, 1, 1)
        tokens = self.backbone(pictures[:, None, None], there)  # (B, 1, T, D)
        logits: Tensor = self.head(self.norm(tokens.mean(dim=(1, 2))))  # (B, classes)
        return logits


class ExpressionFit:
    """The loop; every draw in it is a function of seed, epoch and step.

    Parameters
    ----------
    net : ExpressionNet
        On `place`.
    found : ExpressionSet
    folder : Path
        Gets ``best.pt`` (weights), ``last.pt`` (all that going on needs) and ``history.csv``, each epoch.
    settings : dict
        ``px``, ``epochs``, ``batch``, ``lr``, ``seed``.
    place : torch.device
    progress : Progress
        Told of every step.
    """

    def __init__(
        self,
        net: ExpressionNet,
        found: ExpressionSet,
        folder: Path,
        settings: dict[str, Any],
        place: torch.device,
        progress: Progress,
    ) -> None:
        self.net, self.found, self.folder, self.settings = net, found, folder, settings
        self.place, self.progress = place, progress
        self.pictures = Pictures(found, settings["px"])
        decay = [p for p in net.parameters() if p.requires_grad and p.ndim >= 2]
        plain = [p for p in net.parameters() if p.requires_grad and p.ndim < 2]
        groups = [{"params": decay, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=settings["lr"])

    def run(self, train: Ints, validation: Ints) -> list[dict[str, float]]:
        """Fit and return the learning curve; the best epoch's weights are then in ``best.pt``."""
        history: list[dict[str, float]] = []
        if (self.folder / LAST).exists():
            state = torch.load(self.folder / LAST, weights_only=True, map_location=self.place)
            self.net.load_state_dict(state["net"])
            self.optimizer.load_state_dict(state["optimizer"])
            history = state["history"]
        k = len(self.found.classes)
        counts = np.bincount(self.found.labels[train], minlength=k)  # (k,)
        weights = torch.tensor(len(train) / (k * counts), dtype=torch.float32, device=self.place)  # (k,)
        for epoch in range(len(history), self.settings["epochs"]):
            loss = self._epoch(epoch, train, weights)
            prob = self.answers(validation)  # (n, k)
            said = classification(self.found.labels[validation], prob, self.found.classes)
            row = {"epoch": float(epoch), "train_loss": loss, "lr": float(self.optimizer.param_groups[0]["lr"])}
            row |= {f"val_{n}": said[n] for n in ("log_loss", "accuracy", "balanced_accuracy", "macro_f1")}
            history.append(row)
            if max(range(len(history)), key=lambda e: rank(history, e)) == epoch:
                _save(self.folder / BEST, self.net.state_dict())
            pd.DataFrame(history).to_csv(self.folder / "history.csv", index=False)
            state = {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict(), "history": history}
            _save(self.folder / LAST, state)  # last: the epoch counts once this is whole
        return history

    def _epoch(self, epoch: int, train: Ints, weights: Tensor) -> float:
        self.net.train()
        seed, size = self.settings["seed"], self.settings["batch"]
        order = np.random.default_rng([seed, 42, epoch]).permutation(train)  # (n,)
        batches = [order[i : i + size] for i in range(0, len(order), size)]
        total = len(batches) * self.settings["epochs"]
        losses = 0.0
        for i, (rows, raw) in enumerate(self.pictures.batches(batches)):
            step = epoch * len(batches) + i
            for group in self.optimizer.param_groups:
                group["lr"] = self.settings["lr"] * _warm_cosine(step, total)
            y = torch.from_numpy(self.found.labels[rows]).to(self.place)  # (B,)
            x = augment_pictures(raw.to(self.place), seed, step)  # (B, 3, P, P)
            with torch.random.fork_rng(devices=[self.place] if self.place.type == "cuda" else []):
                torch.manual_seed(seed * 1_000_003 + step)  # of drop path
                with torch.autocast(self.place.type, torch.bfloat16, enabled=self.place.type == "cuda"):
                    logits = self.net(x)  # (B, k)
                loss = nn.functional.cross_entropy(logits.float(), y, weight=weights, label_smoothing=SMOOTHING)  # ()
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves its type out
            nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
            self.optimizer.step()
            value = float(loss.detach())
            if not math.isfinite(value):
                raise UserError(f"step {step + 1}: the loss is no number, the training diverged; give a lower --lr")
            losses += value * len(rows)
            self.progress(step + 1, total, f"epoch {epoch + 1}: loss {value:.2f}")
        return losses / len(order)

    @torch.inference_mode()
    def answers(self, rows: Ints) -> NDArray[np.float32]:
        """Probabilities (n, k) of the pictures `rows`."""
        self.net.eval()
        size = self.settings["batch"]
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        prob = [self.net(x.to(self.place)).float().softmax(-1).cpu() for _, x in self.pictures.batches(batches)]
        return torch.cat(prob).numpy()  # (n, k)


def _warm_cosine(step: int, steps: int) -> float:
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def rank(history: Sequence[Mapping[str, float]], epoch: int) -> tuple[float, float, int]:
    """Return what an epoch of a learning curve is compared by: validation macro-F1, balanced accuracy, being early."""
    return history[epoch]["val_macro_f1"], history[epoch]["val_balanced_accuracy"], -epoch


def _save(file: Path, state: dict[str, Any]) -> None:
    part = file.with_name(file.name + ".part")
    try:
        torch.save(state, part)
    except (OSError, RuntimeError) as error:  # RuntimeError: torch fails on its own positions in the file
        free = shutil.disk_usage(file.parent).free / 1e6
        part.unlink(missing_ok=True)
        raise UserError(f"{file}: cannot be written ({free:.0f} MB free); make room, then --resume goes on") from error
    part.replace(file)
