"""The ensemble, DeepCCA and band power + logistic regression as models: what they answer to a bag."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest
import torch

from milmer.config import Fusion, load_config
from milmer.errors import UserError
from milmer.models.bag import Bag, Prediction
from milmer.models.baselines import BASELINES, BandPowerLogistic, DeepCCA, Ensemble, View, electrodes_of
from milmer.models.cca import LinearCCA
from milmer.models.fusion import FUSIONS
from milmer.models.milmer import Milmer
from milmer.models.weights import AnyModel, load_model, save_model


@pytest.fixture
def members(net, bag):
    found = {name: net(modalities=(name,)) for name in ("eeg", "face")}
    found["eeg"].fit_scales([bag()])
    for member in found.values():  # heads start near equal probabilities
        torch.nn.init.normal_(member.head[-1].weight, generator=torch.Generator().manual_seed(1))
    return found


@pytest.fixture
def logistic(bag):
    torch.manual_seed(0)
    config = load_config("demo").model
    model = BandPowerLogistic(config, n_classes=4, n_times=384, sfreq=128.0, electrodes=6)
    model.positions = electrodes_of([bag()])
    model.learn(model.measure(bag(b=30, seed=5)))
    return model.eval()


@pytest.fixture
def models(members, logistic) -> dict[str, AnyModel]:
    config = load_config("demo").model
    torch.manual_seed(0)
    return {
        "ensemble": Ensemble(config, members).eval(),
        "deepcca": DeepCCA(config, members).eval(),
        "bandpower-logistic": logistic,
    }


def without(bag: Bag, *columns: int) -> Bag:
    mask = bag.modality_mask.clone()
    mask[:, list(columns)] = False
    return dataclasses.replace(bag, modality_mask=mask)


def probabilities(model: AnyModel, bag: Bag) -> torch.Tensor:
    with torch.no_grad():
        said = model(bag)
    assert isinstance(said, Prediction) and said.frame_weights.shape == bag.frame_mask.shape
    return said.probabilities


KINDS = ["ensemble", "deepcca", "bandpower-logistic"]


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_they_answer_the_same(kind, models, bag, tmp_path) -> None:
    model = models[kind]
    save_model(model, tmp_path, {"classes": list("abcd")})
    again, extra = load_model(tmp_path)
    assert type(again) is type(model) and extra == again.about == model.about == {"classes": list("abcd")}
    for given in (bag(), without(bag(), 1), bag(w=3, n=2)):
        assert torch.equal(model(given).logits, again(given).logits)
        assert torch.equal(model(given).frame_weights, again(given).frame_weights)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_says_what_single_bags_say(kind, models, bag) -> None:
    given = bag(b=4, w=2)
    singly = torch.cat([probabilities(models[kind], given[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(probabilities(models[kind], given), singly, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_masked_changes_nothing(kind, models, bag) -> None:
    given = bag(b=2, w=2, n=3)
    masks = {n: getattr(given, n).clone() for n in ("frame_mask", "eeg_mask", "window_mask")}
    masks["frame_mask"][0, 0, 1] = masks["eeg_mask"][0, :, 2] = masks["window_mask"][1, 1] = False
    given = dataclasses.replace(given, **masks)
    frames, eeg = given.frames.clone(), given.eeg.clone()
    frames[0, 0, 1] = 255
    eeg[0, :, 2] = eeg[1, 1] = torch.nan
    frames[1, 1] = 0
    other = dataclasses.replace(given, frames=frames, eeg=eeg)
    assert torch.equal(probabilities(models[kind], given), probabilities(models[kind], other))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_at_all_is_answered_too(kind, models, bag) -> None:
    for given in (without(bag(), 0, 1), Bag.of(frames=bag().frames), Bag.of(eeg=bag().eeg, positions=bag().positions)):
        prob = probabilities(models[kind], given)
        assert torch.isfinite(prob).all()
        torch.testing.assert_close(prob.sum(1), torch.ones(2))


def test_the_ensemble_is_the_mean_of_the_probabilities_that_there_are(models, members, bag) -> None:
    given = bag(b=3)
    mask = given.modality_mask.clone()
    mask[1, 0] = mask[2, 1] = False
    given = dataclasses.replace(given, modality_mask=mask)
    eeg = members["eeg"](given).logits.softmax(-1)
    face = members["face"](given).logits.softmax(-1)
    wanted = torch.stack([(eeg[0] + face[0]) / 2, face[1], eeg[2]])
    torch.testing.assert_close(probabilities(models["ensemble"], given), wanted)
    assert not torch.allclose(eeg[0], face[0], atol=0.01)  # else the test could not fail
    assert torch.equal(models["ensemble"](given).frame_weights, members["face"](given).frame_weights)


def test_every_method_is_a_baseline_or_a_fusion() -> None:
    names = set(get_args(Fusion.model_fields["method"].annotation))
    assert set(BASELINES) == set(KINDS) == names - set(FUSIONS) and not set(BASELINES) & set(FUSIONS)


def test_a_missing_member_or_one_of_both_is_refused(members, net) -> None:
    config = load_config("demo").model
    with pytest.raises(ValueError, match="needs a model of face alone"):
        Ensemble(config, {"eeg": members["eeg"]})
    with pytest.raises(ValueError, match="needs a model of eeg alone"):
        DeepCCA(config, {**members, "eeg": net()})
    with pytest.raises(ValueError, match="members know 2 and 4 classes"):
        Ensemble(config, {**members, "eeg": net(modalities=("eeg",), n_classes=2)})


def test_deepcca_takes_the_view_that_is_there(models, bag) -> None:
    model, given = models["deepcca"], bag()
    with torch.no_grad():
        model.mix.copy_(torch.tensor([1.0, -0.5]))
        features, _, _ = model.describe(given)
        views = model.variates(features)
        share = model.mix.softmax(0)
        both = model.head(share[0] * views[:, 0] + share[1] * views[:, 1])
        for mask, wanted in [((), both), ((0,), model.head(views[:, 1])), ((1,), model.head(views[:, 0]))]:
            torch.testing.assert_close(model(without(given, *mask)).logits, wanted)
        prior = model(without(given, 0, 1)).logits
        torch.testing.assert_close(prior, model.head.bias.expand(2, -1))


def test_a_view_is_standardised_encoded_and_projected() -> None:
    torch.manual_seed(0)
    view = View(5, 8, 3)
    rows = 4 + 7 * torch.randn(50, 5)
    rows[:, 2] = 1.0  # never moves
    view.standardise(rows)
    scaled = (rows - view.mean) / view.scale
    torch.testing.assert_close(scaled.std(0)[[0, 1, 3, 4]], torch.ones(4))
    assert not scaled[:, 2].any()
    with torch.no_grad():
        found = LinearCCA.fit(view.encode(rows), torch.randn(50, 3), 3, 1e-3)
        view.centre, view.projection = found.mean1.float(), found.projection1.float()
        torch.testing.assert_close(view(rows), found.project1(view.encode(rows).double()).float(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(view(rows).std(0), torch.ones(3), atol=0.02, rtol=0)


def test_electrodes_are_found_by_place_and_the_missing_have_the_mean(logistic, bag) -> None:
    given = bag(w=1)
    turned = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = dataclasses.replace(given, eeg=given.eeg[:, :, turned], positions=given.positions[:, turned])
    torch.testing.assert_close(logistic(shuffled).logits, logistic(given).logits)
    mask = given.eeg_mask.clone()
    mask[:, :, 1] = False
    less = logistic.measure(dataclasses.replace(given, eeg_mask=mask))
    lost = (logistic.positions - given.positions[0, 1]).norm(dim=1).argmin()
    assert less[:, lost].isnan().all() and less.isnan().sum() == less[:, lost].numel()
    standard = logistic.standardised(less).view(2, 6, -1)
    assert not standard[:, lost].any() and standard.abs().sum() > 1
    elsewhere = dataclasses.replace(given, positions=-given.positions)  # another cap: no electrode is known
    torch.testing.assert_close(logistic(elsewhere).logits, logistic.linear.bias.expand(2, -1))


def test_what_was_never_met_says_no_more_than_six_deviations(models, logistic, bag) -> None:
    loud = dataclasses.replace(bag(), eeg=1e4 * bag().eeg)
    standard = logistic.standardised(logistic.measure(loud))
    assert standard.abs().max() == 6
    view = models["deepcca"].face_view
    far = torch.full((1, 64), 1e6)
    torch.testing.assert_close(view(far), view(2 * far))


def test_a_trial_has_the_mean_of_its_windows(logistic, bag) -> None:
    given = bag(b=1, w=3)
    windows = [dataclasses.replace(given, window_mask=torch.tensor([[i == j for j in range(3)]])) for i in range(2)]
    whole = dataclasses.replace(given, window_mask=torch.tensor([[True, True, False]]))
    wanted = torch.stack([logistic.measure(w) for w in windows]).mean(0)
    torch.testing.assert_close(logistic.measure(whole), wanted)


def test_electrodes_nearer_than_a_few_millimetres_are_one(bag) -> None:
    given = bag()
    moved = dataclasses.replace(given, positions=given.positions + 0.01)
    assert len(electrodes_of([given, moved])) == 6
    assert len(electrodes_of([given, dataclasses.replace(given, positions=-given.positions)])) == 12


@pytest.mark.parametrize("kind", BASELINES)
def test_each_travels_as_the_network_does(kind: str, models, bag, tmp_path) -> None:
    model = models[kind]
    model.about = {"classes": ["a", "b", "c", "d"]}
    model.config = model.config.model_copy(update={"backbone": str(tmp_path)})
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(model(bag()).logits, again(bag()).logits) and again.about == model.about
    assert str(tmp_path) not in (tmp_path / "config.json").read_text()  # where a backbone lay is nobody's business
    card = (tmp_path / "README.md").read_text()
    assert f"{type(model).__name__}.from_pretrained(" in card and model.how in card
    with pytest.raises(UserError, match=f"kind {type(model).__name__}, expected Milmer"):
        Milmer.from_pretrained(tmp_path)
