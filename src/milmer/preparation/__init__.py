"""From a study to a store."""

from milmer.preparation.study import Prepared, prepare_study

__all__ = ["Prepared", "prepare_study"]
