"""A store's EEG as MNE-Python's objects."""

from __future__ import annotations

from pathlib import Path

import mne
import numpy as np
import pytest
from tests.conftest import make_store

from milmer.errors import UserError
from milmer.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(make_store(tmp_path_factory.mktemp("mne") / "store", subjects=2, trials=4, seconds=7.0))


def test_epochs_hold_the_windows_and_their_trials(store: Store) -> None:
    epochs = store.to_epochs(window=3.0, label="stimulus")
    assert isinstance(epochs, mne.BaseEpochs)
    assert len(epochs) == 2 * 4 * 2  # the last second of a trial is no window
    assert set(epochs.event_id) == set(store.trials["stimulus"])
    for i in (0, 5, 15):
        row = epochs.metadata.iloc[i]
        there = store.eeg(int(row["trial_row"]), row["start"], row["stop"])  # (C, S)
        np.testing.assert_allclose(epochs.get_data()[i], there, atol=1e-12)
        code = epochs.events[i, 2]
        assert {v: k for k, v in epochs.event_id.items()}[code] == row["stimulus"]


def test_a_raw_has_the_places_of_the_electrodes(store: Store) -> None:
    raw = store.to_raw(3)
    np.testing.assert_allclose(raw.get_data(), store.eeg(3), atol=1e-12)
    info = store.recording(str(store.trials["store_key"].iloc[3]))
    for name, place in zip(info.names, info.positions, strict=True):
        found = raw.info["chs"][raw.ch_names.index(name)]["loc"][:3]
        np.testing.assert_allclose(found / np.linalg.norm(found), place / np.linalg.norm(place), atol=1e-3)


def test_components_are_taken_out_on_the_way(store: Store) -> None:
    whole, without = store.to_epochs().get_data(), store.to_epochs(reject=("other",)).get_data()
    assert not np.allclose(whole, without)
    np.testing.assert_allclose(without[0], store.eeg(0, 0.0, 3.0, ("other",)), atol=1e-12)


def test_some_subjects_alone(store: Store) -> None:
    subject = str(store.trials["subject"].iloc[-1])
    assert set(store.to_epochs(subjects=[subject]).metadata["subject"]) == {subject}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda s: s.to_raw(99), "row 99"),
        (lambda s: s.to_epochs(window=99.0), "no window"),
        (lambda s: s.to_epochs(subjects=["nobody"]), "no subject nobody"),
        (lambda s: s.to_epochs(label="mood"), "no column 'mood'"),
        (lambda s: s.to_epochs(reject=("blink",)), "blink"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_line(store: Store, call: object, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        call(store)  # type: ignore[operator]  # a lambda of the table above
    assert "\n" not in str(caught.value)


def test_a_store_without_eeg_gives_no_epochs(tmp_path: Path) -> None:
    store = Store(make_store(tmp_path / "store", subjects=1, trials=2, eeg=False))
    with pytest.raises(UserError):
        store.to_epochs()
    with pytest.raises(UserError, match="no EEG"):
        store.to_raw(0)
