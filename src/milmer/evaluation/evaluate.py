"""`milmer train` and `milmer evaluate`: a store and a configuration become a run."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from milmer.config import Config
from milmer.errors import DamagedStore, UserError
from milmer.evaluation.chance import NEW_STIMULI
from milmer.evaluation.executor import Executor, LocalExecutor, Outcome
from milmer.evaluation.guard import Budget, check_budget, guard_ica
from milmer.evaluation.one_fit import ERROR, FITS, PREDICTIONS, PROBES, Fold, fit_fold, fold_notes, load_bags
from milmer.evaluation.plan_folds import check_options, check_permutations, first_splits, permuted_splits
from milmer.evaluation.probes import probe_figures
from milmer.evaluation.protocols import Split
from milmer.evaluation.run import Log, begin_run, check_run, check_split, peak_memory, plain, read_record
from milmer.evaluation.scoring import figures
from milmer.evaluation.subsets import SUBSETS
from milmer.progress import Progress, silent
from milmer.store import Store, write_json, write_table
from milmer.store_join import JoinedStore

if TYPE_CHECKING:
    from milmer.training.data import Bags


class FailedFits(UserError):
    """Some fits of a run failed; `reason` says why the first did, in one line, and `file` holds its traceback."""

    def __init__(self, line: str, reason: str, file: Path) -> None:
        super().__init__(line)
        self.reason, self.file = reason, file


def evaluate(
    store: Store,
    config: Config,
    out: Path,
    *,
    test_store: Store | None = None,
    splits: Path | None = None,
    resume: bool = False,
    jobs: int = 1,
    executor: Executor | None = None,
    progress: Progress = silent,
    command: str = "",
) -> list[dict[str, Any]]:
    """Fit and test every fold of a protocol, for every seed; write the run folder.

    Parameters
    ----------
    store : Store
        What to learn from, and, but for cross-study, to test on.
    config : Config
        Everything; its ``evaluation`` names protocol, scope, budget and seeds.
    out : Path
        The run's folder.
    test_store : Store, optional
        Another study, to test on under the protocol ``cross-study``.
    splits : Path, optional
        Folds from a file in place of the protocol's own; they must keep what the protocol forbids.
    resume : bool
        Go on with an interrupted run of the same configuration: what is finished is not run again.
    jobs : int
        Fits at the same time; the figures do not depend on it.
    executor : Executor, optional
        Where fits are run; without one, `jobs` processes of this machine.
    command : str
        What was typed, for the record.

    Returns
    -------
    list of dict
        The figures of metrics.json.

    Raises
    ------
    UserError
        If the options do not fit the stores.
    FailedFits
        If a fit failed: the others are finished all the same, and `resume` tries it again.
    """
    run = _Run("evaluate", store, config, out, test_store, splits, resume, command)
    return run(executor or LocalExecutor(jobs), progress)


def train(
    store: Store,
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    progress: Progress = silent,
    command: str = "",
) -> list[dict[str, Any]]:
    """Fit one model on everything but a validation part; write the run folder.

    Its figures are validation figures: the epoch was chosen on them, so they flatter.
    """
    return _Run("train", store, config, out, None, None, resume, command)(LocalExecutor(), progress)


class _Run:
    """One call of `evaluate` or `train`, step by step."""

    def __init__(
        self,
        kind: str,
        store: Store,
        config: Config,
        out: Path,
        test_store: Store | None,
        splits: Path | None,
        resume: bool,
        command: str,
    ) -> None:
        self.begun = time.monotonic()
        self.kind, self.config, self.out = kind, config, out
        self.resume, self.command, self.file = resume, command, splits
        check_options(kind, store, config, test_store, splits)
        self.places = (store.path,) if test_store is None else (store.path, test_store.path)
        self.store = store if test_store is None else JoinedStore(store, test_store)
        if isinstance(self.store, JoinedStore):
            self.store.check(config.data.target, config.data.modalities)

    def __call__(self, executor: Executor, progress: Progress) -> list[dict[str, Any]]:
        """Check, fit what is not there, and gather."""
        kind, config, out = self.kind, self.config, self.out
        check_run(kind, self.store, config, out, self.resume, self.places[1] if len(self.places) > 1 else None)
        progress(0, 1, "loading")
        budget = Budget.parse(guard_ica(config, self.store, config.evaluation.budget))
        from milmer.training.fit import check_parts  # late: what was wrong so far is said before torch is imported

        check_parts(config, self.store)  # a wrong name must neither cost the reading of all frames nor leave a run
        bags = load_bags(self.places, config)
        splits = first_splits(kind, self.store, bags, config, self.file)
        check_budget(splits, bags.table, budget)
        check_permutations(bags, config.evaluation.permutations if kind == "evaluate" else 0)
        about = check_split(out, bags.table, splits, self.file)
        seeds = [config.training.seed + i for i in range(config.evaluation.seeds if kind == "evaluate" else 1)]
        about |= {"command": self.command, "budget": str(budget), "seeds": seeds, "scope": config.evaluation.scope}
        about |= {"test_store": str(self.places[1].resolve()) if len(self.places) > 1 else None}
        begin_run(kind, self.store, config, out, about)
        from milmer.evaluation.split_files import write_splits

        write_splits(out / "splits.parquet", bags.table, splits)
        log = Log(out / "log.txt")
        log(f"{kind} {'resumed' if self.resume else 'started'}: {self.store.name}, store {self.store.fingerprint}")
        folds = self._folds(bags, splits, seeds, budget)
        self._keep_frozen(folds, bags, log, progress)
        outcomes = []
        for done, outcome in enumerate(executor.run(folds, fit_fold, progress), 1):
            outcomes.append(outcome)
            log(f"{outcome.task.text}: {outcome.reason or 'done'} ({done} of {len(folds)})")
            if outcome.fault:
                with contextlib.suppress(OSError):  # the disk may be what failed
                    outcome.task.folder.mkdir(parents=True, exist_ok=True)
                    (outcome.task.folder / ERROR).write_text(outcome.fault, encoding="utf-8")
        self._refuse_failed(folds, outcomes)
        progress(len(folds), len(folds), "figures")
        return self._gather(folds, bags, log)

    def _keep_frozen(self, folds: Sequence[Fold], bags: Bags, log: Log, progress: Progress) -> None:
        """Run the frozen part of the backbone once for all fits, before several processes would."""
        from milmer.training.prefix import with_cache

        to_do = [f for f in folds if not (f.resume and f.finished)]
        if self.config.training.epochs == 1 and len(to_do) < 2:
            return
        for config in {f.config.training.seed: f.config for f in to_do}.values():
            with_cache(config, bags, build=True, verify=True, say=log, progress=progress)

    def _folds(self, bags: Bags, splits: Sequence[Split], seeds: Sequence[int], budget: Budget) -> list[Fold]:
        """Every fit, the first seed's first; permutations are of the first seed."""
        made = []
        for seed in seeds:
            config = self.config.model_copy(update={"training": self.config.training.model_copy(update={"seed": seed})})
            top = self.out if seed == seeds[0] else self.out / "seeds" / str(seed)
            of_seed = f"seed {seed}, " if len(seeds) > 1 else ""
            for s in splits:
                of_whom = f" ({s.name})" if s.name else ""
                text = f"{of_seed}fold {s.fold + 1} of {len(splits)}{of_whom}"
                folder = top / "folds" / str(s.fold)
                made.append(Fold(self.places, config, s, folder, text, budget, self.resume))
        permutations = self.config.evaluation.permutations if self.kind == "evaluate" else 0
        for p in range(1, permutations + 1):
            own = splits if self.file is not None else None
            shuffled = bags.permuted(p, alike=self.config.evaluation.protocol in NEW_STIMULI)
            for s in permuted_splits(self.store, shuffled, self.config, own):
                folder = self.out / "permutations" / str(p) / str(s.fold)
                text = f"permutation {p} of {permutations}, fold {s.fold + 1}"
                made.append(Fold(self.places, self.config, s, folder, text, budget, self.resume, p))
        return made

    def _refuse_failed(self, folds: Sequence[Fold], outcomes: Sequence[Outcome[Fold]]) -> None:
        """Record the fits that failed; raise one line on them where there are any."""
        order = {f.folder: i for i, f in enumerate(folds)}
        failed = sorted((o for o in outcomes if o.fault), key=lambda o: order[o.task.folder])
        told = [
            {"what": o.task.text, "folder": o.task.folder.relative_to(self.out).as_posix(), "reason": o.reason}
            for o in failed
        ]
        record = read_record(self.out)
        record["failed"] = told
        if failed:
            record["complete"] = False
            record["seconds"] = round(record.get("seconds", 0.0) + time.monotonic() - self.begun, 1)
        write_json(self.out / "run.json", record)
        if not failed:
            return
        names = ", ".join(o.task.text for o in failed[:4]) + (", ..." if len(failed) > 4 else "")
        first = failed[0]
        file = first.task.folder / ERROR
        line = (
            f"{self.out}: {len(failed)} of {len(folds)} fits failed ({names}): {first.reason}; the traceback is in "
            f"{file}; {'the others are finished, and ' if len(failed) < len(folds) else ''}the same command with "
            "--resume tries again what failed"
        )
        raise DamagedStore(line) if any(o.damaged for o in failed) else FailedFits(line, first.reason, file)

    def _gather(self, folds: Sequence[Fold], bags: Bags, log: Log) -> list[dict[str, Any]]:
        """Write what the finished fits say together."""
        config, out, classes = self.config, self.out, bags.labels.classes
        own = [f for f in folds if not f.permutation]
        predictions = _together(own, PREDICTIONS)
        write_table(out / PREDICTIONS, predictions)
        counted = sorted({f.permutation for f in folds} - {0})
        null = [_together([f for f in folds if f.permutation == p], PREDICTIONS) for p in counted]
        found = figures(predictions, config.evaluation, classes, permuted=null or None)
        (out / "metrics.json").write_text(json.dumps(plain(found), indent=1) + "\n", encoding="utf-8")
        if own and all(f.hides for f in own):
            write_table(out / SUBSETS, _together(own, SUBSETS))
        if any((f.folder / PROBES).exists() for f in own):
            probed = _together(own, PROBES)
            write_table(out / PROBES, probed)
            write_json(out / "probes.json", plain(probe_figures(probed, config.evaluation, classes)))
        _write_history(out, own)
        notes = [n if n.startswith("fold ") else f"{_name(f)}: {n}" for f in own for n in fold_notes(f)]
        notes = list(dict.fromkeys([*getattr(self.store, "notes", ()), *bags.notes, *bags.labels.notes, *notes]))
        notes += [f"not in the store: {k}: {v}" for k, v in self.store.info.get("failed", {}).items()]
        notes += _samples(out, self.store, config, predictions, classes)
        record = read_record(out)
        record |= {
            "complete": True,
            "failed": [],
            "notes": notes,
            "classes": list(classes),
            "label_rule": bags.labels.rule,
            "guard": _guard_log(own),
            "bags": len(bags.table),
            "seconds": round(record.get("seconds", 0.0) + time.monotonic() - self.begun, 1),
            "peak_memory_bytes": peak_memory(),
        }
        write_json(out / "run.json", record)
        shutil.rmtree(out / "operators", ignore_errors=True)  # what folds shared; each keeps its own
        peak = record["peak_memory_bytes"] / 1e9
        log(f"{self.kind} finished in {record['seconds']:.0f} s, peak memory {peak:.2f} GB")
        return found


