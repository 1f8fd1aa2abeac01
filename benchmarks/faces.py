"""Face video to stored crops: wanted frames a second of one core, alone and beside neighbours that never rest."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from threadpoolctl import threadpool_limits

from benchmarks.stores import draw_video
from benchmarks.table import Row
from milmer.config import FacePreparation
from milmer.faces.skin import AUTO_RATE

SECTION = "Preparation"
TARGET = 25.0  # wanted frames a second of one core


def measure_faces(seconds: float, px: int = 224, repeats: int = 3) -> list[Row]:
    """Follow a face through a drawn video as DEAP's: wanted frames from H.264 to JPEG crops.

    Parameters
    ----------
    seconds : float
        Length of the video.
    px : int
        Side of the crops.
    repeats : int
        Times that each way is measured, one after the other.

    Returns
    -------
    list of Row
        Frames a second of processor, of this process and the detector's together, the latter's start included: so it
        is the rate of one core whose neighbours take none of it. The note gives the clock's.
    """
    usual, whole = FacePreparation(px=px), FacePreparation(px=px, full_look=0)
    ways: dict[str, tuple[FacePreparation, float | None, int]] = {
        "as is the default": (usual, None, 0),
        "a look at the whole picture every time": (whole, None, 0),
        "with the skin's colour 25 times a second": (usual, AUTO_RATE, 0),
        "beside a spinning neighbour on each core": (usual, None, os.cpu_count() or 1),
    }
    work: dict[str, list[float]] = {way: [] for way in ways}
    clock: dict[str, list[float]] = {way: [] for way in ways}
    share, name = float("nan"), ""
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        video = draw_video(Path(folder) / "video.avi", seconds)
        _follow(video, min(seconds, 2.0), usual, None)  # imports and caches
        for _ in range(repeats):
            for way, (settings, skin, neighbours) in ways.items():
                with _spinning(neighbours):
                    begun, used = time.perf_counter(), _processor()
                    frames, share, name = _follow(video, seconds, settings, skin)
                    work[way].append(frames / (_processor() - used))
                    clock[way].append(frames / (time.perf_counter() - begun))
    return [
        Row(
            SECTION,
            f"face video 720x576, 50 fps, H.264, {seconds:g} s, {way}",
            f"{name}, {settings.rate:.3g} frames a second wanted, crops of {px} px, one thread",
            median(work[way]),
            min(work[way]),
            max(work[way]),
            unit="wanted frames/s of a core",
            target=TARGET,
            note=f"by the clock {median(clock[way]):.1f} ({min(clock[way]):.1f}-{max(clock[way]):.1f}); "
            f"face found in {share:.0%}",
        )
        for way, (settings, _, _) in ways.items()
    ]


def _follow(video: Path, seconds: float, settings: FacePreparation, skin: float | None) -> tuple[int, float, str]:
    """Return how many frames were wanted, in what share a face was found, and the detector's name."""
    from milmer.faces.detect import load_detector
    from milmer.faces.track import face_track

    detector = load_detector(settings)
    track = face_track(video, 0.0, seconds, settings, detector, skin)
    return len(track.times), track.found_share, detector.name


def _processor() -> float:
    """Seconds of processor of this process and of its children that have ended."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in both)


@contextlib.contextmanager
def _spinning(count: int) -> Iterator[None]:
    """Keep `count` processes busy; they end, and count as children, after what is measured."""
    command = [sys.executable, "-c", "while True: pass"]
    neighbours = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for one in neighbours:
            one.kill()
            one.wait()
