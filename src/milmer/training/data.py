"""Bags from a store: which windows go together, and the tensors of a batch."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from milmer.config import Data
from milmer.errors import UserError
from milmer.labels import Labels, make_labels, median_labels, permute_ratings, permute_trials
from milmer.models.bag import Bag
from milmer.sections import Modality
from milmer.store import IDENTITY, Store
from milmer.training.augment import drawn_view, fixed_view
from milmer.training.body_reading import BodyReader
from milmer.training.cache import FrameCache
from milmer.training.frames import FrameMemory
from milmer.training.reading import EEGReader, Operators, Stretch
from milmer.training.rejection import kept_windows
from milmer.windows import build_windows, choose_frames, holds

if TYPE_CHECKING:
    from milmer.evaluation.guard import Guard

Batches = DataLoader[tuple[Bag, torch.Tensor, torch.Tensor]]  # of bag, class (B,), (epoch, index) (B, 2)
PREFETCH = 4  # batches that a loading process reads ahead
Item = tuple[int, int]  # (epoch, bag): the epoch travels with the index, so that augmentation is a function of both


def bag_table(windows: pd.DataFrame, windows_per_bag: int | Literal["trial"]) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """Group consecutive windows of a trial into bags.

    Returns
    -------
    table : DataFrame
        One row a bag: its first window's columns, `stop` of its last.
    members : ndarray of int64, shape (n_bags, W)
        Rows of `windows`; -1 where a trial's last bag has fewer.
    """
    if windows_per_bag == "trial":
        windows_per_bag = int(windows["window"].max()) + 1
    order = windows["window"].to_numpy() // windows_per_bag  # (n_windows,)
    groups = windows.groupby([windows["trial_row"].to_numpy(), order], sort=False).indices
    members = np.full((len(groups), windows_per_bag), -1, dtype=np.int64)  # (n_bags, W)
    for bag, rows in enumerate(groups.values()):
        members[bag, : len(rows)] = rows
    last = members[np.arange(len(members)), (members >= 0).sum(axis=1) - 1]  # (n_bags,)
    table = windows.iloc[members[:, 0]].reset_index(drop=True)
    table["stop"] = windows["stop"].to_numpy()[last]
    return table, members


class Bags(Dataset[Bag]):
    """All bags of a store under one `Data` configuration.

    Without `classes` the rows' classes come from the study's ratings; with them, rows have none (prediction).

    Attributes
    ----------
    table : DataFrame
        One row a bag, with identity columns, ratings, start and stop.
    labels : Labels
        Classes of the rows of `table`.
    face_rows : ndarray of int64, shape (n_bags, W, N)
        Rows of the recording's face track; -1 where there is none.
    cache : FrameCache or None
        Where it is there, batches hold `Bag.prefix` in place of pixels (see `milmer.training.prefix`).
    """

    def __init__(self, store: Store, config: Data, *, classes: tuple[str, ...] | None = None) -> None:
        self.store, self.config = store, config
        self._check: Callable[[Any], None] | None = None
        self.windows = build_windows(store.trials, config.window, config.step, config.modalities)
        self.reader, self.body = EEGReader(store, config), BodyReader(store, config)
        self.windows, self.window_faces, self.eeg_there, self.notes = kept_windows(
            self.reader, self.windows, self._window_faces()
        )  # (n_windows, N), (n_windows,)
        self._trial_rows = self.windows["trial_row"].to_numpy(np.int64)  # (n_windows,)
        self._spans = self.windows[["start", "stop"]].to_numpy(np.float64)  # (n_windows, 2)
        self.table, self.members = bag_table(self.windows, config.windows_per_bag)
        if classes is None:
            self.labels = self._make_labels()
        else:
            self.labels = Labels(np.full(len(self.table), -1, dtype=np.int64), classes, "none")
        self.channels = self.reader.channels if "eeg" in config.modalities else 0
        self.samples = round(config.window * store.eeg_rate)
        layouts = {k: self.reader.layout(k) for k in store.keys}
        self.positions = {k: _padded(places, self.channels) for k, (_, places, _) in layouts.items()}  # (C, 3) each
        self.present = {
            k: np.pad(there, (0, max(0, self.channels - len(there))))[: self.channels]
            for k, (_, _, there) in layouts.items()
        }  # (C,) each
        self.face_rows = np.where((self.members >= 0)[..., None], self.window_faces[self.members], -1)  # (n_bags, W, N)
        keys = self.table["store_key"].to_numpy()
        held = ((str(k), int(f)) for k, row in zip(keys, self.face_rows, strict=True) for f in row[row >= 0])
        self.frames = FrameMemory(store, config.px, held)
        self.cache: FrameCache | None = None
        self._views: tuple[int, int] | None = None

    def permuted(self, seed: int | None, *, alike: bool = False) -> Bags:
        """Return the same bags with ratings shuffled between the trials of each subject, and labels made of these.

        All ratings and the label of a trial go together; who, when and which stimulus stay. `None` shuffles nothing.
        With `alike` stimuli are exchanged, for all subjects alike: the chance level of protocols whose tests hold new
        stimuli only.
        """
        if seed is None:
            return self
        other = copy.copy(self)
        other.table = permute_ratings(self.table, self.config.target, seed, fixed=IDENTITY, alike=alike)
        if not self.labels.thresholds:  # named classes, which may be those of a column that stays
            labels = dataclasses.replace(self.labels, y=permute_trials(self.table, self.labels.y, seed, alike=alike))
        else:
            labels = other._make_labels()
        other.labels = dataclasses.replace(labels, rule=f"{self.labels.rule} (permuted, seed {seed})")
        return other

    def labelled(self, guard: Guard) -> Bags:
        """Return the same bags with a fold's labels: with ``threshold: median`` the thresholds are fitted here.

        Parameters
        ----------
        guard : Guard
            The fold's, over the rows of `table`.
        """
        if self.config.threshold != "median" or not self.labels.thresholds:
            return self
        other = copy.copy(self)
        labels = median_labels(self.table, self.config.target, self._ranges(), guard, self.config.ties)
        other.labels = dataclasses.replace(labels, rule=self.labels.rule)
        return other

    def with_operators(self, operators: Operators) -> Bags:
        """Return the same bags, whose components are taken out by a fold's own operators."""
        other = copy.copy(self)
        other.reader = self.reader.with_operators(operators)
        return other

    def with_cache(self, cache: FrameCache | None) -> Bags:
        """Return the same bags, whose batches hold what a frozen prefix gave for each frame; None: pixels."""
        other = copy.copy(self)
        other.cache = cache
        return other

    def with_views(self, seed: int, views: int) -> Bags:
        """Return the same bags, of which every epoch sees one of a few fixed views, drawn for each bag."""
        other = copy.copy(self)
        other._views = (seed, views) if views > 1 else None
        return other

    def stretches(self, row: int) -> list[Stretch]:
        """Return the EEG of each window of the bag in row `row` as it is stored, no component taken out."""
        if self._check is not None:
            self._check([row])
        windows = [w for w in self.members[row].tolist() if w >= 0 and self.eeg_there[w]]
        return [self.reader.stretch(int(self._trial_rows[w]), *self._spans[w].tolist()) for w in windows]

    @property
    def with_eeg(self) -> NDArray[np.bool_]:
        """Which bags have a window with EEG that a model is given; (n_bags,)."""
        return np.asarray(((self.members >= 0) & self.eeg_there[self.members]).any(axis=1))

    def restricted(self, check: Callable[[Any], None], rows: NDArray[np.bool_], labelled: NDArray[np.bool_]) -> Bags:
        """Return a copy for `milmer.evaluation.guard.Guard.view`, of which only some rows can be read.

        Parameters
        ----------
        check : callable
            Called with row numbers before they are read; raises where one may not be.
        rows : ndarray of bool, shape (n_bags,)
            The rows that can be read.
        labelled : ndarray of bool, shape (n_bags,)
            The rows whose labels and ratings are shown: elsewhere the class is -1 and ratings are NaN.
        """
        other = copy.copy(self)
        other._check = check
        other.face_rows = np.where(rows[:, None, None], self.face_rows, -1)  # (n_bags, W, N)
        other.table = _hidden(self.table, labelled, self.config.target)
        thresholds = {n: np.where(labelled, cut, np.nan) for n, cut in self.labels.thresholds.items()}
        y = np.where(labelled, self.labels.y, -1)  # (n_bags,)
        other.labels = dataclasses.replace(self.labels, y=y, thresholds=thresholds)
        shown = np.zeros(len(self.store.trials), dtype=bool)  # (n_trials,)
        shown[self.table["trial_row"].to_numpy()[labelled]] = True
        other.store = copy.copy(self.store)
        other.store.trials = _hidden(self.store.trials, shown, self.config.target)
        return other

    def _make_labels(self) -> Labels:
        return make_labels(self.table, self.config.target, self.config.threshold, self._ranges(), self.config.ties)

    def _ranges(self) -> dict[str, Sequence[float]]:
        return dict(self.store.info.get("rating_ranges", {}))

    def _window_faces(self) -> NDArray[np.int64]:
        n = self.config.frames if "face" in self.config.modalities else 0
        chosen = np.full((len(self.windows), n), -1, dtype=np.int64)  # (n_windows, N)
        if not n:
            return chosen
        columns = ("trial_row", "start", "stop")
        for i, (row, start, stop) in enumerate(zip(*(self.windows[c].to_numpy() for c in columns), strict=True)):
            trial = self.store.trials.iloc[row]
            if not trial["has_face"]:
                continue
            first, rows = int(trial["face_start"]), int(trial["face_rows"])
            track = self.store.faces(str(trial["store_key"]))
            picked = choose_frames(track.time[first : first + rows], start, stop, n)  # (N,)
            ok = picked >= 0
            ok[ok] = track.found[first + picked[ok]]
            chosen[i] = np.where(ok, first + picked, -1)  # (N,)
        return chosen

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, item: Item) -> Bag:
        return self.__getitems__([item])

    def __getitems__(self, items: Sequence[Item]) -> Bag:
        """Return the batch of the bags in `items`, not augmented."""
        if self._check is not None:
            self._check([bag for _, bag in items])
        b, w, n, c, s, p = len(items), *self.members.shape[1:], *self._sizes()
        cache = self.cache if n else None
        p = p if cache is None else 0
        prefix = np.zeros((b, w, n, *cache.shape), dtype=np.float16) if cache else None  # (B, W, N, T', F')
        views = [0 if self._views is None else drawn_view(self._views[0], *i, self._views[1]) for i in items]
        frames = np.zeros((b, w, n, p, p, 3), dtype=np.uint8)  # (B, W, N, P, P, 3)
        eeg = np.zeros((b, w, c, s), dtype=np.float32)  # (B, W, C, S)
        eeg_mask = np.zeros((b, w, c), dtype=bool)  # (B, W, C)
        sample_mask = np.zeros((b, w, s), dtype=bool)  # (B, W, S)
        positions = np.zeros((b, c, 3), dtype=np.float32)  # (B, C, 3)
        faces = self.face_rows[[bag for _, bag in items]]  # (B, W, N)
        for i, (_, bag) in enumerate(items):
            key = str(self.table["store_key"].iat[bag])
            positions[i] = self.positions[key]  # (C, 3)
            for j, window in enumerate(self.members[bag]):
                if window < 0:
                    continue
                if "eeg" in self.config.modalities:
                    self._read_eeg(int(window), key, eeg[i, j], eeg_mask[i, j], sample_mask[i, j])
                there = np.flatnonzero(faces[i, j] >= 0)  # (n,)
                if cache is not None and prefix is not None:
                    prefix[i, j, there] = cache.read(key, faces[i, j, there], views[i])  # (n, T', F')
                for k in there if cache is None else ():
                    frames[i, j, k] = self.frame(key, int(faces[i, j, k]))  # (P, P, 3)
        windows = self.members[[bag for _, bag in items]]  # (B, W)
        trials = np.where(windows >= 0, self._trial_rows[windows], -1)  # (B, W)
        body, body_mask = self.body.read(trials, self._spans[windows])  # (B, W, P, S_b) each
        frame_mask = torch.from_numpy(faces >= 0)  # (B, W, N)
        channel_mask = torch.from_numpy(eeg_mask)  # (B, W, C)
        pictures = torch.from_numpy(frames).permute(0, 1, 2, 5, 3, 4)  # (B, W, N, 3, P, P)
        if cache is None and any(views):
            pictures = self._viewed(pictures, items, views)  # (B, W, N, 3, P, P)
        return Bag(
            frames=pictures,
            frame_mask=frame_mask,  # (B, W, N)
            eeg=torch.from_numpy(eeg),  # (B, W, C, S)
            eeg_mask=channel_mask,  # (B, W, C)
            sample_mask=torch.from_numpy(sample_mask),  # (B, W, S)
            positions=torch.from_numpy(positions),  # (B, C, 3)
            window_mask=torch.from_numpy(windows >= 0),  # (B, W)
            modality_mask=torch.stack([channel_mask.flatten(1).any(1), frame_mask.flatten(1).any(1)], 1),  # (B, 2)
            body=body,
            body_mask=body_mask,
            prefix=None if prefix is None else torch.from_numpy(prefix),  # (B, W, N, T', F')
        )

    def _viewed(self, frames: torch.Tensor, items: Sequence[Item], views: Sequence[int]) -> torch.Tensor:
        """Change the frames (B, W, N, 3, P, P) of each bag as its view says; in [0, 1]."""
        seen = []
        for one, (_, bag), view in zip(frames.float() / 255, items, views, strict=True):
            _, key = self.store.part(str(self.table["store_key"].iat[bag]))
            start = int(self.store.trials["face_start"].to_numpy()[self.table["trial_row"].to_numpy()[bag]])
            seen.append(fixed_view(one, key, start, view))  # (W, N, 3, P, P)
        return torch.stack(seen)  # (B, W, N, 3, P, P)

    def _sizes(self) -> tuple[int, int, int, int]:
        if "face" not in self.config.modalities:
            return 0, self.channels, self.samples, 1
        return self.config.frames, self.channels, self.samples, self.config.px

    def _read_eeg(
        self, window: int, key: str, eeg: NDArray[np.float32], channels: NDArray[np.bool_], samples: NDArray[np.bool_]
    ) -> None:
        if not self.eeg_there[window]:
            return
        read = self.reader.read(int(self._trial_rows[window]), *self._spans[window])  # (C, S)
        have = min(read.shape[1], eeg.shape[1])
        if have:
            eeg[: len(read), :have] = read[:, :have]
            channels[:] = self.present[key]
            samples[:have] = True

    def frame(self, key: str, row: int) -> NDArray[np.uint8]:
        """Return the crop in `row` of the face track of recording `key`, uint8 (P, P, 3).

        Where frames are kept in memory, only those that some bag holds can be had.
        """
        return self.frames(key, row)  # (P, P, 3)

    def check(self, indexes: NDArray[np.int64]) -> None:
        """Raise `UserError` where the rows in `indexes` hold none of the modalities asked for."""
        trials = self.store.trials.iloc[self.table["trial_row"].to_numpy()[indexes]]
        check_modalities(self.store, self.config.modalities, trials)


