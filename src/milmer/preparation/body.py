"""The body's signals of a recording put in the store: as they were recorded, and cleaned at one rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milmer.datasets.base import LazySignal, Recording, Signal, Trial, body_kind
from milmer.signals.body_channels import BODY_CHANNELS, BODY_RATE, eog_channel

Load = Callable[[LazySignal | None, list[str]], Signal]


@dataclass
class _Pieces:
    """What all trials of a recording have of one signal, and where each is."""

    samples: list[NDArray[np.float32]] = field(default_factory=list)  # (..., S) each
    spans: dict[str, list[int]] = field(default_factory=dict)  # trial -> first and last sample
    end: int = 0

    def add(self, trial: int, samples: NDArray[np.float32]) -> None:
        length = samples.shape[-1]
        self.spans[str(trial)] = [self.end, self.end + length]
        self.samples.append(samples)
        self.end += length

    def write(self, file: Path) -> None:
        np.save(file, np.concatenate(self.samples, axis=-1).astype(np.float32))


def write_peripheral(
    recording: Recording, folder: Path, load: Load, notes: list[str], *, clean: bool, line_freq: float | None
) -> dict[str, Any]:
    """Write ``peripheral_<name>.npy`` and, where `clean`, ``body_<kind>.npy`` of a recording.

    One trial is in memory at a time, but for what is written and for skin conductance, whose level is judged over all.
    The eyes' and the heart's channels that stand beside the EEG are written too.

    Parameters
    ----------
    recording : Recording
    folder : Path
        The recording's folder in the store.
    load : callable
        Reads a signal, and notes its warnings.
    notes : list of str
        What was odd is added here.
    clean : bool
        Whether to write body signals.
    line_freq : float or None
        Mains frequency in Hz, taken out of the muscles' signals.

    Returns
    -------
    dict
        ``peripheral`` and ``body`` of recording.json.
    """
    from milmer.signals.peripheral import prepare_peripheral

    raw: dict[str, _Pieces] = {}
    about: dict[str, Any] = {}
    bodies = _Bodies(line_freq, sorted({name for trial in recording.trials for name in trial.peripheral}))
    waiting: list[tuple[int, dict[str, Signal]]] = []
    for trial in recording.trials:
        kinds: dict[str, dict[str, Signal]] = {}
        for name, signal in sorted(_signals(trial, load, notes).items()):
            samples, rate = prepare_peripheral(signal)  # (S,)
            raw.setdefault(name, _Pieces()).add(trial.trial, samples)
            about[name] = {"rate": rate, "unit": signal.unit, "spans": raw[name].spans}
            if clean and (kind := body_kind(name)):
                kinds.setdefault(kind, {})[name] = signal
        for kind, signals in kinds.items():
            if kind == "gsr":
                waiting.append((trial.trial, signals))
            else:
                bodies.add(kind, trial.trial, signals)
    if waiting:
        from milmer.signals.conductance import has_level

        absolute = has_level([s for _, signals in waiting for s in signals.values()])
        for number, signals in waiting:
            bodies.add("gsr", number, signals, absolute)
    for name, pieces in raw.items():
        pieces.write(folder / f"peripheral_{name}.npy")
    notes += bodies.notes(len(recording.trials))
    return {"peripheral": about, "body": bodies.write(folder)}


class _Bodies:
    """Body signals of a recording, trial after trial."""

    def __init__(self, line_freq: float | None, names: Sequence[str]) -> None:
        self._line_freq, self._names = line_freq, names
        self._pieces: dict[str, _Pieces] = {}
        self._quality: dict[str, dict[str, list[float]]] = {}
        self._odd: dict[tuple[str, str], list[int]] = {}  # kind and note -> trials

    def add(self, kind: str, trial: int, signals: Mapping[str, Signal], absolute: bool = True) -> None:
        from milmer.signals.body import prepare_body

        made = prepare_body(
            kind,
            list(signals.values()),
            list(signals),
            absolute=absolute,
            line_freq=self._line_freq,
            everywhere=[n for n in self._names if body_kind(n) == kind],
        )
        for note in made.notes:
            self._odd.setdefault((kind, note), []).append(trial)
        for name, value in made.quality.items():
            self._quality.setdefault(kind, {}).setdefault(name, []).append(value)
        if np.isfinite(made.samples).any():
            self._pieces.setdefault(kind, _Pieces()).add(trial, made.samples)

    def notes(self, trials: int) -> list[str]:
        """One line for each thing that was odd, with the trials it was in."""
        found = []
        for (kind, note), where in self._odd.items():
            some = ", ".join(map(str, where[:8])) + (" ..." if len(where) > 8 else "")
            found.append(f"{kind}: {note} ({'every trial' if len(where) == trials else f'trial {some}'})")
        return found

    def write(self, folder: Path) -> dict[str, Any]:
        about: dict[str, Any] = {}
        for kind, channels in BODY_CHANNELS.items():
            if kind in self._pieces:
                self._pieces[kind].write(folder / f"body_{kind}.npy")
                quality = {k: round(float(np.median(v)), 5) for k, v in self._quality.get(kind, {}).items()}
                about[kind] = {"channels": list(channels), "rate": BODY_RATE, "spans": self._pieces[kind].spans}
                about[kind]["quality"] = quality
        return about


def _signals(trial: Trial, load: Load, notes: list[str]) -> dict[str, Signal]:
    """Read all of a trial that is not EEG, each channel under a name of its own."""
    found = {name: load(lazy, notes) for name, lazy in trial.peripheral.items()}
    if trial.eog is not None:
        signal = load(trial.eog, notes)
        for row, channel in enumerate(signal.names):
            found.setdefault(eog_channel(channel), _row(signal, row))
    if trial.ecg is not None and not any(body_kind(name) == "ecg" for name in found):
        signal = load(trial.ecg, notes)
        for row in range(len(signal.names)):
            found[f"ecg-{row + 1}" if row else "ecg"] = _row(signal, row)
    return found


def _row(signal: Signal, row: int) -> Signal:
    one = signal.samples[row : row + 1]  # (1, S)
    return replace(signal, samples=one, names=signal.names[row : row + 1], warnings=())
