"""Facial-expression sets: a folder a class, or the CSV of FER2013."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from milmer.errors import UserError
from milmer.progress import Progress, silent

Ints = NDArray[np.int64]
Source = Path | NDArray[np.uint8]

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLIT_NAMES = {
    "train": TRAIN,
    "training": TRAIN,
    "valid": VALIDATION,
    "val": VALIDATION,
    "validation": VALIDATION,
    "test": TEST,
    "testing": TEST,
}
SUFFIXES = (".jpg", ".jpeg", ".png")
# Goodfellow et al. 2013, "Challenges in representation learning": the column `emotion`, and what `Usage` stands for.
FER_CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
FER_USAGE = {"Training": TRAIN, "PublicTest": VALIDATION, "PrivateTest": TEST}
FER_SIDE = 48
BAD_SHARE = 0.1  # of pictures that may be unreadable or empty
HELD_OUT = 0.15  # of the training pictures, for validation where the set has none


@dataclass(frozen=True)
class ExpressionSet:
    """Labelled faces; a picture is read when it is asked for.

    Parameters
    ----------
    path : Path
        Where it lies.
    classes : tuple of str
        Sorted for a folder, FER2013's own order for its CSV.
    labels : ndarray of int, shape (n,)
        Index into `classes`.
    sources : sequence, length n
        A file each, or a row of (48 * 48,) grey values.
    splits : ndarray of str, shape (n,), optional
        ``train``, ``validation`` or ``test``, where the set comes split.
    people : ndarray of str, shape (n,), optional
        Who is in each picture, where known.
    bad : tuple of str
        Pictures left out because they cannot be read or show nothing.
    """

    path: Path
    classes: tuple[str, ...]
    labels: Ints
    sources: Sequence[Source]
    splits: NDArray[np.str_] | None = None
    people: NDArray[np.str_] | None = None
    bad: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, index: int, px: int) -> NDArray[np.uint8]:
        """Return a picture as RGB (px, px, 3) uint8; one that is not square loses its longer side's ends."""
        source = self.sources[index]
        if isinstance(source, Path):
            image = _decode(source, px)
        else:
            image = Image.fromarray(source.reshape(FER_SIDE, FER_SIDE)).convert("RGB")
        if image.size != (px, px):
            image = ImageOps.fit(image, (px, px), Image.Resampling.BICUBIC)
        return np.asarray(image)  # (px, px, 3)

    def counts(self, rows: Ints | None = None) -> dict[str, int]:
        """Pictures of each class, of all or of some rows."""
        labels = self.labels if rows is None else self.labels[rows]
        found: list[int] = np.bincount(labels, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, found, strict=True))

    def fingerprint(self) -> str:
        """Hash of labels, splits, people and of what the pictures are (bytes, or names and sizes)."""
        digest = hashlib.sha256("\n".join(self.classes).encode() + self.labels.astype("<i8").tobytes())
        for column in (self.splits, self.people):
            digest.update(b"-" if column is None else "\n".join(column.tolist()).encode())
        for source in self.sources:
            if isinstance(source, Path):
                digest.update(f"{source.relative_to(self.path).as_posix()} {source.stat().st_size}\n".encode())
            else:
                digest.update(source.tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Parts:
    """Rows of an `ExpressionSet` to learn from, to choose the epoch on, and to test on (may be none).

    `how` says in words how the validation rows were held out.
    """

    train: Ints
    validation: Ints
    test: Ints
    how: str


def open_expressions(
    path: Path, *, group_by: Literal["prefix"] | None = None, progress: Progress = silent
) -> ExpressionSet:
    """Open a facial-expression set and check its pictures.

    Parameters
    ----------
    path : Path
        A folder that holds a folder of JPEG or PNG files for every class, under ``train``, ``valid`` and ``test``
        folders or not; or FER2013's CSV (columns ``emotion``, ``pixels``, ``Usage``), or a folder with just that.
    group_by : "prefix", optional
        A file's name up to its first ``_`` is the person in it.
    progress : Progress
        Told of the pictures checked.

    Returns
    -------
    ExpressionSet

    Raises
    ------
    UserError
        If there is no such set, it has no picture or fewer than two classes, a column is missing, a row has another
        number of pixels than 48 * 48, a name has no person, or more than a tenth of the pictures cannot be used.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"{path}: no such folder or CSV; expected a folder a class, or FER2013's CSV")
    table = path if path.is_file() else _only_csv(path)
    if table is not None:
        if group_by:
            raise UserError(f"{table}: --group-by {group_by} needs file names, a CSV has none; leave the option out")
        found = _open_csv(table, progress)
    else:
        found = _open_folder(path, group_by, progress)
    if len(found.bad) > BAD_SHARE * (len(found) + len(found.bad)):
        raise UserError(
            f"{path}: {len(found.bad)} of {len(found) + len(found.bad)} pictures are empty or cannot be read (first: "
            f"{found.bad[0]}), expected at most {BAD_SHARE:.0%}; mend or delete them"
        )
    empty = [name for name, count in found.counts().items() if not count]
    if empty:
        raise UserError(f"{path}: class '{empty[0]}' has no picture that can be used; mend or delete it")
    return found


def split_expressions(found: ExpressionSet, seed: int) -> Parts:
    """Decide what is trained on, validated on and tested on.

    The set's own split is kept. Where it has no validation part, about 15 % of the training pictures become it: whole
    people where people are known, else random pictures of every class.

    Raises
    ------
    UserError
        If a class has no training picture, or too few pictures or people to hold any out.
    """
    splits = np.full(len(found), TRAIN) if found.splits is None else found.splits  # (n,)
    train, validation, test = (np.flatnonzero(splits == name) for name in (TRAIN, VALIDATION, TEST))
    how = "the set's own split"
    if not len(validation) and len(train):
        train, validation, how = _hold_out(found, train, seed)
    _require_classes(found, train, "training")
    people = found.people
    if people is not None:
        both = np.intersect1d(people[train], people[np.concatenate([validation, test])])
        if both.size:
            how += f" ({both.size} people are on both sides of it)"
    elif how == "the set's own split":
        how += " (who is in which picture is not known)"
    return Parts(train, validation, test, how)


def _hold_out(found: ExpressionSet, train: Ints, seed: int) -> tuple[Ints, Ints, str]:
    rng = np.random.default_rng([seed, 41])
    if found.people is not None:
        names = np.unique(found.people[train])
        if names.size < 2:
            raise UserError(f"{found.path}: found one person ({names[0]}), expected at least 2; leave --group-by out")
        least = 2 if names.size > 3 else 1  # one person gives no interval
        count = max(least, round(HELD_OUT * names.size))
        away = rng.permutation(names)[:count]
        held = np.isin(found.people[train], away)  # (n,)
        return train[~held], train[held], f"{count} of {names.size} people held out"
    held = np.zeros(len(train), dtype=np.bool_)  # (n,)
    for label, name in enumerate(found.classes):
        mine = np.flatnonzero(found.labels[train] == label)
        if mine.size < 2:
            raise UserError(f"{found.path}: class '{name}' has {mine.size} training pictures, expected at least 2")
        held[rng.permutation(mine)[: max(1, round(HELD_OUT * mine.size))]] = True
    return train[~held], train[held], "random pictures held out: a person may be on both sides (see --group-by prefix)"


def _require_classes(found: ExpressionSet, rows: Ints, part: str) -> None:
    for name, count in found.counts(rows).items():
        if not count:
            raise UserError(f"{found.path}: class '{name}' has no {part} picture, expected some of every class")


def _only_csv(folder: Path) -> Path | None:
    inside = [p for p in folder.iterdir() if not p.name.startswith(".")]
    tables = [p for p in inside if p.suffix.lower() == ".csv"]
    return tables[0] if len(tables) == 1 and not any(p.is_dir() for p in inside) else None


def _open_folder(root: Path, group_by: str | None, progress: Progress) -> ExpressionSet:
    files = sorted(
        p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and not _hidden(p.relative_to(root)) and p.is_file()
    )
    if not files:
        raise UserError(f"{root}: found no picture (JPEG or PNG), expected a folder of them for every class")
    names, splits, people = [], [], []
    for file in files:
        *above, name = file.relative_to(root).parent.parts or ("",)
        if not name or name.lower() in SPLIT_NAMES:
            raise UserError(f"{file}: lies in no class's folder; expected {root}/[train/]CLASS/{file.name}")
        names.append(name)
        splits.append(next((SPLIT_NAMES[a.lower()] for a in above if a.lower() in SPLIT_NAMES), ""))
        people.append(_person(file) if group_by else "")
    classes = tuple(sorted(set(names)))
    if len(classes) < 2:
        raise UserError(f"{root}: found one class ({classes[0]}), expected a folder for each of at least two")
    if any(splits) and not all(splits):
        raise UserError(f"{files[splits.index('')]}: in none of the set's splits, expected every picture in one")
    good = _check(files, root, progress)
    labels = np.searchsorted(classes, names).astype(np.int64)  # (n,)
    return ExpressionSet(
        root,
        classes,
        labels[good],
        [f for f, g in zip(files, good, strict=True) if g],
        np.array(splits)[good] if any(splits) else None,
        np.array(people)[good] if group_by else None,
        tuple(f.relative_to(root).as_posix() for f, g in zip(files, good, strict=True) if not g),
    )


def _hidden(relative: Path) -> bool:
    return any(part.startswith((".", "__")) for part in relative.parts)


def _person(file: Path) -> str:
    person, mark, _ = file.stem.partition("_")
    if not mark or not person:
        raise UserError(f"{file}: no person in its name, expected PERSON_ANYTHING{file.suffix}; leave --group-by out")
    return person


def _check(files: Sequence[Path], root: Path, progress: Progress) -> NDArray[np.bool_]:
    """Say of each file whether it can be decoded and shows more than one colour, (n,)."""
    good = np.zeros(len(files), dtype=np.bool_)  # (n,)
    with ThreadPoolExecutor(4) as pool:  # decoding releases the interpreter
        for i, fine in enumerate(pool.map(_shows_something, files)):
            good[i] = fine
            progress(i + 1, len(files), f"reading {files[i].relative_to(root).parent}")
    return good


def _shows_something(file: Path) -> bool:
    try:
        return any(low < high for low, high in _bands(_decode(file, 32)))
    except UserError:
        return False


def _bands(image: Image.Image) -> Iterable[tuple[int, int]]:
    return (band.getextrema() for band in image.split())  # type: ignore[misc]  # one band gives one pair


def _decode(file: Path, px: int) -> Image.Image:
    """Return a picture upright and in RGB; a JPEG much larger than `px` is decoded at a fraction of its size."""
    try:
        with Image.open(BytesIO(file.read_bytes()), formats=("JPEG", "PNG")) as opened:
            opened.draft("RGB", (px, px))
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{file}: cannot be read as JPEG or PNG ({error}); mend or delete it") from error


def _open_csv(file: Path, progress: Progress) -> ExpressionSet:
    import pandas as pd

    wanted = ["emotion", "pixels", "Usage"]
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (ValueError, OSError) as error:  # pandas' own parser errors are values
        raise UserError(f"{file}: cannot be read as CSV ({' '.join(str(error).split())[:120]})") from error
    table.columns = [str(c).strip() for c in table.columns]
    missing = [c for c in wanted if c not in table]
    if missing:
        raise UserError(
            f"{file}: found columns {', '.join(table.columns)[:120]}; expected FER2013's {', '.join(wanted)}"
        )
    if table.empty:
        raise UserError(f"{file}: found no picture, expected a row each")
    names = list(map(str, range(len(FER_CLASSES))))
    for column, known in (("emotion", names), ("Usage", list(FER_USAGE))):
        odd = table.index[~table[column].isin(known)]
        if len(odd):
            raise UserError(
                f"{file}: row {odd[0] + 2} has {column} '{table[column][odd[0]]}', expected one of {', '.join(known)}"
            )
    rows = [_pixels(file, i, text) for i, text in enumerate(table["pixels"])]
    progress(len(rows), len(rows), "reading the CSV")
    good = np.array([r is not None for r in rows])  # (n,)
    label = table["emotion"].astype(int).to_numpy()  # (n,)
    used = np.unique(label)
    if used.size < 2:
        raise UserError(f"{file}: found one class ({FER_CLASSES[used[0]]}), expected at least two")
    return ExpressionSet(
        file,
        tuple(FER_CLASSES[i] for i in used),  # a part of the set may lack a class
        np.searchsorted(used, label)[good].astype(np.int64),
        [r for r in rows if r is not None],
        table["Usage"].map(FER_USAGE).to_numpy(dtype=str)[good],
        None,
        tuple(f"row {i + 2}" for i in np.flatnonzero(~good)),
    )


def _pixels(file: Path, row: int, text: str) -> NDArray[np.uint8] | None:
    """Return a picture's grey values (2304,), or None where they are no picture."""
    words = text.split()
    if not words:
        return None
    if len(words) != FER_SIDE**2:
        raise UserError(
            f"{file}: row {row + 2} has {len(words)} pixels, expected {FER_SIDE**2} ({FER_SIDE} x {FER_SIDE})"
        )
    try:
        values = np.array(words, dtype=np.int64)  # (2304,)
    except ValueError:
        return None
    if values.min() < 0 or values.max() > 255 or values.min() == values.max():
        return None
    return values.astype(np.uint8)  # (2304,)
