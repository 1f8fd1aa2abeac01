"""What a store has of the body's signals: the same channels and one rate for every study. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Mapping

BODY_RATE = 32.0  # Hz: a pulse wave's harmonics up to 14 Hz; all else here is slower

# Kind -> its channels, the rows of what `Store.body` gives. Rates are in Hz (1/s), not per minute.
BODY_CHANNELS: Mapping[str, tuple[str, ...]] = {
    "gsr": ("tonic", "phasic"),  # S
    "ppg": ("pulse", "heart_rate"),  # 1 (unit deviation), Hz
    "ecg": ("heart_rate", "beat"),  # Hz, 1 (0 but for a bump at every beat)
    "respiration": ("respiration", "respiration_rate"),  # 1 (unit deviation), Hz
    "temperature": ("temperature",),  # degC, or the signal's own unit
    "emg": ("envelope_1", "envelope_2"),  # V, two muscles in the order of their names
    "eog": ("horizontal", "vertical"),  # V
}


def eog_channel(name: str) -> str:
    """Name a channel of the eyes' movement: ``eog-h``, ``eog-v``, or ``eog-`` and what it is called."""
    rest = re.sub(r"[^a-z0-9]", "", re.sub(r"eog|eye", "", name.lower()))
    return f"eog-{rest[0]}" if rest[:1] in ("h", "v") else f"eog-{rest or 'other'}"
