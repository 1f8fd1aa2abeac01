"""Asks a fitted network what it uses: its frames replaced by its own weights or at random, a signal exchanged.

Only test rows are asked about. What is put in comes from the same subject's test and validation rows, never from rows
that the network has learnt. The figures are made from the table by `milmer.evaluation.probes`, without a network.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from milmer.config import Config
from milmer.evaluation.probes import EXCHANGES, INTACT, LEAST, NEUTRAL, RANDOM, TOP, wanted
from milmer.evaluation.protocols import person_codes, trial_codes
from milmer.faces.crop import decode_jpeg
from milmer.models.bag import EEG, FACE, Bag
from milmer.models.weights import load_model
from milmer.store import IDENTITY
from milmer.training.data import Bags, make_loader
from milmer.training.prefix import suited
from milmer.training.watch import valid_frames

RANDOM_DRAWS = 5
SHUFFLE_DRAWS = 3
Ints = NDArray[np.int64]
Change = Callable[[Bag, Ints], Bag]  # a batch, and which of the probed rows it holds


@dataclasses.dataclass(frozen=True)
class _Pool:
    """Frames that may be put in for one subject's: recording and row of each, and what kind they are."""

    keys: NDArray[Any]  # (n,)
    rows: Ints  # (n,)
    kind: str


def probe_fold(
    config: Config,
    bags: Bags,
    rows: Ints,
    folder: Path,
    neutral: Mapping[str, Ints] | None = None,
    spare: Ints | None = None,
) -> pd.DataFrame:
    """Probe the model in `folder` on the rows `rows`, as the configuration asks; see `run_probes`."""
    model, _ = load_model(folder)
    torch.set_num_threads(config.training.threads)
    gpu = config.training.device != "cpu" and torch.cuda.is_available()
    model.to("cuda" if gpu else "cpu").eval()
    return run_probes(
        model,
        bags,
        rows,
        wanted(config),
        keep=config.model.selection.keep,
        seed=config.training.seed,
        neutral=neutral,
        spare=spare,
        batch=2 * config.training.batch,
    )


def run_probes(
    model: nn.Module,
    bags: Bags,
    rows: Ints,
    probes: Sequence[str],
    *,
    keep: float = 3,
    seed: int = 0,
    neutral: Mapping[str, Ints] | None = None,
    spare: Ints | None = None,
    batch: int = 64,
) -> pd.DataFrame:
    """Return what `model` answers on `rows` as they are and under each probe.

    Parameters
    ----------
    model : nn.Module
        Called with a `Bag`, answers a `Prediction`; in evaluation mode.
    bags : Bags
        The data.
    rows : ndarray of int64, shape (n,)
        Test rows, which are asked about; they give frames, EEG and faces to each other.
    probes : sequence of str
        Of `milmer.evaluation.probes.PROBES` and `EXCHANGES`. The deletion probes are left out where the model gives no
        weights.
    keep : float
        Frames that are replaced for each window of a bag, but never more than half of the bag's: else the two ways to
        choose them could not differ.
    seed : int
        Every draw is a function of it, the bag, the probe and the repeat.
    neutral : mapping of str to ndarray of int64, optional
        Rows of each recording's face track that are known to show nothing (a simulated study's truth), whether any bag
        holds them or not; those without a face are passed over. For a subject that has none, as for all without
        `neutral`, the third of its frames that the model weighs least is put in.
    spare : ndarray of int64, optional
        More rows that frames, EEG and faces may be taken from: those of the validation part. Never training rows: the
        network has learnt these, so they would not stand for any other moment.

    Returns
    -------
    DataFrame
        One row a bag and probe and repeat: ``probe``, ``repeat``, identity columns, ``y_true``, ``prob_<class>``,
        ``unchanged`` (nothing could be put in, so that the row says nothing of this probe) and ``replacement`` (what
        kind of frames was).
    """
    rows = np.asarray(rows, dtype=np.int64)
    bags = suited(bags, model)
    n = len(rows)
    givers = rows if spare is None else np.concatenate([rows, np.setdiff1d(spare, rows)])  # (g,) rows come first
    deleting = bool({TOP, RANDOM} & set(probes))
    every, weighed, there = _answer(model, bags, givers if deleting else rows, batch)  # (g, classes), (g, W, N) twice
    intact, weights, valid = every[:n], weighed[:n], there[:n]  # (n, classes), (n, W, N), (n, W, N)
    nothing = np.zeros(n, dtype=bool)  # (n,)
    found = [_table(bags, rows, intact, INTACT, 0, nothing, "")]
    if deleting and (weights * valid).any():
        pools = _pools(bags, givers, weighed, there, neutral, seed)[:n]
        draws = [(TOP, 0), *((RANDOM, r) for r in range(RANDOM_DRAWS))]
        for name, repeat in [d for d in draws if d[0] in probes]:
            chosen = _chosen(rows, weights, valid, keep, (seed, repeat) if name == RANDOM else None)
            swap, kinds = _swaps(bags, rows, chosen, pools, (seed, repeat))
            change = _put_frames(bags, swap)
            prob, _, _ = _answer(model, bags, rows, batch, change)
            still = np.array([not s for s in swap])  # (n,)
            found.append(_table(bags, rows, prob, name, repeat, still, kinds))
    for number, (name, (modality, same)) in enumerate(EXCHANGES.items()):
        for repeat in range(SHUFFLE_DRAWS if name in probes else 0):
            donors = donors_of(
                bags, rows, modality, same_class=same, seed=(seed, number, repeat), givers=givers
            )  # (n,)
            prob, _, _ = _answer(model, bags, rows, batch, _put_modality(bags, rows, donors, modality))
            found.append(_table(bags, rows, prob, name, repeat, donors == rows, ""))
    return pd.concat(found, ignore_index=True)


