"""What a reader of a comparison must know, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from milmer.evaluation.chance import NEW_STIMULI
from milmer.evaluation.comparable import Candidate
from milmer.evaluation.crossed import Stimuli, verdict_note

if TYPE_CHECKING:  # it imports this module
    from milmer.evaluation.comparison import Pair

SPLIT_KEYS = ("evaluation.seed", "evaluation.folds")
TRAINING_KEYS = ("evaluation.protocol", "evaluation.scope", "evaluation.budget", *SPLIT_KEYS)


def new_stimuli(protocol: str) -> bool:
    """Whether the stimuli of a test are new under a protocol (several are joined by `` / ``)."""
    return any(name in NEW_STIMULI for name in protocol.split(" / "))


def notes_of(
    runs: Sequence[Candidate],
    differ: Mapping[str, list[Any]],
    found: Sequence[Pair],
    alpha: float,
    subject: str,
    stimuli: Stimuli | None,
) -> list[str]:
    """Return the notes of a comparison.

    Parameters
    ----------
    runs : sequence of Candidate
        What is compared.
    differ : dict
        Configuration keys that differ.
    found : sequence of Pair
        Every pair of the main figure.
    alpha : float
        Level of the corrected tests.
    subject : str
        Name of the lone subject, over whose trials runs are paired; else empty.
    stimuli : Stimuli, optional
        Where runs are told apart for new stimuli.
    """
    over_trials, pairs, result = bool(subject), len(found), found[0].result
    notes = []
    if over_trials:
        notes.append(
            f"One subject ({subject}): paired over trials, so this speaks of this person's trials, not of people."
        )
    least = pairs * result.p_smallest
    if stimuli is None and least > alpha:
        unit = "trials" if over_trials else "subjects"
        times = f", {min(least, 1.0):.2g} after correction for {pairs} pairs" if pairs > 1 else ""
        notes.append(
            f"With {result.n} {unit} the smallest possible p is {result.p_smallest:.2g}{times}: no difference, however "
            f"large, can be shown at {100 * alpha:g} %. 'milmer plan' says how many would be enough."
        )
    if stimuli is not None:
        notes.append(verdict_note([run.protocol for run in runs if new_stimuli(run.protocol)], stimuli))
    if any("window" in run.protocol for run in runs):
        notes.append("Figures under the protocol window (leaky) are largely those of recognising a trial.")
    models = [k for k in differ if k not in TRAINING_KEYS]
    if any((r.protocol, r.budget) != (runs[0].protocol, runs[0].budget) for r in runs) and models:
        more = f" and {len(models) - 4} more" if len(models) > 4 else ""
        notes.append(
            f"Not only the protocol differs ({', '.join(models[:4])}{more}): the inflation is mixed with that."
        )
    if "evaluation.scope" in differ:
        notes.append("Scope differs: one was trained on all subjects together, the other on each alone.")
    if len({run.store for run in runs if run.store}) > 1:
        notes.append("Stores differ: the same trials were prepared otherwise, and that is part of any difference.")
    splits = {run.split for run in runs if run.split}
    if len({(r.protocol, r.budget) for r in runs}) == 1 and (len(splits) > 1 or any(k in differ for k in SPLIT_KEYS)):
        notes.append("Splits differ: runs were trained on other trials, and part of a difference may be that.")
    if len({len(run.seeds) for run in runs}) > 1 or len({run.seeds for run in runs}) > 1:
        notes.append(f"Seeds: {', '.join(f'{r.name} {len(r.seeds)}' for r in runs)}; averaged subject by subject.")
    elif len(runs[0].seeds) == 1:
        notes.append("One seed of training each: the tests do not know what another seed would give.")
    return notes
