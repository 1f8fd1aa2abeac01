"""SEED's traps: a prefix that differs between files, sessions by date only, labels in a file of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milmer.datasets import seed_common
from milmer.datasets.seed import SeedStudy
from milmer.errors import UserError
from milmer.signals.channels import clean_names

from .mat_fixture import write_mat
from .seed_fixture import CHANNELS, LABELS, coded, write_session, write_study

FILES = {"1_20131107": "djc", "1_20131027": "djc", "10_20140404": "jl_x", "1_20131030": ""}
WORDS = {-1: "negative", 0: "neutral", 1: "positive"}


def refusal(call: Any) -> str:
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_values_labels_and_sessions_by_date(tmp_path: Path) -> None:
    study = SeedStudy(write_study(tmp_path, FILES))
    recordings = study.recordings()
    assert [r.key for r in recordings] == ["s01_ses-1", "s01_ses-2", "s01_ses-3", "s10_ses-1"]
    # The order in which the fixture wrote them, by which the values differ.
    for recording, start in zip(recordings, (1, 3, 0, 2), strict=True):
        assert [t.trial for t in recording.trials] == list(range(1, 16))
        assert [t.order for t in recording.trials] == list(range(15))
        for trial in recording.trials:
            assert trial.eeg is not None
            signal = trial.eeg()
            wanted = coded(trial.trial, start * 10**6)  # (62, S)
            kept = [k for k in range(CHANNELS) if k not in (57, 61)]
            assert np.allclose(signal.samples, wanted[kept] * 1e-6, rtol=0, atol=1e-12)
            assert (signal.rate, signal.unit, signal.pad_before, signal.pad_after) == (200.0, "V", 0.0, 0.0)
            assert trial.duration == wanted.shape[1] / 200
            assert trial.label == WORDS[LABELS[trial.trial - 1]]
            assert trial.stimulus == f"film{trial.trial:02d}"
            assert trial.key == ("seed", recording.key[:3], recording.key[-1], trial.trial)


def test_the_labels_are_those_of_the_file(tmp_path: Path) -> None:
    other = [-1, 1] * 7 + [0]
    (recording,) = SeedStudy(write_study(tmp_path, {"3_20140603": "xyl"}, labels=other)).recordings()
    assert [t.label for t in recording.trials] == [WORDS[c] for c in other]


def test_the_two_channels_without_a_place_are_the_cerebellar_ones() -> None:
    clean = clean_names(seed_common.CHANNELS)
    assert len(seed_common.CHANNELS) == 62
    assert set(clean.dropped) == {"CB1", "CB2"}
    assert (clean.names[0], clean.names[27], clean.names[-1]) == ("Fp1", "Cz", "O2")


def test_version_7_3_and_the_folder_itself(tmp_path: Path) -> None:
    folder = write_study(tmp_path, {}) / "Preprocessed_EEG"
    write_session(folder / "4_20140621.mat", (1, 2), prefix="xyl", version="7.3", start=5)
    (recording,) = SeedStudy(folder, "mine").recordings()
    signal = recording.trials[1].eeg
    assert signal is not None
    assert np.allclose(signal().samples[3], coded(2, 5)[3] * 1e-6)
    assert recording.trials[0].study == "mine"


def test_listing_opens_no_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = SeedStudy(write_study(tmp_path, FILES))

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(seed_common, "read_mat", never)
    assert len(study.recordings()) == 4


def test_missing_films_and_sessions_are_said(tmp_path: Path) -> None:
    root = write_study(tmp_path, {"1_20131027": "djc", "2_20140404": "jl"}, films=[n for n in range(1, 16) if n != 7])
    folder = root / "Preprocessed_EEG"
    write_session(
        folder / "2_20140404.mat", range(1, 16), prefix="jl", more={"jl_eeg7": np.zeros((62, 0)), "jl_note": 1.0}
    )
    (folder / "2_20140404 (1).mat").write_bytes(b"")
    study = SeedStudy(root)
    first, second = study.recordings()
    assert [t.trial for t in first.trials] == [t.trial for t in second.trials] == [1, 2, 3, 4, 5, 6, *range(8, 16)]
    assert any("no EEG of film 7" in n for n in first.notes)
    lines = "\n".join(study.survey())
    assert "no files of subject 3-15" in lines
    assert "subject 1: no file of session 2-3" in lines
    assert "numbered by the dates" in lines
    assert "2_20140404 (1).mat" in lines
    assert "label.mat" not in lines
    assert "readme" not in lines


def test_a_damaged_file_refuses_its_recording_only(tmp_path: Path) -> None:
    root = write_study(tmp_path, {"1_20131027": "djc", "1_20131030": "djc"})
    path = root / "Preprocessed_EEG" / "1_20131030.mat"
    path.write_bytes(path.read_bytes()[:5000])
    good, bad = SeedStudy(root).recordings()
    assert len(good.trials) == 15
    assert not bad.trials
    assert bad.check is not None
    assert str(path) in refusal(bad.check)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"djc_eeg1": np.ones((400, 62))}, "djc_eeg1 is (400, 62), expected (62, samples)"),
        ({"djc_eeg1": np.ones((62, 400)), "zjy_eeg1": np.ones((62, 400))}, "both claim film 1"),
        ({"djc_eeg16": np.ones((62, 400))}, "found djc_eeg16, expected films 1-15"),
        ({"de_LDS1": np.ones((62, 400))}, "found de_LDS1, expected films"),
    ],
)
def test_wrong_content(tmp_path: Path, content: dict[str, Any], found: str) -> None:
    root = write_study(tmp_path, {})
    path = write_mat(root / "Preprocessed_EEG" / "1_20131027.mat", content)
    (recording,) = SeedStudy(root).recordings()
    assert recording.check is not None
    message = refusal(recording.check)
    assert str(path) in message
    assert found in message


def test_the_unit_is_judged(tmp_path: Path) -> None:
    root = write_study(tmp_path, {})
    values = np.random.default_rng(0).normal(size=(62, 400)) * 1e-5
    write_mat(root / "Preprocessed_EEG" / "1_20131027.mat", {"a_eeg1": values, "a_eeg2": values * 1e6})
    (recording,) = SeedStudy(root).recordings()
    first, second = (t.eeg() for t in recording.trials if t.eeg)
    assert "another unit" in first.warnings[0]
    assert second.warnings == ()


def test_two_files_of_one_session_and_one_too_many(tmp_path: Path) -> None:
    root = write_study(tmp_path / "a", {"1_20131027": "djc", "01_20131027": "djc"})
    message = refusal(SeedStudy(root).recordings)
    assert "01_20131027.mat" in message
    assert "/1_20131027.mat" in message
    dates = {f"1_2013102{n}": "djc" for n in range(4)}
    assert "has 4 files" in refusal(SeedStudy(write_study(tmp_path / "b", dates)).recordings)


def test_labels_that_cannot_be(tmp_path: Path) -> None:
    files = {"1_20131027": "djc"}
    assert "label.mat: is missing" in refusal(SeedStudy(write_study(tmp_path / "a", files, labels=None)).recordings)
    for name, labels in (("b", LABELS[:14]), ("c", (*LABELS[:14], 2))):
        assert "expected 15 of -1, 0 and 1" in refusal(
            SeedStudy(write_study(tmp_path / name, files, labels=labels)).recordings
        )


def test_other_folders(tmp_path: Path) -> None:
    write_study(tmp_path / "SEED", {"1_20131027": "djc"})
    assert f"give {tmp_path / 'SEED'} instead" in refusal(lambda: SeedStudy(tmp_path))
    assert "found nothing" in refusal(lambda: SeedStudy(tmp_path / "no"))
    (tmp_path / "SEED" / "Preprocessed_EEG" / "1_20131027.mat").unlink()
    assert "found no file such as" in refusal(SeedStudy(tmp_path / "SEED").recordings)
