"""Data, optimisation and resumable fits."""
