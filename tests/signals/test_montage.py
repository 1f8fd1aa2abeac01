from __future__ import annotations

import mne
import numpy as np
import pytest

from milmer.errors import UserError
from milmer.signals.channels import electrode_positions
from milmer.signals.montage import SETS, montage_names, spline_matrix


def field(places: np.ndarray) -> np.ndarray:
    """A smooth field of three sources on the sphere; (n, S)."""
    rng = np.random.default_rng(3)
    sources = electrode_positions(["C3", "Pz", "F4"])  # (3, 3)
    return np.exp(2 * places @ sources.T) @ rng.normal(size=(3, 50))  # (n, S)


def test_the_sets_are_of_their_sizes_and_of_electrodes() -> None:
    assert {k: len(v) for k, v in SETS.items()} == {"deap": 32, "emotiv": 14, "10-20": 19}
    for names in SETS.values():
        assert len(set(names)) == len(names) and np.isfinite(electrode_positions(names)).all()


def test_names_may_be_old_ones_and_any_case() -> None:
    assert montage_names("common") == ()
    assert montage_names("emotiv") == SETS["emotiv"]
    assert montage_names("fz, T3 ,EEG Oz") == ("Fz", "T7", "Oz")


@pytest.mark.parametrize(
    ("montage", "said"),
    [
        ("emotive", "did you mean 'emotiv'"),
        ("Fz,Cy", "Cy is no electrode"),
        ("T3,T7", "T7 is named twice"),
        (" , ", "found no electrode"),
    ],
)
def test_a_name_nobody_knows_is_one_line(montage: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        montage_names(montage)
    assert "\n" not in str(caught.value)


def test_the_spline_is_that_of_mne() -> None:
    names = list(SETS["deap"])
    places = electrode_positions(names)  # (C, 3)
    eeg = 1e-5 * field(places)  # (C, S)
    bad = ["Cz", "P7", "Fp1"]
    raw = mne.io.RawArray(eeg, mne.create_info(names, 128.0, "eeg"), verbose="ERROR")
    raw.set_montage(mne.channels.make_dig_montage(dict(zip(names, 0.095 * places, strict=True)), coord_frame="head"))
    raw.info["bads"] = bad
    raw.interpolate_bads(origin=(0.0, 0.0, 0.0), verbose="ERROR")
    at = [names.index(n) for n in bad]
    kept = [i for i in range(len(names)) if i not in at]
    ours = spline_matrix(places[kept], places[at]) @ eeg[kept]  # (3, S)
    theirs = raw.get_data()[at]  # (3, S)
    assert np.abs(ours - theirs).max() < 0.01 * np.abs(theirs).max()
    assert np.abs(ours - eeg[at]).max() < 0.15 * np.abs(eeg[at]).max()  # and both are near the truth


def test_a_measured_place_is_taken_as_it_is_and_what_all_share_stays() -> None:
    have, want = electrode_positions(SETS["deap"]), electrode_positions(["Oz", "CPz", "Fp2"])  # (32, 3), (3, 3)
    matrix = spline_matrix(5.0 * have, want)  # (3, 32): only directions count
    np.testing.assert_array_equal(matrix[0], np.eye(32)[SETS["deap"].index("Oz")])
    np.testing.assert_array_equal(matrix[2], np.eye(32)[SETS["deap"].index("Fp2")])
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-9)
