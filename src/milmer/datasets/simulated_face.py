"""What a simulated face does in a trial, and its video: expressions that carry emotion, distractors that do not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from milmer.datasets.simulated_drawing import ACTIONS, POSE, Floats, Identity, Painter, make_identity
from milmer.errors import UserError

if TYPE_CHECKING:
    from av import VideoStream

__all__ = [
    "ACTIONS",
    "POSE",
    "Event",
    "FaceTimeline",
    "Identity",
    "frames",
    "make_identity",
    "make_timeline",
    "write_video",
]

DISTRACTORS = ("blink", "speech", "turn")
"""What a face does that means nothing. An event of these is ``distractor:blink`` or, two at once,
``distractor:blink+speech``. An expression is ``expression:`` and then ``valence+``, ``valence-``, ``arousal+``,
``arousal-`` or a valence and an arousal together (``expression:valence+arousal-``)."""

SECONDS_AN_EXPRESSION = 6.0  # one expression in six seconds touches about half of the 3-s windows
GAP = 0.12  # seconds of rest between two events, at least
PULSE_DEPTH = np.array([0.004, 0.017, 0.007])  # of red, green and blue, for a pulse of unit deviation
_HOLD = 5  # frames for which the light stays as it is: it drifts slowly, and this is cheaper
_COLUMN = {name: i for i, name in enumerate(ACTIONS)}


@dataclass(frozen=True)
class Event:
    """One thing the face does.

    Parameters
    ----------
    kind : str
        See `DISTRACTORS`.
    start, apex, stop : float
        Seconds from the start of the trial; `apex` is the middle of its strongest part.
    """

    kind: str
    start: float
    apex: float
    stop: float


@dataclass(frozen=True)
class FaceTimeline:
    """All that happens in front of the camera in one trial.

    Parameters
    ----------
    fps : float
        Frames a second.
    actions : ndarray, shape (n_frames, len(ACTIONS))
        How strongly the face does what `ACTIONS` names; zero outside events.
    pose : ndarray, shape (n_frames, len(POSE))
        The head's place, size and angles: the trial's own, with slow drift.
    light : ndarray, shape (n_frames, 3)
        Gain of red, green and blue: exposure, colour temperature, drift and the stimulus's trace.
    gradient : ndarray, shape (2,)
        How much brighter the right and the lower edge are than the left and the upper.
    pulse : ndarray, shape (n_frames,)
        Blood volume in the skin, zero mean, about unit deviation.
    events : tuple of Event
        In order of time; they never overlap.
    """

    fps: float
    actions: Floats
    pose: Floats
    light: Floats
    gradient: Floats
    pulse: Floats
    events: tuple[Event, ...]


def make_timeline(
    rng: np.random.Generator,
    *,
    seconds: float,
    fps: float,
    valence: int,
    arousal: int,
    pulse: NDArray[np.floating],
    signature: int | None = None,
) -> FaceTimeline:
    """Decide what a face does in one trial.

    Expressions and as many distractors are thrown at random moments of the trial, in random order and without overlap,
    so that neither a moment nor an order tells them apart. Where there is nothing to show there are twice as many
    distractors, so that the number of events tells nothing either.

    Parameters
    ----------
    rng : Generator
        The only source of randomness.
    seconds, fps : float
        Length of the trial and frames a second.
    valence, arousal : {-1, 0, 1}
        What the face is to show: low, nothing, high.
    pulse : ndarray, shape (n_frames,)
        Zero mean, about unit deviation; its length is the number of frames.
    signature : int, optional
        Number of a stimulus that leaves a weak trace of its own in the light, the same for all subjects.

    Returns
    -------
    FaceTimeline

    Raises
    ------
    UserError
        If `pulse` does not have ``round(seconds * fps)`` values, or `valence` or `arousal` is not -1, 0 or 1.
    """
    n_frames = round(seconds * fps)
    if len(pulse) != n_frames or n_frames < 1:
        raise UserError(f"pulse: found {len(pulse)} values, expected {n_frames} ({seconds:g} s at {fps:g} frames/s)")
    for name, level in (("valence", valence), ("arousal", arousal)):
        if level not in (-1, 0, 1):
            raise UserError(f"{name}: found {level}, expected -1 (low), 0 (nothing to show) or 1 (high)")
    events = _events(rng, seconds, _kind(valence, arousal))
    times = np.arange(n_frames) / fps  # (F,)
    actions = np.zeros((n_frames, len(ACTIONS)))  # (F, A)
    for event in events:
        _act(rng, actions, times, event, valence, arousal)
    light = _light(rng, times)  # (F, 3)
    if signature is not None:
        light = light * _signature(signature, times)  # (F, 3)
    gradient = rng.uniform(-0.12, 0.12, 2)  # (2,)
    values = np.asarray(pulse, dtype=np.float64)  # (F,)
    return FaceTimeline(fps, actions, _pose(rng, times), light, gradient, values, tuple(events))


def _kind(valence: int, arousal: int) -> str:
    sign = {1: "+", -1: "-"}
    text = (f"valence{sign[valence]}" if valence else "") + (f"arousal{sign[arousal]}" if arousal else "")
    return f"expression:{text}" if text else ""


def _events(rng: np.random.Generator, seconds: float, expression: str) -> list[Event]:
    pairs = max(1, round(seconds / SECONDS_AN_EXPRESSION))
    kinds = [expression] * pairs if expression else []
    # An expression of two parts moves more pixels than one of one part, and its distractors do so too.
    parts = 2 if "valence" in expression and "arousal" in expression else 1
    choices = ["distractor:" + "+".join(c) for c in combinations(DISTRACTORS, parts)]
    # Whole rounds of the choices, so that each comes equally often, and a random rest.
    rest = 2 * pairs - len(kinds)
    rounds = [rng.permutation(len(choices)) for _ in range(-(-rest // len(choices)))]
    kinds += [choices[i] for i in np.concatenate(rounds)[:rest]]
    kinds = [kinds[i] for i in rng.permutation(len(kinds))]
    lengths = rng.uniform(0.8, 1.4, len(kinds))  # (E,) seconds
    while len(kinds) and lengths.sum() + GAP * len(kinds) > seconds:  # a trial of a few seconds
        kinds.pop()
        lengths = lengths[:-1]
    # Uniform points on the time that is left over become starts once the lengths are put back between them.
    free = seconds - lengths.sum() - GAP * len(kinds)
    starts = np.sort(rng.uniform(0, free, len(kinds))) + np.cumsum(lengths + GAP) - lengths - GAP  # (E,)
    middle = rng.uniform(0.45, 0.55, len(kinds))  # (E,)
    return [
        Event(kind, float(a), float(a + m * d), float(a + d))
        for kind, a, m, d in zip(kinds, starts, middle, lengths, strict=True)
    ]


def _act(rng: np.random.Generator, actions: Floats, times: Floats, event: Event, valence: int, arousal: int) -> None:
    strength = rng.uniform(0.8, 1.0)
    sign = rng.choice([-1.0, 1.0])
    cycles = rng.integers(3, 5)
    inside = (times > event.start) & (times < event.stop)  # (F,)
    t = times[inside]
    # Onset and offset take 30 % each of the way to the apex and back: a contiguous rise, plateau and fall.
    rise = (t - event.start) / (0.7 * (event.apex - event.start))  # (f,)
    fall = (event.stop - t) / (0.7 * (event.stop - event.apex))  # (f,)
    ramp = np.clip(np.minimum(rise, fall), 0, 1)  # (f,)
    shape = strength * ramp * ramp * (3 - 2 * ramp)  # (f,)
    phase = (t - event.start) / (event.stop - event.start)  # (f,) 0 to 1
    wave = 0.5 - 0.5 * np.cos(2 * np.pi * cycles * phase)  # (f,)
    does = event.kind.removeprefix("distractor:").split("+") if event.kind.startswith("distractor:") else []
    if "blink" in does:
        lids = np.clip(1.6 * (0.5 - 0.5 * np.cos(2 * np.pi * (cycles - 1) * phase)), 0, 1)  # (f,)
        actions[inside, _COLUMN["blink"]] = lids
    if "speech" in does:
        actions[inside, _COLUMN["open"]] = shape * (0.25 + 0.75 * wave)
        actions[inside, _COLUMN["round"]] = shape * np.sin(2 * np.pi * phase * (cycles / 2)) * sign
    if "turn" in does:
        actions[inside, _COLUMN["turn"]] = sign * shape
    if not does and valence:
        actions[inside, _COLUMN["smile" if valence > 0 else "frown"]] = shape
    if not does and arousal:
        actions[inside, _COLUMN["wide" if arousal > 0 else "droop"]] = shape


def _pose(rng: np.random.Generator, times: Floats) -> Floats:
    rest = np.array([0.5, 0.47, 0.131, 0.0, 0.0, 0.0])  # (P,)
    spread = np.array([0.05, 0.035, 0.006, 0.05, 0.05, 0.04])  # (P,) from trial to trial
    drift = np.array([0.006, 0.005, 0.002, 0.012, 0.03, 0.02])  # (P,) within a trial
    trial = rest + spread * rng.uniform(-1, 1, len(POSE))  # (P,)
    wander = np.stack([_slow(rng, times) for _ in POSE], axis=1)  # (F, P)
    return np.asarray(trial + drift * wander)  # (F, P)


def _light(rng: np.random.Generator, times: Floats) -> Floats:
    exposure = rng.uniform(0.82, 1.04)
    warmth = rng.uniform(-0.06, 0.06)
    drift = 1 + 0.012 * _slow(rng, times)  # (F,)
    return np.asarray(exposure * drift[:, None] * np.array([1 + warmth, 1.0, 1 - warmth]))  # (F, 3)


def _signature(number: int, times: Floats) -> Floats:
    """Tint of the light that one stimulus throws on a face: a colour of its own and a slow pattern, (F, 3)."""
    rng = np.random.default_rng([20240, number])
    colour = rng.uniform(-0.05, 0.05, 3)  # (3,)
    pattern = np.stack([_slow(rng, times) for _ in range(3)], axis=1)  # (F, 3)
    return 1 + colour + 0.02 * pattern


def _slow(rng: np.random.Generator, times: Floats) -> Floats:
    """Drift between -1 and 1, slower than 0.25 Hz, (F,)."""
    rates, phases = rng.uniform(0.01, 0.25, 4), rng.uniform(0, 2 * np.pi, 4)  # (4,) each
    return np.asarray(np.sin(2 * np.pi * times[:, None] * rates + phases).mean(axis=1))  # (F,)


def frames(
    identity: Identity, timeline: FaceTimeline, *, size: tuple[int, int] = (720, 576), seed: int = 0
) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a trial, each (height, width, 4) uint8: red, green, blue and a byte without meaning.

    Parameters
    ----------
    identity : Identity
    timeline : FaceTimeline
    size : tuple of int
        Width and height, pixels, both even.
    seed : int
        Of the grain that keeps a slow change of light or colour from turning into steps.
    """
    width, height = size
    painter = Painter(identity, size, timeline.pose)
    x0, y0, x1, y1 = painter.box
    slope_x, slope_y = timeline.gradient
    ramp = 1 + slope_x * np.linspace(-1, 1, width)[None, :] + slope_y * np.linspace(-1, 1, height)[:, None]  # (H, W)
    shading = np.repeat(ramp[..., None], 4, axis=2).astype(np.float32)  # (H, W, 4)
    grain = np.random.default_rng([seed, 7]).uniform(0, 1, (height, width, 4)).astype(np.float32)  # (H, W, 4)
    scene = painter.scene * shading  # (H, W, 4)
    patch_shading, patch_grain = shading[y0:y1, x0:x1].copy(), grain[y0:y1, x0:x1].copy()  # (h, w, 4)
    canvas = np.empty((height, width, 4), dtype=np.uint8)  # (H, W, 4)
    patch = np.empty_like(patch_shading)  # (h, w, 4)
    skin = np.empty(patch.shape[:2], dtype=np.float32)  # (h, w)
    colour = np.array(identity.skin) / 255.0 * PULSE_DEPTH  # (3,) change of drawn colour for a full skin pixel
    for i, (actions, pose) in enumerate(zip(timeline.actions, timeline.pose, strict=True)):
        if i % _HOLD == 0:
            gain = np.array([*timeline.light[i], 1.0], dtype=np.float32)  # (4,)
            lit = patch_shading * gain  # (h, w, 4)
            canvas[:] = np.minimum(scene * gain + grain, 255)
        np.multiply(painter.paint(actions, pose), lit, out=patch)
        for c in range(3):
            np.multiply(patch[..., 3], np.float32(colour[c] * timeline.light[i, c] * timeline.pulse[i]), out=skin)
            patch[..., c] += skin
        patch += patch_grain
        np.minimum(patch, 255, out=patch)
        canvas[y0:y1, x0:x1] = patch
        yield canvas.copy()


