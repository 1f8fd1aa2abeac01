"""EEG and peripheral signals of a simulated study, whose sources, mixing and artifacts are known.

Emotion is carried by the *power* of rhythms at random phase, relative to the rest of the spectrum: neither the wave
form nor the overall scale says anything. Volts and seconds throughout; time zero is the start of the stimulus.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.signal

from milmer.datasets.simulated_body import FASTER, respond, skin_responses
from milmer.datasets.simulated_head import CHANNELS, MUSCLES, OSCILLATORS, Array, Head, make_head

PERIPHERAL = ("hEOG", "vEOG", "zEMG", "tEMG", "GSR", "Resp", "Plet", "Temp")
PULSE_SCALE = 1000.0  # arbitrary units of channel 39 for one unit of pulse
OCULAR_LEFT = 0.4  # share of blinks and saccades that the "EOG removal" of the published files leaves in the EEG

_SESSION, _TRIAL, _RAW = 12, 13, 15  # what a random draw is for; part of its seed


@dataclass(frozen=True)
class RawTruth:
    """Simulated EEG and all that it was made from.

    Parameters
    ----------
    samples : ndarray, shape (32, n_samples)
        Volts, average reference, not filtered.
    names : tuple of str
        Electrodes, in the order of DEAP's preprocessed files.
    rate : float
        Hz.
    sources : ndarray, shape (n_sources, n_samples)
        Volts; ``mixing @ sources`` is `samples` but for the electrodes' own noise.
    head : Head
        Mixing, names and kinds of the sources.
    events : tuple of dict
        ``kind`` ("eye blink", "saccade", "muscle artifact"), ``start``, ``apex``, ``stop`` in seconds.
    """

    samples: Array
    names: tuple[str, ...]
    rate: float
    sources: Array
    head: Head
    events: tuple[dict[str, str | float], ...]


@dataclass(frozen=True)
class TrialTruth:
    """One trial as DEAP's preprocessed files hold it: 40 rows; beats and responses in s from the stimulus."""

    samples: Array  # (40, S), EEG and EOG in microvolts as published
    events: tuple[dict[str, str | float], ...]
    beats: Array  # (n_beats,)
    responses: Array  # (n,) onsets of responses of the skin


def simulate_raw(
    seed: int, subject: int, seconds: float, rate: float = 256.0, *, valence: int = 0, arousal: int = 0, part: int = 0
) -> RawTruth:
    """Simulate an unbroken EEG recording as an amplifier gives it, without the filter of DEAP's published files.

    Parameters
    ----------
    seed, subject : int
        All randomness is a function of these (and of the length and rate).
    seconds : float
        Length, s.
    rate : float
        Hz.
    valence, arousal : int
        -1 low, +1 high, 0 neither.
    part : int
        Another one of the same head is another recording of the same person.
    """
    head = make_head(seed, subject)
    rng = np.random.default_rng([seed, _RAW, subject, *([part] if part else [])])
    times = np.arange(round(seconds * rate)) / rate
    sources, events = _sources(rng, head, times, valence, arousal, stimulus=None)
    samples = head.mixing @ sources + _sensor_noise(rng, sources.shape[1])
    return RawTruth(samples - samples.mean(axis=0), CHANNELS, rate, sources, head, tuple(events))


