"""SEED-V's traps: films cut from one long recording by time, references and eye channels among the electrodes.

The Neuroscan files are written by the fixture and read by MNE; their rate is 10 Hz instead of 1000.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from milmer.datasets.seed_v import CLASSES, PLANS, SeedVStudy
from milmer.errors import UserError
from milmer.signals.channels import clean_names

from .seed_v_fixture import NAMES, write_cnt, write_study


def test_films_are_cut_by_the_times_with_what_is_around_them(tmp_path: Path) -> None:
    study = SeedVStudy(write_study(tmp_path, {"1_2_20180810": 2900.0, "1_1_20180804": 3370.0}))
    first, second = study.recordings()
    assert (first.key, second.key) == ("s01_ses-1", "s01_ses-2")
    for recording, start, session in ((first, 10**7, 1), (second, 0, 2)):
        plan = PLANS[session]
        assert len(recording.trials) == 15
        for trial, begin, end in zip(recording.trials, plan.starts, plan.ends, strict=True):
            assert (trial.duration, trial.onset) == (end - begin, begin)
            assert trial.eeg is not None
            assert trial.eog is not None
            eeg, eog = trial.eeg(), trial.eog()
            assert (eeg.pad_before, eeg.pad_after, eog.pad_before) == (3.0, 3.0, 3.0)
            second_ = np.repeat(np.arange(begin - 3, end + 3), 10)  # (S,)
            for signal, names in ((eeg, clean_names(NAMES).kept), (eog, [64, 65])):
                wanted = start + second_ + np.array(names)[:, None] * 10**5  # (C, S)
                assert np.allclose(signal.samples * 1e6, wanted, rtol=1e-6, atol=0.01)
            assert eog.names == ("VEO", "HEO")
            assert not {"M1", "M2", "CB1", "VEO"} & set(eeg.names)
            assert len(eeg.names) == 60


def test_labels_as_the_publisher_prints_them(tmp_path: Path) -> None:
    study = SeedVStudy(write_study(tmp_path, {"1_1_20180804": 3370.0, "1_3_20180826": 3100.0}))
    first, third = study.recordings()
    assert [CLASSES.index(t.label) for t in first.trials] == [4, 1, 3, 2, 0] * 3
    assert [CLASSES.index(t.label) for t in third.trials] == [2, 1, 3, 0, 4, 4, 0, 3, 2, 1, 3, 4, 1, 2, 0]
    assert (first.trials[0].stimulus, third.trials[0].stimulus) == ("ses1-film01", "ses3-film01")


def test_plans_do_not_overlap_and_have_each_class_three_times() -> None:
    for plan in PLANS.values():
        times = [t for pair in zip(plan.starts, plan.ends, strict=True) for t in pair]
        assert times == sorted(times)
        assert [plan.labels.count(c) for c in range(5)] == [3] * 5


def test_a_recording_that_stops_early(tmp_path: Path) -> None:
    study = SeedVStudy(write_study(tmp_path, {"2_1_20180416": 300.5, "3_1_20180417": 12.0}))
    cut, empty = study.recordings()
    assert [t.trial for t in cut.trials] == [1, 2, 3]
    assert cut.trials[2].duration == pytest.approx(13.5)
    assert cut.trials[2].eeg is not None
    assert cut.trials[2].eeg().pad_after == 0.0
    assert any("film 3 (287-524 s) is cut: the file ends at 300.5 s" in n for n in cut.notes)
    assert any("no EEG of film 4-15" in n for n in cut.notes)
    assert not empty.trials
    assert empty.check is not None
    with pytest.raises(UserError, match="before the first film"):
        empty.check()


def test_a_truncated_file_and_names_nobody_knows(tmp_path: Path) -> None:
    root = write_study(tmp_path, {"1_1_20180804": 200.0})
    path = root / "EEG_raw" / "1_1_20180804.cnt"
    path.write_bytes(path.read_bytes()[:-5000])
    other = write_cnt(root / "EEG_raw" / "2_1_20180416.cnt", seconds=200, names=("A01", "A02", "VEO"))
    noeyes = write_cnt(root / "EEG_raw" / "3_1_20180416.cnt", seconds=200, names=("FZ", "CZ", "PZ"))
    for recording, file, found in zip(
        SeedVStudy(root).recordings(), (path, other, noeyes), ("cannot be read", "no electrode", ""), strict=True
    ):
        if found:
            assert recording.check is not None
            with pytest.raises(UserError, match=found) as caught:
                recording.check()
            assert str(file) in str(caught.value)
            assert "\n" not in str(caught.value)
        else:
            assert recording.trials[0].eog is None
            assert any("no eye channels" in n for n in recording.notes)


def test_two_files_of_one_session_and_other_names(tmp_path: Path) -> None:
    root = write_study(tmp_path, {"1_1_20180804": 200.0})
    study = SeedVStudy(root)
    write_cnt(root / "EEG_raw" / "1_4_20180804.cnt", seconds=20)
    lines = "\n".join(study.survey())
    assert "1_4_20180804.cnt" in lines
    assert "no files of subject 2-16" in lines
    write_cnt(root / "EEG_raw" / "1_1_20180805.cnt", seconds=20)
    with pytest.raises(UserError, match="session 1 is claimed by"):
        study.recordings()
