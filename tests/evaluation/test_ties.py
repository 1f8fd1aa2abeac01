from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from tests.conftest import make_store

from milmer.config import load_config
from milmer.evaluation.evaluate import evaluate
from milmer.store import Store

VALUES = {
    "data.modalities": ["eeg"],
    "data.target": "arousal",
    "data.threshold": "median",
    "data.ties": "drop",
    "model.fusion.method": "bandpower-logistic",
    "evaluation.folds": 3,
    "evaluation.resamples": 100,
    "training.threads": 1,
}


def test_a_trial_at_its_subjects_median_is_in_no_part_of_that_fold(tmp_path: Path) -> None:
    """Which trial is the tie hangs on the fold, so it is left out of a fold, not of the run."""
    path = make_store(tmp_path / "store", subjects=3, trials=9, seconds=6.0, face=False)
    table = pd.read_parquet(path / "trials.parquet")
    step = np.where(table["rating_arousal"] > 5, 0.2, -0.2) * table["trial"]  # every rating is another
    table = table.assign(rating_arousal=5 + step)
    table.to_parquet(path / "trials.parquet")
    run = tmp_path / "run"
    evaluate(Store(path), load_config("demo", overrides=VALUES), run)
    found = pd.read_parquet(run / "predictions.parquet")
    assert (found["y_true"] >= 0).all() and not (found["rating_arousal"] == found["threshold_arousal"]).any()
    high = found["rating_arousal"] > found["threshold_arousal"]
    assert (high == (found["y_true"] == 1)).all()
    splits = pd.read_parquet(run / "splits.parquet")
    for fold, planned in splits.groupby("fold"):
        mine = found[found["fold"] == fold]
        lost = set(map(tuple, planned[["subject", "trial"]].to_numpy())) - set(
            map(tuple, mine[["subject", "trial"]].to_numpy())
        )
        train = table.merge(planned.loc[planned["part"] == "train", ["subject", "trial"]].drop_duplicates())
        medians = train.groupby("subject")["rating_arousal"].median()
        ratings = table.set_index(["subject", "trial"])["rating_arousal"]
        tied = {(s, t) for (s, t), r in ratings.items() if r == medians[s]}
        assert lost == tied
    notes = json.loads((run / "run.json").read_text())["notes"]
    assert any("rated exactly at the threshold and ha" in n for n in notes)
