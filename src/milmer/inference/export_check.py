"""An exported model held against PyTorch on crops of a store: numbers, decisions, chosen frames, accuracy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from milmer.config import Data
from milmer.errors import UserError
from milmer.inference.engines import Engine, TorchEngine
from milmer.inference.once import answer_rows
from milmer.models.milmer import Milmer
from milmer.store import Store
from milmer.training.data import Bags

MOST = 48  # bags that are compared


@dataclass(frozen=True)
class Checked:
    """How far an export is from PyTorch.

    Parameters
    ----------
    on : str
        What was compared, in words.
    bags, frames : int
    probability, weight : float
        Largest difference of a class probability, and of a frame's weight.
    token : float or None
        Largest difference of a token's number, by the deviation of all of them.
    decisions : int
        Bags with another most probable class.
    chosen : float or None
        Share of the frames with most weight, as many as the model keeps, that are the same.
    accuracy, accuracy_torch : float or None
        Share of the bags with a label that are right, in both.
    """

    on: str
    bags: int
    frames: int
    probability: float
    weight: float
    token: float | None
    decisions: int
    chosen: float | None
    accuracy: float | None
    accuracy_torch: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Say it in words, a line a fact."""
        found = [
            f"checked against PyTorch on {self.on}: {self.bags} bags, {self.frames} frames",
            f"largest difference: probability {self.probability:.1e}, frame weight {self.weight:.1e}"
            + ("" if self.token is None else f", token {self.token:.1e} of their deviation"),
            f"decisions that differ: {self.decisions} of {self.bags}"
            + ("" if self.chosen is None else f"; chosen frames that agree: {self.chosen:.1%}"),
        ]
        if self.accuracy is not None and self.accuracy_torch is not None:
            gain = 100 * (self.accuracy - self.accuracy_torch)
            found.append(f"accuracy {self.accuracy:.1%}, PyTorch {self.accuracy_torch:.1%} ({gain:+.1f} points)")
        return found


@dataclass(frozen=True)
class Material:
    """What an export is calibrated and checked with: bags of a store and which of them; or nothing.

    Parameters
    ----------
    bags : Bags or None
    fitting, testing : ndarray of int, shape (n,)
        Rows for ranges; rows for the check.
    on : str
        What the rows for the check are, in words.
    notes : tuple of str
    """

    bags: Bags | None
    fitting: NDArray[np.int64]
    testing: NDArray[np.int64]
    on: str
    labelled: bool
    notes: tuple[str, ...] = ()

    def crops(self, most: int, at_once: int) -> list[NDArray[np.uint8]]:
        """Return up to `most` crops of the fitting rows, evenly spread, as batches (M, 3, P, P)."""
        assert self.bags is not None  # for the type checker: `material` has refused
        where = self._faces()
        chosen = [where[i] for i in np.unique(np.linspace(0, len(where) - 1, min(most, len(where))).astype(int))]
        frames = np.stack([self.bags.frame(*w) for w in chosen]).transpose(0, 3, 1, 2)  # (M, 3, P, P)
        return [np.ascontiguousarray(frames[i : i + at_once]) for i in range(0, len(frames), at_once)]

    def said(self, most: int) -> dict[str, Any]:
        """Say for the record what ranges were measured on."""
        assert self.bags is not None  # for the type checker: `material` has refused
        return {
            "study": self.bags.store.name,
            "fingerprint": self.bags.store.fingerprint,
            "crops": min(most, len(self._faces())),
            "rows": "training rows" if len(self.fitting) < len(self.bags.table) else "all rows",
        }

    def _faces(self) -> list[tuple[str, int]]:
        assert self.bags is not None  # for the type checker: `material` has refused
        keys = self.bags.table["store_key"].astype(str).to_numpy()
        rows = self.bags.face_rows
        return sorted({(keys[r], int(f)) for r in self.fitting.tolist() for f in rows[r][rows[r] >= 0]})


