"""Which runs may be compared: their test rows, labels, protocols and budgets must be the same."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from milmer.errors import UserError
from milmer.evaluation.protocols import display_name

if TYPE_CHECKING:  # importing pandas takes half a second, and only the annotations need it
    import pandas as pd

TRIAL_KEYS = ("study", "subject", "session", "trial")
NEEDED = ("part", "fold", "subject", "trial", "y_true")
KEPT = (*NEEDED, "study", "session", "stimulus", "seed", "start", "stop", "protocol", "budget", "label_rule")
NAMED = 4  # subjects named in a refusal
Key = tuple[Hashable, ...]


@dataclass(frozen=True)
class Candidate:
    """A finished run, read: its labelled test rows and what they were made under.

    Parameters
    ----------
    name : str
        Short and unlike the others'.
    path : Path
        The run's folder.
    protocol, budget, rule : str
        Names of protocol and budget; how ratings became classes.
    classes : tuple of str
        Names in index order.
    settings : dict
        The run's configuration, one level deep: ``"model.fusion.method": "transformer"``.
    split : str
        Hash of the split; empty where the run has none.
    store : str
        Fingerprint of the store; empty where the run has none.
    test : DataFrame
        Labelled test rows of all seeds; study, session and stimulus never missing.
    """

    name: str
    path: Path
    protocol: str
    budget: str
    rule: str
    classes: tuple[str, ...]
    settings: Mapping[str, Any]
    split: str
    store: str
    test: pd.DataFrame

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of training."""
        return tuple(sorted(set(self.test["seed"].tolist())))


def read_candidates(runs: Sequence[Path]) -> list[Candidate]:
    """Read runs to be compared.

    Raises
    ------
    UserError
        If there are fewer than two, one is named twice, or one is no finished run with a test part.
    """
    if len(runs) < 2:
        raise UserError(f"compare: found {len(runs)} run, expected two or more; name another folder of 'evaluate'")
    places = [Path(run).resolve() for run in runs]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise UserError(f"{runs[number]}: is named twice; a run differs from itself in nothing: name another one")
    return [_read(Path(run), name) for run, name in zip(runs, _names(places), strict=True)]


def _names(places: Sequence[Path]) -> list[str]:
    """Name runs by as few last parts of their folders as tell them apart."""
    # An ablation's cell is the folder above its seed's.
    for depth in range(1 + any(p.name.startswith("seed-") for p in places), max(len(p.parts) for p in places) + 1):
        names = ["/".join(p.parts[-depth:]) for p in places]
        if len(set(names)) == len(names):
            return names
    return [str(p) for p in places]


def _read(path: Path, name: str) -> Candidate:
    if (path / "ablation.json").exists() and not (path / "run.json").exists():
        raise UserError(f"{path}: is an ablation, expected runs; name its cells' runs, {path}/cells/<name>/<seed>")
    if not (path / "run.json").exists():
        raise UserError(f"{path}: found no run.json, expected a run; 'milmer evaluate STORE --out RUN' writes one")
    try:
        record: dict[str, Any] = json.loads((path / "run.json").read_text(encoding="utf-8"))
        complete, kind = record.get("complete", True), record.get("kind", "")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path / 'run.json'}: not readable ({error}); run again in another folder") from error
    file = path / "predictions.parquet"
    if not complete or not file.exists():
        raise UserError(f"{path}: has not finished; run its command again with --resume, then compare")
    settings = _settings(path / "config.yaml")
    if settings.get("data.permute_labels") is not None:
        raise UserError(f"{path}: was run on permuted labels, which shows chance; compare runs on the true labels")
    test = _test_rows(file, str(kind))
    found = tuple(c.removeprefix("prob_") for c in test.columns if c.startswith("prob_"))
    classes = tuple(str(c) for c in record.get("classes") or found)
    if len(classes) < 2 or set(classes) - set(found):
        raise UserError(
            f"{file}: found probabilities of {', '.join(found) or 'no class'}, expected those of "
            f"{', '.join(classes) or 'at least two'}; run again"
        )
    return Candidate(
        name=name,
        path=path,
        protocol=_one(test, "protocol", record, settings.get("evaluation.protocol", "")),
        budget=_one(test, "budget", record, "none"),
        rule=_one(test, "label_rule", record, ""),
        classes=classes,
        settings=settings,
        split=str(record.get("split_hash") or ""),
        store=str(record.get("fingerprint") or ""),
        test=test,
    )


