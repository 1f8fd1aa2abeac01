"""The page on how the house is built names every module, each in its room, and no module that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/milmer"
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def rooms() -> dict[str, str]:
    """Return the text below each heading that is a room: ``### `evaluation/` ``; `milmer/` is the package itself."""
    parts = re.split(r"^#{2,3} (.*)$", PAGE, flags=re.M)
    found = {}
    for heading, text in zip(parts[1::2], parts[2::2], strict=True):
        if match := re.fullmatch(r"`([\w/]+)/`", heading):
            found["" if match[1] == "milmer" else match[1]] = text
    return found


def named(text: str) -> list[str]:
    """Names of Python files in code marks, with what folder they are written with."""
    return re.findall(r"`([\w/]+\.py)`", text)


def modules() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        if file.name != "__init__.py":
            found.setdefault(file.parent.relative_to(PACKAGE).as_posix().removeprefix("."), set()).add(file.name)
    return found


def test_every_room_is_there() -> None:
    assert set(rooms()) == set(modules())


@pytest.mark.parametrize("room", sorted(modules()))
def test_a_room_names_its_files_once_each(room: str) -> None:
    assert sorted(named(rooms()[room])) == sorted(modules()[room])


def test_what_is_named_anywhere_exists() -> None:
    files = {p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py")}
    last = {f.rsplit("/", 1)[-1] for f in files}
    gone = [n for n in named(PAGE) if n not in files and n not in last and not (ROOT / n).exists()]
    assert gone == []
