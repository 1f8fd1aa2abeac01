"""What came out of an ablation: read from its folder, and written as tables."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from milmer.config import Config, validate
from milmer.errors import UserError
from milmer.evaluation.ablations.plans import PAPER_COLUMN, Cell, best_known, plan
from milmer.evaluation.ablations.runs import CellRun, cell_key, cell_run, notes_of
from milmer.evaluation.ablations.table import Row, score
from milmer.evaluation.protocols import display_name
from milmer.evaluation.subsets import EVIDENCE
from milmer.store import write_table

RECORD = "ablation.json"
KEYS = ("kind", "protocol", "protocol_name", "store", "study", "fingerprint", "ablations", "runs")


@dataclass
class Ablation:
    """One ablation of a folder: what it compares, and what came out.

    Parameters
    ----------
    kind, protocol, study : str
        Which ablation, under which protocol, of which study.
    rows : list of dict
        One a cell: ``cell``, ``paper`` (accuracy in %, leaky), ``state`` (done, or not run), ``reason``, ``notes``,
        ``reference`` (name of the cell compared with), ``shared_with``, ``seeds``, ``parameters``, ``seconds`` (all
        seeds), and where it was run the figures of `milmer.evaluation.ablations.table.score`.
    """

    kind: str
    protocol: str
    study: str
    seeds: tuple[int, ...]
    reference: str
    config: Config
    rows: list[Row] = field(default_factory=list)

    @property
    def done(self) -> list[Row]:
        """Rows of cells that were run."""
        return [r for r in self.rows if r["state"] == "done"]


def read_ablations(out: Path) -> list[Ablation]:
    """Read the ablations of a folder and find their figures anew.

    Raises
    ------
    UserError
        If `out` holds none, or its record cannot be read.
    """
    record = read_record(Path(out))
    kinds = (record["kind"], *(k for k in record["ablations"] if k != record["kind"]))
    return [read_one(record, kind, Path(out)) for kind in kinds]


def read_record(out: Path) -> dict[str, Any]:
    """Read what an ablation's folder says of itself.

    Raises
    ------
    UserError
        If it says nothing, or not what 'milmer ablate' writes.
    """
    file = out / RECORD
    if not file.is_file():
        raise UserError(f"{out}: found no {RECORD}, expected a folder of 'milmer ablate'")
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        lacking = [key for key in KEYS if key not in record]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); delete it, or give another folder") from error
    if lacking:
        raise UserError(f"{file}: lacks {', '.join(lacking)}, so 'milmer ablate' did not write it; give another folder")
    return record


def read_one(record: Mapping[str, Any], kind: str, out: Path) -> Ablation:
    """Return an ablation of the record with the figures of every cell that is there for all its seeds.

    Cells that were not asked for the last time are shown too where they are there.
    """
    saved = record["ablations"][kind]
    config = validate(saved["config"], str(out / RECORD))
    seeds, faults = tuple(saved["seeds"]), saved.get("faults", {})
    cells = plan(kind, config)
    runs = {c.name: [cell_run(record["fingerprint"], config, c, s, out) for s in seeds] for c in cells}
    ready = [c.name for c in cells if all(w.complete for w in runs[c.name]) and c.name not in faults]
    own = {cell_key(config.model_copy(update=_seeded(config, s)), record["fingerprint"]) for s in seeds}
    mine = [c.name for c in cells if {w.key for w in runs[c.name]} <= own] if kind != "modalities" else []
    wanted = [*mine, best_known(kind, cells), *ready]
    reference = next((n for n in wanted if n in ready), "")
    found = Ablation(kind, record["protocol"], record["study"], seeds, reference, config)
    tables = {n: {w.seed: w.predictions() for w in runs[n]} for n in ready}
    about = {n: [json.loads((w.folder / "run.json").read_text(encoding="utf-8")) for w in runs[n]] for n in ready}
    figures: dict[str, Row] = {}
    if ready:
        figures = score(tables, {n: a[0]["classes"] for n, a in about.items()}, config.evaluation, reference)
    for cell in cells:
        name = cell.name
        if name not in ready and name not in saved["cells"]:
            continue
        shared = [c.name for c in cells if c is not cell and c.name in ready and _same(runs[c.name], runs[name])]
        row: Row = {"cell": name, "paper": cell.paper, "state": "done" if name in ready else "not run"}
        row["reason"] = "" if name in ready else faults.get(name, "not finished")
        row["notes"] = notes_of(runs[name][0].config) + _hidden(cell, config)
        row |= {"reference": reference, "shared_with": shared, "seeds": list(seeds), "overrides": dict(cell.overrides)}
        if name in ready:
            row["parameters"] = _parameters(runs[name][0].folder)
            row["seconds"] = round(sum(float(a.get("seconds", 0.0)) for a in about[name]), 1)
            row |= figures[name]
            row["notes"] += _unseen(tables[name][seeds[0]])
        found.rows.append(row)
    return found


def _seeded(config: Config, seed: int) -> dict[str, Any]:
    return {"training": config.training.model_copy(update={"seed": seed})}


def _same(a: Iterable[CellRun], b: Iterable[CellRun]) -> bool:
    return [w.answers for w in a] == [w.answers for w in b]


def _hidden(cell: Cell, config: Config) -> list[str]:
    """Say what a cell hides from the model that it shares with others."""
    gone = [name for name in config.data.modalities if name not in cell.present] if cell.present else []
    return [f"the model of all, {' and '.join(gone)} hidden"] if gone else []


def _unseen(predictions: pd.DataFrame) -> list[str]:
    """Say how many test windows hold nothing of what the model was shown."""
    if EVIDENCE not in predictions:
        return []
    tested = predictions[(predictions["part"] == "test") & (predictions["y_true"] >= 0)]
    if not (without := int((~tested[EVIDENCE].astype(bool)).sum())):
        return []
    return [f"{without} of {len(tested)} test windows hold nothing of what is shown, and are answered without evidence"]


def _parameters(folder: Path) -> int | None:
    """Count the numbers in a run's first weights, by the file's header alone; None where there is no such file."""
    file = next(iter(sorted(folder.glob("folds/*/model.safetensors"))), None)
    if file is None:
        return None
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return sum(int(np.prod(about["shape"])) for name, about in header.items() if name != "__metadata__")


def write_predictions(fingerprint: str, found: Sequence[Ablation], out: Path) -> None:
    """Write the held-out rows of every cell and seed; training rows stay with each cell's own run."""
    parts = []
    for ablation in found:
        done = {r["cell"] for r in ablation.done}
        for cell in plan(ablation.kind, ablation.config):
            for seed in ablation.seeds if cell.name in done else ():
                work = cell_run(fingerprint, ablation.config, cell, seed, out)
                table = work.predictions()
                table = table[table["part"] != "train"].drop(columns="seed", errors="ignore")
                table.insert(0, "ablation", ablation.kind)
                table.insert(1, "cell", cell.name)
                table.insert(2, "seed", seed)
                parts.append(table)
    write_table(out / "predictions.parquet", pd.concat(parts, ignore_index=True))


def write_rows(found: Sequence[Ablation], out: Path) -> None:
    """Write table.csv: a row a cell, every figure in a column of its own."""
    rows = []
    for ablation in found:
        for row in ablation.rows:
            plain = {k: v for k, v in row.items() if k not in ("paper", "overrides")}
            plain |= {"notes": "; ".join(row["notes"]), "shared_with": " ".join(row["shared_with"])}
            plain["seeds"] = " ".join(map(str, row["seeds"]))
            head = {"ablation": ablation.kind, "cell": row["cell"], "protocol": display_name(ablation.protocol)}
            rows.append(head | {PAPER_COLUMN: row["paper"]} | plain)
    part = out / ".table.csv"
    pd.DataFrame(rows).to_csv(part, index=False)
    part.replace(out / "table.csv")
