"""What the frozen part of a backbone gives for every frame of a store: run once, kept on disk in half precision.

Layout, beside the store (beside each of two that are read as one)::

    STORE/cache/<name>/<recording>.f16.npy   (F, V, T', F') float16: frames with a face, views, tokens, features
    STORE/cache/<name>/<recording>.json      what it was made of, and a hash of every chunk that is written

The name is a hash of the frozen weights, architecture, normalisation, size of the frames, and views; that a file is of
these very crops, its JSON says by their hashes. So nothing stale is ever read, and all of ``STORE/cache`` may be
deleted at any time. The tokens are computed from faces: whoever may not have the faces should not have them either.

A prefix is frozen: nothing in it was fitted on any row of the study, so that tokens of test frames tell nobody
anything. They are still read behind the guard, with the bags that hold them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from milmer.faces.crop import decode_jpeg
from milmer.progress import Progress, silent
from milmer.store import Store, content_hash, write_json
from milmer.training.augment import fixed_view

VERSION = 1  # of decoding, views and layout: what is written under another is never read
CHUNK = 128  # frames that are written at once; an interrupted write loses no more
MARGIN = 1_000_000_000  # bytes of the disk that are left for all else
Halves = NDArray[np.float16]
Prefix = Callable[[torch.Tensor], torch.Tensor]  # (M, 3, P, P) -> (M, T', F')


class NoCache(Exception):
    """Why there is no cache, in a few words for the user: a fit goes on without, only slower."""


class FrameCache:
    """Tokens of every frame of a store that has a face.

    Parameters
    ----------
    store : Store
    of : str
        What they are of: `Backbone.prefix_key`.
    shape : tuple of int
        `Backbone.prefix_shape` (T', F').
    px : int
        Side of the frames in pixels.
    views : int
        View 0 is the frame as it is; the others are those of `milmer.training.augment.fixed_view`.
    """

    def __init__(self, store: Store, of: str, shape: tuple[int, int], *, px: int, views: int = 1) -> None:
        self.store, self.of, self.shape, self.px, self.views = store, of, shape, px, views
        self.name = content_hash([VERSION, of, list(shape), px, views])
        self._open: dict[str, tuple[Halves, NDArray[np.int64]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Travel to worker processes without open files."""
        return self.__dict__ | {"_open": {}}

    def file(self, key: str) -> Path:
        """Where the tokens of a recording are, or would be."""
        own, own_key = self.store.part(key)
        return own.path / "cache" / self.name / f"{own_key}.f16.npy"

    def size(self, keys: Sequence[str]) -> int:
        """Bytes that recordings take."""
        return sum(self._rows(key) for key in keys) * self._row_bytes

    def others(self, keys: Sequence[str]) -> int:
        """Bytes that lie beside it in the same stores: of other weights, sizes of frames or views."""
        places = {self.file(key).parent.parent for key in keys}
        files = (f for place in places for f in place.glob("*/*") if f.parent.name != self.name)
        with contextlib.suppress(OSError):  # somebody deletes them just now
            return sum(f.stat().st_size for f in files)
        return 0

    def missing(self, keys: Sequence[str], *, verify: bool = False) -> list[str]:
        """Return those of `keys` of which there is no whole file.

        Parameters
        ----------
        verify : bool
            Read all and hold it against the hashes; else the file's size and head, and what it was made of.
        """
        return [key for key in keys if not self._sound(key, verify)]

    def read(self, key: str, rows: NDArray[np.int64], view: int = 0) -> Halves:
        """Read tokens of rows of a recording's face track.

        Parameters
        ----------
        rows : ndarray of int64, shape (n,)
            Rows with a face.

        Returns
        -------
        ndarray of float16, shape (n, T', F')
        """
        if key not in self._open:
            own, own_key = self.store.part(key)
            places = np.cumsum(own.faces(own_key).found, dtype=np.int64) - 1  # (rows of the track,)
            self._open[key] = np.load(self.file(key), mmap_mode="r"), places
        tokens, places = self._open[key]  # (F, V, T', F')
        return np.asarray(tokens[places[rows], view])  # (n, T', F')

    def ensure(self, keys: Sequence[str], prefix: Prefix, *, verify: bool = False, progress: Progress = silent) -> int:
        """Write what is missing of `keys`; return how many bytes were.

        One process writes at a time, another one waits and finds it written. What an interrupted write left is gone on
        with; what is damaged is written again.

        Raises
        ------
        NoCache
            If the disk cannot hold it or be written to, or the tokens do not fit into half precision.
        """
        if not self.missing(keys, verify=verify):
            return 0
        try:
            with contextlib.ExitStack() as locks:
                for folder in sorted({self.file(key).parent for key in keys}):
                    folder.mkdir(parents=True, exist_ok=True)
                    locks.enter_context(_locked(folder / ".lock", progress))
                missing = self.missing(keys, verify=verify)
                self._check_room(missing)
                total, done = sum(self._rows(key) for key in missing), 0
                text = f"running the frozen part of the backbone once, {self.size(missing) / 1e9:.2f} GB to keep"
                for key in missing:
                    for n in self._write(key, prefix):
                        done += n
                        progress(done, total, text)
                return self.size(missing)
        except OSError as error:
            if error.errno == errno.ENOSPC:  # somebody else filled the disk meanwhile; the fit needs room too
                for key in keys:
                    _part(self.file(key)).unlink(missing_ok=True)
            raise NoCache(f"it cannot be written ({error.strerror or error})") from error

    @property
    def _row_bytes(self) -> int:
        return 2 * self.views * self.shape[0] * self.shape[1]

    def _rows(self, key: str) -> int:
        own, own_key = self.store.part(key)
        return int(own.faces(own_key).found.sum())

    def _head(self, key: str) -> bytes:
        """The first bytes of the file of a recording."""
        stream = io.BytesIO()
        shape = (self._rows(key), self.views, *self.shape)
        about = {"descr": np.lib.format.dtype_to_descr(np.dtype("<f2")), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, about)
        return stream.getvalue()

    def _about(self, key: str) -> dict[str, Any]:
        """What the file of a recording is made of."""
        own, own_key = self.store.part(key)
        files = own.info["recordings"][own_key]
        faces = {name: files.get(name) for name in ("faces.bin", "faces.parquet")}
        about = {"faces": faces, "prefix": self.of, "px": self.px, "version": VERSION, "chunk": CHUNK}
        return about | {"shape": [self._rows(key), self.views, *self.shape], "dtype": "float16"}

    def _hashes(self, key: str) -> list[str]:
        """Hashes of the chunks that were written of a recording, by its JSON; none where it is of something else."""
        try:
            found = json.loads(self.file(key).with_suffix("").with_suffix(".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        if not isinstance(found, dict) or found.get("about") != self._about(key):
            return []
        return [str(h) for h in found.get("hashes", [])]

    def _sound(self, key: str, verify: bool) -> bool:
        file, head, hashes = self.file(key), self._head(key), self._hashes(key)
        whole = len(head) + self._rows(key) * self._row_bytes
        if len(hashes) != -(-self._rows(key) // CHUNK):
            return False
        try:
            with file.open("rb") as stream:
                if file.stat().st_size != whole or stream.read(len(head)) != head:
                    return False
                return not verify or all(_hash(stream.read(CHUNK * self._row_bytes)) == h for h in hashes)
        except OSError:  # not there, or not ours to read
            return False

    def _check_room(self, missing: Sequence[str]) -> None:
        """Refuse what the disk cannot hold, before any of it is written."""
        wanted: dict[Path, int] = {}
        for key in missing:
            place, part = self.store.part(key)[0].path, _part(self.file(key))
            there = part.stat().st_size if part.exists() else 0
            wanted[place] = wanted.get(place, 0) + max(0, self.size([key]) - there)
        for place, size in wanted.items():
            free = shutil.disk_usage(place).free
            if size > free - MARGIN:
                raise NoCache(f"it takes {size / 1e9:.2f} GB, and {place} has {free / 1e9:.2f} GB free")

    def _write(self, key: str, prefix: Prefix) -> Iterator[int]:
        """Write the file of a recording from where it was left; yield the number of frames of every chunk."""
        own, own_key = self.store.part(key)
        rows = np.flatnonzero(own.faces(own_key).found)  # (F,)
        mine = own.trials[(own.trials["store_key"] == own_key) & own.trials["has_face"]]
        starts = np.sort(mine["face_start"].to_numpy(np.int64))  # (trials,)
        file, head, hashes = self.file(key), self._head(key), self._hashes(key)
        part, said = _part(file), file.with_suffix("").with_suffix(".json")
        if file.exists():  # damaged, or of other crops
            file.unlink()
            hashes = []
        hashes = _good(part, head, hashes, CHUNK * self._row_bytes)
        with part.open("r+b" if hashes else "wb") as stream, ThreadPoolExecutor(2) as pool:
            if not hashes:
                stream.write(head)
            done = min(len(rows), len(hashes) * CHUNK)
            stream.seek(len(head) + done * self._row_bytes)
            stream.truncate()
            yield done
            for begin in range(done, len(rows), CHUNK):
                some = rows[begin : begin + CHUNK]  # (n,)
                decoded = list(pool.map(lambda row: decode_jpeg(own.crop(own_key, int(row)), self.px), some))
                frames = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2)  # (n, 3, P, P)
                trial = starts[np.searchsorted(starts, some, side="right") - 1]  # (n,)
                tokens = self._tokens(prefix, frames, own_key, trial)  # (n, V, T', F')
                content = tokens.tobytes()
                stream.write(content)
                stream.flush()
                hashes.append(_hash(content))
                write_json(said, {"about": self._about(key), "hashes": hashes})
                yield len(some)
        write_json(said, {"about": self._about(key), "hashes": hashes})
        part.replace(file)

    def _tokens(self, prefix: Prefix, frames: torch.Tensor, key: str, trial: NDArray[np.int64]) -> Halves:
        """Tokens (n, V, T', F') of frames (n, 3, P, P), which are of the trials that begin in rows `trial` (n,)."""
        found = np.empty((len(frames), self.views, *self.shape), dtype=np.dtype("<f2"))  # (n, V, T', F')
        for view in range(self.views):
            seen = frames if view == 0 else frames.float() / 255  # (n, 3, P, P)
            for start in np.unique(trial) if view else ():
                mine = torch.from_numpy(trial == start)  # (n,)
                seen[mine] = fixed_view(seen[mine], key, int(start), view)
            with np.errstate(over="ignore"):  # it is looked at below
                found[:, view] = prefix(seen).float().cpu().numpy()  # (n, T', F')
        if not np.isfinite(found).all():
            raise NoCache("what the backbone gives is too large for half precision")
        return found


def _part(file: Path) -> Path:
    return file.with_name(f"{file.name}.part")


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _good(part: Path, head: bytes, hashes: Sequence[str], size: int) -> list[str]:
    """Return the hashes of the chunks at the start of an unfinished file that are what they should be."""
    good: list[str] = []
    if part.exists():
        with part.open("rb") as stream:
            if stream.read(len(head)) == head:
                for wanted in hashes:
                    if _hash(stream.read(size)) != wanted:
                        break
                    good.append(wanted)
    return good


@contextlib.contextmanager
def _locked(file: Path, progress: Progress) -> Iterator[None]:
    """Hold a lock that ends with the process, whatever it dies of; wait where another one holds it, and say so."""
    with file.open("a") as stream:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress(0, 1, "waiting for another process that runs the frozen part of the backbone")
                fcntl.flock(stream, fcntl.LOCK_EX)
        yield
