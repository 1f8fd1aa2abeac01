from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from milmer.config import Data, load_config
from milmer.errors import UserError
from milmer.evaluation.audit.features import window_features
from milmer.evaluation.guard import Guard
from milmer.evaluation.protocols import Split
from milmer.models.bag import Bag, Prediction
from milmer.models.baselines import Ensemble
from milmer.models.milmer import Milmer
from milmer.models.weights import load_model
from milmer.store import Store
from milmer.training.body_reading import BodyReader
from milmer.training.data import Bags
from milmer.training.fit import fit, predict_bags
from milmer.training.members import only, present
from milmer.training.present import predict_subsets
from milmer.training.probes import run_probes
from milmer.windows import build_windows, holds

SMALL = {
    "data.modalities": ["eeg", "gsr"],
    "data.target": "arousal",
    "model.width": 16,
    "model.fusion.heads": 2,
    "model.fusion.layers": 1,
    "model.fusion.feedforward": 32,
    "model.fusion.dropout": 0.0,
    "training.batch": 16,
    "training.lr": 3e-3,
    "training.patience": 100,
    "training.device": "cpu",
}


def fitted(store: Path, folder: Path, epochs: int = 12, **overrides: object) -> tuple[Bags, np.ndarray, Path]:
    """Fit on six trials of each subject, the epoch chosen on the seventh; rows of the eighth."""
    config = load_config("demo", overrides=SMALL | {"training.epochs": epochs} | overrides)
    bags = Bags(Store(store), config.data)
    trial = bags.table["trial"].to_numpy()
    parts = [np.flatnonzero(trial <= 4), np.flatnonzero((trial == 5) | (trial == 6)), np.flatnonzero(trial > 6)]
    split = Split(0, *parts, ())
    fit(config, bags, Guard(split, bags.table), folder)
    return bags, parts[2], folder


def accuracy(found: tuple[Bags, np.ndarray, Path], names: list[str] | None = None) -> float:
    bags, rows, folder = found
    model, _ = load_model(folder)
    bag = bags.__getitems__([(0, int(i)) for i in rows])
    with torch.no_grad():
        said = model(bag if names is None else bag.only(names)).logits.argmax(-1)
    return float((said.numpy() == bags.labels.y[rows]).mean())


def test_windows_of_body_signals_are_the_stores_with_their_masks(body_store: Path) -> None:
    store = Store(body_store)
    bags = Bags(store, Data(modalities=("eeg", "gsr", "ppg"), windows_per_bag=3))
    bag = bags.__getitems__([(0, 0), (0, 1)])
    assert list(bag.body) == ["gsr", "ppg"] and bag.body["gsr"].shape == (2, 3, 2, 96)
    assert bag.window_mask.tolist() == [[True, True, True], [True, False, False]]
    mask = bag.body_mask["gsr"]
    assert not mask[0, 0, 0, :16].any() and mask[0, 0, 0, 16:].all() and mask[0, 0, 1].all() and not mask[1, 1:].any()
    np.testing.assert_array_equal(bag.body["gsr"][1, 0].numpy(), store.body(0, "gsr", 9.0, 12.0))
    third = bags.__getitems__([(0, int(np.flatnonzero(bags.table["trial"] == 3)[0]))])
    assert not third.body_mask["ppg"].any() and third.body_mask["gsr"].any()
    assert third.present().tolist() == [[True, False, True, False]]


def test_a_store_without_a_kind_has_none_of_it(tiny_store: Path, body_store: Path) -> None:
    store = Store(tiny_store)
    assert not holds(store.trials, "gsr").any() and holds(store.trials, "eeg").all()
    with pytest.raises(UserError, match=r"no window of 3 s with gsr"):
        build_windows(store.trials, 3.0, None, ("gsr",))
    bags = Bags(store, Data(modalities=("eeg", "gsr"), px=16))
    with pytest.raises(UserError, match=r"no trial has gsr, found eeg,face; name some of these with --modalities"):
        bags.check(np.arange(4))
    ppg = build_windows(Store(body_store).trials, 3.0, None, ("ppg",))
    assert set(ppg["trial"]) == {1, 2, 4, 5, 6, 7, 8}


def test_a_short_window_at_the_end_of_a_trial_is_masked(body_store: Path) -> None:
    reader = BodyReader(Store(body_store), Data(modalities=("gsr",), window=5.0))
    body, mask = reader.read(np.array([[0, 0, -1]]), np.array([[[5.0, 10.0], [10.0, 15.0], [0.0, 5.0]]]))
    assert body["gsr"].shape == (1, 3, 2, 160)
    assert mask["gsr"][0, 0].all() and mask["gsr"][0, 1, :, :64].all()
    assert not mask["gsr"][0, 1, :, 64:].any() and not mask["gsr"][0, 2].any()
    assert body["gsr"][0, 2].eq(0).all() and body["gsr"].isfinite().all()


def test_one_modality_alone_reads_nothing_of_the_others(body_store: Path) -> None:
    bags = Bags(Store(body_store), Data(modalities=("eeg", "gsr", "ppg")))
    rows = np.arange(len(bags.table))
    alone = only(bags, "ppg").__getitems__([(0, 0)])
    assert list(alone.body) == ["ppg"] and not alone.eeg_mask.any()
    lacks = bags.table["trial"].to_numpy() == 3
    assert not present(bags, rows, "ppg")[lacks].any() and present(bags, rows, "ppg")[~lacks].all()
    assert present(bags, rows, "gsr").all() and present(bags, rows, "eeg").all()


