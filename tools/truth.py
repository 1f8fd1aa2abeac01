"""What a simulated study knows of its faces, laid beside what a run's weights chose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from milmer.store import Store


def strength(study: Path, subject: str, trial: int, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """How strongly the face of a trial shows its expression at `times` (F,) seconds, 0 to 1; (F,)."""
    events = pd.read_csv(study / "truth" / subject / "events.csv", dtype={"subject": str})
    mine = events[events["kind"].str.startswith("expression") & (events["trial"] == trial)]
    found = np.zeros(len(times))  # (F,)
    for start, apex, stop in mine[["start", "apex", "stop"]].to_numpy(np.float64):
        rise, fall = (times - start) / (0.7 * (apex - start)), (stop - times) / (0.7 * (stop - apex))  # (F,), (F,)
        found = np.maximum(found, np.clip(np.minimum(rise, fall), 0, 1))
    return found


def shown(study: Path, store: Store, key: str) -> NDArray[np.float64]:
    """Strength of the expression in every frame of a recording's face track, (F,)."""
    found = np.zeros(len(store.faces(key).time))  # (F,)
    for _, trial in store.trials[store.trials["store_key"] == key].iterrows():
        rows = slice(int(trial["face_start"]), int(trial["face_start"]) + int(trial["face_rows"]))
        found[rows] = strength(study, str(trial["subject"]), int(trial["trial"]), store.faces(key).time[rows])
    return found


def attention(study: Path, store: Store, predictions: pd.DataFrame, keep: int = 3) -> pd.DataFrame:
    """Measure, in every test bag that holds both, how the weights tell expressive frames from others.

    Expressive is a frame at half an expression's strength or more, other one that shows none of it (distractors too);
    what lies between counts as neither.

    Returns
    -------
    DataFrame
        A row a bag: ``subject``; ``on``, ``off`` (mean weight on expressive and on other frames); ``precision`` (share
        of the top `keep` that are expressive, of as many as there could be); ``average_precision``; ``share`` (of
        frames that are expressive).
    """
    strengths = {key: shown(study, store, key) for key in set(predictions["store_key"])}
    rows: list[dict[str, Any]] = []
    for _, bag in predictions[predictions["part"] == "test"].iterrows():
        faces, weights = np.asarray(bag["face_rows"]), np.asarray(bag["frame_weights"])  # (N,), (N,)
        there = faces >= 0  # (N,)
        level = np.where(there, strengths[bag["store_key"]][np.maximum(faces, 0)], 0.0)  # (N,)
        yes, no = there & (level >= 0.5), there & (level == 0)  # (N,), (N,)
        if not (yes.any() and no.any()):
            continue
        windows = max(1, len(faces) // 10)
        best = np.argsort(-np.where(there, weights, -1.0), kind="stable")[: keep * windows]  # (K,)
        rows.append(
            {
                "subject": bag["subject"],
                "on": weights[yes].mean(),
                "off": weights[no].mean(),
                "precision": yes[best].sum() / min(len(best), yes.sum()),
                "average_precision": average_precision_score(yes[yes | no], weights[yes | no]),
                "share": yes.sum() / (yes | no).sum(),
            }
        )
    return pd.DataFrame(rows)
