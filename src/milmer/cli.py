"""The command line: one verb a step, from recordings to a report."""

from __future__ import annotations

import errno
import sys
from typing import Annotated

import typer

from milmer import __version__, console
from milmer.commands import ablate, audit, data, judge, learn, pretrain, studies, use
from milmer.commands.app import STOPPED, VERBS, app
from milmer.errors import UserError

__all__ = ["VERBS", "app", "main"]
_REGISTERED = (data, audit, pretrain, learn, judge, ablate, use, studies)  # importing them registers their verbs


def _version(wanted: bool) -> None:
    if wanted:
        console.say(f"milmer {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


def main() -> None:
    """Run the command line; a user's mistake ends in one line and exit code 2."""
    try:
        code = app(standalone_mode=False)
        if code == STOPPED:  # the option parser turns Ctrl-C into a code of its own
            raise KeyboardInterrupt
    except UserError as error:
        console.fail(str(error))
        code = 2
    except KeyboardInterrupt:
        console.fail("stopped; what was finished is kept, and the same command goes on from there")
        code = STOPPED
    except OSError as error:
        if error.errno == errno.EPIPE:
            code = 0
        elif error.errno == errno.ENOSPC:
            console.fail(f"{error.filename or 'the disk'}: no space left; make room and run the same command again")
            code = 2
        elif isinstance(error, PermissionError):
            console.fail(
                f"{error.filename or 'a file'}: found {error.strerror}, expected to read or write it; change its rights"
            )
            code = 2
        else:
            raise
    except Exception as error:
        if not hasattr(error, "format_message"):  # what the option parser raises, whichever click it comes from
            raise
        console.fail(f"{error.format_message()} (--help shows what there is)")
        code = 2
    sys.exit(abs(code or 0))
