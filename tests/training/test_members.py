"""Fits that are not one network, end to end on a tiny store, and that nothing but training rows decides about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from milmer.config import Config, load_config
from milmer.errors import UserError
from milmer.evaluation.guard import Guard
from milmer.evaluation.protocols import Split
from milmer.models.baselines import BandPowerLogistic, DeepCCA, Ensemble
from milmer.models.milmer import Milmer
from milmer.models.weights import load_model
from milmer.store import Store
from milmer.training import fit as fitting
from milmer.training.bandpower import STRENGTHS, fit_bandpower
from milmer.training.data import Bags
from milmer.training.fit import fit, predict_bags
from milmer.training.members import (
    Rows,
    class_weights,
    fit_classifier,
    fit_views,
    member_config,
    member_guard,
    only,
    present,
    standardise,
)

TRAIN, VALIDATION, TEST = np.arange(0, 40), np.arange(40, 64), np.arange(64, 128)
KINDS = {"ensemble": Ensemble, "deepcca": DeepCCA, "bandpower-logistic": BandPowerLogistic}


def make_config(method: str, **more: Any) -> Config:
    quick = {
        "training.epochs": 2,
        "training.threads": 1,
        "training.batch": 32,
        "data.frames": 2,
        "data.px": 64,
        "model.selection.keep": 1,
        "model.fusion.method": method,
        "model.fusion.cca.width": 4,
        "model.fusion.cca.epochs": 5,
    }
    return load_config("demo", overrides=quick | more)


def guarded(bags: Bags, train: NDArray[np.int64] = TRAIN, validation: NDArray[np.int64] = VALIDATION) -> Guard:
    return Guard(Split(0, train, validation, TEST), bags.table)


@pytest.fixture(scope="module")
def bags(tiny_store: Path) -> Bags:
    return Bags(Store(tiny_store), make_config("ensemble").data)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, bags: Bags) -> dict[str, Path]:
    folders = {}
    for method in KINDS:
        folders[method] = tmp_path_factory.mktemp(method)
        fit(make_config(method), bags, guarded(bags), folders[method])
    return folders


@pytest.mark.parametrize("method", KINDS)
def test_one_folder_that_predicts(method: str, fitted: dict[str, Path], bags: Bags) -> None:
    folder = fitted[method]
    assert {p.name for p in folder.iterdir()} == {
        "model.safetensors",
        "config.json",
        "history.csv",
        "fits.json",
        "done.json",
    }
    model, about = load_model(folder)
    uses = ["eeg"] if method == "bandpower-logistic" else ["eeg", "face"]
    assert about["data"]["modalities"] == uses  # what a new recording must bring
    assert type(model) is KINDS[method] and about["classes"] == ["HAHV", "HALV", "LAHV", "LALV"]
    prob, weights = predict_bags(folder, bags, TEST)
    assert prob.shape == (64, 4) and weights.shape == (64, 1, 2)
    np.testing.assert_allclose(prob.sum(1), 1, atol=1e-5)
    sums = weights.sum((1, 2))
    np.testing.assert_allclose(sums, 0 if method == "bandpower-logistic" else 1, atol=1e-5)
    wanted = {
        "ensemble": {"eeg", "face"},
        "deepcca": {"eeg", "face", "cca", "classifier"},
        "bandpower-logistic": {"logistic"},
    }[method]
    assert set(pd.read_csv(folder / "history.csv")["member"]) == wanted
    assert set(json.loads((folder / "done.json").read_text())["best_epoch"]) == wanted


def test_band_powers_know_the_planted_arousal(fitted: dict[str, Path], bags: Bags) -> None:
    prob, _ = predict_bags(fitted["bandpower-logistic"], bags, TEST)
    right = (prob[:, :2].sum(1) > 0.5) == (bags.labels.y[TEST] < 2)
    assert right.mean() > 0.95


def test_a_whole_evaluation_takes_them(tiny_store: Path, tmp_path: Path) -> None:
    from milmer.evaluation.evaluate import evaluate

    quick = {"evaluation.folds": 3, "evaluation.resamples": 100, "data.modalities": ["eeg"]}
    config = make_config("bandpower-logistic", **quick)
    figures = evaluate(Store(tiny_store), config, tmp_path / "run")
    found = {f["name"]: f["value"] for f in figures if f.get("level") == "window"}
    assert found["accuracy"] > 0.3
    assert set(pd.read_parquet(tmp_path / "run" / "predictions.parquet")["part"]) == {"train", "validation", "test"}


class _Killed(Exception):
    pass


def test_a_killed_pair_resumes_to_the_same_bits(
    fitted: dict[str, Path], bags: Bags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the second member's second epoch: the first is not fitted again."""
    steps = 0
    forward = fitting.MilmerModule.training_step

    def counted(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == 7:
            raise _Killed
        return forward(self, batch, batch_idx)

    monkeypatch.setattr(fitting.MilmerModule, "training_step", counted)
    config = make_config("deepcca")
    with pytest.raises(_Killed):
        fit(config, bags, guarded(bags), tmp_path)
    assert (tmp_path / "eeg" / "done.json").exists() and not (tmp_path / "done.json").exists()
    torch.manual_seed(3)  # global randomness must not matter
    texts: list[str] = []
    fit(config, bags, guarded(bags), tmp_path, resume=True, progress=lambda d, t, text: texts.append(text), text="x")
    assert steps == 9  # two steps of the face's second epoch
    assert texts and texts[0].startswith("x, face alone: loss")
    one, other = load_file(fitted["deepcca"] / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert one.keys() == other.keys() and all(np.array_equal(one[n], other[n]) for n in one)
    assert (fitted["deepcca"] / "history.csv").read_bytes() == (tmp_path / "history.csv").read_bytes()
    fit(config, bags, guarded(bags), tmp_path, resume=True)
    assert steps == 9  # what is done is not fitted again


def test_only_rows_it_is_given_are_read(bags: Bags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = Bags.__getitems__

    def watch(self: Bags, items: Any) -> Any:
        read.extend(i for _, i in items)
        return original(self, items)

    monkeypatch.setattr(Bags, "__getitems__", watch)
    train, validation = TRAIN[::2], VALIDATION[::2]
    for method in ("deepcca", "bandpower-logistic"):
        read.clear()
        fit(make_config(method, **{"training.epochs": 1}), bags, guarded(bags, train, validation), tmp_path / method)
        assert set(read) == {*train.tolist(), *validation.tolist()}


def uses(guard: Guard) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return guard.rows("weights"), guard.rows("early stopping")


def test_a_member_learns_from_rows_that_hold_its_modality(tiny_store: Path) -> None:
    store = Store(tiny_store)
    faceless = store.trials["subject"].isin(["s01", "s03"])
    store.trials = store.trials.assign(has_face=~faceless, face_rows=np.where(faceless, 0, store.trials["face_rows"]))
    bags = Bags(store, make_config("ensemble").data)
    two, third = np.arange(0, 64), np.arange(64, 96)  # s01 and s02, s03
    guard = guarded(bags, two, third)
    train, validation = uses(member_guard(bags, guard, "eeg", 0))
    assert np.array_equal(train, two) and np.array_equal(validation, third)
    train, validation = uses(member_guard(bags, guard, "face", 0))  # s03 is all of the validation rows
    assert set(bags.table["subject"].iloc[np.concatenate([train, validation])]) == {"s02"}
    trials = bags.table["trial_row"].to_numpy()
    assert len(validation) and not set(trials[train]) & set(trials[validation])
    assert present(bags, np.arange(128), "face").sum() == 64
    with pytest.raises(UserError, match=r"no training row holds any face.*--modalities eeg"):
        member_guard(bags, guarded(bags, np.arange(0, 32), third), "face", 0)


def test_a_member_reads_its_modality_only(bags: Bags) -> None:
    items = [(0, 3), (0, 70)]
    whole, eeg, face = (b.__getitems__(items) for b in (bags, only(bags, "eeg"), only(bags, "face")))
    assert torch.equal(eeg.eeg, whole.eeg) and eeg.frames.shape[2] == 0
    assert torch.equal(face.frames, whole.frames) and not face.eeg_mask.any()
    config = member_config(make_config("deepcca"), "face")
    assert config.data.modalities == ("face",) and config.model.fusion.method == "transformer"
    assert bags.config.modalities == ("eeg", "face")


def latent_rows(n: int, seed: int, shared: float = 1.0) -> Rows:
    """Features of two views of width 64 that share three latents, of which one is the class; the rest is noise."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(2, 11, 64))  # (2, L, D)
    latent = rng.normal(size=(n, 3))  # (n, 3)
    views = []
    for view in range(2):
        own = rng.normal(size=(n, 8))  # (n, 8): louder, and in this view alone
        inside = np.concatenate([shared * latent + 0.7 * rng.normal(size=(n, 3)), 3 * own], 1)  # (n, L)
        views.append(inside @ mixing[view] + 5)  # (n, D)
    features = torch.from_numpy(np.stack(views, 1)).float()  # (n, 2, D)
    y = torch.from_numpy((latent[:, 0] > 0).astype(np.int64))  # (n,)
    return Rows(features, torch.ones(n, 2, dtype=torch.bool), y)


def make_deepcca(config: Config) -> DeepCCA:
    torch.manual_seed(0)
    members = {
        m: Milmer(member_config(config, m).model, n_classes=2, px=64, modalities=(m,)) for m in config.data.modalities
    }
    return DeepCCA(config.model, members).eval()


LATENT = {"model.fusion.cca.width": 3, "model.fusion.cca.epochs": 60}


def test_deepcca_finds_what_both_views_share() -> None:
    config = make_config("deepcca", **LATENT)
    model, train, validation, test = make_deepcca(config), *(latent_rows(n, i) for i, n in enumerate((400, 150, 400)))
    standardise(model, train)
    curve = fit_views(model, config, train, validation)
    assert 1 - curve["val_loss"].min() > 0.5  # 1 / (1 + 0.7²) = 0.67 is all there is
    with torch.no_grad():
        views = model.variates(test.features).numpy()
    held = [np.corrcoef(views[:, 0, i], views[:, 1, i])[0, 1] for i in range(3)]
    assert min(held) > 0.4
    fit_classifier(model, config, train, validation)
    with torch.no_grad():
        both, eeg, face = (
            (model.classify(model.variates(test.features), torch.tensor([m]).expand(400, 2)).argmax(1) == test.y)
            .float()
            .mean()
            for m in ([True, True], [True, False], [False, True])
        )
    assert both > 0.8 and both > max(eeg, face) + 0.02  # a mean of two noisy views of the same
    chance = make_deepcca(config)
    standardise(chance, latent_rows(600, 3, shared=0.0))
    curve = fit_views(chance, config, latent_rows(600, 3, shared=0.0), latent_rows(200, 4, shared=0.0))
    assert 1 - curve["val_loss"].min() < 0.15  # nothing is shared, and new rows say so


def test_other_rows_do_not_change_what_was_fitted() -> None:
    """With one epoch nothing is left to choose, so nothing may depend on validation rows."""
    config = make_config("deepcca", **LATENT | {"model.fusion.cca.epochs": 1})
    states = []
    for seed in (1, 2):
        model = make_deepcca(config)
        standardise(model, latent_rows(300, 0))
        fit_views(model, config, latent_rows(300, 0), latent_rows(100, seed))
        fit_classifier(model, config, latent_rows(300, 0), latent_rows(100, seed))
        states.append({n: v.clone() for n, v in model.state_dict().items()})
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    rows = latent_rows(300, 0).features[:, 0]
    torch.testing.assert_close(states[0]["eeg_view.mean"], rows.mean(0))
    torch.testing.assert_close(states[0]["eeg_view.scale"], rows.std(0))


def test_rows_of_one_modality_are_used_where_they_can_be() -> None:
    config = make_config("deepcca", **LATENT)
    rows = latent_rows(100, 0)
    there = rows.there.clone()
    there[:40, 1] = False
    there[40:50, 0] = False
    there[99] = False
    some = Rows(rows.features, there, rows.y)
    assert len(some.pairs) == 49 and len(some.y) == 99
    model = make_deepcca(config)
    standardise(model, some)
    fit_views(model, config, some, latent_rows(50, 1))
    torch.testing.assert_close(model.face_view.mean, rows.features[40:99, 1].mean(0))
    there[3:, 0] = False
    with pytest.raises(UserError, match="deepcca: 0 training rows hold both EEG and face, expected at least 5"):
        fit_views(model, config, Rows(rows.features, there, rows.y), latent_rows(50, 1))


def scikit_learns(strength: float, x: NDArray[np.float64], y: NDArray[np.int64]) -> Pipeline:
    regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=5000, tol=1e-7)
    return make_pipeline(StandardScaler(), regression).fit(x, y)


@pytest.mark.parametrize("target", ["valence-arousal", "arousal"])
def test_logistic_regression_is_scikit_learns(tiny_store: Path, target: str) -> None:
    config = make_config("bandpower-logistic", **{"data.target": target, "training.class_weights": True})
    bags = Bags(Store(tiny_store), config.data)
    model, curve = fit_bandpower(config, bags, guarded(bags))
    bag, held = bags.__getitems__([(0, int(i)) for i in TRAIN]), bags.__getitems__([(0, int(i)) for i in VALIDATION])
    with torch.no_grad():
        x, unseen = (model.measure(b).flatten(1).double().numpy() for b in (bag, held))
        prob = model(held).probabilities.numpy()
    assert curve["C"].tolist() == STRENGTHS.tolist()
    best = float(curve["C"].iloc[curve["val_loss"].argmin()])
    theirs = make_pipeline(
        StandardScaler(), LogisticRegression(C=best, class_weight="balanced", max_iter=5000, tol=1e-7)
    )
    theirs.fit(x, bags.labels.y[TRAIN])
    np.testing.assert_allclose(prob, theirs.predict_proba(unseen), atol=2e-3)
    losses = []
    for strength in STRENGTHS:
        said = scikit_learns(strength, x, bags.labels.y[TRAIN]).predict_proba(unseen)  # (m, classes)
        losses.append(-np.log(said[np.arange(24), bags.labels.y[VALIDATION]]).mean())
    np.testing.assert_allclose(curve["val_loss"], losses, rtol=1e-2)


def test_classes_that_training_lacks_are_never_said(bags: Bags) -> None:
    config = make_config("bandpower-logistic")
    for classes in ((0, 2, 3), (1, 2), (3,)):
        rows = TRAIN[np.isin(bags.labels.y[TRAIN], classes)]
        model, _ = fit_bandpower(config, bags, guarded(bags, rows))
        with torch.no_grad():
            prob = model(bags.__getitems__([(0, int(i)) for i in TEST])).probabilities.numpy()
        lacking = np.setdiff1d(np.arange(4), classes)
        assert prob[:, lacking].max() < 1e-4
        np.testing.assert_allclose(prob.sum(1), 1, atol=1e-5)


def test_class_weights_are_inverse_frequencies() -> None:
    assert class_weights(np.array([0, 0, 0, 1]), 3).tolist() == pytest.approx([2 / 3, 2, 0])
