"""Splits on disk: written with a run, read back, made by other tools, and named by a hash."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milmer.errors import UserError
from milmer.evaluation.dealing import Ints
from milmer.evaluation.protocols import Split, identity_codes

if TYPE_CHECKING:  # importing pandas takes half a second
    import pandas as pd

KEYS = ("study", "subject", "session", "trial", "window")
PARTS = ("train", "validation", "test")
UNUSED = "unused"
_NEEDED = ("fold", "part", "subject", "trial")
_SPELLINGS = {"training": "train", "val": "validation", "valid": "validation", "testing": "test"}
_AGAIN = "write it again with write_splits"


def write_splits(file: Path, rows: pd.DataFrame | Mapping[str, Any], splits: Sequence[Split]) -> None:
    """Write splits with the identities of their rows.

    Parameters
    ----------
    file : Path
        Parquet, or CSV by its ending. Columns: ``fold``, ``name``, ``part``, ``row``, and of ``study``, ``subject``,
        ``session``, ``trial``, ``window`` and ``stimulus`` those that `rows` has. Rows in no part of any fold stand
        there once, with fold -1 and part ``unused``.
    rows : DataFrame or mapping of columns, n_rows long
        The table that was split.
    splits : sequence of Split
        What `make_splits` returned.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    import pandas as pd

    blocks = [(s.fold, s.name, part, getattr(s, part)) for s in splits for part in PARTS]
    used = np.concatenate([b[3] for b in blocks]) if blocks else np.zeros(0, dtype=np.int64)
    blocks.append((-1, "", UNUSED, np.setdiff1d(np.arange(_length(rows)), used)))
    sizes = [len(b[3]) for b in blocks]
    row = np.concatenate([b[3] for b in blocks])
    columns: dict[str, Any] = {
        "fold": np.repeat([b[0] for b in blocks], sizes),
        "name": np.repeat([b[1] for b in blocks], sizes),
        "part": np.repeat([b[2] for b in blocks], sizes),
        "row": row,
    }
    columns |= {c: np.asarray(rows[c])[row] for c in (*KEYS, "stimulus") if c in rows}
    table = pd.DataFrame(columns)
    table.attrs["notes"] = {str(s.fold): list(s.notes) for s in splits if s.notes}  # pandas keeps them in Parquet
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        if file.suffix == ".csv":
            table.to_csv(part, index=False)
        else:
            table.to_parquet(part, index=False)
        part.replace(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror or error}); name a file in a folder") from error
    finally:
        part.unlink(missing_ok=True)


def read_splits(
    file: Path,
    rows: pd.DataFrame | Mapping[str, Any],
    y: ArrayLike | None = None,
    *,
    overlaps: bool = False,
) -> list[Split]:
    """Read splits for the rows of a table, from `write_splits` or any other tool.

    Parameters
    ----------
    file : Path
        Parquet, or CSV by its ending, with the columns ``fold``, ``part`` (train, validation or val, test),
        ``subject``, ``trial`` and of ``study``, ``session`` and ``window`` what tells the table's rows apart. Without
        ``window`` a line stands for all windows of its trial.
    rows : DataFrame or mapping of columns, n_rows long
        The table, in any order.
    y : array of int, shape (n_rows,), optional
        Class of each row. Rows without one (-1) then need not be in the file, and are in no part.
    overlaps : bool
        Accept a row in two parts of a fold; for an audit, whose job it is to find them.

    Returns
    -------
    list of Split
        Folds numbered from 0 in the order of the file's own numbers or names. Where the file has no column ``name``
        a fold whose own name is not its number has it as its name.

    Raises
    ------
    UserError
        If the file is damaged, lacks a column, was made for other rows, or puts a row into two parts of a fold.
    """
    table = _read(file)
    lacking = [c for c in _NEEDED if c not in table]
    if lacking:
        raise UserError(
            f"{file}: found no column {', '.join(lacking)} (its columns: {', '.join(map(str, table.columns))}), "
            "expected fold, part and the identity of the rows (subject, trial, where there are any study, session, "
            "window), with commas between; add it"
        )
    if not len(table):
        raise UserError(f"{file}: found no rows, expected one for each row of a part; {_AGAIN}")
    parts = _texts(table["part"])
    parts = np.array([_SPELLINGS.get(p.lower(), p.lower()) for p in parts.tolist()])
    odd = sorted(set(parts.tolist()) - {*PARTS, UNUSED})
    if odd:
        raise UserError(f"{file}: found the part '{odd[0]}', expected train, validation, test or unused; rename it")
    of_line, of_row = _match(file, table, rows)
    labelled = np.ones(of_row.size, dtype=np.bool_) if y is None else np.asarray(y) >= 0
    extra = np.setdiff1d(of_line, of_row).size
    missing = np.count_nonzero(~np.isin(of_row, of_line) & labelled)
    if extra or missing:
        raise UserError(
            f"{file}: was made for other rows: {missing} of the table's {of_row.size} rows are missing in it, and "
            f"{extra} of the {np.unique(of_line).size} it names are extra; make it again from this table (rows not "
            f"to be used: part {UNUSED})"
        )
    return _assemble(file, table, parts, of_line, of_row, labelled, overlaps)


