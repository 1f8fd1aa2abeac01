"""Inductive ICA: each fold fits its own operators, on its training trials only, beside one and the same store.

A recording that has training trials gets the operator of these. A recording that has none, that of a person who is
only tested, gets one that was fitted on a sample over all training recordings with the same electrodes: a spatial
filter of other people's eyes and muscles.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from milmer.config import Config
from milmer.errors import UserError
from milmer.evaluation.guard import Guard
from milmer.progress import Progress, silent
from milmer.sections import EEGPreparation
from milmer.signals.ica import ICA, Material, fit_and_label
from milmer.signals.ica_labels import iclabel_refusal
from milmer.signals.material import CHUNK, enough_samples
from milmer.store import Store, content_hash
from milmer.store_recording import RecordingInfo
from milmer.training.data import Bags
from milmer.training.reading import OPERATORS, read_operators
from milmer.training.stretches import LOWEST, Sample, cut, even, joined, thinned

KEPT = "operators"  # folder of a run, while it goes on
ICLABEL_TOP = 100.0  # Hz: what it looks at must be in the store
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FoldOperators:
    """What a fold takes components out with.

    Parameters
    ----------
    matrices : mapping of str to ndarray of float32, shape (C, C)
        Store key -> operator over the recording's own channels; a recording that is not in it is left as it is.
    notes : tuple of str
        Who got whose operator, and how many components are taken out.
    """

    matrices: Mapping[str, NDArray[np.float32]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Taken:
    """An operator (C, C) or None, and how many components it takes out."""

    matrix: NDArray[np.float32] | None
    taken: int


def fold_settings(config: Config, store: Store) -> EEGPreparation:
    """Return the ICA method and labeller of a fold: the store's own, or the configuration's where it has none.

    Raises
    ------
    UserError
        If neither names a method.
    """
    settings = EEGPreparation.model_validate(store.info["parameters"]["eeg"])
    own = config.preparation.eeg
    if settings.ica == "none":
        if own.ica == "none":
            raise UserError(
                f"data.operators fold: {store.path} was prepared without ICA, and preparation.eeg.ica is none; give "
                "--set preparation.eeg.ica=picard, or --reject none"
            )
        settings = settings.model_copy(update={"ica": own.ica, "ica_labels": own.ica_labels})
    return settings


def fold_operators(
    bags: Bags,
    guard: Guard,
    config: Config,
    seed: int,
    *,
    kept: Path | None = None,
    progress: Progress = silent,
    text: str = "fold",
) -> FoldOperators:
    """Fit the operators of a fold through its guard (kind ``ica``): on training rows, and what the budget names.

    Parameters
    ----------
    bags : Bags
        The data; what is fitted reads their rows behind the guard.
    guard : Guard
        The fold's, over the rows of ``bags.table``.
    seed : int
        Seed of each decomposition's starting point.
    kept : Path, optional
        Folder of decompositions by a hash of all that they depend on: folds that train on the very same trials of
        somebody share one.

    Returns
    -------
    FoldOperators

    Raises
    ------
    LeakError
        If a row is read that the fit may not see.
    UserError
        If there is no ICA method.
    """
    fitter = _Fitter(guard.view("ica", bags), config, seed, kept, progress, text)
    with threadpool_limits(1):  # the matrices are small: more threads make an ICA slower
        return guard.fit("ica", fitter, guard.rows("ica"), labelled=False, what="operators of the fold")


def with_fold_operators(
    config: Config, bags: Bags, guard: Guard, folder: Path, *, resume: bool, progress: Progress = silent, text: str
) -> tuple[Bags, tuple[str, ...]]:
    """Return bags that are read by the fold's own operators, and notes; the bags as they are where none are asked for.

    The operators are kept in ``operators.npz`` of the fold's folder; with `resume` they are taken from there.
    """
    if "eeg" not in config.data.modalities or not bags.reader.unfitted:
        return bags, ()
    rows = guard.rows("ica")  # (n,)
    settings = [fold_settings(config, part).model_dump(mode="json") for part in _parts(bags.store)]
    key = content_hash([config.data.model_dump(mode="json"), settings, bags.store.fingerprint, rows.tolist()])
    key = content_hash([key, config.evaluation.seed])
    file = folder / OPERATORS
    found = _load(file, key, guard) if resume else None
    if found is None:
        before = len(guard.log)
        run = next((p for p in folder.parents if (p / "run.json").exists()), folder)
        found = fold_operators(
            bags, guard, config, config.evaluation.seed, kept=run / KEPT, progress=progress, text=text
        )
        folder.mkdir(parents=True, exist_ok=True)
        _save(file, key, found, guard.log[before:])
    return bags.with_operators(found.matrices), found.notes


class _Fitter:
    """Fits all operators of a fold on the rows it is given; called by the guard."""

    def __init__(self, view: Bags, config: Config, seed: int, kept: Path | None, progress: Progress, text: str) -> None:
        self.bags, self.config, self.seed, self.kept = view, config, seed, kept
        self.progress, self.text = progress, text
        self.store = view.reader.store
        self.matrices: dict[str, NDArray[np.float32]] = {}
        self.taken: dict[str, int] = {}
        self.shared: list[str] = []
        self.bare: list[str] = []

    def __call__(self, rows: Ints) -> FoldOperators:
        keys = self.bags.table["store_key"].astype(str).to_numpy()[rows]  # (n,)
        tested = sorted(set(self.bags.table["store_key"].astype(str)))
        tested = [k for k in tested if self._about(k).names]
        mine = [k for k in tested if k in set(keys)]
        own = {k: rows[keys == k] for k in mine}  # (n_k,) each
        names = {k: self._name(k, r) for k, r in own.items()}
        for done, key in enumerate(mine):
            self.progress(done, len(mine), f"{self.text}: components of {key}")
            self._keep(key, self._once(names[key], partial(self._alone, key, own[key])))
        pooled: dict[tuple[Any, ...], _Taken] = {}
        for key in [k for k in tested if k not in self.matrices]:
            about, part = self._about(key), self.store.part(key)[0]
            cap = (part.fingerprint, about.names, about.masked, (_off(about),))
            if cap not in pooled:
                self.progress(0, 1, f"{self.text}: components for who is only tested")
                same = {k: r for k, r in own.items() if self._same_cap(k, key)}
                name = content_hash([list(map(list, cap[1:])), *(names[k] for k in same)])
                pooled[cap] = self._once(name, partial(self._pooled, key, same))
            self._keep(key, pooled[cap], shared=True)
        return FoldOperators(self.matrices, tuple(self._notes()))

    def _name(self, key: str, rows: Ints) -> str:
        """Return a hash of all that the decomposition of these rows of a recording depends on."""
        part = self.store.part(key)[0]
        windows = self.bags.members[rows]  # (n, W)
        windows = windows[(windows >= 0) & self.bags.eeg_there[windows]]  # (m,)
        spans = self.bags.windows[["trial_row", "start", "stop"]].to_numpy(np.float64)[windows]  # (m, 3)
        told = [part.fingerprint, key, self.seed, sorted(self.config.data.reject), self.config.data.window]
        told += [fold_settings(self.config, part).model_dump(mode="json"), np.round(spans, 6).tolist()]
        return content_hash(told)

    def _once(self, name: str, make: Callable[[], ICA | None]) -> _Taken:
        """Return what is kept under a name, or make and keep it."""
        file = None if self.kept is None else self.kept / f"{name}.npz"
        if file is not None and file.exists():
            try:
                with np.load(file, allow_pickle=False) as found:
                    return _Taken(found["matrix"] if found["matrix"].size else None, int(found["taken"]))
            except (OSError, ValueError, KeyError, zipfile.BadZipFile):
                file.unlink(missing_ok=True)  # damaged: made again
        ica, reject = make(), set(self.config.data.reject)
        matrix = None if ica is None else ica.operator(reject).astype(np.float32)  # (C, C)
        taken = _Taken(matrix, 0 if ica is None else sum(label in reject for label in ica.labels))
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_name(f".{file.name}.{os.getpid()}")
            with part.open("wb") as stream:
                np.savez(stream, matrix=np.zeros((0, 0)) if matrix is None else matrix, taken=np.array(taken.taken))
            part.replace(file)
        return taken

    def _same_cap(self, key: str, other: str) -> bool:
        """Whether a recording has all electrodes of another, of the same store."""
        mine, theirs = self._about(key), self._about(other)
        same = self.store.part(key)[0] is self.store.part(other)[0] and mine.names == theirs.names
        return same and set(mine.masked) <= set(theirs.masked)

    def _alone(self, key: str, rows: Ints) -> ICA | None:
        sample = self._sample(rows, enough_samples(len(self._about(key).names)))
        return None if sample is None else self._fit(key, sample)

    def _about(self, key: str) -> RecordingInfo:
        part, own = self.store.part(key)
        return part.recording(own)

    def _keep(self, key: str, found: _Taken, shared: bool = False) -> None:
        if found.matrix is None:
            if shared:
                self.bare.append(key)
            return
        self.matrices[key], self.taken[key] = found.matrix, found.taken
        if shared:
            self.shared.append(key)

    def _sample(self, rows: Ints, most: int) -> Sample | None:
        """Return equal stretches of the rows of one recording; at most about `most` samples."""
        found = [s for row in rows.tolist() for s in self.bags.stretches(row)]
        size = round(min(CHUNK, self.config.data.window) * self.store.eeg_rate)
        part = self.store.part_row(found[0].trial_row)[0] if found else self.store
        low = LOWEST if float(part.info["parameters"]["eeg"]["band"][0]) < LOWEST else None
        pieces = [p for run in joined(found) for p in cut(run, size, low, part.eeg_rate)]
        if not pieces:
            return None
        kinds = set.intersection(*({(k, len(x)) for k, x in guides.items()} for _, guides in pieces))
        sample = Sample(
            np.stack([eeg for eeg, _ in pieces]).astype(np.float64),  # (E, C, L)
            {k: np.stack([g[k] for _, g in pieces]).astype(np.float64) for k, _ in sorted(kinds)},  # (E, G, L)
        )
        return thinned(sample, max(1, most // size))

    def _fit(self, key: str, sample: Sample, mended: bool = True) -> ICA | None:
        """Fit and label a decomposition for the cap of recording `key`."""
        part = self.store.part(key)[0]
        about, settings = self._about(key), fold_settings(self.config, part)
        present = tuple(c for c, n in enumerate(about.names) if n not in about.masked)
        off = _off(about)
        top = float(part.info["parameters"]["eeg"]["band"][1])
        if not off and top < ICLABEL_TOP:
            off = f"ICLabel looks at 1-100 Hz, the store holds up to {top:g} Hz"
        refusal = iclabel_refusal(part.eeg_rate, len(present), bool(np.isfinite(about.positions).all()), off)
        if refusal and settings.ica_labels == "iclabel":
            settings = settings.model_copy(update={"ica_labels": "auto"})
        eog = sample.guides.get("eog")  # (E, G, L)
        material = Material(
            sample.eeg,
            part.eeg_rate,
            about.names,
            present,
            len(set(about.bad) - set(about.masked)) if mended else 0,
            eog,
            () if eog is None else tuple(f"EOG {i + 1}" for i in range(eog.shape[1])),
            sample.guides.get("ecg"),
        )
        return fit_and_label(material, settings, refusal, self.seed)[0]

    def _pooled(self, key: str, rows: Mapping[str, Ints]) -> ICA | None:
        """Fit for the cap of `key` on a sample of rows of several recordings; None where they hold nothing."""
        most = enough_samples(len(self._about(key).names)) // max(1, len(rows))
        same = [s for s in (self._sample(r, most) for r in rows.values()) if s is not None]
        if not same:
            return None
        # One person's loud recording must not be all that is decomposed; the unit stays about a volt's.
        loud = [float(np.median(np.abs(s.eeg))) for s in same]
        unit = float(np.median(loud))
        kinds = set.intersection(*({(k, x.shape[1]) for k, x in s.guides.items()} for s in same))
        together = Sample(
            np.concatenate([s.eeg * (unit / max(v, 1e-12)) for s, v in zip(same, loud, strict=True)]),  # (E, C, L)
            {k: np.concatenate([even(s.guides[k]) for s in same]) for k, _ in sorted(kinds)},  # (E, G, L)
        )
        return self._fit(key, together, mended=False)

    def _notes(self) -> list[str]:
        own = [k for k in self.matrices if k not in self.shared]
        said = [f"ICA of this fold's training trials: {_counted(own, self.taken)}"]
        if self.shared:
            said.append(
                f"{_some(self.shared)}: no ICA of training trials of their own, so components are taken out by what "
                f"was fitted on other people with the same electrodes: {_counted(self.shared, self.taken)}"
            )
        if self.bare:
            said.append(f"{_some(self.bare)}: nothing to fit an ICA on, so no component is taken out")
        return said


def _off(about: RecordingInfo) -> str:
    """Return why ICLabel did not label a recording in the store, or an empty string."""
    return about.reason.partition("ICLabel off: ")[2].partition(";")[0]


def _counted(keys: Sequence[str], taken: Mapping[str, int]) -> str:
    if not keys:
        return "none could be fitted"
    counts = [taken[k] for k in keys]
    return f"{len(keys)} recordings, {min(counts)} to {max(counts)} components taken out of each"


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")


def _parts(store: Store) -> list[Store]:
    return list({id(part): part for part, _ in map(store.part, store.keys)}.values())


def _save(file: Path, key: str, found: FoldOperators, log: Sequence[Mapping[str, Any]]) -> None:
    part = file.with_name(f".{file.name}.part")
    arrays: dict[str, Any] = {f"matrix_{i}": m for i, m in enumerate(found.matrices.values())}
    record = json.dumps({"key": key, "notes": found.notes, "log": [dict(e) for e in log]})
    with part.open("wb") as stream:
        np.savez(stream, keys=np.array(list(found.matrices), dtype=str), record=np.array(record), **arrays)
    part.replace(file)


def _load(file: Path, key: str, guard: Guard) -> FoldOperators | None:
    """Return what is in the file where it was fitted on the very same; and put its fit into the guard's log."""
    if not file.exists():
        return None
    try:
        with np.load(file, allow_pickle=False) as kept:
            record = json.loads(str(kept["record"]))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # damaged: fitted again
        return None
    if record["key"] != key:
        return None
    guard.recall(record["log"])
    return FoldOperators(read_operators(file.parent), tuple(record["notes"]))
