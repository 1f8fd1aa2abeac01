"""What a report is made from: a run folder, and the store only where the run kept no samples of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from milmer.config import Config, load_config
from milmer.errors import UserError
from milmer.evaluation.protocols import LEAKY
from milmer.evaluation.samples import Samples, gather, read_samples
from milmer.evaluation.samples_frames import Frame, picture
from milmer.store import Store
from milmer.store_join import open_stores

LEFT_OUT = "frames, EEG maps and what preparation removed are left out"
RENAMED = {"bootstraps": "resamples"}  # keys of the section evaluation that had another name in older runs


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
        Learning curve of each fold that has one (of the first seed).
    samples : Samples or None
        What the page shows of the store: from the run's own ``samples/``, else from the store.
    store_fault : str
        Why there are no `samples`, and what to do, in one sentence.
    store_path : str
        Where the store is, or was.
    probes : list of dict
        ``probes.json``; empty where there is none.
    audit : dict
        ``audit.json``; empty where the run was not audited.
    """

    path: Path
    config: Config
    record: Mapping[str, Any]
    predictions: pd.DataFrame
    metrics: Sequence[Mapping[str, Any]]
    histories: Mapping[int, pd.DataFrame]
    classes: tuple[str, ...]
    samples: Samples | None = None
    store_fault: str = ""
    store_path: str = ""
    probes: Sequence[Mapping[str, Any]] = ()
    audit: Mapping[str, Any] = field(default_factory=dict)

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
        return self.protocol in LEAKY

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

    @cached_property
    def target(self) -> str:
        """The main target: what the model was fitted to."""
        return str(next((r["target"] for r in self.metrics if r.get("target")), self.config.data.target))

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of training that the predictions are of."""
        return tuple(sorted({int(s) for s in self.predictions["seed"]})) if "seed" in self.predictions else (0,)

    @cached_property
    def fold_names(self) -> Mapping[int, str]:
        """What each fold is called by its splits.parquet: a subject, a cell of the grid; only those with a name."""
        file = self.path / "splits.parquet"
        if not file.exists():
            return {}
        try:
            table = pd.read_parquet(file, columns=["fold", "name"]).drop_duplicates()
        except (OSError, ValueError):
            return {}  # a name is not worth the report
        return {int(f): str(n) for f, n in zip(table["fold"], table["name"], strict=True) if n}

    @cached_property
    def once(self) -> pd.DataFrame:
        """`scored` of the first seed only: each tested row once, to count and to show."""
        rows = self.scored
        return rows if len(self.seeds) < 2 else rows[rows["seed"] == self.seeds[0]].reset_index(drop=True)

    def metric(
        self,
        name: str,
        level: str,
        subject: str | None = None,
        *,
        target: str | None = None,
        calibrated: bool = False,
        part: str | None = None,
    ) -> Mapping[str, Any] | None:
        """Return the figure `name` at `level`, over all subjects or of one; None where it is not there or undefined.

        Parameters
        ----------
        target : str, optional
            Of what: the main target unless another is named. Rows of older runs name none and are of the main one.
        calibrated : bool
            Of the probabilities after calibration.
        part : str, optional
            `part` of the run unless another is named.
        """
        wanted = (name, level, part or self.part, subject, target or self.target, calibrated)
        for row in self.metrics:
            place = (row.get("name"), row.get("level"), row.get("part"), row.get("subject"))
            of = (row.get("target") or self.target, bool(row.get("calibrated")))
            if (*place, *of) == wanted and row.get("value") is not None:
                return row
        return None

    def probe(self, name: str, probe: str, level: str) -> Mapping[str, Any] | None:
        """Return the figure `name` of a probe, or of a difference of two, at `level`; None where it is not there."""
        for row in self.probes:
            if (row.get("name"), row.get("probe"), row.get("level")) == (name, probe, level):
                return row if row.get("value") is not None else None
        return None


def read_run(path: Path, store: Path | None = None, *, show_faces: bool = False, pictures: bool = True) -> Run:
    """Read a run folder.

    Parameters
    ----------
    path : Path
        What `milmer train` or `milmer evaluate` wrote.
    store : Path, optional
        A store to read samples from in place of the run's own ``samples/``.
    show_faces : bool
        Have faces as they are.
    pictures : bool
        Look for samples at all; a run that only its figures are taken of needs none.

    Raises
    ------
    UserError
        If `path` holds no finished run, `store` is named and is not the run's, or faces are asked for and there are
        none to show.
    """
    path = Path(path)
    record = _json(path / "run.json", path)
    if not (path / "predictions.parquet").exists():
        failed = "; ".join(f"{f.get('what')}: {f.get('reason')}" for f in record.get("failed") or [])
        raise UserError(
            f"{path}: found no predictions.parquet, expected a finished run"
            f"{f' ({failed})' if failed else ''}; run the same command with --resume"
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
    run = Run(
        path=path,
        config=_config(path / "config.yaml"),
        record=record,
        predictions=predictions,
        metrics=metrics,
        histories=_histories(path),
        classes=classes,
        store_path=str(store or record.get("store") or ""),
        probes=probes,
        audit=_json(path / "audit.json", path) if (path / "audit.json").exists() else {},
    )
    return _with_samples(run, store, show_faces) if pictures else run


def _with_samples(run: Run, named: Path | None, show_faces: bool) -> Run:
    """Add what the page shows of the store: from the run itself where it can, else from the store."""
    own, fault = None, ""
    if named is None:
        try:
            own = read_samples(run.path)
        except UserError as error:
            fault = str(error)
    asked = show_faces and "face" in run.config.data.modalities
    if own is not None and (own.shows_faces or not asked):
        return replace(run, samples=own if asked or not own.shows_faces else _blurred(own))
    store, why = _open_store(run.record, named)
    if store is not None:
        found = gather(store, run.config, run.predictions, run.classes, show_faces=asked)
        return replace(run, samples=found, store_path=str(store.path))
    if asked:
        raise UserError(
            f"{run.path}: --show-faces needs the store of this run, or samples with faces; {why} Name the store with "
            "--store, or evaluate with --set evaluation.samples=faces"
        )
    return replace(run, store_fault=" ".join(filter(None, [fault, why])))


def _blurred(samples: Samples) -> Samples:
    """Return samples whose faces nobody can be known by."""
    frames = tuple(tuple(Frame(f.place, f.time, picture(f.jpeg, False)) for f in x) for x in samples.frames)
    return replace(samples, shows_faces=False, frames=frames)


def _config(file: Path) -> Config:
    """Read a run's configuration, also one written before a key was renamed."""
    try:
        return load_config(file=file)
    except UserError:
        try:
            values = yaml.safe_load(file.read_text("utf-8"))
            section = values["evaluation"]
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
            section = {}
        if not set(RENAMED) & set(section):
            raise
    pairs = {f"{name}.{k}": v for name, part in values.items() if isinstance(part, dict) for k, v in part.items()}
    pairs |= {f"evaluation.{RENAMED[k]}": pairs.pop(f"evaluation.{k}") for k in RENAMED if k in section}
    return load_config(str(values.get("preset") or "default"), overrides=pairs)


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
    if named is None and not (record.get("store") and (place / "study.json").exists()):
        return (
            None,
            f"This run has no samples of its store, and the store is not there any more ({place.name or 'not named'}): "
            f"{LEFT_OUT}. If it has moved, “milmer report RUN --store STORE” brings them back.",
        )
    try:
        store = open_stores([place, *([Path(record["test_store"])] if record.get("test_store") else [])])
    except (UserError, OSError) as error:
        if named is not None:
            raise
        return None, f"The store could not be opened ({error}): {LEFT_OUT}."
    if record.get("fingerprint") not in (None, store.fingerprint):
        if named is not None:
            raise UserError(
                f"{place}: found a store with fingerprint {store.fingerprint}, expected {record['fingerprint']}, the "
                "one this run was made from; name that one or leave --store out"
            )
        return None, f"The store was prepared anew after this run (its fingerprint differs): {LEFT_OUT}."
    return store, ""
