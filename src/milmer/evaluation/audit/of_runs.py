"""Audit of evaluated runs: the very splits they used, under the protocol they claim."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from milmer.errors import UserError
from milmer.evaluation.audit.verdict import Setting, headline
from milmer.evaluation.protocols import Split
from milmer.evaluation.run import plain, read_record

if TYPE_CHECKING:
    import pandas as pd

    from milmer.evaluation.audit.run import Study
    from milmer.store import Store

Ints = NDArray[np.int64]


def audit_run(run: Path, store: Store, study: Study, setting: Setting, audit: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``audit.json`` of an evaluated run: its own split first, then what is known of the store.

    Parameters
    ----------
    run : Path
        Folder of ``milmer evaluate``.
    store : Store
        What it was evaluated on.
    study : Study
        The store's windows and features.
    setting : Setting
    audit : mapping
        The store's audit.

    Raises
    ------
    UserError
        If there is no such run, or it is of another store.
    """
    from milmer.evaluation.audit.run import Case, audit_study, case_of, judged

    record = check_run(run, store)
    protocol = str(record.get("protocol", "trial"))
    name = f"{record.get('protocol_name', protocol)}, as {run.resolve().name} was split"
    fixed = run_splits(run, study.rows)
    again = case_of(study, protocol, None)
    case = Case(protocol, again.splits if fixed is None else lambda y, seed: fixed, again.base)
    measured = audit_study(study, {name: case})
    entries = plain(judged(measured, setting, [name]))
    if fixed is None:
        entries[0]["notes"].append("the run's own splits do not match the windows audited: split anew by its protocol")
    others = [e for e in audit["protocols"] if e["protocol"] != protocol]
    verdict = entries[0]["verdict"]
    return dict(audit) | {
        "source": f"{run}, of {audit['source']}",
        "headline": headline([(protocol, verdict)], counted={protocol} if entries[0]["counted"] else set()),
        "protocols": entries + others,
    }


def check_run(run: Path, store: Store) -> dict[str, Any]:
    """Read a run's record, or say why it cannot be audited with this store."""
    if not (run / "run.json").exists():
        raise UserError(f"--run {run}: found no run.json, expected a folder of 'milmer evaluate'")
    record = read_record(run)
    if record["kind"] != "evaluate":
        raise UserError(f"--run {run}: is a run of 'milmer {record['kind']}', expected one of 'milmer evaluate'")
    if record["fingerprint"] != store.fingerprint:
        raise UserError(f"--run {run}: was made on another store ({record['store']}); give that store")
    return record


def run_splits(run: Path, rows: pd.DataFrame | Mapping[str, Any]) -> list[Split] | None:
    """Return a run's own splits over the audit's windows; None where its windows are others."""
    import pandas as pd

    from milmer.evaluation.split_files import read_splits

    if (run / "splits.parquet").exists():
        with contextlib.suppress(UserError):  # other windows than the audit's: the predictions say which they were
            return read_splits(run / "splits.parquet", rows)
    file = run / "predictions.parquet"
    if not file.exists():
        return None
    keys = ["study", "subject", "session", "trial", "window"]
    table = pd.read_parquet(file)
    if any(key not in table for key in (*keys, "fold", "part")) or "window" not in rows:
        return None
    mine = {key: i for i, key in enumerate(zip(*(np.asarray(rows[k]).astype(str).tolist() for k in keys), strict=True))}
    if "seed" in table:
        table = table[table["seed"] == table["seed"].min()]
    place = np.array(
        [mine.get(key, -1) for key in zip(*(table[k].astype(str).tolist() for k in keys), strict=True)], dtype=np.int64
    )  # (n_predictions,)
    fold, part = table["fold"].to_numpy(), table["part"].to_numpy().astype(str)
    tested = place[(part == "test") & (place >= 0)]
    if len(np.unique(tested)) < 0.9 * len(mine):
        return None
    return _splits(place, fold, part, len(mine))


def _splits(place: Ints, fold: NDArray[np.generic], part: NDArray[np.str_], count: int) -> list[Split]:
    """Parts of each fold; without rows of training, training is what is neither validated nor tested."""
    out = []
    for k, number in enumerate(np.unique(fold)):
        parts = {p: np.unique(place[(fold == number) & (part == p) & (place >= 0)]) for p in ("validation", "test")}
        train = np.unique(place[(fold == number) & (part == "train") & (place >= 0)])
        if not train.size:
            train = np.setdiff1d(np.arange(count), np.concatenate(list(parts.values())))
        out.append(Split(k, train, parts["validation"], parts["test"]))
    return out
