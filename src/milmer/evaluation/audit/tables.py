"""Another toolkit's work as tables: metadata, splits, predictions, features, from CSV or Parquet; see docs/audit.md."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milmer.errors import UserError, nearest
from milmer.evaluation.audit.columns import (
    ALIASES,
    RATINGS,
    RECORD,
    class_names,
    either,
    few,
    first_of,
    keys_of,
    named,
    natural,
    numbers,
    read_metadata,
    read_table,
    text_of,
)

__all__ = ["Answers", "Fold", "read_features", "read_metadata", "read_predictions", "read_splits"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

PARTS: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
}
TRUTH = ("y_true", "label", "target", "true", "truth", "y")
ANSWER = ("y_pred", "pred", "prediction", "predicted", "y_hat")
# What tells rows apart where no sample is named.
IDENTITY = ("study", "subject", "session", "trial", "start")
FILES = re.compile(
    r"(?P<part>train|training|test|testing|val|valid|validation|dev)"
    r"(?:_subject_(?P<subject>.+?))?(?:_fold_(?P<fold>\d+))?\.(?:csv|parquet)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Fold:
    """One fold of another toolkit: row numbers into the metadata.

    Parameters
    ----------
    fold : int
        From 0, over all fits.
    name : str
        As the files or the table name it.
    train, validation, test : ndarray of int64
        Ascending row numbers; validation may be empty.
    """

    fold: int
    name: str
    train: Ints
    validation: Ints
    test: Ints


@dataclass(frozen=True)
class Answers:
    """What a model said of test rows.

    Parameters
    ----------
    row : ndarray of int64, shape (n,)
        Row of the metadata.
    fold : ndarray of int64, shape (n,)
        Fold in which the row was tested.
    truth, answer : ndarray of object, shape (n,)
        Names of classes; truth is None where the file has none.
    remarks : tuple of str
        What is odd about them.
    """

    row: Ints
    fold: Ints
    answer: NDArray[np.object_]
    truth: NDArray[np.object_] | None
    remarks: tuple[str, ...] = ()


def read_splits(source: Path, rows: pd.DataFrame) -> list[Fold]:
    """Read folds from one table or from a folder of torcheeg-style tables.

    Parameters
    ----------
    source : Path
        A table with ``part`` and ``sample`` (or what names a row), and ``fold`` where there are several; or a folder
        of ``train_fold_0.csv``, ``test_fold_0.csv`` [, ``val_fold_0.csv``], of ``train_subject_S_fold_0.csv`` and so
        on, of ``train_subject_S.csv``, of ``train.csv`` and ``test.csv``, or of such folders, one a subject.
    rows : DataFrame
        As from `read_metadata`.

    Raises
    ------
    UserError
        If a column or part is missing or empty, a sample is unknown, or is twice in a fold.
    """
    path = Path(source)
    if path.is_dir():
        pieces = _folder(path)
    elif path.exists():
        pieces = _single(path)
    else:
        raise UserError(f"splits {path}: found neither file nor folder, expected either; check the path")
    finder = _Finder(rows)
    folds = []
    for number, (name, parts) in enumerate(pieces.items()):
        found = {part: finder.rows(table, f"splits {path}: {part} of {name}") for part, table in parts.items()}
        for part in ("train", "test"):
            if part not in found or not found[part].size:
                raise UserError(
                    f"splits {path}: {name} has no {part} rows, expected train and test in each fold; add them or take "
                    "the fold out"
                )
        everywhere = np.concatenate(list(found.values()))
        values, counts = np.unique(everywhere, return_counts=True)
        if (twice := values[counts > 1]).size:
            raise UserError(
                f"splits {path}: {name} names {twice.size} samples twice, such as {finder.name(int(twice[0]))}; "
                "expected each in one part of a fold: the same rows in training and test is the plainest leak"
            )
        none = np.zeros(0, dtype=np.int64)
        folds.append(
            Fold(number, name, np.sort(found["train"]), np.sort(found.get("validation", none)), np.sort(found["test"]))
        )
    return folds


def read_predictions(file: Path, rows: pd.DataFrame, folds: Sequence[Fold]) -> Answers:
    """Read what a model said: ``sample`` (or what names a row), ``y_pred`` or ``p_<class>``, ``y_true``, ``fold``.

    Rows that were in no test part of their fold (training rows, say) are refused.
    """
    table = read_table(file, "predictions")
    answer_column = first_of(table, ANSWER)
    remarks: tuple[str, ...] = ()
    chances = [c for c in table.columns if re.match(r"(?i)p(rob)?_", c)]
    if answer_column is not None:
        answer = class_names(table[answer_column])
    elif len(chances) >= 2:
        values = np.column_stack([numbers(table[c], file, c) for c in chances])  # (n, k)
        names = np.array([re.sub(r"(?i)^p(rob)?_", "", c) for c in chances], dtype=object)
        if (gaps := int((~np.isfinite(values)).any(axis=1).sum())) > 0:
            raise UserError(
                f"predictions {file}: {gaps} of {len(values)} rows have no number in one of {few(chances)}, expected "
                "one in each; fill them in, or give the answers as y_pred"
            )
        answer = names[values.argmax(axis=1)]
        remarks = _no_probabilities(values)
    else:
        raise UserError(
            f"predictions {file}: found {few(table.columns)}, expected a column {either(ANSWER)}, or p_<class> for "
            "each class; add the model's answers"
        )
    truth_column = first_of(table, TRUTH)
    index = _Finder(rows).rows(table, f"predictions {file}", repeated=True)
    fold = _fold_of(table, index, folds, rows, file)
    again = pd.DataFrame({"row": index, "fold": fold}).duplicated()
    if again.any():
        raise UserError(
            f"predictions {file}: {int(again.sum())} samples are answered twice in one fold; expected one answer each: "
            "take the copies out, or add a column 'fold'"
        )
    return Answers(index, fold, answer, None if truth_column is None else class_names(table[truth_column]), remarks)


def _no_probabilities(values: Floats) -> tuple[str, ...]:
    """Say where probabilities (n, k) are none; the answer is the largest all the same."""
    total = values.sum(axis=1)  # (n,)
    odd = (np.abs(total - 1) > 0.01) | (values < 0).any(axis=1)  # (n,)
    if not odd.any():
        return ()
    return (
        f"Predictions: in {int(odd.sum())} of {len(values)} rows the probabilities are negative or do not sum to 1 "
        f"(row {int(odd.argmax()) + 1}: {total[odd.argmax()]:.3g}): the largest was taken as the answer, and nothing "
        "else is made of them; check that no column is missing.",
    )


def read_features(file: Path, rows: pd.DataFrame) -> Floats:
    """Read features: ``sample`` (or what names a row) and numeric columns; or ``.npy``, in the metadata's order.

    Returns
    -------
    ndarray, shape (n_rows, n_features)
    """
    if Path(file).suffix.lower() == ".npy":
        return _array(Path(file), len(rows))
    table = read_table(file, "features")
    index = _Finder(rows).rows(table, f"features {file}")
    taken = {name for names in ALIASES.values() for name in names} | {RECORD, "part", "fold", *RATINGS, *ANSWER}
    taken |= {f"rating_{r}" for r in RATINGS}
    columns = [c for c in table.columns if c.lower() not in taken and pd.api.types.is_numeric_dtype(table[c])]
    if not columns:
        raise UserError(f"features {file}: found no numeric column beside the samples' names, expected features")
    missing = np.setdiff1d(np.arange(len(rows)), index)
    if missing.size:
        raise UserError(
            f"features {file}: {missing.size} samples of the metadata have none, such as row {int(missing[0]) + 1}; "
            "expected one row of features a sample"
        )
    values = np.empty((len(rows), len(columns)))  # (n, d)
    values[index] = table[columns].to_numpy(dtype=np.float64)
    if not np.isfinite(values).all():
        raise UserError(
            f"features {file}: {int((~np.isfinite(values)).sum())} values are missing or infinite, expected numbers; "
            "fill them in or leave those columns out"
        )
    return values


def _array(file: Path, count: int) -> Floats:
    if not file.is_file():
        raise UserError(f"features {file}: found no such file, expected .npy, CSV or Parquet; check the path")
    try:
        values = np.asarray(np.load(file, allow_pickle=False), dtype=np.float64)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"features {file}: not readable ({error}); write an array of numbers with numpy.save"
        ) from error
    if values.shape[:1] != (count,) or not np.isfinite(values).all():
        raise UserError(
            f"features {file}: found an array of shape {values.shape}, expected {count} rows of finite numbers, in the "
            "metadata's order"
        )
    return values.reshape(count, -1)


class _Finder:
    """Looks rows up in the metadata: by sample where both name it, else by study, subject, session, trial, start."""

    def __init__(self, rows: pd.DataFrame) -> None:
        self.table = rows
        self.columns = [c for c in IDENTITY if c in rows]

    def name(self, row: int) -> str:
        columns = ["sample"] if "sample" in self.table else self.columns
        return ", ".join(f"{c} {self.table[c].iloc[row]}" for c in columns)

    def rows(self, raw: pd.DataFrame, where: str, *, repeated: bool = False) -> Ints:
        """Return the metadata's row of each row of a table."""
        table = named(raw)
        if "sample" in table and "sample" in self.table:
            columns = ["sample"]
            if "clip" in self.table and "clip" not in table:
                if self.table["clip"].duplicated().any():
                    raise UserError(
                        f"{where}: found no column {RECORD}, which the metadata needs to tell clips apart; add it"
                    )
                columns, table = ["clip"], table.rename(columns={"sample": "clip"})
        else:
            columns = self.columns
            lacking = [c for c in columns if c not in table]
            if lacking:
                raise UserError(
                    f"{where}: found {few(raw.columns)}, expected a column 'sample' as in the metadata, or "
                    f"{', '.join(columns)}; add {', '.join(lacking) if 'sample' in table else 'it'}"
                )
            if self.table.duplicated(columns).any():
                raise UserError(
                    f"metadata: {', '.join(columns)} do not tell its rows apart; add a column 'sample' with a name "
                    "for each row, here and in the other tables"
                )
        keys = keys_of(self.table, columns)
        lookup = {key: i for i, key in enumerate(keys)}
        wanted = keys_of(table, columns)
        found = np.array([lookup.get(key, -1) for key in wanted], dtype=np.int64)
        if (unknown := np.flatnonzero(found < 0)).size:
            raise UserError(
                f"{where}: {unknown.size} of {len(found)} rows are not in the metadata, such as "
                f"{', '.join(columns)} = {', '.join(wanted[unknown[0]])}; expected the same names in both"
            )
        if not repeated and np.unique(found).size < found.size:
            again = pd.Series(found)[pd.Series(found).duplicated()]
            raise UserError(
                f"{where}: {len(again)} samples come twice, such as {self.name(int(again.iloc[0]))}; expected each "
                "once: take the copies out, or add a column 'fold' where they belong to several folds"
            )
        return found


