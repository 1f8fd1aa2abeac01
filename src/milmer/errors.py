"""What a user can mend is a `UserError`: one line, exit code 2, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in input, options or files that the user can mend.

    The message is one line: what it is about, what was found, what was expected, how to mend it.
    """


class DamagedStore(UserError):
    """A store whose files do not match what study.json and the recordings' own records say (exit code 1)."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known name closest to `name`, or an empty string."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{match[0]}'?)" if match else ""