def simulate_trial(
    seed: int,
    subject: int,
    trial: int,
    seconds: int,
    *,
    place: float,
    valence: int = 0,
    arousal: int = 0,
    stimulus: int | None = None,
    stimuli: int = 0,
    baseline: float = 3.0,
    rate: float = 128.0,
    body: int = 0,
) -> TrialTruth:
    """Simulate the 40 rows of one trial of a preprocessed DEAP file.

    Average reference, 4-45 Hz as published. Blinks and saccades stay in the EEG at `OCULAR_LEFT` of their size (in the
    real files EOG has been removed, with what success nobody says): so preparation has something to take out. The EOG
    rows pass the same filter, and the plethysmograph is exactly ``PULSE_SCALE * pulse(beats, times)``.

    Parameters
    ----------
    seed, subject, trial : int
        All randomness is a function of these; `trial` is the Experiment_id.
    seconds : int
        Length with the baseline, s.
    place : float
        Place in the session, 0 first to 1 last: gain drifts along it.
    valence, arousal : int
        What the EEG is to show from stimulus start on: -1 low, +1 high, 0 nothing.
    stimulus : int, optional
        Number from 1 of the stimulus whose signature is added, of `stimuli` in the study.
    body : int
        What heart rate and skin conductance are to show: -1 low, +1 high, 0 nothing.
    """
    head = make_head(seed, subject, stimuli)
    rng = np.random.default_rng([seed, _TRIAL, subject, trial])
    times = np.arange(round(seconds * rate)) / rate - baseline  # (S,)
    sources, events = _sources(rng, head, times, valence, arousal, stimulus)
    session = np.random.default_rng([seed, _SESSION, subject])
    gain = np.exp(session.normal(0, 0.2) * place + rng.normal(0, 0.1))
    ocular = np.array([k == "eye blink" for k in head.kinds])
    left = np.where(ocular, OCULAR_LEFT, gain)
    eeg: Array = (head.mixing * left) @ sources + _sensor_noise(rng, times.size)  # (32, S)
    eeg = _band(eeg - eeg.mean(axis=0), rate)  # (32, S)
    beats = _beats(rng, head.heart_rate, -baseline - 2, times[-1] + 2, body)
    rest = _peripheral(rng, times, rate, sources[ocular], beats)  # (8, S)
    rest[:2] = _band(rest[:2], rate)
    onsets, sizes = skin_responses(seed, subject, trial, seconds - baseline, body)
    rest[4] = respond(rest[4], times, onsets, sizes)  # (S,)
    return TrialTruth(np.concatenate([eeg * 1e6, rest]), tuple(events), beats, onsets)


def pulse(beats: Array, times: Array) -> Array:
    """Blood volume wave at `times` for heart beats at `beats` (s): systolic peak and dicrotic wave.

    Parameters
    ----------
    beats : ndarray, shape (n_beats,)
        Ascending; must begin before and end after `times`.
    times : ndarray, shape (n,)

    Returns
    -------
    ndarray, shape (n,)
        Zero mean and unit deviation over a beat.
    """
    phase = np.interp(times, beats, np.arange(len(beats), dtype=np.float64)) % 1.0
    cycle = np.linspace(0, 1, 200, endpoint=False)
    return np.asarray((_wave(phase) - _wave(cycle).mean()) / _wave(cycle).std())


def _wave(phase: Array) -> Array:
    wave: Array = np.zeros_like(phase)
    for centre, width, height in ((0.22, 0.09, 1.0), (0.52, 0.12, 0.35)):
        for turn in (-1, 0, 1):  # the wave of the beat before and after reaches into this one
            wave += height * np.exp(-0.5 * ((phase - centre + turn) / width) ** 2)
    return wave


def _sources(
    rng: np.random.Generator, head: Head, times: Array, valence: int, arousal: int, stimulus: int | None
) -> tuple[Array, list[dict[str, str | float]]]:
    """Time courses of all sources of `head`, (k, S) in volts, and the artifacts in them."""
    size, rate = times.size, 1.0 / (times[1] - times[0])
    freqs = np.fft.rfftfreq(scipy.fft.next_fast_len(size), 1 / rate)
    exponents = head.exponents + rng.normal(0, 0.04)
    tilt = np.maximum(freqs, 0.5)[None] ** -exponents[:, None]  # (48, F)
    # one unit of power between 1 and 45 Hz, whatever the exponent and the rate
    tilt *= ((exponents - 1 + 1e-9) / (1 - 45 ** (1 - exponents - 1e-9)))[:, None]
    background = head.background * _noise(rng, tilt, rate, size)  # (48, S)

    waves = np.array([_bump(freqs, o.low + head.alpha, o.high + head.alpha) for o in OSCILLATORS])
    slow = _noise(rng, _low_pass(freqs, 0.12)[None].repeat(len(OSCILLATORS), 0), rate, size)
    shown = np.clip(times / 0.5, 0, 1) if times[0] < 0 else np.ones(size)  # nothing is shown in the baseline
    effect = np.array([valence * o.valence + arousal * o.arousal for o in OSCILLATORS])
    trial = head.gains + rng.normal(0, 0.13, len(OSCILLATORS))
    level = effect[:, None] * shown + trial[:, None] + 0.25 * slow  # (12, S) log amplitude
    volts = np.array([o.microvolts for o in OSCILLATORS]) * 1e-6
    rhythms = volts[:, None] * np.exp(level) * _noise(rng, waves, rate, size)

    eyes, events = _ocular(rng, times, head.blink_rate)
    muscles, bursts = _muscles(rng, times, freqs, rate)
    stimuli = np.zeros((sum(n.startswith("stimulus ") for n in head.names), size))
    if stimulus is not None:
        stimuli[stimulus - 1] = _signature(rng, stimulus, freqs, rate, size) * shown
    return np.concatenate([background, rhythms, eyes, muscles, stimuli]), events + bursts


