"""One fit of a run: fitted behind the guard, its predictions and its temperature written into its folder."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milmer.config import Config
from milmer.evaluation.chance import NEW_STIMULI
from milmer.evaluation.guard import Budget, Guard
from milmer.evaluation.probes import learns_weights, wanted
from milmer.evaluation.protocols import Split
from milmer.evaluation.subsets import PRESENT, SUBSETS, subset_name, subset_rows, subsets
from milmer.progress import Progress
from milmer.store import IDENTITY, write_json, write_table
from milmer.store_join import open_stores

if TYPE_CHECKING:
    from milmer.training.data import Bags

PREDICTIONS, PROBES = "predictions.parquet", "probes.parquet"
CALIBRATION, FITS, ERROR = "calibration.json", "fits.json", "error.txt"
ADAPTATION = "adaptation"  # the part of tested people's rows whose labels the budget spends: no figure is made of them


@dataclass(frozen=True)
class Fold:
    """One fit: a fold of one seed, of the study's own labels or (permutation > 0) of shuffled ones.

    Everything that a worker process needs travels in it.

    Parameters
    ----------
    stores : tuple of Path
        One store, or two that are read as one.
    config : Config
        Of this seed: ``training.seed`` is the fit's own.
    split : Split
        Rows of the bags of these stores.
    folder : Path
        Where what the fit leaves behind goes.
    text : str
        What it is called while it goes on.
    budget : Budget
        What of test people may be seen.
    """

    stores: tuple[Path, ...]
    config: Config
    split: Split
    folder: Path
    text: str
    budget: Budget
    resume: bool = False
    permutation: int = 0

    @property
    def probed(self) -> bool:
        """Whether it is asked what the fitted model uses."""
        return bool(wanted(self.config)) and not self.permutation and len(self.split.test) > 0

    @property
    def hides(self) -> bool:
        """Whether its test rows are answered with every subset of the modalities too."""
        return self.config.evaluation.subsets and not self.permutation and len(self.split.test) > 0

    @property
    def finished(self) -> bool:
        """Whether all that the fit leaves behind is there."""
        files = [PREDICTIONS, "done.json"]
        files += [PROBES] if self.probed else []
        files += [SUBSETS] if self.hides else []
        files += [] if self.permutation else [CALIBRATION]
        return all((self.folder / name).exists() for name in files)


def load_bags(stores: tuple[Path, ...], config: Config) -> Bags:
    """Return the bags of one or two stores; a process keeps the last ones it read.

    What only changes labels does not change what is read, so permutations share it.
    """
    data = config.data.model_copy(update={"permute_labels": None})
    return _read_bags(stores, data.model_dump_json()).permuted(config.data.permute_labels)


@functools.lru_cache(maxsize=1)
def _read_bags(stores: tuple[Path, ...], data: str) -> Bags:
    from milmer.config import Data
    from milmer.training.data import Bags

    return Bags(open_stores(stores), Data.model_validate_json(data))


def fit_fold(fold: Fold, progress: Progress) -> None:
    """Fit one fold and write what it leaves behind, the predictions last; nothing where that is there already."""
    if fold.resume and fold.finished:
        return
    import torch

    from milmer.training.fit import fit, predict_bags
    from milmer.training.operators import with_fold_operators
    from milmer.training.prefix import with_cache
    from milmer.training.probes import probe_fold

    config, split = fold.config, fold.split
    torch.set_num_threads(config.training.threads)  # of the predictions too, where the fit itself is there already
    bags = load_bags(fold.stores, config)
    if fold.permutation:
        bags = bags.permuted(fold.permutation, alike=config.evaluation.protocol in NEW_STIMULI)
    guard = Guard(split, bags.table, fold.budget)
    bags = bags.labelled(guard)
    guard = guard.known(bags.labels.y >= 0)
    split = guard.split
    bags, notes = with_fold_operators(
        config, bags, guard, fold.folder, resume=fold.resume, progress=progress, text=fold.text
    )
    # Most often it is there, or was refused, before folds are dealt; where a fit has one epoch it would not pay.
    bags = with_cache(config, bags, build=config.training.epochs > 1, progress=progress)
    fit(config, bags, guard, fold.folder, resume=fold.resume, progress=progress, text=fold.text)
    parts = [("train", split.train), ("validation", split.validation), ("test", split.test)]
    if fold.permutation:
        parts = parts[-1:]
    rows = np.concatenate([r for _, r in parts])
    prob, weights = predict_bags(
        fold.folder, bags, rows, device=config.training.device, batch=2 * config.training.batch
    )
    table = _prediction_rows(fold, bags, rows, prob, weights)
    table.insert(2, "fold", split.fold)
    names = np.repeat([n for n, _ in parts], [len(r) for _, r in parts]).astype(object)  # (n,)
    names[(names == "test") & ~np.isin(rows, guard.tested)] = ADAPTATION
    table.insert(4, "part", names)
    classes = bags.labels.classes
    about: dict[str, Any] = {}
    table["temperature"] = 1.0
    if not fold.permutation:
        found, trials = _temperature(guard, table, rows, classes, "temperature of a trial's probabilities")
        about = {"temperature": found, "trials": trials}
        table["temperature"] = found
    if fold.probed:
        progress(1, 1, f"{fold.text}: what does the model use?")
        probed = probe_fold(config, bags, guard.tested, fold.folder, spare=split.validation)
        probed.insert(2, "fold", split.fold)
        probed.insert(3, "seed", config.training.seed)
        write_table(fold.folder / PROBES, probed)
    if fold.hides:
        progress(1, 1, f"{fold.text}: what if a modality is missing?")
        held = names != "train"  # (n,)
        shown, about["subsets"] = _subsets(fold, bags, guard, table[held], rows[held])
        write_table(fold.folder / SUBSETS, shown)
    if about:
        write_json(fold.folder / CALIBRATION, about)
    # The fit has written what it fitted; what came after it is added.
    write_json(fold.folder / FITS, guard.record() | {"notes": [*bags.labels.notes, *notes]})
    write_table(fold.folder / PREDICTIONS, table)
    (fold.folder / ERROR).unlink(missing_ok=True)
    if fold.permutation:  # what a null leaves behind is its predictions
        (fold.folder / "model.safetensors").unlink()
        (fold.folder / "operators.npz").unlink(missing_ok=True)


def _temperature(
    guard: Guard, table: pd.DataFrame, rows: NDArray[np.int64], classes: Sequence[str], what: str
) -> tuple[float, int]:
    """Fit the temperature of whole-trial answers on the validation trials; return it and how many trials."""
    from milmer.evaluation.calibration import temperatures

    at = np.full(guard.n_rows, -1, dtype=np.int64)  # (n_rows,)
    at[rows] = np.arange(len(rows))
    labelled = guard.split.validation
    labelled = labelled[table["y_true"].to_numpy()[at[labelled]] >= 0]  # (n,)

    def fitter(seen: NDArray[np.int64]) -> float:
        return next(iter(temperatures(table.iloc[at[seen]], classes).values()), 1.0)

    found = float(guard.fit("calibration", fitter, labelled, what=what)) if len(labelled) else 1.0
    trials = table.iloc[at[labelled]][["study", "subject", "session", "trial"]].drop_duplicates()
    return found, len(trials)


def _subsets(
    fold: Fold, bags: Bags, guard: Guard, table: pd.DataFrame, rows: NDArray[np.int64]
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Answer with every subset of the modalities; return subsets.parquet's rows and each subset's temperature.

    `table` holds the predictions of `rows`: those of the validation, which the temperatures are fitted on, and the
    tested. A model that is shown less should be less sure, so a subset's temperature is its own.
    """
    from milmer.training.present import predict_subsets

    config, classes = fold.config, bags.labels.classes
    every, batch = subsets(config.data.modalities), 2 * config.training.batch
    answers = predict_subsets(fold.folder, bags, rows, every, device=config.training.device, batch=batch)
    tested = (table["part"] != "validation").to_numpy()  # (n,)
    found = {}
    for shown in answers:
        name = subset_name(shown.present)
        own = table.assign(**{f"prob_{c}": shown.prob[:, i] for i, c in enumerate(classes)})
        found[name], _ = _temperature(guard, own, rows, classes, f"temperature of answers by {name}")
    kept = [s._replace(prob=s.prob[tested], evidence=s.evidence[tested]) for s in answers]
    told = subset_rows(table[tested], classes, kept)
    return told.assign(temperature=told[PRESENT].map(found)), found


