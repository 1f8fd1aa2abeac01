"""Which of the dealt groups train, validate and test: one protocol a function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from milmer.errors import UserError, nearest
from milmer.evaluation.dealing import Ints, deal_groups, deal_subjects

DEFAULT_FOLDS = 5
# One fold tests, the next validates: with fewer than three nothing is left to train on.
FEWEST_FOLDS = 3


@dataclass(frozen=True)
class Labelled:
    """The labelled rows of a table, their identities as numbers.

    Parameters
    ----------
    rows : ndarray of int64, shape (n,)
        Row numbers into the table, ascending.
    people, trials, stimuli, studies, labels : ndarray of int64, shape (n,)
        Who, what and which class. Stimuli are all 0 where the protocol does not ask for them.
    """

    rows: Ints
    people: Ints
    trials: Ints
    stimuli: Ints
    studies: Ints
    labels: Ints

    def only(self, mine: NDArray[np.bool_]) -> Labelled:
        """Return the rows that `mine`, shape (n,), picks."""
        columns = (self.rows, self.people, self.trials, self.stimuli, self.studies, self.labels)
        return Labelled(*(c[mine] for c in columns))


@dataclass(frozen=True)
class Fit:
    """Which of n labelled rows train, validate and test: three masks of shape (n,), and what is tested."""

    train: NDArray[np.bool_]
    validation: NDArray[np.bool_]
    test: NDArray[np.bool_]
    name: str = ""


def trial_fits(table: Labelled, folds: int | None, rng: np.random.Generator) -> list[Fit]:
    """Trials, dealt within each subject and class."""
    count = folds or DEFAULT_FOLDS
    _enough("trial", "trials", np.unique(table.trials).size, count)
    return _ring(deal_groups(table.people, table.trials, table.labels, count, rng), count)


def window_fits(table: Labelled, folds: int | None, rng: np.random.Generator) -> list[Fit]:
    """Single rows, dealt within each subject and class."""
    count = folds or DEFAULT_FOLDS
    _enough("window", "windows", table.rows.size, count)
    return _ring(deal_groups(table.people, np.arange(table.rows.size), table.labels, count, rng), count)


def subject_fits(table: Labelled, folds: int | None, rng: np.random.Generator) -> list[Fit]:
    """One subject a fit in their order, or groups of them."""
    _, of_row = np.unique(table.people, return_inverse=True)
    people = int(of_row.max()) + 1
    if people < FEWEST_FOLDS:
        raise UserError(
            f"protocol 'subject': found {people} labelled subject{'s' * (people != 1)}, expected at least "
            f"{FEWEST_FOLDS} (to test, to validate, to train); add subjects or use the protocol 'trial'"
        )
    if folds is None:
        return _ring(np.asarray(of_row, dtype=np.int64), people)
    if folds > people:
        raise UserError(
            f"protocol 'subject': found {people} labelled subjects for {folds} folds, expected one or more a "
            "fold; lower evaluation.folds or leave it out for one a subject"
        )
    return _ring(deal_subjects(table.people, table.trials, table.labels, folds, rng), folds)


def stimulus_fits(table: Labelled, folds: int | None, rng: np.random.Generator) -> list[Fit]:
    """Groups of stimuli, dealt within each study by their commonest class."""
    stimuli = np.unique(table.stimuli).size
    _enough("stimulus", "stimuli", stimuli, folds, "trial")
    count = folds or min(DEFAULT_FOLDS, stimuli)
    return _ring(deal_groups(table.studies, table.stimuli, table.labels, count, rng, mixed=True), count)


def grid_fits(table: Labelled, folds: int | None, rng: np.random.Generator) -> list[Fit]:
    """A fit for each cell of subject groups x stimulus groups.

    Cell (i, j) tests and cell (i + 1, j + 1) validates; what shares a group with either is left out of training.
    Where not everybody saw everything a cell can be empty: as a test it is left out, and as a validation part the
    next one with rows takes its place.
    """
    people, stimuli = np.unique(table.people).size, np.unique(table.stimuli).size
    _enough("subject-and-stimulus", "subjects", people, folds, "trial")
    _enough("subject-and-stimulus", "stimuli", stimuli, folds, "subject")
    count = folds or min(DEFAULT_FOLDS, people, stimuli)
    who = deal_subjects(table.people, table.trials, table.labels, count, rng)
    what = deal_groups(table.studies, table.stimuli, table.labels, count, rng, mixed=True)
    steps = sorted(product(range(1, count), repeat=2), key=lambda s: (sum(s), s))
    found = []
    for i, j in product(range(count), repeat=2):
        test = (who == i) & (what == j)
        if not test.any():
            continue
        for a, b in steps:
            k, m = (i + a) % count, (j + b) % count
            validation = (who == k) & (what == m)
            train = (who != i) & (who != k) & (what != j) & (what != m)
            if validation.any() and train.any():
                found.append(Fit(train, validation, test, f"subjects {i + 1}, stimuli {j + 1}"))
                break
        else:
            raise UserError(
                f"protocol 'subject-and-stimulus': found nothing to train or to validate on for subjects {i + 1}, "
                f"stimuli {j + 1}, expected subjects who saw stimuli of other groups too; change evaluation.folds or "
                "use the protocol 'stimulus'"
            )
    return found


def study_fits(
    table: Labelled, studies: Sequence[str], folds: int | None, rng: np.random.Generator, train_study: str | None
) -> list[Fit]:
    """Each study tested by all others, or all others by `train_study`; `studies` are the names of their numbers."""
    if len(studies) < 2:
        raise UserError(
            f"protocol 'cross-study': found one study, {studies[0] or 'without a name'}, expected two or more in the "
            "column study; give another study's store as --test-store, or use the protocol 'subject'"
        )
    if train_study is not None and train_study not in studies:
        raise UserError(
            f"train_study: found no labelled row of '{train_study}', expected one of {', '.join(studies)}"
            f"{nearest(train_study, studies)}"
        )
    held = np.zeros(table.rows.size, dtype=np.bool_)  # who validates when their study is trained on
    for study in range(len(studies)):
        mine = table.studies == study
        people = np.unique(table.people[mine]).size
        if people > 1:
            own = table.only(mine)
            count = min(folds or DEFAULT_FOLDS, people)
            held[mine] = deal_subjects(own.people, own.trials, own.labels, count, rng) == 0
    found = []
    for study, name in enumerate(studies):
        if train_study is not None and name != train_study:
            continue
        mine = table.studies == study
        train = mine if train_study is not None else ~mine
        if not (train & held).any():
            raise UserError(
                f"protocol 'cross-study': found one labelled subject in {_join(studies, table.studies[train])}, "
                "expected at least 2 of a study to train on, since one of them validates; add subjects or train on "
                "another study"
            )
        found.append(Fit(train & ~held, train & held, ~train, _join(studies, table.studies[~train])))
    return found


def _join(studies: Sequence[str], codes: Ints) -> str:
    return ", ".join(studies[c] for c in np.unique(codes).tolist())


def _ring(of_row: Ints, count: int) -> list[Fit]:
    """Fold k tests, fold k + 1 validates, the others train."""
    found = []
    for k in range(count):
        held = (k + 1) % count
        found.append(Fit((of_row != k) & (of_row != held), of_row == held, of_row == k))
    return found


def _enough(protocol: str, unit: str, found: int, folds: int | None, instead: str = "") -> None:
    """Refuse fewer units than folds; `folds` None: as many as there are, but three."""
    wanted = folds or FEWEST_FOLDS
    if found >= wanted:
        return
    mends = ["add recordings"]
    if found >= FEWEST_FOLDS:
        mends.append("lower evaluation.folds")
    if instead:
        mends.append(f"use the protocol '{instead}'")
    why = "one a fold" if folds else "to test, to validate and to train"
    raise UserError(
        f"protocol '{protocol}': found {found} labelled {unit}, expected at least {wanted}, {why}; {' or '.join(mends)}"
    )
