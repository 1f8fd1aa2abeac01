"""Fit a vision backbone on a facial-expression set, so that `--backbone` starts from faces instead of objects."""

from __future__ import annotations

import importlib.metadata
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from milmer.datasets.expressions import ExpressionSet, split_expressions
from milmer.errors import UserError
from milmer.evaluation.metrics import classification
from milmer.models.attention import init_linear
from milmer.models.backbone import PROCESSOR, RANDOM_SIZES, Backbone, load_backbone
from milmer.progress import Progress, silent
from milmer.reports.pretrained import expression_figures, write_card, write_confusion
from milmer.store import write_json
from milmer.training.pictures import Pictures, augment_pictures

Ints = NDArray[np.int64]

RECORD = "milmer_pretrain.json"
LR, LR_RANDOM = 1e-4, 1e-3  # of a network that has learnt to see already, and of one that has not
SMOOTHING, DECAY, CLIP, WARM_UP, FLOOR = 0.1, 0.05, 1.0, 0.05, 0.01
LAST, BEST = "last.pt", "best.pt"


@dataclass(frozen=True)
class Pretrained:
    """What `pretrain_faces` left behind: the backbone's folder, and what its ``milmer_pretrain.json`` says."""

    folder: Path
    record: dict[str, Any]


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


def pretrain_faces(
    found: ExpressionSet,
    out: Path,
    *,
    backbone: str,
    px: int | None = None,
    epochs: int = 30,
    batch: int = 64,
    lr: float | None = None,
    seed: int = 0,
    trainable_stages: int | Literal["all"] = "all",
    device: str = "auto",
    threads: int | None = None,
    progress: Progress = silent,
    resume: bool = False,
) -> Pretrained:
    """Fine-tune a backbone on expressions, or train one from random weights (PAPER section 1: "fine-tuned").

    AdamW with linear warm-up and cosine decay; cross-entropy with smoothed labels (0.1), each class weighted by the
    inverse of its frequency; mirrored, cropped (0.8 to 1 of the area), turned, recoloured and partly erased pictures.
    The epoch with the best validation macro-F1 is kept (balanced accuracy, then the earlier one, where it ties).

    Parameters
    ----------
    found : ExpressionSet
        What `milmer.datasets.expressions.open_expressions` returned.
    out : Path
        Folder to write: the network as transformers saves it (``config.json``, ``model.safetensors``,
        ``preprocessor_config.json``), ``milmer_pretrain.json``, ``history.csv``, ``confusion.png``, ``README.md``.
        It appears when all is done; until then work lies in ``OUT.part``.
    backbone : str
        As in `milmer.models.backbone.load_backbone`.
    px : int, optional
        Side of the pictures; default: what the backbone was made for.
    epochs, batch, lr
        `lr` defaults to 1e-4, to 1e-3 from random weights.
    seed : int
        The result is a function of it, resumed or not, on one machine with one number of threads.
    trainable_stages : int or "all"
        How many of the last stages are trained.
    device : {"auto", "cpu", "gpu"}
    threads : int, optional
        CPU threads; default: torch's own.
    progress : Progress
        Told of every step.
    resume : bool
        Go on with what an interrupted call left in ``OUT.part``.

    Returns
    -------
    Pretrained

    Raises
    ------
    UserError
        If an option is wrong, `out` is taken, the set is too small, or the training diverges.
    """
    if trainable_stages == 0:
        raise UserError("--trainable-stages 0: nothing of the backbone would be trained; give 1 to 4, or all")
    for name, value in (("epochs", epochs), ("batch", batch), ("px", px or 1), ("threads", threads or 1)):
        if value < 1:
            raise UserError(f"--{name} {value}: expected at least 1")
    place = _place(device)
    if threads:
        torch.set_num_threads(threads)
    lr = lr if lr is not None else LR_RANDOM if backbone.startswith("random:") else LR
    if not 0 < lr < 1:
        raise UserError(f"--lr {lr:g}: expected a learning rate above 0 and below 1, such as {LR:g}")
    parts = split_expressions(found, seed)
    side = px or _own_px(backbone)
    settings: dict[str, Any] = {
        "backbone": backbone,
        "px": side,
        "epochs": epochs,
        "batch": batch,
        "lr": lr,
        "seed": seed,
        "trainable_stages": trainable_stages,
        "set": found.fingerprint(),
    }
    done = _finished(out, settings, resume)
    if done is not None:
        return done
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ExpressionNet(_open_backbone(backbone, side, trainable_stages), len(found.classes))
    part = _claim(out, settings, resume)
    net.to(place)
    fit = _Fit(net, found, part, settings, place, progress)
    history = fit.run(parts.train, parts.validation)
    net.load_state_dict(torch.load(part / BEST, weights_only=True, map_location="cpu"))
    figures: list[dict[str, Any]] = []
    truth = found.labels
    tables = {}
    for name, rows in (("validation", parts.validation), ("test", parts.test)):
        if len(rows):
            prob = fit.answers(rows)  # (n, classes)
            people = None if found.people is None else found.people[rows]
            rows_figures, tables[name] = expression_figures(
                truth[rows], prob, found.classes, truth[parts.train], part=name, how=parts.how, people=people, seed=seed
            )
            figures += rows_figures
    best = max(range(len(history)), key=lambda e: _rank(history, e))
    record = {
        "classes": list(found.classes),
        "data": found.path.name,
        "pictures": {n: found.counts(getattr(parts, n)) for n in ("train", "validation", "test")},
        "left_out": list(found.bad),
        "validation": parts.how,
        "class_balance": "classes weighted by the inverse of their frequency in the loss",
        "best_epoch": best,
        "settings": settings,
        "figures": figures,
        "confusion": {name: table.tolist() for name, table in tables.items()},
        "versions": {n: importlib.metadata.version(n) for n in ("milmer", "torch", "transformers")},
    }
    net.to("cpu").eval()
    _save_network(net.backbone.net, part)
    write_json(part / PROCESSOR, _processor(net.backbone))
    write_json(part / RECORD, record)
    write_confusion(part / "confusion.png", tables, found.classes)
    write_card(part / "README.md", record)
    for scratch in (LAST, BEST, "begun.json"):
        (part / scratch).unlink(missing_ok=True)
    if out.is_dir():
        out.rmdir()  # empty: it was looked at above
    part.rename(out)
    return Pretrained(out, record)


