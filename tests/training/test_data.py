from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from milmer.config import Data
from milmer.evaluation.guard import Guard
from milmer.evaluation.protocols import Split
from milmer.labels import permute_trials
from milmer.store import Store
from milmer.training.augment import augment
from milmer.training.data import Bags, EpochSampler, bag_table, make_loader
from milmer.windows import build_windows


@pytest.fixture(scope="module")
def bags(tiny_store: Path) -> Bags:
    return Bags(Store(tiny_store), Data(px=32))


def test_shapes_masks_and_values(bags: Bags) -> None:
    bag = bags.__getitems__([(0, 0), (0, 5), (0, 127)])
    assert bag.frames.shape == (3, 1, 10, 3, 32, 32) and bag.frames.dtype == torch.uint8
    assert bag.eeg.shape == (3, 1, 8, 384) and bag.eeg_mask.all() and bag.sample_mask.all()
    assert bag.modality_mask.all()
    found = bags.store.faces("s01").found[:10]
    assert bag.frame_mask[0, 0].tolist() == found.tolist()
    assert not bag.frames[0, 0][~torch.tensor(found)].any()  # what is masked is zero
    row, start = bags.table["trial_row"].iat[5], bags.table["start"].iat[5]
    np.testing.assert_array_equal(bag.eeg[1, 0].numpy(), bags.store.eeg(int(row), start, start + 3))


def test_classes_follow_the_planted_ratings(bags: Bags) -> None:
    high_v = bags.table["rating_valence"].to_numpy() > 5
    high_a = bags.table["rating_arousal"].to_numpy() > 5
    names = np.array(bags.labels.classes)[bags.labels.y]
    assert set(names[high_v & high_a]) == {"HAHV"} and set(names[~high_v & high_a]) == {"HALV"}
    assert set(names[high_v & ~high_a]) == {"LAHV"} and set(names[~high_v & ~high_a]) == {"LALV"}


def test_whole_trial_bags_and_their_padding(tiny_store: Path) -> None:
    store = Store(tiny_store)
    table, members = bag_table(build_windows(store.trials), 3)
    assert members.shape == (64, 3) and (members[1] >= 0).tolist() == [True, False, False]
    assert table["stop"].iloc[0] == 9.0 and table["stop"].iloc[1] == 12.0
    bag = Bags(store, Data(px=32, windows_per_bag=3)).__getitems__([(0, 1)])
    assert bag.window_mask.tolist() == [[True, False, False]]
    assert not bag.eeg_mask[0, 1:].any() and not bag.frame_mask[0, 1:].any()


def test_a_missing_modality_is_masked(tiny_store: Path) -> None:
    store = Store(tiny_store)
    store.trials = store.trials.assign(has_face=store.trials["subject"] != "s01")
    bag = Bags(store, Data(px=32)).__getitems__([(0, 0), (0, 100)])
    assert bag.modality_mask.tolist() == [[True, False], [True, True]]
    only = Bags(store, Data(px=32, modalities=("eeg",))).__getitems__([(0, 100)])
    assert only.frame_mask.shape == (1, 1, 0) and only.modality_mask.tolist() == [[True, False]]
    faces = Bags(store, Data(px=32, modalities=("face",))).__getitems__([(0, 90)])
    assert faces.eeg.shape == (1, 1, 0, 384) and faces.modality_mask.tolist() == [[False, True]]


def test_order_is_a_function_of_seed_and_epoch(bags: Bags) -> None:
    def order(seed: int, epoch: int) -> list[tuple[int, int]]:
        sampler = EpochSampler(np.arange(50), seed, shuffle=True)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 3) == order(0, 3)
    assert [i for _, i in order(0, 3)] != [i for _, i in order(0, 4)]
    assert [i for _, i in order(0, 3)] != [i for _, i in order(1, 3)]
    assert sorted(i for _, i in order(0, 3)) == list(range(50))


def test_augmentation_is_a_function_of_seed_epoch_and_bag(bags: Bags) -> None:
    items = torch.tensor([(2, 7), (2, 9)])
    bag = bags.__getitems__([(2, 7), (2, 9)])
    one = augment(bag, items, seed=0).frames
    assert torch.equal(one, augment(bag, items, seed=0).frames)
    alone = augment(bags.__getitems__([(2, 9)]), items[1:], seed=0).frames
    assert torch.equal(alone[0], one[1])  # whatever else is in the batch
    assert not torch.equal(one, augment(bag, items, seed=1).frames)
    assert float(one.min()) >= 0 and float(one.max()) <= 1


