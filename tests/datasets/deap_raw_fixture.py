"""Small DEAP recordings in BDF, with the publisher's names, orders and traps; every value says where it belongs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .deap_fixture import HEADER, ratings, table

RATE = 16  # Hz; the publisher's is 512
GAP = 75  # s from one film's start to the next
FIRST = 10  # s before the first
_TWENTE = (
    "Fp1 AF3 F7 F3 FC1 FC5 T7 C3 CP1 CP5 P7 P3 Pz PO3 O1 Oz O2 PO4 P4 P8 CP6 CP2 C4 T8 FC6 FC2 F4 F8 AF4 Fp2 Fz Cz"
)
_GENEVA = (
    "Fp1 AF3 F3 F7 FC5 FC1 C3 T7 CP5 CP1 P3 P7 PO3 O1 Oz Pz Fp2 AF4 Fz F4 F8 FC6 FC2 Cz C4 T8 CP6 CP2 P4 P8 PO4 O2"
)
TWENTE, GENEVA = _TWENTE.split(), _GENEVA.split()
REST = [*(f"EXG{k}" for k in range(1, 9)), "GSR1", "GSR2", "Erg1", "Erg2", "Resp", "Plet", "Temp"]
STATE = 1703680  # what the events of s24-s32 are added to
GAIN = 524287 / 16777215  # what one step of a stored value is, with BioSemi's limits


def stimulus_names(participant: int) -> list[str]:
    """What the publisher's files call the channels after Temp."""
    if participant <= 23:
        return ["Status"]
    return [""] if participant <= 28 else ["", ""]


def planted(name: str, trial: int) -> float:
    """What a channel holds during a trial, at the second of the trial's start; a second later it is 1 more."""
    known = GENEVA + REST
    sign = -1 if name in ("EXG2", "EXG6") else 1
    return sign * (trial * 20_000.0 + known.index(name) * 100.0)


def write_bdf(
    path: Path, names: Sequence[str], values: np.ndarray, rate: int, units: Sequence[str], records: int | None = None
) -> Path:
    """Write whole numbers (channels, samples) as they are stored, one record a second, with BioSemi's limits."""
    count, length = values.shape
    seconds = length // rate
    limits = [(-8388608, 8388607) if u == "Boolean" else (-262144, 262143) for u in units]
    columns: list[tuple[int, list[object]]] = [
        (16, list(names)),
        (80, ["Active Electrode"] * count),
        (8, list(units)),
        (8, [low for low, _ in limits]),
        (8, [high for _, high in limits]),
        (8, [-8388608] * count),
        (8, [8388607] * count),
        (80, ["HP: DC; LP: 104 Hz"] * count),
        (8, [rate] * count),
        (32, ["Reserved"] * count),
    ]
    head = b"\xffBIOSEMI" + b"".ljust(160) + b"01.01.1010.00.00" + str(256 * (count + 1)).encode().ljust(8)
    head += b"24BIT".ljust(44) + str(seconds if records is None else records).encode().ljust(8) + b"1".ljust(8)
    head += str(count).encode().ljust(4)
    for width, fields in columns:
        head += b"".join(str(f).encode("latin-1").ljust(width) for f in fields)
    stored = values.reshape(count, seconds, rate).transpose(1, 0, 2).astype("<i4")  # (records, C, rate)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + np.ascontiguousarray(stored).view(np.uint8).reshape(-1, 4)[:, :3].tobytes())
    return path


def write_recording(
    root: Path,
    participant: int,
    trials: int,
    *,
    order: Sequence[str] | None = None,
    stimulus: Sequence[str] | None = None,
    starts: int | None = None,
    codes: bool = True,
    without: Sequence[str] = (),
    gsr: float | None = None,
    tail: int = 0,
) -> Path:
    """Write one participant's file; `starts` events instead of one a trial, `tail` seconds more after the last film."""
    electrodes = list(order) if order is not None else TWENTE if participant <= 22 else GENEVA
    names = [n for n in (*electrodes, *REST) if n not in without]
    extra = list(stimulus) if stimulus is not None else stimulus_names(participant)
    seconds = FIRST + GAP * (max(trials, starts or 0) - 1) + 66 + tail
    values = np.zeros((len(names) + len(extra), seconds * RATE), dtype=np.int64)
    time = np.arange(seconds * RATE) / RATE  # (S,)
    for t in range(1, trials + 1):
        begin = FIRST + GAP * (t - 1)
        near = (time >= begin - 5) & (time < begin + 63)
        for k, name in enumerate(names):
            value = planted(name, t) + (time[near] - begin)
            values[k, near] = np.round((value + 0.5) / GAIN - 0.5)  # the limits are not quite symmetric
    if gsr is not None:
        values[names.index("GSR1")] = round((gsr + 0.5) / GAIN - 0.5)
    state = STATE if participant >= 24 else 0
    for k in range(len(extra)):
        row = values[len(names) + k]
        row[:] = state
        if k < len(extra) - 1 or not codes:
            continue  # where two have no name, the last has the events
        for t in range(trials if starts is None else starts):
            begin = FIRST + GAP * t
            for code, at in ((1, begin - 8), (3, begin - 5), (4, begin), (5, begin + 60), (7, begin + 64)):
                row[at * RATE : at * RATE + 8] = state + code
    units = ["uV"] * len(names) + ["Boolean"] * len(extra)
    return write_bdf(root / "data_original" / f"s{participant:02d}.bdf", [*names, *extra], values, RATE, units)


def write_raw_study(root: Path, orders: dict[int, Sequence[int]], *, videos: bool = True) -> Path:
    """Write recordings, table and (empty) videos of participants; `orders` as in the preprocessed fixture."""
    (root / "metadata_csv").mkdir(parents=True)
    lines = [HEADER]
    for participant, order in orders.items():
        key = f"s{participant:02d}"
        write_recording(root, participant, len(order))
        labels = ratings(len(order), participant)
        for t, e in enumerate(order, start=1):
            values = ",".join(f"{v:g}" for v in labels[e - 1])
            lines.append(f"{participant},{t},{e},{(2 + GAP * t) * 10_000},{values},3")
            if videos and participant <= 22:
                folder = root / "face_video" / key
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{key}_trial{t:02d}.avi").write_bytes(b"not read here")
    table(root).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def write_tiny(root: Path) -> Path:
    """Write a study for tests of all loaders, with a participant of each site; its videos cannot be opened."""
    return write_raw_study(root / "study", {1: [2, 1, 3], 24: [3, 2, 1]})
