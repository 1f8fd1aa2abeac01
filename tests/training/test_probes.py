"""Probes of models whose use of their input is known, because it is written here."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tests.conftest import make_store
from torch import Tensor, nn

from milmer.config import Config, load_config
from milmer.evaluation.evaluate import evaluate
from milmer.evaluation.one_fit import attention_notes
from milmer.evaluation.probes import INTACT, LEAST, NEUTRAL, PROBES, RANDOM, SHUFFLES, TOP
from milmer.labels import Labels
from milmer.models.bag import Bag, Prediction
from milmer.store import Store
from milmer.training.data import Bags
from milmer.training.probes import RANDOM_DRAWS, SHUFFLE_DRAWS, donors_of, run_probes

ROWS = np.arange(64)  # the windows of two subjects: eight trials of four each


@pytest.fixture(scope="module")
def bags(tiny_store: Path) -> Bags:
    return Bags(Store(tiny_store), load_config("demo", overrides={"data.frames": 5, "data.px": 32}).data)


def labelled(bags: Bags, y: Any, classes: tuple[str, ...]) -> Bags:
    other = copy.copy(bags)
    other.labels = Labels(np.asarray(y, dtype=np.int64), classes, "made up")
    return other


def valence(bags: Bags) -> Any:
    return (bags.table["rating_valence"] > 5).to_numpy()


def arousal(bags: Bags) -> Any:
    return (bags.table["rating_arousal"] > 5).to_numpy()


def smiles(bag: Bag) -> Tensor:
    """Whether the bar is in the upper half of each frame, as the store's maker drew it; (B, N)."""
    light = bag.frames[:, 0].float().mean(2)  # (B, N, P, P)
    half = light.shape[-1] // 2
    return light[..., :half, :].mean((-1, -2)) > light[..., half:, :].mean((-1, -2))  # (B, N)


def alpha(bag: Bag) -> Tensor:
    """Whether the planted 10 Hz wave is strong; (B,)."""
    spectrum = torch.fft.rfft(bag.eeg[:, 0].double()).abs().mean(1)  # (B, F)
    return spectrum[:, 30] > 2e-5 * 0.5 * bag.eeg.shape[-1] * 0.6  # (B,)


def answer(right: Tensor, weights: Tensor) -> Prediction:
    return Prediction(torch.stack([1.0 - right.float(), right.float()], 1) * 4, weights)  # (B, 2), (B, W, N)


class FirstFrame(nn.Module):
    """Answers by its first frame alone, and weighs the frame at `heavy` the most (the first is an honest weight)."""

    def __init__(self, heavy: int = 0) -> None:
        super().__init__()
        self.heavy = heavy

    def forward(self, bag: Bag) -> Prediction:
        """Return logits and weights."""
        valid = bag.frame_mask[:, 0]  # (B, N)
        order = valid.int().cumsum(1) * valid - 1  # (B, N)
        place = torch.where(torch.tensor(self.heavy == 0), 0, valid.sum(1, keepdim=True) - 1)
        scores = torch.where(order == place, 3.0, 0.0).masked_fill(~valid, -torch.inf)  # (B, N)
        first = valid.int().argmax(1)  # (B,)
        seen = smiles(bag)[torch.arange(len(first)), first]  # (B,)
        return answer(seen, scores.softmax(-1)[:, None])


class ByEEG(nn.Module):
    """Answers by the EEG alone; of faces it has no weights."""

    def forward(self, bag: Bag) -> Prediction:
        """Return logits and no weights."""
        return answer(alpha(bag), torch.zeros(bag.frame_mask.shape))


class Exclusive(nn.Module):
    """Answers the exclusive-or of what EEG and face say."""

    def forward(self, bag: Bag) -> Prediction:
        """Return logits and even weights."""
        face = (smiles(bag) & bag.frame_mask[:, 0]).any(1)  # (B,)
        return answer(alpha(bag) ^ face, bag.frame_mask.float())


class Both(nn.Module):
    """Answers four classes: what the EEG says, and what the face says."""

    def forward(self, bag: Bag) -> Prediction:
        """Return logits and even weights."""
        face = (smiles(bag) & bag.frame_mask[:, 0]).any(1)  # (B,)
        index = 2 * face.long() + alpha(bag).long()  # (B,)
        return Prediction(4.0 * nn.functional.one_hot(index, 4), bag.frame_mask.float())


def accuracy(table: pd.DataFrame) -> dict[str, float]:
    prob = table[[c for c in table if c.startswith("prob_")]].to_numpy()  # (n, classes)
    right = prob.argmax(1) == table["y_true"].to_numpy()
    return {str(k): float(v) for k, v in pd.Series(right).groupby(table["probe"].to_numpy()).mean().items()}


