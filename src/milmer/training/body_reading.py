"""Signals of the body as a model is given them: windows of the kinds that a configuration names, with their masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from milmer.signals.body_channels import BODY_CHANNELS, BODY_RATE
from milmer.windows import holds

if TYPE_CHECKING:
    from milmer.config import Data
    from milmer.store import Store


MEMORY = 500_000_000  # bytes of whole trials that are kept; beyond it all are read again. A study of 32 people is 80 MB


class BodyReader:
    """Reads body signals of a store's windows.

    Parameters
    ----------
    store : Store
    data : Data
        ``modalities`` and ``window`` are used.

    Attributes
    ----------
    kinds : tuple of str
        Those that are read, in the order of `milmer.signals.body_channels.BODY_CHANNELS`.
    samples : int
        Of a whole window.
    """

    def __init__(self, store: Store, data: Data) -> None:
        self.store = store
        self.kinds: tuple[str, ...] = tuple(k for k in BODY_CHANNELS if k in data.modalities)
        self.samples = round(data.window * BODY_RATE)
        self._has = {str(kind): holds(store.trials, kind) for kind in self.kinds}  # (n_trials,) each
        self._kept: dict[tuple[int, str], NDArray[np.float32]] = {}  # (P, S) each
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        """Travel to worker processes without what was read."""
        return self.__dict__ | {"_kept": {}, "_bytes": 0}

    def read(
        self, trials: NDArray[np.int64], spans: NDArray[np.float64]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Read windows of bags.

        Parameters
        ----------
        trials : ndarray of int64, shape (B, W)
            Row of the trial in the store's table; -1 for no window.
        spans : ndarray of float64, shape (B, W, 2)
            Start and stop in seconds.

        Returns
        -------
        body : dict of str to Tensor of float32, shape (B, W, P, S_b)
            0 where masked.
        body_mask : dict of str to Tensor of bool, shape (B, W, P, S_b)
            False where missing (NaN in the store), after the trial's end, or where there is no window.
        """
        body: dict[str, Tensor] = {}
        masks: dict[str, Tensor] = {}
        for kind in self.kinds:
            shape = (*trials.shape, len(BODY_CHANNELS[kind]), self.samples)
            signal = np.zeros(shape, dtype=np.float32)  # (B, W, P, S_b)
            mask = np.zeros(shape, dtype=bool)  # (B, W, P, S_b)
            for at in np.argwhere((trials >= 0) & self._has[kind][trials]).tolist():
                b, w = at
                found = self._window(int(trials[b, w]), kind, *spans[b, w].tolist())[:, : self.samples]  # (P, S)
                there = np.isfinite(found)  # (P, S)
                signal[b, w, :, : found.shape[1]] = np.where(there, found, 0.0)
                mask[b, w, :, : found.shape[1]] = there
            body[kind], masks[kind] = torch.from_numpy(signal), torch.from_numpy(mask)
        return body, masks

    def there(self, kind: str, trials: NDArray[np.int64], spans: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether windows of the trials (n,), between `spans` (n, 2) in seconds, hold any of a kind; (n,)."""
        found = np.array(self._has[kind][trials])  # (n,)
        for i in np.flatnonzero(found):
            found[i] = np.isfinite(self._window(int(trials[i]), kind, *spans[i].tolist())).any()
        return found

    def _window(self, row: int, kind: str, start: float, stop: float) -> NDArray[np.float32]:
        """Read a stretch of a trial as ``Store.body`` does, of a trial that is read but once; (P, S)."""
        if (row, kind) not in self._kept:
            whole = self.store.body(row, kind)  # (P, S)
            if self._bytes + whole.nbytes > MEMORY:
                self._kept, self._bytes = {}, 0
            self._kept[row, kind] = whole
            self._bytes += whole.nbytes
        begin = round(start * BODY_RATE)
        return self._kept[row, kind][:, begin : begin + round((stop - start) * BODY_RATE)]
