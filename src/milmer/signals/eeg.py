"""EEG of one recording made ready: repaired, filtered trial by trial, referenced, with its components beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from milmer.config import EEGPreparation
from milmer.datasets.base import LazySignal, Signal
from milmer.errors import UserError
from milmer.signals.bad import noisy_channels, repair_matrix
from milmer.signals.channels import clean_names
from milmer.signals.ica import ICA, Material, fit_and_label
from milmer.signals.ica_labels import iclabel_refusal
from milmer.signals.material import (
    Plan,
    Stretches,
    broken_channels,
    check_guide,
    check_trial,
    enough_samples,
    filtered,
    length_at,
    plan_filters,
    read,
    stacked,
    trial_part,
)

Array = NDArray[np.float64]
Signals = Sequence[Signal] | Sequence[LazySignal]

LOUDEST, QUIETEST = 1e-3, 1e-8  # volts: median magnitudes that no scalp EEG has
BAD_TRIALS = 0.1  # a channel bad in more of the trials is bad everywhere
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
        The components of the recording, in the space of `trials`.
    ica_of : dict of int to ICA
        With ``ica_scope: trial``: index of a trial -> its own components, and `ica` is None.
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
    ica_of: dict[int, ICA] = field(default_factory=dict)


@dataclass(frozen=True)
class _Filtered:
    """All trials after the one pass over the recording."""

    trials: list[NDArray[np.float32]]  # (C, S) each, in the stored band, not repaired
    broken: NDArray[np.bool_]  # (trials, C)
    missing: NDArray[np.int64]  # (trials, C) samples bridged
    unusable: list[int]
    whole: Stretches
    of_trial: dict[int, Stretches]  # with a decomposition per trial


def prepare_eeg(
    signals: Signals,
    settings: EEGPreparation,
    *,
    eog: Signals | None = None,
    ecg: Signals | None = None,
    iclabel_off: str = "",
    seed: int = 0,
) -> PreparedEEG:
    """Prepare the EEG trials of one recording.

    Gaps are bridged; mains hum is notched; bad channels are found; a copy high-passed at 1 Hz is repaired,
    average-referenced and decomposed; the components are labelled; the stored signal is band-passed, resampled,
    repaired and average-referenced. Every filter stays within one trial and its padding; only the instantaneous ICA
    sees several trials. Each trial is read once, in order, and only its filtered form is kept.

    Parameters
    ----------
    signals : sequence of Signal, or of functions that read one
        One a trial, in volts, of one recording: equal names (cleaned) and rate.
    settings : EEGPreparation
        Band, rate, mains frequency, ICA.
    eog, ecg : like `signals`, optional
        One a trial, sample by sample beside the EEG, for finding eye and heart components.
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
    if not signals:
        raise UserError("EEG: found no trial with EEG in this recording, expected at least one")
    guides = {kind: g for kind, g in (("eog", eog), ("ecg", ecg)) if g is not None}
    for kind, given in guides.items():
        if len(given) != len(signals):
            raise UserError(f"{kind.upper()}: found {len(given)} trials, expected {len(signals)} as of the EEG")
    first = read(signals[0])
    names, n_channels = first.names, len(first.names)
    positions = _positions(names)
    refusal = iclabel_refusal(first.rate, n_channels, bool(np.isfinite(positions).all()), iclabel_off)
    if settings.ica != "none" and settings.ica_labels == "iclabel" and refusal:
        raise UserError(
            f"preparation.eeg.ica_labels: found iclabel, which is out of its range here: {refusal}; use auto or eog"
        )
    uses_iclabel = settings.ica != "none" and settings.ica_labels in ("auto", "iclabel") and not refusal
    plan, notes = plan_filters(first.rate, settings, iclabel_off, uses_iclabel)
    guide_names = {kind: read(given[0]).names for kind, given in guides.items()}
    alone = settings.ica != "none" and settings.ica_scope == "trial"
    made = _pass(first, signals, guides, plan, alone)
    del first
    n_trials, broken = len(made.trials), made.broken
    usable = [t for t in range(n_trials) if t not in made.unusable]
    notes += [
        f"trial {t + 1} of {n_trials}: more than half of the channels missing or flat, not used" for t in made.unusable
    ]
    if not usable:
        notes.append("no trial has usable EEG")
        return PreparedEEG(made.trials, names, positions, settings.rate, [], None, notes, [], made.unusable)

    chunks = stacked([s.eeg for s in made.whole.equal()])  # (E, C, L)
    bad = {int(c): NEVER for c in np.flatnonzero(broken[usable].mean(axis=0) > BAD_TRIALS)}
    if settings.bad_channels:
        bad |= noisy_channels(chunks, plan.look_rate, np.isin(np.arange(n_channels), list(bad)))
    reference = n_channels - len(bad) >= 4
    matrix, masked = _repair(names, positions, bad, reference, settings.bad_channels)
    for c, why in bad.items():
        notes.append(f"channel {names[c]} {why}: {'masked' if c in masked else 'interpolated from its neighbours'}")
    if not reference:
        notes.append(f"no average reference: only {n_channels - len(bad)} usable channels")
    good = [c for c in range(n_channels) if c not in bad]
    notes += _bridged(made.missing[usable].sum(axis=0), names, good)
    _check_magnitude(chunks[:, good], notes)

    def material(found: Stretches, repair: Array, lost: list[int], n_bad: int) -> Material:
        own = found.equal()
        present = tuple(c for c in range(n_channels) if c not in lost)
        beside = {kind: stacked([s.guides[kind] for s in own]) for kind in guides}  # (E, G, L) each
        return Material(
            repair @ stacked([s.eeg for s in own]),
            plan.look_rate,
            names,
            present,
            n_bad - len(lost),
            beside.get("eog"),
            guide_names.get("eog", ()),
            beside.get("ecg"),
        )

    ica = None
    if settings.ica != "none" and not alone:
        ica, said = fit_and_label(material(made.whole, matrix, masked, len(bad)), settings, refusal, seed)
        notes += said

    ica_of: dict[int, ICA] = {}
    told: dict[str, list[int]] = {}
    for t in usable:
        own = set(np.flatnonzero(broken[t]).tolist()) - set(bad)
        repair, lost = matrix, masked
        if own:
            repair, lost = _repair(names, positions, set(bad) | own, reference, settings.bad_channels)
            what = "masked" if own & set(lost) else "interpolated"
            notes.append(f"trial {t + 1} of {n_trials}: {', '.join(names[c] for c in sorted(own))} {NEVER}: {what}")
        made.trials[t] = (repair @ made.trials[t]).astype(np.float32)  # (C, S')
        if alone:
            found, said = fit_and_label(
                material(made.of_trial.pop(t), repair, lost, len(bad) + len(own)), settings, refusal, seed
            )
            if found is not None:
                ica_of[t] = found
            for line in said:
                told.setdefault(line, []).append(t)
    notes += [_of_trials(line, which, len(usable)) for line, which in told.items()]
    listed, hidden = [names[c] for c in sorted(bad)], [names[c] for c in masked]
    return PreparedEEG(made.trials, names, positions, settings.rate, listed, ica, notes, hidden, made.unusable, ica_of)


