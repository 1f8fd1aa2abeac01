"""A prepared study on disk: continuous trials, written once, read lazily, verified file by file.

Layout::

    STORE/study.json                     parameters, versions, ranges, checksums of every file
    STORE/trials.parquet                 one row a trial
    STORE/recordings/<key>/              one recording: a subject and session
        recording.json                   channels, bad channels, component labels, notes, checksums
        trials.parquet                   its rows of the table above
        eeg.npy                          (C, S) float32 volts, its trials back to back
        ica.npz                          mixing, unmixing, labels, scores: beside the signal, not applied
        peripheral_<name>.npy            (S,) float32
        body_<kind>.npy                  (P, S) float32 at 32 Hz, NaN where missing, its trials back to back
        faces.bin, faces.parquet         JPEG crops back to back; time, box, confidence, place of each
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milmer.errors import DamagedStore, UserError
from milmer.signals.body_channels import BODY_CHANNELS, BODY_RATE
from milmer.store_recording import Faces, RecordingInfo

SCHEMA = 1
MIGRATIONS: Mapping[int, Any] = {}  # from version -> function(study.json as dict) -> dict of the next version
IDENTITY = ("study", "site", "subject", "session", "recording", "block", "trial", "order", "onset", "stimulus")


class Store:
    """A prepared study, opened for reading. Nothing but the tables is read before it is asked for.

    Parameters
    ----------
    path : Path
        The folder that `milmer prepare` wrote.

    Raises
    ------
    UserError
        If there is no store at `path`, or it was made by a newer milmer.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.info = read_info(self.path)
        table = self.path / "trials.parquet"
        if not table.exists():
            if refused := self.info.get("failed"):
                why = next(iter(refused.values()))
                raise UserError(f"{self.path}: all of its recordings were refused, the first because of {why}")
            raise UserError(f"{self.path}: preparation has not finished; run the same 'milmer prepare' again to go on")
        try:
            self.trials = pd.read_parquet(table)
        except (OSError, ValueError) as error:
            raise DamagedStore(f"{table}: not readable ({error}); run the same 'milmer prepare' again") from error
        self._recordings: dict[str, RecordingInfo] = {}
        self._eeg: dict[str, NDArray[np.float32]] = {}
        self._operators: dict[tuple[str, str, tuple[str, ...]], NDArray[np.float32] | None] = {}
        self._faces: dict[str, Faces] = {}
        self._crops: dict[str, NDArray[np.uint8]] = {}
        self._body: dict[tuple[str, str], NDArray[np.float32]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Travel to worker processes without open files."""
        empty: dict[str, Any] = {k: {} for k in ("_recordings", "_eeg", "_operators", "_faces", "_crops", "_body")}
        return self.__dict__ | empty

    @property
    def name(self) -> str:
        """Name of the study."""
        return str(self.info["study"])

    @property
    def fingerprint(self) -> str:
        """Hash of the parameters and of what was prepared: names a store in the records of a run."""
        text = json.dumps([self.info["parameters_hash"], self.info.get("recordings", {})], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def keys(self) -> list[str]:
        """Keys of the recordings."""
        return sorted(self.info.get("recordings", {}))

    @property
    def eeg_rate(self) -> float:
        """Samples a second of the stored EEG (Hz)."""
        return float(self.info["parameters"]["eeg"]["rate"])

    @property
    def face_rate(self) -> float:
        """Crops a second of the face track."""
        return float(self.info["parameters"]["face"]["rate"])

    def folder(self, key: str) -> Path:
        """Folder of one recording."""
        return self.path / "recordings" / key

    def recording(self, key: str) -> RecordingInfo:
        """Channels, notes and component labels of one recording."""
        if key not in self._recordings:
            raw = _read_json(self.folder(key) / "recording.json")["recording"]
            raw["positions"] = np.asarray(raw["positions"], dtype=np.float64).reshape(-1, 3)  # (C, 3)
            tuples = {k: tuple(v) for k, v in raw.items() if isinstance(v, list)}
            self._recordings[key] = RecordingInfo(**(raw | tuples))
        return self._recordings[key]

    def part(self, key: str) -> tuple[Store, str]:
        """Return the store on disk that holds a recording, and its key there."""
        return self, key

    def part_row(self, row: int) -> tuple[Store, int]:
        """Return the store on disk that holds the trial in row `row` of `trials`, and its row there."""
        return self, row

    def placed(self, key: str, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Put EEG of a recording's own channels (C', S) into the rows that this store's readers expect."""
        return samples

    def operator(self, key: str, reject: Sequence[str], trial: int | None = None) -> NDArray[np.float32] | None:
        """Return the (C, C) matrix that takes components of the kinds in `reject` out, or None where none is.

        Where each trial has a decomposition of its own, that of `trial`; else that of the recording.
        """
        kinds = tuple(sorted(reject))
        if not kinds:
            return None
        name = "" if trial is None else f"ica_t{trial}.npz"
        if (key, name, kinds) not in self._operators:
            matrix = None
            file = self.folder(key) / (name or "ica.npz")
            if name and not file.exists():
                file = self.folder(key) / "ica.npz"
            if file.exists():
                with np.load(file) as ica:
                    out = np.isin(ica["labels"], kinds)  # (k,)
                    if out.any():
                        mixing, unmixing = ica["mixing"], ica["unmixing"]  # (C, k), (k, C)
                        matrix = np.eye(len(mixing)) - mixing[:, out] @ unmixing[out]  # (C, C)
            self._operators[key, name, kinds] = None if matrix is None else matrix.astype(np.float32)
        return self._operators[key, name, kinds]

    def row_operator(self, row: int, reject: Sequence[str]) -> NDArray[np.float32] | None:
        """Return the `operator` of the trial in row `row` of `trials`, among its recording's own channels."""
        store, own = self.part_row(row)
        trial = store.trials.iloc[own]
        return store.operator(str(trial["store_key"]), reject, int(trial["trial"]))

    def eeg(self, row: int, start: float = 0.0, stop: float | None = None, reject: Sequence[str] = ()) -> Any:
        """Read EEG of the trial in row `row` of `trials`.

        Returns
        -------
        ndarray of float32, shape (C, S)
            Volts between `start` and `stop` seconds; fewer samples where the trial ends before.
        """
        trial = self.trials.iloc[row]
        key = str(trial["store_key"])
        if key not in self._eeg:
            self._eeg[key] = self._map(self.folder(key) / "eeg.npy")
        first = int(trial["eeg_start"])
        last = first + int(trial["eeg_samples"])
        begin = min(first + round(start * self.eeg_rate), last)
        end = last if stop is None else min(begin + round((stop - start) * self.eeg_rate), last)
        samples = np.asarray(self._eeg[key][:, begin:end])  # (C, S)
        operator = self.row_operator(row, reject)
        return samples.copy() if operator is None else operator @ samples  # (C, S)

    def peripheral(self, row: int, name: str) -> NDArray[np.float32]:
        """Read one peripheral signal of a trial, shape (S,), in the unit that `recording` names."""
        trial = self.trials.iloc[row]
        key = str(trial["store_key"])
        about = self.recording(key).peripheral.get(name)
        if about is None:
            have = ", ".join(self.recording(key).peripheral) or "none"
            raise UserError(f"{key}: no peripheral signal '{name}'; this recording has {have}")
        first, last = about["spans"].get(str(int(trial["trial"])), (0, 0))
        return np.asarray(self._map(self.folder(key) / f"peripheral_{name}.npy")[first:last])  # (S,)

    def body_kinds(self, key: str) -> tuple[str, ...]:
        """Kinds of body signal that a recording has, in the order of `BODY_CHANNELS`; none in an older store."""
        return tuple(k for k in BODY_CHANNELS if k in self.recording(key).body)

    def body(self, row: int, kind: str, start: float = 0.0, stop: float | None = None) -> NDArray[np.float32]:
        """Read one kind of body signal of a trial, on the clock of its EEG.

        Returns
        -------
        ndarray of float32, shape (P, S)
            A row for each of ``BODY_CHANNELS[kind]``, between `start` and `stop` seconds at `BODY_RATE`; NaN where
            missing, all of it where the trial has no such signal; fewer samples where the trial ends before.

        Raises
        ------
        UserError
            If there is no such kind.
        """
        if kind not in BODY_CHANNELS:
            raise UserError(f"no body signal '{kind}'; expected {', '.join(BODY_CHANNELS)}")
        trial = self.trials.iloc[row]
        key = str(trial["store_key"])
        spans = self.recording(key).body.get(kind, {}).get("spans", {})
        there = spans.get(str(int(trial["trial"])))
        first, last = there if there else (0, round(float(trial["duration"]) * BODY_RATE))
        begin = min(first + round(start * BODY_RATE), last)
        end = last if stop is None else min(begin + round((stop - start) * BODY_RATE), last)
        if not there:
            return np.full((len(BODY_CHANNELS[kind]), end - begin), np.nan, dtype=np.float32)  # (P, S)
        if (key, kind) not in self._body:
            self._body[key, kind] = self._map(self.folder(key) / f"body_{kind}.npy")
        return np.array(self._body[key, kind][:, begin:end])  # (P, S)

    def skin(self, row: int) -> tuple[NDArray[np.float64], NDArray[np.float32]] | None:
        """Read the mean skin colour of a trial's face; None where the store has none of it.

        Returns
        -------
        times : ndarray, shape (n,)
            Seconds from the trial's start: the video frames' own.
        rgb : ndarray, shape (n, 3)
            Red, green and blue, 0 to 255; NaN where no face was found.
        """
        trial = self.trials.iloc[row]
        key = str(trial["store_key"])
        first, last = self.recording(key).skin.get(str(int(trial["trial"])), (0, 0))
        if last <= first:
            return None
        table = np.asarray(self._map(self.folder(key) / "skin.npy")[first:last])  # (n, 4)
        return table[:, 0].astype(np.float64), table[:, 1:]  # (n,), (n, 3)

    def faces(self, key: str) -> Faces:
        """Return the face track of a recording; trial rows are ``face_start : face_start + face_rows``."""
        if key not in self._faces:
            table = pd.read_parquet(self.folder(key) / "faces.parquet")
            self._faces[key] = Faces(
                time=table["time"].to_numpy(np.float64),
                found=table["found"].to_numpy(np.bool_),
                confidence=table["confidence"].to_numpy(np.float32),
                box=table[["x", "y", "w", "h"]].to_numpy(np.float32),
                offset=table["offset"].to_numpy(np.int64),
                length=table["length"].to_numpy(np.int64),
            )
        return self._faces[key]

    def crop(self, key: str, face: int) -> bytes:
        """Return the JPEG of row `face` of a recording's face track; empty where no face was found."""
        faces = self.faces(key)
        if key not in self._crops:
            file = self.folder(key) / "faces.bin"
            self._crops[key] = (
                np.memmap(file, mode="r") if file.stat().st_size else np.zeros(0, dtype=np.uint8)
            )  # (bytes,)
        begin = int(faces.offset[face])
        return self._crops[key][begin : begin + int(faces.length[face])].tobytes()

    def to_raw(self, row: int, **options: Any) -> Any:
        """Return the EEG of the trial in row `row` as `mne.io.RawArray`; see `milmer.store_mne.to_raw`."""
        from milmer.store_mne import to_raw

        return to_raw(self, row, **options)

    def to_epochs(self, **options: Any) -> Any:
        """Return windows of EEG as `mne.EpochsArray`; see `milmer.store_mne.to_epochs`."""
        from milmer.store_mne import to_epochs

        return to_epochs(self, **options)

    def verify(self) -> Iterator[tuple[str, str]]:
        """Check every file against study.json.

        Yields
        ------
        (file, fault) : tuple of str
            The file, relative to the store, and what is wrong with it; an empty fault where it is sound.
        """
        table = self.info.get("trials_sha256", "")
        if table:
            found = file_hash(self.path / "trials.parquet")
            yield "trials.parquet", "" if found == table else "changed since it was written"
        for key, files in sorted(self.info.get("recordings", {}).items()):
            for name, (size, digest) in sorted(files.items()):
                path = self.folder(key) / name
                relative = str(path.relative_to(self.path))
                if not path.exists():
                    yield relative, "missing"
                elif path.stat().st_size != size:
                    yield relative, f"{path.stat().st_size} bytes, expected {size}"
                else:
                    yield relative, "" if file_hash(path) == digest else "changed since it was written"

    def _map(self, file: Path) -> Any:
        try:
            return np.load(file, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise DamagedStore(f"{file}: not readable ({error}); 'milmer inspect {self.path}' checks all") from error


def join_trials(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put tables of trials one below the other; ``has_<kind>`` that a table lacks is False there."""
    joined = pd.concat(tables, ignore_index=True)
    for column in joined.columns[joined.columns.str.startswith("has_")]:
        joined[column] = joined[column].eq(True)
    return joined


def read_info(path: Path) -> dict[str, Any]:
    """Read and migrate ``study.json``."""
    file = path / "study.json"
    if not file.exists():
        raise UserError(f"{path}: found no study.json, expected a store; 'milmer prepare' makes one")
    info = _read_json(file)
    version = info.get("schema")
    if not isinstance(version, int) or version > SCHEMA:
        raise UserError(f"{file}: schema {version}, this milmer reads up to {SCHEMA}; upgrade milmer")
    while version < SCHEMA:
        info = MIGRATIONS[version](info)
        version = info["schema"]
    return info


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedStore(f"{file}: not readable ({error}); run the same 'milmer prepare' again") from error
    if not isinstance(found, dict):
        raise DamagedStore(f"{file}: found {type(found).__name__}, expected an object")
    return found


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write JSON under a temporary name, then rename it."""
    part = file.with_name(f".{file.name}.{os.getpid()}")
    part.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(file)


def write_table(file: Path, table: pd.DataFrame) -> None:
    """Write Parquet under a temporary name, then rename it."""
    part = file.with_name(f".{file.name}.{os.getpid()}")
    table.to_parquet(part, index=False)
    part.replace(file)


def file_hash(file: Path) -> str:
    """SHA-256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_hash(content: Any) -> str:
    """Hash of anything JSON can hold, the same on every machine."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
