"""An audit from a store to audit.json, through the command line too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from milmer.config import load_config
from milmer.errors import UserError
from milmer.evaluation.audit import run as module
from milmer.evaluation.audit.features import MOST_WINDOWS, look, shared_channels, window_features
from milmer.evaluation.audit.of_runs import run_splits
from milmer.evaluation.audit.run import audit_store
from milmer.evaluation.protocols import make_splits
from milmer.labels import make_labels
from milmer.store import Store

CONFIG = load_config(preset="demo")


@pytest.fixture(scope="module")
def audited(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("audit") / "run"
    audit_store(Store(tiny_store), CONFIG, out)
    return out


def test_audit_json_holds_what_it_must(audited: Path) -> None:
    found = json.loads((audited / "audit.json").read_text())
    assert found["kind"] == "audit" and found["alpha"] == 0.005
    by = {e["protocol"]: e for e in found["protocols"]}
    assert set(by) == {"window", "trial", "subject", "stimulus", "subject-and-stimulus"}
    assert by["window"]["verdict"] == "leaky" and by["window"]["protocol_name"] == "window (leaky)"
    assert by["trial"]["verdict"] != "leaky" and by["subject"]["verdict"] != "leaky"
    for entry in by.values():
        assert {"verdict", "sentence", "overlaps", "permuted", "stimulus", "observed", "notes"} <= set(entry)
    assert found["headline"].startswith("leaky: window (leaky)")
    assert {r["what"] for r in found["recognised"]} == {"subject", "trial", "stimulus"}
    assert [r["what"][:6] for r in found["inflation"]] == ["random", "epoch ", "epoch "]
    assert found["no_signal"]["protocol"] == "subject"
    assert (audited / "audit.html").exists()


def test_true_labels_are_found_where_the_store_shows_them(audited: Path) -> None:
    entry = next(e for e in json.loads((audited / "audit.json").read_text())["protocols"] if e["protocol"] == "trial")
    assert entry["observed"]["score"] > entry["observed"]["chance"] + 0.2
    assert entry["observed"]["p"] < 0.05
    both = {e["protocol"]: e["observed"] for e in json.loads((audited / "audit.json").read_text())["protocols"]}
    assert both["stimulus"]["p"] is None  # a few films decide there, not as many trials


def test_features_see_alpha_power_and_the_bright_bar(tiny_store: Path) -> None:
    store = Store(tiny_store)
    found = window_features(store, CONFIG.data)
    assert found.values.shape == (len(found.table), 8 * 5 + 22 + 19)
    assert np.isfinite(found.values).all()
    high = (found.table["rating_arousal"] > 5).to_numpy()
    alpha = found.values[:, 2:40:5].mean(axis=1)  # (n,)
    assert (alpha[high].mean() - alpha[~high].mean()) > 2
    assert shared_channels(store)[0] == "Fp1" and len(found.table) <= MOST_WINDOWS
    smile = (found.table["rating_valence"] > 5).to_numpy()
    upper = found.values[:, 62:66].mean(axis=1)  # (n,)
    assert upper[smile].mean() > upper[~smile].mean() + 0.05


def test_many_windows_are_thinned_evenly_and_no_trial_is_lost(tiny_store: Path) -> None:
    found = window_features(Store(tiny_store), CONFIG.data, most=64)
    counts = found.table.groupby("trial_row").size()
    assert len(counts) == 32 and (counts == 2).all()
    assert "evenly" in found.notes[0]


def test_a_face_is_looked_at_in_cells(tiny_store: Path) -> None:
    store = Store(tiny_store)
    key = store.keys[0]
    first = int(np.flatnonzero(store.faces(key).found)[0])
    seen = look(store.crop(key, first))
    assert seen.shape == (19,) and (seen >= 0).all() and (seen <= 1).all()


def _as_run(tiny_store: Path, folder: Path, protocol: str) -> Path:
    """A run's record and predictions, as evaluate writes them, without a model."""
    store = Store(tiny_store)
    table = window_features(store, CONFIG.data).table
    y = make_labels(table, "valence-arousal", 5.0).y
    parts = []
    for split in make_splits(table, y, protocol, 4, 0):
        for part in ("validation", "test"):
            rows = table.iloc[getattr(split, part)]
            parts.append(rows.assign(fold=split.fold, part=part, seed=0))
    folder.mkdir(parents=True)
    pd.concat(parts).to_parquet(folder / "predictions.parquet", index=False)
    record = {"kind": "evaluate", "store": str(tiny_store), "fingerprint": store.fingerprint, "protocol": protocol}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_a_run_is_audited_as_it_was_split(tiny_store: Path, tmp_path: Path) -> None:
    run = _as_run(tiny_store, tmp_path / "evaluated", "window")
    shown = audit_store(Store(tiny_store), CONFIG, tmp_path / "out", runs=[run], protocols=["trial"])
    assert [(e["protocol"], e["verdict"]) for e in shown["runs"]] == [("window", "leaky")]
    found = json.loads((run / "audit.json").read_text())
    assert found["protocols"][0]["protocol"] == "window" and found["protocols"][0]["verdict"] == "leaky"
    assert found["headline"] == "leaky: window (counted, no chance in it)"
    assert "was split" in found["protocols"][0]["protocol_name"]
    rows = window_features(Store(tiny_store), CONFIG.data).table
    splits = run_splits(run, rows)
    assert splits is not None and len(splits) == 4
    assert sum(s.test.size for s in splits) == len(rows)
    assert all(np.intersect1d(s.train, s.test).size == 0 for s in splits)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"protocols": ["subjct"]}, "did you mean 'subject'"),
        ({"runs": [Path("nowhere")]}, "found no run.json"),
        ({"protocols": ["cross-study"]}, ""),
    ],
)
def test_mistakes_are_one_line(tiny_store: Path, tmp_path: Path, arguments: dict[str, list[str]], words: str) -> None:
    if not words:  # a protocol that the store does not allow is an answer, not a mistake
        found = audit_store(Store(tiny_store), CONFIG, tmp_path / "x", **arguments)  # type: ignore[arg-type]  # as given
        assert found["protocols"][0]["verdict"] == "not possible"
        return
    with pytest.raises(UserError, match=words) as raised:
        audit_store(Store(tiny_store), CONFIG, tmp_path / "x", **arguments)  # type: ignore[arg-type]  # as given
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "x").exists()