def _folder(path: Path) -> dict[str, dict[str, pd.DataFrame]]:
    """Gather a folder's files by fold; folders in it (one a subject) are gathered too."""
    pieces: dict[str, dict[str, pd.DataFrame]] = {}
    for file in sorted(path.rglob("*"), key=natural):
        match = FILES.fullmatch(file.name)
        if match is None or not file.is_file() or len(file.relative_to(path).parts) > 2:
            continue
        words = [file.parent.name] if file.parent != path else []
        words += [f"subject {match['subject']}"] if match["subject"] else []
        words += [f"fold {match['fold']}"] if match["fold"] else []
        name = " ".join(words) or "the split"
        part = PARTS[match["part"].lower()]
        if part in pieces.setdefault(name, {}):
            raise UserError(f"splits {path}: {name} has two files for {part}, such as {file.name}; take one out")
        pieces[name][part] = read_table(file, "splits")
    if not pieces:
        raise UserError(
            f"splits {path}: found no train_fold_0.csv and test_fold_0.csv (nor train.csv, train_subject_S.csv, "
            "train_subject_S_fold_0.csv), expected those; name the folder that holds them"
        )
    return pieces


def _single(path: Path) -> dict[str, dict[str, pd.DataFrame]]:
    table = read_table(path, "splits")
    part_column = first_of(table, ("part", "split", "set", "subset"))
    if part_column is None:
        raise UserError(
            f"splits {path}: found {few(table.columns)}, expected a column 'part' with train, validation or test; "
            "add it"
        )
    words = text_of(table[part_column]).str.lower()
    strange = sorted(set(words) - set(PARTS))
    if strange:
        raise UserError(
            f"splits {path}: found the part '{strange[0]}', expected train, validation or test"
            f"{nearest(strange[0], PARTS)}; rename it"
        )
    fold_column = first_of(table, ("fold", "fold_id"))
    folds = text_of(table[fold_column]) if fold_column is not None else pd.Series("", index=table.index)
    pieces: dict[str, dict[str, pd.DataFrame]] = {}
    for name in sorted(folds.unique(), key=natural):
        mine = folds == name
        parts = words[mine].map(PARTS)
        pieces[f"fold {name}" if name else "the split"] = {
            str(part): table.loc[parts.index[parts == part]] for part in parts.unique()
        }
    return pieces