def _test_rows(file: Path, kind: str) -> pd.DataFrame:
    import pandas as pd
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(file).names
        lacking = [c for c in NEEDED if c not in names]
        if lacking:
            raise UserError(f"{file}: found no column {', '.join(lacking)}, expected a run's predictions; run again")
        wanted = [c for c in names if c in KEPT or c.startswith(("prob_", "threshold"))]
        table = pd.read_parquet(file, columns=wanted)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not readable ({error}); run again with --resume") from error
    test = table[(table["part"] == "test").to_numpy()]
    if not len(test):
        why = "'milmer train' holds nothing out" if kind == "train" else "nothing was held out"
        raise UserError(f"{file.parent}: found no test part ({why}); compare runs of 'milmer evaluate'")
    test = test[(test["y_true"] >= 0).to_numpy()].reset_index(drop=True)
    if not len(test):
        raise UserError(f"{file.parent}: found no test row with a label, expected some; check data.target")
    for column in ("study", "session", "stimulus"):
        test[column] = test[column].fillna("").astype(str) if column in test else ""
    test["subject"] = test["subject"].astype(str)
    if "seed" not in test:
        test["seed"] = 0
    for column in ("start", "stop"):
        test[column] = test[column].round(3) if column in test else 0.0
    return test


def _one(test: pd.DataFrame, column: str, record: Mapping[str, Any], otherwise: str) -> str:
    found = sorted({str(v) for v in test[column].unique()}) if column in test else []
    return " / ".join(found) or str(record.get(column) or otherwise)


def _settings(file: Path) -> dict[str, Any]:
    """Return a configuration one level deep; empty where it cannot be read (the predictions are what counts)."""
    import yaml

    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    flat: dict[str, Any] = {}

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{path}.{key}" if path else str(key))
        else:
            flat[path] = node

    walk(tree, "")
    return flat


def check_alike(runs: Sequence[Candidate], *, across: bool) -> None:
    """Refuse runs that answer different questions: other classes, label rules, protocols or budgets.

    Raises
    ------
    UserError
        If classes or label rules differ; if protocols or budgets differ and `across` is false.
    """
    first = runs[0]
    for other in runs[1:]:
        if other.classes != first.classes:
            raise UserError(
                f"{first.name} has the classes {', '.join(first.classes)}, {other.name} {', '.join(other.classes)}; "
                "compare runs of the same --target"
            )
        if other.rule != first.rule:
            raise UserError(
                f"labels differ: {first.name} has '{first.rule}', {other.name} '{other.rule}'; "
                "evaluate both with the same --target, --threshold and --ties"
            )
    for what in ("protocol", "budget"):
        values: dict[str, str] = {}
        for run in runs:
            values.setdefault(getattr(run, what), run.name)
        if len(values) > 1 and not across:
            named = ", ".join(f"{name} under {display_name(value)}" for value, name in values.items())
            raise UserError(
                f"{what}s differ ({named}): that shows what a {what} adds, not which model is better; "
                f"evaluate under one {what}, or add --across to measure the inflation"
            )


