"""Scalp maps of windows, of classes and of the components that were taken out, drawn from the run's samples."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milmer.evaluation.samples_eeg import FEWEST_CHANNELS
from milmer.reports.reading import Run
from milmer.reports.words import count, number

HEAD = 0.095  # radius in metres that MNE draws
Array = NDArray[np.float64]
Row = dict[str, Any]


def scalp_maps(run: Run) -> Row:
    """Return the scalp maps of the example windows and of the classes, drawn.

    Returns
    -------
    dict
        ``examples`` (data URI or "" each), ``limit`` (dB, of their colours), ``classes`` (name, n, image),
        ``class_limit``, ``spread`` (dB, median standard deviation of a window), ``notes``; or ``fault``.
    """
    if run.samples is None or "eeg" not in run.config.data.modalities:
        return {"fault": run.store_fault}
    maps = run.samples.maps
    if maps.fault or not len(maps.classes):
        return {"fault": maps.fault or "There is no EEG to draw."}
    limit, class_limit = _limit(maps.examples), _limit(maps.classes)
    found: Row = {"limit": number(limit, 1), "class_limit": number(class_limit, 1), "fault": "", "notes": []}
    found["examples"] = [draw_maps(x, maps.positions, limit) for x in maps.examples]
    found["classes"] = [
        {"name": name, "n": count(int(n), "window"), "image": draw_maps(average, maps.positions, class_limit)}
        for name, n, average in zip(run.classes, maps.counts, maps.classes, strict=True)
    ]
    found["spread"] = number(maps.spread, 1)
    if maps.step > 1:
        found["notes"].append(f"Classes: every {maps.step}th of {count(maps.windows, 'window')}.")
    if maps.left_out:
        found["notes"].append(f"{count(maps.left_out, 'window')} without EEG of these channels left out.")
    return found


def removed_components(run: Run) -> list[Row]:
    """Return maps of the components that are taken out at read, for the first recordings that have some."""
    found: list[Row] = []
    for removed in run.samples.removed if run.samples else ():
        maps = [
            {
                "label": label,
                "score": number(score),
                "image": draw_maps(removed.maps[:, i : i + 1], removed.positions, 1.0),
                "number": n,
            }
            for i, (label, n, score) in enumerate(zip(removed.labels, removed.numbers, removed.scores, strict=True))
        ]
        found.append({"key": removed.key, "maps": maps, "more": f"and {removed.more} more" if removed.more else ""})
    return found


def preparation_table(run: Run) -> list[Row]:
    """Return what preparation did to each recording of the run, in words."""
    return [
        {
            "key": r["key"],
            "channels": r["channels"],
            "bad": ", ".join(r["bad"]) or "–",
            "masked": ", ".join(r["masked"]) or "–",
            "removed": ", ".join(f"{n} {k}" for k, n in r["removed"].items()) or "–",
            "left": ", ".join(f"{n} {k}" for k, n in r["left"].items()) or "–",
            "by": r["by"] or "–",
            "reason": r["reason"],
            "faces": _percent(r["faces"], r["frames"]),
            "notes": list(r["notes"]),
        }
        for r in (run.samples.preparation if run.samples else ())
    ]


def _percent(part: int, whole: int) -> str:
    """Write a share so that 100 % is said of all only, and 0 % of none only."""
    if not whole:
        return "–"
    digits = 1 if 0 < part < whole and not 0.01 <= part / whole <= 0.99 else 0
    return f"{min(100 * part / whole, 99.9) if part < whole else 100:.{digits}f} %"


def _limit(values: Array) -> float:
    """Return the end of a symmetrical colour scale; a few extreme electrodes may lie beyond it."""
    seen = np.abs(values[np.isfinite(values)])
    return max(float(np.quantile(seen, 0.98)), 0.1) if seen.size else 1.0


def _spans_a_plane(positions: Array) -> bool:
    """Whether electrodes seen from above are neither on one line nor on one spot."""
    flat = positions[:, :2] - positions[:, :2].mean(axis=0)  # (C, 2)
    return bool(np.linalg.svd(flat, compute_uv=False)[1] > 0.1)


def draw_maps(values: Array, positions: Array, limit: float) -> str:
    """Draw columns of `values` (C, k) as scalp maps side by side; a PNG as data URI, or "" where none can be drawn."""
    use = np.isfinite(values).all(axis=1) & np.isfinite(positions).all(axis=1)  # (C,)
    if use.sum() < FEWEST_CHANNELS or not _spans_a_plane(positions[use]):
        return ""
    import mne
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    k = values.shape[1]
    names = [str(i) for i in np.flatnonzero(use)]
    # Electrodes on one circle have no unique triangulation and MNE gives up: move each by less than a tenth of a mm.
    moved = positions[use] + 5e-4 * np.random.default_rng([0]).standard_normal((int(use.sum()), 3))  # (C', 3)
    places = dict(zip(names, moved * HEAD, strict=True))
    info = mne.create_info(names, 100.0, "eeg", verbose="error")
    info.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"), verbose="error")
    figure = Figure(figsize=(1.05 * k, 1.05), dpi=160)
    FigureCanvasAgg(figure)
    for i in range(k):
        axes = figure.add_axes((i / k + 0.03 / k, 0.02, 0.94 / k, 0.94))
        mne.viz.plot_topomap(
            values[use, i],
            info,
            axes=axes,
            show=False,
            cmap="RdBu_r",
            vlim=(-limit, limit),
            sphere=HEAD,
            contours=0,
            res=48,
            sensors="k.",
        )
        for line in axes.lines:
            line.set_linewidth(min(line.get_linewidth(), 0.9))
            line.set_markersize(min(line.get_markersize(), 1.2))
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=160, transparent=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
