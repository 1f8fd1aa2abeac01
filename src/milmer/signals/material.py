"""One trial filtered once for all that is made of it; stretches of trials, to seek components and bad channels in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from milmer.config import EEGPreparation
from milmer.datasets.base import LazySignal, Signal
from milmer.errors import UserError
from milmer.signals.filters import LONGEST_GAP, bandpass, fill_gaps, fitting_band, lowpass_edge, notch, resample

Array = NDArray[np.float64]
Band = tuple[float | None, float | None]

MATERIAL_RATE = 256.0  # Hz, most that components are looked at
MATERIAL_TOP = 100.0  # Hz, for ICLabel
CHUNK = 5.0  # seconds of a trial taken at a time
MOST_SAMPLES = 150_000  # of material, but where so many channels need more
SAMPLES_A_PAIR = 32  # points for each entry of a channels x channels matrix
FLATTEST = 1e-4  # of the median channel's spread
BLOCK = 8  # channels filtered at a time


@dataclass(frozen=True)
class Plan:
    """What is the same for every trial of the recording: edges and rates in Hz."""

    rate: float
    new_rate: float  # of the stored signal
    band: Band  # of the stored signal
    look_band: Band  # of what components and bad channels are looked for in
    look_rate: float
    line_freq: float | None
    highest: float  # harmonics of the mains above it are filtered away anyway


def plan_filters(rate: float, settings: EEGPreparation, iclabel_off: str, uses_iclabel: bool) -> tuple[Plan, list[str]]:
    """Choose the filters of a recording.

    Parameters
    ----------
    rate : float
        Samples a second of the recording.
    settings : EEGPreparation
        Band, rate and mains frequency asked for.
    iclabel_off : str
        Not empty where the recording comes already filtered: it is not notched again.
    uses_iclabel : bool
        Whether components are looked at up to 100 Hz.

    Returns
    -------
    plan : Plan
    notes : list of str
        What differs from what was asked for, one line each.
    """
    notes: list[str] = []
    low, high = fitting_band(settings.band, rate)
    if high is None:
        notes.append(
            f"band: the upper edge of {settings.band[1]:g} Hz does not fit below half of the recording's "
            f"{rate:g} Hz, so there is no low-pass"
        )
    if settings.band[1] > 0.42 * settings.rate:  # where the resampling filter starts to fall
        notes.append(f"band: stored at {settings.rate:g} Hz, so nothing above {0.42 * settings.rate:g} Hz is whole")
    look_rate = min(rate, MATERIAL_RATE)
    look_band = fitting_band((1.0, MATERIAL_TOP if uses_iclabel else settings.band[1]), rate)
    highest = lowpass_edge(MATERIAL_TOP if uses_iclabel else high, rate)
    line_freq = settings.line_freq
    if line_freq is not None and iclabel_off:
        notes.append(f"no notch at {line_freq:g} Hz: the recording comes already filtered")
        line_freq = None
    if line_freq is not None and line_freq > highest:
        line_freq = None  # the low-pass takes it out
    return Plan(rate, settings.rate, (low, high), look_band, look_rate, line_freq, highest), notes


def read(signal: Signal | LazySignal) -> Signal:
    """Return the signal itself, or read it where it is a promise."""
    return signal if isinstance(signal, Signal) else signal()


def pads(signal: Signal) -> tuple[int, int]:
    """Samples of padding before and after the trial."""
    return round(signal.pad_before * signal.rate), round(signal.pad_after * signal.rate)


def length_at(signal: Signal, rate: float) -> int:
    """Samples of the trial at another rate, without its padding."""
    before, after = pads(signal)
    seconds: float = max(signal.samples.shape[1] - before - after, 0) / signal.rate
    return round(seconds * rate)


def trial_part(signal: Signal) -> NDArray[np.floating]:
    """Samples without the padding, shape (C, S)."""
    before, after = pads(signal)
    return signal.samples[:, before : max(signal.samples.shape[1] - after, before)]  # (C, S)


def broken_channels(signal: Signal) -> NDArray[np.bool_]:
    """Which channels of this trial are flat or miss more than half a second: shape (C,)."""
    x = trial_part(signal)  # (C, S)
    gaps, spread = np.zeros(len(x)), np.zeros(len(x))  # (C,), (C,)
    for c in range(len(x)):
        one, longest = fill_gaps(x[c : c + 1], signal.rate)  # (1, S), (1,)
        gaps[c], spread[c] = longest[0], np.std(one) if np.ptp(one) else 0.0
    return np.asarray((gaps > LONGEST_GAP) | (spread <= FLATTEST * np.median(spread)))  # (C,)


def filtered(signal: Signal, plan: Plan, wanted: Sequence[tuple[Band, float]]) -> list[NDArray[np.float32]]:
    """Bridge gaps, notch, filter and resample one trial and drop its padding.

    A few channels at a time: a trial may be an hour at 1 kHz. In double precision, kept in single.

    Parameters
    ----------
    signal : Signal
        One trial with its padding, shape (C, S).
    plan : Plan
        Its rate and mains frequency.
    wanted : sequence of (band, rate)
        What to make of it; gaps and mains are seen to once.

    Returns
    -------
    list of ndarray of float32, each of shape (C, S')
    """
    before, after = pads(signal)
    out: list[list[NDArray[np.float32]]] = [[] for _ in wanted]
    for c in range(0, len(signal.samples), BLOCK):
        x, _ = fill_gaps(signal.samples[c : c + BLOCK], plan.rate)  # (block, S)
        x -= np.median(x, axis=1, keepdims=True)  # (block, S): an amplifier's offset would ring in the filters
        if plan.line_freq is not None:
            x = notch(x, plan.rate, plan.line_freq, plan.highest)  # (block, S)
        for made, (band, rate) in zip(out, wanted, strict=True):
            y = resample(bandpass(x, plan.rate, *band), plan.rate, rate, before, after)  # (block, S')
            made.append(y.astype(np.float32))
    return [np.concatenate(made) for made in out]  # each (C, S')


@dataclass(frozen=True)
class Stretch:
    """A few seconds of one trial: EEG (C, L) and what guides the labels beside it (G, L), by kind."""

    trial: int
    eeg: NDArray[np.float32]
    guides: dict[str, NDArray[np.float32]]


class Stretches:
    """Stretches of trials, evenly spread over however many come: of all first, then of every second, every fourth ...

    Parameters
    ----------
    rate : float
        Samples a second of what is added.
    most : int
        Samples that are enough; at most twice as many are held.
    """

    def __init__(self, rate: float, most: int) -> None:
        self._size = max(1, round(CHUNK * rate))
        self._most = most
        self._every, self._seen = 1, 0
        self._kept: list[tuple[int, Stretch]] = []

    def add(self, trial: int, eeg: NDArray[np.float32], guides: dict[str, NDArray[np.float32]]) -> None:
        """Take stretches of a trial: `eeg` (C, S) and `guides` (G, S)."""
        size = min(self._size, eeg.shape[1])
        for start in range(0, eeg.shape[1] - size + 1, max(size, 1)):
            if self._seen % self._every == 0:
                cut = slice(start, start + size)
                own = {kind: x[:, cut].copy() for kind, x in guides.items()}
                self._kept.append((self._seen, Stretch(trial, eeg[:, cut].copy(), own)))
            self._seen += 1
        while sum(s.eeg.shape[1] for _, s in self._kept) > 2 * self._most:
            self._every *= 2
            self._kept = [(k, s) for k, s in self._kept if k % self._every == 0]

    def equal(self) -> list[Stretch]:
        """Stretches of one length, that of the median one; longer ones are cut and shorter ones left out."""
        if not self._kept:
            return []
        size = max(1, int(np.median([s.eeg.shape[1] for _, s in self._kept])))
        long = [s for _, s in self._kept if s.eeg.shape[1] >= size]
        most = max(1, self._most // size)
        if len(long) > most:
            long = [long[i] for i in np.linspace(0, len(long) - 1, most).astype(int)]
        return [Stretch(s.trial, s.eeg[:, :size], {kind: x[:, :size] for kind, x in s.guides.items()}) for s in long]


def enough_samples(n_channels: int) -> int:
    """How many samples of material are enough for this many channels."""
    return max(MOST_SAMPLES, SAMPLES_A_PAIR * n_channels**2)


def stacked(parts: Sequence[NDArray[np.float32]]) -> Array:
    """Stack stretches (n, L) of one length: shape (E, n, L)."""
    return np.stack(parts).astype(np.float64)  # (E, n, L)


def check_trial(t: int, signal: Signal, first: tuple[tuple[str, ...], float]) -> None:
    """Refuse a trial whose channels or rate are not those of the first.

    Parameters
    ----------
    t : int
        Its index, from 0.
    signal : Signal
        Its EEG.
    first : (names, rate)
        Of the first trial.

    Raises
    ------
    UserError
        If they differ.
    """
    names, rate = first
    if signal.names != names or signal.rate != rate:
        raise UserError(
            f"EEG of trial {t + 1}: found {len(signal.names)} channels at {signal.rate:g} Hz, expected the same "
            f"channels and rate as in trial 1 ({len(names)} at {rate:g} Hz); make it a recording of its own"
        )


def check_guide(kind: str, t: int, guide: Signal, signal: Signal) -> None:
    """Refuse an EOG or ECG that does not lie sample by sample beside its EEG.

    Raises
    ------
    UserError
        If length or rate differ.
    """
    if guide.samples.shape[1] != signal.samples.shape[1] or guide.rate != signal.rate:
        raise UserError(
            f"{kind.upper()} of trial {t + 1}: found {guide.samples.shape[1]} samples at {guide.rate:g} Hz, another "
            f"length or rate than its EEG's ({signal.samples.shape[1]} at {signal.rate:g} Hz), expected the same"
        )
