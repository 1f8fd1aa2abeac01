from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.reports.conftest import write_run, write_store

from milmer.config import load_config
from milmer.evaluation.samples_frames import read_frames
from milmer.models.selection import SELECTIONS, make_selection
from milmer.models.selection_parts import frame_times
from milmer.reports.examples import KEEPS_ALL, frame_strip, kept_frames, kept_words
from milmer.reports.page import write_report
from milmer.reports.reading import Run, read_run
from milmer.store import Store


def test_strip_shows_weights_and_what_was_kept(make: Callable[..., Any]) -> None:
    made = make()
    run, store = read_run(made.run), Store(made.store)
    rows = run.scored
    with_gap = next(i for i, f in enumerate(rows["face_rows"]) if (np.asarray(f) < 0).any())
    for i in (0, with_gap):
        (cells,) = frame_strip(run, rows.iloc[i], read_frames(store, rows.iloc[i], 10, show=False))
        weights, faces = np.asarray(rows["frame_weights"][i]), np.asarray(rows["face_rows"][i])
        assert len(cells) == 10
        assert {j for j, c in enumerate(cells) if c["kept"]} == set(np.argsort(-weights)[:3].tolist())
        assert [bool(c["image"]) for c in cells] == (faces >= 0).tolist()
        assert cells[int(weights.argmax())]["height"] == 100


def test_kept_frames_of_bags_of_windows(make: Callable[..., Any]) -> None:
    run = read_run(make(modalities=("eeg",)).run)
    faces = np.array([*range(10), *[-1] * 10, *range(20, 30)])  # the second window has no face
    weights = np.where(faces >= 0, np.linspace(1, 2, 30), 0)
    kept = kept_frames(run, faces, weights)
    assert kept.sum() == 6
    assert np.flatnonzero(kept).tolist() == list(range(24, 30))


@pytest.fixture(scope="module")
def any_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("run")
    write_run(path / "run", write_store(path / "store", 3, 8, ("eeg", "face")), {"evaluation.folds": 3})
    return read_run(path / "run")


@pytest.mark.parametrize("method", list(SELECTIONS))
@pytest.mark.parametrize("windows", [1, 3])
def test_frames_marked_as_kept_are_those_the_network_keeps(any_run: Run, method: str, windows: int) -> None:
    asked = {"data.frames": 5, "data.windows_per_bag": windows, "model.selection.keep": 2}
    run = replace(any_run, config=load_config("demo", overrides=asked | {"model.selection.method": method}))
    torch.manual_seed(0)
    mask = torch.rand(6, windows, 5) < 0.8
    select = make_selection(8, run.config.model.selection, n_frames=5, n_windows=windows).eval()
    with torch.no_grad():
        kept, weights = select(torch.randn(6, 5 * windows, 4, 8), mask)
    times = frame_times(mask)  # (B, W * N)
    for b in range(6):
        faces = np.where(mask[b].flatten(), 7, -1)  # (W * N,)
        said = kept_frames(run, faces, weights[b].flatten().double().numpy())
        mine = kept.time[b][kept.mask[b]]
        if method in KEEPS_ALL:
            assert len(mine) == (faces >= 0).sum() and not said.any() and kept_words(run) == "all frames are used"
        else:
            assert torch.equal(times[b][torch.from_numpy(said)], mine.sort().values)
            assert kept_words(run).startswith("outlined frames were kept")


def test_a_whole_trial_is_called_a_trial(make: Callable[..., Any]) -> None:
    made = make(data__windows_per_bag="trial")
    shutil.rmtree(made.store)
    page = write_report(made.run).read_text("utf-8")
    assert "Some trials, and where the model looked" in page and "each given whole, as one bag" in page
    assert "With a trial’s windows averaged" not in page and ">Windows</th>" not in page
