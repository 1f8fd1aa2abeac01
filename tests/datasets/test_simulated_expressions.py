from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from milmer.config import FacePreparation
from milmer.datasets import simulated
from milmer.datasets.expressions import open_expressions
from milmer.datasets.simulated_expressions import CLASSES, person_of, simulate_expressions
from milmer.datasets.simulated_face import make_identity
from milmer.errors import UserError
from milmer.faces.detect import load_detector


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn") / "set"
    assert simulate_expressions(out, people=2, per_class=4, px=96, seed=5) == 20
    return out


def files(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*.jpg"))}


def test_it_is_a_folder_a_class_with_people_in_the_names(drawn: Path) -> None:
    found = open_expressions(drawn, group_by="prefix")
    assert found.classes == ("HAHV", "HALV", "LAHV", "LALV", "neutral") == CLASSES
    assert set(found.counts().values()) == {4} and found.bad == () and found.splits is None
    assert found.people is not None and set(found.people) == {"p001", "p002"}
    with Image.open(drawn / "HAHV" / "p001_00001.jpg") as image:
        assert image.size == (96, 96)


def test_crops_are_filled_by_a_face_as_a_stores_are(drawn: Path) -> None:
    detector = load_detector(FacePreparation())
    for name in CLASSES:
        image = np.asarray(Image.open(drawn / name / "p002_00002.jpg").convert("RGB").resize((192, 192)))
        face = detector.detect(image)[0]
        centre = face.x + face.w / 2, face.y + face.h / 2
        assert np.abs(np.array(centre) - 96).max() < 20  # the box's own middle, within a tenth
        assert 0.6 < max(face.w, face.h) / 192 < 1.1  # 1 / 1.2 by the margin


def test_classes_differ_more_between_than_within(drawn: Path) -> None:
    # One person's mean mouth region by class: opposite expressions are further apart than two of one class.
    def mouth(name: str) -> list[np.ndarray]:
        paths = sorted((drawn / name).glob("p001_*"))
        return [np.asarray(Image.open(p).convert("L"), dtype=float)[58:90, 24:72] for p in paths]

    def apart(a: np.ndarray, b: np.ndarray) -> float:
        return 1 - float(np.corrcoef(a.ravel(), b.ravel())[0, 1])

    happy, sad = mouth("LAHV"), mouth("LALV")
    assert min(apart(h, s) for h in happy for s in sad) > max(apart(happy[0], happy[1]), apart(sad[0], sad[1]))


def test_its_people_are_not_those_of_a_study_of_the_same_seed() -> None:
    here = {astuple(person_of(0, n)) for n in range(40)}
    study = {astuple(make_identity(np.random.default_rng([0, simulated._IDENTITY, n]))) for n in range(40)}
    assert len(here) == 40 and not here & study


def test_what_is_missing_is_drawn_again_alike_by_any_number_of_processes(drawn: Path) -> None:
    before = files(drawn)
    for name in ("HAHV/p001_00003.jpg", "neutral/p002_00002.jpg"):
        (drawn / name).unlink()
    assert simulate_expressions(drawn, people=2, per_class=4, px=96, seed=5, jobs=2) == 4  # two sittings
    assert files(drawn) == before
    assert simulate_expressions(drawn, people=2, per_class=4, px=96, seed=5) == 0


def test_other_options_and_other_folders_are_refused(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="drawn with seed 5, asked for 6"):
        simulate_expressions(drawn, people=2, per_class=4, px=96, seed=6)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="no simulated expressions"):
        simulate_expressions(tmp_path, people=2, per_class=4)
    with pytest.raises(UserError, match="--expressions 0"):
        simulate_expressions(tmp_path / "x", people=2, per_class=0)
