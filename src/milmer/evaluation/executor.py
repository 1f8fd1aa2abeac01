"""Where fits are run: one seam, so that a cluster can take the place of local processes."""

from __future__ import annotations

import functools
import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from milmer.errors import DamagedStore, UserError
from milmer.processes import end_with
from milmer.progress import Progress, silent


class Task(Protocol):
    """What an executor must know of a piece of work: how to name it while it goes on."""

    @property
    def text(self) -> str:
        """A few words."""
        ...


T = TypeVar("T", bound=Task)


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """How a task ended.

    Parameters
    ----------
    task : Task
        The task itself.
    fault : str
        Traceback of what it raised, on several lines; empty where it was finished.
    reason : str
        The same in one line.
    damaged : bool
        Whether the data are damaged (`milmer.errors.DamagedStore`), which no other attempt mends.
    """

    task: T
    fault: str = ""
    reason: str = ""
    damaged: bool = False


class Executor(Protocol):
    """Runs tasks that do not depend on one another, somewhere."""

    def run(
        self, tasks: Sequence[T], work: Callable[[T, Progress], None], progress: Progress = silent
    ) -> Iterator[Outcome[T]]:
        """Run `work` on every task and yield how each ended, in whatever order they end.

        Parameters
        ----------
        tasks : sequence of Task
            Each must survive pickling; so must `work`, a function of a module.
        work : callable
            ``work(task, progress)``. What it raises ends this task only.
        progress : Progress
            Told in hundredths of a task.
        """
        ...


@dataclass(frozen=True)
class LocalExecutor:
    """Runs tasks on this machine: in this process, or in `jobs` processes of their own.

    What a task computes must not depend on where it is run: threads are the task's own affair.
    """

    jobs: int = 1

    def run(
        self, tasks: Sequence[T], work: Callable[[T, Progress], None], progress: Progress = silent
    ) -> Iterator[Outcome[T]]:
        """Run `work` on every task; see `Executor`.

        Raises
        ------
        UserError
            If a process was killed.
        KeyboardInterrupt
            If the user stopped it; nothing new is begun.
        """
        shares = [0.0] * len(tasks)

        def tell(task: int, done: int, total: int, text: str) -> None:
            shares[task] = done / max(total, 1)
            progress(int(100 * sum(shares)), 100 * len(tasks), text)

        if self.jobs <= 1 or len(tasks) <= 1:
            for i, task in enumerate(tasks):
                outcome = _attempt(work, task, functools.partial(tell, i))
                tell(i, 1, 1, task.text)
                yield outcome
            return
        yield from self._in_processes(tasks, work, tell)

    def _in_processes(
        self, tasks: Sequence[T], work: Callable[[T, Progress], None], tell: Callable[[int, int, int, str], None]
    ) -> Iterator[Outcome[T]]:
        context = multiprocessing.get_context("spawn")
        with context.Manager() as manager:
            ticks = manager.Queue()
            pool = ProcessPoolExecutor(min(self.jobs, len(tasks)), context, end_with, (os.getpid(),))
            try:
                futures = {pool.submit(_attempt, work, t, _Ticks(ticks, i)): i for i, t in enumerate(tasks)}
                waiting = set(futures)
                while waiting:
                    finished, waiting = wait(waiting, timeout=0.3, return_when=FIRST_COMPLETED)
                    while not ticks.empty():
                        tell(*ticks.get())
                    for future in finished:
                        outcome = future.result()
                        tell(futures[future], 1, 1, tasks[futures[future]].text)
                        yield outcome
            except BrokenProcessPool as error:
                raise UserError(
                    "a process was killed, perhaps for want of memory; the same command with --jobs 1 --resume goes "
                    "on: nothing finished is lost"
                ) from error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _Ticks:
    """Progress that travels from a worker process."""

    queue: Any
    task: int

    def __call__(self, done: int, total: int, text: str) -> None:
        self.queue.put((self.task, done, total, text))


def _attempt(work: Callable[[T, Progress], None], task: T, progress: Progress) -> Outcome[T]:
    """Run one task; what it raises is caught here, so that its traceback needs no pickling."""
    try:
        work(task, progress)
    except Exception as error:
        said = " ".join(str(error).split())
        reason = said if isinstance(error, UserError) else f"{type(error).__name__}: {said}"
        return Outcome(task, "".join(traceback.format_exception(error)), reason, isinstance(error, DamagedStore))
    return Outcome(task)
