"""Fit a vision backbone on a facial-expression set, so that `--backbone` starts from faces instead of objects."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from milmer.datasets.expressions import ExpressionSet, split_expressions
from milmer.errors import UserError
from milmer.evaluation.expressions import expression_figures
from milmer.models.backbone import PROCESSOR, RANDOM_SIZES, Backbone, load_backbone
from milmer.progress import Progress, silent
from milmer.store import write_json
from milmer.training.expression_fit import BEST, LAST, ExpressionFit, ExpressionNet, rank

Ints = NDArray[np.int64]

RECORD = "milmer_pretrain.json"
LR, LR_RANDOM = 1e-4, 1e-3  # of a network that has learnt to see already, and of one that has not
BEGUN = "begun.json"


@dataclass(frozen=True)
class Pretrained:
    """What `pretrain_faces` left behind: the backbone's folder, and what its ``milmer_pretrain.json`` says."""

    folder: Path
    record: dict[str, Any]


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
        ``preprocessor_config.json``), ``milmer_pretrain.json`` and ``history.csv``; `milmer.reports.pretrained` adds
        pages to read. It appears when all is done; until then work lies in ``OUT.part``.
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
    for name, value in (("epochs", epochs), ("batch", batch), ("threads", threads or 1)):
        if value < 1:
            raise UserError(f"--{name} {value}: expected at least 1")
    place, lr, side = _settle(backbone, px, lr, trainable_stages, device)
    if threads:
        torch.set_num_threads(threads)
    parts = split_expressions(found, seed)
    settings: dict[str, Any] = {
        "backbone": _called(backbone),
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
    fit = ExpressionFit(net, found, part, settings, place, progress)
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
                truth[rows], prob, found.classes, truth[parts.train], part=name, how=parts.how, people=people
            )
            figures += rows_figures
    best = max(range(len(history)), key=lambda e: rank(history, e))
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
    if out.is_dir():
        out.rmdir()  # empty: it was looked at above
    part.rename(out)
    for scratch in (LAST, BEST, BEGUN):  # after the renaming: a kill before it costs nothing but this much
        (out / scratch).unlink(missing_ok=True)
    return Pretrained(out, record)


def check_pretraining(
    out: Path,
    *,
    backbone: str,
    px: int | None = None,
    lr: float | None = None,
    trainable_stages: int | Literal["all"] = "all",
    device: str = "auto",
    resume: bool = False,
) -> None:
    """Refuse what can be known to be wrong before the pictures are read, which may take minutes.

    Parameters are those of `pretrain_faces`.

    Raises
    ------
    UserError
        If an option is wrong, the backbone cannot be opened, or `out` is taken.
    """
    _, _, side = _settle(backbone, px, lr, trainable_stages, device)
    if not _is_free(out, resume):
        return  # finished already
    _unclaimed(out, resume)
    _open_backbone(backbone, side, trainable_stages)


def _settle(
    backbone: str, px: int | None, lr: float | None, stages: int | Literal["all"], device: str
) -> tuple[torch.device, float, int]:
    """Return device, learning rate and side of the pictures that options mean."""
    if stages == 0:
        raise UserError("--trainable-stages 0: nothing of the backbone would be trained; give 1 to 4, or all")
    if px is not None and px < 1:
        raise UserError(f"--px {px}: expected at least 1")
    place = _place(device)
    lr = lr if lr is not None else LR_RANDOM if backbone.startswith("random:") else LR
    if not 0 < lr < 1:
        raise UserError(f"--lr {lr:g}: expected a learning rate above 0 and below 1, such as {LR:g}")
    return place, lr, px if px is not None else _own_px(backbone)


def _open_backbone(name: str, px: int, stages: int | Literal["all"]) -> Backbone:
    """Open a backbone whose tokens are as wide as its network makes them."""
    try:
        probe = load_backbone(name, px=px, width=1, trainable_stages=stages)
    except UserError as error:  # a run's words for its options
        said = str(error).replace("set data.px=", "give --px ").replace("data.px is", "--px")
        raise UserError(said.replace("model.trainable_stages is", "--trainable-stages")) from error
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


def _called(name: str) -> str:
    """Return a backbone's name for the record, which travels: of a folder its name, not where it lies."""
    folder = Path(name).expanduser()
    return folder.resolve().name if folder.is_dir() else name


def _own_px(name: str) -> int:
    if name.startswith("random:"):
        return int(RANDOM_SIZES.get(name.removeprefix("random:"), {}).get("image_size", 224))
    folder = Path(name).expanduser()
    for file, keys in ((folder / RECORD, ("settings", "px")), (folder / "config.json", ("image_size",))):
        if file.is_file():
            found: Any = _read(file)
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


def _place(device: str) -> torch.device:
    if device not in ("auto", "cpu", "gpu"):
        raise UserError(f"--device {device}: expected auto, cpu or gpu")
    if device == "gpu" and not torch.cuda.is_available():
        raise UserError("--device gpu: no GPU was found; use --device cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def _is_free(out: Path, resume: bool) -> bool:
    """Whether nothing is in `out`; False where a finished pretraining is and may be, refused where anything else is."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return True
    if not (resume and (out / RECORD).is_file()):
        raise UserError(f"{out}: not empty; give another --out (--resume goes on with an interrupted pretraining)")
    return False


def _finished(out: Path, settings: dict[str, Any], resume: bool) -> Pretrained | None:
    """Return what a finished call left in `out`, or refuse a folder that is taken."""
    if _is_free(out, resume):
        return None
    record = _read(out / RECORD)
    _same(out, record.get("settings", {}), settings)
    return Pretrained(out, record)


def _unclaimed(out: Path, resume: bool) -> Path:
    """Return the folder to work in, refused where anything is in it that may not be gone on with."""
    part = out.with_name(f"{out.name}.part")
    if (part / BEGUN).is_file():
        if not resume:
            raise UserError(f"{part}: an interrupted pretraining; add --resume to go on with it, or delete it")
    elif part.exists() and not (part.is_dir() and not any(part.iterdir())):
        raise UserError(f"{part}: found files that are no pretraining; delete it or give another --out")
    return part


def _claim(out: Path, settings: dict[str, Any], resume: bool) -> Path:
    """Return the folder to work in, begun."""
    part = _unclaimed(out, resume)
    if (part / BEGUN).is_file():
        _same(part, _read(part / BEGUN), settings)
        return part
    try:
        part.mkdir(parents=True, exist_ok=True)
        write_json(part / BEGUN, settings)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); give another --out") from error
    return part


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({error}); mend or delete it") from error
    if not isinstance(found, dict):
        raise UserError(f"{file}: found no keys and values in it; mend or delete it")
    return found


def _same(folder: Path, before: dict[str, Any], given: dict[str, Any]) -> None:
    for name, value in given.items():
        if before.get(name) != value:
            raise UserError(
                f"{folder}: was begun with {name} {before.get(name)}, asked for {value}; resume with the same values"
            )
