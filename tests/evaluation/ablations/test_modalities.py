from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from milmer.config import Config, load_config
from milmer.errors import UserError
from milmer.evaluation.ablations import ablate as ablation
from milmer.evaluation.ablations.ablate import ablate
from milmer.evaluation.ablations.plans import DROPOUT, plan
from milmer.evaluation.ablations.results import read_ablations
from milmer.evaluation.ablations.runs import cell_key
from milmer.evaluation.subsets import SUBSETS, Shown, subset_rows, subsets
from milmer.reports.ablation import write_ablation_report
from milmer.store import Store

QUICK = {
    "data.modalities": ["eeg", "gsr"],
    "data.target": "valence",
    "model.width": 16,
    "model.fusion.heads": 2,
    "model.fusion.layers": 1,
    "model.fusion.feedforward": 32,
    "training.lr": 5e-3,
    "training.epochs": 12,
    "training.batch": 8,
    "training.patience": 100,
    "model.fusion.dropout": 0.0,
    "model.modality_dropout": 0.0,
    "evaluation.samples": "none",
    "training.threads": 1,
    "training.device": "cpu",
    "evaluation.folds": 3,
    "evaluation.resamples": 100,
}


def config(**more: Any) -> Config:
    return load_config("demo", overrides=QUICK | {k.replace("__", "."): v for k, v in more.items()})


def test_every_subset_once_the_whole_first() -> None:
    assert subsets(("a", "b", "c")) == (("a", "b", "c"), ("a", "b"), ("a", "c"), ("b", "c"), ("a",), ("b",), ("c",))
    assert len(subsets(tuple("abcde"))) == 31


def test_subset_rows_are_the_same_windows_with_other_answers() -> None:
    table = pd.DataFrame(
        {"subject": ["s1", "s2"], "prob_a": 0.5, "prob_b": 0.5, "y_pred": 0, "frame_weights": [[1], [2]]}
    )
    found = subset_rows(
        table,
        ["a", "b"],
        [
            Shown(("eeg", "gsr"), np.full((2, 2), 0.5), np.array([True, True])),
            Shown(("gsr",), np.array([[0.1, 0.9]] * 2), np.array([True, False])),
        ],
    )
    assert found["evidence"].tolist() == [True, True, True, False]
    assert found["present"].tolist() == ["eeg+gsr"] * 2 + ["gsr"] * 2
    assert found["prob_b"].tolist() == [0.5, 0.5, 0.9, 0.9] and found["y_pred"].tolist() == [0, 0, 1, 1]
    assert found["subject"].tolist() == ["s1", "s2"] * 2 and "frame_weights" not in found


def test_the_cells_are_every_subset_of_one_run_and_models_to_compare_it_with() -> None:
    own = config(data__modalities=["eeg", "face", "gsr", "ppg"])
    cells = {c.name: c for c in plan("modalities", own)}
    assert len(cells) == 15 + 4 + 1 and next(iter(cells)) == "eeg+face+gsr+ppg"
    keys = {n: cell_key(c.apply(own, 0), "store") for n, c in cells.items()}
    assert len({keys[n] for n, c in cells.items() if c.present}) == 1 and len(set(keys.values())) == 6
    made = {n: c.apply(own, 0) for n, c in cells.items()}
    assert made["gsr"].model.modality_dropout == DROPOUT and made["gsr"].evaluation.subsets
    assert made["without-dropout"].model.modality_dropout == 0 and not made["without-dropout"].evaluation.subsets
    assert made["ppg-alone"].data.modalities == ("ppg",)
    for given, used in ((0.0, DROPOUT), (0.1, DROPOUT), (0.3, 0.3), (0.7, 0.7)):
        first = plan("modalities", config(model__modality_dropout=given))[0]
        assert first.apply(own, 0).model.modality_dropout == used
    joined = plan("modalities", config(model__fusion__method="ensemble"))
    assert [c.name for c in joined] == ["eeg+gsr", "eeg", "gsr", "eeg-alone", "gsr-alone"]
    assert joined[-1].apply(config(), 0).model.fusion.method == "transformer"


