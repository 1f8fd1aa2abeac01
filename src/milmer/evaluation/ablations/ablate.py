"""`milmer ablate`: every cell of an ablation is an evaluation; what is there already is found, not run again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milmer.config import Config, load_config
from milmer.errors import DamagedStore, UserError
from milmer.evaluation.ablations.plans import choose, plan
from milmer.evaluation.ablations.results import RECORD, Ablation, read_one, read_record, write_predictions, write_rows
from milmer.evaluation.ablations.runs import VERSION, CellRun, cell_run, lacking
from milmer.evaluation.evaluate import FailedFits, evaluate
from milmer.evaluation.protocols import display_name
from milmer.evaluation.run import check_backbone
from milmer.progress import Progress, silent
from milmer.store import Store, write_json


def ablate(
    store: Store,
    config: Config,
    kind: str,
    out: Path,
    *,
    seeds: Sequence[int] = (),
    cells: Sequence[str] = (),
    jobs: int = 1,
    progress: Progress = silent,
) -> list[Ablation]:
    """Run the cells of an ablation that are not there yet; write predictions and figures of all that are.

    Parameters
    ----------
    store : Store
        What to learn from.
    config : Config
        What every cell starts from; its ``evaluation`` names protocol and folds.
    kind : {'balancing', 'fusion', 'components', 'selection', 'modalities'}
        Which ablation (the paper's Tables 4, 5 and 6, the selection methods, and what a missing modality costs).
    out : Path
        A new folder, or one of an ablation of the same store and protocol: finished cells are taken from it, an
        interrupted one goes on where it was. It may hold several kinds, which share cells of equal configuration.
    seeds : sequence of int
        Training seeds; without any the configuration's own. The split is the same for all.
    cells : sequence of str
        Run only these; without any all.
    jobs : int
        Folds at the same time.
    progress : Progress
        Told the cell, how many of how many, and the fold.

    Returns
    -------
    list of Ablation
        The one asked for first, then the others that the folder holds.

    Raises
    ------
    UserError
        If there is no such ablation or cell, `out` holds something else, or no cell could be run.

    Notes
    -----
    A cell whose evaluation ends in a `UserError` is recorded as not run with the reason, and tried again by the next
    call; the others go on.
    """
    if config.evaluation.seeds > 1:
        raise UserError(
            f"evaluation.seeds {config.evaluation.seeds}: an ablation names its seeds, such as --seeds "
            f"{','.join(str(config.training.seed + i) for i in range(config.evaluation.seeds))}; leave "
            "evaluation.seeds out"
        )
    chosen = choose(plan(kind, config), cells)
    seeds = tuple(dict.fromkeys(seeds)) or (config.training.seed,)
    works = [cell_run(store.fingerprint, config, cell, seed, out) for cell in chosen for seed in seeds]
    faults = {c.name: lacking(c, c.apply(config, seeds[0]), store) for c in chosen}
    record = _open(store, config, kind, out)
    for work in works:
        if (work.folder / "run.json").exists():
            check_backbone(work.config, work.folder)
    mine = {"config": config.model_dump(mode="json"), "seeds": list(seeds), "cells": [c.name for c in chosen]}
    record["state"] = "running"
    record["ablations"][kind] = mine | {"faults": {n: f for n, f in faults.items() if f}}
    begun = _once([w for w in works if not faults[w.cell.name]])
    record["runs"] |= {w.key: w.folder.relative_to(out).as_posix() for w in begun}
    write_json(out / RECORD, record)
    _run(store, works, faults, record, kind, out, jobs, progress)
    progress(1, 1, "figures")
    found = [read_one(record, name, out) for name in (kind, *(k for k in record["ablations"] if k != kind))]
    record["state"] = "complete" if all(len(a.done) == len(a.rows) for a in found) else "complete, some not run"
    write_json(out / RECORD, record)
    if not found[0].done:
        raise UserError(f"no cell could be run; {chosen[0].name}: {found[0].rows[0]['reason']}")
    write_predictions(store.fingerprint, found, out)
    write_rows(found, out)
    return found


def _open(store: Store, config: Config, kind: str, out: Path) -> dict[str, Any]:
    """Return the record of a folder, begun anew where it is empty."""
    file = out / RECORD
    protocol = config.evaluation.protocol
    if not file.exists():
        if out.is_file() or (out.exists() and any(out.iterdir())):
            raise UserError(f"{out}: found files that are no ablation; give an empty or new folder as --out")
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{out}: cannot be written ({error.strerror}); give another --out") from error
        return {
            "kind": kind,
            "version": VERSION,
            "protocol": protocol,
            "protocol_name": display_name(protocol),
            "store": str(store.path.resolve()),
            "study": store.name,
            "fingerprint": store.fingerprint,
            "ablations": {},
            "runs": {},
        }
    record = read_record(out)
    if record["fingerprint"] != store.fingerprint:
        raise UserError(f"{out}: was begun on another store ({record['store']}); give another --out")
    if record["protocol"] != protocol:
        raise UserError(
            f"{out}: was begun under the protocol {record['protocol_name']}, asked for {display_name(protocol)}; "
            "give another --out"
        )
    return record | {"kind": kind, "store": str(store.path.resolve())}


def _once(works: Sequence[CellRun]) -> list[CellRun]:
    """Return the first run of each hash."""
    found: dict[str, CellRun] = {}
    for work in works:
        found.setdefault(work.key, work)
    return list(found.values())


def _run(
    store: Store,
    works: Sequence[CellRun],
    faults: dict[str, str],
    record: dict[str, Any],
    kind: str,
    out: Path,
    jobs: int,
    progress: Progress,
) -> None:
    """Run what is not there, each configuration once; `faults` gets the reasons of cells that could not."""
    todo = _once([w for w in works if not faults[w.cell.name] and not w.complete])
    names = list(dict.fromkeys(w.cell.name for w in works))
    try:
        for number, work in enumerate(todo):
            text = f"{work.cell.name} ({names.index(work.cell.name) + 1} of {len(names)}), seed {work.seed}"
            tell = _Share(progress, number, len(todo), text)
            if faults[work.cell.name]:  # another seed of it could not be run
                continue
            begun = (work.folder / "run.json").exists()
            if not begun and work.folder.exists():  # killed before its first record was written
                (work.folder / "config.yaml").unlink(missing_ok=True)
            # A run is resumed with its own words: of what changes no prediction they may differ.
            config = load_config(file=work.folder / "config.yaml") if begun else work.config
            tell(0, 1, "")
            try:
                evaluate(store, config, work.folder, resume=begun, jobs=jobs, progress=tell)
            except DamagedStore:
                raise
            except UserError as error:
                same = {w.cell.name for w in works if w.key == work.key}
                why = f"{error.reason} (traceback: {error.file})" if isinstance(error, FailedFits) else str(error)
                faults.update(dict.fromkeys(same, " ".join(why.split())))
            record["ablations"][kind]["faults"] = {n: f for n, f in faults.items() if f}
            write_json(out / RECORD, record)
    except BaseException:
        record["state"] = "interrupted"
        write_json(out / RECORD, record)
        raise


@dataclass(frozen=True)
class _Share:
    """Progress of one run as its share of all that are to be run, in thousandths of a run."""

    progress: Progress
    number: int
    count: int
    text: str

    def __call__(self, done: int, total: int, text: str) -> None:
        here = 1000 * self.number + round(1000 * done / max(total, 1))
        self.progress(here, 1000 * self.count, f"{self.text}{': ' if text else ''}{text}")
