from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from milmer.errors import DamagedStore, UserError
from milmer.evaluation.executor import Executor, LocalExecutor, Outcome
from milmer.progress import Progress


@dataclass(frozen=True)
class Piece:
    number: int
    folder: Path
    how: str = ""

    @property
    def text(self) -> str:
        return f"piece {self.number}"


def work(task: Piece, progress: Progress) -> None:
    progress(1, 2, f"{task.text}, half")
    if task.how == "user":
        raise UserError("the rows do not\nsuit it")
    if task.how == "damaged":
        raise DamagedStore("eeg.npy: not readable")
    if task.how == "bug":
        raise ZeroDivisionError("by zero")
    if task.how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if task.how == "stopped":
        raise KeyboardInterrupt
    (task.folder / str(task.number)).write_text(str(os.getpid()))


def run(
    executor: Executor, folder: Path, how: Sequence[str], told: list[tuple[int, int, str]] | None = None
) -> list[Outcome[Piece]]:
    pieces = [Piece(i, folder, h) for i, h in enumerate(how)]
    listen = [] if told is None else told
    return sorted(
        executor.run(pieces, work, lambda *given: listen.append(given)), key=lambda outcome: outcome.task.number
    )


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_task_that_raises_leaves_the_others_running(jobs: int, tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    found = run(LocalExecutor(jobs), tmp_path, ["", "bug", "user", "damaged", ""], told)
    assert [bool(o.fault) for o in found] == [False, True, True, True, False]
    assert 'raise ZeroDivisionError("by zero")' in found[1].fault and "Traceback" in found[1].fault
    assert [o.reason for o in found][1:4] == [
        "ZeroDivisionError: by zero",
        "the rows do not suit it",
        "eeg.npy: not readable",
    ]
    assert [o.damaged for o in found] == [False, False, False, True, False]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["0", "4"]
    own = {int(f.read_text()) == os.getpid() for f in tmp_path.iterdir()}
    assert own == {jobs == 1}
    assert told[-1][:2] == (500, 500) and any(text == "piece 0, half" for _, _, text in told)


@pytest.mark.parametrize("jobs", [1, 2])
def test_stopping_ends_all(jobs: int, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(LocalExecutor(jobs), tmp_path, ["", "stopped", ""])


def test_a_killed_process_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a process was killed.*--jobs 1 --resume") as caught:
        run(LocalExecutor(2), tmp_path, ["killed", ""])
    assert "\n" not in str(caught.value)


def test_no_task_is_no_outcome(tmp_path: Path) -> None:
    assert run(LocalExecutor(4), tmp_path, []) == []
