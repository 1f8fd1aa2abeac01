"""Channel names as real recorders write them."""

from __future__ import annotations

from pathlib import Path

import mne
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milmer.signals.channels import clean_names, electrode_positions

SAMPLES = Path(__file__).parents[2] / ".samples"
DEAP = "Fp1 AF3 F3 F7 FC5 FC1 C3 T7 CP5 CP1 P3 P7 PO3 O1 Oz Pz Fp2 AF4 Fz F4 F8 FC6 FC2 Cz C4 T8 CP6 CP2 P4 P8 PO4 O2"


@pytest.mark.parametrize(
    ("given_", "wanted"),
    [
        ("EEG T3", "T7"),
        ("T4", "T8"),
        ("eeg t5-ref", "P7"),
        ("EEG T6-LE", "P8"),
        ("EEG Fp1-REF", "Fp1"),
        ("EEG FP2-A1", "Fp2"),
        ("EEG C3-M2", "C3"),
        ("Fp1.", "Fp1"),
        ("FP1", "Fp1"),
        ("Fc5.", "FC5"),
        ("Af7.", "AF7"),
        ("C5..", "C5"),
        ("POZ", "POz"),
        ("EEG.AF3", "AF3"),
        ("EEG-Cz", "Cz"),
        ("POL Fz", "Fz"),
        (" Oz ", "Oz"),
        ("O9", "I1"),
        ("Cz-0", "Cz"),
        ("AFp9h", "AFp9h"),
    ],
)
def test_known_names(given_: str, wanted: str) -> None:
    found = clean_names([given_])
    assert found.names == (wanted,)
    assert found.kept == [0]
    assert found.dropped == {}


@pytest.mark.parametrize(
    ("given_", "why"),
    [
        ("EEG A2-A1", "between two references"),
        ("F3-C3", "bipolar"),
        ("Fp1-Cz", "bipolar"),
        ("Fp1-X9", "unknown reference"),
        ("M1", "reference"),
        ("EXG1", "10-05"),
        ("Status", "10-05"),
        ("E17", "10-05"),
        ("GSR1", "10-05"),
        ("EMG Fp", "10-05"),
        ("", "10-05"),
    ],
)
def test_others_are_dropped_with_a_reason(given_: str, why: str) -> None:
    found = clean_names([given_])
    assert found.kept == []
    assert why in found.dropped[given_]
    assert found.eog == found.ecg == []
    assert found.positions.shape == (0, 3)


def test_eye_and_heart_channels_are_told_apart() -> None:
    found = clean_names(["ECG ECG", "hEOG", "Fz", "EOG left", "VEO", "EKG1", "EEG EOG-L"])
    assert found.ecg == [0, 5]
    assert found.eog == [1, 3, 4, 6]
    assert found.kept == [2]
    assert "heart" in found.dropped["ECG ECG"]
    assert "eye" in found.dropped["hEOG"]


def test_an_electrode_is_kept_once() -> None:
    found = clean_names(["T7", "EEG T3", "Cz"])
    assert found.names == ("T7", "Cz")
    assert found.kept == [0, 2]
    assert "second T7" in found.dropped["EEG T3"]


def test_real_file_of_64_channels() -> None:
    raw = mne.io.read_raw(SAMPLES / "S001R02.edf", preload=False, verbose="error")
    found = clean_names(raw.ch_names)
    assert len(found.names) == 64
    assert found.names[:3] == ("FC5", "FC3", "FC1")
    assert found.names[-1] == "Iz"
    assert found.dropped == {}


def test_positions_lie_on_the_head() -> None:
    names = DEAP.split()
    found = clean_names(names)
    assert list(found.names) == names
    assert np.allclose(np.linalg.norm(found.positions, axis=1), 1)
    place = dict(zip(names, found.positions, strict=True))
    assert place["Cz"][2] > 0.99  # up
    assert place["Oz"][1] < -0.9  # back
    assert place["T8"][0] > 0.9  # right
    assert place["T7"][0] < -0.9  # left
    assert place["Fp1"][1] > 0.9  # front
    for left, right in (("F3", "F4"), ("CP5", "CP6"), ("O1", "O2"), ("AF3", "AF4")):
        assert np.allclose(place[left] * [-1, 1, 1], place[right], atol=0.05)


def test_positions_are_directions_from_one_centre() -> None:
    """Against MNE's own fit of a sphere to the same electrodes."""
    names = DEAP.split()
    montage = mne.channels.make_standard_montage("biosemi32")  # the same 32 names on an ideal sphere
    ideal = np.array([montage.get_positions()["ch_pos"][n] for n in names])  # (32, 3)
    ideal /= np.linalg.norm(ideal, axis=1, keepdims=True)
    angles = np.degrees(np.arccos(np.clip((ideal * electrode_positions(names)).sum(axis=1), -1, 1)))
    assert angles.max() < 20


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=12), st.sampled_from([*DEAP.split(), "EOG", "ECG", "T3", "a1-A2"]))))
def test_every_name_is_kept_or_dropped(names: list[str]) -> None:
    found = clean_names(names)
    assert len(set(found.names)) == len(found.names) == len(found.kept) == len(found.positions)
    assert found.kept == sorted(set(found.kept))
    lost = {n for i, n in enumerate(names) if i not in found.kept}
    assert lost == set(found.dropped)
    assert all(found.dropped.values())