def _pass(first: Signal, signals: Signals, guides: Mapping[str, Signals], plan: Plan, alone: bool) -> _Filtered:
    """Read every trial once: look for broken channels, filter, keep the stored form and some stretches."""
    n_channels = len(first.names)
    most = enough_samples(n_channels)
    same = (first.names, first.rate)
    whole, of_trial = Stretches(plan.look_rate, most), {}
    trials: list[NDArray[np.float32]] = []
    broken = np.zeros((len(signals), n_channels), dtype=np.bool_)  # (trials, C)
    missing = np.zeros((len(signals), n_channels), dtype=np.int64)  # (trials, C)
    unusable: list[int] = []
    for t in range(len(signals)):
        signal = first if t == 0 else read(signals[t])
        check_trial(t, signal, same)
        beside = {kind: read(given[t]) for kind, given in guides.items()}
        for kind, guide in beside.items():
            check_guide(kind, t, guide, signal)
        broken[t] = broken_channels(signal)
        if broken[t].mean() > 0.5:
            unusable.append(t)
            trials.append(np.zeros((n_channels, length_at(signal, plan.new_rate)), dtype=np.float32))
            continue
        missing[t] = (~np.isfinite(trial_part(signal))).sum(axis=1)  # (C,)
        stored, look = filtered(signal, plan, [(plan.band, plan.new_rate), (plan.look_band, plan.look_rate)])
        look_guides = {
            kind: filtered(g, plan, [(plan.look_band, plan.look_rate)])[0] for kind, g in beside.items()
        }  # each (G, S)
        trials.append(stored)
        whole.add(t, look, look_guides)
        if alone:
            of_trial[t] = Stretches(plan.look_rate, most)
            of_trial[t].add(t, look, look_guides)
    return _Filtered(trials, broken, missing, unusable, whole, of_trial)


def _of_trials(line: str, which: list[int], n_usable: int) -> str:
    """Say a line once for all trials that it holds for."""
    if len(which) == n_usable:
        return f"every trial: {line}"
    shown = ", ".join(str(t + 1) for t in which[:8]) + (f" and {len(which) - 8} more" if len(which) > 8 else "")
    return f"trial {shown}: {line}"


def _bridged(missing: NDArray[np.int64], names: Sequence[str], channels: Sequence[int]) -> list[str]:
    """Say which channels had missing samples that were bridged."""
    found = [c for c in channels if missing[c]]
    if not found:
        return []
    shown = ", ".join(names[c] for c in found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "")
    return [f"missing samples bridged in {shown}: {int(missing[found].sum())} in all"]


def _positions(names: tuple[str, ...]) -> Array:
    found = clean_names(names)
    positions = np.full((len(names), 3), np.nan)  # (C, 3)
    positions[list(found.kept)] = found.positions
    return positions


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
