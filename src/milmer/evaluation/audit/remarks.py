"""What an audit of tables could not judge, or judged of a part only, in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from milmer.evaluation.audit import structure
from milmer.evaluation.audit.columns import class_names

if TYPE_CHECKING:
    import pandas as pd

    from milmer.evaluation.audit.scores import Told
    from milmer.evaluation.audit.tables import Answers, Fold

Ints = NDArray[np.int64]


def on_splits(rows: pd.DataFrame, folds: Sequence[Fold], name: str, guessed: str, claimed: str | None) -> list[str]:
    """Return how the protocol was taken, what was not judged for want of columns, and what validation shares."""
    notes = []
    if claimed is None:
        notes.append(
            f"The protocol was taken for '{guessed}', the strictest that these splits keep; name another with "
            "--protocol."
        )
        for kind in ("subject", "stimulus", "trial"):
            share = next((o for o in structure.overlaps(rows, folds, name) if o["kind"] == kind), None)
            if share and 0 < share["shared"] < share["of"] / 2:
                notes.append(
                    f"Only {share['shared']} of {share['of']} {structure.PLURAL[kind]} are on two sides: a split by "
                    f"{kind} that is broken? Then name it with --protocol."
                )
    elif guessed != claimed:
        notes.append(f"These splits keep the protocol '{guessed}'; they were judged as '{claimed}', as asked.")
    for kind, why in (("stimulus", "whether stimuli are on two sides"), ("recording", "what recordings share")):
        if structure.unit_codes(rows, kind) is None:
            notes.append(f"Not judged, for want of a column {kind}: {why}.")
    chosen = [{"train": f.train, "test": f.validation} for f in folds if f.validation.size]
    for o in structure.overlaps(rows, chosen, name) if chosen else []:
        if o["shared"] and not o["permitted"]:
            notes.append(
                f"{o['shared']} of {o['of']} {structure.PLURAL[o['kind']]} of validation are in training too: whatever "
                "was chosen there was chosen on what training knows."
            )
    if "start" not in rows:
        notes.append("Not judged, for want of columns start and stop: whether windows overlap in time.")
    return notes


def on_classes(folds: Sequence[Fold], y: Ints) -> list[str]:
    """Return which parts of which folds have fewer than two classes."""
    notes = []
    for fold in folds:
        for part, index in (("training", fold.train), ("test", fold.test)):
            kinds = np.unique(y[index][y[index] >= 0])
            if kinds.size < 2:
                notes.append(f"{fold.name}: {part} has {'one class only' if kinds.size else 'no label'}.")
    return notes[:5] + ([f"... and {len(notes) - 5} more folds like that."] if len(notes) > 5 else [])


def on_answers(told: Told, answers: Answers, rows: pd.DataFrame, folds: Sequence[Fold], y: Ints) -> list[str]:
    """Return what is amiss with predictions whose figures are right all the same, for what they are of."""
    notes = list(answers.remarks)
    labelled = y >= 0  # (n_rows,)
    if answers.truth is not None:  # rows that nobody answered may have no other label
        named = class_names(rows["label"]) if "label" in rows else np.full(len(rows), "", dtype=object)  # (n_rows,)
        labelled = labelled | np.array([name is not None for name in named])  # (n_rows,)
    wanted = np.concatenate([f.test[labelled[f.test]] for f in folds])
    if told.row.size < wanted.size:
        subject = structure.unit_codes(rows, "subject")
        every = 0 if subject is None else np.unique(subject[wanted]).size
        notes.append(
            f"Predictions: there are answers to {told.row.size} of {wanted.size} test rows, from "
            f"{np.unique(told.person).size} of {every} subjects: every figure of the predictions is of these alone."
        )
    if (none := int((told.answer < 0).sum())) > 0:
        notes.append(
            f"Predictions: {none} of {told.row.size} answers are empty or name no class of the labels; they count as "
            "wrong."
        )
    return notes
