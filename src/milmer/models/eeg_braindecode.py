"""Any network of the braindecode package as EEG encoder, by name: one token for each window (an optional extra)."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from milmer.errors import UserError, nearest
from milmer.models.bag import Bag
from milmer.models.eeg_base import TYPICAL_VOLTS, Asked, EEGTokens, masked_centre, masked_spread, missing_samples, parts
from milmer.models.electrodes import SAME_PLACE, ElectrodeTable

HEAD_METRES = 0.095  # radius of the head that a network is told electrode places on
WEIGHTS = "model.safetensors"


class BraindecodeTokens(EEGTokens):
    """One token for each window: what a braindecode network says of it.

    Such a network has one cap: its electrodes are those of the training rows, in the order met there (`fit`). In
    `forward` a bag's channels are brought to it by their positions; an electrode that a bag lacks is zeros, one that
    the cap lacks is left out. Every electrode is divided by its robust scale, so the network sees a spread of about 1.
    Windows that are masked do not go through it, so that a batch norm does not learn from them.

    A network whose forward takes `pos` (REVE) is given the electrodes' places in metres on a sphere of 9.5 cm; one that
    takes `ch_names` (LaBraM) is given, for every electrode, the nearest of LaBraM's channels. Networks that must have
    channel names or a montage when they are built (`chs_info`) are not supported: a bag knows places, not names.

    Parameters
    ----------
    width : int
        Token width `D`; the network's number of outputs.
    network : torch.nn.Module
        Takes (n, n_chans, n_times), gives (n, D), or that over time, of which the mean is taken.
    n_chans, n_times : int
        Electrodes of the cap, samples of a whole window.
    positions : bool
        False: no embedding of time. There is none of the electrode.
    name : str
        What the network is called in errors.

    Raises
    ------
    UserError
        If the network cannot take such windows, or gives something else.
    """

    places: Tensor

    def __init__(
        self, width: int, network: nn.Module, *, n_chans: int, n_times: int, positions: bool = True, name: str = ""
    ) -> None:
        super().__init__(width, positions=positions, electrodes=False)
        self.width, self.n_chans, self.n_times, self.name = width, n_chans, n_times, name
        self.network = network
        self.scale = ElectrodeTable(torch.tensor([TYPICAL_VOLTS]))
        self.register_buffer("places", torch.zeros(n_chans, 3))  # (E, 3), zeros where there is no electrode
        takes = inspect.signature(network.forward).parameters
        self.told = next((key for key in ("pos", "ch_names") if key in takes), None)
        self._try()

    @classmethod
    def make(cls, asked: Asked) -> BraindecodeTokens:
        """Build from what `make_eeg_tokens` was asked for."""
        name = asked.what.partition("@")[0]
        network = build_network(asked)
        return cls(
            asked.width,
            network,
            n_chans=asked.n_chans,
            n_times=asked.n_times,
            positions=asked.positions,
            name=name,
        )

    @torch.no_grad()
    def fit(self, bags: Iterable[Bag]) -> None:
        """Fit the scale of every electrode on training bags, and make theirs the network's cap.

        Raises
        ------
        UserError
            If they have more electrodes than the network was built for.
        ValueError
            If no bag holds any EEG.
        """
        bags = list(bags)
        super().fit(bags)
        met = []
        for bag in parts(bags):
            met.append(bag.positions[bag.eeg_mask.any(1)].cpu())  # (n, 3)
        table = self.scale.positions.cpu()  # (E, 3)
        if len(table) > self.n_chans:
            raise UserError(
                f"braindecode:{self.name} has one cap of {self.n_chans} electrodes, but the training rows have "
                f"{len(table)} places; train on recordings of one cap, or use model.eeg_tokens=temporal"
            )
        same = torch.cdist(torch.cat(met), table).argmin(1)[:, None] == torch.arange(len(table))  # (n, E)
        order = same.float().argmax(0).argsort()  # (E,), as they were first met
        self.places.zero_()
        self.places[: len(table)] = table[order].to(self.places)

    def present(self, bag: Bag) -> Tensor:
        """Say which windows have any EEG; (B, W, 1, 1)."""
        return bag.eeg_mask.any(-1)[..., None, None]  # (B, W, 1, 1)

    def describe(self, bag: Bag) -> Tensor:
        """Run the network over the windows that are there; (B, W, 1, D), zeros for others."""
        there = self.present(bag)[..., 0, 0]  # (B, W)
        short = missing_samples(bag, self.n_times)
        x = masked_centre(bag.eeg, bag.sample_mask[:, :, None]) * bag.eeg_mask[..., None]  # (B, W, C, S)
        x = F.pad(self._on_cap(x / self.scale(bag.positions)[:, None], bag), (0, short))  # (B, W, E, n_times)
        out = x.new_zeros((*there.shape, 1, self.width))  # (B, W, 1, D)
        if there.any():
            said = self._run(x[there])  # (n, D)
            out = out.to(said.dtype).masked_scatter(there[..., None, None], said)  # (B, W, 1, D)
        return out

    def measure(self, bag: Bag) -> Tensor:
        """Standard deviation of every channel in every window, volts; (B, W, C, 1)."""
        return masked_spread(bag.eeg, bag.sample_mask[:, :, None])  # (B, W, C, 1)

    def measured(self, bag: Bag) -> Tensor:
        """Say which channels are there: tokens are of windows, scales of electrodes; (B, W, C, 1)."""
        return bag.eeg_mask[..., None]  # (B, W, C, 1)

    def learn(self, places: Tensor, centre: Tensor, spread: Tensor) -> None:
        """Keep the median over windows of each electrode's standard deviation."""
        self.scale.fit(places, centre.clamp_min(1e-3 * TYPICAL_VOLTS))

    @property
    def architecture(self) -> dict[str, Any] | None:
        """What `build_network` makes the network from again without its pretrained weights; None if it cannot say."""
        try:
            config = dict(self.network.get_config())  # type: ignore[operator]  # a method of braindecode's networks
            config["n_outputs"] = self.width  # some heads that were replaced after loading do not say so
            json.dumps(config, allow_nan=False)
        except (AttributeError, TypeError, ValueError):
            return None
        return config

    def _on_cap(self, x: Tensor, bag: Bag) -> Tensor:
        """Bring the channels of `x` (B, W, C, S) to the network's electrodes by place; (B, W, E, S)."""
        channels = x.shape[2]
        if not self.places.any():  # nothing was fitted: in the order they come
            if channels > self.n_chans:
                raise UserError(
                    f"braindecode:{self.name} has one cap of {self.n_chans} electrodes, got {channels} channels; "
                    "build it for as many, or fit it first"
                )
            return F.pad(x, (0, 0, 0, self.n_chans - channels))  # (B, W, E, S)
        if channels == 0:
            return x.new_zeros((*x.shape[:2], self.n_chans, x.shape[-1]))  # (B, W, E, S)
        known = self.places.any(-1)  # (E,)
        heard = bag.eeg_mask.any(1)[:, None]  # (B, 1, C)
        distance = (self.places[:, None] - bag.positions[:, None]).norm(dim=-1)  # (B, E, C)
        distance = distance.masked_fill(~heard, torch.inf)  # (B, E, C)
        match = (distance < SAME_PLACE) & (distance == distance.amin(-1, keepdim=True)) & known[:, None]  # (B, E, C)
        share = match / match.sum(-1, keepdim=True).clamp_min(1)  # (B, E, C), two channels at one place are averaged
        return torch.einsum("bec,bwcs->bwes", share.to(x), x)  # (B, W, E, S)

    def _run(self, x: Tensor) -> Tensor:
        """Run the network over `x` (n, E, S); (n, D)."""
        told: dict[str, Any] = {}
        if self.told == "pos":
            told["pos"] = (self.places * HEAD_METRES).expand(len(x), -1, -1)  # (n, E, 3)
        elif self.told == "ch_names":
            told["ch_names"] = nearest_names(self.places.cpu())
        out = self.network(x, **told)  # (n, D), (n, D, time) or (n, time, D)
        if isinstance(out, Tensor) and out.ndim == 3:
            out = out.mean(1 if out.shape[1] != self.width == out.shape[2] else -1)  # (n, D)
        if not isinstance(out, Tensor) or tuple(out.shape) != (len(x), self.width):
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise UserError(
                f"braindecode:{self.name} gives {got} for {len(x)} windows, expected ({len(x)}, {self.width}) or that "
                "over time; choose a network for classification"
            )
        return out  # (n, D)

    @torch.no_grad()
    def _try(self) -> None:
        """Run one empty window, so that a network that does not fit is known before training."""
        training = self.network.training
        self.network.eval()
        with explained(self.name):
            self._run(torch.zeros(1, self.n_chans, self.n_times))  # (1, D)
        self.network.train(training)