def donors_of(
    bags: Bags, rows: Ints, modality: str, *, same_class: bool, seed: tuple[int, ...], givers: Ints | None = None
) -> Ints:
    """Return for each row the row of another trial of the same subject whose signal it gets; itself if none.

    Parameters
    ----------
    modality : str
        Such as ``"eeg"``; rows that lack it neither get nor give one.
    same_class : bool
        The other trial must have the same label. Otherwise its label is drawn by the subject's own frequencies,
        independent of the row's: of all trials but the row's own, too many would have another label, and a model that
        uses the signal would fall below chance. For the same reason a row gets nothing, in either case, where its
        subject has no other trial of its class: that label could never be drawn.
    seed : tuple of int
        Draws are a function of it and the row.
    givers : ndarray of int64, optional
        Rows that give; `rows` themselves if left out.

    Returns
    -------
    ndarray of int64, shape (n,)
    """
    givers = rows if givers is None else givers
    person, trial = person_codes(bags.table), trial_codes(bags.table)  # (n_bags,) each
    y, has = bags.labels.y, _holds(bags, modality)  # (n_bags,) each
    found = rows.copy()
    for i in np.flatnonzero(has[rows]):
        row = int(rows[i])
        mine = givers[(person[givers] == person[row]) & has[givers]]  # (m,)
        others = mine[trial[mine] != trial[row]]  # (o,)
        if not (y[others] == y[row]).any():
            continue
        rng = np.random.default_rng([*seed, row, 52])
        wanted_class = y[row] if same_class else y[rng.choice(mine)]
        found[i] = rng.choice(others[y[others] == wanted_class])
    return found


def _holds(bags: Bags, modality: str) -> NDArray[np.bool_]:
    """Whether each bag has a modality; (n_bags,)."""
    if modality == "eeg":
        return bags.with_eeg
    if modality != "face":
        spans = bags.table[["start", "stop"]].to_numpy(np.float64)  # (n_bags, 2)
        return bags.body.there(modality, bags.table["trial_row"].to_numpy(np.int64), spans)  # (n_bags,)
    return np.asarray((bags.face_rows >= 0).any(axis=(1, 2)))


