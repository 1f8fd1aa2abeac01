"""Two stores read as one: what cross-study needs, without writing a third."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milmer.errors import UserError
from milmer.store import Store, join_trials
from milmer.store_recording import Faces, RecordingInfo


def open_stores(paths: Sequence[Path]) -> Store:
    """Open one store, or two as one.

    Raises
    ------
    UserError
        As `Store` and `JoinedStore` do.
    """
    first, *others = (Store(p) for p in paths)
    return JoinedStore(first, *others) if others else first


class JoinedStore(Store):
    """Two stores as one that is read like any other; nothing is written.

    Trials are those of both, in order; row numbers are anew. The key of a recording is that of its store after the
    name of its study. All recordings have the channels of both stores in one order: the first store's, then what only
    the second has. Names are matched whatever their case. Channels that are not in both stores are masked in both.

    Parameters
    ----------
    first, second : Store
        `info` (preparation parameters, used by a model that is fitted on them) is the first one's, but for
        ``rating_ranges``, which maps each study to its ranges, and ``failed``.

    Attributes
    ----------
    stores : tuple of Store
    notes : tuple of str
        What a reader must know of the pair: channels left out, preparation that differs.

    Raises
    ------
    UserError
        If they are of one study, their EEG rates differ, or they share no channel, or neither a rating nor a label.
    """

    def __init__(self, first: Store, second: Store) -> None:
        self.stores = (first, second)
        names = [s.name for s in self.stores]
        if names[0] == names[1]:
            raise UserError(
                f"{first.path} and {second.path}: found the study '{names[0]}' twice, expected two studies; where "
                "they are two, prepare one anew under another name (milmer prepare ... --name NAME)"
            )
        self.path = first.path
        self._of = {joined_key(s.name, k): (s, k) for s in self.stores for k in s.keys}
        self._channels: dict[str, str] = {}  # lower-case name -> name, in the order of the rows
        self._places: dict[str, NDArray[np.float64]] = {}  # lower-case name -> (3,), of the first recording with it
        self._shared: frozenset[str] = frozenset()
        self._rows: dict[str, NDArray[np.int64]] = {}
        self._check_eeg()
        self._first_of_second = len(first.trials)
        tables = []
        for store in self.stores:
            keys = [joined_key(store.name, str(k)) for k in store.trials["store_key"]]
            tables.append(store.trials.assign(study=store.name, store_key=keys))
        self.trials = join_trials(tables)
        self._check_labels()
        self.info = dict(first.info) | {
            "study": " and ".join(names),
            "rating_ranges": {s.name: s.info.get("rating_ranges", {}) for s in self.stores},
            "failed": {joined_key(s.name, k): v for s in self.stores for k, v in s.info.get("failed", {}).items()},
            "recordings": {k: s.info["recordings"][key] for k, (s, key) in self._of.items()},
        }
        self.notes = tuple(self._differences())

    def __getstate__(self) -> dict[str, Any]:
        """Travel to worker processes without open files: the two stores see to their own."""
        return dict(self.__dict__)

    @property
    def fingerprint(self) -> str:
        """Hash of both fingerprints, in order."""
        return hashlib.sha256(" ".join(s.fingerprint for s in self.stores).encode()).hexdigest()[:16]

    @property
    def keys(self) -> list[str]:
        """Keys of the recordings of both."""
        return sorted(self._of)

    def folder(self, key: str) -> Path:
        """Folder of one recording."""
        store, own = self._of[key]
        return store.folder(own)

    def recording(self, key: str) -> RecordingInfo:
        """Channels of both stores in one order; masked are those that this recording or one of the stores lacks."""
        store, own = self._of[key]
        info = store.recording(own)
        if not info.names:
            return replace(info, key=key)
        rows = self._source_rows(key)  # (C,)
        masked = {n.lower() for n in info.masked}
        positions = np.stack([self._places[n] for n in self._channels])  # (C, 3)
        positions[rows >= 0] = info.positions[rows[rows >= 0]]  # (C', 3)
        gone = [n for at, n in zip(rows, self._channels, strict=True) if at < 0 or n in masked or n not in self._shared]
        called = {n.lower(): n for n in self._channels.values()}
        return replace(
            info,
            key=key,
            names=tuple(self._channels.values()),
            positions=positions,
            bad=tuple(called[n.lower()] for n in info.bad if n.lower() in called),
            masked=tuple(self._channels[n] for n in gone),
        )

    def part(self, key: str) -> tuple[Store, str]:
        """Return the store of the two that holds a recording, and its key there."""
        return self._of[key]

    def part_row(self, row: int) -> tuple[Store, int]:
        """Return the store of the two that holds the trial in row `row`, and its row there."""
        own = row - self._first_of_second
        return (self.stores[0], row) if own < 0 else (self.stores[1], own)

    def operator(self, key: str, reject: Sequence[str], trial: int | None = None) -> NDArray[np.float32] | None:
        """Return the operator of the recording's own channels, in their own order."""
        store, own = self._of[key]
        return store.operator(own, reject, trial)

    def eeg(self, row: int, start: float = 0.0, stop: float | None = None, reject: Sequence[str] = ()) -> Any:
        """Read EEG of the trial in row `row`, (C, S) in volts; masked channels are 0.

        Components are taken out among the recording's own channels, before any is left out.
        """
        store, own_row = self.part_row(row)
        own = store.eeg(own_row, start, stop, reject)  # (C', S)
        return self.placed(str(self.trials["store_key"].iat[row]), own)

    def placed(self, key: str, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Put EEG of a recording's own channels (C', S) into the rows of the pair (C, S); masked ones are 0."""
        rows = self._source_rows(key)  # (C,)
        found = np.zeros((len(rows), samples.shape[1]), dtype=np.float32)  # (C, S)
        keep = np.flatnonzero((rows >= 0) & np.isin(list(self._channels), list(self._shared)))
        found[keep] = samples[rows[keep]]
        return found

    def peripheral(self, row: int, name: str) -> NDArray[np.float32]:
        """Read one peripheral signal of a trial, shape (S,)."""
        store, own_row = self.part_row(row)
        return store.peripheral(own_row, name)

    def body_kinds(self, key: str) -> tuple[str, ...]:
        """Kinds of body signal that a recording has."""
        store, own = self._of[key]
        return store.body_kinds(own)

    def body(self, row: int, kind: str, start: float = 0.0, stop: float | None = None) -> NDArray[np.float32]:
        """Read one kind of body signal of a trial, (P, S) at `BODY_RATE`; NaN where missing."""
        store, own_row = self.part_row(row)
        return store.body(own_row, kind, start, stop)

    def skin(self, row: int) -> tuple[NDArray[np.float64], NDArray[np.float32]] | None:
        """Read the mean skin colour of a trial's face: times (n,) and red, green, blue (n, 3)."""
        store, own_row = self.part_row(row)
        return store.skin(own_row)

    def faces(self, key: str) -> Faces:
        """Return the face track of a recording."""
        store, own = self._of[key]
        return store.faces(own)

    def crop(self, key: str, face: int) -> bytes:
        """Return the JPEG of row `face` of a recording's face track; empty where no face was found."""
        store, own = self._of[key]
        return store.crop(own, face)

    def verify(self) -> Iterator[tuple[str, str]]:
        """Check every file of both stores; file names follow the study's."""
        for store in self.stores:
            for file, fault in store.verify():
                yield f"{store.name}: {file}", fault

    def check(self, target: str, modalities: Sequence[str]) -> None:
        """Refuse what one of the studies does not have.

        Raises
        ------
        UserError
            If no trial of a study holds `target`, or any of `modalities`; or the studies share no class of it.
        """
        for store in self.stores:
            has = [m for m in modalities if f"has_{m}" in store.trials and store.trials[f"has_{m}"].any()]
            if not has or (has == ["eeg"] and not self._shared):
                raise UserError(
                    f"{store.path}: has no {' and no '.join(modalities)} that both studies have; ask for another "
                    "with --modalities"
                )
        wanted = ("valence", "arousal") if target == "valence-arousal" else (target,)
        for name in wanted:
            for store in self.stores:
                if not {f"rating_{name}", name} & _filled(store.trials):
                    both = _targets(self.stores[0]) & _targets(self.stores[1])
                    raise UserError(
                        f"target '{target}': {store.name} has no {name}; both studies have "
                        f"{', '.join(sorted(both)) or 'none'}: give one as --target"
                    )
        if target in self.trials and f"rating_{target}" not in self.trials:
            one, two = ({str(v).strip() for v in s.trials[target].dropna()} - {""} for s in self.stores)
            if not one & two:
                raise UserError(
                    f"target '{target}': {self.stores[0].name} has the classes {', '.join(sorted(one))} and "
                    f"{self.stores[1].name} {', '.join(sorted(two))}: expected some that both have; name them alike "
                    "before 'milmer prepare', or give another --target"
                )

    def _source_rows(self, key: str) -> NDArray[np.int64]:
        """Row in the recording's own EEG of each channel of the pair, -1 where it has none; (C,)."""
        if key not in self._rows:
            store, own = self._of[key]
            at = {n.lower(): i for i, n in enumerate(store.recording(own).names)}
            self._rows[key] = np.array([at.get(n, -1) for n in self._channels], dtype=np.int64)  # (C,)
        return self._rows[key]

    def _check_eeg(self) -> None:
        """Find the channels of the pair, and refuse EEG that cannot be compared."""
        lists = []
        for store in self.stores:
            infos = [store.recording(k) for k in store.keys]
            lists.append({n.lower(): n for info in infos for n in info.names})
            for info in infos:
                for name, place in zip(info.names, info.positions, strict=True):
                    self._places.setdefault(name.lower(), place)
                twice = [n for n, count in Counter(n.lower() for n in info.names).items() if count > 1]
                if twice:
                    raise UserError(
                        f"{store.path}: {info.key} has {twice[0]} twice (names are matched whatever their case); "
                        "rename one before 'milmer prepare'"
                    )
        first, second = lists
        self._channels = first | {n: second[n] for n in second if n not in first}
        self._shared = frozenset(first) & frozenset(second)
        if not first or not second:
            return
        rates = [s.eeg_rate for s in self.stores]
        if rates[0] != rates[1]:
            raise UserError(
                f"{self.stores[1].path}: EEG at {rates[1]:g} Hz, {self.stores[0].path} has {rates[0]:g} Hz; prepare "
                f"one anew with --set preparation.eeg.rate={rates[0]:g}"
            )
        if not self._shared:
            raise UserError(
                f"{self.stores[0].path} and {self.stores[1].path}: found no EEG channel that both have "
                f"({', '.join(list(first.values())[:4])}, ... and {', '.join(list(second.values())[:4])}, ...); rename "
                "channels before 'milmer prepare', or compare faces with --modalities face"
            )

    def _check_labels(self) -> None:
        one, two = (_targets(s) for s in self.stores)
        if not one & two:
            raise UserError(
                f"{self.stores[0].name} has {', '.join(sorted(one)) or 'no ratings'} and {self.stores[1].name} "
                f"{', '.join(sorted(two)) or 'no ratings'}: expected a rating or label that both have; without one "
                "nothing can be tested across them"
            )

    def _differences(self) -> Iterator[str]:
        first, second = self.stores
        for one, other in ((first, second), (second, first)):
            if not one.trials["has_eeg"].any() and other.trials["has_eeg"].any():
                yield f"{one.name} has no EEG: that of {other.name} is masked too"
        left = [self._channels[n] for n in self._channels if n not in self._shared]
        if left and self._shared:
            yield f"{len(self._shared)} EEG channels are in both studies; masked are {', '.join(left)}"
        for part in ("eeg", "face"):
            mine, other = (s.info["parameters"].get(part, {}) for s in self.stores)
            apart = [k for k in mine if mine[k] != other.get(k)]
            if apart:
                told = ", ".join(f"{k} {_short(mine[k])} and {_short(other.get(k))}" for k in apart)
                yield f"{first.name} and {second.name} were prepared with other values of {part}: {told}"


@functools.lru_cache(maxsize=1024)
def joined_key(study: str, key: str) -> str:
    """Return the key that a recording has in a `JoinedStore`."""
    return f"{study}.{key}"


def _filled(trials: pd.DataFrame) -> set[str]:
    """Columns that hold something."""
    found = set()
    for column in trials.columns:
        values = trials[column]
        there = values.notna()
        if values.dtype == object or isinstance(values.dtype, pd.StringDtype):
            there &= values.fillna("").astype(str).str.strip() != ""
        if there.any():
            found.add(str(column))
    return found


def _targets(store: Store) -> set[str]:
    """Ratings and labels of a store, by the names that ``data.target`` takes."""
    filled = _filled(store.trials)
    return {c.removeprefix("rating_") for c in filled if c.startswith("rating_")} | ({"label"} & filled)


def _short(value: Any) -> str:
    return "-".join(f"{v:g}" for v in value) if isinstance(value, list) else str(value)
