from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.conftest import make_store
from tests.test_store_join import other_study

from milmer.config import load_config
from milmer.errors import DamagedStore, UserError
from milmer.evaluation import one_fit
from milmer.evaluation.evaluate import FailedFits, evaluate, train
from milmer.evaluation.split_files import read_splits
from milmer.store import Store

NETWORK = {
    "data.modalities": ["eeg"],
    "evaluation.folds": 3,
    "evaluation.resamples": 100,
    "training.epochs": 8,
    "training.threads": 1,
    "data.target": "arousal",
}
QUICK = NETWORK | {"model.fusion.method": "bandpower-logistic"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four subjects, eight trials of 6 s, EEG alone; the stimuli are the same for all."""
    return make_store(tmp_path_factory.mktemp("small") / "store", seconds=6.0, face=False)


@pytest.fixture(scope="module")
def run(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    evaluate(Store(small), load_config("demo", overrides=QUICK), out, command="milmer evaluate 'my store' --out run")
    return out


class Count:
    """Counts fits, and makes some of them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import milmer.training.fit as module

        self.folders: list[Path] = []
        self.fail: Sequence[str] = ()
        self.error: Exception = ZeroDivisionError("by zero")
        real = module.fit

        def fit(config: Any, bags: Any, guard: Any, folder: Path, **more: Any) -> Any:
            self.folders.append(folder)
            if any(folder.as_posix().endswith(f) for f in self.fail):
                raise self.error
            return real(config, bags, guard, folder, **more)

        monkeypatch.setattr(module, "fit", fit)


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Count:
    return Count(monkeypatch)


def _record(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "run.json").read_text()))


def _figure(run: Path, name: str, level: str, part: str = "test") -> dict[str, Any]:
    """The main figure: the first of its name, as reports find it."""
    rows = json.loads((run / "metrics.json").read_text())
    return dict(
        next(r for r in rows if (r["name"], r["level"], r["part"]) == (name, level, part) and not r.get("subject"))
    )


def test_a_run_holds_what_is_promised(run: Path) -> None:
    names = {p.name for p in run.iterdir()}
    assert names - {"samples"} == {
        *("config.yaml", "run.json", "predictions.parquet", "metrics.json", "log.txt", "folds"),
        *("splits.parquet", "history.csv"),
    }
    assert {p.name for p in (run / "folds").iterdir()} == {"0", "1", "2"}
    assert load_config(file=run / "config.yaml") == load_config("demo", overrides=QUICK)
    record = _record(run)
    assert record["complete"] and record["peak_memory_bytes"] > 0 and record["classes"] == ["low", "high"]
    assert record["command"] == "milmer evaluate 'my store' --out run"
    assert (record["budget"], record["seeds"], record["failed"], record["scope"]) == ("none", [0], [], "pooled")
    assert len(record["split_hash"]) == 16 and record["splits"] is None and record["test_store"] is None
    history = pd.read_csv(run / "history.csv")
    assert {"seed", "fold", "val_loss"} <= set(history) and set(history["fold"]) == {0, 1, 2}


def test_what_was_fitted_on_how_many_rows_is_in_the_record(run: Path) -> None:
    guard = {g["kind"]: g for g in _record(run)["guard"]}
    rows = pd.read_parquet(run / "predictions.parquet")
    sizes = rows.groupby(["fold", "part"]).size().unstack()
    assert guard["calibration"]["parts"] == "validation"
    assert guard["calibration"]["most_rows"] == sizes["validation"].max()
    assert guard["weights"]["fewest_rows"] == sizes["train"].min() and guard["weights"]["parts"] == "train"
    assert not any("test" in g["parts"] for g in guard.values())


def test_every_window_is_tested_once_and_trials_are_on_one_side(run: Path) -> None:
    rows = pd.read_parquet(run / "predictions.parquet")
    test = rows[rows["part"] == "test"]
    assert len(test) == 64 and not test.duplicated(["subject", "trial", "window"]).any()
    for fold, part in rows.groupby("fold"):
        sides = part.groupby(["subject", "trial"])["part"].nunique()
        assert (sides == 1).all(), fold
    assert np.allclose(rows[["prob_low", "prob_high"]].sum(axis=1), 1, atol=1e-5)
    assert ((rows["rating_arousal"] > 5) == (rows["y_true"] == 1)).all()
    assert set(rows["label_rule"]) == {"arousal > 5"} and set(rows["budget"]) == {"none"}
    assert (rows["threshold_arousal"] == 5).all() and "threshold" not in rows


