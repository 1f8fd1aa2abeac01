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
        ("EEG Fp1-AA", "Fp1"),
        ("EEG Fz-CLE", "Fz"),
        ("Fz-LER", "Fz"),
        ("EEG Fp1-NE", "Fp1"),
        ("Fp1-Vref", "Fp1"),
        ("EEG C3-A1A2", "C3"),
        ("C3-A1+A2", "C3"),
        ("EEG F3-(A1+A2)/2", "F3"),
        ("EEG F3-((A1+A2)/2)", "F3"),
        ("C3:A2", "C3"),
        ("C3/M2", "C3"),
        ("C3A2", "C3"),
        ("Fp1_Ref", "Fp1"),
        ("EEG Fp1 Ref", "Fp1"),
        ("Fp1REF", "Fp1"),
        ("EEG FP1-REF-0", "Fp1"),
        ("'Fp1'", "Fp1"),
        ("Fp1 (uV)", "Fp1"),
        ("Fp1[µV]", "Fp1"),
        ("12-Fp1", "Fp1"),
        ("EEG 12 Cz", "Cz"),
        ("CH1 Fp1", "Fp1"),
        ("T3/T7", "T7"),
        ("T7 (T3)", "T7"),
        ("Iz.", "Iz"),
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
        ("CB1", "cerebellum"),
        ("EEG A1-REF", "mastoid reference"),
        ("EEG 001", "10-05"),
        ("E1-M2", "10-05"),
    ],
)
def test_others_are_dropped_with_a_reason(given_: str, why: str) -> None:
    found = clean_names([given_])
    assert found.kept == []
    assert why in found.dropped[given_]
    assert found.eog == found.ecg == []
    assert found.positions.shape == (0, 3)


@pytest.mark.parametrize(("given_", "near"), [("Fp1x", "Fp1"), ("EEG Pzz-REF", "Pz"), ("EEG Fcz1", "FCz")])
def test_a_name_nobody_knows_is_dropped_with_the_nearest_known(given_: str, near: str) -> None:
    assert clean_names([given_]).dropped[given_] == f"not a name of the 10-05 system (did you mean '{near}'?)"


@pytest.mark.parametrize("given_", ["Status", "EXG1", "GSR1", "Marker", "Trigger 2"])
def test_what_is_no_misspelt_electrode_is_not_taken_for_one(given_: str) -> None:
    assert "did you mean" not in clean_names([given_]).dropped[given_]


def test_a_scalp_electrode_that_all_are_against_is_their_reference() -> None:
    places = ["Fp1", "Fp2", "F3", "F4", "C3", "C4", "O1", "O2"]
    assert clean_names([f"EEG {p} - Pz" for p in places]).names == tuple(places)
    chain = clean_names(["Fp1-F7", "F7-T3", "T3-T5", "T5-O1", "Fp2-F8", "F8-T4", "T4-T6", "T6-O2", "Fz-Cz", "Cz-Pz"])
    assert chain.names == ()
    assert all("bipolar" in why for why in chain.dropped.values())


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