def material(folder: Path, about: Mapping[str, Any], store: Path | None, *, needed: bool) -> Material:
    """Find what to calibrate and to check the model in `folder` with.

    Of the run's own store ranges are measured on the fold's training rows, and the check is made on its test rows (on
    validation rows where there are none). Of any other store all rows serve for both.

    Parameters
    ----------
    store : Path, optional
        The store that was asked for.
    needed : bool
        Whether crops must be there.

    Raises
    ------
    UserError
        If they are not, or the store that was asked for does not suit the model.
    """
    run = folder.parents[1] if folder.parent.name == "folds" else None
    record = _record(run)
    own = Path(record["store"]) if isinstance(record.get("store"), str) else None
    path = store or (own if own is not None and own.is_dir() else None)
    nothing = np.zeros(0, dtype=np.int64)
    if path is None or "data" not in about:
        if needed:
            raise UserError("--int8 needs crops to measure ranges on, found no store; give --calibration STORE")
        note = "no store was at hand, so the check is made on noise; give --calibration STORE for real crops"
        return Material(None, nothing, nothing, "noise", False, (note,))
    data = Data.model_validate(about["data"]).model_copy(update={"operators": "stored"})
    opened = Store(path)
    bags, labelled = _bags(opened, data, tuple(about.get("classes", ())))
    everything = np.arange(len(bags.table))  # (n,)
    faces = (bags.face_rows >= 0).any((1, 2))  # (n,)
    if needed and not faces.any():
        raise UserError(f"{path}: found no face in this store, expected crops to measure ranges on; give another store")
    if run is not None and record.get("fingerprint") == opened.fingerprint:
        parts = _parts(run, int(folder.name), bags)
        if parts is not None:
            fitting, testing, name = parts
            return Material(bags, fitting, testing, f"{name} rows of {opened.name}", labelled)
    note = (
        f"{path}: which of its rows the model learned from is not known, so all serve for ranges and for the check; "
        "accuracy on them may be flattered"
    )
    return Material(bags, everything, everything, f"rows of {opened.name}", labelled, (note,))


def check_export(model: Milmer, engine: Engine, given: Material) -> Checked:
    """Compare the answers of `engine` with those of `model` on rows of `given`, or on noise."""
    torch_one = TorchEngine(model)
    if given.bags is None:
        return _check_noise(model, torch_one, engine)
    every = given.testing
    rows = every[np.unique(np.linspace(0, len(every) - 1, min(MOST, len(every))).astype(int))]  # (n,)
    mine, theirs = (answer_rows(e, given.bags, rows, batch=8) for e in (torch_one, engine))
    there = (given.bags.face_rows[rows] >= 0).reshape(len(rows), -1)  # (n, W·N)
    keep = model.config.selection.keep * given.bags.members.shape[1]
    token = None
    if torch_one.sees and there.any():
        face = given.bags.face_rows[rows[there.any(1)][0]]  # (W, N)
        key = str(given.bags.table["store_key"].iloc[int(rows[there.any(1)][0])])
        frames = np.stack([given.bags.frame(key, int(f)) for f in face[face >= 0]]).transpose(0, 3, 1, 2)
        token = _apart(torch_one, engine, torch.from_numpy(np.ascontiguousarray(frames)))
    y = given.bags.labels.y[rows]  # (n,)
    known = (y >= 0) & given.labelled  # (n,)
    hit = [float((a.prob.argmax(1) == y)[known].mean()) if known.any() else None for a in (theirs, mine)]
    return Checked(
        on=given.on,
        bags=len(rows),
        frames=int(there.sum()),
        probability=float(np.abs(mine.prob - theirs.prob).max()),
        weight=float(np.abs(mine.weights - theirs.weights).max(initial=0.0)),
        token=token,
        decisions=int((mine.prob.argmax(1) != theirs.prob.argmax(1)).sum()),
        chosen=_agreement(mine.weights, theirs.weights, there, keep) if torch_one.sees else None,
        accuracy=hit[0],
        accuracy_torch=hit[1],
    )


