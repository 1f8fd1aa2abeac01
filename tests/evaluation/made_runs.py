"""Runs without a model: folders with predictions of a chosen skill, for whatever reads finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from milmer.store import write_json

CLASSES = ("HAHV", "HALV", "LAHV", "LALV")


def predictions(
    skill: float = 0.2,
    *,
    subjects: int = 8,
    trials: int = 12,
    windows: int = 3,
    seeds: tuple[int, ...] = (0,),
    rng: np.random.Generator | None = None,
    window: float = 3.0,
    protocol: str = "trial",
    budget: str = "none",
    rule: str = "valence > 5, arousal > 5",
) -> pd.DataFrame:
    """Return test rows whose answers are right more often by `skill`, more so for some subjects; labels are fixed."""
    rng = np.random.default_rng(0) if rng is None else rng
    rows = []
    for seed in seeds:
        for s in range(subjects):
            gift = skill + rng.normal(0, 0.05)
            for t in range(trials):
                y = (s + t) % len(CLASSES)
                for w in range(windows):
                    p = rng.dirichlet(np.ones(len(CLASSES)))  # (k,)
                    if rng.random() < gift:
                        top = int(p.argmax())
                        p[[y, top]] = p[[top, y]]
                    rows.append(
                        {"protocol": protocol, "budget": budget, "fold": t % 3, "seed": seed, "part": "test"}
                        | {"study": "made", "subject": f"s{s + 1:02d}", "session": "", "trial": t + 1}
                        | {"stimulus": f"f{t:02d}", "start": w * window, "stop": (w + 1) * window}
                        | {"label_rule": rule, "threshold_valence": 5.0, "threshold_arousal": 5.0, "y_true": y}
                        | {f"prob_{c}": p[k] for k, c in enumerate(CLASSES)}
                        | {"y_pred": int(p.argmax())}
                    )
    return pd.DataFrame(rows)


def write_run(path: Path, table: pd.DataFrame, *, settings: dict[str, Any] | None = None, **record: Any) -> Path:
    """Write a folder that reads like a finished run."""
    path.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path / "predictions.parquet", index=False)
    first = {c: str(table[c].iloc[0]) for c in ("protocol", "budget", "label_rule") if c in table}
    about = {"kind": "evaluate", "complete": True, "store": "store", "fingerprint": "0", "classes": list(CLASSES)}
    write_json(path / "run.json", about | first | record)
    tree = {"data": {"window": 3.0}, "model": {"fusion": {"method": "transformer"}}, "training": {"seed": 0}}
    (path / "config.yaml").write_text(yaml.safe_dump(tree | (settings or {})))
    return path


def make_run(path: Path, skill: float = 0.2, seed: int = 0, **options: Any) -> Path:
    """Write a run of some skill."""
    return write_run(path, predictions(skill, rng=np.random.default_rng([seed]), **options))
