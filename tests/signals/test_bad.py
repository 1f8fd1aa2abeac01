from __future__ import annotations

from pathlib import Path

import mne
import numpy as np
import pytest

from milmer.signals.bad import noisy_channels, repair_matrix
from milmer.signals.channels import clean_names, electrode_positions

SAMPLES = Path(__file__).parents[2] / ".samples"


def _chunks(head) -> np.ndarray:
    return np.stack([s.samples[:, :3840] for s in head.eeg])


def test_good_channels_and_blinks_are_left_alone(make_head) -> None:
    assert noisy_channels(_chunks(make_head()), 128.0, np.zeros(32, dtype=bool)) == {}


@pytest.mark.parametrize("kind", ["loud", "quiet", "unlike"])
def test_a_broken_channel_is_found_and_no_other(make_head, kind: str) -> None:
    x = _chunks(make_head())
    rng = np.random.default_rng(1)
    noise = rng.normal(size=x[:, 10].shape)
    x[:, 10] = {"loud": 300e-6 * noise, "quiet": 0.02 * x[:, 10], "unlike": 10e-6 * noise}[kind]
    found = noisy_channels(x, 128.0, np.zeros(32, dtype=bool))
    assert list(found) == [10]


def test_where_most_look_noisy_none_is_called_so() -> None:
    x = np.random.default_rng(0).normal(size=(4, 16, 640))
    assert noisy_channels(x, 128.0, np.zeros(16, dtype=bool)) == {}


def test_interpolation_follows_the_neighbours_and_the_reference_is_their_mean() -> None:
    raw = mne.io.read_raw_edf(SAMPLES / "S001R02.edf", preload=True, verbose="ERROR")
    clean = clean_names(raw.ch_names)
    names, x = clean.names, raw.get_data()[clean.kept]
    positions = electrode_positions(names)
    cz = names.index("Cz")
    matrix, masked = repair_matrix(names, positions, [cz], reference=False)
    assert masked == []
    assert np.all(matrix[:, cz] == 0)
    others = np.delete(np.arange(64), cz)
    np.testing.assert_array_equal(matrix[others], np.eye(64)[others])
    assert np.corrcoef((matrix @ x)[cz], x[cz])[0, 1] > 0.9
    np.testing.assert_allclose((matrix @ np.ones(64))[cz], 1.0, atol=1e-3)
    referenced, _ = repair_matrix(names, positions, [cz], reference=True)
    np.testing.assert_allclose((referenced @ x).mean(axis=0), 0.0, atol=1e-18)


def test_a_channel_without_a_place_or_neighbours_is_masked() -> None:
    names = ["Fp1", "Fp2", "C3", "C4", "O1", "O2"]
    matrix, masked = repair_matrix(names, electrode_positions(names), [2], reference=True)
    assert masked == [2]
    assert np.all(matrix[2] == 0)
    assert np.all(matrix[:, 2] == 0)
    np.testing.assert_allclose(matrix.sum(axis=0)[[0, 1, 3, 4, 5]], 0.0, atol=1e-12)
