"""A study on which arousal is the exclusive-or of what EEG and face show, so that neither alone says anything."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from milmer.datasets import simulated_eeg, simulated_face
from milmer.datasets.simulated import GENERATOR, SimulationOptions, make_plan, simulate_study
from milmer.errors import UserError

XOR = SimulationOptions(subjects=2, trials=8, seconds=9, fps=10, valence="none", joint="xor")


@pytest.mark.parametrize("signature", [False, True])
@pytest.mark.parametrize("trials", [4, 12, 16, 40, 10, 41])
def test_bits_are_balanced_and_alone_say_nothing(trials: int, signature: bool) -> None:
    for seed in range(10):
        plan = make_plan(replace(XOR, subjects=3, trials=trials, seed=seed, stimulus_signature=signature))
        assert (plan["high_arousal"] == (plan["high_eeg"] ^ plan["high_face"])).all()
        for name in ("valence", "arousal"):
            assert ((plan[name] > 5) == plan[f"high_{name}"]).all()
        for _, rows in plan.groupby("subject"):
            counts = rows.groupby(["high_eeg", "high_face"]).size()
            assert len(counts) == 4 and counts.max() - counts.min() == (1 if trials % 4 else 0)
            if trials % 4 == 0:
                for bit in ("high_eeg", "high_face"):
                    assert np.cov(rows[bit], rows["high_arousal"])[0, 1] == 0
                assert rows.groupby(["high_valence", "high_arousal"]).size().tolist() == 4 * [trials // 4]
            if trials % 8 == 0:
                assert rows.groupby(["high_eeg", "high_face", "high_valence"]).size().tolist() == 8 * [trials // 8]


def test_bits_differ_between_subjects_and_seeds() -> None:
    plans = [make_plan(replace(XOR, trials=40, seed=s)).sort_values(["subject", "experiment_id"]) for s in (0, 1)]
    codes = [p["high_eeg"].to_numpy() for plan in plans for _, p in plan.groupby("subject")]
    assert all(0.2 < (a == b).mean() < 0.8 for i, a in enumerate(codes) for b in codes[:i])


def test_eeg_and_face_each_show_their_own_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, Any]] = []
    real = simulated_eeg.simulate_trial

    def eeg(*given: Any, **options: Any) -> Any:
        shown.append(options)
        return real(*given, **options)

    monkeypatch.setattr(simulated_eeg, "simulate_trial", eeg)
    monkeypatch.setattr(simulated_face, "write_video", lambda path, *_, **__: path.write_bytes(b""))
    simulate_study(tmp_path / "study", XOR)
    plan = make_plan(XOR)
    assert [o["arousal"] for o in shown] == [1 if high else -1 for high in plan["high_eeg"]]
    assert {o["valence"] for o in shown} == {0}
    truth = tmp_path / "study" / "truth"
    labels = pd.read_csv(truth / "labels.csv")
    for column, planned in (("eeg", "high_eeg"), ("face", "high_face"), ("arousal", "high_arousal")):
        assert ((labels[column] == "high") == plan[planned]).all()
    events = pd.read_csv(truth / "events.csv")
    kinds = events[events["kind"].str.startswith("expression")].merge(labels, on=["subject", "trial"])
    assert len(kinds) >= 16
    assert (kinds["kind"] == np.where(kinds["face"] == "high", "expression:arousal+", "expression:arousal-")).all()
    assert json.loads((truth / "study.json").read_text())["options"]["joint"] == "xor"
    with pytest.raises(UserError, match="joint xor, asked for sum"):
        simulate_study(tmp_path / "study", replace(XOR, joint="sum"))


def test_the_eeg_really_carries_its_bit() -> None:
    """Power between 13 and 30 Hz tells the two levels of one subject apart, whatever the face shows."""
    plan = make_plan(replace(XOR, subjects=1, trials=16, seconds=15))
    options = replace(XOR, subjects=1, trials=16, seconds=15)
    powers, bits = [], []
    for row in plan.to_dict("records"):
        level = options.level(row, "arousal", "eeg")
        made = simulated_eeg.simulate_trial(0, 1, row["experiment_id"], 15, place=0.5, arousal=level)
        eeg = made.samples[:32, 3 * 128 :]  # (32, S)
        power = np.abs(np.fft.rfft(eeg, axis=1)) ** 2  # (32, F)
        freqs = np.fft.rfftfreq(eeg.shape[1], 1 / 128)
        bands = [power[:, (freqs >= a) & (freqs < b)].sum(axis=1) for a, b in ((4, 8), (8, 13), (13, 30))]
        powers.append(np.log(np.concatenate(bands)))
        bits.append(row["high_eeg"])
    x, y = np.array(powers), np.array(bits)  # (T, 96), (T,)
    apart = np.abs(x[y].mean(0) - x[~y].mean(0)) / x.std(0)
    assert apart.max() > 1.2
    label = plan["high_arousal"].to_numpy()
    assert np.abs(x[label].mean(0) - x[~label].mean(0)).max() < 0.6 * np.abs(x[y].mean(0) - x[~y].mean(0)).max()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"joint": "xr"}, "--joint xr: expected sum or xor.*did you mean 'xor'"),
        ({"valence": "eeg"}, "--valence eeg.*leave --valence out or give none"),
        ({"arousal": "face"}, "--arousal face.*leave --arousal out or give both"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        simulate_study(tmp_path / "study", replace(XOR, **wrong))
    assert "\n" not in str(caught.value) and not (tmp_path / "study").exists()


def test_a_study_of_the_sum_says_nothing_of_a_choice(tmp_path: Path) -> None:
    """What was simulated before there was a choice is still found finished."""
    options = SimulationOptions(subjects=1, trials=4, seconds=9, videos=False)
    simulate_study(tmp_path / "study", options)
    record = json.loads((tmp_path / "study/truth/study.json").read_text())
    assert record["generator"] == GENERATOR == 1 and "joint" not in record["options"]
    assert simulate_study(tmp_path / "study", options).reused == ("s01",)
    with pytest.raises(UserError, match="simulated with valence both, asked for none"):
        simulate_study(tmp_path / "study", replace(options, joint="xor", valence="none"))


def test_the_verb_takes_xor_and_leaves_valence_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from milmer.cli import app
    from milmer.datasets import simulated

    asked: list[SimulationOptions] = []
    monkeypatch.setattr(simulated, "simulate_study", lambda out, options, **_: asked.append(options))
    for extra in ([], ["--joint", "xor"], ["--joint", "xor", "--valence", "eeg"]):
        assert CliRunner().invoke(app, ["simulate", str(tmp_path / "x"), *extra]).exit_code == 0
    assert [(o.joint, o.valence) for o in asked] == [("sum", "both"), ("xor", "none"), ("xor", "eeg")]
