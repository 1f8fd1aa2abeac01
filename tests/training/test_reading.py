from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import NAMES, RATE, make_store
from tests.test_store_join import other_study

from milmer.config import Data
from milmer.errors import UserError
from milmer.signals.channels import electrode_positions
from milmer.signals.filters import bandpass
from milmer.store import Store
from milmer.store_join import JoinedStore
from milmer.training import reading
from milmer.training.data import Bags
from milmer.training.reading import EEGReader


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects, four trials of 12 s, EEG alone."""
    return make_store(tmp_path_factory.mktemp("small") / "store", subjects=2, trials=4, face=False)


def data(**values: Any) -> Data:
    return Data(**({"modalities": ("eeg",), "px": 32, "target": "arousal"} | values))


def change(path: Path, to: Path, key: str, **values: Any) -> Path:
    """Copy a store and change what it says of a recording."""
    shutil.copytree(path, to)
    file = to / "recordings" / key / "recording.json"
    told = json.loads(file.read_text())
    told["recording"] |= values
    file.write_text(json.dumps(told))
    return to


def test_without_anything_asked_for_it_is_the_store(small: Path) -> None:
    store = Store(small)
    reader = EEGReader(store, data(reject=("other",)))
    np.testing.assert_array_equal(reader.read(3, 1.0, 4.0), store.eeg(3, 1.0, 4.0, ("other",)))
    assert reader.notes == () and reader.channels == 8 and reader.names == ()


def test_a_trial_with_its_own_components_is_cleaned_by_them(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "store")
    mixing = np.eye(8)[:, :1]  # (C, 1)
    np.savez(
        tmp_path / "store" / "recordings" / "s01" / "ica_t2.npz",
        mixing=mixing,
        unmixing=mixing.T,
        labels=np.array(["eye blink"]),
        scores=np.ones(1),
    )
    store = Store(tmp_path / "store")
    second = store.eeg(1, 0.0, 3.0, ("eye blink",))  # (C, S)
    assert not second[0].any() and second[1].any()
    np.testing.assert_array_equal(store.eeg(0, 0.0, 3.0, ("eye blink",)), store.eeg(0, 0.0, 3.0))  # its own has none
    assert store.row_operator(0, ("other",)) is not None  # the recording's
    assert store.row_operator(1, ("other",)) is None


def test_the_band_is_a_filter_of_the_whole_trial_and_windows_are_cut_from_it(small: Path) -> None:
    store = Store(small)
    reader = EEGReader(store, data(band=(2.0, 8.0)))
    whole = bandpass(store.eeg(2).astype(np.float64), RATE, 2.0, 8.0)  # (C, S)
    np.testing.assert_allclose(reader.read(2, 3.0, 6.0), whole[:, 384:768], atol=1e-9)
    assert reader.read(2, 11.0, 14.0).shape == (8, 128)  # the trial ends before
    power = np.abs(np.fft.rfft(reader.read(2)[0])) ** 2
    hertz = np.fft.rfftfreq(1536, 1 / RATE)
    assert power[hertz > 12].sum() < 0.01 * power.sum()
    assert "2-8 Hz, the store holds 1-50 Hz" in reader.notes[0]


def test_an_edge_that_the_store_has_is_not_filtered_again(small: Path) -> None:
    store = Store(small)
    np.testing.assert_array_equal(EEGReader(store, data(band=(1.0, 50.0))).read(0), store.eeg(0))
    reader = EEGReader(store, data(band=(1.0, 30.0)))
    np.testing.assert_allclose(reader.read(0), bandpass(store.eeg(0).astype(float), RATE, None, 30.0), atol=1e-9)


@pytest.mark.parametrize("band", [(0.5, 30.0), (4.0, 60.0)])
def test_a_band_outside_of_the_stored_one_is_refused(small: Path, band: tuple[float, float]) -> None:
    with pytest.raises(UserError, match=f"data.band {band[0]:g}-{band[1]:g} Hz: .*holds 1-50 Hz") as caught:
        EEGReader(Store(small), data(band=band))
    assert "\n" not in str(caught.value)


def test_filtered_trials_are_kept_up_to_a_bound(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = 8 * 1536 * 4  # bytes of a trial
    monkeypatch.setattr(reading, "BAND_MEMORY", 2 * one)
    reader = EEGReader(Store(small), data(band=(2.0, 30.0)))
    first = reader.read(0, 0.0, 3.0)
    for row in range(8):
        reader.read(row, 0.0, 3.0)
        assert sum(x.nbytes for x in reader._filtered.values()) <= 2 * one
    np.testing.assert_array_equal(reader.read(0, 0.0, 3.0), first)
    assert not pickle.loads(pickle.dumps(reader))._filtered  # as to a loader's worker


def test_a_montage_of_measured_electrodes_picks_them_by_name(small: Path) -> None:
    store = Store(small)
    reader = EEGReader(store, data(montage="O2,C3,Fp1"))
    got = reader.read(1, 0.0, 3.0)  # (3, S)
    own = store.eeg(1, 0.0, 3.0)[[NAMES.index(n) for n in ("O2", "C3", "Fp1")]]  # (3, S)
    np.testing.assert_allclose(got, own - own.mean(axis=0), atol=1e-10)
    assert reader.names == ("O2", "C3", "Fp1") and reader.channels == 3
    assert "all measured in every recording" in reader.notes[0]


def test_masked_channels_are_no_sources_and_are_interpolated(small: Path, tmp_path: Path) -> None:
    store = Store(change(small, tmp_path / "store", "s01", masked=["C3"], bad=["C3"]))
    reader = EEGReader(store, data(montage="common"))
    assert reader.names == NAMES
    spline = reader._spline("s01")  # (T, C')
    at = NAMES.index("C3")
    assert not spline[:, at].any() and reader._spline("s02")[at, at] > 0.8
    _, _, there = reader.layout("s01")
    assert there.all()
    bag = Bags(store, data(montage="common")).__getitems__([(0, 0)])
    assert bag.eeg_mask.all() and bag.eeg.shape == (1, 1, 8, 384)
    assert "1 of 2 recordings" in reader.notes[0]
    before = Bags(store, data()).__getitems__([(0, 0)])
    assert before.eeg_mask[0, 0].tolist() == [n != "C3" for n in NAMES]


def test_operator_band_and_montage_are_one(small: Path) -> None:
    store = Store(small)
    reader = EEGReader(store, data(montage="O1,P3,C4", band=(2.0, 20.0), reject=("other",)))
    filtered = bandpass(store.eeg(5).astype(np.float64), RATE, 2.0, 20.0)  # (C, S)
    matrix = store.operator("s02", ("other",))  # (C, C)
    assert matrix is not None
    rows = (matrix @ filtered)[[NAMES.index(n) for n in ("O1", "P3", "C4")]]  # (3, S)
    np.testing.assert_allclose(reader.read(5), rows - rows.mean(axis=0), atol=1e-9)


def test_two_studies_with_other_caps_meet_in_one_montage(small: Path, tmp_path: Path) -> None:
    first, second = Store(small), Store(other_study(tmp_path / "other"))
    joined = JoinedStore(first, second)
    reader = EEGReader(joined, data(montage="10-20"))
    assert reader.channels == 19
    for row in (0, len(first.trials)):
        key = str(joined.trials["store_key"].iat[row])
        assert reader.read(row, 0.0, 3.0).shape == (19, 384) and reader.layout(key)[2].all()
    common = EEGReader(joined, data(montage="common"))
    own = {n.lower() for n in first.recording("s01").names} & {
        n.lower() for k in second.keys for n in second.recording(k).names
    }
    assert {n.lower() for n in common.names} == own
    plain = EEGReader(joined, data(band=(2.0, 30.0)))  # without a montage, channels are the pair's
    assert plain.read(0, 0.0, 3.0).shape == joined.eeg(0, 0.0, 3.0).shape


def spiky(small: Path, to: Path) -> Path:
    """A store in which window 2 of the first trial of s01 swings 500 uV in one channel."""
    shutil.copytree(small, to)
    file = to / "recordings" / "s01" / "eeg.npy"
    eeg = np.load(file)
    eeg[4, 2 * 384 + 100] += 500e-6
    np.save(file, eeg)
    return to


def test_windows_that_swing_too_far_are_left_out_and_counted(small: Path, tmp_path: Path) -> None:
    store = Store(spiky(small, tmp_path / "store"))
    plain, bags = Bags(store, data()), Bags(store, data(reject_uv=300.0))
    gone = plain.table.merge(bags.table[["store_key", "trial", "start"]], how="left", indicator=True)
    left_out = gone[gone["_merge"] == "left_only"]
    assert left_out[["store_key", "trial", "window"]].to_numpy().tolist() == [["s01", 1, 2]]
    assert bags.notes == (
        "1 of 32 windows with EEG swing further than 300 uV peak to peak: their EEG is left out, and 1 that hold "
        "nothing else are left out wholly",
    )
    with pytest.raises(UserError, match="the EEG of every window swings further"):
        Bags(store, data(reject_uv=1.0))
    with pytest.raises(UserError, match=r"larger one \(--reject-uv\), or leave out eeg"):  # though faces are left
        Bags(store, data(modalities=("eeg", "face"), reject_uv=1.0))


def test_a_window_with_a_face_stays_and_its_eeg_is_masked(tiny_store: Path, tmp_path: Path) -> None:
    store = Store(spiky(tiny_store, tmp_path / "store"))
    both = data(modalities=("eeg", "face"), reject_uv=300.0)
    bags = Bags(store, both)
    assert len(bags) == len(Bags(store, data(modalities=("eeg", "face")))) and bags.with_eeg.sum() == len(bags) - 1
    bag = bags.__getitems__([(0, 1), (0, 2)])
    assert bag.modality_mask.tolist() == [[True, True], [False, True]]
    assert not bag.eeg[1].any() and not bag.eeg_mask[1].any()


def test_the_swing_is_that_of_what_the_model_is_given(small: Path, tmp_path: Path) -> None:
    """What a component or a masked channel holds, nobody is given."""
    store = Store(change(spiky(small, tmp_path / "one"), tmp_path / "two", "s01", masked=["P3"], bad=["P3"]))
    assert Bags(store, data(reject_uv=300.0)).with_eeg.all() and NAMES[4] == "P3"


def test_places_of_a_montage_are_those_of_the_electrodes(small: Path) -> None:
    names, places, _ = EEGReader(Store(small), data(montage="Fz,C3")).layout("s01")
    np.testing.assert_allclose(places[0], electrode_positions(["Fz"])[0])
    np.testing.assert_allclose(places[1], Store(small).recording("s01").positions[NAMES.index("C3")])
    assert names == ("Fz", "C3")
