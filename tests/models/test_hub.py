"""Weights travel by folder and by hub name; no test asks the network."""

from __future__ import annotations

import copy
import json
import pickle
import socket
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi, ModelCard, ModelHubMixin

from milmer.errors import UserError
from milmer.models import hub
from milmer.models.baselines import Ensemble
from milmer.models.hub import CARD, CONFIG, WEIGHTS, HubModel, find_model
from milmer.models.milmer import Milmer
from milmer.models.weights import load_model, save_model

ABOUT = {
    "milmer": "0.1.0",
    "classes": ["low", "high"],
    "channels": ["Fz", "Cz"],
    "rate": 128.0,
    "label_rule": "arousal above 5",
    "data": {"target": "arousal", "window": 3.0},
    "study": "tiny",
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def model(net, bag):
    made = net(n_classes=2)
    made.fit_scales([bag(c=7)])
    made.about = dict(ABOUT)
    return made


def test_a_folder_gives_the_same_answers_and_the_same_facts(model, bag, tmp_path):
    assert model.save_pretrained(tmp_path / "a") is None
    again = Milmer.from_pretrained(tmp_path / "a")
    given = bag(c=7)
    assert torch.equal(model(given).logits, again(given).logits)
    assert torch.equal(model(given).frame_weights, again(given).frame_weights)
    assert again.about == ABOUT and not again.training and isinstance(again, ModelHubMixin)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [CARD, CONFIG, WEIGHTS]
    again.save_pretrained(str(tmp_path / "b"))
    assert [(tmp_path / "a" / f).read_bytes() for f in (CONFIG, WEIGHTS, CARD)] == [
        (tmp_path / "b" / f).read_bytes() for f in (CONFIG, WEIGHTS, CARD)
    ]
    written = json.loads((tmp_path / "a" / CONFIG).read_text())
    assert written["extra"] == ABOUT and written["backbone"]["mean"] and written["backbone"]["std"]


def test_the_card_says_what_it_answers_and_how_to_load_it(model, tmp_path):
    model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / CARD)
    assert card.data.library_name == "milmer" and {"milmer", "eeg"} <= set(card.data.tags)
    assert not card.data.license  # whose weights they are is for who shares them to say
    for words in ("`low`, `high`", "Fz, Cz", "128 Hz", "arousal above 5", "Milmer.from_pretrained(", "milmer predict"):
        assert words in card.text, words
    assert "3 s" in card.text and "accuracy" not in card.text
    (tmp_path / CARD).write_text("mine")
    model.save_pretrained(tmp_path)
    assert (tmp_path / CARD).read_text() == "mine"


def test_a_network_that_was_never_trained_can_be_saved(net, tmp_path):
    for modality in ("eeg", "face"):
        net(modalities=(modality,)).save_pretrained(tmp_path / modality)
        assert Milmer.from_pretrained(tmp_path / modality).about == {}
        assert "4 classes" in (tmp_path / modality / CARD).read_text()


def test_the_mixin_changes_nothing_of_the_network(model, bag):
    given = bag(c=7)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(model(given).logits, other(given).logits) and other.about == ABOUT
    assert not any("hub" in name for name in [*model.state_dict(), *vars(model)])
    assert Milmer.forward is not HubModel.forward and HubModel.__call__ is torch.nn.Module.__call__


def test_a_failed_write_leaves_the_old_model_whole(model, bag, tmp_path, monkeypatch):
    """The mixin's own way would have deleted config.json first."""
    model.save_pretrained(tmp_path)
    before = (tmp_path / CONFIG).read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("milmer.models.weights.save_file", full)
    with pytest.raises(OSError, match="No space"):
        model.save_pretrained(tmp_path)
    assert (tmp_path / CONFIG).read_bytes() == before
    assert torch.equal(Milmer.from_pretrained(tmp_path)(bag(c=7)).logits, model(bag(c=7)).logits)


def test_folds_of_a_run(model, tmp_path):
    save_model(model, tmp_path / "folds/0", ABOUT)  # as training leaves it
    assert Milmer.from_pretrained(tmp_path / "folds/0").about == ABOUT
    assert Milmer.from_pretrained(tmp_path).about == ABOUT  # of 'milmer train': the only one
    save_model(model, tmp_path / "folds/1", ABOUT)
    with pytest.raises(UserError, match=r"a run of 2 models, expected one.*folds/0"):
        Milmer.from_pretrained(tmp_path)


def test_pickled_weights_are_not_taken(model, tmp_path):
    model.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(UserError, match=rf"found no {WEIGHTS}"):
        Milmer.from_pretrained(tmp_path)


def test_a_model_of_another_kind_is_named(net, tmp_path):
    members = {m: net(modalities=(m,)) for m in ("eeg", "face")}
    save_model(Ensemble(members["eeg"].config, members), tmp_path, {})
    with pytest.raises(UserError, match="holds a model of kind Ensemble, expected Milmer"):
        Milmer.from_pretrained(tmp_path)


