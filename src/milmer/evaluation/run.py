"""A run's folder: checked and begun, its log, and JSON that other tools read."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from milmer.config import Config, differences, dump, load_config
from milmer.errors import UserError
from milmer.evaluation.protocols import Split, display_name
from milmer.evaluation.split_files import split_hash
from milmer.store import Store, file_hash, write_json

if TYPE_CHECKING:
    import pandas as pd


def check_run(kind: str, store: Store, config: Config, out: Path, resume: bool, test_store: Path | None = None) -> None:
    """Make the folder of a run, or check that the run in it is the same.

    Parameters
    ----------
    store : Store
        What the run reads: of two stores, both as one.
    test_store : Path, optional
        Where the second one is.

    Raises
    ------
    UserError
        If `out` holds another run, holds one and `resume` is false, or cannot be written.
    """
    record = out / "run.json"
    if record.exists():
        if not resume:
            raise UserError(f"{out}: holds a run already; add --resume to go on with it, or give another --out")
        old = load_config(file=out / "config.yaml")
        if old != config:
            differ = differences(old.model_dump(mode="json"), config.model_dump(mode="json"))
            raise UserError(f"{out}: was begun with {'; '.join(differ)}; resume with the same values")
        found = read_record(out)
        before = found.get("test_store")
        if (before is None) != (test_store is None):
            now = f"asked for {test_store}" if test_store else "asked for none"
            raise UserError(
                f"{out}: was begun with {f'--test-store {before}' if before else 'no --test-store'}, {now}; resume "
                "with the same, or give another --out"
            )
        if found["fingerprint"] != store.fingerprint:
            both = f" and {before}" if before else ""
            raise UserError(f"{out}: was begun on another store ({found['store']}{both}); give another --out")
        if found["kind"] != kind:
            raise UserError(f"{out}: holds a run of 'milmer {found['kind']}', not of 'milmer {kind}'")
        check_backbone(config, out)
        return
    if out.is_file() or (out.exists() and any(out.iterdir())):
        raise UserError(f"{out}: found files that are no run; give an empty or new folder as --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); give another --out") from error


def check_split(out: Path, rows: pd.DataFrame, splits: Sequence[Split], file: Path | None = None) -> dict[str, Any]:
    """Name a run's folds for its record; refuse to go on with others than it was begun with.

    Parameters
    ----------
    rows : DataFrame
        The table that `splits` point into.
    file : Path, optional
        Where they were read from; without it they are the protocol's own.

    Returns
    -------
    dict
        ``split_hash``, and ``splits`` (``file`` and its ``sha256``; None without a file).
    """
    digest = split_hash(rows, splits)
    if (out / "run.json").exists():
        found = read_record(out)
        if found.get("split_hash", digest) != digest:
            given = (found.get("splits") or {}).get("file")
            whose = f"those of --splits {given}" if given else "the protocol's own"
            raise UserError(
                f"{out}: was begun with other folds, {whose} (split hash {found['split_hash']}, now {digest}); resume "
                "with the same, or give another --out"
            )
    about = None if file is None else {"file": file.name, "sha256": file_hash(file)}
    return {"split_hash": digest, "splits": about}


def begin_run(
    kind: str, store: Store, config: Config, out: Path, more: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Write what a run is into `out`, unless it is there; to be called when its options are known to be usable.

    `more` goes into run.json as it is.
    """
    record = out / "run.json"
    if record.exists():
        return
    (out / "config.yaml").write_text(dump(config), encoding="utf-8")
    versions = {n: importlib.metadata.version(n) for n in ("milmer", "torch", "lightning", "transformers", "numpy")}
    write_json(
        record,
        {
            "kind": kind,
            "protocol": config.evaluation.protocol,
            "protocol_name": display_name(config.evaluation.protocol),
            "store": str(store.path.resolve()),
            "study": store.name,
            "fingerprint": store.fingerprint,
            "backbone": backbone_hash(config),
            "versions": versions | {"python": platform.python_version()},
            "failed": [],
            "complete": False,
        }
        | dict(more),
    )


def read_record(out: Path) -> dict[str, Any]:
    """Read a run's run.json.

    Raises
    ------
    UserError
        If it cannot be read, or lacks what every run has.
    """
    file = out / "run.json"
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        lacking = [key for key in ("kind", "store", "fingerprint") if key not in found]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); delete {out} or give another folder") from error
    if lacking:
        raise UserError(f"{file}: lacks {', '.join(lacking)}; delete {out} or give another folder")
    return found


def check_backbone(config: Config, out: Path) -> None:
    """Refuse to go on in `out` with a backbone folder that holds other weights than when the run was begun.

    The configuration names the folder, not what is in it, and a pretraining may have been repeated in between.
    """
    before, now = read_record(out).get("backbone"), backbone_hash(config)
    if before is not None and now is not None and before != now:
        raise UserError(
            f"{out}: was begun with other weights in {config.model.backbone}; give another --out, or bring them back"
        )


def backbone_hash(config: Config) -> str | None:
    """Hash of the files of the backbone's folder; None where it is no folder, or no face is looked at."""
    folder = Path(config.model.backbone).expanduser()
    if "face" not in config.data.modalities or not folder.is_dir():
        return None
    names = ("config.json", "preprocessor_config.json")
    files = sorted(f for f in folder.iterdir() if f.suffix in (".safetensors", ".bin") or f.name in names)
    return _hash(tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files))


@functools.lru_cache(maxsize=8)  # the cells of an ablation ask for the same 100 MB
def _hash(files: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, _, _ in files:
        with Path(name).open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def plain(value: Any) -> Any:
    """Return JSON-ready figures: NumPy scalars become Python's, and what is undefined becomes null."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def peak_memory() -> int:
    """Peak resident bytes of the largest process of this run."""
    if sys.platform == "win32":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * max(resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


class Log:
    """Lines with a time in the run's log."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __call__(self, text: str) -> None:
        """Add a line; a disk that is full does not end the run here."""
        with contextlib.suppress(OSError), self.file.open("a", encoding="utf-8") as stream:
            stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
