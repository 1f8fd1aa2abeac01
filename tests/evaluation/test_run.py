from __future__ import annotations

from pathlib import Path

import pytest

from milmer.config import load_config
from milmer.errors import UserError
from milmer.evaluation.run import backbone_hash, begin_run, check_run
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
