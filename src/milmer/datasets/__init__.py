"""Publishers' layouts, each read into the same `Trial`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from milmer.errors import UserError, nearest

if TYPE_CHECKING:
    from milmer.datasets.base import Study

STUDIES = ("deap", "table")


def open_study(name: str, root: Path) -> Study:
    """Open a study by the name of its layout.

    Raises
    ------
    UserError
        If there is no loader of that name.
    """
    if name == "deap":
        from milmer.datasets.deap import DeapStudy

        return DeapStudy(root)
    if name == "table":
        from milmer.datasets.table import TableStudy

        return TableStudy(root)
    raise UserError(f"study '{name}': known are {', '.join(STUDIES)}{nearest(name, STUDIES)}")