def test_a_frozen_backbone_sees_frames_as_they_are_and_electrodes_are_hidden_all_the_same(bags: Bags) -> None:
    bag = bags.__getitems__([(0, 0), (0, 1)])
    items = torch.tensor([[0, 0], [0, 1]])
    changed, left = (augment(bag, items, 3, 0.5, pixels=p) for p in (True, False))
    assert torch.equal(left.frames, bag.frames) and left.frames.dtype == torch.uint8
    assert not torch.allclose(changed.frames, bag.frames / 255, atol=0.02)
    assert torch.equal(left.eeg_mask, changed.eeg_mask) and not torch.equal(left.eeg_mask, bag.eeg_mask)


def test_permuted_labels_stay_within_subjects_and_trials(bags: Bags) -> None:
    y = permute_trials(bags.table, bags.labels.y, 3)
    assert not np.array_equal(y, bags.labels.y)
    for subject, rows in bags.table.groupby("subject").indices.items():
        assert np.array_equal(np.bincount(y[rows]), np.bincount(bags.labels.y[rows])), subject
    for rows in bags.table.groupby("trial_row").indices.values():
        assert len(set(y[rows])) == 1
    permuted = bags.permuted(3)
    assert "permuted, seed 3" in permuted.labels.rule
    assert np.array_equal(permuted.labels.y, y)  # the ratings went along, all of a trial together
    ratings = ["rating_valence", "rating_arousal"]
    for subject, rows in bags.table.groupby("subject").indices.items():
        before, after = (b.table[ratings].iloc[rows].value_counts().sort_index() for b in (bags, permuted))
        assert before.equals(after), subject
    stay = [c for c in bags.table if c not in ratings]
    assert bags.table[stay].equals(permuted.table[stay])
    assert not bags.table[ratings].equals(permuted.table[ratings])


def test_named_classes_are_permuted_too_and_a_stimulus_stays(tiny_store: Path) -> None:
    store = Store(tiny_store)
    store.trials = store.trials.assign(label=np.where(store.trials["trial"] < 4, "rest", "task"))
    for target in ("label", "stimulus"):
        bags = Bags(store, Data(px=32, modalities=("eeg",), target=target))
        permuted = bags.permuted(1)
        assert np.array_equal(permuted.labels.y, permute_trials(bags.table, bags.labels.y, 1))
        assert permuted.labels.classes == bags.labels.classes
        assert bags.table["stimulus"].equals(permuted.table["stimulus"])
        assert (target == "stimulus") == bags.table[target].equals(permuted.table[target])


def test_loader_with_and_without_workers_agree(bags: Bags) -> None:
    rows = np.arange(20)
    plain = list(make_loader(bags, rows, 8, seed=1, shuffle=True))
    parallel = list(make_loader(bags, rows, 8, seed=1, shuffle=True, workers=1))
    for (a, y, _), (b, z, _) in zip(plain, parallel, strict=True):
        assert torch.equal(a.frames, b.frames) and torch.equal(a.eeg, b.eeg) and torch.equal(y, z)


def test_a_folds_labels_are_above_the_subjects_training_median(tiny_store: Path) -> None:
    store = Store(tiny_store)
    ratings = np.random.default_rng(0).integers(1, 10, (2, 32)) + 0.5
    store.trials = store.trials.assign(rating_valence=ratings[0], rating_arousal=ratings[1])
    bags = Bags(store, Data(px=32, modalities=("eeg",), threshold="median"))
    subject, trial = bags.table["subject"].to_numpy(), bags.table["trial"].to_numpy()
    test = np.flatnonzero((trial == 8) | (subject == "s04"))
    guard = Guard(Split(0, np.setdiff1d(np.arange(128), test), test[:0], test), bags.table)
    for some in (bags, bags.permuted(2)):
        found = some.labelled(guard)
        assert found.labels.rule == some.labels.rule and found.table is some.table
        cut = {}
        for name in ("valence", "arousal"):
            by = some.table[(trial != 8) & (subject != "s04")].groupby("subject")[f"rating_{name}"].median()
            cut[name] = np.array([by.get(s, 5.0) for s in subject])
            assert np.array_equal(found.labels.thresholds[name], cut[name])
        high = {n: some.table[f"rating_{n}"].to_numpy() > cut[n] for n in cut}
        assert np.array_equal(found.labels.y, 3 - 2 * high["arousal"] - high["valence"])
        assert any("midpoint 5 for s04" in n for n in found.labels.notes)
    assert bags.labels.rule.endswith("(else midpoint 5)") and "permuted" in bags.permuted(2).labelled(guard).labels.rule
    plain = Bags(store, Data(px=32, modalities=("eeg",)))
    assert plain.labelled(guard) is plain
