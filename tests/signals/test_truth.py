"""One of the studies of tools/accept_signals.py: planted artifacts go, and the brain stays."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from milmer.config import EEGPreparation
from milmer.signals.eeg import prepare_eeg


def test_planted_artifacts_go_and_the_brain_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
    check = importlib.import_module("accept_signals")
    made = check.recorded(1, trials=2, seconds=50)
    found = check.judged(made, prepare_eeg(made.eeg, EEGPreparation(), eog=made.eog, ecg=made.ecg))
    assert found["eye blink components"] >= 1
    assert found["eye blink components removed"] == found["eye blink components"]
    assert found["brain components removed"] <= 0.05 * found["brain components"]
    assert found["blink variance removed"] > 0.95
    assert found["correlation with true EEG after"] > found["correlation with true EEG before"] + 0.1
    assert found["correlation with true EEG after"] > 0.85
