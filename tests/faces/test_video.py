"""Frames by timestamp: the very frame that is on the screen, whatever the container, and clear words for bad files."""

from __future__ import annotations

import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.faces.conftest import draw

from milmer.errors import UserError
from milmer.faces.video import FrameReader, frames_at, probe

SAMPLES = Path(__file__).parents[2] / ".samples"
RATE, COUNT = 25, 400
STEADY = [i / RATE for i in range(COUNT)]
OPEN_GOP = {"x264-params": "open-gop=1:scenecut=0:b-adapt=0"}
FILES = {
    "plain.mp4": {},
    "b.mp4": {"bframes": 3, "gop": 30},
    "open.mp4": {"bframes": 3, "gop": 30, "options": OPEN_GOP},
    "long-gop.mp4": {"bframes": 2, "gop": 400},
    "b.mkv": {"bframes": 3, "gop": 12},
    "b.mov": {"bframes": 1, "gop": 50},
    "offset.ts": {"bframes": 2, "gop": 25},
    "plain.avi": {"codec": "mpeg4"},
    "b.avi": {"bframes": 3, "gop": 30},
    "open.avi": {"bframes": 3, "gop": 30, "options": OPEN_GOP},
    "b-mpeg4.avi": {"codec": "mpeg4", "bframes": 2},
    "intra.avi": {"codec": "mjpeg", "gop": 1},
    "stream.h264": {"bframes": 2, "gop": 25},
}


def numbers(path, times, read_number):
    return [(t, read_number(image)) for t, image in frames_at(path, times)]


@pytest.mark.parametrize("name", FILES)
def test_every_frame_is_where_it_belongs(name, write_video, read_number):
    path = write_video(name, STEADY, **FILES[name])
    middles = [(i + 0.5) / RATE for i in range(COUNT)]
    assert numbers(path, middles, read_number) == list(zip(middles, range(COUNT), strict=True))


@pytest.mark.parametrize("name", FILES)
@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=st.lists(st.floats(-1, 17.5), min_size=1, max_size=6).map(sorted))
def test_any_times_give_the_frame_on_the_screen_with_seeking_or_without(name, wanted, write_video, read_number):
    path = write_video(name, STEADY, **FILES[name])
    # Times next to a border between two frames belong to either.
    wanted = [t for t in wanted if abs(t * RATE - round(t * RATE)) > 0.05]
    expected = [(t, max(int(np.floor(t * RATE)), 0)) for t in wanted if t < COUNT / RATE]
    assert numbers(path, wanted, read_number) == expected


def test_seeking_is_used_and_gives_the_same_pixels_as_decoding_through(write_video, monkeypatch):
    path = write_video("b.mp4", STEADY, **FILES["b.mp4"])
    wanted = [0.5, 0.9, 7.3, 7.4, 14.1]
    decoded = {i: image for i, (_, image) in enumerate(frames_at(path, [i / RATE + 0.01 for i in range(COUNT)]))}
    with FrameReader(path) as reader:
        found = [image for _, image in reader.frames_at(wanted)]
    for t, image in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(image, decoded[int(t * RATE)])
    packets = []
    original = FrameReader._packets

    def counting(self):
        for packet in original(self):
            packets.append(packet)
            yield packet

    monkeypatch.setattr(FrameReader, "_packets", counting)
    assert len(list(frames_at(path, [15.0]))) == 1
    assert len(packets) < 60  # of 400


class Unseekable:
    """A container that cannot be moved about in: it refuses, or goes somewhere else."""

    def __init__(self, container, goes_to: int | None):
        self._container, self._goes_to = container, goes_to

    def __getattr__(self, name):
        return getattr(self._container, name)

    def seek(self, offset, *, stream):
        if self._goes_to is None:
            raise av.FFmpegError(1, "cannot seek")
        self._container.seek(self._goes_to, stream=stream)


@pytest.mark.parametrize("goes_to", [None, 12_800 * 15])
def test_a_file_whose_index_leads_nowhere_is_read_through(goes_to, write_video, read_number):
    with FrameReader(write_video("b.mp4", STEADY, **FILES["b.mp4"])) as reader:
        reader._container = Unseekable(reader._container, goes_to)
        wanted = [0.5, 7.3, 14.1]
        assert [read_number(image) for _, image in reader.frames_at(wanted)] == [12, 182, 352]


def test_a_steady_grid_is_decoded_once_through(write_video, monkeypatch):
    path = write_video("long-gop.mp4", STEADY, **FILES["long-gop.mp4"])
    packets = []
    original = FrameReader._packets

    def counting(self):
        for packet in original(self):
            packets.append(packet)
            yield packet

    monkeypatch.setattr(FrameReader, "_packets", counting)
    assert len(list(frames_at(path, (np.arange(53) + 0.5) * 0.3))) == 53
    assert len(packets) <= COUNT + 2


