"""What joint fusion must beat: single-modality models together, DeepCCA, and band power without any network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from milmer.config import Model
from milmer.errors import UserError
from milmer.models.bag import EEG, FACE, Bag, Prediction
from milmer.models.cca import LinearCCA
from milmer.models.eeg import BANDS, CLIP, log_band_powers
from milmer.models.electrodes import SAME_PLACE
from milmer.models.hub import HubModel
from milmer.models.milmer import ALL, Milmer
from milmer.sections import Modality

PAIR: tuple[Modality, Modality] = ("eeg", "face")  # in the order of `Bag.modality_mask`
NEVER = -20.0  # logit of a class that no training row has


class Joined(HubModel):
    """Single-modality models that were fitted on the same rows, each on its own.

    Parameters
    ----------
    config : milmer.config.Model
        The configuration of the whole.
    members : mapping of str to Milmer
        By modality, two at least; each a model of that modality alone.

    Raises
    ------
    ValueError
        If a member is missing, or takes another modality, or they do not know the same number of classes.
    """

    kind: ClassVar[str]
    pair: ClassVar[bool] = False
    """Whether it takes EEG and face, and nothing else."""

    def __init__(self, config: Model, members: Mapping[Modality, Milmer]) -> None:
        super().__init__()
        names = tuple(m for m in ALL if m in members)
        for name in PAIR if self.pair or len(names) < 2 else names:
            if name not in members or members[name].modalities != (name,):
                raise ValueError(f"{type(self).__name__} needs a model of {name} alone, got {members.get(name)!r:.80}")
        self.modalities: tuple[Modality, ...] = PAIR if self.pair else names
        mine = [members[name] for name in self.modalities]
        if len({m.n_classes for m in mine}) > 1:
            known = " and ".join(str(m.n_classes) for m in mine)
            raise ValueError(f"members know {known} classes, expected the same")
        for name, member in zip(self.modalities, mine, strict=True):
            self.add_module(name, member)
        self.config = config
        self.about: dict[str, Any] = {}
        first, seeing = mine[0], members.get("face", mine[0])
        self.n_classes, self.n_times, self.sfreq = first.n_classes, first.n_times, first.sfreq
        self.px, self.n_frames, self.n_windows = seeing.px, seeing.n_frames, seeing.n_windows

    def members(self) -> dict[Modality, Milmer]:
        """Return the models by their modality."""
        found: dict[Modality, Milmer] = {}
        for name in self.modalities:
            member = self.get_submodule(name)
            assert isinstance(member, Milmer)  # for the type checker
            found[name] = member
        return found


class Ensemble(Joined):
    """The mean of the class probabilities of the modalities that a bag has: what joint fusion must beat.

    Where a bag has none, all models still say what they believe without evidence. (arXiv 2411.07335 asks whether
    joint training beats such a mean at all.)
    """

    kind: ClassVar[str] = "ensemble"
    how: ClassVar[str] = "as the mean of what a model of each says"

    def forward(self, bag: Bag) -> Prediction:
        """Classify a batch of bags.

        Returns
        -------
        Prediction
            Logits (B, n_classes): the log of the mean probabilities. Frame weights (B, W, N): the face model's.
            `alone`: what each model says.
        """
        settled = bag.settled()
        here = dict(zip(settled.kinds, settled.present().unbind(1), strict=True))  # (B,) each
        nowhere = torch.zeros_like(bag.modality_mask[:, 0])  # (B,)
        there = torch.stack([here.get(m, nowhere) for m in self.modalities], 1)  # (B, M)
        there = there | ~there.any(1, keepdim=True)  # (B, M)
        each = {name: member(bag) for name, member in self.members().items()}
        said = torch.stack([e.logits for e in each.values()], 1).float().log_softmax(-1)  # (B, M, n_classes)
        total = said.masked_fill(~there[..., None], -torch.inf).logsumexp(1)  # (B, n_classes)
        logits = total - there.sum(1, keepdim=True).to(total).log()  # (B, n_classes)
        weights = each.get("face", each[self.modalities[0]]).frame_weights  # (B, W, N)
        return Prediction(logits, weights, {str(name): e.logits for name, e in each.items()})


class View(nn.Module):
    """One modality's way to its canonical variates: standardise, two layers, linear CCA.

    Parameters
    ----------
    features, hidden, width : int
        `D`, the width between the two layers, and the number of components `k`.
    """

    mean: Tensor
    scale: Tensor
    centre: Tensor
    projection: Tensor

    def __init__(self, features: int, hidden: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))  # (D,)
        self.register_buffer("scale", torch.ones(features))  # (D,)
        self.net = nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, width))
        self.register_buffer("centre", torch.zeros(width))  # (k,)
        self.register_buffer("projection", torch.eye(width))  # (k, k)

    def standardise(self, features: Tensor) -> None:
        """Learn mean and spread of `features` (n, D), of training rows; a feature that never moves is left small."""
        self.mean = features.mean(0)  # (D,)
        spread = features.std(0)  # (D,)
        self.scale = spread.clamp_min(1e-3 * float(spread.max().clamp_min(1e-6)))  # (D,)

    def encode(self, features: Tensor) -> Tensor:
        """What the CCA is done on, from `features` (B, D); (B, k)."""
        out: Tensor = self.net(((features - self.mean) / self.scale).clamp(-CLIP, CLIP))  # (B, k)
        return out  # (B, k)

    def forward(self, features: Tensor) -> Tensor:
        """Canonical variates of `features` (B, D); (B, k)."""
        return (self.encode(features) - self.centre) @ self.projection  # (B, k)


class DeepCCA(Joined):
    """Deep canonical correlation analysis (Andrew et al. 2013), as Liu et al. (arXiv 1908.05349) fuse emotions with it.

    Each modality's CLS features go through a small network to variates that correlate most between the two; their
    weighted sum is classified. Where one modality is absent, the other's variates stand for both; where both are
    absent, only the classifier's bias speaks.

    Parameters
    ----------
    config : milmer.config.Model
        Its ``fusion.cca`` gives the widths.
    members : mapping of ``"eeg"`` and ``"face"`` to Milmer
        Where the features come from.
    """

    kind: ClassVar[str] = "deepcca"
    how: ClassVar[str] = "by deep canonical correlation analysis of what a model of each sees"
    pair: ClassVar[bool] = True
    eeg: Milmer
    face: Milmer

    def __init__(self, config: Model, members: Mapping[Modality, Milmer]) -> None:
        super().__init__(config, members)
        cca = config.fusion.cca
        self.eeg_view = View(self.eeg.config.width, cca.hidden, cca.width)
        self.face_view = View(self.face.config.width, cca.hidden, cca.width)
        self.mix = nn.Parameter(torch.zeros(2))  # (2,)
        self.head = nn.Linear(cca.width, self.n_classes)
        nn.init.zeros_(self.head.bias)

    def forward(self, bag: Bag) -> Prediction:
        """Classify a batch of bags.

        Returns
        -------
        Prediction
            Logits (B, n_classes) and the face model's frame weights (B, W, N).
        """
        features, there, weights = self.describe(bag)  # (B, 2, D), (B, 2), (B, W, N)
        return Prediction(self.classify(self.variates(features), there), weights)

    def describe(self, bag: Bag) -> tuple[Tensor, Tensor, Tensor]:
        """Return both models' CLS features (B, 2, D), which are of something (B, 2), and frame weights (B, W, N)."""
        eeg, _ = self.eeg.features(bag)  # (B, D)
        face, weights = self.face.features(bag)  # (B, D), (B, W, N)
        return torch.stack([eeg, face], 1).float(), bag.settled().modality_mask, weights

    def variates(self, features: Tensor) -> Tensor:
        """Canonical variates of `features` (B, 2, D); (B, 2, k)."""
        return torch.stack([self.eeg_view(features[:, EEG]), self.face_view(features[:, FACE])], 1)  # (B, 2, k)

    def classify(self, variates: Tensor, there: Tensor) -> Tensor:
        """Logits of the weighted sum of the `variates` (B, 2, k) that are `there` (B, 2); (B, n_classes)."""
        share = self.mix.softmax(0) * there  # (B, 2)
        share = share / share.sum(1, keepdim=True).clamp_min(1e-6)  # (B, 2)
        logits: Tensor = self.head((share[..., None] * variates).sum(1))  # (B, n_classes)
        return logits  # (B, n_classes)

    def align(self, found: LinearCCA) -> None:
        """Take the linear CCA of the two views' encodings as the last step of each."""
        self.eeg_view.centre, self.eeg_view.projection = found.mean1.float(), found.projection1.float()
        self.face_view.centre, self.face_view.projection = found.mean2.float(), found.projection2.float()


