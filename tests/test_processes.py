from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from milmer.processes import THREADS, single_threaded

PARENT = """
import os, time
from concurrent.futures import ProcessPoolExecutor
import multiprocessing
from milmer.processes import end_with
if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), end_with, (os.getpid(),))
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 60).result()
"""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert _alive(worker)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while _alive(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(worker)


def test_one_thread_is_for_the_children_only() -> None:
    before = {n: os.environ.get(n) for n in THREADS}
    with single_threaded():
        assert all(os.environ[n] == "1" for n in THREADS)
    assert {n: os.environ.get(n) for n in THREADS} == before