def _together(folds: Sequence[Fold], name: str) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(f.folder / name) for f in folds], ignore_index=True)


def _name(fold: Fold) -> str:
    """Name a fold in a note; the first seed's goes without saying, since its folder does too."""
    seeds = fold.folder.parents[1]
    return f"fold {fold.split.fold}" if seeds.parent.name != "seeds" else f"seed {seeds.name}, fold {fold.split.fold}"


def _write_history(out: Path, folds: Sequence[Fold]) -> None:
    """Put the learning curves of all fits in one table."""
    curves = []
    for f in folds:
        curve = pd.read_csv(f.folder / "history.csv")
        curves.append(
            pd.concat(
                [pd.DataFrame({"seed": f.config.training.seed, "fold": f.split.fold}, curve.index), curve], axis=1
            )
        )
    part = out / ".history.csv.part"
    pd.concat(curves, ignore_index=True).to_csv(part, index=False)
    part.replace(out / "history.csv")


def _guard_log(folds: Sequence[Fold]) -> list[dict[str, Any]]:
    """Say what was fitted on how many rows, over all fits: fewest and most."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for f in folds:
        for entry in json.loads((f.folder / FITS).read_text(encoding="utf-8"))["fits"]:
            found.setdefault((entry["kind"], entry["what"], " and ".join(entry["parts"])), []).append(entry["rows"])
    return [
        {
            "kind": kind,
            "what": what,
            "parts": parts,
            "fewest_rows": min(rows),
            "most_rows": max(rows),
            "fits": len(rows),
        }
        for (kind, what, parts), rows in found.items()
    ]


def _samples(out: Path, store: Store, config: Config, predictions: pd.DataFrame, classes: Sequence[str]) -> list[str]:
    """Write what the page shows from the store; figures are worth more than its pictures, so a fault is a note."""
    from milmer.evaluation.samples import write_samples

    try:
        write_samples(out, store, config, predictions, classes)
    except Exception as error:
        return [f"the report's pictures could not be written: {type(error).__name__}: {' '.join(str(error).split())}"]
    return []
