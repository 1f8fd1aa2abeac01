"""Pages and pictures on disk: a template filled in, a file that is whole or not there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from milmer.errors import UserError

TEMPLATES = Path(__file__).parent / "templates"


def fill(template: str, content: Mapping[str, Any]) -> str:
    """Fill in a template of the package; a name that it uses and `content` lacks is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(content)


def write_file(file: Path, content: str | bytes) -> Path:
    """Write under another name, then rename; return `file`.

    Raises
    ------
    UserError
        If it cannot be written.
    """
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        part.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise UserError(f"{file}: cannot be written ({error.strerror}); make room or mend its permissions") from error
    return file
