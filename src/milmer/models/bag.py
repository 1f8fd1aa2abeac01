"""What the network is given and what it answers: tensors only, no disk, masks first-class (True = present)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

EEG, FACE = 0, 1  # columns of `Bag.modality_mask`
_BODY = ("body", "body_mask")
_MASKS = ("frame_mask", "eeg_mask", "sample_mask", "window_mask", "modality_mask")


@dataclass(frozen=True)
class Bag:
    """A batch of bags: the windows that are classified together, each with its EEG, its frames and the body's signals.

    Letters: `B` bags, `W` windows in a bag, `N` frames of a window, `P` pixels (of a body signal: its channels), `C`
    EEG channels, `S` samples. A part that does not exist has `N` or `C` of 0 or is masked; what is masked may hold
    anything, NaN too. `Bag.of` fills in whatever is left out.

    Parameters
    ----------
    frames : Tensor, shape (B, W, N, 3, P, P)
        RGB crops, uint8 or floating point in [0, 1]. The backbone normalises them with its own constants.
    frame_mask : Tensor of bool, shape (B, W, N)
    eeg : Tensor of float32, shape (B, W, C, S)
        Volts.
    eeg_mask : Tensor of bool, shape (B, W, C)
    sample_mask : Tensor of bool, shape (B, W, S)
        False after the end of a short window.
    positions : Tensor of float32, shape (B, C, 3)
        Electrodes on the unit sphere.
    window_mask : Tensor of bool, shape (B, W)
    modality_mask : Tensor of bool, shape (B, 2)
        EEG, face.
    body : mapping of str to Tensor of float32, shape (B, W, P, S_b)
        Signals of the body by kind (``gsr``), channels and rate as `milmer.signals.body_channels` says.
    body_mask : mapping of str to Tensor of bool, of the same shapes
        A kind is present in a bag where any of its samples is.
    prefix : Tensor of float16 or float32, shape (B, W, N, T', F'), optional
        What the frozen part of the backbone gives for each frame (`Backbone.prefix`). Where it is there, nobody looks
        at the frames, and these may be (B, W, N, 3, 0, 0).

    Raises
    ------
    ValueError
        If shapes or types do not fit together; the message names the field, what it has and what it should have.
    """

    frames: Tensor  # (B, W, N, 3, P, P)
    frame_mask: Tensor  # (B, W, N)
    eeg: Tensor  # (B, W, C, S)
    eeg_mask: Tensor  # (B, W, C)
    sample_mask: Tensor  # (B, W, S)
    positions: Tensor  # (B, C, 3)
    window_mask: Tensor  # (B, W)
    modality_mask: Tensor  # (B, 2)
    body: Mapping[str, Tensor] = field(default_factory=dict)  # (B, W, P, S_b) each
    body_mask: Mapping[str, Tensor] = field(default_factory=dict)  # (B, W, P, S_b) each
    prefix: Tensor | None = None  # (B, W, N, T', F')

    def __post_init__(self) -> None:
        if self.frames.ndim != 6 or self.frames.shape[3] != 3 or self.frames.shape[4] != self.frames.shape[5]:
            raise ValueError(f"Bag.frames has shape {tuple(self.frames.shape)}, expected (B, W, N, 3, P, P)")
        if self.eeg.ndim != 4:
            raise ValueError(f"Bag.eeg has shape {tuple(self.eeg.shape)}, expected (B, W, C, S)")
        if not (self.frames.dtype == torch.uint8 or self.frames.is_floating_point()):
            raise ValueError(f"Bag.frames is {self.frames.dtype}, expected uint8 or floating point in [0, 1]")
        if not self.eeg.is_floating_point():
            raise ValueError(f"Bag.eeg is {self.eeg.dtype}, expected floating point volts")
        b, w, n = self.frames.shape[:3]
        c, s = self.eeg.shape[2:]
        wanted = {
            "frame_mask": (b, w, n),
            "eeg": (b, w, c, s),
            "eeg_mask": (b, w, c),
            "sample_mask": (b, w, s),
            "positions": (b, c, 3),
            "window_mask": (b, w),
            "modality_mask": (b, 2),
        }
        for name, shape in wanted.items():
            value: Tensor = getattr(self, name)
            if tuple(value.shape) != shape:
                raise ValueError(
                    f"Bag.{name} has shape {tuple(value.shape)}, expected {shape} beside "
                    f"frames {tuple(self.frames.shape)} and eeg {tuple(self.eeg.shape)}"
                )
            if name in _MASKS and value.dtype != torch.bool:
                raise ValueError(f"Bag.{name} is {value.dtype}, expected bool (True = present)")
        if self.prefix is not None and (self.prefix.ndim != 5 or self.prefix.shape[:3] != (b, w, n)):
            raise ValueError(f"Bag.prefix has shape {tuple(self.prefix.shape)}, expected {(b, w, n)} and (T', F')")
        if self.prefix is not None and not self.prefix.is_floating_point():
            raise ValueError(f"Bag.prefix is {self.prefix.dtype}, expected floating point")
        self._check_body(b, w)

    def _check_body(self, b: int, w: int) -> None:
        if set(self.body) != set(self.body_mask):
            raise ValueError(
                f"Bag.body has {sorted(self.body)}, Bag.body_mask {sorted(self.body_mask)}: expected equal"
            )
        for kind, signal in self.body.items():
            mask = self.body_mask[kind]
            if signal.ndim != 4 or signal.shape[:2] != (b, w) or mask.shape != signal.shape:
                raise ValueError(
                    f"Bag.body[{kind!r}] has shape {tuple(signal.shape)}, its mask {tuple(mask.shape)}, expected "
                    f"({b}, {w}, P, S_b) of both"
                )
            if not signal.is_floating_point() or mask.dtype != torch.bool:
                raise ValueError(
                    f"Bag.body[{kind!r}] is {signal.dtype}, its mask {mask.dtype}, expected floating point and bool"
                )

    @classmethod
    def of(
        cls,
        *,
        frames: Tensor | None = None,
        eeg: Tensor | None = None,
        positions: Tensor | None = None,
        frame_mask: Tensor | None = None,
        eeg_mask: Tensor | None = None,
        sample_mask: Tensor | None = None,
        window_mask: Tensor | None = None,
        modality_mask: Tensor | None = None,
        body: Mapping[str, Tensor] | None = None,
        body_mask: Mapping[str, Tensor] | None = None,
        prefix: Tensor | None = None,
    ) -> Bag:
        """Make a bag of what there is: a modality left out is absent, a mask left out is True (of `body`: not NaN).

        Raises
        ------
        ValueError
            If nothing is given, EEG comes without positions, or shapes do not fit.
        """
        body = {} if body is None else body
        if frames is None and prefix is not None:
            frames = torch.zeros((*prefix.shape[:3], 3, 0, 0), dtype=torch.uint8, device=prefix.device)
        given = frames if frames is not None else eeg if eeg is not None else next(iter(body.values()), None)
        if given is None:
            raise ValueError("Bag.of got neither frames nor eeg, and no body, expected at least one")
        if eeg is not None and positions is None:
            raise ValueError("Bag.of got eeg without positions, expected (B, C, 3) on the unit sphere")
        b, w = given.shape[:2]
        present = torch.tensor([eeg is not None, frames is not None], device=given.device)  # (2,)

        def full(*shape: int) -> Tensor:
            return torch.ones(shape, dtype=torch.bool, device=given.device)

        if frames is None:
            frames = torch.zeros((b, w, 0, 3, 1, 1), dtype=torch.uint8, device=given.device)  # (B, W, 0, 3, 1, 1)
        if eeg is None or positions is None:
            eeg = torch.zeros((b, w, 0, 0), device=given.device)  # (B, W, 0, 0)
            positions = torch.zeros((b, 0, 3), device=given.device)  # (B, 0, 3)
        return cls(
            frames=frames,
            frame_mask=full(*frames.shape[:3]) if frame_mask is None else frame_mask,
            eeg=eeg,
            eeg_mask=full(*eeg.shape[:3]) if eeg_mask is None else eeg_mask,
            sample_mask=full(b, w, eeg.shape[-1]) if sample_mask is None else sample_mask,
            positions=positions,
            window_mask=full(b, w) if window_mask is None else window_mask,
            modality_mask=present.expand(b, 2).clone() if modality_mask is None else modality_mask,
            body=body,
            body_mask={kind: ~x.isnan() for kind, x in body.items()} if body_mask is None else body_mask,
            prefix=prefix,
        )

    def __len__(self) -> int:
        return int(self.frames.shape[0])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Bag:
        """Return the bag on `device`."""
        return self._map(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Bag:
        """Return the bag in page-locked memory (called by a DataLoader that pins)."""
        return self._map(lambda value: value.pin_memory())

    def __getitem__(self, rows: slice | Tensor) -> Bag:
        """Return some of the bags."""
        return self._map(lambda value: value[rows])

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the modalities that a column of `present` is of: ``eeg``, ``face``, then those of `body`."""
        return ("eeg", "face", *self.body)

    def present(self) -> Tensor:
        """Which modalities each bag has by its masks, in the order of `kinds`; (B, 2 + number of body kinds)."""
        mine = [(m & self.window_mask[..., None, None]).flatten(1).any(1) for m in self.body_mask.values()]  # (B,) each
        return torch.cat([self.modality_mask, *(m[:, None] for m in mine)], dim=1)  # (B, 2 + kinds)

    def only(self, names: Collection[str]) -> Bag:
        """Return the bag with every modality masked but those in `names`, of `kinds`."""
        shown = torch.tensor([n in names for n in self.kinds], device=self.modality_mask.device)  # (2 + kinds,)
        mask = {kind: m & shown[2 + i] for i, (kind, m) in enumerate(self.body_mask.items())}
        return replace(self, modality_mask=self.modality_mask & shown[:2], body_mask=mask)

    def settled(self, modality_mask: Tensor | None = None, body: Mapping[str, Tensor] | None = None) -> Bag:
        """Return the bag with every mask saying all that is known.

        A frame, channel or body signal of a masked window or modality is masked, a channel without a sample too; a
        modality of which nothing is left is absent. Masked EEG and body signals become 0, so that nothing in them (NaN)
        can travel.

        Parameters
        ----------
        modality_mask : Tensor of bool, shape (B, 2), optional
            A further restriction (modality dropout, a model of one modality).
        body : mapping of str to Tensor of bool, shape (B,), optional
            The same for body signals, those that are to stay: a kind that is not named is left out.
        """
        modality = self.modality_mask if modality_mask is None else self.modality_mask & modality_mask  # (B, 2)
        windows = self.window_mask[..., None]  # (B, W, 1)
        frame_mask = self.frame_mask & windows & modality[:, None, FACE, None]  # (B, W, N)
        samples = self.sample_mask & windows  # (B, W, S)
        heard = samples.any(-1, keepdim=True)  # (B, W, 1)
        eeg_mask = self.eeg_mask & heard & modality[:, None, EEG, None]  # (B, W, C)
        left = torch.stack([eeg_mask.flatten(1).any(1), frame_mask.flatten(1).any(1)], dim=1)  # (B, 2)
        valid = eeg_mask[..., None] & samples[:, :, None]  # (B, W, C, S)
        seen = eeg_mask.any(1)[..., None]  # (B, C, 1)
        everywhere = self.window_mask[:, :, None, None]  # (B, W, 1, 1)
        signs = {k: m & everywhere for k, m in self.body_mask.items()}  # (B, W, P, S_b) each
        if body is not None:
            signs = {k: m & body[k][:, None, None, None] for k, m in signs.items() if k in body}
        return replace(
            self,
            frame_mask=frame_mask,
            eeg=self.eeg.masked_fill(~valid, 0.0),
            eeg_mask=eeg_mask,
            sample_mask=samples,
            positions=self.positions.masked_fill(~seen, 0.0).nan_to_num(0.0),
            modality_mask=modality & left,
            body={kind: self.body[kind].masked_fill(~mask, 0.0) for kind, mask in signs.items()},
            body_mask=signs,
        )

    def _map(self, change: Callable[[Tensor], Tensor]) -> Bag:
        found: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in found.items():
            if value is not None:
                found[name] = {k: change(x) for k, x in value.items()} if name in _BODY else change(value)
        return Bag(**found)


