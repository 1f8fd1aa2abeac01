"""Figures and the self-contained page. Reads runs, never models."""
