"""`milmer train` and `milmer evaluate`: a store and a configuration become a run."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milmer.config import Config
from milmer.errors import UserError
from milmer.evaluation.probes import learns_weights, probe_figures, wanted
from milmer.evaluation.protocols import Split, make_splits
from milmer.evaluation.run import Log, begin_run, check_run, peak_memory, plain, read_record
from milmer.evaluation.scoring import figures
from milmer.processes import end_with
from milmer.progress import Progress, silent
from milmer.store import IDENTITY, Store, write_json, write_table

if TYPE_CHECKING:
    from milmer.training.data import Bags


PROBES = "probes.parquet"


@dataclass(frozen=True)
class _Task:
    """One fit: a fold, of the study's own labels or (permutation > 0) of shuffled ones."""

    store: Path
    config: Config
    split: Split
    folder: Path
    text: str
    resume: bool
    permutation: int = 0


def evaluate(
    store: Store,
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    jobs: int = 1,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Fit and test every fold of a protocol; write the run folder.

    Parameters
    ----------
    store : Store
        What to learn from.
    config : Config
        Everything; its ``evaluation`` names the protocol.
    out : Path
        The run's folder.
    resume : bool
        Go on with an interrupted run of the same configuration.
    jobs : int
        Fits at the same time; the figures do not depend on it.

    Returns
    -------
    list of dict
        The figures of metrics.json.
    """
    return _run("evaluate", store, config, out, resume, jobs, progress)


def train(
    store: Store, config: Config, out: Path, *, resume: bool = False, progress: Progress = silent
) -> list[dict[str, Any]]:
    """Fit one model on everything but a validation part; write the run folder.

    Its figures are validation figures: the epoch was chosen on them, so they flatter.
    """
    return _run("train", store, config, out, resume, 1, progress)


def _run(
    kind: str, store: Store, config: Config, out: Path, resume: bool, jobs: int, progress: Progress
) -> list[dict[str, Any]]:
    begun = time.monotonic()
    check_run(kind, store, config, out, resume)
    from milmer.training.fit import check_parts  # late: what is wrong with the folder is said before torch is imported

    progress(0, 1, "loading")
    check_parts(config, store)  # a wrong name must neither cost the reading of all frames nor leave a run behind
    bags = _bags(store.path, _base(config).model_dump_json()).permuted(config.data.permute_labels)
    splits = make_splits(
        bags.table,
        bags.labels.y,
        config.evaluation.protocol,
        config.evaluation.folds,
        config.evaluation.seed,
        bags.labels.classes,
    )
    begin_run(kind, store, config, out)
    log = Log(out / "log.txt")
    log(f"{kind} {'resumed' if resume else 'started'}: {store.name}, store {store.fingerprint}")
    if kind == "train":
        first = splits[0]
        everything = np.sort(np.concatenate([first.train, first.test]))
        splits = [Split(0, everything, first.validation, first.test[:0])]
    tasks = [
        _Task(store.path, config, s, out / "folds" / str(s.fold), f"fold {s.fold + 1} of {len(splits)}", resume)
        for s in splits
    ]
    permutations = config.evaluation.permutations if kind == "evaluate" else 0
    for p in range(1, permutations + 1):
        shuffled = make_splits(
            bags.table,
            bags.permuted(p).labels.y,
            config.evaluation.protocol,
            config.evaluation.folds,
            config.evaluation.seed,
            bags.labels.classes,
        )
        for s in shuffled:
            folder = out / "permutations" / str(p) / str(s.fold)
            text = f"permutation {p} of {permutations}, fold {s.fold + 1}"
            tasks.append(_Task(store.path, config, s, folder, text, resume, p))
    for done, task in enumerate(_fit_all(tasks, jobs, progress), 1):
        log(f"{task.text}: done ({done} of {len(tasks)})")
    progress(len(tasks), len(tasks), "figures")
    classes = bags.labels.classes
    own = [t for t in tasks if not t.permutation]
    predictions = pd.concat([pd.read_parquet(t.folder / "predictions.parquet") for t in own])
    write_table(out / "predictions.parquet", predictions.reset_index(drop=True))
    null = [
        pd.concat([pd.read_parquet(t.folder / "predictions.parquet") for t in tasks if t.permutation == p])
        for p in range(1, permutations + 1)
    ]
    found = figures(predictions.reset_index(drop=True), config.evaluation, classes, permuted=null or None)
    (out / "metrics.json").write_text(json.dumps(plain(found), indent=1) + "\n", encoding="utf-8")
    if any((t.folder / PROBES).exists() for t in own):
        probed = pd.concat([pd.read_parquet(t.folder / PROBES) for t in own], ignore_index=True)
        write_table(out / PROBES, probed)
        write_json(out / "probes.json", plain(probe_figures(probed, config.evaluation, classes)))
    notes = [f"fold {s.fold}: {n}" for s in splits for n in s.notes]
    notes += [f"fold {t.split.fold}: {n}" for t in own for n in _attention_notes(t)]
    if store.info.get("failed"):
        notes += [f"not in the store: {k}: {v}" for k, v in store.info["failed"].items()]
    record = read_record(out)
    record |= {
        "complete": True,
        "notes": notes,
        "classes": list(classes),
        "label_rule": bags.labels.rule,
        "bags": len(bags.table),
        "seconds": round(record.get("seconds", 0.0) + time.monotonic() - begun, 1),
        "peak_memory_bytes": peak_memory(),
    }
    write_json(out / "run.json", record)
    log(f"{kind} finished in {record['seconds']:.0f} s, peak memory {record['peak_memory_bytes'] / 1e9:.2f} GB")
    return found


def _base(config: Config) -> Config:
    """Return the configuration without what only changes labels, so that permutations share the data read."""
    return config.model_copy(update={"data": config.data.model_copy(update={"permute_labels": None})})


@functools.lru_cache(maxsize=1)
def _bags(store: Path, config: str) -> Bags:
    from milmer.training.data import Bags

    return Bags(Store(store), Config.model_validate_json(config).data)


def _fit_all(tasks: Sequence[_Task], jobs: int, progress: Progress) -> Iterator[_Task]:
    """Run every fit; `progress` counts in hundredths of a fit."""
    shares = [0.0] * len(tasks)

    def tell(task: int, done: int, total: int, text: str) -> None:
        shares[task] = done / max(total, 1)
        progress(int(100 * sum(shares)), 100 * len(tasks), text)

    if jobs <= 1 or len(tasks) == 1:
        for i, task in enumerate(tasks):
            _fit_one(task, functools.partial(tell, i))
            tell(i, 1, 1, task.text)
            yield task
        return
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        ticks = manager.Queue()
        pool = ProcessPoolExecutor(min(jobs, len(tasks)), context, end_with, (os.getpid(),))
        try:
            futures = {pool.submit(_fit_one, t, _Ticks(ticks, i)): i for i, t in enumerate(tasks)}
            waiting = set(futures)
            while waiting:
                finished, waiting = wait(waiting, timeout=0.3, return_when=FIRST_COMPLETED)
                while not ticks.empty():
                    tell(*ticks.get())
                for future in finished:
                    future.result()
                    tell(futures[future], 1, 1, tasks[futures[future]].text)
                    yield tasks[futures[future]]
        except BrokenProcessPool as error:
            raise UserError(
                "a process was killed, perhaps for want of memory; the same command with --jobs 1 --resume goes on: "
                "nothing finished is lost"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _Ticks:
    """Progress that travels from a worker process."""

    queue: Any
    task: int

    def __call__(self, done: int, total: int, text: str) -> None:
        self.queue.put((self.task, done, total, text))


def _fit_one(task: _Task, progress: Progress) -> None:
    """Fit one fold and write its predictions."""
    from milmer.training.fit import fit, predict_bags
    from milmer.training.probes import probe_fold

    target = task.folder / "predictions.parquet"
    probing = bool(wanted(task.config)) and not task.permutation and len(task.split.test) > 0
    probed = not probing or (task.folder / PROBES).exists()
    if task.resume and target.exists() and probed and (task.folder / "done.json").exists():
        return
    config = task.config
    bags = _bags(task.store, _base(config).model_dump_json()).permuted(config.data.permute_labels)
    if task.permutation:
        bags = bags.permuted(task.permutation)
    split = task.split
    fit(
        config,
        bags,
        split.train,
        split.validation,
        task.folder,
        resume=task.resume,
        progress=progress,
        text=task.text,
    )
    parts = [("train", split.train), ("validation", split.validation), ("test", split.test)]
    if task.permutation:
        parts = parts[-1:]
    rows = np.concatenate([r for _, r in parts])
    prob, weights = predict_bags(
        task.folder, bags, rows, device=config.training.device, batch=2 * config.training.batch
    )
    table = _prediction_rows(config, bags, rows, prob, weights)
    table.insert(2, "fold", split.fold)
    table.insert(4, "part", np.repeat([n for n, _ in parts], [len(r) for _, r in parts]))
    if probing:
        progress(1, 1, f"{task.text}: what does the model use?")
        found = probe_fold(config, bags, split.test, task.folder, spare=split.validation)
        found.insert(2, "fold", split.fold)
        found.insert(3, "seed", config.training.seed)
        write_table(task.folder / PROBES, found)
    write_table(target, table)
    if task.permutation:  # what a null leaves behind is its predictions
        (task.folder / "model.safetensors").unlink()


def _attention_notes(task: _Task) -> list[str]:
    """Say where a fit's attention has collapsed, by its history."""
    from milmer.models.selection import SELECTIONS
    from milmer.training.watch import collapse_notes

    history = task.folder / "history.csv"
    if not learns_weights(task.config.model) or not history.exists():
        return []
    table = pd.read_csv(history)
    if "attention_entropy" not in table:
        return []
    table = table[table["attention_entropy"].notna()]  # of several members, the one that has frames to weigh
    if not len(table):
        return []
    best = {str(k): v for k, v in table.sort_values("val_loss", kind="stable").iloc[0].items()}
    selection = SELECTIONS[task.config.model.selection.method]
    return collapse_notes(best, looks_at_positions=selection.looks_at_positions)


def _prediction_rows(
    config: Config, bags: Bags, rows: NDArray[np.int64], prob: NDArray[np.float32], weights: NDArray[np.float32]
) -> pd.DataFrame:
    """Return predictions with everything a figure needs: identity, label and its rule, probabilities, frame weights."""
    table = bags.table.iloc[rows].reset_index(drop=True)
    ratings = [c for c in table.columns if c.startswith("rating_")]
    labels = bags.labels
    head = {
        "protocol": config.evaluation.protocol,
        "budget": "unlabelled (ICA per recording)" if uses_ica(config, bags.store) else "none",
        "seed": config.training.seed,
    }
    columns: dict[str, Any] = {name: table[name] for name in IDENTITY}
    columns |= {n: table[n] for n in ("store_key", "trial_row", "window", "start", "stop")}
    columns |= {n: table[n] for n in [*ratings, "label"]}
    columns |= {"label_rule": labels.rule, "threshold": config.data.threshold, "y_true": labels.y[rows]}
    columns |= {f"prob_{c}": prob[:, i] for i, c in enumerate(labels.classes)}
    columns |= {"y_pred": prob.argmax(axis=1)}
    columns |= {"frame_weights": list(weights.reshape(len(rows), -1))}
    columns |= {"face_rows": list(bags.face_rows[rows].reshape(len(rows), -1))}
    found = pd.DataFrame(columns)
    for at, (name, value) in enumerate(head.items()):
        found.insert(at, name, value)
    return found


def uses_ica(config: Config, store: Store) -> bool:
    """Whether what the model sees was cleaned by an operator that was fitted on whole recordings, test trials too."""
    if "eeg" not in config.data.modalities:
        return False
    kinds = set(config.data.reject)
    return any(kinds & set(store.recording(k).components) for k in store.keys)