def same_rows(runs: Sequence[Candidate], *, level: str, shared: bool) -> tuple[list[pd.DataFrame], list[str]]:
    """Return each run's test rows, once they are the same in all, and notes for the reader.

    Parameters
    ----------
    runs : sequence of Candidate
        Alike by `check_alike`.
    level : {'window', 'trial'}
        What must be shared.
    shared : bool
        Leave out what not every run has, instead of refusing.

    Raises
    ------
    UserError
        If test rows, windows, thresholds or labels differ.
    """
    trials = [_in_every_seed(run, TRIAL_KEYS, shared) for run in runs]
    common, every = set.intersection(*trials), set.union(*trials)
    notes: list[str] = []
    if common != every:
        if not common:
            raise UserError("the runs share no test trial; compare runs of the same study")
        if not shared:
            lacking = [
                f"{r.name} lacks {_missing(every - t, every)}" for r, t in zip(runs, trials, strict=True) if every - t
            ]
            raise UserError(
                f"the runs do not share their test trials: {'; '.join(lacking)}; evaluate all on the same trials, or "
                f"add --shared to compare on the {len(common)} of {len(every)} that all have"
            )
        notes.append(f"only the {len(common)} of {len(every)} test trials that all runs have")
    tables = [run.test[_isin(run.test, TRIAL_KEYS, common)].reset_index(drop=True) for run in runs]
    if level == "window":
        windows = [_keys(table, (*TRIAL_KEYS, "start", "stop")) for table in tables]
        for run, found in zip(runs[1:], windows[1:], strict=True):
            if set(found) != set(windows[0]):
                raise UserError(
                    f"windows differ between {runs[0].name} ({_window(windows[0])}) and {run.name} ({_window(found)}); "
                    "compare by trial: --level trial"
                )
    _check_labels(runs, tables)
    return tables, notes


def _in_every_seed(run: Candidate, columns: Sequence[str], shared: bool) -> set[Key]:
    found = [set(_keys(run.test[(run.test["seed"] == s).to_numpy()], columns)) for s in run.seeds]
    common, every = set.intersection(*found), set.union(*found)
    if common != every and not shared:
        raise UserError(
            f"{run.name}: not every seed tested the same trials ({len(common)} of {len(every)}); "
            "finish it with --resume, or add --shared"
        )
    return common


def _check_labels(runs: Sequence[Candidate], tables: Sequence[pd.DataFrame]) -> None:
    columns = [c for c in tables[0].columns if c.startswith("threshold")]
    for column in [*columns, "y_true"]:
        known: dict[Key, float] = {}
        for run, table in zip(runs, tables, strict=True):
            if column not in table:
                continue
            values = table[column].to_numpy(dtype=np.float64).tolist()
            for key, value in dict(zip(_keys(table, TRIAL_KEYS), values, strict=True)).items():
                if not np.isclose(known.setdefault(key, value), value, rtol=0, atol=1e-9, equal_nan=True):
                    word = "the label" if column == "y_true" else column.replace("_", " of ", 1)
                    raise UserError(
                        f"labels differ: {word} of {key[1]}'s trial {key[3]} is {known[key]:g} in {runs[0].name}, "
                        f"{value:g} in {run.name}; evaluate both on the same split, or with --threshold midpoint"
                    )


def trial_keys(table: pd.DataFrame) -> list[Key]:
    """Return study, subject, session and trial of each row."""
    return _keys(table, TRIAL_KEYS)


def _keys(table: pd.DataFrame, columns: Sequence[str]) -> list[Key]:
    return list(zip(*(table[c].tolist() for c in columns), strict=True))


def _isin(table: pd.DataFrame, columns: Sequence[str], keys: set[Key]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.fromiter((k in keys for k in _keys(table, columns)), dtype=bool, count=len(table))


def _missing(lacking: set[Key], every: set[Key]) -> str:
    """Write ``7 test trials (s01 3 of 20, s04 4 of 20)``."""
    subjects = sorted({str(key[1]) for key in lacking})
    shown = [
        f"{s} {sum(str(k[1]) == s for k in lacking)} of {sum(str(k[1]) == s for k in every)}" for s in subjects[:NAMED]
    ]
    more = f" and {len(subjects) - NAMED} more subjects" if len(subjects) > NAMED else ""
    return f"{len(lacking)} test trial{'s' * (len(lacking) != 1)} ({', '.join(shown)}{more})"


def _window(keys: Sequence[Key]) -> str:
    lengths = [float(str(key[5])) - float(str(key[4])) for key in keys]
    return f"{len(set(keys))} of {np.median(lengths):g} s" if lengths else "none"


def differing(runs: Sequence[Candidate]) -> dict[str, list[Any]]:
    """Return the configuration's keys whose values differ, with each run's value."""
    names = sorted({key for run in runs for key in run.settings} - {"preset"})
    table = {name: [run.settings.get(name) for run in runs] for name in names}
    return {name: values for name, values in table.items() if any(v != values[0] for v in values)}
