"""The quality page says what the store holds, shows nobody's face unasked, and asks nothing of a network."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import make_store
from typer.testing import CliRunner

from milmer.alignment import Alignment, RecordingAlignment
from milmer.alignment_judging import Judgement
from milmer.cli import app
from milmer.config import load_config
from milmer.inspection import inspect_store
from milmer.reports import quality_plots as plots
from milmer.reports.quality import face_quality, write_quality
from milmer.store import Store


@pytest.fixture(scope="module")
def page(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    store, data = Store(tiny_store), load_config(overrides=["data.reject=[other]"]).data
    file = tmp_path_factory.mktemp("quality") / "quality.html"
    return write_quality(store, inspect_store(store, data), data, file=file).read_text(encoding="utf-8")


def test_every_recording_and_trial_is_there(page: str, tiny_store: Path) -> None:
    store = Store(tiny_store)
    assert all(f"<h3>{key}" in page for key in store.keys)
    assert page.count('<th scope="row" class="num">') == len(store.trials)
    assert page.count("<rect") >= 2 * len(store.trials)  # a cell a trial, of faces and of EEG


def test_what_is_taken_out_is_drawn_and_said(page: str) -> None:
    assert "1 other" in page and "2 brain" in page
    assert page.count("Topography of component") == 4  # one of each recording
    assert "without what is taken out" in page


def test_the_page_asks_nothing_of_a_network(page: str) -> None:
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", page)
    assert "default-src 'none'" in page


def test_faces_are_blurred_unless_asked(tiny_store: Path, tmp_path: Path) -> None:
    store, data = Store(tiny_store), load_config().data
    found = inspect_store(store, data)
    blurred = write_quality(store, found, data, file=tmp_path / "a.html").read_text(encoding="utf-8")
    shown = write_quality(store, found, data, file=tmp_path / "b.html", show_faces=True).read_text(encoding="utf-8")
    assert "8 × 8 cells" in blurred and "8 × 8 cells" not in shown
    crops = [set(re.findall(r"data:image/jpeg;base64,([^\"]+)", text)) for text in (blurred, shown)]
    assert crops[0] and crops[1] and not crops[0] & crops[1]


def test_shares_are_those_of_the_track(tiny_store: Path) -> None:
    store = Store(tiny_store)
    share, sure = face_quality(store, 0)
    n = int(store.trials["face_rows"].iloc[0])
    assert share == pytest.approx(int(store.trials["faces_found"].iloc[0]) / n)
    assert sure == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize("missing", ["eeg", "face"])
def test_a_store_of_one_modality_has_a_page(missing: str, tmp_path: Path) -> None:
    path = make_store(tmp_path / "store", subjects=1, trials=2, eeg=missing != "eeg", face=missing != "face")
    store, data = Store(path), load_config().data
    text = write_quality(store, inspect_store(store, data), data).read_text(encoding="utf-8")
    assert ('id="eeg"' in text) == (missing != "eeg") and ('id="faces"' in text) == (missing != "face")


def test_the_command_writes_it_into_the_store(tiny_store: Path, tmp_path: Path) -> None:
    path = tmp_path / "store"
    shutil.copytree(tiny_store, path)
    result = CliRunner().invoke(app, ["inspect", str(path), "--html"])
    assert result.exit_code == 0, result.output
    assert (path / "quality.html").is_file()
    again = CliRunner().invoke(app, ["inspect", str(path)])  # the page is no damage
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize("verdict", ["proved", "wrong"])
def test_alignment_is_drawn_and_an_alarm_comes_first(verdict: str, tiny_store: Path, tmp_path: Path) -> None:
    store, data = Store(tiny_store), load_config().data
    found = inspect_store(store, data)
    strays = ((1, 2), (2, 3)) if verdict == "wrong" else ()
    scores, p = {"as mapped": 0.1, "shifted": 0.0}, {"as mapped": 0.001, "shifted": 0.5}
    judgement = Judgement(scores=scores, p=p, better={"shifted": 0.9}, best_p=0.001, verdict="proved")
    similarity = np.eye(4) * 0.2 + 0.7
    one = RecordingAlignment("s01", "ppg", (1, 2, 3, 4), similarity, judgement, (1, 2, 3, 4), strays, 0.12)
    found.alignment = Alignment((one,), judgement, 0.12)
    text = write_quality(store, found, data, file=tmp_path / "a.html").read_text(encoding="utf-8")
    assert 'id="alignment"' in text and "4 of 4 nearest their own" in text
    assert ("does not fit" in text) == (verdict == "wrong")
    assert ("s01: videos fit the ppg of other trials" in text) == (verdict == "wrong")


def test_whole_ratings_have_a_bin_each() -> None:
    drawn = plots.histogram(np.array([1.0, 2, 2, 5, np.nan]), 1, 5, [3.0], "x")
    assert drawn.count("<rect") == 5
    assert "<title>2: 2</title>" in drawn
    assert plots.histogram(np.array([1.5, 2.5]), 1, 9, [], "x").count("<rect") == 9


def test_a_missing_trial_is_an_empty_cell() -> None:
    drawn = plots.cells([("<s01>", [0.5, float("nan")], ["half", "none"])], 0, 1, "says")
    assert drawn.count("stroke-dasharray") == 1
    assert "&lt;s01&gt;" in drawn


def test_names_cannot_write_markup(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store", subjects=1, trials=2)
    store, data = Store(path), load_config().data
    store.trials["stimulus"] = "<script>alert(1)</script>"
    text = write_quality(store, inspect_store(store, data), data).read_text(encoding="utf-8")
    assert "<script>" not in text