@pytest.mark.parametrize(
    ("names", "method", "expected"),
    [
        (["eeg"], "transformer", "--modalities eeg: found one, expected two"),
        (
            ["eeg", "face", "gsr", "ppg", "ecg", "emg"],
            "transformer",
            r"found 6 \(63 subsets\), expected at most 5 \(31\)",
        ),
        (["eeg", "face"], "bandpower-logistic", "uses the EEG alone; use another"),
    ],
)
def test_what_cannot_be_compared_is_one_line(names: list[str], method: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        plan("modalities", config(data__modalities=names, model__fusion__method=method))
    assert "\n" not in str(caught.value)


def test_hiding_the_only_signal_costs_all_and_a_second_call_runs_nothing(
    body_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, out = Store(body_store), tmp_path / "out"
    chosen = ["eeg+gsr", "eeg", "gsr"]
    found = ablate(store, config(), "modalities", out, cells=chosen)[0]
    rows = {r["cell"]: r for r in found.rows}
    assert list(rows) == chosen and found.reference == "eeg+gsr" and all(r["state"] == "done" for r in rows.values())
    # Valence is in the skin alone.
    assert rows["eeg+gsr"]["accuracy_window"] > 0.8 and rows["gsr"]["accuracy_window"] > 0.8
    assert abs(rows["eeg"]["accuracy_window"] - 0.5) < 0.15 and rows["eeg"]["accuracy_window_p"] > 0.01
    assert rows["eeg"]["accuracy_window_difference"] < -0.3 and rows["eeg"]["n_window"] == rows["gsr"]["n_window"]
    assert rows["eeg"]["notes"] == ["the model of all, gsr hidden"] and rows["eeg"]["shared_with"] == []
    runs = [p.parent for p in out.glob("cells/*/*/run.json")]
    assert len(runs) == 1
    shared = next(p for p in runs if (p / SUBSETS).exists())
    whole = pd.read_parquet(shared / "predictions.parquet").query("part == 'test'")
    shown = pd.read_parquet(shared / SUBSETS).query("present == 'eeg+gsr'")
    np.testing.assert_allclose(shown["prob_high"].to_numpy(), whole["prob_high"].to_numpy(), atol=1e-5)
    written = pd.read_parquet(out / "predictions.parquet")
    assert set(written["cell"]) == set(chosen)
    held = json.loads((shared / "folds" / "0" / "calibration.json").read_text())["subsets"]
    told = pd.read_parquet(shared / SUBSETS).query("fold == 0").groupby("present")["temperature"].unique()
    assert {n: float(t[0]) for n, t in told.items() if len(t) == 1} == held and set(held) == set(chosen)
    # Temperatures are fitted on what the validation trials are answered by each subset, and on nothing of the test.
    fits = json.loads((shared / "folds" / "0" / "fits.json").read_text())["fits"]
    mine = [f for f in fits if f["what"].startswith("temperature of answers by")]
    assert len(mine) == 3 and all(set(f["parts"]) == {"validation"} for f in mine)
    assert held["eeg+gsr"] == pytest.approx(whole.query("fold == 0")["temperature"].iloc[0], rel=1e-3)
    page = write_ablation_report(out, [found]).read_text()
    assert "gsr is missed most" in page and "model.modality_dropout was 0" in page

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished run was run again")

    monkeypatch.setattr(ablation, "evaluate", refuse)
    again = ablate(store, config(), "modalities", out, cells=chosen)[0]
    assert [r["accuracy_window"] for r in again.rows] == [r["accuracy_window"] for r in found.rows]
    assert read_ablations(out)[0].reference == "eeg+gsr"


def test_a_store_without_a_modality_says_so(body_store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no cell could be run; eeg\+ecg: needs ecg, and the store has none"):
        ablate(Store(body_store), config(data__modalities=["eeg", "ecg"]), "modalities", tmp_path, cells=["eeg+ecg"])
