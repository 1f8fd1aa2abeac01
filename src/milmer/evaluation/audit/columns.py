"""Columns of another toolkit's tables under our names: metadata from CSV or Parquet; see docs/audit.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milmer.errors import UserError, nearest

# Our name first; the first found wins. Names are compared without case.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "sample": ("sample", "sample_id", "clip_id", "id", "window_id"),
    "study": ("study", "dataset", "study_id", "dataset_id"),
    "subject": ("subject", "subject_id", "participant", "participant_id"),
    "session": ("session", "session_id"),
    "recording": ("recording", "recording_id", "run", "run_id", "file"),
    "trial": ("trial", "trial_id"),
    "stimulus": ("stimulus", "stimulus_id", "video", "video_id", "film", "clip_name", "movie"),
    "start": ("start", "start_at", "start_s", "onset_in_trial"),
    "stop": ("stop", "end_at", "stop_at", "end", "stop_s", "end_s"),
    "order": ("order", "presentation", "trial_order"),
    "onset": ("onset", "onset_s"),
    "label": ("label", "class", "target", "emotion", "y", "y_true"),
}
RATINGS = ("valence", "arousal", "dominance", "liking", "familiarity")
# torcheeg's databases number clips anew in each record: there a clip is named by both columns.
RECORD = "_record_id"


def read_table(file: Path, what: str) -> pd.DataFrame:
    """Read CSV or Parquet, by the name's ending.

    Raises
    ------
    UserError
        If there is no such file, it is neither, not readable, or has no row.
    """
    path = Path(file)
    if not path.is_file():
        raise UserError(f"{what} {path}: found no such file, expected CSV or Parquet; check the path")
    ending = path.suffix.lower()
    if ending not in (".csv", ".tsv", ".parquet"):
        raise UserError(f"{what} {path}: found '{ending}', expected .csv, .tsv or .parquet; convert the table")
    if ending != ".parquet":
        _check_separator(path, what, "\t" if ending == ".tsv" else ",")
    try:
        table = (
            pd.read_parquet(path) if ending == ".parquet" else pd.read_csv(path, sep="\t" if ending == ".tsv" else ",")
        )
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        first = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise UserError(f"{what} {path}: not readable ({first[0]}); write it again as CSV or Parquet") from error
    if not len(table):
        raise UserError(f"{what} {path}: found no row, expected one a sample; write the table again")
    table.columns = [str(c).strip() for c in table.columns]
    return table


def _check_separator(path: Path, what: str, separator: str) -> None:
    """Refuse a table whose first line has other separators than its name says."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            first = file.readline().strip()
    except OSError:
        return  # the reader says what is wrong with it
    if separator in first:
        return
    for sign, name in ((";", "semicolons"), ("\t", "tabs"), (",", "commas")):
        if sign in first:
            kind = "tabs" if separator == "\t" else "commas"
            raise UserError(
                f"{what} {path}: its columns seem separated by {name} ('{first[:60]}'), expected {kind}; save it with "
                f"{kind} between the columns"
            )