def test_the_splits_on_disk_are_those_of_the_predictions(run: Path) -> None:
    rows = pd.read_parquet(run / "predictions.parquet")
    keys = ["fold", "part", "subject", "trial", "window"]
    written = pd.read_parquet(run / "splits.parquet").query("part != 'unused'")
    mine, theirs = ({tuple(map(str, r)) for r in t[keys].itertuples(index=False)} for t in (rows, written))
    assert mine == theirs


def test_each_fold_has_the_temperature_of_its_validation_trials(run: Path) -> None:
    from milmer.evaluation.calibration import temperatures

    rows = pd.read_parquet(run / "predictions.parquet")
    for (seed, fold), expected in temperatures(rows, ["low", "high"]).items():
        told = json.loads((run / f"folds/{fold}/calibration.json").read_text())
        mine = rows[(rows["fold"] == fold) & (rows["seed"] == seed)]
        assert told["temperature"] == expected and (mine["temperature"] == expected).all()
        held = mine[mine["part"] == "validation"]
        assert told["trials"] == len(held.drop_duplicates(["subject", "trial"]))


def test_it_learns_what_was_planted(run: Path) -> None:
    figure = _figure(run, "accuracy", "trial")
    assert figure["value"] > 0.85 and figure["value"] > figure["chance"] + 0.2
    assert figure["majority"] <= 0.6 and figure["n"] == 32


def test_figures_come_from_the_predictions_alone(run: Path) -> None:
    rows = pd.read_parquet(run / "predictions.parquet")
    test = rows[rows["part"] == "test"]
    assert _figure(run, "accuracy", "window")["value"] == pytest.approx((test["y_true"] == test["y_pred"]).mean())


