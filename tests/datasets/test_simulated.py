"""A simulated study has the publisher's layout, byte for byte the same whatever the number of processes."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milmer.datasets import simulated_face
from milmer.datasets.deap import DeapStudy
from milmer.datasets.safe_pickle import load_arrays
from milmer.datasets.simulated import (
    SimulationOptions,
    make_plan,
    simulate_study,
    write_python2_pickle,
)
from milmer.datasets.simulated_eeg import PULSE_SCALE
from milmer.errors import UserError
from milmer.labels import make_labels

SMALL = SimulationOptions(subjects=2, trials=8, seconds=9, videos=False)


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("simulated") / "study"
    simulate_study(out, SMALL)
    yield out


def test_layout_reads_back(study: Path) -> None:
    with (study / "data_preprocessed_python/s02.dat").open("rb") as file:
        found = pickle.load(file, encoding="latin1")  # as the publisher says to
    assert set(found) == {"labels", "data"}
    assert found["data"].shape == (8, 40, 128 * 9)
    assert found["labels"].shape == (8, 4)
    assert found["data"].dtype == found["labels"].dtype == np.float64
    assert np.isfinite(found["data"]).all()
    safe = load_arrays(study / "data_preprocessed_python/s02.dat")
    assert all(np.array_equal(safe[k], found[k]) for k in found)

    table = pd.read_csv(study / "metadata_csv/participant_ratings.csv")
    columns = "Participant_id,Trial,Experiment_id,Start_time,Valence,Arousal,Dominance,Liking,Familiarity"
    assert list(table.columns) == columns.split(",")
    rows = table[table["Participant_id"] == 2].sort_values("Experiment_id")
    assert list(rows["Experiment_id"]) == list(range(1, 9))
    assert sorted(rows["Trial"]) == list(range(1, 9))
    assert list(rows["Trial"]) != list(range(1, 9))
    assert np.array_equal(rows[["Valence", "Arousal", "Dominance", "Liking"]].to_numpy(), found["labels"])
    assert rows["Familiarity"].isna().all()  # participant 2 was not asked
    assert table.loc[table["Participant_id"] == 1, "Familiarity"].between(1, 5).all()
    assert (rows.sort_values("Trial")["Start_time"].diff().dropna() > 9e4).all()


def test_the_loader_of_the_real_study_reads_it(study: Path) -> None:
    recordings = DeapStudy(study).recordings()
    assert [r.key for r in recordings] == ["s01", "s02"]
    truth = pd.read_csv(study / "truth/labels.csv")
    for recording in recordings:
        rows = truth[truth["subject"] == recording.key].set_index("trial")
        for trial in recording.trials:
            rated = pd.DataFrame({"rating_" + k: [v] for k, v in trial.ratings.items()})
            labels = make_labels(rated)
            assert labels.classes[labels.y[0]] == rows.loc[trial.trial, "label"]
        eeg = recording.trials[0].eeg
        assert eeg is not None
        assert 1e-6 < eeg().samples.std() < 5e-5  # volts


def test_eeg_is_in_experiment_order(study: Path) -> None:
    """Noise-free check: the pulse of presentation t, as the truth has it, is row Experiment_id of the file."""
    from milmer.datasets.simulated_eeg import pulse

    truth = np.load(study / "truth/s01/pulse.npz")
    plan = make_plan(SMALL)
    data = load_arrays(study / "data_preprocessed_python/s01.dat")["data"]
    for row in plan[plan["subject"] == 1].itertuples():
        wave = PULSE_SCALE * pulse(truth[f"trial{row.trial:02d}"], np.arange(9 * 128) / 128 - 3)
        assert np.allclose(data[row.experiment_id - 1, 38], wave)


def test_truth_is_complete(study: Path) -> None:
    components = np.load(study / "truth/s01/components.npz")
    assert components["mixing"].shape == (32, len(components["names"]))
    assert set(components["kinds"][components["artifact"]]) == {"eye blink", "muscle artifact"}
    events = pd.read_csv(study / "truth/events.csv")
    assert set(events["subject"]) == {"s01", "s02"}
    assert (events["start"] <= events["apex"]).all()
    assert (events["apex"] <= events["stop"]).all()
    assert json.loads((study / "truth/study.json").read_text())["options"]["seconds"] == 9


def test_processes_change_nothing_and_a_second_call_makes_only_what_is_missing(study: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    steps: list[tuple[int, int]] = []
    summary = simulate_study(other, SMALL, jobs=2, progress=lambda done, total, text: steps.append((done, total)))
    assert summary.made == ("s01", "s02")
    assert steps[-1] == (16, 16)
    whole = files(study)
    assert files(other) == whole

    (other / "data_preprocessed_python/s02.dat").unlink()  # as a call that was killed would leave it
    (other / ".s02.part").mkdir()
    summary = simulate_study(other, SMALL)
    assert (summary.made, summary.reused) == (("s02",), ("s01",))
    assert files(other) == whole
    assert not (other / ".s02.part").exists()

    with pytest.raises(UserError, match="seed 0, asked for 1"):
        simulate_study(other, replace(SMALL, seed=1))
    assert files(other) == whole


def test_an_interrupted_call_leaves_no_half_subject(tmp_path: Path) -> None:
    out = tmp_path / "study"

    def interrupt(done: int, total: int, text: str) -> None:
        if done == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_study(out, SMALL, progress=interrupt)
    assert [p.name for p in (out / "data_preprocessed_python").iterdir()] == ["s01.dat"]
    assert simulate_study(out, SMALL).reused == ("s01",)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty and no simulated study"):
        simulate_study(tmp_path, SMALL)
    with pytest.raises(UserError, match="not empty"):
        simulate_study(tmp_path / "thesis.txt", SMALL)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"size": (10, 10)}, "--size 10x10.*720x576"),
        ({"size": (721, 576)}, "--size 721x576.*even"),
        ({"trials": 1}, "--trials 1.*from 4 to 99"),
        ({"seconds": 8}, "--seconds 8.*baseline"),
        ({"subjects": 0}, "--subjects 0"),
        ({"fps": 0}, "--fps 0"),
        ({"seed": -1}, "--seed -1"),
        ({"valence": "fase"}, "--valence fase.*did you mean 'face'"),
        ({"arousal": ""}, "--arousal"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path: Path, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        simulate_study(tmp_path / "study", replace(SMALL, **wrong))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "study").exists()


def test_jobs_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--jobs 0"):
        simulate_study(tmp_path / "study", SMALL, jobs=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 41), st.integers(0, 10_000), st.booleans())
def test_plans_are_balanced_and_ratings_clear(trials: int, seed: int, signature: bool) -> None:
    plan = make_plan(SimulationOptions(subjects=3, trials=trials, seed=seed, stimulus_signature=signature))
    for _, rows in plan.groupby("subject"):
        counts = (2 * rows["high_valence"] + rows["high_arousal"]).value_counts()
        assert len(counts) == 4
        assert counts.max() - counts.min() == (1 if trials % 4 else 0)
        assert sorted(rows["experiment_id"]) == list(range(1, trials + 1))
        assert list(rows["trial"]) == list(range(1, trials + 1))
    for name in ("valence", "arousal"):
        assert plan[name].between(1, 9).all()
        assert ((plan[name] - 5).abs() >= 0.2 - 1e-9).all()
        assert ((plan[name] > 5) == plan[f"high_{name}"]).all()
    assert plan[["dominance", "liking"]].stack().between(1, 9).all()


def test_classes_go_with_stimuli_only_with_a_signature() -> None:
    agreement = {}
    for signature in (False, True):
        plan = make_plan(SimulationOptions(subjects=20, trials=40, stimulus_signature=signature))
        by_stimulus = plan.groupby("experiment_id")["high_valence"].mean()
        agreement[signature] = float(np.maximum(by_stimulus, 1 - by_stimulus).mean())
    assert agreement[True] > 0.9
    assert agreement[True] < 1  # some are swapped
    assert agreement[False] < 0.68  # 20 fair coins: 0.59


class Seen:
    """Stands in for the drawing: notes what the face is asked to show, and writes an empty file."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.real = simulated_face.make_timeline

    def timeline(self, rng: np.random.Generator, **options: Any) -> Any:
        self.asked.append(options)
        return self.real(rng, **options)

    def video(self, path: Path, *_: Any, **options: Any) -> None:
        path.write_bytes(b"")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    double = Seen()
    monkeypatch.setattr(simulated_face, "make_timeline", double.timeline)
    monkeypatch.setattr(simulated_face, "write_video", double.video)
    return double


