"""Networks by name. `stand_in` is a package of our own in braindecode's place; the last test needs the real one."""

import importlib
import sys
import types
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from milmer.config import load_config
from milmer.errors import UserError
from milmer.models.bag import Bag
from milmer.models.eeg import BraindecodeTokens, make_eeg_tokens
from milmer.models.milmer import Milmer
from milmer.models.weights import load_model, save_model

RATE, SAMPLES, WIDTH = 128.0, 256, 16


class StandInNet(nn.Module):
    """Follows braindecode's documented signature: (n, n_chans, n_times) to (n, n_outputs)."""

    def __init__(self, n_chans: int, n_outputs: int, n_times: int, sfreq: float, chs_info=None, filters: int = 4):
        super().__init__()
        if n_times < 32:
            raise ValueError(f"n_times={n_times} is too short,\nexpected 32")
        self.config = {"n_chans": n_chans, "n_outputs": n_outputs, "n_times": n_times, "sfreq": sfreq}
        self.config["filters"] = filters
        self.conv = nn.Conv1d(n_chans, filters, 9)
        self.out = nn.Linear(filters, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(x).square().mean(-1))

    def get_config(self) -> dict:
        return self.config

    @classmethod
    def from_config(cls, config: dict) -> "StandInNet":
        return cls(**config)


class StandInOverTime(StandInNet):
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(x).square().transpose(1, 2)).transpose(1, 2)  # (n, n_outputs, time)


class StandInWithPlaces(StandInNet):
    """Takes places, as REVE does; a channel counts as much as it is to the left."""

    def forward(self, eeg: Tensor, pos: Tensor) -> Tensor:
        return super().forward(eeg * pos[..., :1])


class StandInOfFeatures(StandInNet):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[:, :, :5]


class StandInThatNeedsNames(StandInNet):
    def __init__(self, chs_info, n_outputs: int, n_times: int) -> None:
        super().__init__(len(chs_info), n_outputs, n_times, RATE)


@pytest.fixture
def stand_in(monkeypatch):
    module = types.ModuleType("braindecode.models")
    for network in (StandInNet, StandInOverTime, StandInWithPlaces, StandInOfFeatures, StandInThatNeedsNames):
        setattr(module, network.__name__, network)
    monkeypatch.setitem(sys.modules, "braindecode", types.ModuleType("braindecode"))
    monkeypatch.setitem(sys.modules, "braindecode.models", module)


def make(name: str = "StandInNet", n_chans: int = 5, **given) -> BraindecodeTokens:
    torch.manual_seed(0)
    asked = {"n_times": SAMPLES, "sfreq": RATE, "n_chans": n_chans, **given}
    return make_eeg_tokens(f"braindecode:{name}", WIDTH, **asked).eval()


def draw(places, c: int = 5, b: int = 3, w: int = 2) -> Bag:
    eeg = 1e-5 * torch.randn(b, w, c, SAMPLES, generator=torch.Generator().manual_seed(0))
    return Bag.of(eeg=eeg, positions=places(c).expand(b, -1, -1)).settled()


def test_a_window_is_a_token(stand_in, places):
    for name in ("StandInNet", "StandInOverTime"):
        tokens, bag = make(name), draw(places)
        tokens.fit([bag])
        out = tokens(bag)
        assert out.values.shape == (3, 2, WIDTH) and out.mask.all()
        x = bag.eeg - bag.eeg.mean(-1, keepdim=True)
        x = x / tokens.scale(bag.positions)[:, None]
        want = tokens.network(x.flatten(0, 1))
        want = want.mean(-1) if want.ndim == 3 else want
        plain = make(name, positions=False)
        plain.load_state_dict({k: v for k, v in tokens.state_dict().items() if k != "time_gain"}, strict=True)
        torch.testing.assert_close(plain(bag).values.flatten(0, 1), want)
        assert 0.8 < x.std() < 1.2


def test_the_cap_keeps_the_order_in_which_electrodes_were_met(stand_in, places):
    tokens, bag = make(), draw(places)
    tokens.fit([bag])
    torch.testing.assert_close(tokens.places, places(5), atol=1e-3, rtol=0)


