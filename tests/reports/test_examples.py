from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from milmer.reports.examples import blur, choose_examples, frame_strip, kept_frames
from milmer.reports.reading import read_run


def test_blur_keeps_64_colours_only() -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)
    # Another picture with the same means of 28 x 28 cells is blurred to the same: nothing finer is left.
    cells = one.reshape(8, 28, 8, 28, 3)
    other = cells[:, ::-1, :, ::-1].reshape(224, 224, 3)
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(blur(one), blur(other))


def test_examples_are_right_then_wrong_and_the_surest(make: Callable[..., Any]) -> None:
    run = read_run(make().run)
    rows, scored = choose_examples(run), run.scored
    right = (rows["y_true"] == rows["y_pred"]).tolist()
    assert right == sorted(right, reverse=True) and 4 < len(rows) <= 6
    for _, row in rows[:4].iterrows():
        c = row["y_true"]
        mine = scored[(scored["y_true"] == c) & (scored["y_pred"] == c)]
        assert row[f"prob_{run.classes[c]}"] == mine[f"prob_{run.classes[c]}"].max()
    assert rows.index.tolist() == choose_examples(run).index.tolist()


def test_strip_shows_weights_and_what_was_kept(make: Callable[..., Any]) -> None:
    run = read_run(make().run)
    rows = run.scored
    with_gap = next(i for i, f in enumerate(rows["face_rows"]) if (np.asarray(f) < 0).any())
    for i in (0, with_gap):
        (cells,) = frame_strip(run, rows.iloc[i], show_faces=False)
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
