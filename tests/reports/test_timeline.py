from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from milmer.errors import UserError
from milmer.reports.timeline import COLOURS, Crop, pick_thumbnails, write_timeline

CLASSES = ("a", "b")


def table(n: int) -> pd.DataFrame:
    prob = np.linspace(0, 1, n)
    start = 3.0 * np.arange(n)
    return pd.DataFrame({"window": range(n), "start": start, "stop": start + 3, "prob_a": prob, "prob_b": 1 - prob})


def frames(n: int, each: int = 3) -> dict[int, list[Crop]]:
    rng = np.random.default_rng(0)
    image = rng.choice(np.array([0, 255], dtype=np.uint8), (64, 64, 3))
    return {i: [(3.0 * i + j, 0.1 * (j + 1), image) for j in range(each)] for i in range(n)}


def picture(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path).convert("RGB"), dtype=int)


def near(image: np.ndarray[Any, Any], colour: str) -> int:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(image - rgb).max(axis=-1) < 3).sum())


@pytest.mark.parametrize(("n", "each"), [(1, 3), (5, 3), (200, 1), (5, 0)])
def test_draws_any_length(tmp_path: Path, n: int, each: int) -> None:
    path = write_timeline(table(n), tmp_path / "timeline.png", CLASSES, frames(n, each), "a $title_")
    image = picture(path)
    assert image.shape[1] == 1650
    assert (image.shape[0] > 800) == (each > 0)  # no empty panels without video
    assert near(image, COLOURS[1]) > 10_000
    assert list(tmp_path.iterdir()) == [path]


def test_areas_are_the_probabilities(tmp_path: Path) -> None:
    some = table(4).assign(prob_a=0.25, prob_b=0.75)
    image = picture(write_timeline(some, tmp_path / "t.png", CLASSES, {}, "t"))
    assert near(image, COLOURS[1]) / near(image, COLOURS[0]) == pytest.approx(3, rel=0.05)
    some.loc[1, ["prob_a", "prob_b"]] = np.nan  # a window that nothing is known of stays open
    gap = picture(write_timeline(some, tmp_path / "gap.png", CLASSES, {}, "t"))
    assert near(gap, COLOURS[1]) / near(image, COLOURS[1]) == pytest.approx(0.75, rel=0.03)


def test_faces_are_blurred_unless_asked_for(tmp_path: Path) -> None:
    def red(show: bool) -> int:
        path = write_timeline(table(2), tmp_path / "t.png", CLASSES, frames(2), "t", show_faces=show)
        return near(picture(path), "#FF0000")  # a colour that only the noise has

    assert red(True) > 50
    assert red(False) == 0


def test_thumbnails_are_few_and_the_heaviest() -> None:
    for n, each in ((3, 3), (7, 3), (300, 3)):
        picked = pick_thumbnails(table(n), frames(n, each))
        assert len(picked) == {3: 9, 7: 14, 300: 16}[n]
        assert [c[0] for c in picked] == sorted(c[0] for c in picked)
    assert [c[1] for c in picked] == pytest.approx([0.3] * 16)
    assert picked[0][0] < 60 and picked[-1][0] > 840  # from beginning to end
    assert pick_thumbnails(table(3), {0: [(0.5, 1.0, None)]}) == []


def test_bad_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no window"):
        write_timeline(table(0), tmp_path / "t.png", CLASSES, {}, "t")
    with pytest.raises(UserError, match="prob_c"):
        write_timeline(table(2), tmp_path / "t.png", ("a", "c"), {}, "t")
    with pytest.raises(UserError, match="cannot be written"):
        write_timeline(table(2), tmp_path / "absent" / "t.png", CLASSES, {}, "t")