def write_video(
    path: Path,
    identity: Identity,
    timeline: FaceTimeline,
    *,
    size: tuple[int, int] = (720, 576),
    fps: float = 50,
    seed: int = 0,
) -> None:
    """Draw a trial and write it as AVI with H.264 (MPEG-4 where there is no encoder for it).

    It is written under another name and renamed when it is whole.

    Parameters
    ----------
    path : Path
        The file to write.
    identity : Identity
    timeline : FaceTimeline
    size : tuple of int
        Width and height, pixels, both even.
    fps : float
        Frames a second; the same as the timeline's.
    seed : int
        Of the grain.

    Raises
    ------
    UserError
        If `size` is odd or too small for a face to be found, or `fps` is not the timeline's.
    """
    import av  # heavy

    width, height = size
    if width % 2 or height % 2 or min(size) < 96:
        raise UserError(f"size {width}x{height}: expected even numbers of at least 96 pixels, such as 720x576")
    if abs(fps - timeline.fps) > 1e-9:
        raise UserError(f"fps: found {fps:g}, expected the timeline's {timeline.fps:g}")
    # Constant quality, no frames out of order (AVI cannot hold them), a whole frame every second to seek to.
    codec, options = "libx264", {"preset": "ultrafast", "crf": "20", "g": "50", "bf": "0"}
    if codec not in av.codecs_available:
        codec, options = "mpeg4", {"qscale": "2", "g": "50", "bf": "0"}
    rate = Fraction(fps).limit_denominator(1001)
    part = path.with_name(path.name + ".part")
    try:
        with av.open(str(part), "w", format="avi") as container:
            stream = cast("VideoStream", container.add_stream(codec, rate=rate, options=options))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.thread_count = 1
            for i, array in enumerate(frames(identity, timeline, size=size, seed=seed)):
                frame = av.VideoFrame.from_ndarray(array, format="rgba")
                frame.pts = i
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
