"""Write drawn still faces in one folder a class: expressions at their apex, and faces that express nothing."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milmer.config import FacePreparation
from milmer.datasets.simulated_face import Event, FaceTimeline, Identity, frames, make_identity, make_timeline
from milmer.errors import UserError
from milmer.faces.crop import crop_face, encode_jpeg
from milmer.faces.detect import FaceDetector, load_detector
from milmer.labels import FOUR_CLASSES
from milmer.processes import end_with, single_threaded
from milmer.progress import Progress, silent

NEUTRAL = "neutral"
CLASSES = (*FOUR_CLASSES, NEUTRAL)
RECORD = "expressions.json"
GENERATOR = 1  # raised when the same options no longer give the same pictures
SIZE = (640, 512)  # of the frame a face is drawn in: the proportions of a study's, and crops of about 224 pixels
SITTING = 3  # pictures of one pose and light: a frame costs a third of a scene
TRIES = 20  # sittings until the detector finds a face in one
_IDENTITY, _FACE = 31, 32  # what a random draw is for; a study's own (1 to 10) are other streams
_FPS, _SECONDS = 25.0, 6.0 * SITTING


@dataclass(frozen=True)
class _Sitting:
    """Up to `SITTING` pictures of one person and class, `numbers` of the class's pictures."""

    out: Path
    seed: int
    label: str
    person: int
    numbers: tuple[int, ...]
    px: int

    def file(self, number: int) -> Path:
        return self.out / self.label / f"p{self.person + 1:03d}_{number + 1:05d}.jpg"


def simulate_expressions(
    out: Path,
    *,
    people: int = 24,
    per_class: int = 200,
    px: int = 224,
    seed: int = 0,
    jobs: int = 1,
    progress: Progress = silent,
) -> int:
    """Write a facial-expression set of simulated people: ``CLASS/PERSON_NUMBER.jpg``.

    The classes are the four combinations of high and low valence and arousal, each near the apex of its expression,
    and ``neutral``: a face at rest, or one that blinks, speaks or turns. Faces are drawn as in a simulated study,
    found by the detector and cropped as `milmer prepare` does; only the video between is left out. The people are
    not those of a study of the same seed.

    Parameters
    ----------
    out : Path
        Folder to write; new, empty, or a set begun with the same options, which is gone on with.
    people : int
        Number of people, 1 to 999; every class has each of them about equally often.
    per_class : int
        Pictures a class.
    px : int
        Side of the crops in pixels.
    seed : int
        A picture is a function of seed, class and number.
    jobs : int
        Processes; does not change what is written.
    progress : Progress
        Told of the pictures written.

    Returns
    -------
    int
        Pictures drawn by this call.

    Raises
    ------
    UserError
        On a wrong option, a folder that holds something else, or a full disk.
    """
    limits = {"--subjects": (people, 999), "--expressions": (per_class, 99_999), "--jobs": (jobs, 4096)}
    for name, (value, most) in limits.items():
        if not 1 <= value <= most:
            raise UserError(f"{name} {value}: expected a whole number from 1 to {most}")
    if not 32 <= px <= 1024:
        raise UserError(f"--px {px}: expected 32 to 1024 pixels")
    try:
        _claim(out, {"people": people, "per_class": per_class, "px": px, "seed": seed})
        sittings = _sittings(out, people, per_class, px, seed)
        missing = [s for s in sittings if not all(s.file(n).is_file() for n in s.numbers)]
        return _draw_all(missing, len(CLASSES) * per_class, jobs, progress)
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"{error.filename or out}: cannot be written ({why}); mend that and run it again") from error
    except BrokenProcessPool as error:
        raise UserError(f"{out}: a process was killed, perhaps for want of memory; run again with --jobs 1") from error


def person_of(seed: int, person: int) -> Identity:
    """Return the looks of a person, numbered from 0, of the set that `seed` gives."""
    return make_identity(np.random.default_rng([seed, _IDENTITY, person]))