def read_metadata(file: Path) -> pd.DataFrame:
    """Read one row a sample (a window, or a trial), under our names of columns.

    Returns
    -------
    DataFrame
        ``sample`` (text, unique), ``subject``, ``trial``, and those there are of ``study``, ``session``,
        ``recording``, ``stimulus``, ``start``, ``stop``, ``order``, ``onset``, ``label``, ``rating_<name>``.

    Raises
    ------
    UserError
        If ``subject`` or ``trial`` is missing or has gaps, samples are named twice, or times are no numbers.
    """
    raw = read_table(file, "metadata")
    table = named(raw)
    for column in ("subject", "trial"):
        if column not in table:
            raise UserError(
                f"metadata {file}: found no column {either(ALIASES[column])} among {few(raw.columns)}, expected one; "
                f"add it{nearest(column, raw.columns)}"
            )
        if (gaps := int(table[column].isna().sum())) > 0:
            raise UserError(f"metadata {file}: found {gaps} rows without '{column}', expected one in each; fill it in")
    for column in ("start", "stop", "order", "onset"):
        if column in table:
            table[column] = numbers(table[column], file, column)
    if ("start" in table) != ("stop" in table):
        table = table.drop(columns=[c for c in ("start", "stop") if c in table])
    if "start" in table and bool((table["stop"] <= table["start"]).any()):
        bad = int(np.flatnonzero(table["stop"] <= table["start"])[0])
        raise UserError(
            f"metadata {file}: row {bad + 1} stops at {table['stop'].iloc[bad]:g} and starts at "
            f"{table['start'].iloc[bad]:g}, expected stop after start; mend the times"
        )
    for rating in RATINGS:
        found = next((c for c in raw.columns if c.lower() in (rating, f"rating_{rating}")), None)
        if found is not None:
            table[f"rating_{rating}"] = numbers(raw[found], file, found)
    if "sample" in table:
        again = table["sample"][table["sample"].duplicated()]
        if len(again):
            raise UserError(
                f"metadata {file}: {len(again)} samples are named twice or more, such as '{again.iloc[0]}'; expected "
                "each once: take the copies out, or name samples apart"
            )
    return table


def named(raw: pd.DataFrame) -> pd.DataFrame:
    """Return the columns we know under our names."""
    lower = {c.lower(): c for c in reversed(list(raw.columns))}
    table = {}
    for name, aliases in ALIASES.items():
        found = next((lower[a] for a in aliases if a in lower), None)
        if found is not None:
            table[name] = raw[found]
    out = pd.DataFrame(table, index=raw.index)
    if "sample" in out:
        out["sample"] = text_of(out["sample"])
        if RECORD in raw.columns:
            out["clip"] = out["sample"]  # a table that names no record may still name clips apart
            out["sample"] = text_of(raw[RECORD]) + " " + out["sample"]
    return out


def first_of(table: pd.DataFrame, names: Iterable[str]) -> str | None:
    """Return the column whose name is the first of `names` that is there, whatever its case."""
    lower = {c.lower(): c for c in reversed(list(table.columns))}
    return next((lower[n] for n in names if n in lower), None)


def text_of(values: pd.Series) -> pd.Series:
    """Return names as text, '' where there is none; 3 and 3.0 are one name."""
    if pd.api.types.is_float_dtype(values):
        return values.map(lambda v: "" if v != v else f"{v:.0f}" if v == round(v) else repr(float(v)))
    text = values.astype(object).where(values.notna(), "")
    return text.map(lambda v: str(v).strip())


def class_names(values: pd.Series) -> NDArray[np.object_]:
    """Return names of classes as text, None where there is none."""
    text: NDArray[np.object_] = text_of(values).to_numpy(dtype=object)  # (n,)
    text[values.isna().to_numpy()] = None
    return text


def keys_of(table: pd.DataFrame, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Return what names each row, as text."""
    return list(zip(*(text_of(table[c]).tolist() for c in columns), strict=True))


def numbers(values: pd.Series, file: Path, column: str) -> pd.Series:
    """Return a column as floats, or say that it holds something else."""
    try:
        return pd.to_numeric(values).astype(np.float64)
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: column '{column}' holds no numbers ({error}); expected numbers or nothing") from error


def natural(name: object) -> list[tuple[int, int, str]]:
    """Sort fold 10 after fold 9."""
    pieces = re.split(r"(\d+)", str(name))
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in pieces if p]


def few(names: Iterable[object], most: int = 8) -> str:
    """Return the first names in one line."""
    all_names = [str(n) for n in names]
    return ", ".join(all_names[:most]) + (" ..." if len(all_names) > most else "")


def either(names: Sequence[str]) -> str:
    """Return names to choose from in one line."""
    return " or ".join(f"'{n}'" for n in names[:3])
