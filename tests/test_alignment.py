"""The mapped order of trials is proved by the pulse, a wrong one is found out; without a pulse nothing is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import make_store

from milmer.alignment import check_alignment, judge
from milmer.alignment_judging import MAPPED, RATE, compare, wrong_orders
from milmer.config import Data, load_config
from milmer.console import show_inspection
from milmer.datasets.deap import DeapStudy
from milmer.datasets.simulated import SimulationOptions, simulate_study
from milmer.inspection import inspect_store
from milmer.preparation import prepare_study
from milmer.store import Store

TRIALS, SECONDS = 8, 20.0
DEPTH = np.array([0.004, 0.017, 0.007])


def heart(rng: np.random.Generator, seconds: float) -> Callable[[np.ndarray], np.ndarray]:
    """A pulse wave as a function of time: beats of 0.6-1.1 s that wander as a real heart's do."""
    rate, beats, breath = rng.uniform(1.0, 1.4), [-3.0 - rng.uniform()], rng.uniform(0, 6.3)
    while beats[-1] < seconds + 3:
        beats.append(beats[-1] + (1 + 0.06 * np.sin(1.6 * beats[-1] + breath) + 0.04 * rng.standard_normal()) / rate)
    at = np.array(beats)
    return lambda t: np.exp(3 * (np.cos(2 * np.pi * np.interp(t, at, np.arange(len(at)))) - 1))


def add_pulse(
    store: Path, shown: Callable[[int], Sequence[int]], *, depth: float = 1.0, lag: float = 0.0, ecg: bool = False
) -> Store:
    """Give a store PPG and skin colour; the video of trial t has the heart of trial ``shown(subject)[t]``."""
    opened = Store(store)
    for s, key in enumerate(opened.keys):
        rng = np.random.default_rng([9, s])
        hearts = [heart(rng, SECONDS) for _ in range(TRIALS)]
        t, frames = np.arange(round(SECONDS * 128)) / 128, np.arange(round(SECONDS * 25)) / 25
        wave = [h(t) for h in hearts]
        if ecg:
            wave = [np.where(np.diff(h(t) > 0.8, prepend=False) & (h(t) > 0.8), 1e-3, 0.0) for h in hearts]
        signal = np.concatenate([w + 0.05 * w.std() * rng.standard_normal(len(w)) for w in wave])
        skin = []
        for h in (hearts[i] for i in shown(s)):
            pulse = h(frames - lag)[:, None] - 0.3
            rgb = np.array([150, 110, 90]) * (1 + depth * pulse * DEPTH + 0.004 * rng.standard_normal((len(frames), 3)))
            skin.append(np.concatenate([frames[:, None], rgb], axis=1))
        folder = opened.folder(key)
        name = "ecg" if ecg else "ppg"
        np.save(folder / f"peripheral_{name}.npy", signal.astype(np.float32))
        np.save(folder / "skin.npy", np.concatenate(skin).astype(np.float32))
        about = json.loads((folder / "recording.json").read_text())
        spans = {str(k + 1): [k * len(t), (k + 1) * len(t)] for k in range(TRIALS)}
        about["recording"]["peripheral"] = {name: {"rate": 128.0, "unit": "1", "spans": spans}}
        about["recording"]["skin"] = {str(k + 1): [k * len(frames), (k + 1) * len(frames)] for k in range(TRIALS)}
        (folder / "recording.json").write_text(json.dumps(about))
    return Store(store)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    return make_store(tmp_path / "store", subjects=2, trials=TRIALS, seconds=SECONDS, eeg=False)


def straight(subject: int) -> list[int]:
    return list(range(TRIALS))


def test_the_mapped_order_is_proved_with_its_lag(bare: Path) -> None:
    found = check_alignment(add_pulse(bare, straight, lag=0.2))
    assert found.verdict == "proved" and found.warnings() == []
    assert found.own_best == found.trials == 16
    assert found.lag == pytest.approx(0.2, abs=1 / RATE)
    assert found.judgement is not None and found.judgement.p[MAPPED] < 0.001
    assert found.lines()[0].startswith("the pulse in the face fits the mapped order of trials: 16 of 16 videos")
    assert found.lines()[1] == "the face's pulse comes 0.20 s after the signal's"
    assert all(r.best == r.trials and r.similarity.shape == (8, 8) for r in found.recordings)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["recordings"][0]["trials"] == list(range(1, 9))


