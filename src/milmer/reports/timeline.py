"""A recording's answers over time: class probabilities, and under them the frames the model kept."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milmer.errors import UserError
from milmer.evaluation.samples_frames import blur

MOST_THUMBNAILS = 16
TICKS = (0.5, 1, 2, 3, 5, 10, 15, 30, 60, 120, 180, 300, 600, 900, 1800, 3600, 7200)  # s between marks
SIDE = 128  # pixels of a thumbnail
# Okabe and Ito's colours, told apart by colour-blind eyes, in an order whose neighbours differ in lightness.
COLOURS = ("#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#8A8F98")
INK, SOFT, LINE = "#1b2430", "#566072", "#b9c1cc"

Crop = tuple[float, float, NDArray[np.uint8] | None]  # (s from the recording's start, weight, RGB or None)


def write_timeline(
    table: pd.DataFrame,
    path: Path,
    classes: Sequence[str],
    crops: Mapping[int, Sequence[Crop]],
    title: str,
    *,
    show_faces: bool = False,
) -> Path:
    """Draw class probabilities per window over time, with the chosen frames and their weights under them.

    Parameters
    ----------
    table : DataFrame
        One row a window: ``start``, ``stop`` (s from the recording's start) and ``prob_<class>``; ``window`` where
        its number is not the row's. Rows with NaN probabilities (nothing to go by) are left open.
    path : Path
        PNG to write.
    classes : sequence of str
        Names in index order.
    crops : mapping of int to sequence of (time, weight, image)
        The frames kept of each window; `time` in s from the recording's start, `image` RGB uint8 of shape (H, W, 3) or
        None. Empty without video. Of more than 16 images, the heaviest of windows evenly spaced are shown.
    title : str
        Heading.
    show_faces : bool
        Show faces as they are instead of averaged beyond recognition.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    UserError
        If `table` is empty or lacks columns, or `path` cannot be written.
    """
    wanted = ["start", "stop", *(f"prob_{c}" for c in classes)]
    missing = [c for c in wanted if c not in table.columns]
    if missing or not len(table):
        what = f"no column {', '.join(missing)}" if missing else "no window"
        raise UserError(f"timeline: found {what}, expected {', '.join(wanted)} of one window or more")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    table = table.sort_values("start").reset_index(drop=True)
    chosen = [(float(t), float(w), i) for frames in crops.values() for t, w, i in frames if np.isfinite(w)]
    thumbnails = pick_thumbnails(table, crops)
    begin, end = float(table["start"].iloc[0]), float(table["stop"].max())
    heights = [2.5, 0.7, 1.25] if chosen else [2.5]
    rows = heights if thumbnails else heights[:2]
    inches = 1.25 + sum(rows) + 0.25 * (len(rows) - 1) + (0.15 if chosen else 0)
    figure = Figure(figsize=(11, inches), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(rows),
        1,
        height_ratios=rows,
        left=0.07,
        right=0.98,
        top=1 - 0.78 / inches,
        bottom=0.48 / inches,
        hspace=0.22,
    )
    top = figure.add_subplot(grid[0])
    _draw_probabilities(top, table, classes)
    panels = [top]
    if chosen:
        panels.append(figure.add_subplot(grid[1], sharex=top))
        _draw_weights(panels[1], chosen)
        panels[1].tick_params(labelbottom=False)
    for axes in panels:
        axes.set_xlim(begin, end)
        axes.tick_params(colors=SOFT, labelsize=9, length=3)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for spine in axes.spines.values():
            spine.set_color(LINE)
    step = next((s for s in TICKS if (end - begin) / s <= 11), end - begin)
    top.xaxis.set_major_locator(MultipleLocator(step))
    top.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _moment(x, end)))
    if thumbnails:
        strip = figure.add_subplot(grid[2])
        low = _draw_thumbnails(strip, panels[-1], thumbnails, begin, end, show_faces)
        strip.text(0.0, low - 0.14, _caption(thumbnails, chosen, show_faces), fontsize=9, color=SOFT, va="top")
    figure.text(0.07, 1 - 0.3 / inches, _safe(_fitted(title)), fontsize=13, fontweight="bold", color=INK, va="center")
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        figure.savefig(part, format="png", dpi=150)
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); give another --out") from error
    return path


def pick_thumbnails(table: pd.DataFrame, crops: Mapping[int, Sequence[Crop]]) -> list[Crop]:
    """Choose up to 16 frames that have an image, ascending in time: all, or the heaviest of windows evenly spaced."""
    numbers = table["window"] if "window" in table.columns else pd.Series(range(len(table)))
    frames = [[c for c in crops.get(int(n), ()) if c[2] is not None and np.isfinite(c[1])] for n in numbers]
    frames = [f for f in frames if f]
    if sum(map(len, frames)) > MOST_THUMBNAILS:
        n = min(MOST_THUMBNAILS, len(frames))
        evenly = np.round((np.arange(n) + 0.5) * len(frames) / n - 0.5).astype(int)  # (n,)
        each = MOST_THUMBNAILS // n
        frames = [sorted(frames[i], key=lambda c: -c[1])[:each] for i in evenly]
    return sorted((c for f in frames for c in f), key=lambda c: c[0])


def _draw_probabilities(axes: Any, table: pd.DataFrame, classes: Sequence[str]) -> None:
    prob = table[[f"prob_{c}" for c in classes]].to_numpy(dtype=np.float64)  # (n, classes)
    start, stop = table["start"].to_numpy(), table["stop"].to_numpy()  # (n,), (n,)
    stop = np.minimum(stop, np.append(start[1:], np.inf))  # overlapping windows hold until the next begins
    x = np.stack([start, stop], axis=1).ravel()  # (2n,)
    edges = np.concatenate([np.zeros((len(prob), 1)), prob.cumsum(axis=1)], axis=1)  # (n, classes + 1)
    steps = np.repeat(edges, 2, axis=0)  # (2n, classes + 1)
    gap = np.flatnonzero(start[1:] > stop[:-1] + 1e-6) * 2 + 2
    x, steps = np.insert(x, gap, np.nan), np.insert(steps, gap, np.nan, axis=0)
    for i, name in enumerate(classes):
        colour = COLOURS[i % len(COLOURS)]
        axes.fill_between(x, steps[:, i], steps[:, i + 1], color=colour, linewidth=0, label=_safe(name))
        axes.plot(x, steps[:, i + 1], color="white", linewidth=0.8 if len(table) < 200 else 0.3)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1])
    axes.set_ylabel("probability", fontsize=9, color=SOFT)
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=min(len(classes), 8),
        frameon=False,
        fontsize=9.5,
        handlelength=1.0,
        handleheight=1.0,
        columnspacing=1.4,
        borderaxespad=0.2,
    )


def _draw_weights(axes: Any, chosen: Sequence[tuple[float, float, Any]]) -> None:
    times, weights = np.array([c[0] for c in chosen]), np.array([c[1] for c in chosen])  # (n,), (n,)
    axes.vlines(times, 0, weights, color=INK, linewidth=1.6 if len(times) < 120 else 0.7)
    axes.set_ylim(0, max(float(weights.max()) * 1.1, 1e-6))
    axes.set_yticks([0, float(f"{weights.max():.1g}") or float(weights.max())])
    axes.set_ylabel("weight", fontsize=9, color=SOFT)


def _draw_thumbnails(
    axes: Any, above: Any, frames: Sequence[Crop], begin: float, end: float, show_faces: bool
) -> float:
    """Lay thumbnails side by side, each tied to its moment on the axis above; return where their weights end."""
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.axis("off")
    box = axes.get_window_extent()
    size = min(0.94 / len(frames), 0.62 * box.height / box.width)  # share of the width
    tall = size * box.width / box.height  # share of the height
    span = max(end - begin, 1e-9)
    lefts = _spread([(t - begin) / span - size / 2 for t, _, _ in frames], size * 1.06, size)
    top = 0.9
    axis = 1 + (above.get_window_extent().y0 - box.y1) / box.height  # the axis above, in heights of this panel
    for (time, weight, image), left in zip(frames, lefts, strict=True):
        if image is None:
            continue
        shown = np.asarray(image) if show_faces else blur(np.asarray(image), SIDE)  # (H, W, 3)
        axes.imshow(
            shown, extent=(left, left + size, top - tall, top), aspect="auto", interpolation="bilinear", zorder=2
        )
        at = (time - begin) / span
        line = axes.plot([at, at, left + size / 2], [axis, axis - 0.08, top + 0.01], color=SOFT, linewidth=0.7)[0]
        line.set_clip_on(False)
        axes.text(left + size / 2, top - tall - 0.03, f"{weight:.2f}", ha="center", va="top", fontsize=8.5, color=INK)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    return float(top - tall - 0.12)


def _moment(seconds: float, end: float) -> str:
    if end <= 120:
        return f"{seconds:g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if end < 3600 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _spread(lefts: Sequence[float], step: float, size: float) -> list[float]:
    """Move ascending places as little as needed so that neighbours are `step` apart within 0 to 1."""
    placed = []
    at = 0.0
    for left in lefts:
        at = max(left, at)
        placed.append(at)
        at += step
    most = 1.0 - size
    for i in range(len(placed) - 1, -1, -1):
        placed[i] = max(min(placed[i], most), 0.0)
        most = placed[i] - step
    return placed


def _caption(frames: Sequence[Crop], chosen: Sequence[Any], show_faces: bool) -> str:
    some = f" ({len(frames)} of {len(chosen)})" if len(chosen) > len(frames) else ""
    text = f"Frames the model kept{some}, with their attention weights: where it looked, not why."
    return text if show_faces else f"{text} Faces are averaged beyond recognition."


def _fitted(title: str, most: int = 92) -> str:
    """Cut the middle out of a heading that would leave the picture."""
    return title if len(title) <= most else f"{title[: most // 2]} … {title[-most // 2 :]}"


def _safe(text: str) -> str:
    """Keep matplotlib from reading mathematics into a file's name."""
    return text.replace("$", r"\$")
