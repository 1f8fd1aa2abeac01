"""Small studies in DEAP's layout whose every value says where it belongs."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from scipy.io import savemat

RATE = 128
HEADER = "Participant_id,Trial,Experiment_id,Start_time,Valence,Arousal,Dominance,Liking,Familiarity"


def coded(trials: int, samples: int) -> np.ndarray:
    """Data (trials, 40, samples) whose value is trial * 1e5 + channel * 1e3 + time in seconds, trials from 1."""
    trial = np.arange(1, trials + 1)[:, None, None] * 1e5  # (T, 1, 1)
    channel = np.arange(40)[None, :, None] * 1e3  # (1, 40, 1)
    return trial + channel + np.arange(samples)[None, None] / RATE  # (T, 40, S)


def ratings(trials: int, seed: int) -> np.ndarray:
    """Ratings (trials, 4) with two decimals, in Experiment_id order."""
    return np.random.default_rng(seed).integers(100, 901, (trials, 4)) / 100


def write_study(
    root: Path,
    orders: dict[int, Sequence[int]],
    *,
    samples: int = 5 * RATE,
    data: np.ndarray | None = None,
    videos: bool = True,
    familiarity: bool = True,
    protocol: int = 2,
    form: str = "python",
) -> Path:
    """Write participants whose `orders` give the Experiment_id shown first, second, ...; videos are empty files.

    `form` is ``python``, ``matlab`` or ``matlab-7.3``, of the signals.
    """
    (root / "metadata_csv").mkdir(parents=True)
    (root / f"data_preprocessed_{form.partition('-')[0]}").mkdir()
    lines = [HEADER]
    for participant, order in orders.items():
        key = f"s{participant:02d}"
        labels = ratings(len(order), participant)
        content = {"data": coded(len(order), samples) if data is None else data, "labels": labels}
        if form == "python":
            write_dat(root, participant, content, protocol)
        else:
            write_mat(root, participant, content, hdf5=form == "matlab-7.3")
        for t, e in enumerate(order, start=1):
            values = ",".join(f"{v:g}" for v in labels[e - 1])
            lines.append(f"{participant},{t},{e},{t * 650_000},{values},{3 if familiarity else ''}")
            if videos:
                folder = root / "face_video" / key
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{key}_trial{t:02d}.avi").write_bytes(b"not read here")
    table(root).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def write_dat(root: Path, participant: int, content: object, protocol: int = 2) -> Path:
    path = root / "data_preprocessed_python" / f"s{participant:02d}.dat"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def write_mat(root: Path, participant: int, content: dict[str, np.ndarray], hdf5: bool = False) -> Path:
    path = root / "data_preprocessed_matlab" / f"s{participant:02d}.mat"
    if not hdf5:
        savemat(path, content, do_compression=True)
        return path
    with h5py.File(path, "w", userblock_size=512) as file:  # Matlab's own header stands before the HDF5 part
        for name, values in content.items():
            file.create_dataset(name, data=np.asarray(values).T).attrs["MATLAB_class"] = np.bytes_("double")
    return path


def table(root: Path) -> Path:
    return root / "metadata_csv" / "participant_ratings.csv"


def replace_in_line(path: Path, line: int, column: int, value: str) -> None:
    """Change one cell of a CSV; lines count from 1, columns from 0."""
    lines = path.read_text(encoding="utf-8").splitlines()
    cells = lines[line - 1].split(",")
    cells[column] = value
    lines[line - 1] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_tiny(root: Path) -> Path:
    """Write a study for tests of all loaders; its videos cannot be opened."""
    return write_study(root / "study", {1: [2, 1, 3], 2: [3, 2, 1], 30: [1, 3, 2]})
