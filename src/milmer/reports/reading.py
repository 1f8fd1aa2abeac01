"""What a report is made from: a run folder and, where it is still there, the store that the run names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milmer.config import Config, load_config
from milmer.errors import UserError
from milmer.store import Store


@dataclass(frozen=True)
class Run:
    """A run folder, read.

    Parameters
    ----------
    record : dict
        ``run.json``.
    predictions : DataFrame
        ``predictions.parquet``: every part of every fold.
    metrics : list of dict
        ``metrics.json``; empty where there is none.
    histories : dict of int to DataFrame
        Learning curve of each fold that has one.
    store : Store or None
        The store the run was made from.
    store_fault : str
        Why there is no `store`, in one sentence.
    probes : list of dict
        ``probes.json``; empty where there is none.
    """

    path: Path
    config: Config
    record: Mapping[str, Any]
    predictions: pd.DataFrame
    metrics: Sequence[Mapping[str, Any]]
    histories: Mapping[int, pd.DataFrame]
    classes: tuple[str, ...]
    store: Store | None
    store_fault: str = ""
    probes: Sequence[Mapping[str, Any]] = ()

    @cached_property
    def part(self) -> str:
        """The part that figures are of: ``test``, or ``validation`` for a run without a test part."""
        return "test" if (self.predictions["part"] == "test").any() else "validation"

    @property
    def protocol(self) -> str:
        """Name of the protocol."""
        return str(self.record.get("protocol") or self.config.evaluation.protocol)

    @property
    def leaky(self) -> bool:
        """Whether windows of one trial may be on both sides."""
        return self.protocol == "window"

    @property
    def levels(self) -> tuple[str, ...]:
        """Levels that differ: a bag that is a whole trial leaves nothing to average."""
        return ("trial",) if self.config.data.windows_per_bag == "trial" else ("window", "trial")

    @property
    def row_word(self) -> str:
        """What a row of the predictions is: ``window``, ``trial``, or ``bag`` of a few windows."""
        w = self.config.data.windows_per_bag
        return "trial" if w == "trial" else "window" if w == 1 else "bag"

    @property
    def rows_word(self) -> str:
        """That, of several."""
        return f"{self.row_word}s"

    @cached_property
    def scored(self) -> pd.DataFrame:
        """Labelled rows of `part`, with a probability for every class."""
        rows = self.predictions
        return rows[(rows["part"] == self.part) & (rows["y_true"] >= 0)].reset_index(drop=True)

    def probabilities(self, rows: pd.DataFrame) -> NDArray[np.float64]:
        """Class probabilities of `rows`, shape (n_rows, n_classes)."""
        return rows[[f"prob_{c}" for c in self.classes]].to_numpy(dtype=np.float64)  # (n, classes)

    def metric(self, name: str, level: str, subject: str | None = None) -> Mapping[str, Any] | None:
        """Return the figure `name` at `level` of `part`, over all subjects or of one; None where it is not there."""
        for row in self.metrics:
            place = (row.get("name"), row.get("level"), row.get("part"), row.get("subject"))
            if place == (name, level, self.part, subject) and row.get("value") is not None:
                return row
        return None

    def probe(self, name: str, probe: str, level: str) -> Mapping[str, Any] | None:
        """Return the figure `name` of a probe, or of a difference of two, at `level`; None where it is not there."""
        for row in self.probes:
            if (row.get("name"), row.get("probe"), row.get("level")) == (name, probe, level):
                return row if row.get("value") is not None else None
        return None


def read_run(path: Path, store: Path | None = None) -> Run:
    """Read a run folder.

    Parameters
    ----------
    path : Path
        What `milmer train` or `milmer evaluate` wrote.
    store : Path, optional
        Where the store is now, if it was moved.

    Raises
    ------
    UserError
        If `path` holds no finished run, or `store` is named and is not the run's.
    """
    path = Path(path)
    record = _json(path / "run.json", path)
    if not (path / "predictions.parquet").exists():
        raise UserError(
            f"{path}: found no predictions.parquet, expected a finished run; run the same command with --resume"
        )
    try:
        predictions = pd.read_parquet(path / "predictions.parquet")
    except (OSError, ValueError) as error:
        raise UserError(f"{path / 'predictions.parquet'}: not readable ({error}); run again with --resume") from error
    needed = ("part", "fold", "subject", "trial", "y_true", "y_pred", "start", "stop")
    missing = [c for c in needed if c not in predictions.columns]
    if missing or not len(predictions):
        what = f"no column {', '.join(missing)}" if missing else "no row"
        raise UserError(f"{path / 'predictions.parquet'}: found {what}, expected predictions of windows; run again")
    found = [c.removeprefix("prob_") for c in predictions.columns if c.startswith("prob_")]
    classes = tuple(str(c) for c in record.get("classes") or found)
    if not classes or set(classes) - set(found):
        raise UserError(
            f"{path / 'predictions.parquet'}: found probabilities of {', '.join(found) or 'no class'}, expected those "
            f"of {', '.join(classes) or 'some'}; run again"
        )
    metrics = json.loads((path / "metrics.json").read_text("utf-8")) if (path / "metrics.json").exists() else []
    probes = json.loads((path / "probes.json").read_text("utf-8")) if (path / "probes.json").exists() else []
    opened, fault = _open_store(record, store)
    return Run(
        path=path,
        config=load_config(file=path / "config.yaml"),
        record=record,
        predictions=predictions,
        metrics=metrics,
        histories=_histories(path),
        classes=classes,
        store=opened,
        store_fault=fault,
        probes=probes,
    )


def started(run: Run) -> str:
    """Day on which the run was begun, by its log; empty where there is none."""
    log = run.path / "log.txt"
    if log.exists():
        with log.open(encoding="utf-8", errors="replace") as lines:
            match = re.match(r"\d{4}-\d\d-\d\d", lines.readline())
        if match:
            return match.group()
    return ""


def _json(file: Path, path: Path) -> dict[str, Any]:
    if not file.exists():
        raise UserError(f"{path}: found no {file.name}, expected a run; 'milmer evaluate' and 'milmer train' write one")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not readable as JSON ({error}); run again with --resume") from error
    if not isinstance(found, dict):
        raise UserError(f"{file}: found {type(found).__name__}, expected an object; run again with --resume")
    return found


def _histories(path: Path) -> dict[int, pd.DataFrame]:
    found = {}
    for file in path.glob("folds/*/history.csv"):
        if file.parent.name.isdigit():
            try:
                table = pd.read_csv(file)
            except (OSError, ValueError):
                continue  # a curve that cannot be read is not worth the report
            columns = set(table.columns)
            if len(table) and {"train_loss", "val_loss"} <= columns and columns & {"epoch", "C"}:
                found[int(file.parent.name)] = table
    return dict(sorted(found.items()))


def _open_store(record: Mapping[str, Any], named: Path | None) -> tuple[Store | None, str]:
    """Open the store, or say why it is not used. A store that was asked for by name must be the right one."""
    place = Path(named or record.get("store") or "")
    left_out = "frames, EEG maps and what preparation removed are left out"
    if named is None and not (record.get("store") and (place / "study.json").exists()):
        return (
            None,
            f"The store this run was made from is not there any more ({place.name or 'not named'}): {left_out}.",
        )
    try:
        store = Store(place)
    except (UserError, OSError) as error:
        if named is not None:
            raise
        return None, f"The store could not be opened ({error}): {left_out}."
    if record.get("fingerprint") not in (None, store.fingerprint):
        if named is not None:
            raise UserError(
                f"{place}: found a store with fingerprint {store.fingerprint}, expected {record['fingerprint']}, the "
                "one this run was made from; name that one or leave --store out"
            )
        return None, f"The store was prepared anew after this run (its fingerprint differs): {left_out}."
    return store, ""