class Hub:
    """Stands in for the network: notes what is asked, and gives or refuses."""

    def __init__(self, folder: Path | None, cached: Path | None = None) -> None:
        self.folder, self.cached, self.asked = folder, cached, []

    def download(self, name: str, **options: Any) -> str:
        self.asked.append((name, options))
        found = self.cached if options.get("local_files_only") else self.folder
        if found is None:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not there")
        return str(found)


@pytest.fixture
def stand_in(monkeypatch):
    def use(*given: Any) -> Hub:
        double = Hub(*given)
        monkeypatch.setattr(hub, "snapshot_download", double.download)
        return double

    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    return use


def test_a_hub_name_is_looked_for_here_then_in_the_cache_then_in_the_network(
    model, bag, tmp_path, stand_in, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    remote = tmp_path / "snapshot"
    model.save_pretrained(remote)
    double = stand_in(remote)
    again = Milmer.from_pretrained("user/model", revision="v1", token="secret")
    assert torch.equal(model(bag(c=7)).logits, again(bag(c=7)).logits) and again.about == ABOUT
    assert [o.get("local_files_only", False) for _, o in double.asked] == [True, False]
    for name, options in double.asked:
        assert name == "user/model" and options["revision"] == "v1" and options["token"] == "secret"
        assert options["allow_patterns"] == [WEIGHTS, CONFIG, CARD]  # nothing pickled is even fetched

    double = stand_in(None, remote)
    assert find_model("user/model") == remote and len(double.asked) == 1
    half = tmp_path / "half"  # a download that was killed
    half.mkdir()
    double = stand_in(remote, half)
    assert find_model("user/model") == remote and len(double.asked) == 2
    double = stand_in(remote, half)
    assert find_model("user/model", force_download=True) == remote
    assert double.asked[0][1]["force_download"] and len(double.asked) == 1

    (tmp_path / "user/model").mkdir(parents=True)
    double = stand_in(remote)
    assert find_model("user/model") == Path("user/model") and not double.asked


def test_what_is_nowhere_is_said_in_one_line(tmp_path, stand_in, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/first").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("mine")
    empty = tmp_path / "empty"
    empty.mkdir()
    stand_in(None)
    wrong = {
        "runs/frist": r"no such folder \(did you mean 'runs/first'\?\), and as a hub name it cannot be fetched.*: hf",
        "model": "no such folder, expected",
        "./user/model": "no such folder, expected",
        "a/b/c": "no such folder, expected",
        "notes.txt": "a file, expected the folder",
    }
    for name, says in wrong.items():
        with pytest.raises(UserError, match=says) as caught:
            Milmer.from_pretrained(name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"local_files_only was asked for"):
        Milmer.from_pretrained("user/model", local_files_only=True)
    stand_in(empty)
    with pytest.raises(UserError, match=r"it has no config\.json, so it is no Milmer model"):
        Milmer.from_pretrained("user/model")


def test_offline_is_respected(tmp_path, monkeypatch):
    """The real client, whose cache is empty: sockets are refused by this file's fixture."""
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    says = r"not in the local cache \(HF_HUB_OFFLINE is set\).*type: hf download user/model"
    with pytest.raises(UserError, match=says) as caught:
        Milmer.from_pretrained("user/model", cache_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_the_real_cache_is_read_without_a_network(model, tmp_path):
    root = tmp_path / "models--user--model"
    (root / "refs").mkdir(parents=True)
    (root / "refs/main").write_text("0" * 40)
    model.save_pretrained(root / "snapshots" / ("0" * 40))
    assert Milmer.from_pretrained("user/model", cache_dir=tmp_path).about == ABOUT


@pytest.mark.parametrize("private", [None, True])
def test_what_is_pushed(model, tmp_path, monkeypatch, private):
    seen: dict[str, Any] = {}

    def create(_: HfApi, repo_id: str, **options: Any) -> Any:
        seen["create"] = (repo_id, options)
        return type("Made", (), {"repo_id": repo_id})

    def upload(_: HfApi, **options: Any) -> str:
        folder = Path(options["folder_path"])
        seen["upload"] = options
        seen["files"] = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
        seen["about"] = load_model(folder)[1]
        return "https://hub/commit"

    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    given = {"private": private, "commit_message": "First", "branch": "main"}
    assert model.push_to_hub("user/model", **given) == "https://hub/commit"
    assert seen["create"][0] == "user/model" and seen["create"][1]["private"] is private
    assert seen["files"] == [CARD, CONFIG, WEIGHTS] and seen["about"] == ABOUT
    assert seen["upload"]["commit_message"] == "First" and seen["upload"]["revision"] == "main"
    saved = model.save_pretrained(tmp_path / "named", push_to_hub=True, repo_id="user/other", private=private)
    assert saved == "https://hub/commit" and seen["create"][0] == "user/other"
    assert seen["upload"]["commit_message"] == "Add a Milmer model"


def test_a_push_that_fails_is_said_in_one_line(model, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise huggingface_hub.errors.OfflineModeIsEnabled("Cannot reach the hub:\noffline mode is enabled")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)  # whatever it is where the tests run
    with pytest.raises(
        UserError, match=r"user/model: cannot be pushed.*offline mode is enabled.*hf auth login"
    ) as caught:
        model.push_to_hub("user/model")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot be pushed"):
        model.push_to_hub("user/model/more")
