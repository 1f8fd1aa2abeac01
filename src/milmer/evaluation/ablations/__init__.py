"""Ablations: the cells of a table, run, gathered and compared."""