class Tokens(NamedTuple):
    """Tokens of one modality on their way to fusion.

    Parameters
    ----------
    values : Tensor, shape (B, M, D)
    mask : Tensor of bool, shape (B, M)
        True = present. Where False, `values` may hold anything finite.
    """

    values: Tensor
    mask: Tensor

    def mean(self) -> Tensor:
        """Mean over the tokens that are there, 0 where there is none; (B, D)."""
        there = self.mask[..., None]  # (B, M, 1)
        out: Tensor = (self.values * there).sum(1) / there.sum(1).clamp_min(1)  # (B, D)
        return out  # (B, D)


@dataclass(frozen=True)
class Prediction:
    """What the network says of a batch of bags.

    Parameters
    ----------
    logits : Tensor, shape (B, n_classes)
        Unnormalised log-probabilities.
    frame_weights : Tensor, shape (B, W, N)
        Attention of every frame: a softmax over all valid frames of the bag, 0 where masked.
    alone : dict of str to Tensor, shape (B, n_classes)
        Logits of a linear answer from each modality alone, where the model has them (``model.auxiliary``).
    """

    logits: Tensor  # (B, n_classes)
    frame_weights: Tensor  # (B, W, N)
    alone: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def probabilities(self) -> Tensor:
        """Class probabilities, shape (B, n_classes)."""
        return self.logits.float().softmax(-1)  # (B, n_classes)
