"""Signals of the body as a model is given them: windows of the kinds that a configuration names, with their masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from milmer.signals.body_channels import BODY_CHANNELS, BODY_RATE
from milmer.windows import holds

if TYPE_CHECKING:
    from milmer.config import Data
    from milmer.store import Store


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
                found = self.store.body(int(trials[b, w]), kind, *spans[b, w].tolist())[:, : self.samples]  # (P, S)
                there = np.isfinite(found)  # (P, S)
                signal[b, w, :, : found.shape[1]] = np.where(there, found, 0.0)
                mask[b, w, :, : found.shape[1]] = there
            body[kind], masks[kind] = torch.from_numpy(signal), torch.from_numpy(mask)
        return body, masks

    def there(self, kind: str, trials: NDArray[np.int64], spans: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether windows of the trials (n,), between `spans` (n, 2) in seconds, hold any of a kind; (n,)."""
        found = np.array(self._has[kind][trials])  # (n,)
        for i in np.flatnonzero(found):
            found[i] = np.isfinite(self.store.body(int(trials[i]), kind, *spans[i].tolist())).any()
        return found