def test_an_ecg_serves_as_well(bare: Path) -> None:
    found = check_alignment(add_pulse(bare, straight, ecg=True))
    assert found.verdict == "proved" and found.own_best >= 15
    assert found.recordings[0].signal == "ecg"


def by_stimulus(store: Path, subject: int) -> list[int]:
    """What a reader sees that takes data row t, which is of stimulus t, for the t-th trial shown."""
    trials = Store(store).trials
    rows = trials[trials["store_key"] == f"s{subject + 1:02d}"].sort_values("trial")
    return [int(np.flatnonzero(rows["stimulus"] == f"e{t + 1:02d}")[0]) for t in range(TRIALS)]


@pytest.mark.parametrize("name", ["by stimulus number", "one later", "one earlier", "reversed"])
def test_wrong_orders_that_happen_are_named(name: str, bare: Path) -> None:
    orders = {
        "by stimulus number": lambda s: by_stimulus(bare, s),
        "one later": lambda s: [*range(1, TRIALS), 0],
        "one earlier": lambda s: [TRIALS - 1, *range(TRIALS - 1)],
        "reversed": lambda s: list(range(TRIALS))[::-1],
    }
    found = check_alignment(add_pulse(bare, orders[name]))
    assert found.verdict == "wrong"
    assert f"'{name}'" in found.warnings()[0] and "mapped wrongly" in found.warnings()[0]
    assert "does NOT fit" in found.lines()[0]
    for subject, recording in enumerate(found.recordings):
        assert [t - 1 for t in recording.best] == orders[name](subject)


def test_an_order_without_a_name_is_found_too(bare: Path) -> None:
    found = check_alignment(add_pulse(bare, lambda s: [3, 6, 0, 7, 1, 2, 5, 4]))
    assert found.verdict == "wrong" and "another order" in found.warnings()[0]
    assert found.recordings[0].best == (4, 7, 1, 8, 2, 3, 6, 5)


def test_one_subject_in_a_wrong_order_is_named(bare: Path) -> None:
    found = check_alignment(add_pulse(bare, lambda s: straight(s)[::-1] if s else straight(s)))
    assert found.verdict == "wrong"
    (line,) = [w for w in found.warnings() if w.startswith("s0")]
    assert line.startswith("s02: videos fit the ppg of other trials (video -> signal): 1 -> 8")


def test_two_videos_swapped_are_named(bare: Path) -> None:
    found = check_alignment(add_pulse(bare, lambda s: [0, 1, 5, 3, 4, 2, 6, 7] if s == 0 else straight(s)))
    assert found.recordings[0].strays == ((3, 6), (6, 3)) and found.recordings[1].strays == ()
    assert found.warnings() == ["s01: videos fit the ppg of other trials (video -> signal): 3 -> 6, 6 -> 3"]


@pytest.mark.parametrize("order", [straight, lambda s: straight(s)[::-1]])
def test_without_a_pulse_in_the_face_nothing_is_said(order: Callable[[int], list[int]], bare: Path) -> None:
    found = check_alignment(add_pulse(bare, order, depth=0.0))
    assert found.verdict == "unknown" and found.warnings() == [] and not np.isfinite(found.lag)
    assert found.lines()[0].startswith("cannot tell: no order of trials stands out")


def test_no_false_alarm_and_no_false_proof_in_noise() -> None:
    verdicts = []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        faces, bodies = ([heart(rng, 15.0)(np.arange(375) / 25) for _ in range(6)] for _ in range(2))
        even = [[w - w.mean() for w in waves] for waves in (faces, bodies)]
        verdicts.append(judge([compare(*even)]).verdict)
    assert verdicts.count("unknown") >= 23 and "wrong" not in verdicts


def test_three_trials_in_the_mapped_order_raise_no_alarm() -> None:
    """One random order in six is the mapped one: it cannot stand out, and the best assignment is no other."""
    verdicts, grid = [], np.arange(1500) / 25
    for seed in range(12):
        rng = np.random.default_rng([seed, 7])
        hearts = [heart(rng, 60.0)(grid) for _ in range(3)]
        signals = [w - w.mean() for w in hearts]
        videos = [w + 0.1 * rng.standard_normal(len(w)) for w in signals]
        verdicts.append(judge([compare(videos, signals)], seed=seed).verdict)
    assert set(verdicts) == {"unknown"}


