"""Inductive ICA: each fold fits its own operators, on its training trials only, beside one and the same store.

A recording that has training trials gets the operator of these. A recording that has none, that of a person who is
only tested, gets one that was fitted on a sample over all training recordings with the same electrodes: a spatial
filter of other people's eyes and muscles.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milmer.config import Config
from milmer.errors import UserError
from milmer.evaluation.guard import Guard
from milmer.progress import Progress, silent
from milmer.sections import EEGPreparation
from milmer.signals.ica import ICA, Material, fit_and_label
from milmer.signals.ica_labels import iclabel_refusal
from milmer.signals.material import CHUNK, enough_samples
from milmer.store import RecordingInfo, Store, content_hash
from milmer.training.data import Bags
from milmer.training.reading import OPERATORS, Stretch, read_operators

LOWEST = 1.0  # Hz: slower drifts would be the largest components
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
class _Sample:
    """Equal stretches of a recording's training trials: EEG (E, C, L), EOG and ECG (E, G, L)."""

    eeg: Floats
    guides: dict[str, Floats]


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
    bags: Bags, guard: Guard, config: Config, seed: int, progress: Progress = silent, text: str = "fold"
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
    fitter = _Fitter(guard.view("ica", bags), config, seed, progress, text)
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
        found = fold_operators(bags, guard, config, config.evaluation.seed, progress, text)
        folder.mkdir(parents=True, exist_ok=True)
        _save(file, key, found, guard.log[before:])
    return bags.with_operators(found.matrices), found.notes


