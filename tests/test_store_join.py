from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.conftest import NAMES, make_store

from milmer.config import Data
from milmer.errors import UserError
from milmer.store import Store
from milmer.store_join import JoinedStore, open_stores

# Another cap: other order, other case, two electrodes that the tiny store lacks, and Fp1 and P3 are not there.
OTHER = ("o1", "O2", "FZ", "FP2", "c3", "C4", "p4", "Cz")


def as_study(path: Path, study: str, names: tuple[str, ...] = NAMES, **parameters: Any) -> Path:
    """Give a store of `make_store` another name, other names of its channels and other parameters of EEG."""
    info = json.loads((path / "study.json").read_text())
    info["study"] = study
    info["parameters"]["eeg"] |= parameters
    (path / "study.json").write_text(json.dumps(info))
    for file in path.glob("recordings/*/recording.json"):
        about = json.loads(file.read_text())
        about["recording"]["names"] = list(names)
        file.write_text(json.dumps(about))
    return path


def other_study(path: Path, names: tuple[str, ...] = OTHER, **kwargs: Any) -> Path:
    return as_study(make_store(path, subjects=3, trials=4, seconds=6.0, seed=5, **kwargs), "other", names)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return other_study(tmp_path_factory.mktemp("second") / "store")


def changed(path: Path, change: Mapping[str, Any]) -> Path:
    table = pd.read_parquet(path / "trials.parquet")
    table.assign(**change).to_parquet(path / "trials.parquet")
    return path


def test_trials_are_those_of_both(tiny_store: Path, second: Path) -> None:
    one, two = Store(tiny_store), Store(second)
    both = open_stores([tiny_store, second])
    assert isinstance(both, JoinedStore) and both.name == "tiny and other"
    assert len(both.trials) == 32 + 12 and list(both.trials.index) == list(range(44))
    assert both.trials["study"].tolist() == ["tiny"] * 32 + ["other"] * 12
    assert both.keys == ["other.s01", "other.s02", "other.s03", "tiny.s01", "tiny.s02", "tiny.s03", "tiny.s04"]
    assert set(both.trials["store_key"]) == set(both.keys)
    assert both.fingerprint not in (one.fingerprint, two.fingerprint)
    assert both.fingerprint == JoinedStore(one, two).fingerprint != JoinedStore(two, one).fingerprint
    assert both.info["rating_ranges"] == {n: {"valence": [1, 9], "arousal": [1, 9]} for n in ("tiny", "other")}
    assert both.folder("other.s02") == second / "recordings/s02"
    assert all(not fault or "recording.json" in file for file, fault in both.verify())
    assert isinstance(open_stores([tiny_store]), Store)


def test_every_channel_is_its_own_in_one_order(tiny_store: Path, second: Path) -> None:
    """By hand: a name's row in the pair holds what the name's row in its own store holds, components taken out."""
    one, two = Store(tiny_store), Store(second)
    both = JoinedStore(one, two)
    names = (*NAMES, "FZ", "Cz")
    shared = {n.lower() for n in NAMES} & {n.lower() for n in OTHER}
    assert len(shared) == 6
    for row, store, own, own_names in ((3, one, 3, NAMES), (37, two, 5, OTHER)):
        info = both.recording(str(both.trials["store_key"].iat[row]))
        assert info.names == names and set(info.masked) == {"Fp1", "P3", "FZ", "Cz"}
        read = both.eeg(row, 1.0, 4.0, ["other"])  # (10, S)
        expected = store.eeg(own, 1.0, 4.0, ["other"])  # (8, S)
        assert read.shape == (10, 384) and read.dtype == np.float32
        places = store.recording(store.keys[0]).positions  # (8, 3)
        for i, name in enumerate(names):
            if name.lower() in shared:
                at = [n.lower() for n in own_names].index(name.lower())
                np.testing.assert_array_equal(read[i], expected[at])
                np.testing.assert_array_equal(info.positions[i], places[at])
            else:
                assert not read[i].any()
        np.testing.assert_array_equal(info.positions[[0, 8]], places[[0, 2]])  # Fp1 of the one, FZ of the other
    assert any("6 EEG channels are in both" in n and "Fp1" in n for n in both.notes)


