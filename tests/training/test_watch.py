from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from milmer.config import load_config
from milmer.evaluation.guard import Guard
from milmer.evaluation.protocols import Split
from milmer.store import Store
from milmer.training import fit as fitting
from milmer.training.data import Bags
from milmer.training.fit import fit
from milmer.training.watch import (
    COLUMNS,
    AttentionWatch,
    changed,
    collapse_notes,
    one_place,
    spread,
    top_frames,
    valid_frames,
)


def bags_of(*rows: list[float]) -> tuple[Any, Any]:
    """Bags of one window; a negative weight is a frame that is not there."""
    weights = np.array(rows)[:, None]  # (n, 1, N)
    return np.maximum(weights, 0), weights >= 0


def test_entropy_and_variance_of_known_weights() -> None:
    assert spread(*bags_of([0.25, 0.25, 0.25, 0.25])) == (pytest.approx(1), pytest.approx(0))
    assert spread(*bags_of([0, 1.0, 0, 0])) == (pytest.approx(0), pytest.approx(3))  # shares times 4: 4, 0, 0, 0
    # two of four share the weight: half of the entropy of four, and shares times 4 are 2, 2, 0, 0
    assert spread(*bags_of([0.5, 0.5, 0, 0])) == (pytest.approx(0.5), pytest.approx(1))


def test_masked_frames_and_bags_without_choice_do_not_count() -> None:
    entropy, variance = spread(*bags_of([0.5, 0.5, -1, -1], [1.0, -1, -1, -1], [-1, -1, -1, -1]))
    assert entropy == pytest.approx(1) and variance == pytest.approx(0)
    assert all(np.isnan(v) for v in spread(*bags_of([1.0, -1, -1])))


def test_weights_are_shares_whatever_their_sum() -> None:
    weights, mask = bags_of([0.1, 0.2, 0.3])
    assert spread(7 * weights, mask) == pytest.approx(spread(weights, mask))


def test_top_frames_are_counted_for_each_window_that_has_some() -> None:
    weights, mask = bags_of([0.4, 0.1, 0.2, 0.3], [0.4, -1, 0.2, 0.3])
    assert top_frames(weights, mask, 2).tolist() == [[True, False, False, True], [True, False, False, True]]
    trial = np.array([[[0.1, 0.2, 0.3], [0.0, 0.0, 0.4], [9.0, 9.0, 9.0]]])  # (1, 3, 3)
    there = np.ones_like(trial, dtype=bool)
    there[:, 2] = False  # the third window has no frame
    assert np.flatnonzero(top_frames(trial, there, 1)).tolist() == [2, 5]
    assert top_frames(*bags_of([0.5, 0.5, -1]), 3).tolist() == [[True, True, False]]


