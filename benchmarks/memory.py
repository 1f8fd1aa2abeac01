"""Peak memory of one rival, each in a process of its own: in one process the peaks of all would be one."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.rivals import Rival


def peak_bytes() -> int:
    """Return the most memory this process has held, bytes.

    From the kernel's own line for this program: `getrusage` would begin with what the parent held when it forked.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used if sys.platform == "darwin" else used * 1024


def measure(rival: Rival, task: str, threads: int, tiny: bool = False) -> dict[str, Any]:
    """Run a rival twice in a process of its own; ``peak`` and ``imports`` (before there was a model) in bytes.

    A rival that could not be run answers with ``error``.
    """
    given = {"rival": asdict(rival), "task": task, "threads": threads, "tiny": tiny}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", json.dumps(given)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"error": lines[-1] if lines else f"ended with {done.returncode}, perhaps for want of memory"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    given = json.loads(sys.argv[1])
    import torch

    from benchmarks.published import Published
    from benchmarks.rivals import Scale, answering, learning, tiny_scale

    torch.set_num_threads(given["threads"])
    torch.manual_seed(0)
    rival = Rival(**(given["rival"] | {"switches": tuple(given["rival"]["switches"])}))
    scale = tiny_scale() if given["tiny"] else Scale()
    import transformers.models.swin.modeling_swin  # noqa: F401  # so that imports are not counted as the model's

    before = peak_bytes()
    published = Published(scale.published) if rival.model == "published" else None
    run = (learning if given["task"] == "training" else answering)(rival, scale, published)
    run()
    run()
    print(json.dumps({"imports": before, "peak": peak_bytes()}))


if __name__ == "__main__":
    main()