def build_network(asked: Asked) -> nn.Module:
    """Build the braindecode network that ``asked.what`` names: ``<network>`` or ``<network>@<hub name or folder>``.

    It is given the width as its number of outputs, the channels, samples and rate, as far as it takes them. With
    ``asked.architecture`` it is built as that says, and no pretrained weights are looked for.

    Raises
    ------
    UserError
        If braindecode is missing, knows no such network, or the network or its weights cannot be had.
    """
    name, _, source = asked.what.partition("@")
    models = _braindecode()
    known = [key for key, value in vars(models).items() if inspect.isclass(value) and issubclass(value, nn.Module)]
    if name not in known:
        raise UserError(
            f"model.eeg_tokens: braindecode has no network '{name}'{nearest(name, known)}; "
            "expected a class of braindecode.models, such as EEGNet or ShallowFBCSPNet"
        )
    network: Any = getattr(models, name)
    takes = inspect.signature(network.__init__).parameters
    given = {"n_outputs": asked.width, "n_chans": asked.n_chans, "n_times": asked.n_times, "sfreq": asked.sfreq}
    given = {key: value for key, value in given.items() if key in takes}
    with explained(name):
        if asked.architecture is not None:
            built = network.from_config(dict(asked.architecture))
        elif source:
            built = network.from_pretrained(source, **given)
            _check_loaded(built, name, source)
        else:
            built = network(**given)
    return built  # type: ignore[no-any-return]  # a class that was looked up by name


