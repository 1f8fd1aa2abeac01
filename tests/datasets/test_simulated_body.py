from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from milmer.datasets.base import Signal
from milmer.datasets.simulated import SimulationOptions, simulate_study
from milmer.datasets.simulated_eeg import simulate_trial
from milmer.errors import UserError
from milmer.signals.body import prepare_body


def trial(number: int, body: int, seconds: int = 33) -> tuple[np.ndarray, float, np.ndarray]:
    """Phasic conductance (S,), median heart rate in Hz, and planted onsets of one simulated trial."""
    truth = simulate_trial(0, 1, number, seconds, place=0.0, body=body)
    gsr = Signal(truth.samples[36:37], ("gsr",), 128.0, "ohm", pad_before=3.0)
    ppg = Signal(truth.samples[38:39], ("ppg",), 128.0, "1", pad_before=3.0)
    phasic = prepare_body("gsr", [gsr], ["gsr"]).samples[1]
    return phasic, prepare_body("ppg", [ppg], ["ppg"]).quality["heart_rate"], truth.responses


def test_without_it_nothing_changes_and_nothing_is_said() -> None:
    plain, asked = (simulate_trial(0, 1, 1, 15, place=0.0, **o) for o in ({}, {"body": 1}))
    assert not len(plain.responses) and len(asked.responses)
    assert np.array_equal(plain.samples[:32], asked.samples[:32])
    before = plain.beats < -0.5
    assert np.array_equal(plain.beats[before], asked.beats[: before.sum()])


def test_what_is_planted_is_found() -> None:
    rates: dict[int, list[float]] = {-1: [], 1: []}
    sizes: dict[int, list[float]] = {-1: [], 1: []}
    for number in range(1, 7):
        for level in (-1, 1):
            phasic, rate, onsets = trial(number, level)
            rates[level].append(60 * rate)
            sizes[level].append(float(phasic.std()))
            grid = np.arange(len(phasic)) / 32
            for onset in onsets[(onsets > 2) & (onsets < 26)]:
                if np.abs(onsets - onset)[onsets != onset].min(initial=99) > 6 and level == 1:
                    near = (grid > onset) & (grid < onset + 3)
                    assert grid[near][phasic[near].argmax()] == pytest.approx(onset + 1.34, abs=0.8)
    assert np.mean(rates[1]) - np.mean(rates[-1]) == pytest.approx(2 * 0.12 * np.mean(rates[1] + rates[-1]), rel=0.25)
    assert np.mean(sizes[1]) > 1.3 * np.mean(sizes[-1])


def test_a_study_follows_what_it_is_asked_to(tmp_path: Path) -> None:
    options = SimulationOptions(subjects=1, trials=4, seconds=30, videos=False, body="arousal")
    simulate_study(tmp_path / "study", options)
    events = pd.read_csv(tmp_path / "study/truth/events.csv")
    labels = pd.read_csv(tmp_path / "study/truth/labels.csv").set_index("trial")["arousal"]
    count = events[events["kind"] == "skin response"].groupby("trial").size().reindex(labels.index, fill_value=0)
    assert count[labels == "high"].min() >= count[labels == "low"].max()
    assert count[labels == "high"].sum() > 1.5 * count[labels == "low"].sum()
    with pytest.raises(UserError, match="simulated with body arousal, asked for none"):
        simulate_study(tmp_path / "study", SimulationOptions(subjects=1, trials=4, seconds=30, videos=False))


def test_only_what_there_is() -> None:
    with pytest.raises(UserError, match=r"--body arousl.*did you mean 'arousal'"):
        SimulationOptions(body="arousl").check()
    with pytest.raises(UserError, match="leave --body out"):
        SimulationOptions(joint="xor", valence="none", body="arousal").check()
