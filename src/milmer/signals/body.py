"""The body's signals of one trial, cleaned and taken apart: what `BODY_CHANNELS` names, at `BODY_RATE`.

Nothing reaches from one trial into another. The padding of a signal (DEAP's 3 s before the stimulus) serves the
filters and the search for beats, and is dropped. What cannot be had is NaN, with a note.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import signal as sps

from milmer.datasets.base import Signal
from milmer.errors import UserError
from milmer.signals.body_channels import BODY_CHANNELS, BODY_RATE, eog_channel
from milmer.signals.body_cycles import Array, Cycles, breathing, heart, pulse
from milmer.signals.conductance import conductance
from milmer.signals.filters import LONGEST_GAP, fill_gaps, notch, resample

# Kind -> lowest rate that its method can work at, and the rate that faster signals are brought to first, Hz.
_RATES: Mapping[str, tuple[float, float]] = {
    "gsr": (1.0, 32.0),
    "ppg": (20.0, 128.0),
    "ecg": (50.0, 250.0),
    "respiration": (7.0, 64.0),
    "temperature": (0.01, 64.0),
    "emg": (60.0, 1000.0),
    "eog": (8.0, 128.0),
}
_CYCLES: Mapping[str, Callable[[Array, float, int, int], Cycles]] = {
    "ppg": pulse,
    "ecg": heart,
    "respiration": breathing,
}

_EMG_FROM, _ENVELOPE_TO = 20.0, 6.0  # Hz: below are movement and the eyes; muscles tighten more slowly


@dataclass(frozen=True)
class BodySignal:
    """One kind of body signal in one trial.

    Parameters
    ----------
    channels : tuple of str
        ``BODY_CHANNELS[kind]``.
    samples : ndarray of float32, shape (P, S)
        At `BODY_RATE`; NaN where missing.
    notes : tuple of str
        What was odd, a line each, without the kind and the trial.
    quality : dict of str to float
        Median rates in Hz, where they were found.
    """

    channels: tuple[str, ...]
    samples: NDArray[np.float32]  # (P, S)
    notes: tuple[str, ...] = ()
    quality: Mapping[str, float] = field(default_factory=dict)


def prepare_body(
    kind: str,
    signals: Sequence[Signal],
    names: Sequence[str],
    *,
    absolute: bool = True,
    line_freq: float | None = None,
    everywhere: Sequence[str] = (),
) -> BodySignal:
    """Clean one kind of signal of one trial and take it apart.

    Parameters
    ----------
    kind : str
        One of `BODY_CHANNELS`.
    signals : sequence of Signal
        One channel each, shape (1, S'). Of emg, two muscles are used; of eog, one eye movement each; of the others,
        the first that gives something.
    names : sequence of str
        Their names, in the same order.
    absolute : bool
        Of gsr: whether its level is known; see `conductance.has_level`.
    line_freq : float, optional
        Mains frequency in Hz, taken out of emg.
    everywhere : sequence of str, optional
        Of emg and eog: their names in any trial of the recording, so that each has the same row in all.

    Returns
    -------
    BodySignal

    Raises
    ------
    UserError
        If there is no such kind, no signal, or one has not exactly one channel.
    """
    if kind not in BODY_CHANNELS:
        raise UserError(f"no body signal '{kind}'; expected {', '.join(BODY_CHANNELS)}")
    if not signals or len(signals) != len(names):
        raise UserError(f"{kind}: found {len(signals)} signals and {len(names)} names, expected as many, at least one")
    for signal, name in zip(signals, names, strict=True):
        if len(signal.samples) != 1:
            raise UserError(f"{kind} signal {name}: found {len(signal.samples)} channels, expected one; name each")
    order = sorted(range(len(names)), key=lambda i: names[i])
    if kind in ("emg", "eog"):
        return _places(kind, [signals[i] for i in order], [names[i] for i in order], line_freq, everywhere)
    notes: list[str] = []
    for i in order:
        made = _one(kind, signals[i], absolute)
        notes += [n for n in made.notes if n not in notes]
        if np.isfinite(made.samples).any():
            return made if len(order) == 1 else BodySignal(made.channels, made.samples, tuple(notes), made.quality)
    return BodySignal(made.channels, made.samples, tuple(notes))


def _one(kind: str, signal: Signal, absolute: bool) -> BodySignal:
    """Prepare a kind of which one signal is used."""
    x, rate, before, after, missing, why = _work(kind, signal)
    notes = [why] if why else []
    if kind == "gsr" and not why:
        samples, more = conductance(x, rate, before, after, signal.unit, absolute)  # (2, S)
        return _result(kind, samples, missing, [*notes, *more])
    if kind == "temperature" and not why:
        level = np.median(x)  # the filter starts from zero, and a skin does not
        return _result(kind, resample(x[None] - level, rate, BODY_RATE, before, after) + level, missing, notes)
    if not why:
        samples, quality, more = _CYCLES[kind](x, rate, before, after)  # (2, S)
        made = _result(kind, samples, missing, [*notes, *more], quality)
        wave = made.samples[0]  # (S,)
        there = np.isfinite(wave)  # (S,)
        if kind != "ecg" and missing.any() and there.any() and (deviation := wave[there].std()) > 0:
            wave -= wave[there].mean()  # the unit is that of what is there, not of bridged gaps
            wave /= deviation
        return made
    return _result(kind, np.full((len(BODY_CHANNELS[kind]), len(missing)), np.nan), missing, notes)


def _place_of(kind: str, names: Sequence[str]) -> dict[str, int]:
    """Say which row each name has: the eyes' by their direction, all others in their order while there are rows."""
    free = list(range(len(BODY_CHANNELS[kind])))
    place: dict[str, int] = {}
    for name in names if kind == "eog" else ():
        wanted = {"eog-h": 0, "eog-v": 1}.get(eog_channel(name))
        if wanted in free:
            place[name] = wanted
            free.remove(wanted)
    return place | dict(zip((n for n in names if n not in place), free, strict=False))


def _places(
    kind: str, signals: Sequence[Signal], names: Sequence[str], line_freq: float | None, everywhere: Sequence[str]
) -> BodySignal:
    """Give each signal a row of its own: two muscles, or the two directions of the eyes."""
    place = _place_of(kind, sorted({*names, *everywhere}))
    notes = []
    if left := [n for n in names if n not in place]:
        notes.append(f"only two are used; left out: {', '.join(left)}")
    rows: dict[int, Array] = {}
    length = 0
    for name, signal in zip(names, signals, strict=True):
        x, rate, before, after, missing, why = _work(kind, signal)
        length = max(length, len(missing))
        if name not in place:
            continue
        if why:
            notes.append(f"{name}: {why}" if len(names) > 1 else why)
            row = np.full(len(missing), np.nan)  # (S,)
        elif kind == "eog":
            level = np.median(x[before : len(x) - after])  # the offset of an electrode says nothing of the eyes
            row = resample(x[None] - level, rate, BODY_RATE, before, after)[0]  # (S,)
        else:
            row = _envelope(x, rate, before, after, line_freq)  # (S,)
        row = _as_long(row, len(missing))  # (S,)
        row[missing] = np.nan
        rows[place[name]] = row
    samples = np.full((len(BODY_CHANNELS[kind]), length), np.nan)  # (P, S)
    for at, row in rows.items():
        samples[at, : len(row)] = row
    return _result(kind, samples, np.zeros(length, dtype=bool), notes)


def _work(kind: str, signal: Signal) -> tuple[Array, float, int, int, NDArray[np.bool_], str]:
    """Bring a signal to the rate its method works at.

    Returns the samples with their padding (S',), their rate, the padding in samples, where the result is missing (S,),
    and why nothing can be made of it.
    """
    lowest, highest = _RATES[kind]
    rate = signal.rate
    before, after = round(signal.pad_before * rate), round(signal.pad_after * rate)
    raw = np.asarray(signal.samples, dtype=np.float64)  # (1, S'')
    length = max(raw.shape[1] - before - after, 0)
    at = np.round(before + np.arange(round(length / rate * BODY_RATE)) / BODY_RATE * rate).astype(np.int64)  # (S,)
    missing = _long_gaps(raw[0], rate)[np.minimum(at, max(raw.shape[1] - 1, 0))] if len(at) else np.zeros(0, bool)
    known = raw[np.isfinite(raw)]  # (n,)
    why = ""
    if not len(known):
        why = "no samples"
    elif rate < lowest:
        why = f"found {rate:g} Hz, expected at least {lowest:g} Hz"
    elif np.ptp(known) <= 1e-9 * np.abs(known).max():
        why = "flat"
    elif not len(at):
        why = "shorter than a sample"
    if why:
        return raw[0], rate, before, after, missing, why
    x, _ = fill_gaps(raw, rate)  # (1, S'')
    if rate > highest:
        level = np.median(x)
        kept = int(before / rate * highest)  # whole new samples before the trial: what is more would shift its time
        x = resample(x - level, rate, highest, round(before - kept * rate / highest)) + level  # (1, S')
        before, after, rate = kept, int(after / rate * highest), highest
    return x[0], rate, before, after, missing, ""


def _long_gaps(x: Array, rate: float) -> NDArray[np.bool_]:
    """Where more than `LONGEST_GAP` seconds are missing, (S,)."""
    missing = ~np.isfinite(x)  # (S,)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], missing, [False]]).astype(np.int8)))  # (2 * gaps,)
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        if (last - first) / rate <= LONGEST_GAP:
            missing[first:last] = False
    return missing


def _envelope(x: Array, rate: float, before: int, after: int, line_freq: float | None) -> Array:
    """Strength of a muscle: from 20 Hz up, rectified, smoothed to 6 Hz; (S,) in the signal's unit, never negative."""
    high = min(0.45 * rate, 450.0)
    x = x - np.median(x)  # (S',)
    if line_freq is not None and len(x) > 1:
        x = notch(x[None], rate, line_freq, high)[0]  # (S',)
    run = partial(sps.sosfiltfilt, padlen=min(len(x) - 1, round(rate)))
    x = run(sps.butter(4, (_EMG_FROM, high), "bandpass", fs=rate, output="sos"), x)  # (S',)
    x = run(sps.butter(2, _ENVELOPE_TO, "lowpass", fs=rate, output="sos"), np.abs(x))  # (S',)
    return np.asarray(resample(x[None], rate, BODY_RATE, before, after)[0].clip(min=0.0))  # (S,)


def _as_long(x: Array, samples: int) -> Array:
    """Give (..., S') the trial's own length, (..., S): rounded at two rates, it can be a sample off."""
    short = max(0, samples - x.shape[-1])
    if short and x.shape[-1]:
        x = np.concatenate([x, np.repeat(x[..., -1:], short, axis=-1)], axis=-1)  # (..., S)
    elif short:
        x = np.full((*x.shape[:-1], samples), np.nan)  # (..., S)
    return np.array(x[..., :samples])


def _result(
    kind: str,
    samples: Array,
    missing: NDArray[np.bool_],
    notes: Sequence[str],
    quality: Mapping[str, float] | None = None,
) -> BodySignal:
    made = _as_long(np.asarray(samples), len(missing)).astype(np.float32)  # (P, S)
    made[:, missing] = np.nan
    return BodySignal(BODY_CHANNELS[kind], made, tuple(notes), quality or {})
