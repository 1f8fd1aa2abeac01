from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from milmer.reports.brain import draw_maps, preparation_table, removed_components, scalp_maps
from milmer.reports.reading import read_run


def test_maps_of_examples_and_classes(make: Callable[..., Any]) -> None:
    run = read_run(make(modalities=("eeg",)).run)
    maps = scalp_maps(run)
    assert run.samples is not None
    assert len(maps["examples"]) == len(run.samples.examples) and all(maps["examples"])
    assert [m["n"] for m in maps["classes"]] == ["24 windows"] * 4
    assert len({m["image"] for m in maps["classes"]}) == 4


def test_preparation_is_told(make: Callable[..., Any]) -> None:
    run = read_run(make().run)
    rows = preparation_table(run)
    assert [r["key"] for r in rows] == ["s01", "s02", "s03"]
    first = rows[0]
    assert (first["bad"], first["masked"], first["faces"]) == ("F3", "T8", "99.7 %")
    assert first["removed"] == "1 eye blink, 1 muscle artifact" and first["left"] == "3 brain, 1 other"
    components = removed_components(run)
    assert [c["key"] for c in components] == ["s01", "s02"]
    assert [m["label"] for m in components[0]["maps"]] == ["eye blink", "muscle artifact"]


def test_maps_of_odd_caps() -> None:
    angle = np.arange(8) * np.pi / 4
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros(8)], axis=1) * 0.6 + [0, 0, 0.8]
    line = np.stack([np.zeros(8), np.linspace(-1, 1, 8), np.full(8, 0.2)], axis=1)
    values = np.arange(8.0)[:, None]
    assert draw_maps(values, ring, 8.0).startswith("data:image/png")
    assert draw_maps(values, line, 8.0) == ""
    assert draw_maps(values[:3], ring[:3], 8.0) == ""
    ring[3:] = ring[3]
    assert draw_maps(values, ring, 8.0)
