"""Where DEAP keeps its files, in all of its forms: the table, the videos, folders of signals."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from milmer.datasets.deap_ratings import Row
from milmer.datasets.folders import inside, not_understood, numbers
from milmer.errors import UserError

PYTHON, MATLAB, RAW = "data_preprocessed_python", "data_preprocessed_matlab", "data_original"
VIDEOS, TABLE = "face_video", "metadata_csv/participant_ratings.csv"
EXAMPLES = {PYTHON: f"{PYTHON}/s01.dat", MATLAB: f"{MATLAB}/s01.mat", RAW: f"{RAW}/s01.bdf"}
PARTICIPANTS, TRIALS, FILMED = 32, 40, 22  # faces were filmed of s01-s22
NOT_FILMED: Mapping[int, tuple[int, ...]] = {3: (40,), 5: (40,), 11: (38, 39, 40), 14: (40,)}  # nowhere to be had
_VIDEO_NAME = re.compile(r"s\d+_trial(\d+)\.avi", re.IGNORECASE)


def layout(folders: Sequence[str]) -> str:
    """What a study with signals in one of `folders` looks like, for messages."""
    return f"{' or '.join(EXAMPLES[f] for f in folders)}, {VIDEOS}/s01/s01_trial01.avi and {TABLE}"


def find_videos(root: Path, key: str, rows: Sequence[Row]) -> tuple[dict[int, Path], list[str]]:
    """Return a subject's videos by trial (the order of presentation), and what is odd about them.

    Raises
    ------
    UserError
        If two videos have one trial's number, or the folder cannot be read.
    """
    folder = root / VIDEOS / key
    if not folder.is_dir():
        return {}, [f"{folder.relative_to(root)} is missing: no videos"]
    found: dict[int, Path] = {}
    for path in inside(folder):
        match = _VIDEO_NAME.fullmatch(path.name)
        if match and path.name.lower().startswith(f"{key}_"):
            if twin := found.get(int(match[1])):
                raise UserError(f"{path}: {twin.name} claims trial {int(match[1])} too; move one away")
            found[int(match[1])] = path
    known = {row.trial for row in rows}
    notes = []
    if missing := sorted(known - set(found)):
        notes.append(f"no video of trial {', '.join(map(str, missing))}")
    if extra := sorted(set(found) - known):
        notes.append(f"left out, for no row has its number: {', '.join(found[t].name for t in extra)}")
    return {t: path for t, path in found.items() if t in known}, notes


def numbered(folder: Path, suffix: str = "") -> set[int]:
    """Participants that have something in `folder`: ``s01`` and so on, with the ending `suffix`."""
    if not folder.is_dir():
        return set()
    matches = (_name_of(suffix).fullmatch(path.name) for path in inside(folder))
    return {int(match[1]) for match in matches if match}


def _name_of(suffix: str) -> re.Pattern[str]:
    return re.compile(rf"s(\d{{2,}}){re.escape(suffix)}")


def missing_of_deap(
    root: Path, folders: Sequence[str], table: Mapping[int, Sequence[Row]], found: set[int]
) -> list[str]:
    """Say what is missing against what DEAP's publisher gives out, which videos nobody has, what is no file of it."""
    lines = []
    for name, example in EXAMPLES.items():
        folder = root / name
        if name in folders and folder.is_dir():
            suffix = Path(example).suffix
            strange = [
                p for p in inside(folder) if p.suffix.lower() == suffix and not _name_of(suffix).fullmatch(p.name)
            ]
            lines += not_understood(folder, strange, Path(example).name)
    everybody = set(range(1, PARTICIPANTS + 1))
    if gone := sorted(everybody - set(table)):
        lines.append(f"{TABLE} has no rows of {_people(gone)}")
    if gone := sorted((everybody & set(table)) - found):
        lines.append(f"no file of {_people(gone)}: not unpacked?")
    if few := [f"s{n:02d} ({len(rows)})" for n, rows in sorted(table.items()) if len(rows) != TRIALS]:
        lines.append(f"not {TRIALS} rows of {', '.join(few)}")
    if not (root / VIDEOS).is_dir():
        return [*lines, f"{VIDEOS} is missing: 874 videos of s01-s{FILMED}"]
    lost, never = [], []
    for number in sorted(found & set(range(1, FILMED + 1)) & set(table)):
        key = f"s{number:02d}"
        try:
            videos, _ = find_videos(root, key, table[number])
        except UserError:  # this participant is refused, which is said elsewhere
            continue
        absent = {row.trial for row in table[number]} - set(videos)
        known = set(NOT_FILMED.get(number, ()))
        if gone := sorted(absent - known):
            lost.append(f"{key} trial {numbers(gone)}")
        if gone := sorted(absent & known):
            never.append(f"{key} trial {numbers(gone)}")
    if lost:
        lines.append(f"videos that the publisher has: {', '.join(lost)}")
    if never:
        lines.append(f"videos that nobody has: {', '.join(never)}")
    return lines


def _people(found: Sequence[int]) -> str:
    """Write participants with their runs: ``s01, s03-s05``."""
    return re.sub(r"\d+", lambda match: f"s{int(match[0]):02d}", numbers(found))


def check_layout(root: Path, folders: Sequence[str], faces: bool) -> None:
    """Refuse a root without the table, or without signals in one of `folders` or, where `faces` will do, videos.

    Raises
    ------
    UserError
        Naming what was found, and the likely root where it is near.
    """

    def is_root(folder: Path) -> bool:
        enough = (*folders, VIDEOS) if faces else folders
        return (folder / TABLE).is_file() and any((folder / name).is_dir() for name in enough)

    if is_root(root):
        return
    expected = layout(folders)
    if not root.is_dir():
        what = "a file" if root.exists() else "nothing"
        raise UserError(f"{root}: found {what}, expected a folder with {expected}")
    children = sorted(p for p in root.iterdir() if p.is_dir())
    above = root.resolve()
    likely = [p for p in (above.parent, above.parent.parent) if is_root(p)] + [p for p in children if is_root(p)]
    here = ", ".join(p.name for p in children[:6]) or "no folders"
    mend = f"give {' or '.join(str(p) for p in likely[:3])} instead" if likely else "unpack DEAP's archives there"
    others = [f for f in EXAMPLES if f not in folders and (root / f).is_dir()]
    if (root / TABLE).is_file() and others:
        form = "deap-raw" if others == [RAW] else "deap"
        mend = f"{others[0]} is read by 'milmer prepare {form}'"
    elif any((root / name).is_dir() for name in (*folders, VIDEOS)):
        mend = f"{TABLE} is missing: unpack metadata_csv.zip there"
    raise UserError(f"{root}: found {here}, expected {expected}; {mend}")
