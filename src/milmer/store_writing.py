"""Writing a store: a recording is there whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from milmer.errors import UserError
from milmer.store import _read_json, file_hash, join_trials, write_json, write_table


class RecordingWriter:
    """Writes one recording into a temporary folder and renames it when all is there.

    Used as a context manager: what was written is removed if anything goes wrong, so that an interrupted
    preparation leaves whole recordings only.
    """

    def __init__(self, store: Path, key: str) -> None:
        self.final = store / "recordings" / key
        self.folder = store / "recordings" / f".{key}.{os.getpid()}"

    def __enter__(self) -> RecordingWriter:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            free = shutil.disk_usage(self.folder.parent).free / 1e9
            raise UserError(
                f"{self.final}: the disk is full ({free:.2f} GB free); make room and run the same command again: "
                "recordings already prepared are kept"
            ) from error

    def commit(self, trials: pd.DataFrame, recording: Mapping[str, Any], sources_hash: str) -> None:
        """Write the tables, then put the folder in its final place."""
        trials.to_parquet(self.folder / "trials.parquet", index=False)
        files = {p.name: [p.stat().st_size, file_hash(p)] for p in sorted(self.folder.iterdir())}
        write_json(
            self.folder / "recording.json", {"sources_hash": sources_hash, "files": files, "recording": dict(recording)}
        )
        if self.final.exists():
            shutil.rmtree(self.final)
        self.folder.rename(self.final)


def finish_store(store: Path, info: Mapping[str, Any], keys: Sequence[str], failed: Mapping[str, str]) -> None:
    """Gather the recordings' tables and checksums into trials.parquet and study.json."""
    recordings: dict[str, Any] = {}
    tables = []
    for key in keys:
        about = store / "recordings" / key / "recording.json"
        files = dict(_read_json(about)["files"])
        files["recording.json"] = [about.stat().st_size, file_hash(about)]
        recordings[key] = files
        tables.append(pd.read_parquet(store / "recordings" / key / "trials.parquet"))
    if tables:
        write_table(store / "trials.parquet", join_trials(tables))
    digest = file_hash(store / "trials.parquet") if tables else ""
    finished = {"recordings": recordings, "failed": dict(failed), "complete": not failed, "trials_sha256": digest}
    write_json(store / "study.json", dict(info) | finished)