def test_what_a_bag_lacks_is_zeros_and_what_the_cap_lacks_is_left_out(stand_in, places):
    tokens, bag = make(), draw(places)
    tokens.fit([bag])
    fewer = replace(
        bag, eeg=bag.eeg[:, :, 2:], eeg_mask=bag.eeg_mask[:, :, 2:], positions=bag.positions[:, 2:]
    ).settled()
    hidden = bag.eeg_mask.clone()
    hidden[:, :, :2] = False
    torch.testing.assert_close(tokens(fewer).values, tokens(replace(bag, eeg_mask=hidden).settled()).values)
    other = -bag.positions[:, :1]
    more = replace(
        bag,
        eeg=torch.cat([bag.eeg, bag.eeg[:, :, :1]], 2),
        eeg_mask=torch.cat([bag.eeg_mask, bag.eeg_mask[:, :, :1]], 2),
        positions=torch.cat([bag.positions, other], 1),
    )
    torch.testing.assert_close(tokens(more.settled()).values, tokens(bag).values)


def test_fewer_electrodes_than_the_network_takes(stand_in, places):
    tokens, bag = make(n_chans=8), draw(places)
    assert tokens(bag).values.isfinite().all()  # before anything is fitted: in the order they come
    tokens.fit([bag])
    assert tokens(bag).values.isfinite().all() and not tokens.places[5:].any()


def test_a_cap_with_more_is_refused_in_one_line(stand_in, places):
    with pytest.raises(UserError, match="one cap of 3 electrodes, but the training rows have 5 places"):
        make(n_chans=3).fit([draw(places)])
    with pytest.raises(UserError, match="got 5 channels"):
        make(n_chans=3)(draw(places))


def test_a_network_that_takes_places_is_told_them(stand_in, places):
    tokens, bag = make("StandInWithPlaces"), draw(places)
    tokens.fit([bag])
    before = tokens(bag).values
    tokens.places[0] = -tokens.places[0]
    assert not torch.allclose(before, tokens(bag).values)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("StandinNet", "did you mean 'StandInNet'"),
        ("Tensor", "has no network"),
        ("StandInOfFeatures", r"gives \(1, 4\) for 1 windows, expected \(1, 16\)"),
        ("StandInThatNeedsNames", "chs_info"),
    ],
)
def test_a_network_that_does_not_fit_is_said_in_one_line(stand_in, kind, said):
    with pytest.raises(UserError, match=said) as error:
        make(kind)
    assert "\n" not in str(error.value)


def test_what_the_network_says_is_one_line(stand_in):
    with pytest.raises(UserError, match="too short, expected 32") as error:
        make(n_times=20)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("error", [ImportError("no"), OSError("torchaudio's\nlibrary")])
def test_without_the_package_it_says_what_to_install(monkeypatch, error):
    def fail(name: str):
        raise error

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(UserError, match=r"pip install 'milmer\[braindecode\]'") as said:
        make()
    assert "\n" not in str(said.value)


def test_a_saved_model_is_rebuilt_without_its_pretrained_weights(stand_in, places, tmp_path):
    config = load_config("demo", overrides={"model.eeg_tokens": "braindecode:StandInNet"}).model
    model = Milmer(config, n_classes=4, n_times=SAMPLES, sfreq=RATE, n_chans=5, modalities=("eeg",)).eval()
    bag = draw(places)
    model.fit_scales([bag])
    model.eeg_tokens.network = StandInNet(5, config.width, SAMPLES, RATE, filters=7)  # as pretrained ones may be
    model.config = config.model_copy(update={"eeg_tokens": "braindecode:StandInNet@/no/such/folder"})
    save_model(model, tmp_path, {})
    again, _ = load_model(tmp_path)
    torch.testing.assert_close(again(bag).logits, model(bag).logits)


def test_the_real_package(places, tmp_path):
    try:
        models = importlib.import_module("braindecode.models")
    except (ImportError, OSError) as error:
        pytest.skip(f"braindecode, an optional extra, cannot be imported: {str(error).splitlines()[0]}")
    bag = draw(places)
    for name in ("EEGNet", "ShallowFBCSPNet"):
        tokens = make(name)
        tokens.fit([bag])
        assert tokens(bag).values.shape == (3, 2, WIDTH)
    tokens.network.save_pretrained(tmp_path)
    again = make(f"ShallowFBCSPNet@{tmp_path}")
    assert isinstance(again.network, models.ShallowFBCSPNet)
    for name, value in tokens.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name])
    with pytest.raises(UserError, match="cannot be used here"):
        make(f"ShallowFBCSPNet@{tmp_path / 'none'}")
    labram = make_eeg_tokens("braindecode:Labram", WIDTH, n_times=400, sfreq=200.0, n_chans=5)
    assert labram.told == "ch_names"
