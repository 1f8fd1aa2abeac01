"""Folders as publishers name them, and what is said of files in them that are missing or cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from milmer.datasets.base import Recording
from milmer.errors import UserError


@dataclass(frozen=True)
class Refusal:
    """The check of a recording that cannot be read: raises why."""

    why: str

    def __call__(self) -> Sequence[str]:
        """Raise `UserError`."""
        raise UserError(self.why)


def unreadable(key: str, error: UserError, sources: Iterable[Path]) -> Recording:
    """Return a recording without trials that is refused with `error` when it is checked; the others go on."""
    return Recording(key, (), [p for p in sources if _is_there(p)], notes=(str(error),), check=Refusal(str(error)))


def inside(folder: Path) -> list[Path]:
    """What is in a folder, by name.

    Raises
    ------
    UserError
        If the system does not let it be read.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); check the path and its permissions") from error


def find_folder(root: Path, name: str, layout: str) -> Path:
    """Return the folder `name` in `root` (upper and lower case are the same), or `root` where it has that name.

    Parameters
    ----------
    root : Path
        What the user gave.
    name : str
        The publisher's name of the folder.
    layout : str
        What is expected, for the error.

    Raises
    ------
    UserError
        If there is no such folder, with the likely one where it is near.
    """
    if not root.is_dir():
        what = "a file" if root.exists() else "nothing"
        raise UserError(f"{root}: found {what}, expected a folder with {layout}")
    found = _child(root, name)
    if found is not None:
        return found
    if root.resolve().name.lower() == name.lower():
        return root
    children = [p for p in inside(root) if p.is_dir()]
    likely = [p for p in (*children, root.resolve().parent) if _child(p, name) is not None]
    here = ", ".join(p.name for p in children[:6]) or "no folders"
    mend = (
        f"give {' or '.join(str(p) for p in likely[:3])} instead" if likely else "unpack the publisher's archive there"
    )
    raise UserError(f"{root}: found {here}, expected {layout}; {mend}")


def numbers(values: Iterable[int]) -> str:
    """Write whole numbers with their runs: ``1, 3-5``."""
    runs: list[list[int]] = []
    for value in sorted(set(values)):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def not_understood(folder: Path, paths: Iterable[Path], expected: str) -> list[str]:
    """One line that names the files of a folder that no loader takes; none where there is none."""
    names = sorted(p.name for p in paths if not p.name.startswith("."))  # macOS leaves such beside copies
    if not names:
        return []
    some = ", ".join(names[:6]) + (" ..." if len(names) > 6 else "")
    return [f"{folder.name}: {len(names)} files are skipped, for their names are not like {expected}: {some}"]


def _child(folder: Path, name: str) -> Path | None:
    if not folder.is_dir():
        return None
    try:
        return next((p for p in inside(folder) if p.is_dir() and p.name.lower() == name.lower()), None)
    except UserError:  # a folder beside the one that was given
        return None


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # in a folder that must not be read
        return False