def test_honest_weights_cost_more_than_random_ones(bags: Bags) -> None:
    mine = labelled(bags, valence(bags), ("low", "high"))
    table = run_probes(FirstFrame(), mine, ROWS, (TOP, RANDOM), keep=1)
    found = accuracy(table)
    assert found[INTACT] == 1
    assert found[TOP] < 0.65  # another frame of the subject: of the other class about half of the time
    assert found[RANDOM] > 0.82  # one frame of five is hit one time in five
    assert table.groupby("probe")["repeat"].nunique().to_dict() == {INTACT: 1, TOP: 1, RANDOM: RANDOM_DRAWS}
    assert set(table["replacement"]) == {"", LEAST} and not table["unchanged"].any()
    assert len(table) == 64 * (2 + RANDOM_DRAWS)


def test_weights_on_a_frame_that_does_not_matter_are_found_out(bags: Bags) -> None:
    mine = labelled(bags, valence(bags), ("low", "high"))
    found = accuracy(run_probes(FirstFrame(heavy=-1), mine, ROWS, (TOP, RANDOM), keep=1))
    assert found[TOP] == 1 and found[RANDOM] < 0.97


def test_known_neutral_frames_are_put_in_and_no_other(bags: Bags) -> None:
    """Frames without a smile as the neutral ones: with them in the place of the first, every answer is no."""
    mine = labelled(bags, valence(bags), ("low", "high"))
    neutral: dict[str, Any] = {}
    for key, frames, high in zip(mine.table["store_key"], mine.face_rows, valence(bags), strict=True):
        if not high:
            neutral.setdefault(key, []).extend(frames[frames >= 0].tolist())
    table = run_probes(FirstFrame(), mine, ROWS, (TOP,), keep=1, neutral={k: np.array(v) for k, v in neutral.items()})
    top = table[table["probe"] == TOP]
    assert (top["prob_low"] > 0.5).all()
    assert set(top["replacement"]) == {NEUTRAL}


