"""A face track: one person's face through a stretch of video, at a fixed rate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from milmer.config import FacePreparation
from milmer.faces.detect import FaceDetector
from milmer.faces.looks import OVERLAP, Looked, Looks, Seen, overlap, side
from milmer.faces.skin import Box, Colours, SkinWatch, smoothed
from milmer.faces.video import FrameReader, Shown

MEMORY = 2.0  # seconds a face may be hidden and still be followed by where it was
SIZES = 2.5  # one person's face keeps its size within this factor from one stretch to the next


@dataclass(frozen=True)
class FaceTrack:
    """One person's face at a fixed rate; F is the number of moments.

    Parameters
    ----------
    times : ndarray, shape (F,), float64
        Seconds from the start of the trial: the middles of slots of 1/rate.
    boxes : ndarray, shape (F, 4), float32
        x, y, width, height in pixels of the upright frame; NaN where no face was found.
    confidence : ndarray, shape (F,), float32
        The detector's, 0 to 1; 0 where no face was found.
    found : ndarray, shape (F,), bool
        Whether there is a face.
    jpegs : list of bytes
        Crops; empty where no face was found or the video has no frame.
    notes : list of str
        What was odd, one line each.
    skin : ndarray, shape (n, 4), float32
        Time of a frame in seconds from the start of the trial, and the mean red, green and blue of the skin in it;
        NaN where no face was found around it. Empty where it was not asked for.
    """

    times: NDArray[np.float64]  # (F,)
    boxes: NDArray[np.float32]  # (F, 4)
    confidence: NDArray[np.float32]  # (F,)
    found: NDArray[np.bool_]  # (F,)
    jpegs: list[bytes]
    notes: list[str]
    skin: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32))  # (n, 4)

    @property
    def found_share(self) -> float:
        """Share of the moments with a face, 0 to 1; NaN of none."""
        return float(self.found.mean()) if self.found.size else float("nan")


@dataclass
class _Stretch:
    """One face followed without a jump."""

    seen: list[Seen] = field(default_factory=list)
    colours: Colours = field(default_factory=dict)
    last: tuple[float, Box] | None = None  # time and smoothed box

    @property
    def weight(self) -> float:
        """Confidence times size, over all moments."""
        return sum(s.face.confidence * side(s.face) for s in self.seen)

    @property
    def size(self) -> float:
        return float(np.median([side(s.face) for s in self.seen]))


def face_track(
    video: Path,
    start: float,
    duration: float,
    settings: FacePreparation,
    detector: FaceDetector,
    skin_rate: float | None = None,
) -> FaceTrack:
    """Follow the main face through a stretch of a video.

    Every face of every wanted frame is followed by overlap; the person is the face with the most confidence x size over
    the whole stretch, so that a passer-by never takes over, be it for one frame. Where that face is lost and one of
    about its size appears, it is taken for the same person.

    Parameters
    ----------
    video : Path
        Video file.
    start, duration : float
        Seconds from the video's first frame, and length in seconds.
    settings : FacePreparation
        Rate, confidence, margin, size and JPEG quality.
    detector : FaceDetector
        What `milmer.faces.detect.load_detector` returns.
    skin_rate : float, optional
        Times a second at which the colour of the skin is taken; by default it is not.

    Returns
    -------
    FaceTrack
        On the grid (k + 0.5) / rate for k < floor(duration * rate), whatever the video's length.

    Raises
    ------
    UserError
        If the video cannot be read at all. A video that ends early, is damaged or shows no face is noted instead.
    """
    with FrameReader(video) as reader:
        return _track(reader, start, duration, settings, detector, skin_rate)


def track_video(
    video: Path, settings: FacePreparation, detector: FaceDetector, start: float = 0.0, duration: float | None = None
) -> FaceTrack:
    """Follow the main face through a whole video, or from `start` on; see `face_track`."""
    with FrameReader(video) as reader:
        rest = max(reader.info.duration - start, 0.0)
        return _track(reader, start, rest if duration is None else duration, settings, detector)


def _track(
    reader: FrameReader,
    start: float,
    duration: float,
    settings: FacePreparation,
    detector: FaceDetector,
    skin_rate: float | None = None,
) -> FaceTrack:
    count = int(np.floor(duration * settings.rate + 1e-6))  # 60 s x 10/3 is 200, whatever the rounding
    times = (np.arange(count, dtype=np.float64) + 0.5) / settings.rate  # (F,)
    moments = start + times  # (F,)
    stretches: list[_Stretch] = []
    looks = Looks(detector, settings)
    reach = 0.5 / settings.rate
    watch = SkinWatch(int(duration * skin_rate + 1e-6), reach, looks.delay) if skin_rate else None
    shown = -1

    def settle(settled: list[Looked]) -> None:
        for looked in settled:
            _follow(stretches, looked.seen, reach=MEMORY * settings.rate)
            if watch is not None:
                _colour(stretches, looked.index, looked.time, watch)

    for moment, sample, time, frame in _frames(reader, moments, start, watch, skin_rate):
        if watch is not None and sample >= 0:
            watch.see(sample, time, frame, start)
        if moment < 0:
            continue
        shown = moment
        settle(looks.add(moment, time, frame))
    settle(looks.rest())
    notes = list(reader.notes)
    if count and moments[-1] >= reader.end:  # frames lost on the way are in the notes already
        name = reader.path.name
        if reader.end <= start:
            notes.append(f"{name}: video ends at {reader.end:.1f} s, before the trial starts at {start:.1f} s")
        else:
            notes.append(f"{name}: video ends at {reader.end - start:.1f} s of {duration:g} s")
    track = FaceTrack(
        times=times,
        boxes=np.full((count, 4), np.nan, dtype=np.float32),
        confidence=np.zeros(count, dtype=np.float32),
        found=np.zeros(count, dtype=np.bool_),
        jpegs=[b""] * count,
        notes=notes,
    )
    person = _one_person(stretches)
    for stretch in person:
        for seen_once in stretch.seen:
            k = seen_once.index
            track.boxes[k] = seen_once.face.box
            track.confidence[k] = seen_once.face.confidence
            track.found[k] = True
            track.jpegs[k] = seen_once.jpeg
    if shown >= 0 and not track.found.any():
        notes.append(f"{reader.path.name}: no face found in {shown + 1} frames")
    if watch is None:
        return track
    colours: Colours = {}
    for stretch in person:
        if stretch.last is not None and stretch.seen[-1].index == shown:
            watch.ended(stretch.colours, *stretch.last)
        colours |= stretch.colours
    return replace(track, skin=watch.table(colours))


def _frames(
    reader: FrameReader, moments: NDArray[np.float64], start: float, watch: SkinWatch | None, rate: float | None
) -> Iterator[tuple[int, int, float, Shown]]:
    """Decode once for the track and the skin: (moment of the track or -1, sample of the skin or -1, time, frame)."""
    ticks = start + np.arange(len(watch.times) if watch else 0) / (rate or 1.0)  # (n,)
    wanted = np.concatenate([ticks, moments])  # (n + F,) of equal times the sample comes first
    order = np.argsort(wanted, kind="stable")  # (n + F,)
    for place, time, shown in reader.shown_at(wanted[order].tolist()):
        k = int(order[place])
        yield (k - len(ticks), -1, time, shown) if k >= len(ticks) else (-1, k, time, shown)


def _colour(stretches: list[_Stretch], moment: int, time: float, watch: SkinWatch) -> None:
    """Take the skin's colour up to `time` for all faces that were seen at this moment."""
    for stretch in stretches:
        if stretch.seen[-1].index == moment:
            found = np.array(stretch.seen[-1].face.box)  # (4,)
            box = smoothed(stretch.last[1] if stretch.last else None, found)  # (4,)
            watch.grown(stretch.colours, time, box, stretch.last)
            stretch.last = (time, box)