def nearest_names(places: Tensor) -> list[str]:
    """Name LaBraM's channel that is nearest to each of `places` (E, 3)."""
    labram = importlib.import_module("braindecode.models.labram")
    table: list[tuple[str, tuple[float, float, float]]] = labram._LABRAM_TARGET_CHS_TUPLES  # names and metres
    there = F.normalize(torch.tensor([xyz for _, xyz in table], dtype=places.dtype), dim=-1)  # (128, 3)
    return [table[i][0] for i in torch.cdist(places, there).argmin(1).tolist()]


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn whatever a network says when it does not fit into one line, and keep its advice off the screen."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except Exception as error:  # the package's networks raise everything: ValueError, RuntimeError, assertions
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"braindecode:{name} cannot be used here ({type(error).__name__}: {why}); "
            "choose another network, or the window, rate, channels and width that it wants"
        ) from error


def _braindecode() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("braindecode.models")
    except (ImportError, OSError) as error:  # OSError: a torchaudio whose library does not suit the torch
        raise UserError(
            f"model.eeg_tokens: braindecode cannot be imported ({' '.join(str(error).split())}); install it with "
            "pip install 'milmer[braindecode]', and a torchaudio made for your torch"
        ) from error


def _check_loaded(network: nn.Module, name: str, source: str) -> None:
    """Refuse weights that hold less than half of the network: braindecode fills only what it finds by name."""
    from huggingface_hub import hf_hub_download
    from safetensors import safe_open

    local = Path(source).is_dir()
    path = Path(source) / WEIGHTS if local else Path(hf_hub_download(source, WEIGHTS))
    with safe_open(path, framework="pt") as file:
        mapping: Mapping[str, str] = getattr(network, "mapping", None) or {}
        held = {mapping.get(key, key) for key in file.keys()}  # noqa: SIM118 (a safetensors file is no mapping)
    wanted = set(network.state_dict())
    if 2 * len(held & wanted) < len(wanted):
        raise UserError(
            f"{source}: holds {len(held & wanted)} of the {len(wanted)} tensors of braindecode's {name}; other network?"
        )
