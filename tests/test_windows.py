from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milmer.errors import UserError
from milmer.store import Store
from milmer.windows import build_windows, choose_frames, window_starts


def test_the_papers_windows() -> None:
    assert window_starts(60.0, 3.0, 3.0).tolist() == [3.0 * i for i in range(20)]
    rows = choose_frames((np.arange(200) + 0.5) * 0.3, 6.0, 9.0, 10)
    assert rows.tolist() == list(range(20, 30))


def test_a_short_last_window_is_kept_from_half_on() -> None:
    assert len(window_starts(58.5, 3.0, 3.0)) == 20
    assert len(window_starts(58.4, 3.0, 3.0)) == 19
    assert len(window_starts(1.4, 3.0, 3.0)) == 0


@given(st.floats(0.5, 500), st.floats(0.5, 10), st.floats(0.25, 10))
def test_windows_lie_in_the_trial(duration: float, window: float, step: float) -> None:
    starts = window_starts(duration, window, step)
    assert np.all(np.diff(starts) > 0)
    if len(starts):
        assert starts[0] == 0
        assert starts[-1] + window / 2 <= duration + 1e-6
        assert np.allclose(np.diff(starts), step)
    whole = starts[starts + window <= duration + 1e-6]
    assert len(starts) - len(whole) <= 1
    if duration >= window and len(whole):  # nothing is forgotten at the end
        assert whole[-1] + step + window > duration - 1e-6


@given(st.integers(0, 80), st.floats(0, 20), st.floats(0.5, 8), st.integers(1, 30))
def test_frames_are_in_the_window_in_order_and_padded(n: int, start: float, length: float, frames: int) -> None:
    times = (np.arange(n) + 0.5) * 0.3
    rows = choose_frames(times, start, start + length, frames)
    assert len(rows) == frames
    real = rows[rows >= 0]
    assert np.all(rows[len(real) :] == -1)
    assert np.all(np.diff(real) > 0)
    inside = np.flatnonzero((times > start + 1e-5) & (times < start + length - 1e-5))
    assert len(real) >= min(frames, len(inside))
    assert np.all(times[real] > start - 1e-5) and np.all(times[real] < start + length + 1e-5)


def test_columns_and_missing_modalities(tiny_store: Path) -> None:
    trials = Store(tiny_store).trials
    windows = build_windows(trials)
    assert len(windows) == 4 * 8 * 4
    assert {"subject", "trial", "rating_valence", "trial_row", "window", "start", "stop"} <= set(windows)
    without = trials.assign(has_face=trials["trial"] > 2, has_eeg=False)
    assert sorted(set(build_windows(without)["trial"])) == [3, 4, 5, 6, 7, 8]
    with pytest.raises(UserError, match="no window of 3 s with eeg"):
        build_windows(without, modalities=["eeg"])
    assert len(build_windows(trials, 3.0, 1.0)) == 4 * 8 * 10 + 32  # and one of 2 s each


def test_overlap_needs_no_new_store(tiny_store: Path) -> None:
    windows = build_windows(Store(tiny_store).trials, 4.0, 2.0)
    first = windows[windows["trial_row"] == 0]
    assert first["start"].tolist() == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