def _follow(stretches: list[_Stretch], seen: list[Seen], reach: float) -> None:
    """Add this moment's faces to the stretches that they overlap most, one each; the others start new ones."""
    pairs = sorted(
        ((overlap(s.seen[-1].face, one.face), i, j) for i, s in enumerate(stretches) for j, one in enumerate(seen)
         if one.index - s.seen[-1].index <= reach),
        reverse=True,
    )  # fmt: skip
    taken: set[int] = set()
    grown: set[int] = set()
    for shared, i, j in pairs:
        if shared >= OVERLAP and i not in grown and j not in taken:
            stretches[i].seen.append(seen[j])
            grown.add(i)
            taken.add(j)
    stretches.extend(_Stretch([one]) for j, one in enumerate(seen) if j not in taken)


def _one_person(stretches: list[_Stretch]) -> list[_Stretch]:
    """Choose the heaviest stretch, and those of its size at other times."""
    chosen: list[_Stretch] = []
    busy: set[int] = set()
    for stretch in sorted(stretches, key=lambda s: s.weight, reverse=True):
        moments = {s.index for s in stretch.seen}
        if busy & set(range(min(moments), max(moments) + 1)):
            continue
        if chosen and not 1 / SIZES <= stretch.size / chosen[0].size <= SIZES:
            continue
        chosen.append(stretch)
        busy |= set(range(min(moments), max(moments) + 1))
    return chosen
