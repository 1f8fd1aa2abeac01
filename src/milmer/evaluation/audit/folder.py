"""The folder an audit is written into: made first, so that it is known to be writable; taken away if nothing comes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from milmer.errors import UserError


@contextlib.contextmanager
def made(out: Path) -> Iterator[None]:
    """Make a folder for what the block writes; where the block fails or is stopped, take away what was made and empty.

    Raises
    ------
    UserError
        If `out` is a file, cannot be made, or holds a run.
    """
    if out.is_file():
        raise UserError(f"{out}: is a file, expected a folder to write; give another --out")
    new = [p for p in (out, *out.parents) if not p.exists()]  # the innermost first
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); give another --out") from error
    if (out / "run.json").exists():
        raise UserError(f"{out}: holds a run; give another --out, and --run {out} to audit that run")
    try:
        yield
    except BaseException:  # Ctrl-C too
        for folder in new:
            with contextlib.suppress(OSError):  # not empty: somebody's files are in it
                folder.rmdir()
        raise
