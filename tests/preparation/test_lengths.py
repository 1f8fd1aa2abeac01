"""A video that lasts longer than its trial's EEG is probably another trial's."""

from __future__ import annotations

from pathlib import Path

import pytest

from milmer.datasets.base import Trial
from milmer.faces import video as videos
from milmer.preparation.lengths import disagreements

SECONDS = {"a.mp4": 60.2, "b.mp4": 63.0, "long.mp4": 600.0}


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(path: Path) -> videos.VideoInfo:
        return videos.VideoInfo(SECONDS[path.name], 25.0, 720, 576, 1500)

    monkeypatch.setattr(videos, "probe", probe)


def trial(number: int, video: str | None, start: float = 0.0, duration: float | None = 60.0) -> Trial:
    path = None if video is None else Path(video)
    return Trial("x", "s01", number, "f", video=path, video_start=start, duration=duration)


def said(*trials: Trial, seconds: float = 60.0) -> list[str]:
    return disagreements(trials, [{"eeg_samples": round(seconds * 128)} for _ in trials], 128.0)


def test_a_longer_video_is_noted_and_a_like_one_is_not() -> None:
    assert said(trial(1, "a.mp4")) == []
    (line,) = said(trial(2, "b.mp4"))
    assert "trial 2" in line and "60.0 s" in line and "63.0 s" in line


def test_what_is_cut_out_of_a_longer_video_says_nothing() -> None:
    assert said(trial(1, "long.mp4"), trial(2, "long.mp4", 60.0)) == []
    assert said(trial(1, "long.mp4", 30.0)) == []


def test_eeg_that_is_shorter_than_the_trial_is_noted() -> None:
    (line,) = said(trial(1, None), seconds=55.0)
    assert "55.0 s" in line and "60.0 s" in line
    assert said(trial(1, None, duration=None), seconds=55.0) == []
    assert said(trial(1, "b.mp4"), seconds=0.0) == []
