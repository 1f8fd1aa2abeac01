"""Which folds a run has: the protocol's own, those of a file, and those of permuted labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from milmer.config import Config
from milmer.errors import UserError
from milmer.evaluation.protocols import (
    LEAKY,
    PERMITTED,
    Split,
    display_name,
    identity_codes,
    make_splits,
    person_codes,
    stimulus_codes,
)
from milmer.evaluation.statistics import exchangeable
from milmer.store import Store
from milmer.store_join import JoinedStore

if TYPE_CHECKING:
    from milmer.training.data import Bags

_IDENTITIES = {
    "trial": ("study", "subject", "session", "trial"),
    "recording": ("study", "subject", "session", "recording"),
    "subject": ("study", "subject"),
    "stimulus": ("study", "stimulus"),
    "study": ("study",),
}


def check_options(kind: str, store: Store, config: Config, test_store: Store | None, splits: Path | None) -> None:
    """Refuse options that do not go together, before anything is read.

    Raises
    ------
    UserError
        For cross-study without a second study, a second study under another protocol, a file of splits that is not
        there or comes with a number of folds, or one model that would be of one subject only, or have nothing held out.
    """
    settings = config.evaluation
    crossing = settings.protocol == "cross-study"
    if kind == "train" and crossing:
        raise UserError(
            "train: one model is fitted on one store, so the protocol cross-study holds nothing out; use --protocol "
            "subject, or 'milmer evaluate STORE --test-store OTHER --protocol cross-study'"
        )
    if kind == "train" and settings.scope == "subject":
        raise UserError(
            "train: found evaluation.scope subject, which fits a model for each subject; leave it out, or use "
            "'milmer evaluate', whose folds are such models"
        )
    if test_store is not None and not crossing:
        raise UserError(
            f"--test-store with the protocol {settings.protocol}: found a second study, expected --protocol cross-study"
        )
    if crossing and test_store is None and store.trials["study"].nunique() < 2:
        raise UserError(
            f"protocol cross-study: {store.path} holds one study, expected another to test on: give its store as "
            "--test-store to 'milmer evaluate'"
        )
    if splits is not None and settings.folds is not None:
        raise UserError(
            f"--splits {splits} and --folds {settings.folds}: the file says which folds there are; leave --folds out "
            "(--set evaluation.folds=null, where a --config has it)"
        )
    if splits is not None and not splits.is_file():
        raise UserError(f"--splits {splits}: no such file; a run's splits.parquet is one")


def first_splits(kind: str, store: Store, bags: Bags, config: Config, file: Path | None) -> list[Split]:
    """Return the folds of a run's own labels.

    Raises
    ------
    UserError
        As `make_splits` does; or if a file's folds share between training and test what the protocol forbids.
    """
    if file is not None:
        from milmer.evaluation.split_files import read_splits

        found = read_splits(file, bags.table, bags.labels.y)
        _check_file(file, found, bags, config)
        return found
    found = _make(store, bags, config)
    return [_to_train(found[0], bags, config.evaluation.protocol)] if kind == "train" else found


def check_permutations(bags: Bags, permutations: int) -> None:
    """Refuse re-runs with permuted labels that change no label: chance would then be the score itself.

    Raises
    ------
    UserError
        If each subject has one class. With ``threshold: median`` each subject's trials fall on both sides of it, so
        that the provisional labels seen here say nothing.
    """
    fitted = bags.config.threshold == "median" and bool(bags.labels.thresholds)
    if not permutations or fitted:
        return
    known = bags.labels.y >= 0  # (n_bags,)
    if not exchangeable(bags.labels.y[known], person_codes(bags.table)[known]):
        raise UserError(
            f"--permutations {permutations}: each subject has one class, so labels permuted within subjects stay as "
            "they are and chance would equal the score; evaluate without --permutations: whole subjects then change "
            "classes over the predictions"
        )


def permuted_splits(store: Store, bags: Bags, config: Config, own: Sequence[Split] | None) -> list[Split]:
    """Return the folds of permuted labels: dealt anew by them, or those of a file."""
    return _make(store, bags, config) if own is None else [_labelled(s, bags) for s in own]


def _make(store: Store, bags: Bags, config: Config) -> list[Split]:
    settings = config.evaluation
    trained = store.stores[0].name if isinstance(store, JoinedStore) else None
    return make_splits(
        bags.table,
        bags.labels.y,
        settings.protocol,
        settings.folds,
        settings.seed,
        bags.labels.classes,
        settings.scope,
        trained,
    )


def _to_train(first: Split, bags: Bags, protocol: str) -> Split:
    """Everything but one fold's validation part; what the protocol keeps apart from that is kept apart here too."""
    rows = np.sort(np.concatenate([first.train, first.test]))  # (n,)
    if protocol == "subject-and-stimulus":
        known = np.flatnonzero(bags.labels.y >= 0)  # (n,)
        apart = np.ones(len(known), dtype=bool)  # (n,)
        for codes in (person_codes(bags.table), stimulus_codes(bags.table)):
            apart &= ~np.isin(codes[known], codes[first.validation])
        rows = known[apart]
    return Split(0, rows, first.validation, first.test[:0])


def _labelled(split: Split, bags: Bags) -> Split:
    """Leave out rows without a label."""
    known = bags.labels.y >= 0  # (n_bags,)
    parts = {p: (r := getattr(split, p))[known[r]] for p in ("train", "validation", "test")}
    return dataclasses.replace(split, **parts)


def _check_file(file: Path, splits: Sequence[Split], bags: Bags, config: Config) -> None:
    """Refuse folds that would carry the name of a protocol or scope without keeping it."""
    protocol, people = config.evaluation.protocol, person_codes(bags.table)
    for s in splits:
        for part in ("train", "validation", "test"):
            if not len(getattr(s, part)):
                raise UserError(
                    f"{file}: fold {s.fold} has no labelled row for {part}, expected some in train, validation and test"
                )
        if config.evaluation.scope == "subject" and len(np.unique(people[np.concatenate([s.train, s.test])])) > 1:
            raise UserError(
                f"{file}: fold {s.fold} holds several subjects, expected one under evaluation.scope subject; leave "
                "--scope out"
            )
    if protocol in LEAKY:
        return
    keys = {k: columns for k, columns in _IDENTITIES.items() if k not in PERMITTED[protocol]}
    if not (bags.table["stimulus"].astype(str).str.strip() != "").all():
        keys.pop("stimulus", None)  # what has no name cannot be told apart
    for kind, columns in keys.items():
        codes = identity_codes(bags.table, columns)  # (n_bags,)
        for s in splits:
            learned = codes[np.concatenate([s.train, s.validation])]  # (n,)
            shared = len(np.intersect1d(learned, codes[s.test]))
            if shared:
                raise UserError(
                    f"{file}: fold {s.fold} has {kind} on two sides ({shared} in the test that training or validation "
                    f"holds too), which the protocol {protocol} forbids; mend the file, or give the --protocol that it "
                    f"follows ({display_name('window')} forbids nothing)"
                )
