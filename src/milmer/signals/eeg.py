"""EEG of one recording made ready: repaired, filtered trial by trial, referenced, with its components beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from milmer.config import EEGPreparation
from milmer.datasets.base import Signal
from milmer.errors import UserError
from milmer.signals.bad import noisy_channels, repair_matrix
from milmer.signals.channels import clean_names
from milmer.signals.filters import LONGEST_GAP, bandpass, fill_gaps, fitting_band, lowpass_edge, notch, resample
from milmer.signals.ica import ICA, MOST_SAMPLES, Material, fit_and_label, iclabel_refusal

Array = NDArray[np.float64]

MATERIAL_RATE = 256.0  # Hz, most that components are looked at
CHUNK = 5.0  # seconds of a trial taken at a time
LOUDEST, QUIETEST = 1e-3, 1e-8  # volts: median magnitudes that no scalp EEG has
BAD_TRIALS = 0.1  # a channel bad in more of the trials is bad everywhere
FLATTEST = 1e-4  # of the median channel's spread
BLOCK = 8  # channels filtered at a time
NEVER = "is missing or flat"


@dataclass(frozen=True)
class PreparedEEG:
    """EEG of one recording, ready for the store.

    Parameters
    ----------
    trials : list of ndarray of float32, each of shape (C, S)
        Volts, average-referenced, padding dropped; ``S = round(seconds * rate)``. Artifact components are still in.
    names : tuple of str, length C
        Channel names.
    positions : ndarray of float64, shape (C, 3)
        Electrodes on the unit sphere; NaN where unknown.
    rate : float
        Samples a second.
    bad : list of str
        Channels bad in the whole recording, interpolated or masked.
    masked : list of str
        Those of them that could not be interpolated: their signal is zero.
    unusable : list of int
        Indexes of trials without usable EEG: their signal is zero.
    ica : ICA or None
        The components, in the space of `trials`.
    notes : list of str
        What was done or odd, one line each.
    """

    trials: list[NDArray[np.float32]]
    names: tuple[str, ...]
    positions: Array
    rate: float
    bad: list[str]
    ica: ICA | None
    notes: list[str]
    masked: list[str] = field(default_factory=list)
    unusable: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Plan:
    """What is the same for every trial of the recording."""

    rate: float
    band: tuple[float | None, float | None]  # of the stored signal
    look_band: tuple[float | None, float | None]  # of what components and bad channels are looked for in
    look_rate: float
    line_freq: float | None
    highest: float  # harmonics of the mains above it are filtered away anyway


def prepare_eeg(
    signals: Sequence[Signal],
    settings: EEGPreparation,
    *,
    eog: Sequence[Signal] | None = None,
    iclabel_off: str = "",
    seed: int = 0,
) -> PreparedEEG:
    """Prepare the EEG trials of one recording.

    Gaps are bridged; mains hum is notched; bad channels are found; a copy high-passed at 1 Hz is repaired,
    average-referenced and decomposed; the components are labelled; the stored signal is band-passed, resampled,
    repaired and average-referenced. Every filter stays within one trial and its padding; only the instantaneous ICA
    sees several trials.

    Parameters
    ----------
    signals : sequence of Signal
        One a trial, in volts, of one recording: equal names (cleaned) and rate.
    settings : EEGPreparation
        Band, rate, mains frequency, ICA.
    eog : sequence of Signal, optional
        One a trial, as long as the EEG, for finding blinks.
    iclabel_off : str
        Why ICLabel does not apply, such as a dataset that is already band-limited and cleaned; such a signal is not
        notched again. Empty for raw recordings.
    seed : int
        Of the ICA's starting point.

    Returns
    -------
    PreparedEEG

    Raises
    ------
    UserError
        If the trials do not fit together, or ICLabel is asked for outside its range.
    """
    _check(signals, eog)
    first = signals[0]
    names, n_channels = first.names, len(first.names)
    positions = _positions(names)
    notes: list[str] = []
    placed = bool(np.isfinite(positions).all())
    refusal = iclabel_refusal(first.rate, n_channels, placed, iclabel_off)
    if settings.ica != "none" and settings.ica_labels == "iclabel" and refusal:
        raise UserError(
            f"preparation.eeg.ica_labels: found iclabel, which is out of its range here: {refusal}; use auto or eog"
        )
    uses_iclabel = settings.ica != "none" and settings.ica_labels in ("auto", "iclabel") and not refusal
    plan = _plan(first, settings, iclabel_off, uses_iclabel, notes)

    broken = np.stack([_broken(s) for s in signals])  # (trials, C)
    unusable = [int(t) for t in np.flatnonzero(broken.mean(axis=1) > 0.5)]
    usable = [t for t in range(len(signals)) if t not in unusable]
    notes += [
        f"trial {t + 1} of {len(signals)}: more than half of the channels missing or flat, not used" for t in unusable
    ]
    empty = [np.zeros((n_channels, _length(s, settings.rate)), dtype=np.float32) for s in signals]
    if not usable:
        notes.append("no trial has usable EEG")
        return PreparedEEG(empty, names, positions, settings.rate, [], None, notes, [], unusable)

    chunks, eog_chunks = _material(signals, eog, usable, plan)
    bad = {int(c): NEVER for c in np.flatnonzero(broken[usable].mean(axis=0) > BAD_TRIALS)}
    if settings.bad_channels:
        bad |= noisy_channels(chunks, plan.look_rate, np.isin(np.arange(n_channels), list(bad)))
    reference = n_channels - len(bad) >= 4
    matrix, masked = _repair(names, positions, bad, reference, settings.bad_channels)
    for c, why in bad.items():
        notes.append(f"channel {names[c]} {why}: {'masked' if c in masked else 'interpolated from its neighbours'}")
    if not reference:
        notes.append(f"no average reference: only {n_channels - len(bad)} usable channels")
    notes += _bridged([signals[t] for t in usable], [c for c in range(n_channels) if c not in bad])
    good = [c for c in range(n_channels) if c not in bad]
    _check_magnitude(chunks[:, good], notes)

    ica = None
    if settings.ica != "none":
        present = tuple(c for c in range(n_channels) if c not in masked)
        material = Material(
            matrix @ chunks,
            plan.look_rate,
            names,
            present,
            len(bad) - len(masked),
            eog_chunks,
            eog[0].names if eog is not None else (),
        )
        ica, said = fit_and_label(material, settings, refusal, seed)
        notes += said

    trials = empty
    for t in usable:
        own = set(np.flatnonzero(broken[t]).tolist()) - set(bad)
        repair = matrix
        if own:
            repair, lost = _repair(names, positions, set(bad) | own, reference, settings.bad_channels)
            what = "masked" if own & set(lost) else "interpolated"
            notes.append(f"trial {t + 1} of {len(signals)}: {', '.join(names[c] for c in sorted(own))} {NEVER}: {what}")
        x = _filtered(signals[t], plan, plan.band, settings.rate)  # (C, S')
        trials[t] = (repair @ x).astype(np.float32)  # (C, S')
    listed, hidden = [names[c] for c in sorted(bad)], [names[c] for c in masked]
    return PreparedEEG(trials, names, positions, settings.rate, listed, ica, notes, hidden, unusable)


def _bridged(signals: Sequence[Signal], channels: Sequence[int]) -> list[str]:
    """Say which channels had missing samples that were bridged."""
    names: list[str] = []
    count = 0
    for c in channels:
        missing = sum(int(np.isnan(s.samples[c]).sum()) for s in signals)
        if missing:
            names.append(signals[0].names[c])
            count += missing
    if not names:
        return []
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return [f"missing samples bridged in {shown}: {count} in all"]


def _check(signals: Sequence[Signal], eog: Sequence[Signal] | None) -> None:
    if not signals:
        raise UserError("EEG: found no trial with EEG in this recording, expected at least one")
    first = signals[0]
    for t, s in enumerate(signals):
        if s.names != first.names or s.rate != first.rate:
            raise UserError(
                f"EEG of trial {t + 1}: found {len(s.names)} channels at {s.rate:g} Hz, expected the same channels and "
                f"rate as in trial 1 ({len(first.names)} at {first.rate:g} Hz); make it a recording of its own"
            )
        if eog is not None and (len(eog) != len(signals) or eog[t].samples.shape[1] != s.samples.shape[1]):
            raise UserError(f"EOG of trial {t + 1}: found another length than its EEG's, expected the same samples")


def _positions(names: tuple[str, ...]) -> Array:
    found = clean_names(names)
    positions = np.full((len(names), 3), np.nan)  # (C, 3)
    positions[list(found.kept)] = found.positions
    return positions


def _plan(first: Signal, settings: EEGPreparation, iclabel_off: str, uses_iclabel: bool, notes: list[str]) -> _Plan:
    low, high = fitting_band(settings.band, first.rate)
    if high is None:
        notes.append(
            f"band: the upper edge of {settings.band[1]:g} Hz does not fit below half of the recording's "
            f"{first.rate:g} Hz, so there is no low-pass"
        )
    if settings.band[1] > 0.42 * settings.rate:  # where the resampling filter starts to fall
        notes.append(f"band: stored at {settings.rate:g} Hz, so nothing above {0.42 * settings.rate:g} Hz is whole")
    look_rate = min(first.rate, MATERIAL_RATE)
    look_band = fitting_band((1.0, 100.0 if uses_iclabel else settings.band[1]), first.rate)
    highest = lowpass_edge(100.0 if uses_iclabel else high, first.rate)
    line_freq = settings.line_freq
    if line_freq is not None and iclabel_off:
        notes.append(f"no notch at {line_freq:g} Hz: the recording comes already filtered")
        line_freq = None
    if line_freq is not None and line_freq > highest:
        line_freq = None  # the low-pass takes it out
    return _Plan(first.rate, (low, high), look_band, look_rate, line_freq, highest)


def _length(signal: Signal, rate: float) -> int:
    before, after = _pads(signal)
    seconds: float = max(signal.samples.shape[1] - before - after, 0) / signal.rate
    return round(seconds * rate)


def _pads(signal: Signal) -> tuple[int, int]:
    return round(signal.pad_before * signal.rate), round(signal.pad_after * signal.rate)


def _trial(signal: Signal) -> NDArray[np.floating]:
    before, after = _pads(signal)
    return signal.samples[:, before : max(signal.samples.shape[1] - after, before)]  # (C, S)


def _broken(signal: Signal) -> NDArray[np.bool_]:
    """Which channels of this trial are flat or miss more than half a second: shape (C,)."""
    x = _trial(signal)  # (C, S)
    gaps, spread = np.zeros(len(x)), np.zeros(len(x))  # (C,), (C,)
    for c in range(len(x)):
        one, longest = fill_gaps(x[c : c + 1], signal.rate)  # (1, S), (1,)
        gaps[c], spread[c] = longest[0], np.std(one) if np.ptp(one) else 0.0
    return np.asarray((gaps > LONGEST_GAP) | (spread <= FLATTEST * np.median(spread)))  # (C,)


def _filtered(signal: Signal, plan: _Plan, band: tuple[float | None, float | None], rate: float) -> Array:
    """Bridge gaps, notch, filter and resample one trial and drop its padding: shape (C, S').

    A few channels at a time: a trial may be an hour at 1 kHz.
    """
    before, after = _pads(signal)
    out = []
    for c in range(0, len(signal.samples), BLOCK):
        x, _ = fill_gaps(signal.samples[c : c + BLOCK], plan.rate)  # (block, S)
        x -= np.median(x, axis=1, keepdims=True)  # (block, S): an amplifier's offset would ring in the filters
        if plan.line_freq is not None:
            x = notch(x, plan.rate, plan.line_freq, plan.highest)  # (block, S)
        x = bandpass(x, plan.rate, *band)  # (block, S)
        out.append(resample(x, plan.rate, rate, before, after))
    return np.concatenate(out)  # (C, S')


def _material(
    signals: Sequence[Signal], eog: Sequence[Signal] | None, usable: list[int], plan: _Plan
) -> tuple[Array, Array | None]:
    """Evenly spread stretches of the usable trials, at most `MOST_SAMPLES`: (E, C, L) and (E, n_eog, L)."""
    lengths = {t: _length(signals[t], plan.look_rate) for t in usable}
    size = max(1, min(round(CHUNK * plan.look_rate), int(np.median(list(lengths.values())))))
    places = [(t, k * size) for t in usable for k in range(lengths[t] // size)]
    most = max(1, MOST_SAMPLES // size)
    if len(places) > most:
        places = [places[i] for i in np.linspace(0, len(places) - 1, most).astype(int)]
    parts: list[Array] = []
    eog_parts: list[Array] = []
    for t in sorted({t for t, _ in places}):
        starts = [start for own, start in places if own == t]
        x = _filtered(signals[t], plan, plan.look_band, plan.look_rate)  # (C, S)
        parts += [x[:, s : s + size] for s in starts]
        if eog is not None:
            x = _filtered(eog[t], plan, plan.look_band, plan.look_rate)  # (n_eog, S)
            eog_parts += [x[:, s : s + size] for s in starts]
    return np.stack(parts), np.stack(eog_parts) if eog is not None else None  # (E, C, L), (E, n_eog, L)


def _repair(
    names: tuple[str, ...], positions: Array, bad: dict[int, str] | set[int], reference: bool, mend: bool
) -> tuple[Array, list[int]]:
    """Matrix (C, C) that interpolates or masks the bad channels and references; with `mend` off it only masks."""
    known = positions if mend else np.full_like(positions, np.nan)  # (C, 3)
    return repair_matrix(names, known, set(bad), reference)


def _check_magnitude(chunks: Array, notes: list[str]) -> None:
    middle = float(np.median(np.abs(chunks))) if chunks.size else 0.0
    if middle > LOUDEST:
        notes.append(
            f"magnitude: half of the EEG lies beyond {middle:.3g} V, which looks like microvolts declared as volts; "
            "it is stored as declared"
        )
    elif 0 < middle < QUIETEST:
        notes.append(
            f"magnitude: half of the EEG lies within {middle:.3g} V, too little for scalp EEG, which looks like a "
            "wrong unit; it is stored as declared"
        )