@pytest.mark.parametrize("offset", [0.0, 5.0])
@pytest.mark.parametrize("bframes", [0, 2])
def test_variable_frame_rate_and_start_offset(offset, bframes, write_video, read_number):
    rng = np.random.default_rng(3)
    starts = np.concatenate([[0.0], np.cumsum(rng.choice([0.02, 0.04, 0.1, 1.5], size=120))])
    path = write_video(f"vfr-{offset}-{bframes}.mkv", (starts + offset).tolist(), bframes=bframes)
    wanted = np.sort(rng.uniform(0, starts[-1], 80))
    wanted = wanted[np.abs(wanted[:, None] - starts).min(axis=1) > 0.002]
    expected = np.searchsorted(starts, wanted, side="right") - 1
    assert [n for _, n in numbers(path, wanted.tolist(), read_number)] == expected.tolist()


def test_a_time_on_a_border_is_the_new_frame_and_the_same_time_twice_gives_it_twice(write_video, read_number):
    path = write_video("plain.mp4", STEADY)
    assert numbers(path, [0.0, 0.04, 0.04, 3 * 0.04, 4.0], read_number) == [
        (0.0, 0), (0.04, 1), (0.04, 1), (3 * 0.04, 3), (4.0, 100),
    ]  # fmt: skip


def test_a_second_pass_starts_over(write_video, read_number):
    path = write_video("b.avi", STEADY, **FILES["b.avi"])
    with FrameReader(path) as reader:
        for _ in range(2):
            assert [read_number(image) for _, image in reader.frames_at([1.01, 9.01, 15.01])] == [25, 225, 375]


def test_times_must_ascend(write_video):
    path = write_video("plain.mp4", STEADY)
    with pytest.raises(ValueError, match="ascend"):
        list(frames_at(path, [1.0, 0.5]))


@pytest.mark.parametrize("name", FILES)
def test_probe(name, write_video):
    info = probe(write_video(name, STEADY, **FILES[name]))
    assert (info.width, info.height) == (160, 32)
    assert info.rate == pytest.approx(25, rel=0.01)
    assert info.duration == pytest.approx(16, abs=0.15)
    assert info.frames == pytest.approx(COUNT, abs=4)


def test_probe_of_a_real_video():
    info = probe(SAMPLES / "WolfgangLanger_Pexels.mp4")
    assert (info.width, info.height, info.frames) == (640, 360, 472)
    assert info.duration == pytest.approx(19.685, abs=0.01)


@pytest.mark.parametrize(
    ("matrix", "turns"),
    [((0, 1, -1, 0), -1), ((0, -1, 1, 0), 1), ((-1, 0, 0, -1), 2)],  # phones held upright, and upside down
)
def test_the_picture_is_turned_as_a_phone_says(matrix, turns, write_video, tmp_path):
    plain = write_video("plain.mp4", STEADY)
    data = bytearray(plain.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 16  # version and flags; times, id, duration; layer, volume
    a, b, c, d = (struct.pack(">i", v << 16) for v in matrix)
    nought = bytes(4)
    data[at : at + 36] = a + b + nought + c + d + nought + nought + nought + struct.pack(">i", 1 << 30)
    turned = tmp_path / "turned.mov"
    turned.write_bytes(data)
    ((_, upright),) = frames_at(plain, [2.0])
    ((_, image),) = frames_at(turned, [2.0])
    np.testing.assert_array_equal(image, np.rot90(upright, turns))
    assert (probe(turned).height, probe(turned).width) == image.shape[:2]


def test_a_file_cut_short_gives_what_is_there(write_video, read_number, tmp_path):
    for name in ("b.avi", "b.mkv", "offset.ts"):
        whole = write_video(name, STEADY, **FILES[name])
        cut = tmp_path / name
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        middles = [(i + 0.5) / RATE for i in range(COUNT)]
        found = numbers(cut, middles, read_number)
        assert 0.3 * COUNT < len(found) < 0.7 * COUNT
        assert [n for _, n in found[:-4]] == list(range(len(found) - 4))  # the last may be spoiled


def test_a_real_file_cut_short_is_unreadable_or_short(tmp_path):
    whole = (SAMPLES / "carphone_pristine.mp4").read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) // 2])
    if whole.index(b"moov") > len(whole) // 2:  # the index of the file is lost
        with pytest.raises(UserError, match=r"cut\.mp4: \d+ bytes, not readable as video"):
            probe(cut)
    else:
        times = (np.arange(13) + 0.5) * 0.3
        assert 0 < len(list(frames_at(cut, times))) < 13


