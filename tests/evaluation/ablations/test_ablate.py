from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from tests.conftest import make_store

from milmer.config import Config, dump, load_config
from milmer.errors import UserError
from milmer.evaluation.ablations import ablate as ablation
from milmer.evaluation.ablations.ablate import ablate
from milmer.evaluation.ablations.plans import KINDS, PAPER_COLUMN, choose, plan
from milmer.evaluation.ablations.results import read_ablations
from milmer.evaluation.ablations.runs import RANDOM, cell_key, notes_of
from milmer.evaluation.ablations.table import score
from milmer.evaluation.evaluate import FailedFits
from milmer.evaluation.protocols import display_name, make_splits
from milmer.evaluation.run import backbone_hash
from milmer.evaluation.scoring import figures
from milmer.sections import Selection
from milmer.store import Store
from milmer.windows import build_windows

QUICK = {
    "data.target": "arousal",
    "evaluation.folds": 3,
    "evaluation.resamples": 200,
    "training.epochs": 1,
    "training.threads": 1,
}


def config(**more: Any) -> Config:
    return load_config("demo", overrides=QUICK | {k.replace("__", "."): v for k, v in more.items()})


class Fake:
    """Stands for evaluate: writes a run in a moment; how good it is depends on the configuration."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, bool]] = []
        self.stop_at: int | None = None
        self.refuse = ""

    def __call__(
        self, store: Store, config: Config, out: Path, *, resume: bool = False, jobs: int = 1, progress: Any = None
    ) -> list[dict[str, Any]]:
        assert (out / "run.json").exists() == resume
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.yaml").write_text(dump(config))
        record: dict[str, Any] = {"complete": False, "fingerprint": store.fingerprint, "classes": ["low", "high"]}
        record |= {"kind": "evaluate", "store": str(store.path), "backbone": backbone_hash(config)}
        (out / "run.json").write_text(json.dumps(record))
        self.calls.append((out.parent.name, config.training.seed, resume))
        progress(1, 2, "fold 1 of 3")
        if self.stop_at == len(self.calls):
            raise KeyboardInterrupt
        if self.refuse and self.refuse in str(out):
            raise UserError("the data do not suit it")
        table = build_windows(store.trials, 3.0, None, config.data.modalities)
        y = (table["rating_arousal"].to_numpy() > 5).astype(np.int64)
        rng = np.random.default_rng([config.training.seed, config.model.balancing.queries])
        parts = []
        for split in make_splits(table, y, config.evaluation.protocol, 3, config.evaluation.seed):
            for part, rows in (("train", split.train), ("validation", split.validation), ("test", split.test)):
                mine = table.iloc[rows][["study", "subject", "session", "trial", "window"]].copy()
                given = np.where(rng.random(len(rows)) < 0.75, y[rows], 1 - y[rows])
                mine["protocol"], mine["seed"] = config.evaluation.protocol, config.training.seed
                mine["fold"], mine["part"], mine["y_true"] = split.fold, part, y[rows]
                mine["prob_high"] = np.clip(given * 0.5 + rng.random(len(rows)) * 0.49, 0.01, 0.99)
                mine["prob_low"] = 1 - mine["prob_high"]
                parts.append(mine)
        pd.concat(parts).to_parquet(out / "predictions.parquet", index=False)
        (out / "run.json").write_text(json.dumps(record | {"complete": True, "seconds": 2.0}))
        return []


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake()
    monkeypatch.setattr(ablation, "evaluate", made)
    return made


def test_the_plans_are_the_papers_tables_and_all_selection_methods() -> None:
    cells = {kind: {c.name: c.paper for c in plan(kind, config())} for kind in KINDS}
    assert cells["balancing"] == {
        "16-queries": 93.84,
        "32-queries": 95.05,
        "64-queries": 96.72,
        "147-queries": 95.51,
        "196-queries": None,
        "none": 89.91,
        "mlp": 88.83,
    }
    paper = {"transformer": 96.72, "concatenation": 89.88, "deepcca": 88.13}
    assert {n: p for n, p in cells["fusion"].items() if p is not None} == paper
    assert set(cells["fusion"]) - set(paper) == {"cross-modal", "ensemble", "eeg-only", "face-only"} | {
        "bandpower-logistic"
    }
    assert len(cells["components"]) == 8
    known = {"tuned-mil-attention": 96.72, "frozen-mil-none": 89.83}
    assert {n: p for n, p in cells["components"].items() if p is not None} == known
    assert tuple(cells["selection"]) == get_args(Selection.model_fields["method"].annotation)
    assert not any(cells["selection"].values())


def test_the_eight_components_differ_and_say_what_is_frozen() -> None:
    cells = plan("components", config(model__selection__method="middle-frame"))
    made = {c.name: c.apply(config(), 3) for c in cells}
    assert len({cell_key(c, "store") for c in made.values()}) == 8
    assert made["frozen-middle-none"].model.trainable_stages == 0
    assert made["tuned-mil-none"].model.selection.method == "gated-topk"
    assert {n for n, c in made.items() if notes_of(c) == [RANDOM]} == {n for n in made if n.startswith("frozen")}
    assert {c.training.seed for c in made.values()} == {3}


def test_an_unknown_cell_or_kind_is_one_line_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"--cells 64-querys: .*did you mean '64-queries'") as caught:
        choose(plan("balancing", config()), ["none", "64-querys"])
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="did you mean 'fusion'"):
        plan("fusions", config())


def test_the_same_configuration_under_two_names_is_run_once(fake: Fake, tiny_store: Path, tmp_path: Path) -> None:
    own = config(model__balancing__queries=64)
    store = Store(tiny_store)
    ablate(store, own, "balancing", tmp_path / "run", cells=["64-queries", "none"])
    ablate(store, own, "components", tmp_path / "run", cells=["tuned-mil-attention", "tuned-mil-none"])
    found = ablate(store, own, "fusion", tmp_path / "run", cells=["transformer", "concatenation"])
    assert [c[0] for c in fake.calls] == ["64-queries", "none", "concatenation"]
    assert [a.kind for a in found] == ["fusion", "balancing", "components"]
    rows = pd.read_parquet(tmp_path / "run/predictions.parquet")
    assert set(zip(rows["ablation"], rows["cell"], strict=True)) == {
        ("fusion", "transformer"),
        ("fusion", "concatenation"),
        ("balancing", "64-queries"),
        ("balancing", "none"),
        ("components", "tuned-mil-attention"),
        ("components", "tuned-mil-none"),
    }
    assert [a.reference for a in found] == ["transformer", "64-queries", "tuned-mil-attention"]


def test_what_changes_no_prediction_shares_a_run_and_what_does_not_is_run_anew(
    fake: Fake, tiny_store: Path, tmp_path: Path
) -> None:
    store = Store(tiny_store)
    for own in (config(), config(evaluation__resamples=300), config(training__epochs=2)):
        ablate(store, own, "selection", tmp_path / "run", cells=["mean"])
    assert len(fake.calls) == 2


def test_an_interrupted_ablation_goes_on_at_the_next_cell(fake: Fake, tiny_store: Path, tmp_path: Path) -> None:
    store, out = Store(tiny_store), tmp_path / "run"
    fake.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        ablate(store, config(), "balancing", out, seeds=[0, 1])
    assert json.loads((out / "ablation.json").read_text())["state"] == "interrupted"
    fake.stop_at = None
    told: list[tuple[int, int, str]] = []
    found = ablate(store, config(), "balancing", out, seeds=[0, 1], progress=lambda *t: told.append(t))
    runs = [(cell, seed) for cell, seed, _ in fake.calls]
    assert runs[2] == runs[3] and fake.calls[3][2] and len(set(runs)) == 14 == len(fake.calls) - 1
    assert len(found[0].done) == 7 and json.loads((out / "ablation.json").read_text())["state"] == "complete"
    assert told[0] == (0, 12000, "32-queries (2 of 7), seed 0") and told[1][0] == 500
    assert told[1][2] == "32-queries (2 of 7), seed 0: fold 1 of 3"
    before = len(fake.calls)
    again = ablate(store, config(), "balancing", out, seeds=[0, 1], cells=["none"])
    assert len(fake.calls) == before and len(again[0].rows) == 7  # what is there stays in the table


def test_a_folder_killed_before_its_record_is_begun_anew(fake: Fake, tiny_store: Path, tmp_path: Path) -> None:
    own = config()
    (cell,) = choose(plan("selection", own), ["mean"])
    store, out = Store(tiny_store), tmp_path / "run"
    ablate(store, own, "selection", out, cells=["gated"])
    folder = out / "cells/mean" / f"seed-0-{cell_key(cell.apply(own, 0), store.fingerprint)[:8]}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("half")
    ablate(store, own, "selection", out, cells=["mean"])
    assert fake.calls[-1] == ("mean", 0, False)


def test_another_store_protocol_or_folder_is_refused(fake: Fake, tiny_store: Path, tmp_path: Path) -> None:
    store, out = Store(tiny_store), tmp_path / "run"
    ablate(store, config(), "selection", out, cells=["mean"])
    other = Store(make_store(tmp_path / "other", subjects=3, trials=6))
    with pytest.raises(UserError, match="begun on another store"):
        ablate(other, config(), "selection", out, cells=["mean"])
    with pytest.raises(UserError, match=r"protocol trial, asked for window \(leaky\)"):
        ablate(store, config(evaluation__protocol="window"), "selection", out, cells=["mean"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("keep")
    with pytest.raises(UserError, match="no ablation"):
        ablate(store, config(), "selection", tmp_path / "mine", cells=["mean"])
    with pytest.raises(UserError, match="did you mean 'mean'"):
        ablate(store, config(), "selection", tmp_path / "new", cells=["meam"])
    assert not (tmp_path / "new").exists() and len(fake.calls) == 1
    for text, said in (("{", "cannot be read"), ("3", "cannot be read"), ('{"kind": "fusion"}', "lacks protocol, ")):
        (tmp_path / "mine/ablation.json").write_text(text)
        with pytest.raises(UserError, match=said):
            ablate(store, config(), "selection", tmp_path / "mine", cells=["mean"])
        with pytest.raises(UserError, match=said):
            read_ablations(tmp_path / "mine")


def test_cells_of_another_backbone_in_the_same_folder_are_not_taken(
    fake: Fake, tiny_store: Path, tmp_path: Path
) -> None:
    store, faces = Store(tiny_store), tmp_path / "faces"
    faces.mkdir()
    (faces / "model.safetensors").write_bytes(b"one")
    given = config(model__backbone=str(faces))
    ablate(store, given, "selection", tmp_path / "run", cells=["mean"])
    ablate(store, given, "selection", tmp_path / "run", cells=["mean"])
    (faces / "model.safetensors").write_bytes(b"two")  # pretrained anew
    with pytest.raises(UserError, match=r"begun with other weights in .*faces; give another --out"):
        ablate(store, given, "selection", tmp_path / "run", cells=["mean"])
    assert len(fake.calls) == 1


def test_cells_that_cannot_be_run_are_told_and_the_others_go_on(fake: Fake, tmp_path: Path) -> None:
    store = Store(make_store(tmp_path / "store", face=False))
    found = ablate(store, config(), "fusion", tmp_path / "run")[0]
    done = {r["cell"] for r in found.done}
    assert done == {"eeg-only", "bandpower-logistic"}
    reasons = {r["cell"]: r["reason"] for r in found.rows if r["cell"] not in done}
    assert reasons["face-only"] == "needs faces, and the store has none"
    fake.refuse = "cells/bandpower"
    found = ablate(store, config(), "fusion", tmp_path / "other")[0]
    assert {r["cell"]: r["reason"] for r in found.rows}["bandpower-logistic"] == "the data do not suit it"
    fake.refuse = ""
    ablate(store, config(), "fusion", tmp_path / "other")  # tried again
    assert fake.calls[-1][0] == "bandpower-logistic" and fake.calls[-1][2]
    floor = config(model__fusion__method="bandpower-logistic")
    with pytest.raises(UserError, match="no cell could be run; mean: needs faces, and model"):
        ablate(
            Store(make_store(tmp_path / "both", subjects=3)), floor, "selection", tmp_path / "fourth", cells=["mean"]
        )
    with pytest.raises(UserError, match="no cell could be run; mean: needs faces"):
        ablate(store, config(), "selection", tmp_path / "third", cells=["mean"])


def test_seeds_of_the_configuration_are_refused_for_the_ablations_own(tiny_store: Path, tmp_path: Path) -> None:
    own = config(evaluation__seeds=2, training__seed=5)
    with pytest.raises(UserError, match=r"such as --seeds 5,6; leave evaluation\.seeds out"):
        ablate(Store(tiny_store), own, "selection", tmp_path / "run", cells=["mean"])


def test_a_fit_that_failed_is_a_reason_without_words_of_another_command(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(store: Store, config: Config, out: Path, **more: Any) -> None:
        raise FailedFits("3 fits failed; --resume tries again", "the rows do not suit it", out / "folds/0/error.txt")

    monkeypatch.setattr(ablation, "evaluate", fails)
    with pytest.raises(UserError, match=r"mean: the rows do not suit it \(traceback: .*error\.txt\)$"):
        ablate(Store(tiny_store), config(), "selection", tmp_path / "run", cells=["mean"])


def test_figures_equal_scikit_learns_on_the_predictions(fake: Fake, tmp_path: Path) -> None:
    out, six = tmp_path / "run", make_store(tmp_path / "store", subjects=6)  # the fewest that have an interval
    found = ablate(Store(six), config(), "balancing", out, cells=["16-queries", "32-queries"], seeds=[0, 1, 2])
    rows = pd.read_parquet(out / "predictions.parquet")
    table = pd.read_csv(out / "table.csv").set_index("cell")
    assert len(found[0].rows) == 2 and found[0].reference == "16-queries"
    values: dict[str, list[list[float]]] = {}
    for cell, mine in rows[rows["part"] == "test"].groupby("cell"):
        values[str(cell)] = []
        for _, one in mine.groupby("seed"):
            trials = one.groupby(["subject", "trial"])[["prob_low", "prob_high", "y_true"]].mean()
            pairs = [
                (f["y_true"], f[["prob_low", "prob_high"]].to_numpy().argmax(axis=1)) for f in (one, trials)
            ]  # (window, trial)
            measures: tuple[Callable[..., float], ...] = (accuracy_score, balanced_accuracy_score)
            values[str(cell)].append(
                [f(y, p) for y, p in pairs for f in measures] + [f1_score(y, p, average="macro") for y, p in pairs]
            )
    names = ["accuracy_window", "balanced_accuracy_window", "accuracy_trial", "balanced_accuracy_trial"]
    names += ["macro_f1_window", "macro_f1_trial"]
    for i, name in enumerate(names):
        for cell, per_seed in values.items():
            of_seed = np.array(per_seed)[:, i]
            assert table.loc[cell, name] == pytest.approx(of_seed.mean())
            assert table.loc[cell, f"{name}_min"] == pytest.approx(of_seed.min())
            assert table.loc[cell, f"{name}_max"] == pytest.approx(of_seed.max())
            assert table.loc[cell, f"{name}_low"] <= of_seed.mean() <= table.loc[cell, f"{name}_high"]
        gap = np.mean(values["32-queries"], axis=0)[i] - np.mean(values["16-queries"], axis=0)[i]
        assert table.loc["32-queries", f"{name}_difference"] == pytest.approx(gap)
        assert table.loc["32-queries", f"{name}_difference_low"] <= gap
    assert table.loc["16-queries", PAPER_COLUMN] == 93.84
    assert table.loc["16-queries", "n_window"] == 192 and table.loc["16-queries", "n_trial"] == 48


def _rows(y: np.ndarray, right: np.ndarray, subjects: int, trials: int, windows: int) -> pd.DataFrame:
    n = subjects * trials * windows
    high = np.where(right, y, 1 - y) * 0.8 + 0.1
    return pd.DataFrame(
        {
            "subject": np.repeat([f"s{i}" for i in range(subjects)], trials * windows),
            "trial": np.tile(np.repeat(np.arange(trials), windows), subjects),
            "fold": 0,
            "part": "test",
            "protocol": "trial",
            "y_true": y,
            "prob_low": 1 - high,
            "prob_high": high,
            "seed": np.zeros(n, dtype=int),
        }
    )


def test_one_seed_scores_as_evaluate_does() -> None:
    rng = np.random.default_rng([7])
    y = np.repeat(rng.integers(0, 2, 80), 5)
    table = _rows(y, rng.random(400) < 0.7, 8, 10, 5)
    settings = config().evaluation.model_copy(update={"resamples": 4000})
    mine = score({"a": {0: table}}, {"a": ["low", "high"]}, settings, "a")["a"]
    for row in figures(table, settings, ["low", "high"]):
        if row["name"] in ("accuracy", "macro_f1") and "subject" not in row and row["target"] == "label":
            key = f"{row['name']}_{row['level']}"
            assert mine[key] == pytest.approx(row["value"])
            ends = [mine[f"{key}_{end}"] for end in ("low", "high", "chance", "chance_high")]
            assert ends == pytest.approx([row[end] for end in ("low", "high", "chance", "chance_high")], abs=0.02)
            assert ends[:2] == pytest.approx([row["low"], row["high"]])


def test_differences_are_paired_by_subject_over_what_both_answered() -> None:
    rng = np.random.default_rng([3])
    y = np.repeat(rng.integers(0, 2, 96), 4)
    hard = np.repeat(rng.random(96) < 0.5, 4)  # whole trials are hard or easy, for both cells alike
    right = ~hard
    better = right.copy()
    better[np.flatnonzero(hard)[::10]] = True
    tables = {"a": {0: _rows(y, right, 8, 12, 4)}, "b": {0: _rows(y, better, 8, 12, 4)}}
    classes = {n: ["low", "high"] for n in tables}
    found = score(tables, classes, config().evaluation, "a")
    row = found["b"]
    width = row["accuracy_window_high"] - row["accuracy_window_low"]
    gap = row["accuracy_window_difference_high"] - row["accuracy_window_difference_low"]
    assert row["accuracy_window_difference_low"] > 0 and gap < width / 2
    assert found["a"]["accuracy_window_difference"] is None  # the reference has none
    fewer = {"a": tables["a"], "b": {0: tables["b"][0].query("trial < 6").reset_index(drop=True)}}
    half = score(fewer, classes, config().evaluation, "a")["b"]
    both = np.tile(np.repeat(np.arange(12), 4), 8) < 6
    assert half["accuracy_window_difference"] == pytest.approx(better[both].mean() - right[both].mean())


def test_below_six_people_there_is_no_interval(fake: Fake, tiny_store: Path, tmp_path: Path) -> None:
    own = config(evaluation__protocol="subject")
    row = ablate(Store(tiny_store), own, "selection", tmp_path / "run", cells=["mean"])[0].rows[0]
    assert row["interval_how"] == "none from 4 subjects: at least 6 needed" and row["accuracy_window_low"] is None
    assert display_name(own.evaluation.protocol) == "subject"


def test_two_real_cells_end_to_end(tmp_path: Path) -> None:
    own = config(data__frames=2, training__augment=False)
    out, tiny_store = tmp_path / "run", make_store(tmp_path / "store", subjects=3, trials=4, seconds=6.0)
    (found,) = ablate(Store(tiny_store), own, "selection", out, cells=["gated-topk", "mean"])
    assert [r["cell"] for r in found.done] == ["gated-topk", "mean"] and found.reference == "gated-topk"
    rows = pd.read_parquet(out / "predictions.parquet")
    assert set(rows["part"]) == {"validation", "test"} and set(rows["seed"]) == {0}
    assert (rows[rows["part"] == "test"].groupby("cell").size() == 24).all()
    assert found.rows[0]["parameters"] > found.rows[1]["parameters"] > 10_000
    before = {f: f.stat().st_mtime_ns for f in out.glob("cells/**/predictions.parquet")}
    assert len(before) == 8  # a run's own and its three folds', twice
    again = ablate(Store(tiny_store), own, "selection", out, cells=["gated-topk", "mean"])
    assert {f: f.stat().st_mtime_ns for f in before} == before
    assert again[0].rows == found.rows and read_ablations(out)[0].rows == found.rows
