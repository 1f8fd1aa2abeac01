"""Where DEAP keeps its files, in all of its forms: the table, the videos, folders of signals."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from milmer.datasets.deap_ratings import Row
from milmer.errors import UserError

PYTHON, MATLAB, RAW = "data_preprocessed_python", "data_preprocessed_matlab", "data_original"
VIDEOS, TABLE = "face_video", "metadata_csv/participant_ratings.csv"
EXAMPLES = {PYTHON: f"{PYTHON}/s01.dat", MATLAB: f"{MATLAB}/s01.mat", RAW: f"{RAW}/s01.bdf"}
_VIDEO_NAME = re.compile(r"s\d+_trial(\d+)\.avi", re.IGNORECASE)


def layout(folders: Sequence[str]) -> str:
    """What a study with signals in one of `folders` looks like, for messages."""
    return f"{' or '.join(EXAMPLES[f] for f in folders)}, {VIDEOS}/s01/s01_trial01.avi and {TABLE}"


def find_videos(root: Path, key: str, rows: Sequence[Row]) -> tuple[dict[int, Path], list[str]]:
    """Return a subject's videos by trial (the order of presentation), and what is odd about them."""
    folder = root / VIDEOS / key
    if not folder.is_dir():
        return {}, [f"{folder.relative_to(root)} is missing: no videos"]
    found = {}
    for path in sorted(folder.iterdir()):
        match = _VIDEO_NAME.fullmatch(path.name)
        if match and path.name.lower().startswith(f"{key}_"):
            found[int(match[1])] = path
    known = {row.trial for row in rows}
    notes = []
    if missing := sorted(known - set(found)):
        notes.append(f"no video of trial {', '.join(map(str, missing))}")
    if extra := sorted(set(found) - known):
        notes.append(f"left out, for no row has its number: {', '.join(found[t].name for t in extra)}")
    return {t: path for t, path in found.items() if t in known}, notes


def numbered(folder: Path, pattern: str) -> set[int]:
    """Participants that have something in `folder`: `pattern` has one group, their number."""
    if not folder.is_dir():
        return set()
    matches = (re.fullmatch(pattern, path.name) for path in folder.iterdir())
    return {int(match[1]) for match in matches if match}


def check_layout(root: Path, folders: Sequence[str]) -> None:
    """Refuse a root without the table, or with neither videos nor signals in one of `folders`.

    Raises
    ------
    UserError
        Naming what was found, and the likely root where it is near.
    """

    def is_root(folder: Path) -> bool:
        return (folder / TABLE).is_file() and any((folder / name).is_dir() for name in (*folders, VIDEOS))

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
    if (root / MATLAB).is_dir() and MATLAB not in folders and not any((root / f).is_dir() for f in folders):
        mend = "only the Python version of the preprocessed data is read: unpack data_preprocessed_python.zip there"
    elif any((root / name).is_dir() for name in (*folders, VIDEOS)):
        mend = f"{TABLE} is missing: unpack metadata_csv.zip there"
    raise UserError(f"{root}: found {here}, expected {expected}; {mend}")
