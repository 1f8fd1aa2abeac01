"""Runs of an ablation's cells: what names them, where they are, and what keeps a cell from being run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from milmer.config import Config, load_config
from milmer.errors import UserError
from milmer.evaluation.ablations.plans import Cell
from milmer.evaluation.subsets import PRESENT, SUBSETS, subset_name
from milmer.store import Store, content_hash
from milmer.windows import holds

if TYPE_CHECKING:  # importing pandas takes half a second, and only the annotations need it
    import pandas as pd

VERSION = 1  # goes up when a cell of the same configuration would come out otherwise
RANDOM = "frozen random weights"


@dataclass(frozen=True)
class CellRun:
    """One cell under one training seed.

    Parameters
    ----------
    key : str
        Hash of all that the predictions depend on; cells of the same key are one run.
    folder : Path
        Where that run is, or will be.
    """

    cell: Cell
    seed: int
    config: Config
    key: str
    folder: Path

    @property
    def complete(self) -> bool:
        """Whether the run has ended."""
        return is_complete(self.folder)

    @property
    def answers(self) -> tuple[str, tuple[str, ...]]:
        """What its predictions hang on: the run, and what the model was shown."""
        return self.key, self.cell.present

    def predictions(self) -> pd.DataFrame:
        """Read the predictions of its run; of the test part only where modalities are hidden."""
        import pandas as pd

        if not self.cell.present:
            return pd.read_parquet(self.folder / "predictions.parquet")
        shown = [(PRESENT, "==", subset_name(self.cell.present))]
        return pd.read_parquet(self.folder / SUBSETS, filters=shown).drop(columns=PRESENT)


def cell_key(config: Config, fingerprint: str) -> str:
    """Return the hash of what a run's predictions depend on: 16 hexadecimal digits.

    Left out is what changes no prediction: the preset's name, preparation (the store's fingerprint covers it), data
    loading processes, what is worked out from predictions, and how many queries there would be without balancing.
    """
    values = config.model_dump(mode="json")
    del values["preset"], values["preparation"], values["training"]["workers"]
    for name in ("permutations", "probes", "resamples", "confidence", "samples"):
        values["evaluation"].pop(name, None)
    if not values["evaluation"]["subsets"]:  # as in the hashes of before there were any
        del values["evaluation"]["subsets"]
    if values["model"]["balancing"]["method"] == "none":
        values["model"]["balancing"] = "none"
    return content_hash([VERSION, fingerprint, values])


def cell_run(fingerprint: str, config: Config, cell: Cell, seed: int, out: Path) -> CellRun:
    """Return the run of a cell and seed in the ablation's folder `out`, wherever in it that is.

    `fingerprint` is the store's.
    """
    made = cell.apply(config, seed)
    key = cell_key(made, fingerprint)
    new = out / "cells" / cell.name / f"seed-{seed}-{key[:8]}"
    return CellRun(cell, seed, made, key, _find(out, key, fingerprint) or new)


def _find(out: Path, key: str, fingerprint: str) -> Path | None:
    """Return the folder of this hash, whichever cell began it: a finished one if there is any."""
    found = [f for f in sorted(out.glob(f"cells/*/seed-*-{key[:8]}")) if _holds(f, key, fingerprint)]
    return next((f for f in found if is_complete(f)), found[0] if found else None)


def _holds(folder: Path, key: str, fingerprint: str) -> bool:
    """Whether a folder is a run of this hash; its own configuration says so, its name could be of another."""
    if not (folder / "run.json").exists():
        return False
    try:
        return cell_key(load_config(file=folder / "config.yaml"), fingerprint) == key
    except UserError:  # of a milmer with other options
        return False


def is_complete(folder: Path) -> bool:
    """Whether a run folder holds a run that has ended."""
    file = folder / "run.json"
    return file.exists() and bool(json.loads(file.read_text(encoding="utf-8")).get("complete"))


def lacking(cell: Cell, config: Config, store: Store) -> str:
    """Say why a cell would compare nothing with this data; nothing if it can be run."""
    for name in cell.needs:
        word = {"eeg": "EEG", "face": "faces"}.get(name, name)
        if name not in config.data.modalities:
            return f"needs {word}, which data.modalities leaves out"
        if not holds(store.trials, name).any():
            return f"needs {word}, and the store has none"
    if "face" in cell.needs and config.model.fusion.method == "bandpower-logistic":
        return "needs faces, and model.fusion.method bandpower-logistic looks at none"
    return ""


def notes_of(config: Config) -> list[str]:
    """Return what a reader must know of a cell's configuration."""
    frozen = config.model.trainable_stages == 0 and config.model.backbone.startswith("random:")
    return [RANDOM] if frozen and "face" in config.data.modalities else []
