from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from milmer.config import Config, load_config
from milmer.errors import UserError
from milmer.evaluation.guard import Guard
from milmer.evaluation.protocols import Split
from milmer.store import Store
from milmer.training import fit as fitting
from milmer.training.data import Bags
from milmer.training.fit import fit, predict_bags

TRAIN, VALIDATION = np.arange(0, 80), np.arange(80, 128)


@pytest.fixture(scope="module")
def config() -> Config:
    quick = {
        "training.epochs": 4,
        "training.threads": 1,
        "training.batch": 20,
        "training.patience": 9,
        "data.frames": 3,
    }
    return load_config("demo", overrides=quick | {"data.px": 64, "data.window": 3.0})


@pytest.fixture(scope="module")
def bags(tiny_store: Path, config: Config) -> Bags:
    return Bags(Store(tiny_store), config.data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, config: Config, bags: Bags) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    fit(config, bags, guarded(bags), folder)
    return folder


def guarded(bags: Bags) -> Guard:
    return Guard(Split(0, TRAIN, VALIDATION, np.zeros(0, dtype=np.int64)), bags.table)


class _Killed(Exception):
    pass


@pytest.mark.parametrize("after", [3, 8])
def test_a_killed_fit_resumes_to_the_same_bits(
    after: int, whole: Path, tmp_path: Path, config: Config, bags: Bags, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of epoch 1 (before any checkpoint) and of a later epoch."""
    steps = 0
    forward = fitting.MilmerModule.training_step

    def killed(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == after:
            raise _Killed
        return forward(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(fitting.MilmerModule, "training_step", killed)
        with pytest.raises(_Killed):
            fit(config, bags, guarded(bags), tmp_path)
    assert not (tmp_path / "done.json").exists()
    assert (tmp_path / "last.ckpt").exists() == (after == 8)
    torch.manual_seed(after)  # global randomness must not matter
    fit(config, bags, guarded(bags), tmp_path, resume=True)
    one, other = load_file(whole / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert one.keys() == other.keys()
    for name in one:
        assert np.array_equal(one[name], other[name]), name
    assert (whole / "history.csv").read_bytes() == (tmp_path / "history.csv").read_bytes()


def test_learns_and_leaves_safetensors_only(whole: Path, bags: Bags) -> None:
    assert {p.name for p in whole.iterdir()} == {
        "model.safetensors",
        "config.json",
        "history.csv",
        "fits.json",
        "done.json",
    }
    prob, weights = predict_bags(whole, bags, np.arange(128))
    assert prob.shape == (128, 4) and weights.shape == (128, 1, 3)
    np.testing.assert_allclose(prob.sum(1), 1, atol=1e-5)
    y = bags.labels.y
    loss = -np.log(prob[np.arange(80), y[:80]]).mean()
    assert loss < np.log(4) - 0.1  # it has learnt something from its training rows


def test_a_finished_fit_is_not_run_again(whole: Path, config: Config, bags: Bags) -> None:
    before = (whole / "model.safetensors").stat().st_mtime_ns
    fit(config, bags, guarded(bags), whole, resume=True)
    assert (whole / "model.safetensors").stat().st_mtime_ns == before


def test_scales_are_fitted_on_training_rows_only(config: Config, bags: Bags, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = Bags.__getitems__

    def watch(self: Bags, items: Any) -> Any:
        read.extend(i for _, i in items)
        return original(self, items)

    monkeypatch.setattr(Bags, "__getitems__", watch)
    fitting.build_model(config, bags, TRAIN)
    assert read and set(read) <= set(TRAIN.tolist())


def test_a_trial_without_any_of_a_modality_is_said(tiny_store: Path, config: Config) -> None:
    store = Store(tiny_store)
    store.trials = store.trials.assign(has_face=False)
    bags = Bags(store, config.data)
    with pytest.raises(Exception, match="no trial has face, found eeg; name some of these with --modalities"):
        bags.check(TRAIN)


def test_a_full_disk_ends_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There torch fails on its own positions in the file, with a RuntimeError."""

    def full(_: Any, part: Path) -> None:
        part.write_bytes(b"half")
        raise RuntimeError("unexpected pos 1024704 vs 1024592")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"last.ckpt: the checkpoint cannot be written .* make room.*--resume"):
        fitting.AtomicCheckpoints().save_checkpoint({}, tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())
