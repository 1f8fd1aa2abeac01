"""``RUN/samples/``: all that a report shows of the store, so that a run can be looked at without it.

Layout::

    samples/samples.json       what is there: faces blurred or not, examples' frames, preparation, faults
    samples/examples.parquet   the rows of predictions.parquet that are shown, in the page's order
    samples/eeg.npz            EEG of the examples (volts), band power for scalp maps, components taken out
    samples/frames/E-PPP.jpg   frame at place P of example E; averaged to 8 x 8 cells unless faces were asked for
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from milmer.errors import UserError
from milmer.evaluation.samples_eeg import (
    Maps,
    Reading,
    Removed,
    preparation_facts,
    read_windows,
    removed_components,
    scalp_maps,
)
from milmer.evaluation.samples_frames import Frame, choose_examples, read_frames, scored_rows
from milmer.store import write_json, write_table

if TYPE_CHECKING:  # importing pandas takes half a second, and only the annotations need it
    import pandas as pd

    from milmer.config import Config
    from milmer.store import Store

VERSION = 1
FOLDER = "samples"
T = TypeVar("T")


@dataclass(frozen=True)
class Samples:
    """What a report shows of the store.

    Parameters
    ----------
    shows_faces : bool
        Whether `frames` hold faces as they are.
    examples : DataFrame
        Rows of predictions.parquet, in the page's order.
    frames : tuple of tuple of Frame
        Those shown of each example.
    eeg : tuple of (names, ndarray of shape (C, S))
        Volts of each example, as the model was given them.
    rate : float
        Samples a second of `eeg`.
    maps : Maps
        Band power for scalp maps.
    removed : tuple of Removed
        Components taken out of a few recordings.
    preparation : sequence of dict
        What preparation did to each recording.
    failed : mapping of str to str
        Recordings that could not be prepared, and why.
    faults : tuple of str
        What of the store could not be read.
    """

    shows_faces: bool
    examples: pd.DataFrame
    frames: tuple[tuple[Frame, ...], ...]
    eeg: tuple[tuple[tuple[str, ...], NDArray[np.float64]], ...]
    rate: float
    maps: Maps
    removed: tuple[Removed, ...]
    preparation: Sequence[Mapping[str, Any]]
    failed: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


def write_samples(out: Path, store: Store, config: Config, predictions: pd.DataFrame, classes: Sequence[str]) -> None:
    """Write ``out/samples/``; nothing where ``evaluation.samples`` is ``none``.

    Parameters
    ----------
    out : Path
        The run's folder.
    store : Store
        What `predictions` was made from; ``store_key`` and ``trial_row`` of its rows lead there.
    config : Config
        The run's; ``evaluation.samples`` says whether faces are kept as they are.
    predictions : DataFrame
        Rows of predictions.parquet.
    classes : sequence of str
        Names in index order.

    Raises
    ------
    OSError
        If the folder cannot be written. What of the store cannot be read is left out and named in samples.json.
    """
    wanted = config.evaluation.samples
    final, part = out / FOLDER, out / f".{FOLDER}.{os.getpid()}"
    if wanted == "none":
        return
    found = gather(store, config, predictions, classes, show_faces=wanted == "faces", run=out)
    shutil.rmtree(part, ignore_errors=True)
    try:
        _write(found, part)
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(part, ignore_errors=True)


def gather(
    store: Store,
    config: Config,
    predictions: pd.DataFrame,
    classes: Sequence[str],
    *,
    show_faces: bool = False,
    run: Path | None = None,
) -> Samples:
    """Read from the store what a report shows; a part that cannot be read is left out and named in ``faults``.

    `run` is the folder of the run, for the operators of its folds.
    """
    scored = scored_rows(predictions)
    examples = choose_examples(scored, classes)
    faults: list[str] = []

    def guard(make: Callable[[], T], otherwise: T) -> T:
        try:
            return make()
        except (UserError, OSError, KeyError, IndexError) as error:
            faults.append(str(error))
            return otherwise

    uses = set(config.data.modalities)
    located = {"store_key", "trial_row"} <= set(scored.columns)
    frames: list[tuple[Frame, ...]] = [()] * len(examples)
    if "face" in uses and located:
        for i in range(len(examples)):
            frames[i] = guard(partial(read_frames, store, examples.iloc[i], config.data.frames, show_faces), frames[i])
    maps = Maps.none()
    eeg: list[tuple[tuple[str, ...], NDArray[np.float64]]] = [((), np.zeros((0, 0)))] * len(examples)
    if "eeg" in uses and located and len(scored):
        maps = guard(
            lambda: scalp_maps(store, Reading(store, config, run), scored, examples, len(classes)),
            Maps.none("not readable"),
        )
        eeg = guard(lambda: read_windows(store, Reading(store, config, run), examples), eeg)
    used = {str(k) for k in predictions["store_key"]} if "store_key" in predictions else set(store.keys)
    return Samples(
        shows_faces=show_faces,
        examples=examples.reset_index(drop=True),
        frames=tuple(frames),
        eeg=tuple(eeg),
        rate=store.eeg_rate,
        maps=maps,
        removed=guard(lambda: removed_components(store, config), ()),
        preparation=guard(lambda: preparation_facts(store, config, used), []),
        failed=dict(store.info.get("failed", {})),
        faults=tuple(dict.fromkeys(faults)),
    )


def read_samples(run: Path) -> Samples | None:
    """Read ``run/samples/``; None where there is none.

    Raises
    ------
    UserError
        If it is damaged, or was written by a newer milmer.
    """
    folder = run / FOLDER
    if not (folder / "samples.json").exists():
        return None
    import pandas as pd

    try:
        told = json.loads((folder / "samples.json").read_text("utf-8"))
        if told["version"] > VERSION:
            raise UserError(f"{folder}: version {told['version']}, this milmer reads up to {VERSION}; upgrade milmer")
        with np.load(folder / "eeg.npz", allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        frames = tuple(
            tuple(
                Frame(f["place"], f["time"], (folder / f["file"]).read_bytes() if f["file"] else b"") for f in example
            )
            for example in told["frames"]
        )
        return Samples(
            shows_faces=bool(told["shows_faces"]),
            examples=pd.read_parquet(folder / "examples.parquet"),
            frames=frames,
            eeg=tuple((tuple(n), arrays[f"eeg_{i}"].astype(np.float64)) for i, n in enumerate(told["eeg"])),
            rate=float(told["rate"]),
            maps=Maps(**{k: arrays[f"maps_{k}"] for k in _MAP_ARRAYS}, **told["maps"] | _spread(told["maps"])),
            removed=tuple(
                Removed(
                    key=r["key"],
                    maps=arrays[f"removed_{i}"],
                    positions=arrays[f"places_{i}"],
                    labels=tuple(r["labels"]),
                    numbers=tuple(r["numbers"]),
                    scores=tuple(r["scores"]),
                    more=int(r["more"]),
                )
                for i, r in enumerate(told["removed"])
            ),
            preparation=told["preparation"],
            failed=told["failed"],
            faults=tuple(told["faults"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder}: not readable ({error}); delete it, and give the report the run's store with --store"
        ) from error


_MAP_ARRAYS = ("examples", "classes", "counts", "positions")


def _spread(told: Mapping[str, Any]) -> dict[str, float]:
    return {"spread": float("nan") if told["spread"] is None else float(told["spread"])}


def _write(found: Samples, folder: Path) -> None:
    (folder / "frames").mkdir(parents=True)
    frames = []
    for e, example in enumerate(found.frames):
        told = []
        for frame in example:
            name = f"frames/{e}-{frame.place:03d}.jpg" if frame.jpeg else ""
            if name:
                (folder / name).write_bytes(frame.jpeg)
            told.append({"place": frame.place, "time": frame.time, "file": name})
        frames.append(told)
    arrays: dict[str, Any] = {f"eeg_{i}": x.astype(np.float32) for i, (_, x) in enumerate(found.eeg)}
    arrays |= {f"maps_{k}": getattr(found.maps, k) for k in _MAP_ARRAYS}
    for i, removed in enumerate(found.removed):
        arrays |= {f"removed_{i}": removed.maps, f"places_{i}": removed.positions}
    np.savez_compressed(folder / "eeg.npz", **arrays)
    write_table(folder / "examples.parquet", found.examples)
    maps = {k: v for k, v in asdict(found.maps).items() if k not in _MAP_ARRAYS}
    maps["spread"] = float(maps["spread"]) if np.isfinite(maps["spread"]) else None
    write_json(
        folder / "samples.json",
        {
            "version": VERSION,
            "shows_faces": found.shows_faces,
            "frames": frames,
            "eeg": [list(names) for names, _ in found.eeg],
            "rate": found.rate,
            "maps": maps,
            "removed": [{k: v for k, v in asdict(r).items() if k not in ("maps", "positions")} for r in found.removed],
            "preparation": list(found.preparation),
            "failed": dict(found.failed),
            "faults": list(found.faults),
        },
    )
