from __future__ import annotations

import re

import numpy as np

from milmer.reports.traces import MOST_POINTS, eeg_traces


def lines(svg: str) -> list[np.ndarray]:
    found = re.findall(r'<polyline points="([^"]*)"', svg)
    return [np.array([[float(v) for v in p.split(",")] for p in points.split()]) for points in found]


def test_few_channels_on_one_scale_without_losing_a_spike() -> None:
    eeg = 1e-6 * np.random.default_rng(0).normal(size=(20, 3000))
    eeg[1, 1234] = 2e-5  # one sample
    svg = eeg_traces(tuple(f"C{i}" for i in range(20)), eeg, 128.0)
    drawn = lines(svg)
    assert len(drawn) == 8 and all(len(x) <= MOST_POINTS for x in drawn)
    assert "8 of 20 channels over 23.4 s" in svg and "nan" not in svg
    shown = re.findall(r'class="end">(C\d+)<', svg)
    heights = [x[:, 1].max() - x[:, 1].min() for x in drawn]
    assert shown[0] == "C1" and heights[0] > 1.1 * max(heights[1:])
    assert all((np.diff(x[:, 0]) >= 0).all() for x in drawn)


def test_names_cannot_become_markup_and_nothing_is_no_picture() -> None:
    assert "<b>" not in eeg_traces(("<b>",), np.ones((1, 9)) * 1e-6, 3.0)
    assert eeg_traces((), np.zeros((0, 0)), 128.0) == ""
