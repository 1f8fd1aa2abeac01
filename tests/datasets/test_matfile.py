"""Both versions of Matlab files give the same values; what is no Matlab file is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.io import loadmat, savemat

from milmer.datasets.matfile import Left, mat_variables, read_mat
from milmer.errors import UserError

from .mat_fixture import cell, write_mat

VERSIONS = ("5", "7.3")


def content() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    structs = np.empty((1, 2), dtype=object)
    structs[0] = [{"x": np.array([[1.0, 2.0]]), "s": "one"}, {"x": np.zeros((0, 0)), "s": "two"}]
    grid = np.empty((2, 3), dtype=object)
    for k in range(6):
        grid.flat[k] = np.full((1, k + 1), float(k))
    return {
        "cube": rng.normal(size=(2, 3, 4)),
        "row": np.arange(5.0)[None],
        "small": np.array([[1.0, 2.0], [3.0, 200.0]]),
        "flags": np.array([[True, False, True]]),
        "name": "Ein Name",
        "nothing": np.zeros((0, 3)),
        "cells": cell(np.ones((4, 2)), np.zeros((0, 0)), "text", cell(np.array([[7.0]]))),
        "grid": grid,
        "one": {"a": np.array([[5.0]]), "inner": {"b": cell(np.ones((1, 2)), np.ones((3, 1)), column=True)}},
        "many": structs,
    }


def same(got: Any, wanted: Any) -> None:
    assert type(got) is type(wanted)
    if isinstance(wanted, dict):
        assert set(got) == set(wanted)
        for key in wanted:
            same(got[key], wanted[key])
    elif isinstance(wanted, np.ndarray):
        assert got.shape == wanted.shape
        assert got.dtype == wanted.dtype
        if wanted.dtype == object:
            for a, b in zip(got.flat, wanted.flat, strict=True):
                same(a, b)
        else:
            assert np.array_equal(got, wanted)
    else:
        assert got == wanted


@pytest.mark.parametrize("version", VERSIONS)
def test_every_kind_of_value_comes_back(tmp_path: Path, version: str) -> None:
    path = write_mat(tmp_path / "a.mat", content(), version)
    read = read_mat(path)
    assert set(read) == set(content())
    for name, wanted in content().items():
        same(read[name], wanted)


@pytest.mark.parametrize("version", VERSIONS)
def test_variables_are_listed_and_picked(tmp_path: Path, version: str) -> None:
    path = write_mat(tmp_path / "a.mat", content(), version)
    shapes = mat_variables(path)
    assert {k: shapes[k] for k in ("cube", "nothing", "cells", "grid", "one", "many")} == {
        "cube": (2, 3, 4),
        "nothing": (0, 3),
        "cells": (1, 4),
        "grid": (2, 3),
        "one": (1, 1),
        "many": (1, 2),
    }
    assert set(read_mat(path, ["row", "name"])) == {"row", "name"}
    with pytest.raises(UserError, match=r"a\.mat: has no variable rows \(did you mean 'row'\?\); found .*cube"):
        read_mat(path, ["rows"])


@pytest.mark.parametrize("version", VERSIONS)
def test_a_truncated_file_is_refused(tmp_path: Path, version: str) -> None:
    path = write_mat(tmp_path / "cut.mat", {"x": np.random.default_rng(0).normal(size=(50, 50))}, version)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"cut\.mat: not readable as a Matlab file .*get the file again") as caught:
        read_mat(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bytes_", [b"", b"not a matlab file at all, just text" * 20, b"\x80\x02}q\x00."])
def test_another_file_is_refused(tmp_path: Path, bytes_: bytes) -> None:
    path = tmp_path / "other.mat"
    path.write_bytes(bytes_)
    for read in (read_mat, mat_variables):
        with pytest.raises(UserError, match=r"other\.mat: not readable as a Matlab file"):
            read(path)
    with pytest.raises(UserError, match="no such file"):
        read_mat(tmp_path / "absent.mat")


def test_references_in_a_circle_and_links_to_other_files_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "circle.mat", "w") as file:
        made = file.create_dataset("c", (1, 1), dtype=h5py.ref_dtype)
        made.attrs["MATLAB_class"] = np.bytes_("cell")
        made[0, 0] = made.ref
    with h5py.File(tmp_path / "link.mat", "w") as file:
        file["x"] = h5py.ExternalLink("circle.mat", "/c")
    with pytest.raises(UserError, match="nested more than"):
        read_mat(tmp_path / "circle.mat")
    with pytest.raises(UserError, match="link to another file"):
        read_mat(tmp_path / "link.mat")


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_not_wanted_is_left(tmp_path: Path, version: str) -> None:
    big = [np.random.default_rng(k).normal(size=(600, 2)) for k in range(6)]
    subjects = cell(*({"EEG": {"stimuli": cell(*big[k : k + 3], column=True)}, "n": big[k][:2]} for k in (0, 3)))
    path = write_mat(tmp_path / "part.mat", {"S": {"Data": subjects, "rate": np.array([[128.0]])}}, version)
    read = read_mat(path, wanted=lambda place: place[:3] == ("S", "Data", 1) and place[-1] != 2)["S"]
    assert read["rate"] == 128
    first, second = (read["Data"][0, k] for k in range(2))
    assert [type(x) for x in first["EEG"]["stimuli"].flat] == [Left] * 3
    assert first["EEG"]["stimuli"][1, 0].shape == (600, 2)
    assert np.array_equal(first["n"], big[0][:2])  # small: always read
    assert np.array_equal(second["EEG"]["stimuli"][1, 0], big[4])
    assert isinstance(second["EEG"]["stimuli"][2, 0], Left)


def test_scipy_reads_the_same(tmp_path: Path) -> None:
    """Against an independent reader, with and without compression."""
    rng = np.random.default_rng(5)
    wanted = {
        "f": rng.normal(size=(3, 4, 2)),
        "i": rng.integers(-9, 9, (5, 2)).astype(np.int16),
        "z": rng.normal(size=(2, 2)) + 1j * rng.normal(size=(2, 2)),
        "t": np.array(["ab", "cd"]),
        "u": "Grüße",
    }
    for compressed in (True, False):
        path = tmp_path / f"{compressed}.mat"
        savemat(path, wanted, do_compression=compressed)
        read, reference = read_mat(path), loadmat(path)
        for name in "fiz":
            assert np.array_equal(read[name], reference[name])
            assert read[name].dtype == wanted[name].dtype
        assert list(read["t"].flat) == ["ab", "cd"]
        assert read["u"] == "Grüße"


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_with_wrong_bytes_is_read_or_refused(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "x.mat"
    items = np.empty((1, 2), dtype=object)
    items[0] = [{"a": np.arange(6.0), "t": "text"}, np.ones((2, 2))]
    savemat(path, {"c": items, "s": {"f": "abc", "g": np.eye(3)}}, do_compression=compressed)
    whole = path.read_bytes()
    rng = np.random.default_rng(7)
    refused = 0
    for _ in range(300):
        wrong = bytearray(whole)
        for at in rng.integers(128, len(whole), 2):
            wrong[at] = rng.integers(256)
        path.write_bytes(bytes(wrong))
        try:
            read_mat(path)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 50
