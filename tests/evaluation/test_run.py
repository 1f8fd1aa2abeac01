from __future__ import annotations

from pathlib import Path

import pytest

from milmer.config import load_config
from milmer.errors import UserError
from milmer.evaluation.protocols import make_splits
from milmer.evaluation.run import backbone_hash, begin_run, check_run, check_split
from milmer.store import Store


def test_a_run_goes_on_with_the_same_backbone_only(tiny_store: Path, tmp_path: Path) -> None:
    store, faces, out = Store(tiny_store), tmp_path / "faces", tmp_path / "run"
    faces.mkdir()
    (faces / "model.safetensors").write_bytes(b"one")
    config = load_config("demo", overrides={"model.backbone": str(faces)})
    check_run("evaluate", store, config, out, resume=False)
    begin_run("evaluate", store, config, out)
    (faces / "history.csv").write_text("says nothing of the weights")
    check_run("evaluate", store, config, out, resume=True)
    (faces / "model.safetensors").write_bytes(b"two")
    with pytest.raises(UserError, match="begun with other weights in"):
        check_run("evaluate", store, config, out, resume=True)
    assert backbone_hash(load_config("demo")) is None


@pytest.mark.parametrize(("text", "said"), [("{", "cannot be read"), ("[]", "lacks kind, store"), ("3", "cannot be")])
def test_a_damaged_record_is_one_line(text: str, said: str, tiny_store: Path, tmp_path: Path) -> None:
    store, config = Store(tiny_store), load_config("demo")
    check_run("train", store, config, tmp_path / "run", resume=False)
    begin_run("train", store, config, tmp_path / "run")
    (tmp_path / "run/run.json").write_text(text)
    with pytest.raises(UserError, match=said):
        check_run("train", store, config, tmp_path / "run", resume=True)


def test_a_run_goes_on_with_the_same_folds_only(tiny_store: Path, tmp_path: Path) -> None:
    store, config = Store(tiny_store), load_config("demo")
    rows = store.trials.assign(window=0)
    y = (rows["rating_arousal"].to_numpy() > 5).astype(int)
    splits = make_splits(rows, y, folds=3)
    check_run("evaluate", store, config, tmp_path / "run", resume=False)
    about = check_split(tmp_path / "run", rows, splits)
    begin_run("evaluate", store, config, tmp_path / "run", about)
    assert check_split(tmp_path / "run", rows, splits) == about
    with pytest.raises(UserError, match=r"begun with other folds, the protocol's own \(split hash .* now") as caught:
        check_split(tmp_path / "run", rows, splits[:2])
    assert "\n" not in str(caught.value)


def test_a_run_goes_on_with_the_same_second_store_only(tiny_store: Path, tmp_path: Path) -> None:
    store, config, out = Store(tiny_store), load_config("demo"), tmp_path / "run"
    check_run("evaluate", store, config, out, resume=False)
    begin_run("evaluate", store, config, out, {"test_store": "/other/store"})
    with pytest.raises(UserError, match="begun with --test-store /other/store, asked for none; resume"):
        check_run("evaluate", store, config, out, resume=True)
    check_run("evaluate", store, config, out, True, tmp_path)
