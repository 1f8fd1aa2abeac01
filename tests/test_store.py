from __future__ import annotations

import errno
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from milmer.errors import DamagedStore, UserError
from milmer.store import Store
from milmer.store_writing import RecordingWriter


def test_reads_back_what_was_written(tiny_store: Path) -> None:
    store = Store(tiny_store)
    whole = np.load(tiny_store / "recordings" / "s02" / "eeg.npy")
    row = int(np.flatnonzero((store.trials["subject"] == "s02") & (store.trials["trial"] == 3))[0])
    assert np.array_equal(store.eeg(row, 3.0, 6.0), whole[:, 2 * 1536 + 384 : 2 * 1536 + 768])
    assert store.eeg(row, 11.0, 14.0).shape == (8, 128)  # the trial ends at 12 s
    assert store.eeg(row, 13.0, 14.0).shape == (8, 0)


def test_operator_takes_out_only_the_kinds_asked_for(tiny_store: Path) -> None:
    store = Store(tiny_store)
    raw = store.eeg(0, 0, 3)
    assert np.array_equal(store.eeg(0, 0, 3, reject=("eye blink",)), raw)
    cleaned = store.eeg(0, 0, 3, reject=("other",))
    with np.load(tiny_store / "recordings" / "s01" / "ica.npz") as ica:
        expected = raw - ica["mixing"][:, 2:] @ (ica["unmixing"][2:] @ raw)
        left = ica["unmixing"] @ cleaned
    np.testing.assert_allclose(cleaned, expected, atol=1e-10)
    assert np.abs(left[2]).max() < 1e-9 < np.abs(left[0]).max()


def test_crops_and_their_absence(tiny_store: Path) -> None:
    store = Store(tiny_store)
    faces = store.faces("s01")
    assert store.crop("s01", 1).startswith(b"\xff\xd8")
    assert not faces.found[0] and store.crop("s01", 0) == b""


def test_travels_to_another_process(tiny_store: Path) -> None:
    store = Store(tiny_store)
    before = store.eeg(0, 0, 1)
    assert np.array_equal(pickle.loads(pickle.dumps(store)).eeg(0, 0, 1), before)


@pytest.mark.parametrize("harm", ["change", "truncate", "delete", "table"])
def test_verify_names_the_damaged_file(tiny_store: Path, tmp_path: Path, harm: str) -> None:
    path = tmp_path / "store"
    shutil.copytree(tiny_store, path)
    assert [fault for _, fault in Store(path).verify() if fault] == []
    name = "trials.parquet" if harm == "table" else "recordings/s03/eeg.npy"
    file = path / name
    if harm == "delete":
        file.unlink()
    elif harm == "truncate":
        file.write_bytes(file.read_bytes()[:-100])
    elif harm == "table":
        pd.read_parquet(file).assign(rating_valence=5.0).to_parquet(file)
    else:
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(bytes(content))
    assert [found for found, fault in Store(path).verify() if fault] == [name]


def test_unreadable_signal_is_a_damaged_store(tiny_store: Path, tmp_path: Path) -> None:
    path = tmp_path / "store"
    shutil.copytree(tiny_store, path)
    (path / "recordings/s01/eeg.npy").write_bytes(b"nothing")
    with pytest.raises(DamagedStore, match=r"eeg\.npy"):
        Store(path).eeg(0)


def test_refuses_what_is_no_store_or_newer(tiny_store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found no study\.json"):
        Store(tmp_path)
    path = tmp_path / "store"
    shutil.copytree(tiny_store, path)
    info = json.loads((path / "study.json").read_text())
    (path / "study.json").write_text(json.dumps(info | {"schema": 99}))
    with pytest.raises(UserError, match="upgrade milmer"):
        Store(path)


def test_an_interrupted_recording_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with RecordingWriter(tmp_path, "s01") as writer:
            (writer.folder / "eeg.npy").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list((tmp_path / "recordings").iterdir()) == []


def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="disk is full") as caught, RecordingWriter(tmp_path, "s01"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "\n" not in str(caught.value)


def test_fingerprint_follows_content(tiny_store: Path, tmp_path: Path) -> None:
    path = tmp_path / "store"
    shutil.copytree(tiny_store, path)
    assert Store(path).fingerprint == Store(tiny_store).fingerprint
    info = json.loads((path / "study.json").read_text())
    info["recordings"]["s01"]["eeg.npy"][1] = "0" * 64
    (path / "study.json").write_text(json.dumps(info))
    assert Store(path).fingerprint != Store(tiny_store).fingerprint
