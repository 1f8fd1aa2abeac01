"""A folder is looked at, not prepared: what is there, missing, would be skipped, is odd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from milmer.datasets.base import Recording, Signal, Trial
from milmer.datasets.catalog import CATALOG, Facts
from milmer.datasets.deap import DeapStudy
from milmer.datasets.deap_raw import DeapRawStudy
from milmer.errors import UserError
from milmer.preparation.check import check_study

from ..datasets.deap_fixture import replace_in_line, table, write_study
from ..datasets.deap_raw_fixture import write_raw_study, write_recording

ORDER = (3, 1, 4, 2)


class Made:
    """A study of given recordings."""

    name = "made"
    rating_ranges: Mapping[str, tuple[float, float]] = MappingProxyType({"valence": (1.0, 9.0)})

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self._recordings = recordings

    def recordings(self) -> Sequence[Recording]:
        return self._recordings


def never() -> Signal:
    raise RuntimeError("a check reads no signal")


def trial(number: int, **more: Any) -> Trial:
    known: dict[str, Any] = {"eeg": never, "ratings": {"valence": 5.0}}
    return Trial("made", "a", number, f"e{number}", **(known | more))


def test_what_is_there_is_counted_and_no_signal_is_read() -> None:
    peripheral = {"gsr": never, "emg-trapezius": never, "emg-zygomaticus": never}
    trials = [trial(1, peripheral=peripheral, eog=never), trial(2, ratings={"valence": np.nan}, label="happy")]
    found = check_study(Made([Recording("a", trials, [])]), Facts("t", "x:Y", subjects=2, trials=5))
    assert (found.subjects, found.recordings, found.trials) == (1, 1, 2)
    assert found.modalities == {"eeg": 2, "gsr": 1, "emg": 1, "eog": 1}
    assert found.labels == {"valence": 1, "label": 1}
    assert found.missing == (
        "1 of the 2 subjects that the publisher's study has",
        "3 of the 5 trials that the publisher's study has",
    )
    assert (found.skipped, found.odd, found.ready) == ((), (), True)


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Name of a video -> its length; a video without one cannot be read."""
    known: dict[str, float] = {}

    def probe(path: Path) -> SimpleNamespace:
        if path.name not in known:
            raise UserError(f"{path}: cannot be read")
        return SimpleNamespace(duration=known[path.name])

    monkeypatch.setattr("milmer.faces.video.probe", probe)
    return known


def test_odd_things_are_said_with_numbers() -> None:
    trials = [
        trial(1, ratings={"valence": 12.0}),
        trial(2, ratings={"valence": 0.0}),
        trial(3, peripheral={"sweat": never}),
        trial(5, eeg=None),
        trial(5),
    ]
    found = check_study(
        Made([Recording("a", trials, [], notes=["a note"], check=lambda: ["of its check"])]), Facts("", "")
    )
    assert found.odd[:2] == ("a: a note", "a: of its check")
    text = "\n".join(found.odd)
    for part in (
        "valence of trial 1-2 is not from 1 to 9: 12",
        "signals of no known kind: sweat",
        "trial 5 has neither signals nor a video",
        "a: trial 5 is there 2 times",
    ):
        assert part in text
    assert len(found.odd) == 6


def test_videos_are_held_against_their_trials(seconds: dict[str, float]) -> None:
    seconds |= {"a.avi": 59.5, "b.avi": 57.2, "c.avi": 64.0, "d.avi": 200.0, "e.avi": 3.0}
    trials = [
        trial(1, video=Path("a.avi"), duration=60.0),
        trial(2, video=Path("b.avi"), duration=60.0),
        trial(3, video=Path("c.avi"), duration=60.0),
        trial(4, video=Path("d.avi"), duration=60.0),  # one video of two trials
        trial(5, video=Path("d.avi"), video_start=130.0, duration=60.0),
        trial(6, video=Path("d.avi"), video_start=145.0, duration=60.0),
        trial(7, video=Path("e.avi")),
    ]
    found = check_study(Made([Recording("a", trials, [])]), Facts("", ""))
    assert found.odd == (
        "a: video of trial 2, 6 ends before its trial, by up to 5.0 s",
        "a: video of trial 3 is longer than its trial, by up to 4.0 s: is it this trial's?",
    )
    assert found.modalities["face"] == 7
    broken = check_study(Made([Recording("a", [trial(1, video=Path("x.avi"))], [])]), Facts("", ""))
    assert broken.skipped == ("a: x.avi: cannot be read",)


def test_a_refused_recording_is_skipped_and_the_others_counted() -> None:
    def refuse() -> Sequence[str]:
        raise UserError("b.dat: is damaged")

    good, bad = Recording("a", [trial(1)], []), Recording("b", [replace(trial(1), subject="b")], [], check=refuse)
    told: list[tuple[int, int, str]] = []
    found = check_study(Made([bad, good]), Facts("", ""), lambda *what: told.append(what))
    assert found.skipped == ("b: b.dat: is damaged",)
    assert (found.subjects, found.trials, found.ready) == (1, 1, True)
    assert told == [(0, 2, "b"), (1, 2, "a")]
    assert not check_study(Made([bad]), Facts("", "")).ready
    assert not check_study(Made([]), Facts("", "")).ready


def test_a_deap_folder(tmp_path: Path, seconds: dict[str, float]) -> None:
    seconds |= {f"s{k:02d}_trial{t:02d}.avi": 60.0 for k in range(4) for t in range(5)}
    root = write_study(tmp_path / "deap", {1: ORDER, 2: ORDER, 3: ORDER})
    (root / "face_video" / "s01" / "s01_trial02.avi").unlink()
    replace_in_line(table(root), 6, 4, "8.99")  # participant 2's labels differ from its table
    found = check_study(DeapStudy(root), CATALOG["deap"])
    assert (found.subjects, found.trials) == (2, 8)
    assert found.modalities["face"] == 7
    assert found.modalities["eeg"] == found.modalities["emg"] == found.modalities["eog"] == 8
    assert found.skipped[0].startswith("s02: ")
    assert "labels disagree" in found.skipped[0]
    assert "s01: no video of trial 2" in found.odd
    assert any("has no rows of s04" in line for line in found.missing)
    assert "30 of the 32 subjects that the publisher's study has" in found.missing
    (root / "SIMULATED.txt").write_text("drawn")
    assert check_study(DeapStudy(root), CATALOG["deap"]).missing == ()


def test_a_deap_folder_of_recordings(tmp_path: Path) -> None:
    root = write_raw_study(tmp_path / "raw", {1: ORDER, 24: ORDER})
    write_recording(root, 1, 4, starts=3)
    found = check_study(DeapRawStudy(root), CATALOG["deap-raw"])
    assert (found.subjects, found.trials, found.modalities["eeg"]) == (1, 4, 4)
    assert "found 3 events of code 4" in found.skipped[0]
    assert "s24: face_video/s24 is missing: no videos" in found.odd


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected"):
        check_study(DeapStudy(tmp_path), CATALOG["deap"])
