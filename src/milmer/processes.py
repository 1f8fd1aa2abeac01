"""What worker processes have in common."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Let processes started inside have one thread each, so that jobs and not libraries share the cores."""
    before = {n: os.environ.get(n) for n in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def end_with(parent: int) -> None:
    """Let this worker process end when its parent does, however that ended: nobody waits for its work any more.

    Parameters
    ----------
    parent : int
        Process number of the parent.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
