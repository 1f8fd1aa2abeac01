"""The file that is open now, and no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

Content = TypeVar("Content")


class LastOpened(Generic[Content]):
    """Keeps the content of the file asked for last, so that a study's trials share one reading of it.

    Asking for another file lets the former go: memory is that of one file, however many recordings a study has.
    What it keeps does not travel to other processes.
    """

    def __init__(self) -> None:
        self._kept: tuple[Path, Content] | None = None

    def get(self, path: Path, read: Callable[[Path], Content]) -> Content:
        """Return what `read` makes of `path`, reading it only where another file was asked for before."""
        kept = self._kept
        if kept is not None and kept[0] == path:
            return kept[1]
        self._kept = None  # let go first, so that two are never held at once
        content = read(path)
        self._kept = (path, content)
        return content

    def release(self) -> None:
        """Let the content go."""
        self._kept = None

    def __getstate__(self) -> dict[str, None]:
        return {"_kept": None}
