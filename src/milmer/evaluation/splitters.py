"""The protocols as scikit-learn splitters, over a metadata table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from milmer.errors import UserError
from milmer.evaluation.dealing import Ints
from milmer.evaluation.protocol_fits import DEFAULT_FOLDS
from milmer.evaluation.protocols import Split, make_splits, person_codes, stimulus_codes

if TYPE_CHECKING:  # importing pandas takes half a second, and only the annotations need it
    import pandas as pd


@dataclass(frozen=True)
class _ProtocolSplit:
    """A protocol as a scikit-learn splitter (``cv=`` of ``cross_val_score``, ``GridSearchCV`` and others).

    Parameters
    ----------
    n_splits : int, optional
        Number of folds (of groups a side for `SubjectAndStimulusSplit`); the protocol's default without it.
    random_state : int
        Seed of the split.
    keep_validation : bool
        If true, the validation rows are left out of the training rows that `split` yields. By default they are
        trained on, since scikit-learn's tools have no use for them.
    scope : {'pooled', 'subject'}
        ``subject``: each subject alone (`TrialSplit`, `StimulusSplit` and `WindowSplit` only).
    """

    protocol: ClassVar[str]
    n_splits: int | None = None
    random_state: int = 0
    keep_validation: bool = False
    scope: str = "pooled"

    def parts(self, metadata: pd.DataFrame | Mapping[str, Any], y: ArrayLike) -> list[Split]:
        """Return the folds with all three parts, as `make_splits` does.

        `y` may also hold names of classes, or numbers with NaN where a row has no label.
        """
        values = np.asarray(y)
        if values.dtype.kind == "f":
            values = np.where(np.isnan(values), -1, values)
        elif values.dtype.kind not in "iub":
            _, values = np.unique(values, return_inverse=True)
        return make_splits(
            metadata,
            values,
            self.protocol,
            self.n_splits,
            self.random_state,
            scope=self.scope,
            train_study=self._train_study(),
        )

    def split(
        self, X: Any, y: ArrayLike | None = None, groups: pd.DataFrame | Mapping[str, Any] | None = None
    ) -> Iterator[tuple[Ints, Ints]]:
        """Yield row numbers to train and to test on, once a fold.

        Parameters
        ----------
        X : array-like or DataFrame
            Features, or the metadata table itself where `groups` is not given.
        y : array, shape (n_rows,)
            Classes; -1 marks a row without a label.
        groups : DataFrame or mapping, optional
            Metadata table with ``subject``, ``trial``, where there are any ``study`` and ``session``, and for the
            protocols that name it ``stimulus``.
        """
        table, labels = self._table(X, y, groups)
        folds = self.parts(table, labels)
        for fold in folds:
            yield fold.train if self.keep_validation else self._all_training(fold, folds, table), fold.test

    def get_n_splits(
        self,
        X: Any = None,
        y: ArrayLike | None = None,
        groups: pd.DataFrame | Mapping[str, Any] | None = None,
    ) -> int:
        """Return the number of fits; where it hangs on the table it is counted there."""
        if self.scope == "pooled" and self.protocol in ("trial", "window"):
            return self.n_splits or DEFAULT_FOLDS
        if self.scope == "pooled" and self.protocol in ("subject", "stimulus") and self.n_splits is not None:
            return self.n_splits
        return len(self.parts(*self._table(X, y, groups)))

    def _all_training(self, fold: Split, folds: list[Split], table: Any) -> Ints:
        """Return what may be trained on where nothing validates."""
        return np.sort(np.concatenate([fold.train, fold.validation]))

    def _train_study(self) -> str | None:
        return None

    def _table(self, X: Any, y: ArrayLike | None, groups: Any) -> tuple[Any, ArrayLike]:
        table = X if groups is None else groups
        if y is None or not hasattr(table, "keys"):
            raise UserError(
                f"{type(self).__name__}: found {'no y' if y is None else type(table).__name__}, expected y and a "
                "table with subject, session and trial as groups (or as X)"
            )
        return table, y


@dataclass(frozen=True)
class TrialSplit(_ProtocolSplit):
    """Trials never on two sides, dealt within each subject and stratified by class; see `make_splits`."""

    protocol: ClassVar[str] = "trial"


@dataclass(frozen=True)
class SubjectSplit(_ProtocolSplit):
    """Subjects never on two sides: one subject a fold, or `n_splits` groups of them; see `make_splits`."""

    protocol: ClassVar[str] = "subject"


@dataclass(frozen=True)
class StimulusSplit(_ProtocolSplit):
    """Stimuli never on two sides, over subjects and sessions; see `make_splits`."""

    protocol: ClassVar[str] = "stimulus"


@dataclass(frozen=True)
class SubjectAndStimulusSplit(_ProtocolSplit):
    """Neither subject nor stimulus of the test is known: `n_splits` squared fits; see `make_splits`.

    Without a validation part all rows that share neither subject nor stimulus with the test are trained on.
    """

    protocol: ClassVar[str] = "subject-and-stimulus"

    def _all_training(self, fold: Split, folds: list[Split], table: Any) -> Ints:
        labelled = np.sort(np.concatenate([f.test for f in folds]))
        people, stimuli = person_codes(table), stimulus_codes(table)
        known = np.isin(people, people[fold.test]) | np.isin(stimuli, stimuli[fold.test])
        return np.asarray(labelled[~known[labelled]], dtype=np.int64)


@dataclass(frozen=True)
class CrossStudySplit(_ProtocolSplit):
    """Each study tested by the others, or all others by `train_study`; see `make_splits`.

    Parameters
    ----------
    train_study : str, optional
        The study to train on; the other parameters are those of the other splitters.
    """

    protocol: ClassVar[str] = "cross-study"
    train_study: str | None = None

    def _train_study(self) -> str | None:
        return self.train_study


@dataclass(frozen=True)
class WindowSplit(_ProtocolSplit):
    """Random windows, the paper's. **Leaky**: windows of one trial are on both sides; for comparison only."""

    protocol: ClassVar[str] = "window"