def test_changed_is_a_share_of_the_bags_that_have_a_choice() -> None:
    weights, mask = bags_of([0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [0.5, 0.5, -1])
    top = top_frames(weights, mask, 2)
    weights[0] = [[0.1, 0.3, 0.6]]
    assert changed(top_frames(weights, mask, 2), top, mask) == 0.5  # the third keeps all it has
    assert changed(top, top, mask) == 0
    assert np.isnan(changed(top, None, mask))
    assert np.isnan(changed(top[2:], top[2:], mask[2:]))


def test_order_of_the_kept_frames_is_no_change() -> None:
    one, mask = bags_of([0.6, 0.3, 0.1])
    other, _ = bags_of([0.3, 0.6, 0.1])
    assert changed(top_frames(one, mask, 2), top_frames(other, mask, 2), mask) == 0


def test_one_place_is_the_share_at_the_commonest_position() -> None:
    rows = [[0.1, 0.2, 0.7]] * 3 + [[0.7, 0.2, 0.1]]
    assert one_place(*bags_of(*rows)) == 0.75
    assert one_place(*bags_of(*rows, [0.9, 0.1, -1])) == 0.75  # two frames: left out
    assert np.isnan(one_place(*bags_of([0.9, 0.1, -1])))


def test_watch_gathers_batches_and_compares_epochs() -> None:
    watch = AttentionWatch(keep=1)
    one, other = torch.tensor([[[0.7, 0.2, 0.1]]]), torch.tensor([[[0.2, 0.7, 0.1]]])  # (1, 1, 3) each
    mask = torch.ones(1, 1, 3, dtype=torch.bool)
    rows = []
    for epoch in ([one, one], [one, other], [one, other]):
        watch.begin()
        for weights in epoch:
            watch.add(weights, mask)
        rows.append(watch.end())
    assert list(rows[0]) == list(COLUMNS)
    assert np.isnan(rows[0]["attention_changed"])
    assert [r["attention_changed"] for r in rows[1:]] == [0.5, 0.0]
    assert [r["attention_position"] for r in rows] == [1.0, 0.5, 0.5]


def test_state_survives_a_checkpoint_that_holds_tensors_only() -> None:
    mask = torch.ones(2, 1, 3, dtype=torch.bool)
    watch, resumed = AttentionWatch(1), AttentionWatch(1)
    watch.add(torch.tensor([[[0.7, 0.2, 0.1]], [[0.7, 0.2, 0.1]]]), mask)
    watch.end()
    stream = io.BytesIO()
    torch.save({"attention": watch.state(), "empty": AttentionWatch(1).state()}, stream)
    stream.seek(0)
    saved = torch.load(stream, weights_only=True)
    resumed.load(saved["attention"])
    last = torch.tensor([[[0.7, 0.2, 0.1]], [[0.1, 0.2, 0.7]]])
    for each in (watch, resumed):
        each.begin()
        each.add(last, mask)
    assert watch.end() == resumed.end()
    resumed.load(saved["empty"])
    resumed.add(last, mask)
    assert np.isnan(resumed.end()["attention_changed"])


def test_a_model_without_weights_has_nothing_to_watch() -> None:
    watch = AttentionWatch(3)
    watch.add(torch.zeros(2, 1, 4), torch.ones(2, 1, 4, dtype=torch.bool))
    assert watch.end() == {}


def test_valid_frames_obey_every_mask(tiny_store: Path) -> None:
    config = load_config("demo", overrides={"data.frames": 4, "data.px": 32})
    bag = Bags(Store(tiny_store), config.data).__getitems__([(0, 0), (0, 1), (0, 2)])
    bag.window_mask[1] = False
    bag.modality_mask[2, 1] = False
    assert torch.equal(valid_frames(bag), bag.settled().frame_mask)
    assert valid_frames(bag)[0].any() and not valid_frames(bag)[1:].any()


@pytest.mark.parametrize(
    ("entropy", "place", "positions", "said"),
    [
        (0.995, 1.0, False, "collapsed to uniform"),
        (0.7, 0.95, False, "collapsed to one position"),
        (0.7, 0.95, True, ""),
        (0.7, 0.5, False, ""),
        (float("nan"), float("nan"), False, ""),
    ],
)
def test_collapse_is_said_in_one_line(entropy: float, place: float, positions: bool, said: str) -> None:
    row = {"attention_entropy": entropy, "attention_position": place}
    notes = collapse_notes(row, looks_at_positions=positions)
    assert len(notes) == bool(said)
    assert all(said in n and "\n" not in n for n in notes)
    assert collapse_notes({"val_loss": 1.0}) == []


class _Killed(Exception):
    pass


def test_history_has_the_columns_and_a_killed_fit_repeats_them(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {"training.epochs": 3, "training.threads": 1, "training.batch": 12, "data.frames": 5, "data.px": 64}
    config = load_config("demo", overrides=quick | {"model.selection.keep": 1})
    bags = Bags(Store(tiny_store), config.data)
    guard = Guard(Split(0, np.arange(0, 24), np.arange(32, 44), np.arange(64, 72)), bags.table)
    history = fit(config, bags, guard, tmp_path / "whole").history
    assert set(COLUMNS) <= set(history.columns)
    assert np.isnan(history["attention_changed"].iloc[0]) and history["attention_changed"].iloc[1:].notna().all()
    assert history["attention_entropy"].between(0, 1 + 1e-6).all()
    steps, forward = 0, fitting.MilmerModule.training_step

    def killed(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == 4:  # in the second epoch: the first one's sets come from the checkpoint
            raise _Killed
        return forward(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(fitting.MilmerModule, "training_step", killed)
        with pytest.raises(_Killed):
            fit(config, bags, guard, tmp_path / "resumed")
    fit(config, bags, guard, tmp_path / "resumed", resume=True)
    one, other = ((tmp_path / n / "history.csv").read_bytes() for n in ("whole", "resumed"))
    assert one == other


def test_methods_that_learn_no_weights_have_no_columns(tiny_store: Path, tmp_path: Path) -> None:
    quick = {"training.epochs": 1, "training.threads": 1, "training.batch": 12, "data.frames": 2, "data.px": 64}
    for name, more in {"mean": {"model.selection.method": "mean"}, "eeg": {"data.modalities": ["eeg"]}}.items():
        config = load_config("demo", overrides=quick | more)
        bags = Bags(Store(tiny_store), config.data)
        guard = Guard(Split(0, np.arange(0, 12), np.arange(32, 44), np.arange(64, 72)), bags.table)
        fit(config, bags, guard, tmp_path / name)
        columns = set(pd.read_csv(tmp_path / name / "history.csv").columns)
        assert not columns & set(COLUMNS) and "val_loss" in columns
