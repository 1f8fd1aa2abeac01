from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from milmer.reports.brain import (
    BANDS,
    _maps,
    band_power,
    preparation_table,
    removed_components,
    scalp_maps,
    window_power,
)
from milmer.reports.examples import choose_examples
from milmer.reports.reading import read_run


def test_band_power_finds_the_band_whatever_the_volts() -> None:
    time = np.arange(384) / 128
    for i, (low, high) in enumerate(BANDS.values()):
        wave = np.sin(2 * np.pi * (low + high) / 2 * time)
        eeg = np.stack([1e-5 * wave, 1e-3 * wave, np.zeros(384)]).astype(np.float32)
        power = band_power(eeg, 128.0)
        assert power.shape == (3, 4)
        assert power[0].argmax() == i and power[0, i] > -0.1
        np.testing.assert_allclose(power[0, i], power[1, i], atol=1e-3)
        assert np.isnan(power[2]).all()


def test_masked_channels_are_left_out_and_rejected_components_too(make: Callable[..., Any]) -> None:
    run = read_run(make(modalities=("eeg",)).run)
    power = window_power(run, run.scored[:4])
    assert np.isnan(power[:, 11]).all() and np.isfinite(power[:, :11]).all()
    kept = run.config.model_copy(update={"data": run.config.data.model_copy(update={"reject": ()})})
    object.__setattr__(run, "config", kept)
    assert not np.allclose(power[:, :11], window_power(run, run.scored[:4])[:, :11])
    assert removed_components(run) == []


def test_maps_of_examples_and_classes(make: Callable[..., Any]) -> None:
    run = read_run(make(modalities=("eeg",)).run)
    picked = choose_examples(run)
    maps = scalp_maps(run, picked)
    assert len(maps["examples"]) == len(picked) and all(maps["examples"])
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
    assert _maps(values, ring, 8.0).startswith("data:image/png")
    assert _maps(values, line, 8.0) == ""
    assert _maps(values[:3], ring[:3], 8.0) == ""
    ring[3:] = ring[3]
    assert _maps(values, ring, 8.0)