def test_the_face_is_given_the_pulse_of_channel_39(tmp_path: Path, seen: Seen) -> None:
    options = SimulationOptions(subjects=1, trials=4, seconds=15, fps=32, videos=True)
    simulate_study(tmp_path / "study", options)
    data = load_arrays(tmp_path / "study/data_preprocessed_python/s01.dat")["data"]
    order = make_plan(options)["experiment_id"]
    for stimulus, asked in zip(order, seen.asked, strict=True):
        assert asked["seconds"] == 12
        channel = data[stimulus - 1, 38, 3 * 128 :: 4]  # every fourth of 128 Hz is 32 Hz, from stimulus start
        assert np.allclose(asked["pulse"] * PULSE_SCALE, channel)


@pytest.mark.parametrize("carrier", ["eeg", "face", "both", "none"])
def test_the_face_shows_what_it_is_told(tmp_path: Path, seen: Seen, carrier: str) -> None:
    options = SimulationOptions(subjects=1, trials=4, seconds=9, fps=10, valence=carrier, arousal="face")
    simulate_study(tmp_path / "study", options)
    plan = make_plan(options)
    shown = carrier in ("face", "both")
    assert [a["valence"] for a in seen.asked] == [(1 if h else -1) * shown for h in plan["high_valence"]]
    assert [a["arousal"] for a in seen.asked] == [1 if h else -1 for h in plan["high_arousal"]]
    assert all(a["signature"] is None for a in seen.asked)


