"""EEG as a model is given it: components taken out, a narrower band, a common cap. Nothing of it is in a store.

What is linear over channels (components, montage) is one small matrix; what is linear over time (the band) is one
filter of the whole trial, never across trials. The two may be done in either order.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from milmer.datasets.base import body_kind
from milmer.errors import UserError
from milmer.signals.body_channels import BODY_RATE
from milmer.signals.montage import montage_names, spline_matrix

if TYPE_CHECKING:
    import pandas as pd

    from milmer.config import Data
    from milmer.store import Store
    from milmer.store_recording import RecordingInfo

OPERATORS = "operators.npz"  # of a fold's folder
BAND_MEMORY = (
    1_000_000_000  # bytes of filtered trials that are kept; beyond it the oldest is filtered again when wanted
)
FEWEST_SOURCES = 4  # electrodes that a spline needs to be more than a plane
FAR = 30.0  # degrees from the nearest electrode: beyond it an interpolated one is mostly a guess
Floats = NDArray[np.float64]
Operators = Mapping[str, NDArray[np.float32]]  # store key -> (C, C) over the recording's own channels


@dataclass(frozen=True)
class Stretch:
    """A few seconds of one trial as the store holds them.

    Parameters
    ----------
    trial_row : int
        Row of the store's `trials`.
    begin : int
        First sample, from the trial's start.
    eeg : ndarray of float32, shape (C', S)
        Volts, of the recording's own channels.
    guides : dict of str to ndarray of float32, shape (G, S)
        ``eog`` and ``ecg`` on the same clock, where the store has them.
    """

    trial_row: int
    begin: int
    eeg: NDArray[np.float32]
    guides: dict[str, NDArray[np.float32]]


class EEGReader:
    """Reads EEG of a store as a `Data` configuration asks for it.

    Parameters
    ----------
    store : Store
    data : Data
        ``reject``, ``operators``, ``band`` and ``montage`` are used.

    Attributes
    ----------
    names : tuple of str
        Electrodes of the montage; empty where EEG is read as it was recorded.
    channels : int
        Rows of what is read, of the recording that has most.
    operators : mapping of str to ndarray of float32, shape (C, C), or None
        A fold's own operators (see `milmer.training.operators`); a recording that is not in it is left as it is.

    Raises
    ------
    UserError
        If the band is not within the stored one, the montage is not known, or ``common`` has no channel.
    """

    def __init__(self, store: Store, data: Data) -> None:
        self.store, self.data = store, data
        self.operators: Operators | None = None
        self._filtered: OrderedDict[int, NDArray[np.float32]] = OrderedDict()
        self._edges = _edges(store, data)
        self._targets = _targets(store, data)  # name -> (3,)
        self.names = tuple(self._targets)
        self._splines: dict[str, NDArray[np.float32]] = {}
        own = max((len(store.recording(k).names) for k in store.keys), default=0)
        self.channels = len(self.names) or own

    def __getstate__(self) -> dict[str, Any]:
        """Travel to worker processes without the filtered trials."""
        return self.__dict__ | {"_filtered": OrderedDict()}

    def with_operators(self, operators: Operators) -> EEGReader:
        """Return a reader that takes components out by a fold's own operators."""
        other = copy.copy(self)
        other.operators = operators
        return other

    @property
    def unfitted(self) -> bool:
        """Whether it waits for a fold's operators."""
        return self.data.operators == "fold" and bool(self.data.reject) and self.operators is None

    def layout(self, key: str) -> tuple[tuple[str, ...], Floats, NDArray[np.bool_]]:
        """Return names, places (C, 3) and presence (C,) of the rows that are read of recording `key`."""
        info = self.store.recording(key)
        if not self.names:
            return info.names, info.positions, ~np.isin(info.names, info.masked)  # (C, 3), (C,)
        own, own_key = self.store.part(key)
        about = own.recording(own_key)
        enough = bool(about.names) and len(_sources(about)) >= FEWEST_SOURCES
        return self.names, self._places(about), np.full(len(self.names), enough)  # (T, 3), (T,)

    def read(self, row: int, start: float = 0.0, stop: float | None = None) -> NDArray[np.float32]:
        """Read EEG of the trial in row `row` between `start` and `stop` seconds.

        Returns
        -------
        ndarray of float32, shape (C, S)
            Volts; C is `channels`, or without a montage the recording's own. Fewer samples where the trial ends before.

        Raises
        ------
        UserError
            If components are to be taken out by a fold's own operators, and none were given.
        """
        if self.unfitted:
            raise UserError(
                "data.operators fold: EEG was read before the fold's own operators were fitted; use "
                "data.operators=stored outside of 'milmer evaluate', 'train' and 'ablate'"
            )
        if self._edges is None and not self.names and self.operators is None:
            return np.asarray(self.store.eeg(row, start, stop, self.data.reject))  # (C, S)
        key = str(self.store.trials["store_key"].iat[row])
        samples = self._samples(row, start, stop)  # (C', S)
        matrix = self._operator(row, key)  # (C', C') or None
        if self.names:
            spline = self._spline(key)  # (T, C')
            matrix = spline if matrix is None else spline @ matrix  # (T, C')
        out = samples if matrix is None else matrix @ samples  # (C, S)
        return out if self.names else self.store.placed(key, out)  # (C, S)

    def stretch(self, row: int, start: float, stop: float) -> Stretch:
        """Read EEG as the store holds it, no component taken out, and EOG and ECG beside it where there are any."""
        own, own_row = self.store.part_row(row)
        eeg = np.asarray(own.eeg(own_row, start, stop))  # (C', S)
        rate, seconds = own.eeg_rate, eeg.shape[1] / own.eeg_rate
        guides: dict[str, NDArray[np.float32]] = {}
        trial = own.trials.iloc[own_row]
        for kind in ("eog", "ecg"):
            pieces = []
            for name, about in own.recording(str(trial["store_key"])).peripheral.items():
                if body_kind(name) == kind and str(int(trial["trial"])) in about["spans"]:
                    whole, own_rate = own.peripheral(own_row, name), float(about["rate"])  # (S_p,)
                    begin = round(start * own_rate)
                    pieces.append((whole[begin : begin + round(seconds * own_rate)][None], own_rate))  # (1, S')
            if not pieces and kind == "eog" and bool(trial.get("has_eog", False)):
                pieces.append((own.body(own_row, "eog", start, start + seconds), BODY_RATE))  # (2, S')
            found = [_at_rate(x, of, rate, eeg.shape[1]) for x, of in pieces]  # (G, S) each
            found = [x for x in found if len(x)]
            if found:
                guides[kind] = np.concatenate(found)  # (G, S)
        return Stretch(row, round(start * rate), eeg, guides)

    def swings(self, windows: pd.DataFrame) -> Floats:
        """Return how far the EEG of each window swings, peak to peak, of the channel that swings furthest.

        Parameters
        ----------
        windows : DataFrame, n_windows long
            Columns ``trial_row``, ``start``, ``stop``.

        Returns
        -------
        ndarray of float64, shape (n_windows,)
            Microvolts; NaN where a window has no EEG. With a fold's own operators it is that of the EEG before any
            component is taken out: which windows there are must be the same in every fold.
        """
        reader = self.with_operators({}) if self.unfitted else self
        rate = self.store.eeg_rate
        rows = windows["trial_row"].to_numpy(np.int64)  # (n_windows,)
        spans = windows[["start", "stop"]].to_numpy(np.float64)  # (n_windows, 2)
        found = np.full(len(windows), np.nan)  # (n_windows,)
        for row in np.unique(rows):
            if not self.store.trials["has_eeg"].iat[row]:
                continue
            _, _, present = self.layout(str(self.store.trials["store_key"].iat[row]))
            eeg = reader.read(int(row))[: len(present)][present]  # (C', S)
            for i in np.flatnonzero(rows == row):
                begin = round(spans[i, 0] * rate)
                piece = eeg[:, begin : begin + round((spans[i, 1] - spans[i, 0]) * rate)]  # (C', S_w)
                if piece.size:
                    found[i] = 1e6 * float(np.ptp(piece, axis=1).max())
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of figures must know of the EEG that was read, one line each."""
        said = []
        if self._edges is not None:
            low, high = self.data.band or (0.0, 0.0)
            kept = " and ".join(sorted({f"{a:g}-{b:g}" for a, b in _bands(self.store)}))
            said.append(f"EEG at read: band {low:g}-{high:g} Hz, the store holds {kept} Hz")
        if self.names:
            said.append(self._distances())
        return tuple(said)

    def _operator(self, row: int, key: str) -> NDArray[np.float32] | None:
        if self.operators is not None:
            return self.operators.get(key)  # (C', C')
        return self.store.row_operator(row, self.data.reject)  # (C', C')

    def _samples(self, row: int, start: float, stop: float | None) -> NDArray[np.float32]:
        own, own_row = self.store.part_row(row)
        if self._edges is None:
            return np.asarray(own.eeg(own_row, start, stop))  # (C', S)
        whole = self._filtered.get(row)  # (C', S_trial)
        if whole is None:
            whole = self._filter(np.asarray(own.eeg(own_row)))  # (C', S_trial)
            self._filtered[row] = whole
            held = sum(x.nbytes for x in self._filtered.values())
            while held > BAND_MEMORY and len(self._filtered) > 1:
                held -= self._filtered.popitem(last=False)[1].nbytes
        else:
            self._filtered.move_to_end(row)
        begin = min(round(start * self.store.eeg_rate), whole.shape[1])
        end = None if stop is None else begin + round((stop - start) * self.store.eeg_rate)
        return whole[:, begin:end]  # (C', S)

    def _filter(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        from milmer.signals.filters import bandpass

        low, high = self._edges or (None, None)
        if not samples.size:
            return samples
        return bandpass(samples.astype(np.float64), self.store.eeg_rate, low, high).astype(np.float32)  # (C', S)

    def _places(self, about: RecordingInfo) -> Floats:
        """Places (T, 3) of the montage: the recording's own where it has such an electrode."""
        own = {n.lower(): p for n, p in zip(about.names, about.positions, strict=True)}
        return np.stack([own.get(n.lower(), place) for n, place in self._targets.items()])  # (T, 3)

    def _spline(self, key: str) -> NDArray[np.float32]:
        """Matrix (T, C') from a recording's own channels to the montage, against the mean of the montage."""
        if key not in self._splines:
            own, own_key = self.store.part(key)
            about = own.recording(own_key)
            matrix = np.zeros((len(self.names), len(about.names)))  # (T, C')
            if len(sources := _sources(about)) >= FEWEST_SOURCES:
                matrix[:, sources] = spline_matrix(about.positions[sources], self._places(about))  # (T, C'')
            # Caps differ in what their average reference is; that of the montage is the same for all.
            self._splines[key] = (matrix - matrix.mean(axis=0)).astype(np.float32)
        return self._splines[key]

    def _distances(self) -> str:
        """Say how many electrodes of the montage are interpolated, and how far from a measured one."""
        furthest, touched, worst = 0.0, 0, ""
        keys = [k for k in self.store.keys if self.store.recording(k).names]
        for key in keys:
            own, own_key = self.store.part(key)
            about = own.recording(own_key)
            sources = _sources(about)
            if len(sources) < FEWEST_SOURCES:
                continue
            angle = np.degrees(np.arccos(np.clip(self._places(about) @ about.positions[sources].T, -1, 1)))  # (T, C'')
            near = angle.min(axis=1)  # (T,)
            touched += bool((near > 0.1).any())
            if near.max() > furthest:
                furthest, worst = float(near.max()), self.names[int(near.argmax())]
        text = f"EEG at read: montage {self.data.montage} of {len(self.names)} electrodes"
        if not touched:
            return f"{text}, all measured in every recording"
        text += (
            f"; some are interpolated in {touched} of {len(keys)} recordings, {worst} {furthest:.0f} degrees from the "
        )
        text += "nearest measured one"
        return text + (", so that it is mostly a guess" if furthest > FAR else "")


def _at_rate(x: NDArray[np.float32], rate: float, new_rate: float, samples: int) -> NDArray[np.float32]:
    """Bring signals (G, S') of a window to another rate, (G', samples); those with gaps are left out."""
    from milmer.signals.filters import resample

    x = x[np.isfinite(x).all(axis=1)]  # (G', S')
    if x.shape[1] < 2 or not len(x):
        return np.zeros((0, samples), dtype=np.float32)  # (0, S)
    made = resample(x.astype(np.float64), rate, new_rate)[:, :samples]  # (G', S)
    return np.pad(made, ((0, 0), (0, samples - made.shape[1])), mode="edge").astype(np.float32)  # (G', S)


def _sources(about: RecordingInfo) -> NDArray[np.int64]:
    """Rows that a spline may use: those that are not masked; (C'',)."""
    return np.flatnonzero(~np.isin(about.names, about.masked))


def _parts(store: Store) -> list[Store]:
    found = list({id(part): part for part, _ in map(store.part, store.keys)}.values())
    return found or [store]


def _bands(store: Store) -> list[tuple[float, float]]:
    bands = (part.info["parameters"]["eeg"]["band"] for part in _parts(store))
    return [(float(low), float(high)) for low, high in bands]


def _edges(store: Store, data: Data) -> tuple[float | None, float | None] | None:
    """Return the edges (Hz) that a filter at read needs, None for one that the store has already; None for no filter.

    Raises
    ------
    UserError
        If the band is not within the stored one.
    """
    if data.band is None or "eeg" not in data.modalities:
        return None
    low, high = data.band
    for part, (lowest, highest) in zip(_parts(store), _bands(store), strict=True):
        if low < lowest or high > highest:
            raise UserError(
                f"data.band {low:g}-{high:g} Hz: {part.path} holds {lowest:g}-{highest:g} Hz; give a band within it "
                f"(--eeg-band), or prepare anew with --band {min(low, lowest):g},{max(high, highest):g}"
            )
    bands = _bands(store)
    cuts = low if any(low > a for a, _ in bands) else None, high if any(high < b for _, b in bands) else None
    return None if cuts == (None, None) else cuts


def _targets(store: Store, data: Data) -> dict[str, Floats]:
    """Return the electrodes (3,) that EEG is interpolated to; none where it is read as recorded."""
    if data.montage is None or "eeg" not in data.modalities:
        return {}
    names = montage_names(data.montage)
    if names:
        from milmer.signals.channels import electrode_positions

        return dict(zip(names, electrode_positions(names), strict=True))
    abouts = [part.recording(key) for part, key in map(store.part, store.keys)]
    abouts = [a for a in abouts if a.names]
    shared = set.intersection(*({n.lower() for n in a.names} for a in abouts)) if abouts else set()
    if abouts and not shared:
        raise UserError(
            f"data.montage common: no channel is in every recording of {store.name}; name a montage, such as "
            "--montage 10-20"
        )
    first = abouts[0] if abouts else None
    pairs = zip(first.names, first.positions, strict=True) if first else ()
    return {n: place for n, place in pairs if n.lower() in shared}


def read_operators(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Return the operators in a fold's folder by store key; empty where there are none."""
    file = folder / OPERATORS
    if not file.exists():
        return {}
    with np.load(file, allow_pickle=False) as kept:
        return {str(name): kept[f"matrix_{i}"] for i, name in enumerate(kept["keys"])}  # (C, C) each