def test_never_more_than_half_of_the_frames_are_replaced(bags: Bags) -> None:
    mine = labelled(bags, valence(bags), ("low", "high"))
    seen: list[Bag] = []

    class Spy(FirstFrame):
        def forward(self, bag: Bag) -> Prediction:
            seen.append(bag)
            return super().forward(bag)

    run_probes(Spy(), mine, ROWS[:16], (TOP,), keep=99, batch=16)
    intact, top = seen
    differ = (intact.frames != top.frames).flatten(3).any(-1)  # (B, W, N)
    there = intact.frame_mask.sum((1, 2))  # (B,)
    assert torch.equal(differ.sum((1, 2)), there // 2)
    assert not (differ & ~intact.frame_mask).any()
    assert torch.equal(intact.eeg, top.eeg)


def test_a_model_without_weights_is_not_asked(bags: Bags) -> None:
    mine = labelled(bags, arousal(bags), ("low", "high"))
    table = run_probes(ByEEG(), mine, ROWS, PROBES)
    assert not {TOP, RANDOM} & set(table["probe"])
    found = accuracy(table)
    assert found[INTACT] > 0.95
    assert found["eeg-any-class"] == pytest.approx(0.5, abs=0.15)  # as often right as wrong, not always wrong
    assert found["eeg-same-class"] == pytest.approx(found[INTACT], abs=0.03)
    assert found["face-any-class"] == found["face-same-class"] == found[INTACT]
    assert table[table["probe"] == "eeg-any-class"]["repeat"].nunique() == SHUFFLE_DRAWS


def test_pairing_matters_to_an_exclusive_or_only(bags: Bags) -> None:
    """Of the same class both signals may be another pair's: fatal for the exclusive-or, nothing to the sum."""
    either = labelled(bags, arousal(bags) ^ valence(bags), ("same", "different"))
    found = accuracy(run_probes(Exclusive(), either, ROWS, tuple(PROBES[2:])))
    assert found[INTACT] > 0.95
    assert found["eeg-same-class"] < 0.5 and found["face-same-class"] < 0.5
    four = labelled(bags, 2 * valence(bags) + arousal(bags), ("ll", "lh", "hl", "hh"))
    found = accuracy(run_probes(Both(), four, ROWS, tuple(PROBES[2:])))
    assert found["eeg-same-class"] == pytest.approx(found[INTACT], abs=0.03) and found[INTACT] > 0.95
    assert found["face-same-class"] == pytest.approx(found[INTACT], abs=0.03)
    assert found["eeg-any-class"] < 0.75 and found["face-any-class"] < 0.75


@pytest.mark.parametrize("modality", ["eeg", "face"])
def test_donors_are_other_trials_of_the_same_subject(bags: Bags, modality: str) -> None:
    rows = ROWS[::3]
    y, table = bags.labels.y, bags.table
    for same in (True, False):
        donors = donors_of(bags, rows, modality, same_class=same, seed=(0, 0, 0))
        moved = donors != rows
        assert moved.any() and set(donors) <= set(rows)
        for column, equal in (("subject", True), ("trial_row", False)):
            is_same = table[column].to_numpy()[donors[moved]] == table[column].to_numpy()[rows[moved]]
            assert (is_same == equal).all()
        assert (y[donors] == y[rows]).all() == same
        assert np.array_equal(donors, donors_of(bags, rows, modality, same_class=same, seed=(0, 0, 0)))
        assert not np.array_equal(donors, donors_of(bags, rows, modality, same_class=same, seed=(0, 0, 1)))


def test_who_has_no_other_trial_of_its_class_is_not_asked(bags: Bags) -> None:
    mine = labelled(bags, np.r_[0, 0, 0, 0, np.ones(124)].astype(int), ("a", "b"))
    table = run_probes(ByEEG(), mine, ROWS, tuple(SHUFFLES))
    for _, one in table[table["probe"] != INTACT].groupby(["probe", "repeat"]):
        kept = one["unchanged"].to_numpy()
        assert kept[:4].all() and not kept[4:].any()


def test_one_tested_trial_a_class_takes_its_donors_from_validation(bags: Bags) -> None:
    """As in five folds of twenty trials of four classes: no two tested trials of a subject share a class."""
    four = labelled(bags, 2 * valence(bags) + arousal(bags), ("ll", "lh", "hl", "hh"))
    trial = four.table["trial_row"].to_numpy()[ROWS]
    test = np.concatenate([ROWS[trial == t] for t in pick(four, trial, 0)])
    spare = np.concatenate([ROWS[trial == t] for t in pick(four, trial, 1)])
    alone = run_probes(Both(), four, test, tuple(SHUFFLES))
    assert alone.loc[alone["probe"] != INTACT, "unchanged"].all()
    table = run_probes(Both(), four, test, tuple(SHUFFLES), spare=spare)
    assert not table["unchanged"].any() and len(table) == len(test) * (1 + 4 * SHUFFLE_DRAWS)
    found = accuracy(table)
    assert found["eeg-same-class"] > 0.95 and found["face-same-class"] > 0.95 and found["eeg-any-class"] < 0.8
    donors = donors_of(four, test, "eeg", same_class=True, seed=(0,), givers=np.r_[test, spare])
    assert set(donors) <= set(spare)


def pick(bags: Bags, trial: Any, which: int) -> list[int]:
    """One trial of each subject and class: the first, the second."""
    y, subject = bags.labels.y[ROWS], bags.table["subject"].to_numpy()[ROWS]
    pairs = sorted(set(zip(subject, y, strict=True)))
    return [int(np.unique(trial[(subject == s) & (y == c)])[which]) for s, c in pairs]


def test_frames_come_from_validation_too_and_from_nowhere_else(bags: Bags) -> None:
    mine = labelled(bags, valence(bags), ("low", "high"))
    asked, spare = ROWS[:1], ROWS[8:12]  # of one subject
    alone = run_probes(FirstFrame(), mine, asked, (TOP,), keep=1)
    assert alone["unchanged"].tolist() == [False, True] and (alone["replacement"] == "").all()
    seen: list[tuple[str, int]] = []

    class Spied(Bags):
        def __init__(self) -> None:
            self.__dict__ |= mine.__dict__

        def frame(self, key: str, row: int) -> Any:
            seen.append((key, row))
            return super().frame(key, row)

    table = run_probes(FirstFrame(), Spied(), asked, (TOP, RANDOM), keep=1, spare=spare)
    assert not table["unchanged"].any()
    rows = {int(r) for r in mine.face_rows[np.r_[asked, spare]].ravel() if r >= 0}
    assert {key for key, _ in seen} == {str(mine.table["store_key"].iat[0])} and {r for _, r in seen} <= rows


def test_neutral_frames_need_not_be_in_any_bag(tiny_store: Path) -> None:
    """Windows of four frames leave most of the track out; what shows nothing is put in all the same."""
    few = Bags(Store(tiny_store), load_config("demo", overrides={"data.frames": 4, "data.px": 32}).data)
    mine = labelled(few, valence(few), ("low", "high"))
    neutral: dict[str, Any] = {}
    for key, low in mine.table.assign(low=~valence(mine)).query("low").groupby("store_key"):
        held = set(mine.face_rows[mine.table["store_key"] == key].ravel())
        spans = [
            np.arange(int(t["face_start"]), int(t["face_start"] + t["face_rows"]))
            for _, t in mine.store.trials.iloc[sorted(set(low["trial_row"]))].iterrows()
        ]
        neutral[str(key)] = np.array([r for r in np.concatenate(spans) if r not in held])
        assert len(neutral[str(key)]) > 4
    table = run_probes(FirstFrame(), mine, ROWS, (TOP,), keep=1, neutral=neutral)
    top = table[table["probe"] == TOP]
    top = top[~top["unchanged"]]  # whoever has one frame is not asked
    assert len(top) > 56 and set(top["replacement"]) == {NEUTRAL}
    assert (top["prob_low"] > 0.5).all()


def test_trials_without_the_modality_neither_give_nor_get(bags: Bags) -> None:
    mine = copy.copy(bags)
    has = np.arange(32) % 2 == 0
    mine.eeg_there = has[mine.windows["trial_row"].to_numpy()]  # (n_windows,)
    donors = donors_of(mine, ROWS, "eeg", same_class=False, seed=(0,))
    trial = mine.table["trial_row"].to_numpy()
    given = has[trial[ROWS]]  # (n,)
    assert (donors[~given] == ROWS[~given]).all()
    assert has[trial[donors[given]]].all()


def test_the_batch_and_the_time_do_not_matter(bags: Bags) -> None:
    mine = labelled(bags, valence(bags), ("low", "high"))
    one, other = (run_probes(FirstFrame(), mine, ROWS[::4], (TOP, RANDOM), keep=2, batch=b) for b in (7, 64))
    pd.testing.assert_frame_equal(one, other)


def collapsed(run: Path, config: Config) -> list[str]:
    """What is noted of the first fold's attention."""
    return attention_notes(config, run / "folds/0")


def test_a_run_holds_probes_and_resumes_to_the_same(tmp_path: Path) -> None:
    quick = {"training.epochs": 1, "training.threads": 1, "data.frames": 3, "data.px": 64, "evaluation.folds": 3}
    config = load_config("demo", overrides=quick | {"evaluation.resamples": 100, "training.batch": 40})
    run, small = tmp_path / "run", make_store(tmp_path / "store", subjects=2, trials=8, seconds=3.0)
    evaluate(Store(small), config, run)
    table = pd.read_parquet(run / "probes.parquet")
    assert set(table["probe"]) == {INTACT, *PROBES} and set(table["fold"]) == {0, 1, 2}
    intact = table[table["probe"] == INTACT].sort_values(["subject", "trial", "window"])
    tested = pd.read_parquet(run / "predictions.parquet").query("part == 'test'")
    tested = tested.sort_values(["subject", "trial", "window"])
    names = [c for c in tested if c.startswith("prob_")]
    np.testing.assert_allclose(intact[names].to_numpy(), tested[names].to_numpy(), atol=1e-5)
    rows = json.loads((run / "probes.json").read_text())
    assert {"name", "probe", "level", "value", "low", "high", "n", "note"} <= set(rows[0])
    notes = json.loads((run / "run.json").read_text())["notes"]
    assert any(n.startswith("fold 0: attention has collapsed to uniform") for n in notes)  # one epoch teaches nothing
    watched = run / "folds/0/history.csv"
    learned, best = pd.read_csv(watched), collapsed(run, config)
    assert best == [n.removeprefix("fold 0: ") for n in notes if n.startswith("fold 0: attention")]
    other = learned.assign(member="cca", val_loss=-1.0).drop(columns=[c for c in learned if c.startswith("attention")])
    pd.concat([other, learned.assign(member="face")]).to_csv(watched, index=False)
    assert collapsed(run, config) == best  # the better loss is of a member that has no attention
    learned.assign(attention_entropy=0.5, attention_position=0.95).to_csv(watched, index=False)
    assert "collapsed to one position" in collapsed(run, config)[0]
    places = load_config("demo", overrides=quick | {"model.selection.method": "softmax"})  # weighs places by design
    assert collapsed(run, places) == []
    learned.to_csv(watched, index=False)
    before = {p: (run / p).read_bytes() for p in ("probes.parquet", "probes.json", "folds/1/probes.parquet")}
    (run / "folds/1/probes.parquet").unlink()
    evaluate(Store(small), config, run, resume=True)
    assert {p: (run / p).read_bytes() for p in before} == before
