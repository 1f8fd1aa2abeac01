"""A small MAHNOB-HCI with the publisher's names, spaces and traps; every value says where it belongs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

import av
import numpy as np

from .deap_raw_fixture import GAIN, GENEVA, REST, STATE, write_bdf

RATE = 64  # Hz; the publisher's are 256 and 512
MARGIN = 30  # s before and after the clip
NAMES = [*GENEVA, *(n for n in REST if n != "Plet")]  # no plethysmograph
VIDEO_RATE = 10


def planted(name: str, subject: int, trial: int) -> float:
    """What a channel holds at the clip's start; a second later it is 1 more."""
    return subject * 1e4 + trial * 100 + NAMES.index(name)


def clip_seconds(trial: int) -> int:
    return 2 + trial % 3


def write_recording(
    path: Path,
    subject: int,
    trial: int,
    *,
    marks: Sequence[float] | None = None,
    held: bool = False,
    rate: int = RATE,
    without: Sequence[str] = (),
) -> Path:
    """Write a BDF with a clip; `marks` in seconds instead of its start and end, `held` for one long mark."""
    names = [n for n in NAMES if n not in without]
    seconds = 2 * MARGIN + clip_seconds(trial)
    time = np.arange(seconds * rate) / rate - MARGIN  # (S,) from the clip's start
    values = np.zeros((len(names) + 1, len(time)), dtype=np.int64)
    for k, name in enumerate(names):
        values[k] = np.round((planted(name, subject, trial) + time + 0.5) / GAIN - 0.5)
    values[-1] = STATE  # the amplifier's state, above the 16 bits of the marks
    for at in (0, clip_seconds(trial)) if marks is None else marks:
        begin = round((MARGIN + at) * rate)
        values[-1, begin : begin + 3] = STATE + 16
    if held:
        values[-1, MARGIN * rate : (MARGIN + clip_seconds(trial)) * rate] = STATE + 1
    units = ["uV"] * len(GENEVA) + ["uV"] * 8 + ["Ohm", "Ohm", "uV", "uV", "uV", "C"]
    kept = [u for n, u in zip(NAMES, units, strict=True) if n not in without]
    return write_bdf(path, [*names, "Status"], values, rate, [*kept, "Boolean"])


def write_video(path: Path, seconds: float) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=VIDEO_RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(round(seconds * VIDEO_RATE)):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        out.mux(stream.encode(None))
    return path


def write_xml(folder: Path, subject: int, tracks: Sequence[tuple[str, str]] = (), **attributes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    given = " ".join(f"{k}={quoteattr(str(v))}" for k, v in attributes.items())
    inner = "".join(f"<track filename={quoteattr(name)} {kind}/>" for name, kind in tracks)
    path = folder / "session.xml"
    path.write_text(
        f'<?xml version="1.0" encoding="UTF-8"?>\n<session sessionId="{folder.name}" {given}>'
        f'<subject id="{subject}" gender="F"/>{inner}</session>\n',
        encoding="utf-8",
    )
    return path


def write_session(
    root: Path,
    number: int,
    subject: int,
    trial: int,
    *,
    video: float | None = 0.0,
    named: bool = True,
    **attributes: object,
) -> Path:
    """Write a rated session; its video is `video` seconds longer than the clip (None: there is no video)."""
    folder = root / "Sessions" / str(number)
    bdf = f"Part_{subject}_S_Trial{trial}_emotion.bdf"
    face = f"P{subject}-Rec1-2009.07.09.17.53.46_C1 trigger _C_Section_{2 * trial}.avi"
    begin = 61.0 * trial * 90
    said = {
        "feltArsl": 1 + trial % 9,
        "feltVlnc": 1 + (trial + subject) % 9,
        "feltCtrl": 1 + (trial + 3) % 9,
        "feltPred": 9 - trial % 9,
        "feltEmo": (0, 4, 11, 12)[trial % 4],
        "isStim": 1,
        "mediaFile": f"{50 + trial}.avi",
        "cutLenSec": f"{clip_seconds(trial):.4f}",
        "vidRate": "60.97",
        "vidBeginSmp": begin,
        "vidEndSmp": begin + 60.97 * clip_seconds(trial),
    } | attributes
    tracks = [(face, 'type="Video" color="1"'), (bdf, 'type="Physiological"')] if named else []
    write_xml(folder, subject, tracks, **said)
    write_recording(folder / bdf, subject, trial)
    (folder / face.replace("_C1 trigger _C_", "_BW2_C_")).write_bytes(b"another camera")
    if video is not None:
        write_video(folder / face, clip_seconds(trial) + video)
    return folder


def write_neutral(root: Path, number: int, subject: int, trial: int) -> Path:
    """Write a session that nobody rated."""
    folder = root / "Sessions" / str(number)
    write_xml(folder, subject, isStim=0, mediaFile="colorbars_final.avi")
    (folder / f"Part_{subject}_N_Trial{trial}_emotion.bdf").write_bytes(b"not read")
    return folder


def write_tiny(root: Path) -> Path:
    """Two subjects with two rated sessions each, the first not in the order of their ids; neutral ones between."""
    for number, subject, trial in ((2, 1, 2), (4, 1, 1), (132, 2, 1), (134, 2, 2)):
        write_neutral(root, number - 1, subject, trial)
        write_session(root, number, subject, trial, video=None if number == 134 else 0.0)
    return root
