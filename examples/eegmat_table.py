"""Write the table of the PhysioNet set "EEG During Mental Arithmetic Tasks" for `milmer prepare table`.

    python examples/eegmat_table.py FOLDER OUT.csv

FOLDER holds ``SubjectNN_1.edf`` (rest) and ``SubjectNN_2.edf`` (mental arithmetic). Each file becomes one trial of
60 s: rest is recorded for three minutes and arithmetic for one, and a classifier should not live on that. Both cuts
leave a second of the file on either side, so that no class is marked by the edge of a recording. ``--whole`` takes
the whole files instead.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
from pathlib import Path

COLUMNS = ("subject", "trial", "stimulus", "eeg_path", "eeg_start_s", "eeg_stop_s", "label")
LABELS = {"1": "rest", "2": "arithmetic"}
MARGIN, LENGTH = 1, 60  # s


def edf_seconds(path: Path) -> float:
    """Return an EDF file's length: its header's number of records times their duration."""
    with path.open("rb") as file:
        header = file.read(256)
    return int(header[236:244]) * float(header[244:252])


def rows(folder: Path, out: Path, *, whole: bool = False) -> list[dict[str, str | float]]:
    """Return one row a file, with paths as seen from the table's folder."""
    found: list[dict[str, str | float]] = []
    for path in sorted(folder.glob("Subject*_*.edf")):
        match = re.fullmatch(r"Subject(\d+)_([12])\.edf", path.name)
        if match is None:
            continue
        stop = edf_seconds(path) - MARGIN  # the end of rest: the minute before the task
        span: tuple[str | float, str | float] = ("", "") if whole else (max(0.0, stop - LENGTH), stop)
        try:
            relative = os.path.relpath(path.resolve(), out.resolve().parent)
        except ValueError:  # another drive
            relative = str(path.resolve())
        label = LABELS[match[2]]
        values = (f"s{match[1]}", match[2], label, Path(relative).as_posix(), *span, label)
        found.append(dict(zip(COLUMNS, values, strict=True)))
    return found


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description="Write the table of the eegmat set for 'milmer prepare table'.")
    parser.add_argument("folder", type=Path, help="folder of SubjectNN_1.edf and SubjectNN_2.edf")
    parser.add_argument("out", type=Path, help="table to write, such as eegmat.csv")
    parser.add_argument("--whole", action="store_true", help="whole files instead of 60 s of each")
    given = parser.parse_args()
    table = rows(given.folder, given.out, whole=given.whole)
    if not table:
        parser.error(f"{given.folder}: found no SubjectNN_1.edf and SubjectNN_2.edf; give the folder that holds them")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with given.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    main()
