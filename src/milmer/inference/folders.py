"""Which models are meant: a folder, a run and its folds, a name on the hub; and what they say together."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milmer.errors import UserError


def whole_answer(windows: Sequence[NDArray[np.float32]], temperatures: Sequence[float]) -> NDArray[np.float64]:
    """Return the probabilities of a whole trial: each fold's mean over windows at its temperature, then the mean.

    Parameters
    ----------
    windows : sequence of ndarray, shape (n, classes)
        A fold's probabilities of each window.
    temperatures : sequence of float
        One a fold, fitted on answers for whole trials; a window's own probabilities are left as they are.

    Returns
    -------
    ndarray, shape (classes,)
    """
    from milmer.evaluation.calibration import tempered

    each = [tempered(p.mean(axis=0, keepdims=True), t) for p, t in zip(windows, temperatures, strict=True)]  # (1, k)
    return np.asarray(np.concatenate(each).mean(axis=0))  # (classes,)


def fold_temperature(folder: Path, present: Sequence[str] = ()) -> float:
    """Return the temperature in a model's folder (calibration.json); 1 where it has none.

    Of answers by the modalities `present` alone where the run has fitted one (``evaluation.subsets``).

    Raises
    ------
    UserError
        If the file holds none that can be used.
    """
    file = folder / "calibration.json"
    if not file.exists():
        return 1.0
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}); delete it to go without a temperature") from error
    return told_temperature(told, present, file)


def told_temperature(told: Any, present: Sequence[str], file: Path) -> float:
    """Return the temperature in what a calibration.json says, `told`, read from `file`.

    Raises
    ------
    UserError
        If it holds none that can be used.
    """
    try:
        found = float(told.get("subsets", {}).get("+".join(present), told["temperature"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); delete it to go without a temperature") from error
    if not 0 < found < np.inf:
        raise UserError(f"{file}: found the temperature {found:g}, expected more than 0; delete it to go without")
    return found


def model_folders(model: Path, fold: int | None = None) -> list[Path]:
    """Return the folders with weights that `model` means: itself, or the folds of a run.

    Raises
    ------
    UserError
        If there are none, or not the one asked for; or none was asked for and the folds are of different people.
    """
    if (model / "model.safetensors").exists():
        return [model]
    folders = sorted((p.parent for p in model.glob("folds/*/model.safetensors")), key=lambda p: int(p.name))
    if not folders and (model / "ablation.json").exists():
        runs = sorted(p.parents[2] for p in model.glob("cells/*/*/folds/*/model.safetensors"))
        such = f", such as {runs[0]}" if runs else ""
        raise UserError(f"{model}: an ablation holds a run for each of its cells; give one of them{such}")
    if not folders:
        raise UserError(f"{model}: found no model.safetensors and no folds/, expected a model or a run with weights")
    if fold is None:
        _refuse_strangers(model, folders)
        return folders
    chosen = [f for f in folders if f.name == str(fold)]
    if not chosen:
        raise UserError(f"{model}: no fold {fold}; this run has folds {', '.join(f.name for f in folders)}")
    return chosen


def _refuse_strangers(run: Path, folders: Sequence[Path]) -> None:
    """Refuse the mean of models that were each fitted on one person, and not all on the same."""
    try:
        if json.loads((run / "run.json").read_text(encoding="utf-8")).get("scope") != "subject":
            return
        table = pd.read_parquet(run / "splits.parquet").query("part == 'train'")
    except (OSError, ValueError, AttributeError):  # a model's folder says nothing of a run
        return
    by = [c for c in ("study", "subject") if c in table]
    people = {str(k): set(map(tuple, t[by].to_numpy(str).tolist())) for k, t in table.groupby("fold")}
    if len({p for f in folders for p in people.get(f.name, ())}) < 2:
        return
    some = [f"{f.name} ({', '.join(sorted({p[-1] for p in people[f.name]}))})" for f in folders if f.name in people]
    shown = ", ".join(some[:3]) + (", ..." if len(some) > 3 else "")
    raise UserError(
        f"{run}: its folds are models of different people (scope subject), so their mean would be nobody's; name one "
        f"with --fold: {shown}"
    )


def find(model: Path | str) -> Path:
    """Where `model` is a folder, nothing is imported and nobody is asked."""
    if Path(model).is_dir():
        return Path(model)
    from milmer.models.hub import find_model

    return find_model(model)


def unfinished(run: Path, found: int) -> list[str]:
    """Say where a run has fewer folds than it was to have."""
    try:
        if json.loads((run / "run.json").read_text(encoding="utf-8")).get("complete", True):
            return []
        log = run / "log.txt"
        told = re.search(r"\bfold \d+ of (\d+)", log.read_text(encoding="utf-8")) if log.exists() else None
    except (OSError, ValueError, AttributeError):  # a model's folder says nothing of a run
        return []
    folds = f"{found} of {told[1]} folds are there" if told else "not all of its folds may be there"
    return [f"{run}: this run is not finished, {folds}; the command that made it goes on with --resume"]