def split_hash(rows: pd.DataFrame | Mapping[str, Any], splits: Sequence[Split]) -> str:
    """Return 16 hex digits that name who trains, validates and tests, in whatever order the rows come.

    It is made of the identities (study, subject, session, trial, window) in each part of each fold: equal hashes are
    equal splits of equal rows.
    """
    names = np.full(_length(rows), "")
    for column in KEYS:
        if column in rows:
            names = np.char.add(np.char.add(names, f"{column}="), np.char.add(_texts(rows[column]), "\t"))
    digest = hashlib.sha256()
    for split in sorted(splits, key=lambda s: s.fold):
        for part in PARTS:
            digest.update(f"{split.fold}/{part}\n".encode())
            digest.update("\n".join(np.sort(names[getattr(split, part)]).tolist()).encode())
            digest.update(b"\n")
    return digest.hexdigest()[:16]


def _read(file: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        if file.is_dir():  # Parquet would take a folder for a table in pieces
            raise OSError("a folder")
        if file.suffix == ".csv":
            # As text, since a subject "01" is not 1; spreadsheets begin theirs with a mark that utf-8-sig takes off.
            return pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        return pd.read_parquet(file)
    except FileNotFoundError as error:
        raise UserError(f"{file}: found no such file, expected splits as Parquet or CSV; {_AGAIN}") from error
    except (OSError, ValueError) as error:  # the parsers' own errors are ValueErrors
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file}: cannot be read ({why}), expected splits as Parquet or CSV; {_AGAIN}") from error


def _match(file: Path, table: pd.DataFrame, rows: pd.DataFrame | Mapping[str, Any]) -> tuple[Ints, Ints]:
    """Number the identities of the file's lines and of the table's rows alike, shapes (n_lines,) and (n_rows,)."""
    lines, size = len(table), _length(rows)
    both = [c for c in KEYS if c in table and c in rows]
    joined = {c: np.concatenate([_texts(table[c]), _texts(rows[c])]) for c in both}
    code = identity_codes(joined, tuple(both))
    of_line, of_row = code[:lines], code[lines:]
    if "row" in table:  # where rows have equal identities their numbers tell them apart, if the order is still the same
        texts = _texts(table["row"])
        if np.char.isdigit(texts).all():
            number = texts.astype(np.int64)
            if number.max() < size and (of_row[number] == of_line).all():
                return number, np.arange(size)
    if "window" in table and "window" not in rows:
        raise UserError(f"{file}: found the column window, which the table lacks; add it there, or take it out here")
    for here, there, what in ((rows, table, "the file"), (table, rows, "the table")):
        full = [c for c in KEYS[:-1] if c in here]
        merged = [c for c in full if c not in there]
        fewer = [c for c in full if c in there]
        if merged and _count(here, full) > _count(here, fewer):
            raise UserError(f"{file}: found no column {', '.join(merged)} in {what}, which tells trials apart; add it")
    return of_line, of_row


def _count(rows: pd.DataFrame | Mapping[str, Any], columns: Sequence[str]) -> int:
    return int(np.unique(identity_codes({c: _texts(rows[c]) for c in columns}, tuple(columns))).size)


def _assemble(
    file: Path,
    table: pd.DataFrame,
    parts: NDArray[np.str_],
    of_line: Ints,
    of_row: Ints,
    labelled: NDArray[np.bool_],
    overlaps: bool,
) -> list[Split]:
    """Gather the lines of each fold and part into row numbers."""
    own = _texts(table["fold"])
    names = _texts(table["name"]) if "name" in table else None
    kept = table.attrs.get("notes", {})
    found = []
    for number, fold in enumerate(_in_order(np.unique(own[parts != UNUSED]).tolist())):
        mine = own == fold
        train, validation, test = (
            np.flatnonzero(np.isin(of_row, of_line[mine & (parts == part)]) & labelled) for part in PARTS
        )
        rows = np.concatenate([train, validation, test])
        twice = rows.size - np.unique(rows).size
        if twice and not overlaps:
            raise UserError(
                f"{file}: found {twice} rows in two parts of fold {fold}, expected each in one; if they differ by "
                "window, add that column to the file and the table, else put each into one part"
            )
        for part, some in (("train", train), ("test", test)):
            if not some.size:
                raise UserError(f"{file}: found no labelled row to {part} on in fold {fold}, expected some; add them")
        notes = tuple(kept.get(fold, ()))
        if not validation.size:
            notes = (*notes, f"fold {number}: the file names no rows for validation")
        name = "" if fold == str(number) else fold
        found.append(Split(number, train, validation, test, notes, name if names is None else str(names[mine][0])))
    if not found:
        raise UserError(f"{file}: found only the part {UNUSED}, expected train and test; {_AGAIN}")
    return found


def _in_order(folds: list[str]) -> list[str]:
    """Sort folds by number where all are numbers, else by name."""
    numbers = all(f.removeprefix("-").isdigit() for f in folds)
    return sorted(folds, key=int) if numbers else sorted(folds)


def _length(rows: pd.DataFrame | Mapping[str, Any]) -> int:
    return len(rows["subject"])


def _texts(column: Any) -> NDArray[np.str_]:
    """Return a column as text, shape (n,): 3 and 3.0 alike, and what is missing empty."""
    values = np.asarray(column)
    if values.dtype.kind in "iub":
        return values.astype(np.str_)
    known, inverse = np.unique(values.astype(np.str_), return_inverse=True)
    plain = [v[:-2] if v.endswith(".0") and v[:-2].removeprefix("-").isdigit() else v for v in known.tolist()]
    plain = ["" if v in ("nan", "NaN", "None", "<NA>") else v.strip() for v in plain]
    return np.array(plain, dtype=np.str_)[inverse] if plain else np.zeros(0, dtype=np.str_)
