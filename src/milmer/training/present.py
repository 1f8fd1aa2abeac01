"""What a model answers where only some of the modalities are shown to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from milmer.evaluation.subsets import Shown
from milmer.models.weights import load_model
from milmer.training.data import Bags, make_loader
from milmer.training.prefix import suited


def predict_subsets(
    folder: Path,
    bags: Bags,
    rows: NDArray[np.int64],
    subsets: Sequence[tuple[str, ...]],
    *,
    device: str = "auto",
    batch: int = 64,
) -> list[Shown]:
    """Return the class probabilities that the model in `folder` gives to `rows`, all modalities masked but a subset.

    A row is read once, whatever the number of subsets. A row that has nothing of a subset is answered all the same:
    by what the model believes without evidence.

    Parameters
    ----------
    folder : Path
        A fitted model.
    rows : ndarray of int64, shape (n_rows,)
    subsets : sequence of tuple of str
        Such as ``("eeg", "gsr")``.

    Returns
    -------
    list of Shown
        In the order of `subsets`.
    """
    model, _ = load_model(folder)
    place = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    model.to(place).eval()
    said: list[list[torch.Tensor]] = [[] for _ in subsets]
    held: list[list[torch.Tensor]] = [[] for _ in subsets]
    with torch.inference_mode():
        for bag, _, _ in make_loader(suited(bags, model), rows, batch):
            here = bag.to(place)
            for present, answers, there in zip(subsets, said, held, strict=True):
                shown = here.only(present)
                answers.append(model(shown).logits.float().softmax(-1).cpu())  # (B, classes)
                there.append(shown.settled().present().any(1).cpu())  # (B,)
    return [
        Shown(present, torch.cat(answers).numpy(), torch.cat(there).numpy())
        for present, answers, there in zip(subsets, said, held, strict=True)
    ]
