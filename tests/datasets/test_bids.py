"""EEG-BIDS: events become trials, their columns labels, stimuli and ratings; traps are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.datasets.bids_fixture import EEG, RATE, TRIALS, planted, write_bids
from typer.testing import CliRunner

from milmer.cli import app
from milmer.config import EEGPreparation, Preparation
from milmer.datasets import open_study
from milmer.datasets.base import Trial
from milmer.datasets.bids import BidsStudy
from milmer.errors import UserError
from milmer.preparation import prepare_study
from milmer.store import Store


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bids(tmp_path_factory.mktemp("bids") / "ds")


def amplitude(trial: Trial) -> float:
    signal = trial.eeg()  # type: ignore[misc]  # there is EEG
    before, after = round(signal.pad_before * RATE), round(signal.pad_after * RATE)
    samples = signal.samples[signal.names.index("Cz"), before : signal.samples.shape[1] - after]  # (S,)
    return float(np.sqrt(2) * np.std(samples))


def test_events_that_last_are_the_trials(root: Path) -> None:
    study = BidsStudy(root)
    assert study.name == "Films-feelings-test"
    recordings = study.recordings()
    assert [r.key for r in recordings] == ["sub-01", "sub-02"]
    for s, recording in enumerate(recordings, 1):
        assert [t.label for t in recording.trials] == [label for label, _, _ in TRIALS]
        assert [t.stimulus for t in recording.trials] == [f"{label}.mp4" for label, _, _ in TRIALS]
        assert [t.duration for t in recording.trials] == pytest.approx([length for _, _, length in TRIALS])
        for n, trial in enumerate(recording.trials):
            assert amplitude(trial) == pytest.approx(planted(s, n), rel=0.1)
        assert any("reaches beyond" in n for n in recording.notes)
        assert any("marked as bad in channels.tsv: O2" in n for n in recording.notes)


def test_columns_of_numbers_are_ratings(root: Path) -> None:
    study = BidsStudy(root)
    assert study.rating_ranges == {"valence": (1.0, 9.0)}  # of the sidecar; text and empty columns are none
    assert [t.ratings["valence"] for t in study.recordings()[0].trials] == [3.0, 4.0, 5.0]


def test_body_signals_are_known_by_their_kind(root: Path) -> None:
    trial = BidsStudy(root).recordings()[0].trials[0]
    assert set(trial.peripheral) == {"ecg", "ppg", "gsr"}
    gsr = trial.peripheral["gsr"]()
    assert gsr.unit == "S"
    assert float(np.median(gsr.samples)) == pytest.approx(2e-6, rel=0.1)
    assert trial.eog is not None and trial.eog().names == ("VEOG",)


def test_it_becomes_a_store(root: Path, tmp_path: Path) -> None:
    settings = Preparation(eeg=EEGPreparation(ica="none"), body=False)
    prepare_study(open_study("bids", root, "films"), tmp_path / "store", settings)
    store = Store(tmp_path / "store")
    assert store.name == "films"
    assert store.recording("sub-01").names == tuple(EEG)
    assert store.trials["label"].to_list() == ["joy", "fear", "neutral"] * 2


def test_the_survey_says_what_is_not_there_and_what_is_no_trial(root: Path) -> None:
    said = " | ".join(BidsStudy(root).survey())
    assert "77" in said and "start (2)" in said


def test_markers_need_to_be_named_and_given_a_length(tmp_path: Path) -> None:
    root = write_bids(tmp_path / "ds", subjects=1, durations=False)
    with pytest.raises(UserError, match="--event-seconds"):
        BidsStudy(root, events=("fear",)).recordings()
    study = BidsStudy(root, events=("fear",), event_seconds=4.0)
    (trial,) = study.recordings()[0].trials
    assert (trial.label, trial.duration, trial.onset) == ("fear", 4.0, 20.0)
    with pytest.raises(UserError, match="did you mean 'fear'"):
        BidsStudy(root, events=("feer",), event_seconds=4.0).recordings()


def test_edf_is_read_as_well(tmp_path: Path) -> None:
    root = write_bids(tmp_path / "ds", subjects=1, format="EDF")
    trial = BidsStudy(root).recordings()[0].trials[1]
    assert amplitude(trial) == pytest.approx(planted(1, 1), rel=0.1)


def test_what_is_no_dataset_is_refused_in_a_line(tmp_path: Path) -> None:
    def refused(says: str) -> None:
        with pytest.raises(UserError, match=says) as caught:
            for recording in BidsStudy(tmp_path / "ds").recordings():
                if recording.check is not None:
                    recording.check()
        assert "\n" not in str(caught.value)

    refused("found no folder")
    (tmp_path / "ds").mkdir()
    refused("dataset_description")
    write_bids(tmp_path / "ds", subjects=1)
    folder = tmp_path / "ds/sub-01/eeg"
    events = folder / "sub-01_task-film_events.tsv"
    whole = events.read_text()
    events.write_text(whole.replace("onset", "begin"))
    refused("no column onset")
    events.unlink()
    refused("has no sub-01_task-film_events.tsv")
    events.write_text(whole)
    (folder / "sub-01_task-film_eeg.edf").write_bytes(b"0")
    refused("claims the same trials")
    (folder / "sub-01_task-film_eeg.edf").unlink()
    header = next(folder.glob("*.vhdr"))
    header.write_text("nothing")
    refused("cannot be read by MNE-BIDS")


def test_the_command_takes_events(tmp_path: Path) -> None:
    root = write_bids(tmp_path / "ds", subjects=1, durations=False)
    out = tmp_path / "store"
    call = ["prepare", "bids", str(root), "--out", str(out), "--ica", "none"]
    result = CliRunner().invoke(app, [*call, "--events", "joy,fear", "--event-seconds", "5"])
    assert result.exit_code == 0, result.output
    assert Store(out).trials["label"].to_list() == ["joy", "fear"]
    for wrong in (["--event-seconds", "5"], []):
        assert CliRunner().invoke(app, [*call, *wrong]).exit_code != 0
    other = ["prepare", "table", str(root), "--out", str(out), "--events", "joy"]
    assert CliRunner().invoke(app, other).exit_code != 0


@pytest.mark.parametrize(
    ("table", "old", "new", "says"),
    [
        ("events", "onset", "begin", "no column onset"),
        ("channels", "name", "\x00", "sub-01"),
        ("events", "\t3.0\t", "\t12\t", "valence of trial 1 is 12, beyond .*1, 9"),
    ],
)
def test_a_subject_that_cannot_be_right_does_not_stop_the_others(
    tmp_path: Path, table: str, old: str, new: str, says: str
) -> None:
    root = write_bids(tmp_path / "ds")
    path = root / "sub-01" / "eeg" / f"sub-01_task-film_{table}.tsv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1) if table == "events" else "")
    study = BidsStudy(root)
    bad, good = study.recordings()
    assert (bad.key, len(bad.trials), len(good.trials)) == ("sub-01", 0, 3)
    with pytest.raises(UserError, match=says):
        assert bad.check is not None
        bad.check()
    settings = Preparation(eeg=EEGPreparation(ica="none"), body=False)
    done = prepare_study(study, tmp_path / "store", settings)
    assert (done.done, list(done.failed)) == (1, ["sub-01"])


def test_what_lies_beside_a_trial_is_padding(root: Path) -> None:
    first, _, last = BidsStudy(root).recordings()[0].trials
    assert first.eeg is not None and last.eeg is not None
    assert (first.eeg().pad_before, first.eeg().pad_after) == (3.0, 3.0)
    assert last.eeg().pad_after == pytest.approx(3.0)  # the file goes on for 3.5 s


@pytest.mark.parametrize(("unit", "scale"), [("uS", 1e-6), ("\u00b5S", 1e-6), ("nS", 1e-9), ("S", 1.0)])
def test_conductance_in_an_edf_is_in_the_unit_of_its_table(tmp_path: Path, unit: str, scale: float) -> None:
    root = write_bids(tmp_path / "ds", subjects=1, format="EDF")
    table = root / "sub-01" / "eeg" / "sub-01_task-film_channels.tsv"

    def gsr(name: str) -> float:
        lines = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()]
        column = lines[0].index("units")
        for line in lines[1:]:
            line[column] = name if line[0] == "EDA" else line[column]
        table.write_text("\n".join("\t".join(line) for line in lines) + "\n", encoding="utf-8")
        signal = BidsStudy(root).recordings()[0].trials[0].peripheral["gsr"]()
        assert signal.unit == ("1" if name == "n/a" else "S")
        return float(np.median(signal.samples))

    plain = gsr("n/a")
    assert plain != 0
    assert gsr(unit) == pytest.approx(plain * scale, rel=1e-6)


def test_an_electrode_keeps_its_name_where_one_before_it_is_left_out(tmp_path: Path) -> None:
    root = write_bids(tmp_path / "ds", subjects=1)
    table = root / "sub-01" / "eeg" / "sub-01_task-film_channels.tsv"
    text = table.read_text(encoding="utf-8")
    assert "Fp1\tEEG" in text
    table.write_text(text.replace("Fp1\tEEG", "Fp1\tMISC"), encoding="utf-8")
    trial = BidsStudy(root).recordings()[0].trials[2]
    assert trial.eeg is not None
    assert trial.eeg().names == tuple(EEG[1:])
    assert amplitude(trial) == pytest.approx(planted(1, 2), rel=0.1)
