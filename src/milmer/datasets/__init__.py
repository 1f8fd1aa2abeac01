"""Publishers' layouts, each read into the same `Trial`."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milmer.datasets.catalog import CATALOG
from milmer.errors import UserError, nearest

if TYPE_CHECKING:
    from milmer.datasets.base import Study

STUDIES = tuple(CATALOG)


def open_study(name: str, root: Path, called: str | None = None, **options: Any) -> Study:
    """Open a study by the name of its layout.

    Parameters
    ----------
    name : str
        One of `STUDIES`.
    root : Path
        Its folder, or its table.
    called : str, optional
        What the study is called in the store and wherever its figures go; without it, as the loader calls it.
    **options
        What only this loader understands.

    Raises
    ------
    UserError
        If there is no loader of that name, or the study cannot be called so.
    """
    if called is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", called):
        raise UserError(f"--name '{called}': expected one word of letters, digits, - and _, such as lab-2")
    if name not in CATALOG:
        raise UserError(f"study '{name}': known are {', '.join(STUDIES)}{nearest(name, STUDIES)}")
    module, _, kind = CATALOG[name].loader.partition(":")
    found: Study = getattr(import_module(f"milmer.datasets.{module}"), kind)(root, called, **options)
    return found