def test_videos_are_numbered_by_presentation_and_signed_by_stimulus(tmp_path: Path, seen: Seen) -> None:
    options = SimulationOptions(subjects=1, trials=5, seconds=9, fps=10, stimulus_signature=True)
    summary = simulate_study(tmp_path / "study", options)
    assert summary.videos == 5
    names = sorted(p.name for p in (tmp_path / "study/face_video/s01").iterdir())
    assert names == [f"s01_trial{t:02d}.avi" for t in range(1, 6)]
    assert [a["signature"] for a in seen.asked] == list(make_plan(options)["experiment_id"])
    assert simulate_study(tmp_path / "study", options).reused == ("s01",)


def test_a_real_video_covers_the_stimulus(tmp_path: Path) -> None:
    import av

    options = SimulationOptions(subjects=1, trials=4, seconds=9, size=(160, 128), fps=10)
    simulate_study(tmp_path / "study", options)
    with av.open(str(tmp_path / "study/face_video/s01/s01_trial03.avi")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 60
        assert (video.streams.video[0].width, video.streams.video[0].height) == (160, 128)
    events = pd.read_csv(tmp_path / "study/truth/events.csv")
    assert set(events["signal"]) == {"eeg", "face"}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "s01.dat")

    monkeypatch.setattr("milmer.datasets.simulated.write_python2_pickle", full)
    with pytest.raises(UserError, match=r"s01\.dat: cannot be written \(No space left on device\).*run again"):
        simulate_study(tmp_path / "study", SMALL)
    assert not list((tmp_path / "study").glob(".*"))


def test_pickle_has_the_form_of_python_2() -> None:
    file = io.BytesIO()
    arrays = {"labels": np.arange(6.0).reshape(2, 3), "data": np.zeros((1, 2, 0))}
    write_python2_pickle(file, arrays)
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in file.getvalue()
    assert b"_codecs" not in file.getvalue()
    found = pickle.loads(file.getvalue(), encoding="latin1")
    assert all(np.array_equal(found[k], v) and found[k].shape == v.shape for k, v in arrays.items())
