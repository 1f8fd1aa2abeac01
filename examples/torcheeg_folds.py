"""Audit folds as torcheeg writes them: clips dealt at random, and whole trials dealt.

    python examples/torcheeg_folds.py OUT

No torcheeg is needed: the tables are made here, with the names of files and columns that its ``KFold`` and
``KFoldCrossTrial`` write (``train_fold_0.csv``, ``test_fold_0.csv``; ``subject_id``, ``trial_id``, ``clip_id``,
``start_at``, ``end_at`` in samples, ratings). The made-up study has no emotion in it: the "EEG" of a clip tells its
trial and its subject, nothing else. A nearest-neighbour model is scored on both kinds of folds, and both are audited.
The same from the command line (``--out`` names the folder to write)::

    milmer audit --metadata OUT/info.csv --splits OUT/clips --predictions OUT/clips.csv --features OUT/features.parquet
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Fold = tuple[Ints, Ints]

SUBJECTS, TRIALS, CLIPS, RATE, FOLDS = 6, 20, 6, 128, 5


def make_study(seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return torcheeg's info table, one row a clip of 1 s, and features of each clip."""
    rng = np.random.default_rng([seed, 0])
    rows, features = [], []
    for s in range(SUBJECTS):
        person = rng.normal(0, 2, 12)
        for t in range(TRIALS):
            state = person + rng.normal(0, 1, 12)  # what electrodes and mood of this trial are like
            valence, arousal = rng.uniform(1, 9, 2)  # says nothing about the signal
            for c in range(CLIPS):
                start = (3 + c) * RATE  # after 3 s of baseline
                identity = {"subject_id": f"s{s + 1:02d}.dat", "trial_id": t, "clip_id": f"s{s + 1:02d}.dat_{t}_{c}"}
                times = {"start_at": start, "end_at": start + RATE}
                rows.append(identity | times | {"valence": valence, "arousal": arousal})
                features.append(state + rng.normal(0, 0.6, 12))
    info = pd.DataFrame(rows)
    # torcheeg numbers DEAP's trials by video, so that a trial's number names its stimulus.
    info["video_id"] = info["trial_id"]
    table = pd.DataFrame(np.array(features), columns=[f"band_{i}" for i in range(12)])
    return info, pd.concat([info[["clip_id"]], table], axis=1)


def write_folds(folder: Path, info: pd.DataFrame, groups: Ints, seed: int = 0) -> list[Fold]:
    """Deal groups of clips over folds and write each fold's two tables; return row numbers of both."""
    folder.mkdir(parents=True, exist_ok=True)
    names, code = np.unique(groups, return_inverse=True)
    fold_of = np.random.default_rng([seed, 1]).permutation(np.arange(names.size) % FOLDS)[code]
    folds = []
    for k in range(FOLDS):
        train, test = np.flatnonzero(fold_of != k), np.flatnonzero(fold_of == k)
        info.iloc[train].to_csv(folder / f"train_fold_{k}.csv", index=False)
        info.iloc[test].to_csv(folder / f"test_fold_{k}.csv", index=False)
        folds.append((train, test))
    return folds


def nearest_neighbour(info: pd.DataFrame, features: pd.DataFrame, folds: list[Fold]) -> pd.DataFrame:
    """Answer each test clip with the label of the training clip most like it."""
    label = np.where(info["valence"] > 5, "high", "low")
    x = features.drop(columns="clip_id").to_numpy()
    tables = []
    for k, (train, test) in enumerate(folds):
        square = (x[test] ** 2).sum(1)[:, None] - 2 * x[test] @ x[train].T + (x[train] ** 2).sum(1)
        answer = label[train][square.argmin(axis=1)]
        clips = info["clip_id"].to_numpy()[test]
        tables.append(pd.DataFrame({"clip_id": clips, "fold": k, "y_true": label[test], "y_pred": answer}))
    return pd.concat(tables, ignore_index=True)


def run(out: Path) -> dict[str, dict[str, Any]]:
    """Make the study and both kinds of folds, audit each, and return both audits."""
    from milmer.evaluation.audit.external import audit_tables

    out.mkdir(parents=True, exist_ok=True)
    info, features = make_study()
    info.to_csv(out / "info.csv", index=False)
    features.to_parquet(out / "features.parquet", index=False)
    found = {}
    for name, groups in (("clips", np.arange(len(info))), ("trials", info["trial_id"].to_numpy())):
        folds = write_folds(out / name, info, groups)
        nearest_neighbour(info, features, folds).to_csv(out / f"{name}.csv", index=False)
        found[name] = audit_tables(
            out / "info.csv", out / name, out / f"{name}.csv", out / "features.parquet", out / f"audit_{name}"
        )
    return found


def main() -> None:
    """Write everything into a folder and say what was found."""
    parser = argparse.ArgumentParser(description="Audit torcheeg-style folds of a made-up study.")
    parser.add_argument("out", type=Path, help="folder to write")
    out = parser.parse_args().out
    for name, audit in run(out).items():
        observed = audit["protocols"][0]["observed"]
        sys.stdout.write(
            f"{name}: accuracy {observed['score']:.2f} (chance {observed['chance']:.2f})\n  {audit['headline']}\n"
            f"  {out / f'audit_{name}' / 'audit.html'}\n"
        )


if __name__ == "__main__":
    main()
