"""milmer: emotion recognition from EEG and face video together, with numbers that can be believed."""

__version__ = "0.1.0"