@pytest.mark.parametrize("name", ["b.avi", "b.mp4", "intra.avi"])
def test_damage_in_the_middle_is_passed_over_and_noted(name, write_video, read_number, tmp_path):
    whole = write_video(name, STEADY, **FILES[name])
    with av.open(str(whole)) as container:
        spans = [
            (p.pos, p.size) for p in container.demux(video=0) if p.size and 160 <= p.dts * p.time_base * RATE < 190
        ]
    data = bytearray(whole.read_bytes())
    for position, size in spans:
        data[position + 8 : position + 8 + size - 8] = bytes([0xFF]) * (size - 8)
    broken = tmp_path / name
    broken.write_bytes(data)
    middles = [(i + 0.5) / RATE for i in range(COUNT)]
    with FrameReader(broken) as reader:
        found = {round(t * RATE - 0.5): read_number(image) for t, image in reader.frames_at(middles)}
        notes = reader.notes
    assert len(notes) == 1
    assert "damaged" in notes[0]
    assert all(found.get(i) == i for i in [*range(140), *range(220, COUNT)])
    assert len(found) < COUNT  # what is lost is left out and not replaced by an older frame


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: None, "no such video file"),
        (lambda p: p.write_bytes(b""), "the file is empty"),
        (lambda p: p.write_text("dear diary, " * 400), "not readable as video"),
        (lambda p: p.write_bytes(bytes(5000)), "not readable as video"),
        (lambda p: p.mkdir(), "found a folder"),
        (lambda p: p.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://localhost:9/a.ts\n"), "video"),
    ],
)
def test_what_is_no_video_is_named_in_one_line(make, words, tmp_path):
    path = tmp_path / "s01_trial01.mp4"
    make(path)
    with pytest.raises(UserError, match=words) as error:
        probe(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_file_with_sound_only_is_named(tmp_path):
    path = tmp_path / "voice.wav"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with pytest.raises(UserError, match="no video stream"):
        probe(path)


def test_a_name_that_looks_like_a_protocol_is_a_file(write_video, tmp_path):
    path = tmp_path / "pipe:0 %03d.mp4"
    path.write_bytes(write_video("plain.mp4", STEADY).read_bytes())
    assert probe(path).frames == COUNT


GROWTH = """
import resource, sys
from pathlib import Path
from milmer.faces.video import frames_at
peaks = []
for path, seconds in zip(sys.argv[1:], (4, 40)):
    for _ in frames_at(Path(path), [i / 10 for i in range(seconds * 10)]):
        pass
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(peaks[1] - peaks[0])
"""


def test_memory_does_not_grow_with_the_length(write_video):
    """1,000 frames of 320 x 240 are 115 MB as decoded: holding them would show."""
    image = np.zeros((240, 320, 3), np.uint8)
    paths = [write_video(f"{s}-s.avi", range(s * RATE), codec="mpeg4", gop=50, images=lambda i: image) for s in (4, 40)]
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, *map(str, paths)], capture_output=True, text=True, check=True
    )  # fmt: skip
    assert float(done.stdout) < 15


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "mjpeg"])
def test_frames_that_a_camera_dropped_leave_a_gap_in_an_avi(codec, read_number, tmp_path):
    """AVI has no times: a dropped frame is an empty piece, and what comes after it must not move up."""
    path = tmp_path / "dropped.avi"
    shown = [*range(50), *range(60, 100)]
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=RATE)
        stream.height, stream.width = draw(0).shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.bit_rate = 2_000_000
        stream.options = {"bf": "0", "crf": "18"} if codec == "libx264" else {}
        for number in shown:
            frame = av.VideoFrame.from_ndarray(draw(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    middles = [(i + 0.5) / RATE for i in range(100)]
    assert [n for _, n in numbers(path, middles, read_number)] == [min(i, 49) if i < 60 else i for i in range(100)]


# --- frames that nobody needs are not decoded ----------------------------------------------------------------------

UNEVEN = np.cumsum([0.04 + 0.3 * (i % 37 == 0) for i in range(COUNT)]).tolist()
SPARSE = {**{name: (STEADY, about) for name, about in FILES.items()}, "uneven.mp4": (UNEVEN, {"bframes": 3})}


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("every", [0.3, 0.1, 0.04])
def test_the_frames_wanted_are_the_same_to_the_bit_where_others_are_left_out(name, every, write_video):
    stamps, about = SPARSE[name]
    path = write_video(name, stamps, **about)
    wanted = np.arange(0.01, stamps[-1] + 1, every).tolist()
    with FrameReader(path) as reader, FrameReader(path) as all_of_them:
        all_of_them._may_skip = False
        got = list(reader.shown_at(wanted))
        expected = list(all_of_them.shown_at(wanted))
        assert [(k, t, s.start) for k, t, s in got] == [(k, t, s.start) for k, t, s in expected]
        for (_, _, one), (_, _, other) in zip(got, expected, strict=True):
            np.testing.assert_array_equal(one.image, other.image)
        assert reader.notes == all_of_them.notes == []
        assert reader.end == pytest.approx(all_of_them.end, abs=1e-6)


def test_frames_are_left_out_only_where_none_of_them_can_be_missed(write_video):
    def decoded(path, times):
        with FrameReader(path) as reader:
            count, decode = 0, reader._decode

            def counted():
                nonlocal count
                for shown in decode():
                    count += 1
                    yield shown

            reader._decode = counted
            reader.close()
            reader._start()
            list(reader.shown_at(times))
            return count

    wanted = np.arange(0.15, 16, 0.6).tolist()
    b = write_video("open.mp4", STEADY, **FILES["open.mp4"])
    assert decoded(b, wanted) < 0.6 * COUNT
    assert decoded(b, iter(wanted)) > 0.95 * COUNT  # times that are not known beforehand
    assert decoded(write_video("open.avi", STEADY, **FILES["open.avi"]), wanted) > 0.95 * COUNT
