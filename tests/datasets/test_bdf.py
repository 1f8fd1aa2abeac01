"""BDF read a stretch at a time gives what MNE gives, and refuses what cannot be right."""

from __future__ import annotations

from pathlib import Path

import mne
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milmer.datasets.bdf import read_bdf_header
from milmer.errors import UserError

from .deap_raw_fixture import write_bdf

RATE, SECONDS = 8, 6
NAMES = ["Fp1", "Cz", "GSR1", "Status"]
UNITS = ["uV", "mV", "nS", "Boolean"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    values = np.random.default_rng(3).integers(-(2**23), 2**23, (4, SECONDS * RATE))  # (C, S)
    values[:, :2] = [[-(2**23), 2**23 - 1]] * 4
    return write_bdf(tmp_path_factory.mktemp("bdf") / "a.bdf", NAMES, values, RATE, UNITS), values


def test_stored_values_come_back(file: tuple[Path, np.ndarray]) -> None:
    path, values = file
    header = read_bdf_header(path)
    assert (header.names, header.units) == (tuple(NAMES), tuple(UNITS))
    assert (header.rate, header.samples) == (float(RATE), SECONDS * RATE)
    for channel in range(4):
        assert np.array_equal(header.stored(channel), values[channel])
    assert [header.volts(c) for c in range(4)] == [1e-6, 1e-3, None, None]


@settings(max_examples=30, deadline=None)
@given(span=st.tuples(st.integers(0, SECONDS * RATE - 1), st.integers(1, SECONDS * RATE)).filter(lambda s: s[0] < s[1]))
def test_any_stretch_is_that_of_mne(file: tuple[Path, np.ndarray], span: tuple[int, int]) -> None:
    path, values = file
    header = read_bdf_header(path)
    found = header.numbers((2, 0, 1), *span)  # (3, S)
    raw = mne.io.read_raw_bdf(path, stim_channel=None, verbose="error")
    wanted = raw.get_data(picks=[2, 0, 1], start=span[0], stop=span[1]) / np.array([[1.0], [1e-6], [1e-3]])
    assert np.allclose(found, wanted, rtol=1e-12, atol=1e-6)
    assert np.array_equal(header.numbers((3,), *span)[0], values[3, span[0] : span[1]])


def test_a_recorder_that_was_stopped_did_not_write_how_many_records(tmp_path: Path) -> None:
    path = write_bdf(tmp_path / "a.bdf", ["Cz"], np.ones((1, 3 * RATE)), RATE, ["uV"], records=-1)
    assert read_bdf_header(path).samples == 3 * RATE


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda b: b[:-10], "ends after 5.9 s, but its header says 6.0 s"),
        (lambda b: b[:400], "ends within its header (400 bytes)"),
        (lambda b: b[:100], "ends within its header"),
        (lambda b: b"", "no BDF"),
        (lambda b: b"0" + b[1:], "no BDF"),
        (lambda b: b[:244] + b"0".ljust(8) + b[252:], "a record of 0 s"),
        (lambda b: b[:252] + b"four" + b[256:], "number of channels is 'four'"),
    ],
)
def test_files_that_cannot_be_right(file: tuple[Path, np.ndarray], tmp_path: Path, change: object, named: str) -> None:
    path = tmp_path / "b.bdf"
    assert callable(change)
    path.write_bytes(change(file[0].read_bytes()))
    with pytest.raises(UserError) as caught:
        read_bdf_header(path)
    assert named in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_bdf_header(tmp_path / "none.bdf")