def test_faces_and_copies_in_other_processes_are_the_same(tiny_store: Path, second: Path) -> None:
    two = Store(second)
    both = pickle.loads(pickle.dumps(JoinedStore(Store(tiny_store), two)))
    key = "other.s03"
    np.testing.assert_array_equal(both.faces(key).time, two.faces("s03").time)
    assert both.crop(key, 1) == two.crop("s03", 1) and both.crop(key, 1)
    np.testing.assert_array_equal(both.eeg(40)[7], two.eeg(8)[1])  # O2


def test_bags_read_the_pair(tiny_store: Path, second: Path) -> None:
    from milmer.training.data import Bags

    both = JoinedStore(Store(tiny_store), Store(second))
    bags = Bags(both, Data(frames=2, px=32, target="arousal"))
    assert len(bags) == 32 * 4 + 12 * 2
    batch = bags.__getitems__([(0, 0), (0, 130)])
    assert batch.eeg.shape == (2, 1, 10, 384) and batch.eeg_mask.sum(-1).tolist() == [[6], [6]]
    assert batch.frames[1].any() and (batch.eeg_mask[0] == batch.eeg_mask[1]).all()
    assert (bags.labels.y >= 0).all()


def test_what_cannot_be_compared_is_one_line(tiny_store: Path, second: Path, tmp_path: Path) -> None:
    one = Store(tiny_store)

    def refused(path: Path, text: str) -> None:
        with pytest.raises(UserError, match=text) as caught:
            JoinedStore(one, Store(path))
        assert "\n" not in str(caught.value)

    refused(tiny_store, "study 'tiny' twice")
    apart = other_study(tmp_path / "apart", tuple(f"X{i}" for i in range(8)))
    refused(apart, r"no EEG channel that both have \(Fp1.*X0.*--modalities face")
    twice = other_study(tmp_path / "twice", ("Cz", "CZ", *OTHER[:6]))
    refused(twice, "s01 has CZ twice|s01 has cz twice")
    rate = as_study(other_study(tmp_path / "rate"), "other", OTHER, rate=250.0)
    refused(rate, r"EEG at 250 Hz.*has 128 Hz; prepare .*preparation\.eeg\.rate=128")
    bare = changed(other_study(tmp_path / "bare"), {"rating_valence": np.nan, "rating_arousal": np.nan})
    refused(bare, "other no ratings: expected a rating or label that both have")


def test_a_target_that_one_lacks_is_refused_with_those_of_both(tiny_store: Path, tmp_path: Path) -> None:
    path = changed(other_study(tmp_path / "store"), {"rating_valence": np.nan, "label": "x"})
    both = JoinedStore(Store(tiny_store), Store(path))
    both.check("arousal", ["eeg", "face"])
    with pytest.raises(UserError, match="target 'valence-arousal': other has no valence; both studies have arousal:"):
        both.check("valence-arousal", ["eeg"])
    with pytest.raises(UserError, match="target 'label': tiny has no label"):
        both.check("label", ["face"])


def test_classes_that_nobody_shares_are_refused(tiny_store: Path, tmp_path: Path) -> None:
    mine = changed(make_store(tmp_path / "one", subjects=3, trials=4, seconds=6.0), {"label": ["calm", "sad"] * 6})
    labels = {"glad": ["glad", "angry"] * 6, "sad": ["sad", "angry"] * 6}
    for name, values in labels.items():
        both = JoinedStore(Store(mine), Store(changed(other_study(tmp_path / name), {"label": values})))
        if name == "sad":
            both.check("label", ["eeg"])
            continue
        with pytest.raises(UserError, match="tiny has the classes calm, sad and other angry, glad: expected some"):
            both.check("label", ["eeg"])


def test_other_preparation_is_a_note(tiny_store: Path, tmp_path: Path) -> None:
    path = as_study(other_study(tmp_path / "store"), "other", OTHER, band=[4.0, 45.0])
    notes = JoinedStore(Store(tiny_store), Store(path)).notes
    assert any("band 1-50 and 4-45" in n for n in notes)


def test_a_study_of_faces_alone_joins_one_with_eeg(tiny_store: Path, tmp_path: Path) -> None:
    path = as_study(make_store(tmp_path / "store", subjects=3, trials=4, seconds=6.0, eeg=False), "faces", ())
    both = JoinedStore(Store(tiny_store), Store(path))
    assert not both.trials["has_eeg"].iloc[32:].any() and both.recording("faces.s01").names == ()
    assert any("faces has no EEG: that of tiny is masked too" in n for n in both.notes)
    both.check("valence", ["eeg", "face"])
    with pytest.raises(UserError, match=r"has no eeg that both studies have.*--modalities"):
        both.check("valence", ["eeg"])