def _signature(rng: np.random.Generator, stimulus: int, freqs: Array, rate: float, size: int) -> Array:
    """The trace of one stimulus: a narrow rhythm at a frequency of its own (and a place, by its mixing column)."""
    frequency = 5.0 + 38.0 * ((stimulus * 0.6180339887) % 1.0)  # spread evenly, neighbours far apart
    volts = 18e-6 / np.sqrt(frequency)  # falls as the background does
    return np.asarray(volts * _noise(rng, _bump(freqs, frequency - 1, frequency + 1)[None], rate, size)[0])


def _ocular(rng: np.random.Generator, times: Array, per_minute: float) -> tuple[Array, list[dict[str, str | float]]]:
    """Blink and saccade time courses (2, S) in volts, and where they are."""
    events: list[dict[str, str | float]] = []
    out = np.zeros((2, times.size))
    size = rng.uniform(110e-6, 190e-6)
    clock = times[0] + rng.exponential(60 / per_minute)
    while clock < times[-1]:
        rise, fall = rng.uniform(0.07, 0.11), rng.uniform(0.14, 0.24)
        apex, stop = clock + rise, clock + rise + fall
        shape = np.where(times < apex, (times - clock) / rise, (stop - times) / fall).clip(0, 1)
        out[0] += size * rng.uniform(0.75, 1.25) * np.sin(np.pi / 2 * shape) ** 2
        events.append(_event("eye blink", clock, apex, stop))
        clock = stop + 0.4 + rng.exponential(max(60 / per_minute - 0.8, 0.5))
    clock = times[0] + rng.exponential(2.5)
    gaze = 0.0
    while clock < times[-1]:
        target = rng.normal(0, 18e-6)
        lasts = rng.uniform(0.03, 0.06)
        out[1] += (target - gaze) * np.clip((times - clock) / lasts, 0, 1)
        events.append(_event("saccade", clock, clock + lasts / 2, clock + lasts))
        gaze, clock = target, clock + 0.3 + rng.exponential(2.5)
    return out, events


def _muscles(
    rng: np.random.Generator, times: Array, freqs: Array, rate: float
) -> tuple[Array, list[dict[str, str | float]]]:
    """Muscle bursts (4, S) in volts: 20-100 Hz and above, for 0.3 to 1.5 s, a few a minute."""
    events: list[dict[str, str | float]] = []
    spectrum = (1 / (1 + np.exp(-(freqs - 25) / 4)) * np.exp(-((freqs / 110) ** 2)) / 70)[None].repeat(len(MUSCLES), 0)
    envelope = np.zeros((len(MUSCLES), times.size))
    for row in range(len(MUSCLES)):
        clock = times[0] + rng.exponential(40)
        while clock < times[-1]:
            lasts = rng.uniform(0.3, 1.5)
            shape = np.sin(np.pi * ((times - clock) / lasts).clip(0, 1))
            envelope[row] += rng.uniform(8e-6, 22e-6) * shape
            events.append(_event("muscle artifact", clock, clock + lasts / 2, clock + lasts))
            clock += lasts + rng.exponential(40)
    return (0.4e-6 + envelope) * _noise(rng, spectrum, rate, times.size), events


