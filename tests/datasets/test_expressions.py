from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from milmer.datasets.expressions import FER_CLASSES, open_expressions, split_expressions
from milmer.errors import UserError


def picture(file: Path, grey: int, size: tuple[int, int] = (20, 20)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.full((size[1], size[0], 3), grey, dtype=np.uint8)
    values[: size[1] // 2] = 255 - grey
    Image.fromarray(values).save(file)


def folder(root: Path, per_class: int = 10, people: int = 5, split: str = "") -> Path:
    for c, name in enumerate(("sad", "angry", "happy")):
        for i in range(per_class):
            picture(root / split / name / f"p{i % people}_{i}.{'jpg' if i % 2 else 'png'}", 10 + 40 * c)
    return root


def fer_rows(n: int = 21) -> list[tuple[str, str, str]]:
    rng = np.random.default_rng(0)
    usage = ("Training", "Training", "PublicTest", "PrivateTest")
    rows = []
    for i in range(n):
        pixels = " ".join(map(str, rng.integers(0, 256, 48 * 48).tolist()))
        rows.append((str(i % 7), pixels, usage[i // 7 % 4]))
    return rows


def write_csv(file: Path, rows: list[tuple[str, str, str]], header: str = "emotion,pixels,Usage") -> Path:
    file.write_text("\n".join([header, *(",".join(r) for r in rows)]) + "\n")
    return file


def test_a_folder_a_class_reads_back(tmp_path: Path) -> None:
    found = open_expressions(folder(tmp_path / "set"))
    assert found.classes == ("angry", "happy", "sad")
    assert found.counts() == {"angry": 10, "happy": 10, "sad": 10}
    assert found.splits is None and found.people is None and found.bad == ()
    for row in (0, 15, 29):
        image = found.picture(row, 16)
        grey = {"sad": 10, "angry": 50, "happy": 90}[found.classes[found.labels[row]]]
        assert image.shape == (16, 16, 3) and image.dtype == np.uint8
        assert abs(int(image[-2, 8, 0]) - grey) <= 4  # JPEG
        assert abs(int(image[1, 8, 0]) - (255 - grey)) <= 4


def test_a_picture_that_is_not_square_keeps_its_proportions(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", 2)
    values = np.zeros((20, 60, 3), dtype=np.uint8)
    values[:, 20:40] = 200  # what a square in the middle holds
    values[:10, 20:40] = 100
    Image.fromarray(values).save(root / "sad" / "p0_wide.png")
    found = open_expressions(root)
    row = next(i for i, s in enumerate(found.sources) if isinstance(s, Path) and s.name == "p0_wide.png")
    assert found.picture(row, 20).min() == 100


@pytest.mark.parametrize("above", ["", "data"])
def test_split_folders_are_kept_wherever_they_are_above_the_classes(tmp_path: Path, above: str) -> None:
    root = tmp_path / "set"
    for split, count in (("Train", 8), ("valid", 3), ("test", 2)):
        folder(root, count, split=f"{above}/{split}/images".lstrip("/"))
    found = open_expressions(root)
    parts = split_expressions(found, 0)
    assert found.classes == ("angry", "happy", "sad")
    assert [len(p) for p in (parts.train, parts.validation, parts.test)] == [24, 9, 6]
    assert parts.how.startswith("the set's own split")
    for row in parts.test:
        source = found.sources[row]
        assert isinstance(source, Path) and "test" in source.parts


def test_pictures_are_held_out_of_every_class_and_it_is_said_that_people_are_not(tmp_path: Path) -> None:
    found = open_expressions(folder(tmp_path / "set", 20))
    parts = split_expressions(found, 0)
    assert found.counts(parts.validation) == {"angry": 3, "happy": 3, "sad": 3}
    assert not set(parts.train) & set(parts.validation) and len(parts.train) == 51
    assert "may be on both sides" in parts.how
    assert np.array_equal(parts.validation, split_expressions(found, 0).validation)
    assert not np.array_equal(parts.validation, split_expressions(found, 1).validation)


def test_people_are_kept_apart_where_names_say_who_they_are(tmp_path: Path) -> None:
    found = open_expressions(folder(tmp_path / "set", 20), group_by="prefix")
    assert found.people is not None
    parts = split_expressions(found, 3)
    assert not set(found.people[parts.train]) & set(found.people[parts.validation])
    assert parts.how == "2 of 5 people held out"
    shared = tmp_path / "shared"
    for split in ("train", "valid"):
        folder(shared, 10, split=split)
    assert "5 people are on both sides" in split_expressions(open_expressions(shared, group_by="prefix"), 0).how


def test_the_csv_of_fer2013_reads_back(tmp_path: Path) -> None:
    rows = fer_rows(28)
    found = open_expressions(write_csv(tmp_path / "fer2013.csv", rows))
    assert found.classes == FER_CLASSES == ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    assert found.labels.tolist() == [int(r[0]) for r in rows]
    parts = split_expressions(found, 0)
    assert [len(p) for p in (parts.train, parts.validation, parts.test)] == [14, 7, 7]
    image = found.picture(9, 48)
    assert np.array_equal(image[..., 0].ravel(), np.array(rows[9][1].split(), dtype=np.uint8))
    assert np.array_equal(image[..., 0], image[..., 2])
    assert open_expressions(tmp_path).fingerprint() == found.fingerprint()  # the folder that holds just that
    rows[3] = (rows[4][0], *rows[3][1:])
    assert open_expressions(write_csv(tmp_path / "fer2013.csv", rows)).fingerprint() != found.fingerprint()


def test_a_few_bad_pictures_are_named_and_left_out(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", 20)
    (root / "sad" / "p0_empty.jpg").write_bytes(b"")
    (root / "happy" / "p0_text.png").write_text("no picture")
    Image.new("RGB", (20, 20), (5, 5, 5)).save(root / "angry" / "p0_black.png")
    whole = (root / "sad" / "p1_1.jpg").read_bytes()
    (root / "sad" / "p1_1.jpg").write_bytes(whole[: len(whole) // 2])
    found = open_expressions(root)
    assert set(found.bad) == {"sad/p0_empty.jpg", "happy/p0_text.png", "angry/p0_black.png", "sad/p1_1.jpg"}
    assert len(found) == 59
    rows = fer_rows(28)
    rows[5] = (rows[5][0], " ".join(["0"] * 48 * 48), rows[5][2])
    rows[6] = (rows[6][0], "", rows[6][2])
    assert open_expressions(write_csv(tmp_path / "fer.csv", rows)).bad == ("row 7", "row 8")


def _one_class(root: Path) -> Path:
    picture(root / "sad" / "a.png", 3)
    return root


def _loose(root: Path) -> Path:
    picture(folder(root, 2) / "loose.png", 3)
    return root


def _mixed(root: Path) -> Path:
    return folder(folder(root, 2), 2, split="train")


def _many_bad(root: Path) -> Path:
    folder(root, 4)
    for i in range(2):
        (root / "sad" / f"p0_{i}.png").write_bytes(b"")
    return root


def _gone(root: Path) -> Path:
    folder(root, 20)
    shutil.rmtree(root / "sad")
    (root / "sad").mkdir()
    (root / "sad" / "p0_0.png").write_bytes(b"")
    return root


def _empty(root: Path) -> Path:
    (root / "sad").mkdir(parents=True)
    return root


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda root: root, "no such folder or CSV"),
        (_empty, "found no picture"),
        (_one_class, "found one class (sad)"),
        (_loose, "lies in no class's folder"),
        (_mixed, "in none of the set's splits"),
        (_many_bad, "2 of 13 pictures are empty or cannot be read"),
        (_gone, "class 'sad' has no picture"),
    ],
)
def test_a_wrong_folder_is_one_line(tmp_path: Path, make, expected: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError) as error:
        open_expressions(make(tmp_path / "set"))
    assert expected in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "header", "expected"),
    [
        (lambda rows: rows, "emotion,pixel,Usage", "found columns emotion, pixel, Usage; expected FER2013's"),
        (lambda rows: [], "emotion,pixels,Usage", "found no picture"),
        (lambda rows: [("7", *rows[0][1:]), *rows], "emotion,pixels,Usage", "row 2 has emotion '7'"),
        (lambda rows: [(*rows[0][:2], "Test"), *rows], "emotion,pixels,Usage", "row 2 has Usage 'Test'"),
        (lambda rows: [*rows, ("0", "1 2 3", "Training")], "emotion,pixels,Usage", "row 23 has 3 pixels"),
        (lambda rows: [r for r in rows if r[0] == "3"], "emotion,pixels,Usage", "found one class (happy)"),
    ],
)
def test_a_wrong_csv_is_one_line(tmp_path: Path, change, header: str, expected: str) -> None:  # type: ignore[no-untyped-def]
    file = write_csv(tmp_path / "fer.csv", change(fer_rows()), header)
    with pytest.raises(UserError) as error:
        open_expressions(file)
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_people_that_cannot_be_known_are_one_line(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", 4)
    picture(root / "sad" / "nobody.png", 3)
    with pytest.raises(UserError, match="no person in its name"):
        open_expressions(root, group_by="prefix")
    with pytest.raises(UserError, match="a CSV has none"):
        open_expressions(write_csv(tmp_path / "fer.csv", fer_rows()), group_by="prefix")
    with pytest.raises(UserError, match="found one person"):
        split_expressions(open_expressions(folder(tmp_path / "one", 4, people=1), group_by="prefix"), 0)


def test_a_class_without_a_training_picture_is_one_line(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", 3, split="train")
    folder(root, 3, split="test")
    shutil.rmtree(root / "train" / "sad")
    with pytest.raises(UserError, match="class 'sad' has 0 training pictures"):
        split_expressions(open_expressions(root), 0)