def _apart(mine: Engine, theirs: Engine, frames: torch.Tensor) -> float:
    one, other = mine.embed(frames), theirs.embed(frames)  # (M, T, D) each
    return float((one - other).abs().max() / one.std().clamp_min(1e-12))


def _agreement(one: NDArray[Any], other: NDArray[Any], there: NDArray[np.bool_], keep: int) -> float | None:
    """Share of the `keep` heaviest frames that are the same, over bags with more frames than that."""
    shares = []
    for a, b, ok in zip(one.reshape(len(one), -1), other.reshape(len(other), -1), there, strict=True):
        if ok.sum() > keep:
            first, second = (set(np.argsort(-np.where(ok, w, -1), kind="stable")[:keep].tolist()) for w in (a, b))
            shares.append(len(first & second) / keep)
    return float(np.mean(shares)) if shares else None


def _check_noise(model: Milmer, torch_one: TorchEngine, engine: Engine) -> Checked:
    """Compare on frames of noise and noise for EEG: numbers only."""
    from milmer.inference.graphs import noise_bag

    bag, frames = noise_bag(model, torch_one)
    theirs, token = bag, None
    if frames is not None:
        token = _apart(torch_one, engine, frames)
        theirs = noise_bag(model, engine)[0]
    one, other = torch_one.answer(bag), engine.answer(theirs)
    return Checked(
        on="noise",
        bags=len(bag),
        frames=int(bag.frame_mask.sum()),
        probability=float((one.probabilities - other.probabilities).abs().max()),
        weight=float((one.frame_weights - other.frame_weights).abs().max()) if one.frame_weights.numel() else 0.0,
        token=token,
        decisions=int((one.logits.argmax(1) != other.logits.argmax(1)).sum()),
        chosen=None,
        accuracy=None,
        accuracy_torch=None,
    )


def _record(run: Path | None) -> dict[str, Any]:
    try:
        found = json.loads((run / "run.json").read_text(encoding="utf-8")) if run is not None else {}
    except (OSError, ValueError):  # a model's folder says nothing of a run
        return {}
    return found if isinstance(found, dict) else {}


def _bags(store: Store, data: Data, classes: tuple[str, ...]) -> tuple[Bags, bool]:
    """Open the store as the model takes it, and say whether its labels are the model's."""
    if data.threshold != "median":  # medians are a fold's own
        try:
            bags = Bags(store, data)
        except UserError:  # no such rating there
            pass
        else:
            if tuple(bags.labels.classes) == classes:
                return bags, True
    return Bags(store, data, classes=classes), False


def _parts(run: Path, fold: int, bags: Bags) -> tuple[NDArray[np.int64], NDArray[np.int64], str] | None:
    """Training rows of a fold, and its test rows or else validation rows; None where the run does not say."""
    try:
        table = pd.read_parquet(run / "splits.parquet")
        table = table[table["fold"].astype(str) == str(fold)]
    except (OSError, ValueError, KeyError):  # an older run, or one that is damaged
        return None
    by = [c for c in ("study", "subject", "session", "recording", "trial", "window") if c in table and c in bags.table]
    found = {
        str(part): set(map(tuple, rows[by].astype(str).to_numpy().tolist())) for part, rows in table.groupby("part")
    }
    mine = list(map(tuple, bags.table[by].astype(str).to_numpy().tolist()))
    rows = {part: np.flatnonzero([row in of for row in mine]).astype(np.int64) for part, of in found.items()}
    fitting = rows.get("train", np.zeros(0, dtype=np.int64))  # (n,)
    for part in ("test", "validation", "val"):
        if len(fitting) and len(rows.get(part, ())):
            return fitting, rows[part], part
    return None