def _claim(out: Path, options: dict[str, int]) -> None:
    """Make `out` ours, or refuse it."""
    record = out / RECORD
    given: dict[str, Any] = {"generator": GENERATOR, **options}
    if record.exists():
        try:
            found = dict(json.loads(record.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise UserError(f"{record}: not readable; delete {out} or name another folder") from error
        for name, value in given.items():
            if found.get(name) != value:
                raise UserError(
                    f"{record}: drawn with {name} {found.get(name)}, asked for {value}; name another folder or repeat "
                    "the same options"
                )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: not empty and no simulated expressions (no {RECORD}); name another folder")
    for name in CLASSES:
        (out / name).mkdir(parents=True, exist_ok=True)
    part = record.with_name(f".{RECORD}.part")
    part.write_text(json.dumps(given, indent=1) + "\n", encoding="utf-8")
    part.replace(record)


def _sittings(out: Path, people: int, per_class: int, px: int, seed: int) -> Iterator[_Sitting]:
    for label in CLASSES:
        for person in range(people):
            mine = range(person, per_class, people)
            for first in range(0, len(mine), SITTING):
                yield _Sitting(out, seed, label, person, tuple(mine[first : first + SITTING]), px)


def _draw_all(missing: list[_Sitting], total: int, jobs: int, progress: Progress) -> int:
    wanted = sum(len(s.numbers) for s in missing)
    done = total - wanted
    progress(done, total, "")
    if min(jobs, len(missing)) <= 1:
        detector = load_detector(FacePreparation())
        with single_threaded():  # the detector's threads wait for each other longer than they work
            for sitting in missing:
                done += _draw(sitting, detector)
                progress(done, total, sitting.label)
        return wanted
    size = min(40, -(-len(missing) // jobs))  # a detector is loaded once a chunk
    chunks = [missing[i : i + size] for i in range(0, len(missing), size)]
    # spawn: a fork of a process with threads may hang
    context = multiprocessing.get_context("spawn")
    with single_threaded(), ProcessPoolExecutor(min(jobs, len(chunks)), context, end_with, (os.getpid(),)) as pool:
        work = [pool.submit(_draw_chunk, c) for c in chunks]
        try:
            for future in as_completed(work):
                done += future.result()
                progress(done, total, "")
        except BaseException:  # also Ctrl-C: what waits is dropped, what runs is left to end
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return wanted


def _draw_chunk(sittings: list[_Sitting]) -> int:
    detector = load_detector(FacePreparation())
    return sum(_draw(s, detector) for s in sittings)


def _draw(sitting: _Sitting, detector: FaceDetector) -> int:
    """Draw and write the pictures of a sitting; return how many."""
    settings = FacePreparation(px=sitting.px)
    identity = person_of(sitting.seed, sitting.person)
    left = list(sitting.numbers)
    for attempt in range(TRIES):
        key = [sitting.seed, _FACE, CLASSES.index(sitting.label), sitting.numbers[0], attempt]
        rng = np.random.default_rng(key)
        shown = _shown(rng, sitting.label)
        for image in frames(identity, shown, size=SIZE, seed=int(rng.integers(2**31))):
            rgb = np.ascontiguousarray(image[..., :3])  # (H, W, 3)
            faces = [f for f in detector.detect(rgb) if f.confidence >= settings.confidence]
            if left and faces:
                crop = crop_face(rgb, faces[0].box, settings.margin, settings.px)  # (px, px, 3)
                _write(sitting.file(left.pop(0)), encode_jpeg(crop, settings.jpeg_quality))
        if not left:
            return len(sitting.numbers)
    raise UserError(f"{sitting.file(left[0])}: no face found in {TRIES} drawings; give another --seed")


def _shown(rng: np.random.Generator, label: str) -> FaceTimeline:
    """Return a timeline of `SITTING` frames, each at a moment that shows what the class is about."""
    if label == NEUTRAL:  # what is no expression in a trial with one (two distractors at once), and in one without
        valence, arousal = (int(rng.choice([-1, 1])), int(rng.choice([-1, 1]))) if rng.random() < 0.5 else (0, 0)
    else:
        valence, arousal = (1 if label.endswith("HV") else -1), (1 if label.startswith("HA") else -1)
    count = round(_SECONDS * _FPS)
    flat = np.zeros(count)  # (F,) no pulse in a still
    whole = make_timeline(rng, seconds=_SECONDS, fps=_FPS, valence=valence, arousal=arousal, pulse=flat)
    if label == NEUTRAL:
        rest = np.flatnonzero(~np.any([_inside(e, count, 1.0) for e in whole.events], axis=0))  # (F - ...,)
        acts = [e for e in whole.events if e.kind.startswith("distractor")]
        chosen = [int(rng.choice(rest if rng.random() < 1 / 3 else _moments(rng, acts, count))) for _ in range(SITTING)]
    else:
        expressive = [e for e in whole.events if e.kind.startswith("expression")]
        chosen = [int(rng.choice(_moments(rng, expressive, count))) for _ in range(SITTING)]
    return replace(
        whole,
        actions=whole.actions[chosen],
        pose=whole.pose[chosen],
        light=whole.light[chosen],
        pulse=flat[chosen],
        events=(),
    )


def _inside(event: Event, count: int, share: float) -> NDArray[np.bool_]:
    """Frames within the middle `share` of an event around its apex, (F,)."""
    times = np.arange(count) / _FPS  # (F,)
    start = event.apex - share * (event.apex - event.start)
    return (times >= start) & (times <= event.apex + share * (event.stop - event.apex))


def _moments(rng: np.random.Generator, events: list[Event], count: int) -> NDArray[np.int64]:
    """Frames near the apex of one of `events`: above three quarters of the strength it reaches."""
    return np.flatnonzero(_inside(events[int(rng.integers(len(events)))], count, 0.45))


def _write(file: Path, jpeg: bytes) -> None:
    part = file.with_name(f".{file.name}.part")
    part.write_bytes(jpeg)
    part.replace(file)
