"""What is written beside a model's weights, so that they can be used."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import numpy as np

from milmer.config import Config
from milmer.training.data import Bags
from milmer.training.operators import fold_settings


def model_record(config: Config, bags: Bags) -> dict[str, Any]:
    """Everything beside the weights that prediction needs: it goes into the model's config.json."""
    keys = sorted(set(bags.table["store_key"]))
    names, places, _ = max((bags.reader.layout(k) for k in keys), key=lambda of: len(of[0]), default=((), [], None))
    data, preparation = config.data.model_dump(mode="json"), dict(bags.store.info["parameters"])
    if bags.reader.names:  # "common" is another cap in another store
        data["montage"] = ",".join(bags.reader.names)
    if bags.reader.operators is not None:  # a new recording is to be decomposed, even where the store's are not
        preparation["eeg"] = fold_settings(config, bags.store).model_dump(mode="json")
    return {
        "milmer": importlib.metadata.version("milmer"),
        "classes": list(bags.labels.classes),
        "label_rule": bags.labels.rule,
        "data": data,
        "preparation": preparation,
        "channels": list(names),
        "positions": np.round(places, 4).tolist(),  # on the unit sphere, a channel each
        "rate": bags.store.eeg_rate,
        "study": bags.store.name,
        "store": bags.store.fingerprint,
        "seed": config.training.seed,
    }