class BandPowerLogistic(HubModel):
    """Multinomial logistic regression on the log band powers of every electrode: the classical floor, no network.

    The electrodes are those of training, found again by their positions; one that is not there has the training mean.
    A bag of several windows has the mean of their powers.

    Parameters
    ----------
    config : milmer.config.Model
        The configuration it was asked for with.
    n_classes, n_times : int
        Classes, and samples of a whole window.
    sfreq : float
        Rate of the EEG, Hz.
    electrodes : int
        Number of electrodes `E` met in training.
    px, n_frames, n_windows : int
        Of the bags it is given; it does not look at their frames.

    Raises
    ------
    UserError
        If the rate is too low for any band.
    """

    kind: ClassVar[str] = "bandpower-logistic"
    how: ClassVar[str] = "by logistic regression on log band powers, without a network"
    positions: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        config: Model,
        *,
        n_classes: int,
        n_times: int,
        sfreq: float,
        electrodes: int,
        px: int = 224,
        n_frames: int = 10,
        n_windows: int = 1,
    ) -> None:
        super().__init__()
        self.config = config
        self.about: dict[str, Any] = {}
        self.modalities: tuple[Modality, ...] = ("eeg",)
        self.n_classes, self.n_times, self.sfreq = n_classes, n_times, sfreq
        self.px, self.n_frames, self.n_windows = px, n_frames, n_windows
        self.bands = [(low, min(high, sfreq / 2)) for low, high in BANDS.values() if low < sfreq / 2]
        if not self.bands:
            raise UserError(
                f"bandpower-logistic: found EEG at {sfreq:g} Hz, expected more than 8 Hz to hold a band; prepare anew "
                "with a higher preparation.eeg.rate, or use another model.fusion.method"
            )
        numbers = len(self.bands) + 1
        self.register_buffer("positions", torch.zeros(electrodes, 3))  # (E, 3)
        self.register_buffer("mean", torch.zeros(electrodes, numbers))  # (E, F)
        self.register_buffer("scale", torch.ones(electrodes, numbers))  # (E, F)
        self.linear = nn.Linear(electrodes * numbers, n_classes)

    def forward(self, bag: Bag) -> Prediction:
        """Classify a batch of bags.

        Returns
        -------
        Prediction
            Logits (B, n_classes); the frame weights (B, W, N) are 0, for no frame was looked at.
        """
        nothing = torch.zeros(bag.frame_mask.shape, device=bag.frames.device)  # (B, W, N)
        return Prediction(self.linear(self.standardised(self.measure(bag))), nothing)

    def measure(self, bag: Bag) -> Tensor:
        """Log band powers of the electrodes of training, mean over windows, NaN where there is none; (B, E, F)."""
        bag = bag.settled()
        powers = log_band_powers(bag.eeg, bag.sample_mask[:, :, None], self.sfreq, self.bands)  # (B, W, C, F)
        apart = torch.cdist(bag.positions, self.positions.expand(len(bag), -1, -1))  # (B, C, E)
        apart = apart.masked_fill(~bag.eeg_mask.any(1)[..., None], torch.inf)  # (B, C, E)
        if apart.shape[1] == 0:
            return powers.new_full((len(bag), *self.mean.shape), torch.nan)  # (B, E, F)
        distance, channel = apart.min(1)  # (B, E), (B, E)
        pick = channel[:, None].expand(-1, powers.shape[1], -1)  # (B, W, E)
        mine = powers.gather(2, pick[..., None].expand(*pick.shape, powers.shape[-1]))  # (B, W, E, F)
        there = bag.eeg_mask.gather(2, pick) & (distance < SAME_PLACE)[:, None]  # (B, W, E)
        number = there.sum(1)[..., None]  # (B, E, 1)
        mean = (mine * there[..., None]).sum(1) / number.clamp_min(1)  # (B, E, F)
        return mean.masked_fill(number == 0, torch.nan)  # (B, E, F)

    def standardised(self, powers: Tensor) -> Tensor:
        """Features of the regression from `powers` (B, E, F), 0 where NaN: the training mean; (B, E·F)."""
        return ((powers - self.mean) / self.scale).nan_to_num(0.0).clamp(-CLIP, CLIP).flatten(1)  # (B, E·F)

    def learn(self, powers: Tensor) -> None:
        """Learn mean and spread of the `powers` (n, E, F) of training rows."""
        there = powers.isfinite()  # (n, E, F)
        number = there.sum(0).clamp_min(1)  # (E, F)
        self.mean = powers.nan_to_num(0.0).sum(0) / number  # (E, F)
        spread = ((powers - self.mean).nan_to_num(0.0).square().sum(0) / number).sqrt()  # (E, F)
        self.scale = torch.where(spread > 1e-6, spread, torch.ones_like(spread))  # (E, F)


def electrodes_of(bags: Iterable[Bag]) -> Tensor:
    """Return the places (E, 3) of the electrodes that any of the bags has, each once."""
    seen = [bag.positions[bag.eeg_mask.any(1)] for bag in (b.settled() for b in bags)]  # (n, 3) each
    if not seen:
        return torch.zeros(0, 3)  # (0, 3)
    grid = torch.unique((torch.cat(seen).cpu() * 1e3).round(), dim=0) / 1e3  # (E', 3)
    kept: list[Tensor] = []
    for place in grid:
        if all(float((place - other).norm()) >= SAME_PLACE for other in kept):
            kept.append(place)  # (3,)
    return torch.stack(kept) if kept else grid.new_zeros(0, 3)  # (E, 3)


BASELINES: Mapping[str, type[Ensemble | DeepCCA | BandPowerLogistic]] = MappingProxyType(
    {kind.kind: kind for kind in (Ensemble, DeepCCA, BandPowerLogistic)}
)  # by the names of model.fusion.method that are no part of the network; the others are in milmer.models.fusion