def _answer(
    model: nn.Module, bags: Bags, rows: Ints, batch: int, change: Change | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Probabilities (n, classes), frame weights (n, W, N) and valid frames (n, W, N) of rows, changed by `change`."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    prob, weights, valid, done = [], [], [], 0
    with torch.inference_mode():
        for bag, _, _ in make_loader(bags, rows, batch):
            if change is not None:
                bag = change(bag, np.arange(done, done + len(bag)))
            done += len(bag)
            said = model(bag.to(device))
            prob.append(said.logits.float().softmax(-1).cpu())  # (B, classes)
            weights.append(said.frame_weights.float().cpu())  # (B, W, N)
            valid.append(valid_frames(bag))  # (B, W, N)
    return torch.cat(prob).numpy(), torch.cat(weights).numpy(), torch.cat(valid).numpy()


def _chosen(
    rows: Ints,
    weights: NDArray[np.float32],
    valid: NDArray[np.bool_],
    keep: float,
    seed: tuple[int, int] | None,
) -> list[Ints]:
    """Return the places in each bag (flat, W*N) that are replaced: the heaviest, or random ones with a `seed`."""
    found = []
    for i, (weight, there) in enumerate(zip(weights, valid, strict=True)):
        places = np.flatnonzero(there)  # (F,)
        n = min(math.ceil(keep * int(there.any(axis=-1).sum())), len(places) // 2)
        if seed is None:
            order = np.argsort(-weight.ravel()[places], kind="stable")  # (F,)
        else:
            order = np.random.default_rng([*seed, int(rows[i]), 50]).permutation(len(places))  # (F,)
        found.append(np.sort(places[order[:n]]))
    return found


def _pools(
    bags: Bags,
    rows: Ints,
    weights: NDArray[np.float32],
    valid: NDArray[np.bool_],
    neutral: Mapping[str, Ints] | None,
    seed: int,
) -> list[_Pool]:
    """Return for each row the frames of its subject that may be put in; people share one pool."""
    table = bags.table.iloc[rows]
    person, key = person_codes(table), table["store_key"].astype(str).to_numpy()  # (n,), (n,)
    pools: dict[int, _Pool] = {}
    for p in np.unique(person):
        keys, frames, weighed = [], [], []
        for i in np.flatnonzero(person == p):
            there = valid[i]  # (W, N)
            mine = bags.face_rows[rows[i]][there]  # (F,)
            keys.append(np.full(len(mine), key[i], dtype=object))
            frames.append(mine)
            weighed.append(weights[i][there].astype(np.float64) * len(mine))  # 1 is an equal share of its bag
        every = pd.DataFrame(
            {"key": np.concatenate(keys), "row": np.concatenate(frames), "weight": np.concatenate(weighed)}
        )
        every = every.groupby(["key", "row"]).mean().reset_index()  # windows may overlap
        still = _neutral(bags, set(key[person == p]), neutral or {})
        if still is None:
            ties = np.random.default_rng([seed, int(rows[person == p].min()), 53]).random(len(every))  # (n,)
            order = np.lexsort((ties, every["weight"].to_numpy()))[: -(-len(every) // 3)]
            still = _Pool(every["key"].to_numpy()[order], every["row"].to_numpy(np.int64)[order], LEAST)
        pools[int(p)] = still
    return [pools[int(p)] for p in person]


def _neutral(bags: Bags, recordings: set[str], neutral: Mapping[str, Ints]) -> _Pool | None:
    """Return the frames of some recordings that are known to show nothing and hold a face; None where there is none."""
    known = {}
    for key in sorted(recordings & set(neutral)):
        rows = np.unique(np.asarray(neutral[key], dtype=np.int64))  # (n,)
        known[key] = rows[bags.store.faces(key).found[rows]]  # (n',)
    keys = np.repeat(np.array(list(known), dtype=object), [len(v) for v in known.values()])  # (n,)
    return _Pool(keys, np.concatenate(list(known.values())), NEUTRAL) if len(keys) else None


def _frame(bags: Bags, key: str, row: int) -> NDArray[np.uint8]:
    """Return any frame of a recording, uint8 (P, P, 3): `bags` may keep in memory only those that its own bags hold."""
    try:
        return bags.frame(key, row)
    except KeyError:
        return decode_jpeg(bags.store.crop(key, row), bags.config.px)


def _swaps(
    bags: Bags, rows: Ints, chosen: Sequence[Ints], pools: Sequence[_Pool], seed: tuple[int, int]
) -> tuple[list[list[tuple[int, str, int]]], list[str]]:
    """Return for each row what is put where, (place, recording, row) each, and the kind of its pool.

    A frame that the bag holds itself is not put in.
    """
    swaps, kinds = [], []
    keys = bags.table["store_key"].astype(str).to_numpy()
    for i, (places, pool) in enumerate(zip(chosen, pools, strict=True)):
        own = (pool.keys == keys[rows[i]]) & np.isin(pool.rows, bags.face_rows[rows[i]])  # (n,)
        others = np.flatnonzero(~own)
        swap: list[tuple[int, str, int]] = []
        if len(others) and len(places):
            rng = np.random.default_rng([*seed, int(rows[i]), 51])
            drawn = rng.choice(others, len(places), replace=len(others) < len(places))  # (K,)
            swap = [(int(p), str(pool.keys[d]), int(pool.rows[d])) for p, d in zip(places, drawn, strict=True)]
        swaps.append(swap)
        kinds.append(pool.kind if swap else "")
    return swaps, kinds


def _put_frames(bags: Bags, swaps: Sequence[Sequence[tuple[int, str, int]]]) -> Change:
    def change(bag: Bag, at: Ints) -> Bag:
        kept = None if bag.prefix is None else bag.prefix.clone()  # (B, W, N, T', F')
        frames = bag.frames.clone()  # (B, W, N, 3, P, P)
        n = frames.shape[2]
        for b, i in enumerate(at):
            for place, key, row in swaps[i]:
                if kept is not None and bags.cache is not None:
                    tokens = bags.cache.read(key, np.array([row]))[0]  # (T', F')
                    kept[b, place // n, place % n] = torch.from_numpy(tokens)
                else:
                    frames[b, place // n, place % n] = torch.tensor(_frame(bags, key, row)).permute(2, 0, 1)
        return dataclasses.replace(bag, frames=frames, prefix=kept)

    return change


def _put_modality(bags: Bags, rows: Ints, donors: Ints, modality: str) -> Change:
    """Give each row a modality of its donor; who has itself as donor keeps what it has."""

    def change(bag: Bag, at: Ints) -> Bag:
        other = bags.__getitems__([(0, int(d)) for d in donors[at]])
        if modality in bag.body:
            signals = {**bag.body, modality: other.body[modality]}
            return dataclasses.replace(
                bag, body=signals, body_mask={**bag.body_mask, modality: other.body_mask[modality]}
            )
        column = EEG if modality == "eeg" else FACE
        there = bag.modality_mask.clone()  # (B, 2)
        there[:, column] = other.modality_mask[:, column]
        if modality == "face":
            bag = dataclasses.replace(bag, frames=other.frames, prefix=other.prefix)
            return dataclasses.replace(bag, frame_mask=other.frame_mask, modality_mask=there)
        return dataclasses.replace(
            bag,
            eeg=other.eeg,
            eeg_mask=other.eeg_mask,
            sample_mask=other.sample_mask,
            positions=other.positions,
            modality_mask=there,
        )

    return change


def _table(
    bags: Bags,
    rows: Ints,
    prob: NDArray[np.float32],
    probe: str,
    repeat: int,
    unchanged: NDArray[np.bool_],
    replacement: str | Sequence[str],
) -> pd.DataFrame:
    table = bags.table.iloc[rows].reset_index(drop=True)
    found = table[[*(n for n in IDENTITY if n in table), "window", "start"]].copy()
    found.insert(0, "probe", probe)
    found.insert(1, "repeat", repeat)
    found["y_true"] = bags.labels.y[rows]
    for i, name in enumerate(bags.labels.classes):
        found[f"prob_{name}"] = prob[:, i]
    found["unchanged"] = unchanged
    found["replacement"] = replacement
    return found