class _Fit:
    """The loop; every draw in it is a function of seed, epoch and step."""

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
            if max(range(len(history)), key=lambda e: _rank(history, e)) == epoch:
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


def _open_backbone(name: str, px: int, stages: int | Literal["all"]) -> Backbone:
    """Open a backbone whose tokens are as wide as its network makes them."""
    probe = load_backbone(name, px=px, width=1, trainable_stages=stages)
    features = probe.project.in_features if isinstance(probe.project, nn.Linear) else 1
    return Backbone(probe.net, probe.spec, px=px, width=features, trainable_stages=stages)


def _save_network(net: Any, folder: Path) -> None:
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging  # transformers leaves its types out
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        net.save_pretrained(folder)
    finally:
        if shown:
            logging.enable_progress_bar()


def _own_px(name: str) -> int:
    if name.startswith("random:"):
        return int(RANDOM_SIZES.get(name.removeprefix("random:"), {}).get("image_size", 224))
    folder = Path(name).expanduser()
    for file, keys in ((folder / RECORD, ("settings", "px")), (folder / "config.json", ("image_size",))):
        if file.is_file():
            found: Any = json.loads(file.read_text(encoding="utf-8"))
            for key in keys:
                found = found.get(key) if isinstance(found, dict) else None
            if isinstance(found, int):
                return found
    return 224


def _processor(backbone: Backbone) -> dict[str, Any]:
    """Return what transformers' image processors read."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": backbone.px, "width": backbone.px},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(backbone.spec.mean),
        "image_std": list(backbone.spec.std),
    }


def _warm_cosine(step: int, steps: int) -> float:
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _rank(history: list[dict[str, float]], epoch: int) -> tuple[float, float, int]:
    return history[epoch]["val_macro_f1"], history[epoch]["val_balanced_accuracy"], -epoch


def _place(device: str) -> torch.device:
    if device not in ("auto", "cpu", "gpu"):
        raise UserError(f"--device {device}: expected auto, cpu or gpu")
    if device == "gpu" and not torch.cuda.is_available():
        raise UserError("--device gpu: no GPU was found; use --device cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def _finished(out: Path, settings: dict[str, Any], resume: bool) -> Pretrained | None:
    """Return what a finished call left in `out`, or refuse a folder that is taken."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (resume and (out / RECORD).is_file()):
        raise UserError(f"{out}: not empty; give another --out (--resume goes on with an interrupted pretraining)")
    record = json.loads((out / RECORD).read_text(encoding="utf-8"))
    _same(out, record["settings"], settings)
    return Pretrained(out, record)


def _claim(out: Path, settings: dict[str, Any], resume: bool) -> Path:
    """Return the folder to work in."""
    part = out.with_name(f"{out.name}.part")
    begun = part / "begun.json"
    if begun.is_file():
        if not resume:
            raise UserError(f"{part}: an interrupted pretraining; add --resume to go on with it, or delete it")
        _same(part, json.loads(begun.read_text(encoding="utf-8")), settings)
        return part
    if part.exists() and any(part.iterdir()):
        raise UserError(f"{part}: found files that are no pretraining; delete it or give another --out")
    try:
        part.mkdir(parents=True, exist_ok=True)
        write_json(begun, settings)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); give another --out") from error
    return part


def _same(folder: Path, before: dict[str, Any], given: dict[str, Any]) -> None:
    for name, value in given.items():
        if before.get(name) != value:
            raise UserError(
                f"{folder}: was begun with {name} {before.get(name)}, asked for {value}; resume with the same values"
            )


def _save(file: Path, state: dict[str, Any]) -> None:
    part = file.with_name(file.name + ".part")
    try:
        torch.save(state, part)
    except (OSError, RuntimeError) as error:  # RuntimeError: torch fails on its own positions in the file
        free = shutil.disk_usage(file.parent).free / 1e6
        part.unlink(missing_ok=True)
        raise UserError(f"{file}: cannot be written ({free:.0f} MB free); make room, then --resume goes on") from error
    part.replace(file)
