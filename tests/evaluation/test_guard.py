"""The guard bites, for each kind of fit: on made-up fitters, and on the real ones with a fault put in."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from milmer import labels
from milmer.config import Config, load_config
from milmer.errors import UserError
from milmer.evaluation.calibration import fit_temperature
from milmer.evaluation.guard import (
    KINDS,
    Budget,
    Guard,
    LeakError,
    check_budget,
    guard_ica,
    resolve_budget,
    uses_ica,
)
from milmer.evaluation.protocols import Split
from milmer.models.baselines import BandPowerLogistic
from milmer.store import Store
from milmer.training import bandpower, members
from milmer.training import fit as fitting
from milmer.training.data import Bags, make_loader
from milmer.training.fit import fit, predict_bags

Ints = NDArray[np.int64]
TRAIN, VALIDATION, TEST = np.arange(0, 64), np.arange(64, 96), np.arange(96, 128)  # s01 and s02, s03, s04
SPLIT = Split(0, TRAIN, VALIDATION, TEST)
ALL = np.arange(128)
MAY = dict.fromkeys(KINDS, TRAIN) | {"early stopping": VALIDATION, "calibration": VALIDATION, "adaptation": TEST}
MAY["adaptation"] = TEST[:8]  # two trials of four windows


def make_config(method: str = "transformer", **more: Any) -> Config:
    quick = {
        "training.epochs": 1,
        "training.threads": 1,
        "training.batch": 32,
        "data.frames": 1,
        "data.px": 64,
        "data.modalities": ["eeg"] if method in ("transformer", "bandpower-logistic") else ["eeg", "face"],
        "model.selection.keep": 1,
        "model.fusion.method": method,
        "model.fusion.cca.width": 4,
        "model.fusion.cca.epochs": 2,
    }
    return load_config("demo", overrides=quick | more)


@pytest.fixture(scope="module")
def bags(tiny_store: Path) -> Bags:
    return Bags(Store(tiny_store), make_config().data)


def guarded(bags: Bags, budget: str = "none") -> Guard:
    return Guard(SPLIT, bags.table, Budget.parse(budget))


# ---- budgets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["none", "unlabelled", "unlabelled:30", "labelled:4"])
def test_a_budget_is_written_as_it_is_read(text: str) -> None:
    assert str(Budget.parse(text)) == text


@pytest.mark.parametrize("text", ["auto", "", "labelled", "labelled:0", "unlabelled:-1", "none:3", "labelled:4.5"])
def test_other_budgets_are_refused_in_a_line(text: str) -> None:
    with pytest.raises(UserError, match="expected none, unlabelled, unlabelled:SECONDS or labelled:TRIALS") as error:
        Budget.parse(text)
    assert "\n" not in str(error.value)


def table_of(*rows: tuple[str, int, int, float]) -> pd.DataFrame:
    """Rows of (subject, trial, order, start), windows of 3 s."""
    table = pd.DataFrame(rows, columns=["subject", "trial", "order", "start"])
    return table.assign(stop=table["start"] + 3)


def test_what_a_budget_names_by_hand() -> None:
    table = table_of(
        *(("a", 1, 0, s) for s in (0, 3)),  # 0, 1: train
        *(("b", 1, 2, s) for s in (0, 3)),  # 2, 3: the last in time
        *(("b", 2, 0, s) for s in (0, 3, 6)),  # 4, 5, 6: the first in time
        *(("b", 3, 1, s) for s in (0, 3)),  # 7, 8: in no part
        *(("c", 1, 0, s) for s in (0, 3)),  # 9, 10: validation
    )
    split = Split(0, np.array([0, 1]), np.array([9, 10]), np.array([2, 3, 4, 5, 6]))
    named = {
        "none": [],
        "unlabelled": [2, 3, 4, 5, 6, 7, 8],
        "unlabelled:12": [4, 5, 6, 7],  # 9 s of the first trial, 3 s of the second
        "unlabelled:1": [],
        "labelled:1": [4, 5, 6],
        "labelled:9": [2, 3, 4, 5, 6],
    }
    for text, rows in named.items():
        guard = Guard(split, table, Budget.parse(text))
        assert guard.rows("adaptation").tolist() == rows, text
        given_labels = rows if text.startswith("labelled") else []
        assert guard.labelled_rows("adaptation").tolist() == given_labels, text
        assert guard.tested.tolist() == sorted(set(split.test.tolist()) - set(given_labels)), text
        everything = text == "unlabelled"
        assert guard.rows("ica").tolist() == (list(range(11)) if everything else sorted([0, 1, *rows])), text
        assert guard.rows("threshold").tolist() == sorted([0, 1, *given_labels]), text
    with pytest.raises(UserError, match="no columns start and stop; use --budget unlabelled"):
        Guard(split, table.drop(columns="stop"), Budget.parse("unlabelled:12"))


def test_a_budget_that_leaves_nothing_to_test_is_refused() -> None:
    """Such a run would have no test part, and pass for one of training."""
    table = table_of(*(("a", t, t, 0) for t in range(3)), *(("b", t, t, 0) for t in range(4)))
    split = Split(2, np.array([0]), np.array([1, 2]), np.array([3, 4, 5, 6]))
    for text in ("none", "unlabelled", "unlabelled:99", "labelled:3"):
        check_budget([split], table, Budget.parse(text))
    with pytest.raises(UserError, match="budget labelled:4: subject b has 4 test trials in fold 2, so none") as error:
        check_budget([split], table, Budget.parse("labelled:4"))
    assert "\n" not in str(error.value)


# ---- a fitter for each kind -------------------------------------------------------------------------------------


def read_through(view: Bags, rows: Ints) -> int:
    return len(view.__getitems__([(0, int(i)) for i in rows]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_fitter_that_reads_one_row_too_many_raises(kind: str, bags: Bags) -> None:
    guard = guarded(bags, "labelled:2" if kind == "adaptation" else "none")
    view, rows = guard.view(kind, bags), guard.rows(kind)
    assert np.array_equal(rows, MAY[kind])
    assert guard.fit(kind, lambda mine: read_through(view, mine), rows) == len(rows)  # the honest one
    assert [entry["kind"] for entry in guard.log] == [kind]
    for wrong in np.setdiff1d(ALL, MAY[kind])[[0, -1]]:
        with pytest.raises(LeakError, match=rf"leak: a fit of kind '{kind}' reads 1 rows .* first row {wrong}\)"):
            guard.fit(kind, lambda mine, wrong=wrong: read_through(view, np.append(mine, wrong)), rows)
        with pytest.raises(LeakError):  # who says so beforehand is not even called
            guard.fit(kind, lambda mine: pytest.fail("was called"), np.append(rows, wrong))
        assert view.labels.y[wrong] == -1 and np.isnan(view.labels.thresholds["valence"][wrong])
        assert np.isnan(view.table["rating_valence"].iat[wrong])
        assert np.isnan(view.store.trials["rating_arousal"].iat[view.table["trial_row"].iat[wrong]])
        assert (view.face_rows[wrong] == -1).all()
    assert np.array_equal(view.labels.y[rows], bags.labels.y[rows])
    assert view.table.iloc[rows].equals(bags.table.iloc[rows])
    assert (bags.labels.y >= 0).all() and bags.table["rating_valence"].notna().all()  # a copy was hidden


@pytest.mark.parametrize("kind", KINDS)
def test_an_array_behind_the_guard_bites_too(kind: str, bags: Bags) -> None:
    guard = guarded(bags, "labelled:2" if kind == "adaptation" else "none")
    for values in (np.arange(128.0), torch.arange(128.0)):
        seen = guard.seen(kind, values)
        assert float(seen[MAY[kind]].sum()) == MAY[kind].sum() and len(seen) == 128
        with pytest.raises(LeakError):
            seen[ALL]


def test_a_calibration_on_test_rows_raises(bags: Bags) -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(4), 128)  # (n_rows, 4)
    guard = guarded(bags)
    y, prob = guard.seen("calibration", bags.labels.y), guard.seen("calibration", p)
    honest = guard.fit("calibration", lambda rows: fit_temperature(y[rows], prob[rows]), VALIDATION)
    assert honest == fit_temperature(bags.labels.y[VALIDATION], p[VALIDATION])
    with pytest.raises(LeakError, match=r"test part"):
        guard.fit("calibration", lambda rows: fit_temperature(y[TEST], prob[TEST]), VALIDATION)


def test_signals_may_be_seen_where_labels_may_not(bags: Bags) -> None:
    guard = guarded(bags, "unlabelled")
    view = guard.view("adaptation", bags)
    assert read_through(view, TEST) == 32 and (view.labels.y == -1).all()
    guard.fit("adaptation", len, TEST, labelled=False)
    with pytest.raises(LeakError, match="reads labels of 32 rows"):
        guard.fit("adaptation", len, TEST)
    assert len(guard.seen("adaptation", ALL, labelled=False)[TEST]) == 32
    with pytest.raises(LeakError, match="reads labels of"):
        guard.seen("adaptation", bags.labels.y)[TEST]
    whole = guard.view("ica", bags)
    assert read_through(whole, ALL) == 128
    assert np.array_equal(np.flatnonzero(whole.labels.y >= 0), TRAIN)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_check_raises_where_a_row_is_not_of_the_kind_and_only_there(data: st.DataObject) -> None:
    parts = np.array(data.draw(st.lists(st.sampled_from([0, 1, 2, 3]), min_size=8, max_size=40)))
    table = table_of(*((f"s{i % 3}", i // 3, i // 3, 0.0) for i in range(len(parts))))
    budget = data.draw(st.sampled_from(["none", "unlabelled", "unlabelled:6", "labelled:1", "labelled:3"]))
    split = Split(0, *(np.flatnonzero(parts == k) for k in (1, 2, 3)))
    guard = Guard(split, table, Budget.parse(budget))
    rows = np.array(data.draw(st.lists(st.integers(0, len(parts) - 1), max_size=6)), dtype=np.int64)
    for kind in KINDS:
        for labelled in (True, False):
            may = guard.labelled_rows(kind) if labelled else guard.rows(kind)
            if set(rows.tolist()) <= set(may.tolist()):
                guard.check(kind, rows, labelled)
            else:
                with pytest.raises(LeakError) as error:
                    guard.check(kind, rows, labelled)
                assert "\n" not in str(error.value)
        if kind not in ("adaptation", "ica", "threshold") or budget == "none":
            assert not np.isin(guard.rows(kind), split.test).any()  # whatever the budget


# ---- the real fits, with a fault put in -------------------------------------------------------------------------


def too_many(original: Any, place: int) -> Any:
    """Return a function that calls another with all rows of the study for its argument in `place`."""

    def leaky(*args: Any, **more: Any) -> Any:
        return original(*args[:place], ALL, *args[place + 1 :], **more)

    return leaky


REAL = [
    (fitting, "fit_scales", 3, "transformer", "normaliser"),
    (fitting, "train_loader", 2, "transformer", "weights"),
    (fitting, "judge_loader", 2, "transformer", "early stopping"),
    (bandpower, "fit_powers", 2, "bandpower-logistic", "normaliser"),
    (members, "_features", 2, "deepcca", "weights, early stopping"),
]


@pytest.mark.parametrize(("module", "name", "place", "method", "kind"), REAL)
def test_a_fault_in_a_real_fit_raises(
    module: Any,
    name: str,
    place: int,
    method: str,
    kind: str,
    tiny_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config(method)
    bags = Bags(Store(tiny_store), config.data)
    monkeypatch.setattr(module, name, too_many(getattr(module, name), place))
    with pytest.raises(LeakError, match=f"leak: a fit of kind '{kind}' reads"):
        fit(config, bags, guarded(bags), tmp_path)
    assert not (tmp_path / "done.json").exists()


def test_early_stopping_on_training_rows_raises(bags: Bags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = fitting.judge_loader
    monkeypatch.setattr(fitting, "judge_loader", lambda config, bags, rows: original(config, bags, TRAIN))
    with pytest.raises(LeakError, match=r"early stopping.*train part.*it may see validation rows"):
        fit(make_config(), bags, guarded(bags), tmp_path)


def test_a_strength_chosen_on_test_rows_raises(bags: Bags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = bandpower.measured

    def leaky(model: BandPowerLogistic, held: Bags, rows: Ints, batch: int) -> Any:
        return original(model, held, TEST if np.array_equal(rows, VALIDATION) else rows, batch)

    monkeypatch.setattr(bandpower, "measured", leaky)
    with pytest.raises(LeakError, match=r"early stopping.*test part"):
        fit(make_config("bandpower-logistic"), bags, guarded(bags), tmp_path)


def test_a_median_over_all_trials_raises(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bags = Bags(Store(tiny_store), make_config(**{"data.threshold": "median"}).data)
    bags.labelled(guarded(bags))
    monkeypatch.setattr(labels, "_medians", too_many(labels._medians, 3))
    with pytest.raises(LeakError, match=r"threshold.*test, validation part"):
        bags.labelled(guarded(bags))


def test_an_ica_of_whole_recordings_needs_a_budget(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config("bandpower-logistic", **{"data.reject": ["other"]})
    store = Store(tiny_store)
    bags = Bags(store, config.data)
    with pytest.raises(LeakError, match=r"'ica' reads 64 rows.*--reject none, or --budget unlabelled"):
        fit(config, bags, guarded(bags), tmp_path / "none")
    guard = guarded(bags, "unlabelled")
    fit(config, bags, guard, tmp_path / "unlabelled")
    assert guard.log[0] == {
        "kind": "ica",
        "what": "operators in the store, of whole recordings",
        "rows": 128,
        "parts": {"train": 64, "validation": 32, "test": 32},
    }
    assert uses_ica(config, store)
    assert guard_ica(config, store, "auto") == guard_ica(config, store, "unlabelled") == "unlabelled"
    for less in ("none", "unlabelled:30", "labelled:2"):
        with pytest.raises(UserError, match=rf"budget {less}: the ICA of this store \(s01 and 3 more\).*--reject none"):
            guard_ica(config, store, less)
    clean = make_config()
    assert not uses_ica(clean, store) and guard_ica(clean, store, "auto") == "none"
    assert guard_ica(clean, store, "labelled:2") == "labelled:2"
    assert resolve_budget(clean, store) == Budget()
    assert not uses_ica(
        config.model_copy(update={"data": config.data.model_copy(update={"modalities": ("face",)})}), store
    )


# ---- views, logs, parts of a fit --------------------------------------------------------------------------------


def test_a_view_travels_to_a_loaders_worker(bags: Bags) -> None:
    view = guarded(bags).view("weights", bags)
    ((bag, y, _),) = make_loader(pickle.loads(pickle.dumps(view)), TRAIN[:4], 4)
    assert len(bag) == 4 and (y >= 0).all()
    with pytest.raises(LeakError):
        list(make_loader(view, TEST[:4], 4, workers=1))


def test_a_part_of_a_fit_gets_no_more_than_the_whole(bags: Bags) -> None:
    guard = guarded(bags)
    inner = guard.within(TRAIN[:40], TRAIN[40:])  # where no validation row holds a modality, training trials stand in
    assert np.array_equal(inner.rows("early stopping"), TRAIN[40:])
    inner.fit("early stopping", len, TRAIN[40:], what="x")
    assert guard.log == [{"kind": "early stopping", "what": "x", "rows": 24, "parts": {"train": 24}}]
    with pytest.raises(LeakError):
        inner.check("weights", TRAIN)
    with pytest.raises(LeakError, match="test part"):
        guard.within(TRAIN, TEST)
    with pytest.raises(LeakError, match="validation part"):
        guard.within(np.append(TRAIN, VALIDATION), VALIDATION)
    with pytest.raises(LeakError, match="train and validate at once"):
        guard.within(TRAIN, TRAIN[:3])


def test_what_was_fitted_is_written_and_taken_up_again(bags: Bags, tmp_path: Path) -> None:
    config = make_config("bandpower-logistic")
    guard = guarded(bags)
    fit(config, bags, guard, tmp_path)
    written = json.loads((tmp_path / "fits.json").read_text())
    assert written == {"budget": "none", "fits": guard.log}
    assert [(e["kind"], e["parts"]) for e in guard.log] == [
        ("normaliser", {"train": 64}),
        ("weights", {"train": 64}),
        ("early stopping", {"validation": 32}),
    ]
    again = guarded(bags)
    fit(config, bags, again, tmp_path, resume=True)
    fit(config, bags, again, tmp_path, resume=True)
    assert again.log == guard.log


def test_test_rows_do_not_change_a_fit(bags: Bags, tmp_path: Path) -> None:
    """What the guard is for: other ratings of test trials, the same model."""
    config = make_config("bandpower-logistic")
    other = Bags(bags.store, config.data)
    other.labels = labels.Labels(np.where(ALL >= 96, 0, bags.labels.y), bags.labels.classes, bags.labels.rule)
    found = []
    for i, some in enumerate((bags, other)):
        fit(config, some, guarded(some), tmp_path / str(i))
        found.append(predict_bags(tmp_path / str(i), bags, TEST)[0])
    assert np.array_equal(*found)


def test_the_guard_is_had_without_torch() -> None:
    code = "import sys, milmer.evaluation.guard; sys.exit(any(m in sys.modules for m in ('torch', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_kind_that_is_none_is_refused(bags: Bags) -> None:
    with pytest.raises(UserError, match="fit of kind 'scaler': expected one of normaliser, ica"):
        guarded(bags).rows("scaler")


@pytest.mark.parametrize("rows", [np.isin(ALL, [*TRAIN[:3], *TEST[:2]]), slice(60, 70), slice(None)])
def test_a_mask_or_a_slice_is_no_way_round_the_guard(bags: Bags, rows: Any) -> None:
    """A mask read as numbers would be rows 0 and 1, which training may see."""
    guard = Guard(SPLIT, bags.table)
    with pytest.raises(LeakError, match="may not see"):
        guard.seen("weights", bags.labels.y)[rows]
    if not isinstance(rows, slice):
        for touch in (guard.check, lambda kind, which: guard.fit(kind, len, which)):
            with pytest.raises(LeakError, match="may not see"):
                touch("weights", rows)
        with pytest.raises(UserError, match="mask of shape"):
            guard.check("weights", rows[:5])
    assert len(guard.seen("weights", bags.labels.y)[np.isin(ALL, TRAIN)]) == len(TRAIN)
    assert len(guard.seen("weights", bags.labels.y)[:64]) == len(TRAIN)
