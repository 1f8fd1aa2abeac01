"""Names a machine by what matters for speed, and by nothing that says whose it is."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any


def describe(device: str = "cpu") -> dict[str, Any]:
    """Return the machine's cores, processor, memory, load, and versions."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    model = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), platform.processor())
    name = (
        torch.cuda.get_device_name()
        if device.startswith("cuda")
        else f"{os.cpu_count()} cores of an {platform.machine()} processor ({model})"
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "device": name,
        "memory_gib": round(memory, 1),
        "load_at_start": round(os.getloadavg()[0], 2),
        "threads": torch.get_num_threads(),
        "versions": {p: version(p) for p in ("torch", "transformers", "numpy", "milmer")},
    }
