"""A made-up study as another toolkit's tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def study(subjects: int = 6, trials: int = 8, windows: int = 4, seed: int = 0) -> tuple[pd.DataFrame, Any]:
    """Metadata under torcheeg's names, one row a clip, and features that tell subject and trial only."""
    rng = np.random.default_rng([seed, 9])
    rows, x = [], []
    for s in range(subjects):
        labels = rng.permutation(np.arange(trials) % 2)
        for t in range(trials):
            state = rng.normal(0, 1, 8)
            for w in range(windows):
                rows.append({"clip_id": f"{s}_{t}_{w}", "subject_id": f"s{s}", "trial_id": t, "video_id": f"v{t}"})
                rows[-1] |= {"start_at": 384 + 128 * w, "end_at": 512 + 128 * w, "label": ["low", "high"][labels[t]]}
                x.append(state + rng.normal(0, 0.4, 8))
    return pd.DataFrame(rows), np.array(x)


def deal(folder: Path, info: pd.DataFrame, of_row: Any, validation: bool = False) -> Path:
    """Write ``train_fold_K.csv`` and so on."""
    folder.mkdir(parents=True)
    for k in range(int(of_row.max()) + 1):
        held = (k + 1) % (int(of_row.max()) + 1) if validation else -1
        info[(of_row != k) & (of_row != held)].to_csv(folder / f"train_fold_{k}.csv", index=False)
        info[of_row == k].to_csv(folder / f"test_fold_{k}.csv", index=False)
        if validation:
            info[of_row == held].to_csv(folder / f"val_fold_{k}.csv", index=False)
    return folder


def write(file: Path, table: pd.DataFrame) -> Path:
    """Write CSV or Parquet by the name's ending."""
    if file.suffix == ".parquet":
        table.to_parquet(file, index=False)
    else:
        table.to_csv(file, index=False)
    return file
