"""How long work tells of its progress; only the command line draws it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called as ``progress(done, total, text)``; `text` says what is in hand."""

    def __call__(self, done: int, total: int, text: str) -> None:
        """Take note of the progress."""
        ...


def silent(done: int, total: int, text: str) -> None:
    """Report nothing."""