def check_modalities(store: Store, modalities: Sequence[str], trials: pd.DataFrame | None = None) -> None:
    """Raise `UserError` at the first modality that none of the `trials` holds; of all of the store if not given."""
    trials = store.trials if trials is None else trials
    for name in modalities:
        if not holds(trials, name).any():
            there = ",".join(m for m in get_args(Modality) if holds(trials, m).any())
            raise UserError(
                f"{store.path}: no trial has {name}, found {there or 'nothing'}; name some of these with --modalities"
            )


def _hidden(table: pd.DataFrame, shown: NDArray[np.bool_], target: str) -> pd.DataFrame:
    """Return a copy without the ratings and labels of rows that are not `shown`."""
    columns = [c for c in table if str(c).startswith("rating_") or c == "label" or (c == target and c not in IDENTITY)]
    return table.assign(**{str(c): table[c].where(shown) for c in columns})


class EpochSampler(Sampler[Item]):
    """Order of the bags of an epoch: a function of seed and epoch, however often training was resumed."""

    def __init__(self, indexes: NDArray[np.int64], seed: int, shuffle: bool) -> None:
        self.indexes, self.seed, self.shuffle, self.epoch = indexes, seed, shuffle, 0

    def set_epoch(self, epoch: int) -> None:
        """Take the number of the epoch that comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.indexes)

    def __iter__(self) -> Iterator[Item]:
        order = self.indexes
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch, 1]).permutation(order)  # (n,)
        return iter([(self.epoch, int(i)) for i in order])


class _Batches(Dataset[tuple[Bag, torch.Tensor, torch.Tensor]]):
    """Batches of (bag, class, (epoch, index)) for a loader."""

    def __init__(self, bags: Bags) -> None:
        self.bags = bags

    def __len__(self) -> int:
        return len(self.bags)

    def __getitem__(self, item: Item) -> tuple[Bag, torch.Tensor, torch.Tensor]:
        return self.__getitems__([item])

    def __getitems__(self, items: Sequence[Item]) -> tuple[Bag, torch.Tensor, torch.Tensor]:
        y = torch.from_numpy(self.bags.labels.y[[i for _, i in items]])  # (B,)
        return self.bags.__getitems__(items), y, torch.tensor(items)  # Bag, (B,), (B, 2)


def _as_is(batch: Any) -> Any:
    """Leave a batch alone: `_Batches` makes whole ones."""
    return batch


def make_loader(
    bags: Bags, indexes: NDArray[np.int64], batch: int, *, seed: int = 0, shuffle: bool = False, workers: int = 0
) -> Batches:
    """Return a loader of (bag, class, (epoch, index)) batches over the rows in `indexes`."""
    if workers and bags.cache is None:
        bags.frames.fill()  # here, once: processes share what was there before them
    return DataLoader(
        _Batches(bags),
        batch_size=batch,
        sampler=EpochSampler(indexes, seed, shuffle),
        num_workers=workers,
        collate_fn=_as_is,
        drop_last=False,
        pin_memory=torch.cuda.is_available(),  # page-locked, so that a copy to the device need not wait
        prefetch_factor=PREFETCH if workers else None,
        persistent_workers=workers > 0,  # begun once a fit, and not once an epoch
    )


def _padded(positions: NDArray[np.float64], channels: int) -> NDArray[np.float32]:
    padded = np.zeros((channels, 3), dtype=np.float32)  # (C, 3)
    padded[: len(positions)] = positions[:channels]
    return padded