@pytest.mark.parametrize(
    "wrong",
    [
        {"model.backbone": "/nowhere/at/all"},
        {"data.px": 30},
        {"model.eeg_tokens": "braindecode:NoSuchNetwork"},
        {"data.target": "smell"},
        {"data.reject": ["other"], "evaluation.budget": "none"},
    ],
)
def test_a_wrong_name_leaves_no_run_behind(
    wrong: dict[str, Any], tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from milmer.training.frames import FrameMemory

    read: list[object] = []
    monkeypatch.setattr(FrameMemory, "fill", lambda self: read.append(self))
    both = NETWORK | {"data.modalities": ["eeg", "face"]}
    with pytest.raises(UserError):
        evaluate(Store(tiny_store), load_config("demo", overrides=both | wrong), tmp_path / "run")
    assert not read and not list((tmp_path / "run").iterdir())


def test_an_existing_run_is_not_overwritten_nor_resumed_with_other_values(run: Path, small: Path, count: Count) -> None:
    config = load_config("demo", overrides=QUICK)
    with pytest.raises(UserError, match="add --resume"):
        evaluate(Store(small), config, run)
    with pytest.raises(UserError, match=r"training\.epochs 8, asked for 9"):
        evaluate(Store(small), load_config("demo", overrides=QUICK | {"training.epochs": 9}), run, resume=True)
    before = (run / "predictions.parquet").read_bytes()
    evaluate(Store(small), config, run, resume=True)
    assert (run / "predictions.parquet").read_bytes() == before
    assert not count.folders and _record(run)["command"].startswith("milmer evaluate 'my store'")


def test_a_failed_fold_leaves_the_others_and_alone_is_tried_again(
    small: Path, run: Path, tmp_path: Path, count: Count
) -> None:
    out, config = tmp_path / "run", load_config("demo", overrides=QUICK)
    count.fail = ["folds/1"]
    with pytest.raises(FailedFits) as caught:
        evaluate(Store(small), config, out)
    said = str(caught.value)
    assert caught.value.reason == "ZeroDivisionError: by zero" and caught.value.file == out / "folds/1/error.txt"
    assert "1 of 3 fits failed (fold 2 of 3): ZeroDivisionError: by zero" in said and "\n" not in said
    assert str(out / "folds/1/error.txt") in said and "--resume" in said
    assert "ZeroDivisionError: by zero" in (out / "folds/1/error.txt").read_text().splitlines()[-1]
    record = _record(out)
    assert not record["complete"] and [f["folder"] for f in record["failed"]] == ["folds/1"]
    assert [f.name for f in count.folders] == ["0", "1", "2"]
    assert not (out / "metrics.json").exists() and not (out / "predictions.parquet").exists()
    count.fail, count.folders = [], []
    evaluate(Store(small), config, out, resume=True)
    assert [f.name for f in count.folders] == ["1"] and not (out / "folds/1/error.txt").exists()
    assert _record(out)["complete"] and _record(out)["failed"] == []
    assert (out / "predictions.parquet").read_bytes() == (run / "predictions.parquet").read_bytes()


def test_what_failed_in_other_processes_is_told_in_order(
    small: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An executor of another kind: outcomes come last first, and their tasks are copies."""
    import pickle
    from collections.abc import Iterator

    from milmer.evaluation.executor import Outcome

    class Elsewhere:
        def run(self, tasks: Sequence[Any], work: Any, progress: Any = None) -> Iterator[Outcome[Any]]:
            for task in reversed(tasks):
                yield Outcome(pickle.loads(pickle.dumps(task)), "Traceback\nOSError: no node", f"OSError: {task.text}")

    config = load_config("demo", overrides=QUICK)
    with pytest.raises(
        FailedFits, match=r"3 of 3 fits failed \(fold 1 of 3, fold 2 of 3, fold 3 of 3\): OSError: fold 1"
    ):
        evaluate(Store(small), config, tmp_path / "run", executor=Elsewhere())
    assert [f["folder"] for f in _record(tmp_path / "run")["failed"]] == ["folds/0", "folds/1", "folds/2"]


def test_damaged_data_keep_their_own_exit_code(small: Path, tmp_path: Path, count: Count) -> None:
    count.fail, count.error = ["folds/0"], DamagedStore("eeg.npy: not readable")
    with pytest.raises(DamagedStore, match=r"eeg\.npy: not readable"):
        evaluate(Store(small), load_config("demo", overrides=QUICK), tmp_path / "run")


def test_seeds_are_fitted_over_all_folds(small: Path, run: Path, tmp_path: Path, count: Count) -> None:
    values = NETWORK | {"training.epochs": 1, "evaluation.seeds": 2, "training.seed": 3}
    out = tmp_path / "run"
    evaluate(Store(small), load_config("demo", overrides=values), out)
    places = [f.relative_to(out).as_posix() for f in count.folders]
    assert places == [*(f"folds/{k}" for k in range(3)), *(f"seeds/4/folds/{k}" for k in range(3))]
    rows = pd.read_parquet(out / "predictions.parquet").query("part == 'test'")
    assert rows.groupby("seed").size().to_dict() == {3: 64, 4: 64} and _record(out)["seeds"] == [3, 4]
    one, two = (r.sort_values(["subject", "trial", "window"]) for _, r in rows.groupby("seed"))
    assert (one["fold"].to_numpy() == two["fold"].to_numpy()).all()  # the split is the same
    assert not np.allclose(one["prob_high"], two["prob_high"])
    shutil.rmtree(out / "seeds/4/folds/1")
    count.folders = []
    evaluate(Store(small), load_config("demo", overrides=values), out, resume=True)
    assert [f.relative_to(out).as_posix() for f in count.folders] == ["seeds/4/folds/1"]


def test_permuted_reruns_give_the_chance_level(small: Path, tmp_path: Path) -> None:
    values = QUICK | {"evaluation.permutations": 2}
    evaluate(Store(small), load_config("demo", overrides=values), tmp_path / "run")
    figure = _figure(tmp_path / "run", "accuracy", "trial")
    assert figure["chance_how"].startswith("2 re-runs")
    assert 0.2 < figure["chance"] < 0.8 and figure["p"] >= 1 / 3
    shuffled = pd.read_parquet(tmp_path / "run/permutations/1/0/predictions.parquet")
    assert "permuted, seed 1" in shuffled["label_rule"].iloc[0]
    assert not (tmp_path / "run/permutations/1/0/model.safetensors").exists()


def test_permutations_that_change_no_label_are_refused(small: Path, tmp_path: Path) -> None:
    store = shutil.copytree(small, tmp_path / "store")
    rows = pd.read_parquet(store / "trials.parquet")
    side = rows["subject"].isin(sorted(rows["subject"].unique())[:2])
    rows.assign(rating_arousal=np.where(side, 7.0, 3.0)).to_parquet(store / "trials.parquet")
    values = QUICK | {"evaluation.permutations": 2}
    with pytest.raises(UserError, match=r"--permutations 2: each subject has one class.*without --permutations") as got:
        evaluate(Store(store), load_config("demo", overrides=values), tmp_path / "run")
    assert "\n" not in str(got.value) and not list((tmp_path / "run").iterdir())


def test_scope_subject_fits_each_subject_alone(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    values = QUICK | {"evaluation.scope": "subject"}
    evaluate(Store(small), load_config("demo", overrides=values), out)
    rows = pd.read_parquet(out / "predictions.parquet")
    assert (rows.groupby("fold")["subject"].nunique() == 1).all() and rows["fold"].nunique() == 12
    assert len(rows[rows["part"] == "test"]) == 64 and _record(out)["scope"] == "subject"
    assert "fold 1 of 12 (s01)" in (out / "log.txt").read_text()


@pytest.mark.parametrize("protocol", ["stimulus", "subject-and-stimulus"])
def test_unseen_stimuli(protocol: str, small: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    evaluate(Store(small), load_config("demo", overrides=QUICK | {"evaluation.protocol": protocol}), out)
    rows = pd.read_parquet(out / "predictions.parquet")
    keys = ["stimulus"] if protocol == "stimulus" else ["stimulus", "subject"]
    assert rows["fold"].nunique() == (3 if protocol == "stimulus" else 9)
    for _, fold in rows.groupby("fold"):
        for key in keys:
            sides = [set(fold.loc[fold["part"] == p, key]) for p in ("train", "validation", "test")]
            assert not sides[0] & sides[2] and not sides[1] & sides[2]
    assert len(rows[rows["part"] == "test"]) == 64


def test_a_budget_is_in_full_in_every_row(tmp_path: Path, tiny_store: Path) -> None:
    """The tiny store holds ICA operators; taking a component out has seen all of the test people's signals."""
    values = QUICK | {"data.reject": ["other"]}
    evaluate(Store(tiny_store), load_config("demo", overrides=values), tmp_path / "run")
    rows = pd.read_parquet(tmp_path / "run/predictions.parquet")
    assert set(rows["budget"]) == {"unlabelled"} == {_record(tmp_path / "run")["budget"]}
    assert any(g["kind"] == "ica" for g in _record(tmp_path / "run")["guard"])


def test_a_median_is_of_each_folds_training_trials(small: Path, tmp_path: Path) -> None:
    values = QUICK | {"data.threshold": "median"}
    evaluate(Store(small), load_config("demo", overrides=values), tmp_path / "run")
    rows = pd.read_parquet(tmp_path / "run/predictions.parquet")
    assert rows["label_rule"].nunique() == 1
    for (_, _), mine in rows.groupby(["fold", "subject"]):
        trained = mine[mine["part"] == "train"].drop_duplicates("trial")
        assert (mine["threshold_arousal"] == trained["rating_arousal"].median()).all()
        assert ((mine["rating_arousal"] > mine["threshold_arousal"]) == (mine["y_true"] == 1)).all()


def test_trials_that_the_budget_names_are_in_no_figure(small: Path, tmp_path: Path) -> None:
    values = QUICK | {"evaluation.protocol": "subject", "evaluation.budget": "labelled:2", "data.threshold": "median"}
    evaluate(Store(small), load_config("demo", overrides=values), tmp_path / "run")
    rows = pd.read_parquet(tmp_path / "run/predictions.parquet")
    trials = rows.drop_duplicates(["fold", "subject", "trial"]).groupby(["fold", "part"]).size().unstack()
    assert (trials["adaptation"] >= 2).all() and _figure(tmp_path / "run", "accuracy", "trial")["n"] == 32 - trials[
        "adaptation"
    ].sum()


def test_train_reports_validation_figures_and_keeps_one_model(small: Path, tmp_path: Path) -> None:
    figures = train(Store(small), load_config("demo", overrides=QUICK), tmp_path / "run")
    assert {f["part"] for f in figures} == {"validation"}
    assert [p.name for p in (tmp_path / "run/folds").iterdir()] == ["0"]
    rows = pd.read_parquet(tmp_path / "run/predictions.parquet")
    assert set(rows["part"]) == {"train", "validation"} and len(rows) == 64


def test_train_keeps_subjects_and_stimuli_apart_too(small: Path, tmp_path: Path) -> None:
    values = QUICK | {"evaluation.protocol": "subject-and-stimulus"}
    train(Store(small), load_config("demo", overrides=values), tmp_path / "run")
    rows = pd.read_parquet(tmp_path / "run/predictions.parquet")
    for key in ("subject", "stimulus"):
        sides = [set(rows.loc[rows["part"] == p, key]) for p in ("train", "validation")]
        assert all(sides) and not sides[0] & sides[1]


def test_train_refuses_what_makes_no_one_model(small: Path, tmp_path: Path) -> None:
    for values, text in (
        ({"evaluation.protocol": "cross-study"}, "use --protocol subject"),
        ({"evaluation.scope": "subject"}, "milmer evaluate"),
    ):
        with pytest.raises(UserError, match=text):
            train(Store(small), load_config("demo", overrides=QUICK | values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- folds from a file

FROM_FILE = QUICK | {"evaluation.folds": None}


def test_folds_from_a_file_are_recorded_and_resumed_with_it_only(
    small: Path, run: Path, tmp_path: Path, count: Count
) -> None:
    table = pd.read_parquet(run / "splits.parquet")
    kept = table[table["fold"] < 2]
    rest = table[~table["row"].isin(kept["row"])].assign(fold=-1, part="unused")
    file, out = tmp_path / "mine.csv", tmp_path / "run"
    pd.concat([kept, rest]).drop(columns=["row", "name"]).to_csv(file, index=False)
    config = load_config("demo", overrides=FROM_FILE)
    evaluate(Store(small), config, out, splits=file)
    assert [f.name for f in count.folders] == ["0", "1"]
    record = _record(out)
    assert record["splits"]["file"] == "mine.csv" and len(record["splits"]["sha256"]) == 64
    assert record["split_hash"] != _record(run)["split_hash"]
    assert len(read_splits(out / "splits.parquet", pd.read_parquet(out / "splits.parquet").drop_duplicates("row"))) == 2
    with pytest.raises(UserError, match=r"begun with other folds, those of --splits mine\.csv"):
        evaluate(Store(small), config, out, resume=True)
    evaluate(Store(small), config, out, splits=file, resume=True)
    assert len(count.folders) == 2


def test_a_file_that_breaks_its_protocol_is_refused(small: Path, run: Path, tmp_path: Path) -> None:
    file = run / "splits.parquet"
    subject = load_config("demo", overrides=FROM_FILE | {"evaluation.protocol": "subject"})
    with pytest.raises(UserError, match=r"fold 0 has (recording|subject) on two sides.*protocol subject forbids"):
        evaluate(Store(small), subject, tmp_path / "a", splits=file)
    with pytest.raises(UserError, match="no such file"):
        evaluate(Store(small), subject, tmp_path / "b", splits=tmp_path / "none.csv")
    numbered = load_config("demo", overrides=FROM_FILE | {"evaluation.folds": 3})
    with pytest.raises(UserError, match="and --folds 3: the file says which folds there are; leave --folds out"):
        evaluate(Store(small), numbered, tmp_path / "b", splits=file)
    alone = load_config("demo", overrides=FROM_FILE | {"evaluation.scope": "subject"})
    with pytest.raises(UserError, match="fold 0 holds several subjects"):
        evaluate(Store(small), alone, tmp_path / "c", splits=file)
    assert not list((tmp_path / "a").iterdir()) and not (tmp_path / "b").exists()


# --- two studies


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return other_study(tmp_path_factory.mktemp("second") / "store", face=False)


CROSS = QUICK | {"evaluation.protocol": "cross-study"}


def test_trained_on_one_study_and_tested_on_the_other(small: Path, second: Path, tmp_path: Path, count: Count) -> None:
    config, out = load_config("demo", overrides=CROSS), tmp_path / "run"
    evaluate(Store(small), config, out, test_store=Store(second), jobs=2)
    rows = pd.read_parquet(out / "predictions.parquet")
    studies = {part: set(mine["study"]) for part, mine in rows.groupby("part")}
    assert studies == {"train": {"tiny"}, "validation": {"tiny"}, "test": {"other"}}
    assert len(rows[rows["part"] == "test"]) == 24 and set(rows["fold"]) == {0}
    held, trained = (set(rows.loc[rows["part"] == p, "subject"]) for p in ("validation", "train"))
    assert held and not held & trained
    assert _figure(out, "accuracy", "trial")["value"] > 0.8  # alpha power is arousal in both
    record = _record(out)
    assert record["test_store"] == str(second.resolve()) and record["study"] == "tiny and other"
    assert any("6 EEG channels are in both" in n for n in record["notes"])
    with pytest.raises(UserError, match="expected another to test on: give its store as --test-store"):
        evaluate(Store(small), config, out, resume=True)
    with pytest.raises(UserError, match="begun on another store"):
        evaluate(Store(second), config, out, test_store=Store(small), resume=True)
    count.folders = []
    evaluate(Store(small), config, out, test_store=Store(second), resume=True)
    assert not count.folders


def test_jobs_do_not_change_the_predictions(small: Path, second: Path, tmp_path: Path) -> None:
    """A network, whose training has far more places where another process could show; of two studies."""
    values = NETWORK | {"training.epochs": 1, "evaluation.protocol": "cross-study", "evaluation.permutations": 1}
    made = []
    for jobs in (1, 2):
        out = tmp_path / str(jobs)
        evaluate(Store(small), load_config("demo", overrides=values), out, test_store=Store(second), jobs=jobs)
        made.append({p.relative_to(out): p.read_bytes() for p in out.rglob("predictions.parquet")})
        made[-1] |= {Path(n): (out / n).read_bytes() for n in ("metrics.json", "splits.parquet", "history.csv")}
    assert len(made[0]) == 6 and made[0] == made[1]


def test_the_midpoint_of_two_studies_is_each_ones_own(small: Path, tmp_path: Path) -> None:
    path = other_study(tmp_path / "store", face=False)
    info = json.loads((path / "study.json").read_text())
    info["rating_ranges"] = {"arousal": [0, 100], "valence": [0, 100]}
    (path / "study.json").write_text(json.dumps(info))
    table = pd.read_parquet(path / "trials.parquet")
    table.assign(rating_arousal=table["rating_arousal"] * 10).to_parquet(path / "trials.parquet")
    config = load_config("demo", overrides=CROSS | {"data.threshold": "midpoint"})
    evaluate(Store(small), config, tmp_path / "run", test_store=Store(path))
    rows = pd.read_parquet(tmp_path / "run/predictions.parquet")
    assert rows.groupby("study")["threshold_arousal"].unique().map(list).to_dict() == {"tiny": [5.0], "other": [50.0]}
    assert rows["label_rule"].unique().tolist() == ["arousal > 50 in other, 5 in tiny"]
    assert set(rows.loc[rows["study"] == "other", "y_true"]) == {0, 1}


def test_options_that_do_not_go_together_are_one_line(small: Path, second: Path, tmp_path: Path) -> None:
    one, two = Store(small), Store(second)
    crossing, trial = load_config("demo", overrides=CROSS), load_config("demo", overrides=QUICK)
    smell = load_config("demo", overrides=CROSS | {"data.target": "label"})
    for config, other, text in (
        (crossing, None, "holds one study.*--test-store"),
        (trial, two, "--test-store with the protocol trial.*--protocol cross-study"),
        (crossing, one, "study 'tiny' twice"),
        (smell, two, "tiny has no label; both studies have arousal, valence"),
    ):
        with pytest.raises(UserError, match=text) as caught:
            evaluate(one, config, tmp_path / "run", test_store=other)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_last_bags_are_kept(small: Path) -> None:
    config = load_config("demo", overrides=QUICK)
    one = one_fit.load_bags((small,), config)
    again = one_fit.load_bags((small,), load_config("demo", overrides=QUICK | {"data.permute_labels": 3}))
    assert again is not one and again.members is one.members and not (again.labels.y == one.labels.y).all()