def test_a_run_of_another_store_is_refused(tiny_store: Path, tmp_path: Path) -> None:
    run = _as_run(tiny_store, tmp_path / "evaluated", "trial")
    record = json.loads((run / "run.json").read_text()) | {"fingerprint": "other"}
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="another store"):
        audit_store(Store(tiny_store), CONFIG, tmp_path / "x", runs=[run])


def test_one_class_only_is_said(tiny_store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(tiny_store, copy)
    table = pd.read_parquet(copy / "trials.parquet")
    table[["rating_valence", "rating_arousal"]] = 7.0
    table.to_parquet(copy / "trials.parquet", index=False)
    with pytest.raises(UserError, match="1 class"):
        audit_store(Store(copy), CONFIG, tmp_path / "x")


@pytest.mark.parametrize("what", [KeyboardInterrupt, UserError])
def test_who_stops_finds_no_empty_folder(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: type[BaseException]
) -> None:
    def stop(*_: object) -> None:
        raise what

    monkeypatch.setattr(module, "window_features", stop)
    (tmp_path / "there").mkdir()
    for out in (tmp_path / "new" / "deep", tmp_path / "there"):
        with pytest.raises(what):
            audit_store(Store(tiny_store), CONFIG, out)
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_store_whose_features_do_not_vary_is_not_judged(tiny_store: Path, tmp_path: Path) -> None:
    features = window_features(Store(tiny_store), CONFIG.data)
    flat = module.Study(features.table, make_labels(features.table, "valence-arousal", 5.0).y, 4, features.values * 0)
    measured = module.audit_study(flat, {p: module.case_of(flat, p, 4) for p in ("window", "trial")})
    assert [e["verdict"] for e in module.judged(measured, module.Setting())] == ["leaky", "not judged"]
    assert module._context(flat, 4)["inflation"] == []