def fold_notes(fold: Fold) -> list[str]:
    """Say what a reader must know of a finished fold: of its split, its labels and its attention."""
    notes = list(fold.split.notes)
    notes += json.loads((fold.folder / FITS).read_text(encoding="utf-8"))["notes"]
    return notes + attention_notes(fold.config, fold.folder)


def attention_notes(config: Config, folder: Path) -> list[str]:
    """Say where a fit's attention has collapsed, by its history."""
    from milmer.models.selection import SELECTIONS
    from milmer.training.watch import collapse_notes

    history = folder / "history.csv"
    if not learns_weights(config.model) or not history.exists():
        return []
    table = pd.read_csv(history)
    if "attention_entropy" not in table:
        return []
    table = table[table["attention_entropy"].notna()]  # of several members, the one that has frames to weigh
    if not len(table):
        return []
    best = {str(k): v for k, v in table.sort_values("val_loss", kind="stable").iloc[0].items()}
    selection = SELECTIONS[config.model.selection.method]
    return collapse_notes(best, looks_at_positions=selection.looks_at_positions)


def _prediction_rows(
    fold: Fold, bags: Bags, rows: NDArray[np.int64], prob: NDArray[np.float32], weights: NDArray[np.float32]
) -> pd.DataFrame:
    """Return predictions with everything a figure needs: identity, label and its rule, probabilities, frame weights."""
    table = bags.table.iloc[rows].reset_index(drop=True)
    ratings = [c for c in table.columns if c.startswith("rating_")]
    labels = bags.labels
    columns: dict[str, Any] = {
        "protocol": fold.config.evaluation.protocol,
        "budget": str(fold.budget),
        "seed": fold.config.training.seed,
    }
    columns |= {n: table[n] for n in (*IDENTITY, "store_key", "trial_row", "window", "start", "stop")}
    columns |= {n: table[n] for n in [*ratings, "label"]}
    columns |= {"label_rule": labels.rule}
    columns |= {f"threshold_{name}": values[rows] for name, values in labels.thresholds.items()}
    columns |= {"y_true": labels.y[rows]}
    columns |= {f"prob_{c}": prob[:, i] for i, c in enumerate(labels.classes)}
    columns |= {"y_pred": prob.argmax(axis=1)}
    columns |= {"frame_weights": list(weights.reshape(len(rows), -1))}
    columns |= {"face_rows": list(bags.face_rows[rows].reshape(len(rows), -1))}
    return pd.DataFrame(columns, index=table.index)