def test_a_label_that_is_in_the_skin_alone_is_learned_from_it_and_lost_with_it(body_store, tmp_path) -> None:
    found = fitted(body_store, tmp_path / "fit", **{"data.target": "valence"})
    model, extra = load_model(tmp_path / "fit")
    assert isinstance(model, Milmer) and model.modalities == ("eeg", "gsr")
    assert extra["data"]["modalities"] == ["eeg", "gsr"]
    assert accuracy(found) > 0.9
    assert accuracy(found, ["gsr"]) > 0.9
    assert abs(accuracy(found, ["eeg"]) - 0.5) < 0.2
    prob, _ = predict_bags(tmp_path / "fit", found[0], found[1])
    again = model.eval()(found[0].__getitems__([(0, int(i)) for i in found[1]])).probabilities.detach().numpy()
    np.testing.assert_allclose(prob, again, atol=1e-5)


def test_an_ensemble_has_a_member_of_each_modality(body_store, tmp_path) -> None:
    changed = {"model.fusion.method": "ensemble", "data.modalities": ["eeg", "gsr", "ppg"]}
    found = fitted(body_store, tmp_path / "fit", epochs=2, **changed)
    model, _ = load_model(tmp_path / "fit")
    assert isinstance(model, Ensemble) and model.modalities == ("eeg", "gsr", "ppg")
    bag = found[0].__getitems__([(0, int(i)) for i in found[1][:3]])
    with torch.no_grad():
        lone = model(bag.only(["gsr"])).logits.softmax(-1)
        torch.testing.assert_close(lone, model.members()["gsr"](bag).logits.softmax(-1))
        mean = torch.stack([m(bag).probabilities for m in model.members().values()]).mean(0)
        torch.testing.assert_close(model(bag).probabilities, mean)
    history = pd.read_csv(tmp_path / "fit" / "history.csv")
    assert set(history["member"]) == {"eeg", "gsr", "ppg"}
    assert sorted(p.name for p in (tmp_path / "fit").iterdir() if p.is_dir()) == []


def test_modality_dropout_helps_the_modality_that_is_left(body_store, tmp_path) -> None:
    # Both carry arousal, the EEG's band powers more plainly: without dropout the skin is hardly learned from.
    left = {}
    for dropout in (0.0, 0.5):
        folder = tmp_path / str(dropout)
        changed = {"model.modality_dropout": dropout, "model.eeg_tokens": "bandpower"}
        left[dropout] = fitted(body_store, folder, epochs=8, **changed)
    assert accuracy(left[0.0]) > 0.9 and accuracy(left[0.5]) > 0.9
    assert accuracy(left[0.5], ["gsr"]) > accuracy(left[0.0], ["gsr"]) + 0.2


def test_the_audits_features_are_level_and_spread_of_each_channel(body_store: Path) -> None:
    store = Store(body_store)
    found = window_features(store, Data(modalities=("gsr", "ppg")))
    assert found.values.shape == (128, 8) and found.modality.tolist() == [2] * 4 + [3] * 4
    lacks = found.table["trial"].to_numpy() == 3
    assert np.isnan(found.values[lacks, 4:]).all() and np.isfinite(found.values[~lacks]).all()
    high = found.table["rating_valence"].to_numpy() > 5
    assert found.values[high, 0].min() > 5e-6 > found.values[~high, 0].max()
    signal = store.body(0, "gsr", 3.0, 6.0)
    np.testing.assert_allclose(found.values[1, [0, 2]], [np.nanmean(signal[0]), np.log(signal[0].std())], rtol=1e-4)


class BySkin(torch.nn.Module):
    """Says high where the mean level of the skin is: what the store planted."""

    def forward(self, bag: Bag) -> Prediction:
        high = (bag.body["gsr"][:, 0, 0, 16:].mean(-1) > 5e-6).float()  # (B,)
        return Prediction(torch.stack([1 - high, high], 1) * 10, torch.zeros(bag.frame_mask.shape))


def test_a_probe_exchanges_the_skin_alone(body_store: Path) -> None:
    bags = Bags(Store(body_store), Data(modalities=("eeg", "gsr", "ppg"), target="valence"))
    rows = np.arange(len(bags.table))
    names = ["gsr-any-class", "gsr-same-class", "ppg-any-class", "eeg-any-class"]
    table = run_probes(BySkin(), bags, rows, names)
    table["right"] = (table["prob_high"] > 0.5) == (table["y_true"] == 1)
    found = table.groupby("probe")["right"].mean()
    assert found["intact"] == found["gsr-same-class"] == found["ppg-any-class"] == found["eeg-any-class"] == 1
    assert found["gsr-any-class"] == pytest.approx(0.5, abs=0.15)
    lacks = (table["probe"] == "ppg-any-class") & (table["trial"] == 3)
    assert (
        table[lacks]["unchanged"].all() and not table[~lacks & (table["probe"] == "ppg-any-class")]["unchanged"].all()
    )


def test_a_row_that_holds_nothing_of_what_is_shown_is_marked(body_store: Path, tmp_path: Path) -> None:
    """The third trial of every recording has no pulse: shown the pulse alone, the model is shown nothing there."""
    bags, _, folder = fitted(body_store, tmp_path, epochs=1, **{"data.modalities": ["eeg", "ppg"]})
    rows = np.flatnonzero(bags.table["trial"].isin([3, 4]).to_numpy())
    whole, pulse = predict_subsets(folder, bags, rows, [("eeg", "ppg"), ("ppg",)], device="cpu")
    assert whole.evidence.all()
    np.testing.assert_array_equal(pulse.evidence, bags.table["trial"].to_numpy()[rows] == 4)
    assert len(np.unique(pulse.prob[~pulse.evidence].round(5), axis=0)) == 1
