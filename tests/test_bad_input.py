from __future__ import annotations

import json
from pathlib import Path

import pytest

from milmer.config import Preparation
from milmer.errors import UserError
from milmer.inference.predictor import predict_recording
from milmer.preparation import prepare_study


class _Study:
    name = "trials"

    def __init__(self) -> None:
        self.rating_ranges: dict[str, tuple[float, float]] = {}

    def recordings(self) -> list[object]:
        return []


def test_a_store_of_another_study_of_the_same_name_is_left_alone(tmp_path: Path) -> None:
    """Two tables called trials.csv, or two simulated studies: the second must not drop what the first prepared."""
    prepare_study(_Study(), tmp_path, Preparation())  # type: ignore[arg-type]
    old = tmp_path / "recordings" / "anna"
    old.mkdir()
    (old / "recording.json").write_text(json.dumps({"files": {}, "sources_hash": ""}))
    before = (tmp_path / "study.json").read_bytes()
    with pytest.raises(UserError, match=r"another study \(anna\).*give another --out"):
        prepare_study(_Study(), tmp_path, Preparation())  # type: ignore[arg-type]
    assert (tmp_path / "study.json").read_bytes() == before


def test_times_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--step -1: expected more than 0 s"):
        predict_recording(tmp_path, tmp_path / "out", step=-1)
    with pytest.raises(UserError, match="--video-start -5: expected 0 s or more"):
        predict_recording(tmp_path, tmp_path / "out", video_start=-5)
