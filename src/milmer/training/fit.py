"""One fit: fitted scales, Lightning's loop, the best epoch by validation loss, weights as safetensors."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from numpy.typing import NDArray

from milmer.config import Config
from milmer.errors import UserError
from milmer.evaluation.guard import Guard, cleaned
from milmer.models.backbone import load_backbone
from milmer.models.eeg import make_eeg_tokens
from milmer.models.milmer import ALL, Milmer
from milmer.models.weights import AnyModel, load_model, save_model
from milmer.progress import Progress, silent
from milmer.store import Store, content_hash, write_json
from milmer.training.augment import views_of
from milmer.training.bandpower import fit_bandpower
from milmer.training.data import Bags, Batches, check_modalities, make_loader
from milmer.training.members import class_weights, combine, member_config, member_guard, only, present
from milmer.training.module import MilmerModule
from milmer.training.prefix import suited
from milmer.training.reading import EEGReader
from milmer.training.record import model_record
from milmer.training.switches import check_switches, products, turn_off

FITS = "fits.json"


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that a kill in the middle of writing cannot spoil."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write beside the final place, then rename."""
        part = Path(f"{path}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.save(checkpoint, part)
        except (OSError, RuntimeError) as error:  # RuntimeError: torch fails on its own positions in the file
            free = shutil.disk_usage(part.parent).free / 1e6
            part.unlink(missing_ok=True)
            raise UserError(
                f"{path}: the checkpoint cannot be written ({free:.0f} MB free); make room, "
                "then the same command with --resume goes on"
            ) from error
        part.replace(path)


class _Curve(Callback):
    """Writes history.csv every epoch and tells of the progress."""

    def __init__(self, folder: Path, progress: Progress, text: str) -> None:
        self.folder, self.progress, self.text = folder, progress, text

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        module = pl_module
        if trainer.sanity_checking or not isinstance(module, MilmerModule):
            return
        pd.DataFrame(module.history).to_csv(self.folder / "history.csv", index=False)
        last = module.history[-1]
        self.progress(
            len(module.history),
            int(trainer.max_epochs or 0),
            f"{self.text}: loss {last['train_loss']:.3f}, validation macro-F1 {last['val_macro_f1']:.2f}",
        )


@dataclass(frozen=True)
class Fit:
    """What a fit left behind: weights in `folder`, and the learning curve."""

    folder: Path
    history: pd.DataFrame


def fit(
    config: Config,
    bags: Bags,
    guard: Guard,
    folder: Path,
    *,
    resume: bool = False,
    progress: Progress = silent,
    text: str = "fit",
) -> Fit:
    """Fit a model on a fold's training rows, choosing the epoch on its validation rows.

    What is fitted hangs on ``model.fusion.method``: one network; two, each of one modality, that are then made one
    (ensemble, deepcca); or no network (bandpower-logistic).

    Parameters
    ----------
    bags : Bags
        The data, with the fold's labels (see `Bags.labelled`).
    guard : Guard
        Over the rows of ``bags.table``: says which rows train and validate, and shows no others to what is fitted.
    folder : Path
        Gets ``model.safetensors``, ``config.json``, ``history.csv``, ``fits.json`` (what was fitted on which rows);
        ``last.ckpt``, or a folder for each of two networks, while it goes on.
    resume : bool
        Go on from ``last.ckpt`` where there is one; the result is bit-equal to an uninterrupted fit.

    Returns
    -------
    Fit

    Raises
    ------
    UserError
        If the method needs a modality that no training row holds.
    LeakError
        If a fit touches a row that it may not see; or if EEG is used that was cleaned with an ICA of whole recordings,
        and the guard's budget does not allow that.
    """
    train, validation = guard.rows("weights"), guard.rows("early stopping")  # (n,), (m,)
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "done.json"
    key = content_hash(
        [config.model_dump(mode="json"), bags.store.fingerprint, train.tolist(), validation.tolist(), bags.labels.rule]
    )
    if resume and done.exists() and json.loads(done.read_text())["key"] == key:
        _sweep(folder)
        guard.recall(_fits(folder))
        return Fit(folder, pd.read_csv(folder / "history.csv"))
    done.unlink(missing_ok=True)
    method = config.model.fusion.method
    bags.check(train)
    if of := cleaned(config, bags.store):
        keys = bags.table["store_key"].to_numpy()  # (n_bags,)
        seen = set(keys[np.concatenate([train, validation, guard.split.test])]) & set(of)
        rows = np.flatnonzero(np.isin(keys, list(seen)))  # (n,)
        guard.fit("ica", len, rows, labelled=False, what="operators in the store, of whole recordings")
    torch.set_num_threads(config.training.threads)
    model: AnyModel
    if method in ("ensemble", "deepcca"):
        model, history = _fit_pair(config, bags, guard, folder, resume, progress, text)
    elif method == "bandpower-logistic":
        model, history = fit_bandpower(config, bags, guard, progress, text)
    else:
        model, history = _fit_network(config, bags, guard, folder, key, resume, progress, text)
    used = [name for name in config.data.modalities if name in model.modalities]
    data = config.data.model_copy(update={"modalities": tuple(used)})
    save_model(model, folder, model_record(config.model_copy(update={"data": data}), bags))
    part = folder / ".history.csv.part"
    history.to_csv(part, index=False)
    part.replace(folder / "history.csv")
    best = {n: int(np.argmin(h["val_loss"])) for n, h in history.groupby("member")} if "member" in history else None
    write_json(folder / FITS, guard.record())
    write_json(done, {"key": key, "best_epoch": best or int(np.argmin(history["val_loss"]))})
    _sweep(folder)
    return Fit(folder, history)


def _fits(folder: Path) -> list[dict[str, Any]]:
    """Return the log that a finished fit left."""
    file = folder / FITS
    return list(json.loads(file.read_text(encoding="utf-8"))["fits"]) if file.exists() else []


def _sweep(folder: Path) -> None:
    """Remove what only an unfinished fit needs."""
    for scratch in (*folder.glob("*.ckpt"), folder / "fit.json"):
        scratch.unlink(missing_ok=True)
    for name in ALL:
        shutil.rmtree(folder / name, ignore_errors=True)


def _fit_pair(
    config: Config,
    bags: Bags,
    guard: Guard,
    folder: Path,
    resume: bool,
    progress: Progress,
    text: str,
) -> tuple[AnyModel, pd.DataFrame]:
    """Fit a model of each modality alone in a folder of its own, then make them one."""
    names = [m for m in ALL if m in config.data.modalities]
    folders = {name: folder / name for name in names}
    for i, name in enumerate(names):
        fit(
            member_config(config, name),
            only(bags, name),
            member_guard(bags, guard, name, config.training.seed),
            folders[name],
            resume=resume,
            progress=lambda done, total, said, i=i: progress(i * total + done, len(names) * total, said),
            text=f"{text}, {name} alone",
        )
    device = "cuda" if _accelerator(config.training.device) == "gpu" else "cpu"
    return combine(config, bags, guard, folders, device=device, progress=progress, text=text)


def _fit_network(
    config: Config,
    bags: Bags,
    guard: Guard,
    folder: Path,
    key: str,
    resume: bool,
    progress: Progress,
    text: str,
) -> tuple[Milmer, pd.DataFrame]:
    """Run Lightning's loop and take the best epoch's weights."""
    settings = config.training
    train, validation = guard.rows("weights"), guard.rows("early stopping")  # (n,), (m,)
    scaled, learned, judged = (guard.view(k, bags) for k in ("normaliser", "weights", "early stopping"))
    name = " and ".join(config.data.modalities)
    model = guard.fit("normaliser", lambda rows: build_model(config, scaled, rows), train, what=f"scales of {name}")
    learned, judged = suited(learned, model), suited(judged, model)
    y = learned.labels.y[train]  # (n,)
    steps = settings.epochs * int(np.ceil(len(train) / settings.batch))
    weights = class_weights(y, len(bags.labels.classes)) if settings.class_weights else None
    module = MilmerModule(model, settings, steps, weights)
    best = ModelCheckpoint(
        dirpath=folder, filename="best", monitor="val_loss", save_last=True, enable_version_counter=False
    )
    last = folder / "last.ckpt"
    started = folder / "fit.json"
    going_on = resume and last.exists() and started.exists() and json.loads(started.read_text())["key"] == key
    if not going_on:
        for stale in folder.glob("*.ckpt"):
            stale.unlink()
        write_json(started, {"key": key})
    with _quiet(), products(settings):
        trainer = lightning.Trainer(
            default_root_dir=folder,
            max_epochs=settings.epochs,
            accelerator=_accelerator(settings.device),
            devices=1,
            precision=_precision(settings.precision, settings.device),
            gradient_clip_val=settings.clip,
            callbacks=[best, EarlyStopping("val_loss", patience=settings.patience), _Curve(folder, progress, text)],
            plugins=[AtomicCheckpoints()],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            deterministic="warn",
        )
        trainer.fit(
            module,
            guard.fit("weights", lambda rows: train_loader(config, learned, rows), train, what=f"network of {name}"),
            guard.fit(
                "early stopping", lambda rows: judge_loader(config, judged, rows), validation, what=f"epoch, {name}"
            ),
            ckpt_path=str(last) if going_on else None,
            weights_only=True,
        )
    turn_off(model)
    if trainer.interrupted:
        raise KeyboardInterrupt
    state = torch.load(folder / "best.ckpt", weights_only=True, map_location="cpu")["state_dict"]
    model.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
    return model, pd.DataFrame(module.history)


def train_loader(config: Config, bags: Bags, rows: NDArray[np.int64]) -> Batches:
    """Return the loader that weights are learned from."""
    settings = config.training
    bags = bags.with_views(settings.seed, views_of(settings, config.model))
    return make_loader(bags, rows, settings.batch, seed=settings.seed, shuffle=True, workers=settings.workers)


def judge_loader(config: Config, bags: Bags, rows: NDArray[np.int64]) -> Batches:
    """Return the loader that each epoch is judged by."""
    return make_loader(bags, rows, 2 * config.training.batch, workers=config.training.workers)


def check_parts(config: Config, store: Store) -> None:
    """Open what a configuration names outside of itself, before any of the data is read.

    Raises
    ------
    UserError
        If the device or a modality is not there, switches of training do not go together, the backbone cannot be opened
        or does not suit the frames, or the EEG tokens' network cannot be had.
    """
    _accelerator(config.training.device)
    check_switches(config)
    check_modalities(store, config.data.modalities)
    if config.model.fusion.method == "bandpower-logistic":
        return
    model, data = config.model, config.data
    if "face" in data.modalities:
        load_backbone(model.backbone, px=data.px, width=model.width, trainable_stages=model.trainable_stages)
    if "eeg" in data.modalities and store.trials["has_eeg"].any():
        n_times, n_chans = round(data.window * store.eeg_rate), EEGReader(store, data).channels
        make_eeg_tokens(model.eeg_tokens, model.width, n_times=n_times, sfreq=store.eeg_rate, n_chans=n_chans)


def build_model(config: Config, bags: Bags, train: NDArray[np.int64]) -> Milmer:
    """Make the network and fit its EEG scales on rows of `train`; the initial weights are a function of the seed."""
    generator_state = torch.get_rng_state()
    torch.manual_seed(config.training.seed)
    model = Milmer(
        config.model,
        n_classes=len(bags.labels.classes),
        n_times=bags.samples,
        sfreq=bags.store.eeg_rate,
        modalities=config.data.modalities,
        px=config.data.px,
        n_frames=config.data.frames,
        n_windows=bags.members.shape[1],
        n_chans=bags.channels,
    )
    torch.set_rng_state(generator_state)
    fit_scales(model, config, bags, train)
    return model


def fit_scales(model: Milmer, config: Config, bags: Bags, rows: NDArray[np.int64]) -> None:
    """Fit the scales of EEG and body signals of a network on (some of) the rows `rows`."""
    order = np.random.default_rng([config.training.seed, 3]).permutation(rows)  # (n,)
    given = []
    for name in model.modalities:
        if name == "face":
            continue
        mine = order if name == "eeg" else order[present(bags, order, name)]  # (n',)
        if not len(mine):
            raise UserError(f"no training row holds any {name}; leave it out of --modalities")
        some = np.sort(mine[:512])  # enough for a robust scale
        given.append(only(bags, name).__getitems__([(0, int(i)) for i in some]))
    model.fit_scales(given)


def predict_bags(
    folder: Path, bags: Bags, rows: NDArray[np.int64], *, device: str = "auto", batch: int = 64
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the class probabilities and frame weights that the model in `folder` gives to `rows`.

    Returns
    -------
    prob : ndarray, shape (n_rows, n_classes)
    weights : ndarray, shape (n_rows, W, N)
    """
    model, _ = load_model(folder)
    place = torch.device("cuda" if _accelerator(device) == "gpu" else "cpu")
    model.to(place).eval()
    prob, weights = [], []
    with torch.inference_mode():
        for bag, _, _ in make_loader(suited(bags, model), rows, batch):
            answer = model(bag.to(place))
            prob.append(answer.logits.float().softmax(-1).cpu())  # (B, classes)
            weights.append(answer.frame_weights.float().cpu())  # (B, W, N)
    return torch.cat(prob).numpy(), torch.cat(weights).numpy()


def _accelerator(device: str) -> str:
    if device == "gpu" and not torch.cuda.is_available():
        raise UserError("training.device gpu: no GPU was found; use training.device=cpu")
    return "gpu" if device != "cpu" and torch.cuda.is_available() else "cpu"


def _precision(precision: str, device: str) -> Any:
    if precision == "auto":
        if _accelerator(device) == "cpu":
            return "32-true"
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    return {"32": "32-true", "tf32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[precision]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's advice off the screen: the command line says what a user needs."""
    loggers = [logging.getLogger(n) for n in ("lightning.pytorch", "lightning.fabric", "lightning")]
    before = [log.level for log in loggers]
    try:
        for log in loggers:
            log.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning.*")
            warnings.filterwarnings("ignore", message=".*weights_only.*")
            yield
    finally:
        for log, level in zip(loggers, before, strict=True):
            log.setLevel(level)