def _fold_of(table: pd.DataFrame, index: Ints, folds: Sequence[Fold], rows: pd.DataFrame, file: Path) -> Ints:
    """Return the fold of each answer: as the table names it, or the one fold that tests the row."""
    tests = [set(f.test.tolist()) for f in folds]
    column = first_of(table, ("fold", "fold_id"))
    if column is not None:
        names = {f.name: f.fold for f in folds} | {f.name.removeprefix("fold "): f.fold for f in folds}
        said = [names.get(n, -1) for n in text_of(table[column])]
        if -1 in said:
            wrong = text_of(table[column]).iloc[said.index(-1)]
            have = few([f.name.removeprefix("fold ") for f in folds])
            raise UserError(
                f"predictions {file}: found fold '{wrong}', expected one of the splits' ({have}); rename it"
            )
    else:
        testing: dict[int, list[int]] = {}
        for fold, rows_tested in zip(folds, tests, strict=True):
            for row in rows_tested:
                testing.setdefault(row, []).append(fold.fold)
        several = [r for r in index.tolist() if len(testing.get(r, [])) > 1]
        if several:
            raise UserError(
                f"predictions {file}: {len(several)} samples are tested in several folds; add a column 'fold' that "
                "says of which each answer is"
            )
        said = [testing.get(r, [-1])[0] for r in index.tolist()]
    outside = [i for i, (r, f) in enumerate(zip(index.tolist(), said, strict=True)) if f < 0 or r not in tests[f]]
    if outside:
        row = _Finder(rows).name(int(index[outside[0]]))
        raise UserError(
            f"predictions {file}: {len(outside)} of {len(index)} answers are of rows that their fold does not test, "
            f"such as {row}; expected test rows only: leave the others out"
        )
    return np.asarray(said, dtype=np.int64)
