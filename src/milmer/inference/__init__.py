"""Answers on new recordings."""
