"""One typed configuration for everything: preset < ``--config`` file < flags. Unknown keys are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from milmer.errors import UserError, nearest
from milmer.sections import (
    CCA,
    EEG_TOKENS,
    Balancing,
    Component,
    Config,
    Data,
    EEGPreparation,
    Evaluation,
    FacePreparation,
    Fusion,
    Model,
    Preparation,
    Section,
    Selection,
    Training,
)

__all__ = [
    "CCA",
    "EEG_TOKENS",
    "Balancing",
    "Component",
    "Config",
    "Data",
    "EEGPreparation",
    "Evaluation",
    "FacePreparation",
    "Fusion",
    "Model",
    "Preparation",
    "Section",
    "Selection",
    "Training",
    "differences",
    "dump",
    "load_config",
    "preset_names",
    "split_pair",
    "validate",
]

PRESETS = Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(p.stem for p in PRESETS.glob("*.yaml"))


def load_config(
    preset: str | None = None,
    file: Path | None = None,
    overrides: list[str] | dict[str, Any] | None = None,
) -> Config:
    """Resolve a configuration: preset, then file, then overrides.

    Parameters
    ----------
    preset : str, optional
        Name of a preset; without one the file's own ``preset`` or ``default``.
    file : Path, optional
        YAML with any part of the configuration (a run's config.yaml is whole).
    overrides : list of str or dict
        ``model.balancing.queries=32`` pairs (values are YAML), or the same as a dict of dotted keys.

    Raises
    ------
    UserError
        On an unknown key (with the nearest known name), a wrong value, or an unreadable file.
    """
    values: dict[str, Any] = {}
    given = _read_yaml(file) if file else {}
    pairs = overrides if isinstance(overrides, dict) else dict(split_pair(o) for o in overrides or [])
    preset = str(preset or pairs.get("preset") or given.get("preset") or "default")
    path = PRESETS / f"{preset}.yaml"
    names = preset_names()
    if preset not in names:
        raise UserError(f"preset '{preset}': known presets are {', '.join(names)}{nearest(preset, names)}")
    _merge(values, _read_yaml(path))
    _merge(values, given)
    values["preset"] = preset
    for key, value in pairs.items():
        if key == "preset":
            continue
        branch: dict[str, Any] = {}
        leaf = branch
        *parents, last = key.split(".")
        for name in parents:
            leaf = leaf.setdefault(name, {})
        leaf[last] = value
        _merge(values, branch)
    return validate(values, str(file) if file else "options")


def validate(values: dict[str, Any], source: str) -> Config:
    """Check `values` and return the configuration; errors become one `UserError` that names `source`."""
    _refuse_unknown(values, Config, "", source)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first, *others = error.errors()
        # Of an option with several types, the location ends in the type that was tried last.
        where = ".".join(
            str(p) for p in first["loc"] if str(p) not in ("int", "float", "str") and not re.search(r"[\[-]", str(p))
        )
        found = f", found {first['input']!r}" if where and not isinstance(first["input"], BaseModel | dict) else ""
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "string_pattern_mismatch":  # the pattern of `evaluation.budget` says little to most people
            message, found = f"found {first['input']!r}, expected {_wanted(first['loc'])}", ""
        elif others and others[0]["loc"][:-1] == first["loc"][:-1] and others[0]["type"] == "literal_error":
            other = others[0].get("ctx", {}).get("expected", "")  # it may be of another type too
            message += f", or {other}" if other not in message else ""
        elif others and others[0]["loc"][:-1] == first["loc"][:-1] and first["type"] == "literal_error":
            message += f", or {others[0]['msg'].removeprefix('Input should be ')}"
        raise UserError(f"{source}: {where or 'configuration'}: {message}{found}") from error


def _wanted(location: Sequence[int | str]) -> str:
    """Return the description of the key at a location."""
    section: type[BaseModel] = Config
    for name in location[:-1]:
        kind = section.model_fields[str(name)].annotation
        assert isinstance(kind, type) and issubclass(kind, BaseModel)  # a pattern is on a section's own key
        section = kind
    return section.model_fields[str(location[-1])].description or ""


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Say in words where two dumped configurations differ: ``eeg.rate 128.0, asked for 256.0``."""
    found = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key} {a}, asked for {b}")
    return found


def dump(config: Config) -> str:
    """Return the whole configuration as YAML, a comment beside every key."""
    lines: list[str] = []
    _dump_section(config, lines, 0)
    return "\n".join(lines) + "\n"


def _dump_section(section: BaseModel, lines: list[str], depth: int) -> None:
    indent = "  " * depth
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            doc = (type(value).__doc__ or "").strip().splitlines()[0]
            lines += ([""] if depth == 0 else []) + [f"{indent}{name}:  # {doc}"]
            _dump_section(value, lines, depth + 1)
        else:
            plain = list(value) if isinstance(value, tuple) else value
            text = yaml.safe_dump(plain, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()
            lines.append(f"{indent}{name}: {text}" + (f"  # {info.description}" if info.description else ""))


def _refuse_unknown(values: Any, section: type[BaseModel], prefix: str, source: str) -> None:
    if not isinstance(values, dict):
        raise UserError(f"{source}: {prefix.rstrip('.') or 'the file'}: found {values!r}, expected keys and values")
    for key, value in values.items():
        info = section.model_fields.get(key)
        if info is None:
            raise UserError(f"{source}: unknown option '{prefix}{key}'{nearest(str(key), section.model_fields)}")
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            _refuse_unknown(value, kind, f"{prefix}{key}.", source)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such configuration file") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UserError(f"{path}: found {type(found).__name__}, expected keys and values (see 'milmer config')")
    return found


def _merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def split_pair(text: str) -> tuple[str, Any]:
    """Read ``KEY=VALUE``, the value as YAML."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise UserError(f"--set {text}: expected KEY=VALUE, such as model.balancing.queries=32")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: the value is not YAML: {' '.join(str(error).split())}") from error
