"""Video: decode just the frames wanted, by timestamp, without ever holding more than two of them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from numpy.typing import NDArray

from milmer.errors import UserError

SPACING_GUESS = 2.0  # seconds between keyframes, until the video has shown its own
FAILED_READS = 8  # the container may fail to give a packet this many times in a row before the file counts as ended
LOSS_REACH = 1.0  # seconds: decoders give frames out up to this long after they met the damage
SKIPPED = ("h264",)  # codecs of which frames that no other frame needs can be left out; the others stay the same
STANDS = 2.0  # frames' lengths that a frame is taken to stand on the screen at most; found out where it is longer
DECODE_ORDER = ("avi",)  # containers that store no presentation times: frames are shown in the order packets come


@dataclass(frozen=True)
class VideoInfo:
    """What a video says of itself: seconds, frames a second, pixels as shown (rotation honoured), frames."""

    duration: float
    rate: float
    width: int
    height: int
    frames: int


@dataclass(frozen=True)
class Shown:
    """A decoded frame (PyAV's) and when it is on the screen, in seconds from the video's first frame."""

    frame: Any
    start: float
    length: float

    @property
    def quarter_turns(self) -> int:
        """How many quarter turns against the clock show it upright."""
        return round((getattr(self.frame, "rotation", 0) or 0) / 90) % 4

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """The whole picture, RGB and upright, shape (H, W, 3)."""
        image: NDArray[np.uint8] = self.frame.to_ndarray(format="rgb24")  # (H, W, 3)
        turns = self.quarter_turns
        return np.ascontiguousarray(np.rot90(image, turns)) if turns else image  # (H, W, 3)


class FrameReader:
    """A video file, open for reading frames by time.

    Time zero is the first frame's, whatever offset the container gives it. Damaged stretches are passed over and
    end up in `notes`; `end` is when the last frame that was decoded leaves the screen.

    Parameters
    ----------
    path : Path
        A file that FFmpeg reads.
    threads : int
        Threads that decode. One is the default since preparation runs over subjects in parallel.

    Raises
    ------
    UserError
        If there is no such file, or no video can be read from it.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        self.path = path
        self.end = 0.0
        self._threads = threads
        self._lost = 0
        self._lost_at = -np.inf
        self._now = 0.0  # end of the last frame decoded
        self._base: float | None = None
        self._can_seek = True
        self._key = 0.0  # time of the last keyframe
        self._spacing = 0.0  # longest distance seen from keyframe to keyframe
        self._without_key = 0.0  # longest stretch known to hold no other keyframe
        self._wanted: Sequence[float] | None = None  # times asked for, where they are known beforehand
        self._may_skip = threads == 1  # a decoder with several threads is told too late
        self._start()
        try:
            if self._previous is None:
                raise UserError(f"{path}: no frame could be decoded, expected a video; copy it again or remove it")
            self.info = self._describe(self._previous)
        except BaseException:
            self.close()
            raise

    @property
    def notes(self) -> list[str]:
        """What could not be decoded, in one line, or nothing."""
        if not self._lost:
            return []
        where = f"the last at {max(self._lost_at, 0.0):.1f} s"
        return [f"{self.path.name}: {self._lost} damaged pieces of video passed over, {where}"]

    def frames_at(self, times: Iterable[float]) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        """Give the frame that is on the screen at each time.

        Parameters
        ----------
        times : iterable of float
            Seconds from the video's first frame, ascending. Those before it get the first frame; those after the end
            of the last frame, or in a stretch too damaged to decode, are left out.

        Yields
        ------
        time : float
            The time asked for.
        image : ndarray, shape (H, W, 3), uint8
            RGB, turned upright as the file says.

        Raises
        ------
        ValueError
            If the times do not ascend.
        """
        for _, time, shown in self.shown_at(times):
            yield time, shown.image  # (H, W, 3)

    def shown_at(self, times: Iterable[float]) -> Iterator[tuple[int, float, Shown]]:
        """Give what `frames_at` gives as frames that are not yet pictures, for whoever wants less than a picture.

        Yields
        ------
        place : int
            Which of the times asked for it is, from 0.
        time : float
            The time asked for.
        shown : Shown
            The same object where two times fall on one frame.

        Raises
        ------
        ValueError
            If the times do not ascend.
        """
        last = -np.inf
        self._wanted = times if isinstance(times, Sequence) else None
        for place, time in enumerate(times):
            if time < last:
                raise ValueError(f"times must ascend, found {time} after {last}")
            last = time
            shown = self._advance(time)
            if shown is None:
                return
            if self._covers(shown, time):
                yield place, time, shown

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _packets(self) -> Iterator[Any]:
        """Read packets; where the container fails to give one, try to read on behind it."""
        failures = 0
        while True:
            try:
                for packet in self._container.demux(self._stream):
                    failures = 0
                    yield packet
                return
            except av.FFmpegError:
                failures += 1
                self._note_loss()
                if failures >= FAILED_READS:
                    return

    def _decode(self) -> Iterator[Shown]:
        """Decode on from where the file stands; what cannot be decoded is noted and left out."""
        previous: float | None = None
        for packet in self._packets():
            try:
                if self._may_skip:
                    self._stream.codec_context.skip_frame = "NONREF" if self._skips(packet) else "DEFAULT"
                frames = packet.decode()
            except av.FFmpegError:
                self._note_loss()
                continue
            for frame in frames:
                stamp = frame.dts if self._by_packet else frame.pts
                if stamp is not None:
                    seconds = stamp * self._tick
                elif previous is not None:
                    seconds = previous + 1 / self._rate
                else:
                    seconds, self._can_seek = 0.0, False  # a stream without times: frames are counted
                if previous is not None and seconds <= previous:
                    self._skipped += [seconds - (self._base or 0.0)] if self._may_skip else []
                    continue  # a stamp that goes back names no moment
                if self._base is None:
                    self._base = self._zero(seconds)
                start = seconds - self._base
                if previous is None:
                    self._key = start
                elif frame.key_frame:
                    self._spacing = max(self._spacing, start - self._key)
                    self._key = start
                self._without_key = max(self._without_key, start - self._key)
                previous = seconds
                if frame.is_corrupt:
                    self._note_loss()
                    continue
                length = (getattr(frame, "duration", 0) or 0) * self._tick or 1 / self._rate
                self._now = start + length
                self.end = max(self.end, self._now)
                yield Shown(frame, start, length)

    def _skips(self, packet: Any) -> bool:
        """Say whether a packet's frame is on the screen at none of the times asked for."""
        if not self._wanted or packet.pts is None or self._base is None:
            return False
        start = packet.pts * self._tick - self._base
        at = bisect_left(self._wanted, start - 1 / self._rate)
        if at < len(self._wanted) and self._wanted[at] <= start + STANDS / self._rate:
            return False
        self._skipped.append(start)
        self.end = max(self.end, start + ((packet.duration or 0) * self._tick or 1 / self._rate))
        return True

    def _zero(self, first: float) -> float:
        """Return the time of the video's first frame, which is not the first one decoded where the start is lost."""
        if self._lost and not self._by_packet and self._stream.start_time is not None:
            return min(first, float(self._stream.start_time) * self._tick)
        return first

    def _note_loss(self) -> None:
        self._lost += 1
        self._lost_at = self._now

    def _start(self) -> None:
        """Open the file and decode its first frame."""
        self._container, self._stream = _open(self.path)
        context = self._stream.codec_context
        context.thread_count = self._threads
        # Where the order of packets tells the time, no frame thread may hold one back.
        self._by_packet = self._container.format.name in DECODE_ORDER
        context.thread_type = "SLICE" if self._by_packet else "AUTO"
        self._tick = float(self._stream.time_base)
        rate = self._stream.average_rate or self._stream.guessed_rate
        self._rate = float(rate) if rate else 25.0
        self._may_skip = self._may_skip and context.name in SKIPPED and not self._by_packet
        self._skipped: list[float] = []  # when frames start that may have been left out, as far as they matter yet
        self._frames = self._decode()
        self._previous = next(self._frames, None)
        self._following = next(self._frames, None)
        self._at_first = True

    def _advance(self, time: float) -> Shown | None:
        """Decode until `time` is reached; return the last frame that started by then, or None after the end."""
        if self._previous is not None and time < self._previous.start and not self._at_first:
            self.close()
            self._start()
        newest = self._following or self._previous
        spacing = max(self._spacing or SPACING_GUESS, self._without_key)
        if self._can_seek and newest and time - newest.start > 1.5 * spacing + 2 / self._rate:
            self._seek(time)
        # A time that comes from a sum of fractions may fall a hair short of the frame's own, rounded stamp.
        slack = min(self._tick / 2, 0.0005) + 1e-9
        while self._following is not None and self._following.start <= time + slack:
            self._previous, self._following = self._following, next(self._frames, None)
            self._at_first = False
        shown = self._previous
        if self._may_skip and shown is not None:
            self._skipped = [s for s in self._skipped if s > shown.start + slack]
            if any(s <= time + slack for s in self._skipped):  # a frame stood longer than thought: all from here on
                self._may_skip = False
                self.close()
                self._start()
                return self._advance(time)
        if shown is None or (self._following is None and time + slack >= shown.start + shown.length):
            return None
        return shown

    def _covers(self, shown: Shown, time: float) -> bool:
        """Say whether `shown` is what belongs on the screen, and not just the last thing before a damaged stretch."""
        until = shown.start + shown.length
        after_loss = self._lost > 0 and self._lost_at <= (self._following.start if self._following else np.inf)
        if after_loss and shown.start > time and shown.start > shown.length:
            return False  # the start of the video is lost
        return not (after_loss and time > until + shown.length and until <= self._lost_at + LOSS_REACH)

    def _seek(self, time: float) -> None:
        """Go to a keyframe before `time`; stay where that is impossible."""
        moved = False
        for back in (0.0, 1.0, 4.0, 16.0):
            target = time - back
            try:
                self._container.seek(int((target + (self._base or 0.0)) / self._tick), stream=self._stream)
            except av.FFmpegError:
                break
            moved = True
            self._frames = self._decode()
            landed = next(self._frames, None)
            if landed is not None and landed.start <= time:
                self._previous, self._following = landed, next(self._frames, None)
                self._at_first = False
                self._without_key = max(self._without_key, time - landed.start)
                return
            if target <= 0:
                break
        self._can_seek = False
        if moved:  # the index leads nowhere: read this file from its start
            self.close()
            self._start()

    def _describe(self, first: Shown) -> VideoInfo:
        duration = self._stream.duration
        if duration is not None:
            seconds = float(duration) * self._tick
        elif self._container.duration:
            seconds = self._container.duration / av.time_base
        else:
            seconds = _length(self.path)
        height, width = first.frame.height, first.frame.width
        if first.quarter_turns % 2:
            height, width = width, height
        return VideoInfo(seconds, self._rate, width, height, self._stream.frames or round(seconds * self._rate))


def probe(path: Path) -> VideoInfo:
    """Say how long and how large a video is, having decoded its first frame.

    Raises
    ------
    UserError
        If there is no such file, or no video can be read from it.
    """
    with FrameReader(path) as reader:
        return reader.info


def frames_at(path: Path, times: Iterable[float], threads: int = 1) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Give (time, RGB image (H, W, 3) uint8) for each ascending time; see `FrameReader.frames_at`."""
    with FrameReader(path, threads) as reader:
        yield from reader.frames_at(times)


def _open(path: Path) -> tuple[Any, Any]:
    if not path.exists():
        raise UserError(f"{path}: no such video file")
    if path.is_dir():
        raise UserError(f"{path}: found a folder, expected a video file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty (0 bytes), expected a video; copy it again or remove it")
    try:
        # A play list in a video's clothes must not fetch anything from elsewhere.
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UserError(
            f"{path}: {path.stat().st_size} bytes, not readable as video ({_reason(error)}), expected one; "
            "copy it again or remove it"
        ) from error
    streams = [s for s in container.streams.video if s.codec_context is not None]
    if not streams:
        container.close()
        raise UserError(f"{path}: no video stream in it, expected a face video; name the file that has the picture")
    return container, streams[0]


def _reason(error: BaseException) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())


def _length(path: Path) -> float:
    """Measure a video whose container does not say how long it is, by reading through without decoding."""
    container, stream = _open(path)
    first, last = np.inf, -np.inf
    packets = 0
    with container:
        try:
            for packet in container.demux(stream):
                packets += packet.size > 0
                if packet.pts is not None:
                    first = min(first, packet.pts)
                    last = max(last, packet.pts + (packet.duration or 0))
        except av.FFmpegError:
            pass  # what could be read up to here is the length
        rate = stream.average_rate or stream.guessed_rate or 25
        return float((last - first) * stream.time_base) if last > first else float(packets / rate)