def test_what_could_not_be_compared_is_said(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = check_alignment(Store(bare))
    assert found.recordings == () and found.warnings() == []
    assert found.lines() == ["not checked: no pulse signal (ppg or ecg) to compare the face with"]
    store = add_pulse(bare, straight)
    for key in store.keys:
        about = json.loads((store.folder(key) / "recording.json").read_text())
        del about["recording"]["skin"]
        (store.folder(key) / "recording.json").write_text(json.dumps(about))
    older = Store(bare)
    assert older.skin(0) is None
    show_inspection(inspect_store(older, Data()), bare)
    assert "alignment: not checked: the store has no skin colour; prepare it again" in capsys.readouterr().out


def test_trials_without_skin_are_left_out_of_all_orders(bare: Path) -> None:
    store = add_pulse(bare, lambda s: list(range(TRIALS))[::-1])
    for key in store.keys:
        about = json.loads((store.folder(key) / "recording.json").read_text())
        del about["recording"]["skin"]["3"]
        (store.folder(key) / "recording.json").write_text(json.dumps(about))
    found = check_alignment(Store(bare))
    assert found.trials == 14 and found.recordings[0].trials == (1, 2, 4, 5, 6, 7, 8)
    assert found.verdict == "wrong"


def test_the_wrong_orders() -> None:
    orders = wrong_orders(4, [3, 1, 4, 2])
    assert {k: v.tolist() for k, v in orders.items()} == {
        "by stimulus number": [1, 3, 0, 2],
        "one later": [1, 2, 3, 0],
        "one earlier": [3, 0, 1, 2],
        "reversed": [3, 2, 1, 0],
    }
    assert "by stimulus number" not in wrong_orders(4, [1, 2, 3, 4]) | wrong_orders(4, [5, 6, 7, 8])


# --- the whole road: a simulated study, prepared as it is and with its table wrong ----------------------------------


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pulse") / "study"
    options = SimulationOptions(subjects=1, trials=9, seconds=23, size=(160, 128), fps=25, seed=11)
    simulate_study(root, options, jobs=1)
    return root


def prepared(study: Path, out: Path, *sets: str) -> Store:
    settings = load_config(overrides=["preparation.eeg.ica=none", "preparation.body=false", *sets]).preparation
    assert not prepare_study(DeapStudy(study), out, settings).failed
    return Store(out)


def test_a_simulated_study_is_proved_and_a_wrong_table_is_found_out(
    simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = prepared(simulated, tmp_path / "right")
    times, rgb = right.skin(2) or (np.zeros(0), np.zeros((0, 3)))
    assert len(times) == 500 and np.isfinite(rgb).all(axis=1).mean() > 0.95
    found = check_alignment(right)
    assert found.verdict == "proved", found.lines()
    assert abs(found.lag) <= 0.081
    # The very mistake: data rows are by stimulus, videos by presentation, and the table says that both are one.
    root = tmp_path / "study"
    shutil.copytree(simulated, root, ignore=shutil.ignore_patterns("truth"))
    table = root / "metadata_csv/participant_ratings.csv"
    rows = pd.read_csv(table)
    rows["Trial"] = rows["Experiment_id"]
    rows.to_csv(table, index=False)
    wrong = inspect_store(prepared(root, tmp_path / "wrong"), Data())
    assert wrong.alignment is not None and wrong.alignment.verdict == "wrong", wrong.alignment.lines()
    show_inspection(wrong, tmp_path)
    assert "videos and signals are mapped wrongly" in capsys.readouterr().err


def test_without_skin_it_is_said_how_to_get_it(simulated: Path, tmp_path: Path) -> None:
    store = prepared(simulated, tmp_path / "store", "preparation.face.skin=none")
    assert store.skin(0) is None and not list((tmp_path / "store").rglob("skin.npy"))
    (line,) = check_alignment(store).lines()
    assert line.endswith("prepare it again, into another folder, with --set preparation.face.skin=25")