class _Fitter:
    """Fits all operators of a fold on the rows it is given; called by the guard."""

    def __init__(self, view: Bags, config: Config, seed: int, progress: Progress, text: str) -> None:
        self.bags, self.config, self.seed = view, config, seed
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
        few: dict[str, _Sample] = {}
        for done, key in enumerate(mine):
            self.progress(done, len(mine), f"{self.text}: components of {key}")
            sample = self._sample(rows[keys == key], enough_samples(len(self._about(key).names)))
            if sample is None:
                continue
            self._keep(key, self._fit(key, sample))
            few[key] = _thinned(sample, max(1, len(sample.eeg) // len(mine)))
        pooled: dict[tuple[Any, ...], ICA | None] = {}
        for key in [k for k in tested if k not in self.matrices]:
            about = self._about(key)
            cap = (id(self.store.part(key)[0]), about.names, about.masked)
            if cap not in pooled:
                pooled[cap] = self._pooled(key, few)
            self._keep(key, pooled[cap], shared=True)
        return FoldOperators(self.matrices, tuple(self._notes()))

    def _about(self, key: str) -> RecordingInfo:
        part, own = self.store.part(key)
        return part.recording(own)

    def _keep(self, key: str, ica: ICA | None, shared: bool = False) -> None:
        if ica is None:
            if shared:
                self.bare.append(key)
            return
        reject = set(self.config.data.reject)
        self.matrices[key] = ica.operator(reject).astype(np.float32)  # (C, C)
        self.taken[key] = sum(label in reject for label in ica.labels)
        if shared:
            self.shared.append(key)

    def _sample(self, rows: Ints, most: int) -> _Sample | None:
        """Return equal stretches of the rows of one recording; at most about `most` samples."""
        found = [s for row in rows.tolist() for s in self.bags.stretches(row)]
        size = round(min(CHUNK, self.config.data.window) * self.store.eeg_rate)
        part = self.store.part_row(found[0].trial_row)[0] if found else self.store
        low = LOWEST if float(part.info["parameters"]["eeg"]["band"][0]) < LOWEST else None
        pieces = [p for run in _runs(found) for p in _cut(run, size, low, part.eeg_rate)]
        if not pieces:
            return None
        kinds = set.intersection(*({(k, len(x)) for k, x in guides.items()} for _, guides in pieces))
        sample = _Sample(
            np.stack([eeg for eeg, _ in pieces]).astype(np.float64),  # (E, C, L)
            {k: np.stack([g[k] for _, g in pieces]).astype(np.float64) for k, _ in sorted(kinds)},  # (E, G, L)
        )
        return _thinned(sample, max(1, most // size))

    def _fit(self, key: str, sample: _Sample, mended: bool = True) -> ICA | None:
        """Fit and label a decomposition for the cap of recording `key`."""
        part = self.store.part(key)[0]
        about, settings = self._about(key), fold_settings(self.config, part)
        present = tuple(c for c, n in enumerate(about.names) if n not in about.masked)
        off = about.reason.partition("ICLabel off: ")[2].partition(";")[0]
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

    def _pooled(self, key: str, samples: Mapping[str, _Sample]) -> ICA | None:
        """Fit on a sample of all recordings that have the same electrodes as `key`; None where there are none."""
        about, part = self._about(key), self.store.part(key)[0]
        same = [
            s
            for k, s in samples.items()
            if self.store.part(k)[0] is part
            and self._about(k).names == about.names
            and set(self._about(k).masked) <= set(about.masked)
        ]
        if not same:
            return None
        self.progress(0, 1, f"{self.text}: components for who is only tested")
        # One person's loud recording must not be all that is decomposed; the unit stays about a volt's.
        loud = [float(np.median(np.abs(s.eeg))) for s in same]
        unit = float(np.median(loud))
        kinds = set.intersection(*({(k, x.shape[1]) for k, x in s.guides.items()} for s in same))
        joined = _Sample(
            np.concatenate([s.eeg * (unit / max(v, 1e-12)) for s, v in zip(same, loud, strict=True)]),  # (E, C, L)
            {k: np.concatenate([_even(s.guides[k]) for s in same]) for k, _ in sorted(kinds)},  # (E, G, L)
        )
        return self._fit(key, joined, mended=False)

    def _notes(self) -> list[str]:
        own = [k for k in self.matrices if k not in self.shared]
        said = [f"ICA of this fold's training trials: {_counted(own, self.taken)}"]
        if self.shared:
            said.append(
                f"{_some(self.shared)}: no ICA of training trials of their own, so components are taken out by what "
                f"was fitted on other people with the same electrodes ({self.taken[self.shared[0]]} components)"
            )
        if self.bare:
            said.append(f"{_some(self.bare)}: nothing to fit an ICA on, so no component is taken out")
        return said


def _runs(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Join stretches of one trial that touch or overlap."""
    runs: list[Stretch] = []
    pending: list[Stretch] = []

    def close() -> None:
        if not pending:
            return
        first, at, eeg = pending[0], pending[0].begin, []
        kinds = set.intersection(*({(k, len(x)) for k, x in s.guides.items()} for s in pending))
        guides: dict[str, list[NDArray[np.float32]]] = {k: [] for k, _ in sorted(kinds)}
        for s in pending:
            skip = at - s.begin
            eeg.append(s.eeg[:, skip:])  # (C, S)
            for k, pieces in guides.items():
                pieces.append(s.guides[k][:, skip:])  # (G, S)
            at = max(at, s.begin + s.eeg.shape[1])
        whole = {k: np.concatenate(v, axis=1) for k, v in guides.items()}  # (G, S) each
        runs.append(Stretch(first.trial_row, first.begin, np.concatenate(eeg, axis=1), whole))

    end = 0
    for s in sorted(stretches, key=lambda s: (s.trial_row, s.begin)):
        if pending and (s.trial_row != pending[-1].trial_row or s.begin > end):
            close()
            pending = []
        end = max(end, s.begin + s.eeg.shape[1]) if pending else s.begin + s.eeg.shape[1]
        pending.append(s)
    close()
    return runs


def _cut(
    run: Stretch, size: int, low: float | None, rate: float
) -> list[tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]]:
    """Cut a run into stretches of `size` samples, high-passed where the store holds what is slower."""
    eeg: NDArray[Any] = run.eeg  # (C, S)
    if low is not None and eeg.shape[1] >= size:
        from milmer.signals.filters import bandpass

        eeg = bandpass(eeg.astype(np.float64), rate, low, None)  # (C, S)
    starts = range(0, eeg.shape[1] - size + 1, size)
    return [(eeg[:, i : i + size], {k: x[:, i : i + size] for k, x in run.guides.items()}) for i in starts]


def _thinned(sample: _Sample, most: int) -> _Sample:
    """Keep at most `most` stretches, evenly spread."""
    if len(sample.eeg) <= most:
        return sample
    kept = np.linspace(0, len(sample.eeg) - 1, most).astype(int)  # (most,)
    return _Sample(sample.eeg[kept], {k: x[kept] for k, x in sample.guides.items()})


def _even(guide: Floats) -> Floats:
    """Give every channel of a guide (E, G, L) a spread of 1."""
    return np.asarray(guide / np.maximum(guide.std(axis=(0, 2), keepdims=True), 1e-12))


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