def _peripheral(rng: np.random.Generator, times: Array, rate: float, eyes: Array, beats: Array) -> Array:
    """Rows 33 to 40 of a DEAP file (8, S); none knows of emotion, but by the beats."""
    freqs = np.fft.rfftfreq(scipy.fft.next_fast_len(times.size), 1 / rate)
    blink, saccade = eyes * 1e6
    flat = np.ones((2, freqs.size)) * 2 / rate
    noise = _noise(rng, flat, rate, times.size)
    tone = 1 / (1 + np.exp(-(freqs - 20) / 3)) / 40
    emg = _noise(rng, tone[None].repeat(2, 0), rate, times.size) * rng.uniform(3, 8, (2, 1))
    drift = _noise(rng, _low_pass(freqs, 0.05)[None].repeat(3, 0), rate, times.size)
    breath = np.sin(2 * np.pi * (rng.uniform(0.2, 0.3) * times + 0.15 * drift[0]) + rng.uniform(0, 2 * np.pi))
    return np.stack(
        [
            2.5 * saccade + 0.05 * blink + 2 * noise[0],
            1.6 * blink + 0.1 * saccade + 2 * noise[1],
            emg[0],
            emg[1],
            rng.uniform(2e5, 6e5) * np.exp(0.05 * drift[1]),  # ohm
            1500 * breath,
            PULSE_SCALE * pulse(beats, times),
            rng.uniform(31, 34) + 0.1 * drift[2],  # degrees Celsius
        ]
    )


def _beats(rng: np.random.Generator, rate: float, start: float, stop: float, level: int) -> Array:
    """Heart beats from before `start` to after `stop`: breathing, chance and, from 0 s, `level` make the rate vary."""
    beats = [start - 60 / rate * rng.uniform()]
    phase = rng.uniform(0, 2 * np.pi)
    while beats[-1] <= stop:
        wander = 0.04 * np.sin(2 * np.pi * 0.25 * beats[-1] + phase) + rng.normal(0, 0.015)
        now = rate * np.exp(FASTER * level) if beats[-1] > 0 else rate
        beats.append(beats[-1] + 60 / now * (1 + wander))
    return np.array(beats)


def _noise(rng: np.random.Generator, density: Array, rate: float, size: int) -> Array:
    """Gaussian noise (k, size) of one-sided power density (k, F), the same at every rate."""
    length = scipy.fft.next_fast_len(size)
    white = np.fft.rfft(rng.standard_normal((density.shape[0], length)), axis=1)
    shaped = white * np.sqrt(density * rate / 2)
    shaped[:, 0] = 0
    return np.asarray(np.fft.irfft(shaped, length, axis=1)[:, :size])


def _bump(freqs: Array, low: float, high: float) -> Array:
    """Power density of unit power, mostly between `low` and `high` Hz, shape (F,)."""
    width = (high - low) / 4
    return np.asarray(np.exp(-0.5 * ((freqs - (low + high) / 2) / width) ** 2) / (width * np.sqrt(2 * np.pi)))


def _low_pass(freqs: Array, corner: float) -> Array:
    """Power density of unit power that falls beyond `corner` Hz, shape (F,)."""
    return np.asarray(2 / (np.pi * corner) / (1 + (freqs / corner) ** 2))


def _band(samples: Array, rate: float) -> Array:
    """Zero-phase 4-45 Hz, as DEAP's files are published, (C, S) -> (C, S)."""
    sections = scipy.signal.butter(4, (4.0, 45.0), "bandpass", fs=rate, output="sos")
    return np.asarray(scipy.signal.sosfiltfilt(sections, samples, axis=1))


def _sensor_noise(rng: np.random.Generator, size: int) -> Array:
    return np.asarray(0.5e-6 * rng.standard_normal((len(CHANNELS), size)))


def _event(kind: str, start: float, apex: float, stop: float) -> dict[str, str | float]:
    return {"kind": kind, "start": round(start, 4), "apex": round(apex, 4), "stop": round(stop, 4)}
