"""Pictures of the quality page: a table of trials as cells, a histogram of ratings, spectra before and after."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MISSING = "#fff"
SEEN = ("#f3ede4", "#0b5fa5")  # from nothing to everything; readable in print and for the colour-blind
DEEPEST = 50.0  # dB below the highest line: what filters took away lies deeper and is not drawn


def cells(rows: Sequence[tuple[str, Sequence[float], Sequence[str]]], low: float, high: float, says: str) -> Markup:
    """Draw one cell a trial, a row a recording; a missing value is an empty, dashed cell.

    Parameters
    ----------
    rows : sequence of (name, values, words)
        ``values`` is one a trial, NaN where there is none; ``words`` say each when pointed at.
    low, high : float
        Ends of the colours.
    says : str
        What the picture is, for who cannot see it.
    """
    most = max((len(values) for _, values, _ in rows), default=0)
    if not most:
        return Markup("")
    left, size = 86, 15
    wide = left + most * size + 4
    high_px = len(rows) * size + 20
    parts = [f'<svg class="cells" viewBox="0 0 {wide} {high_px}" style="max-width:{wide}px" role="img">']
    parts.append(f"<title>{escape(says)}</title>")
    for n, (name, values, words) in enumerate(rows):
        y = n * size
        parts.append(f'<text x="{left - 6}" y="{y + 11}" class="end">{escape(_short(name))}</text>')
        for k, (value, word) in enumerate(zip(values, words, strict=True)):
            x = left + k * size
            fill = MISSING if not np.isfinite(value) else _colour((value - low) / max(high - low, 1e-30))
            dash = ' stroke="#b9c1cc" stroke-dasharray="2 2"' if not np.isfinite(value) else ""
            box = f'<rect x="{x}" y="{y + 1}" width="{size - 2}" height="{size - 2}" fill="{fill}"{dash}>'
            parts.append(f"{box}<title>{escape(word)}</title></rect>")
    step = 1 if most <= 12 else 5
    for k in range(0, most):
        if k == 0 or (k + 1) % step == 0:
            middle = left + k * size + (size - 2) / 2
            parts.append(f'<text x="{middle:g}" y="{len(rows) * size + 13}" class="mid">{k + 1}</text>')
    return Markup("".join(parts) + "</svg>")


def matrix(values: Floats, low: float, high: float) -> str:
    """Draw a matrix as a small picture, one pixel a value; a PNG as data URI.

    Parameters
    ----------
    values : ndarray, shape (R, C)
        Not finite is white.
    low, high : float
        Ends of the colours.
    """
    from PIL import Image

    share = np.clip((values - low) / max(high - low, 1e-30), 0.0, 1.0)  # (R, C)
    ends = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in SEEN], dtype=np.float64)  # (2, 3)
    colours = ends[0] + np.nan_to_num(share)[..., None] * (ends[1] - ends[0])  # (R, C, 3)
    colours[~np.isfinite(share)] = 255
    buffer = BytesIO()
    Image.fromarray(np.round(colours).astype(np.uint8)).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def histogram(values: Floats, low: float, high: float, cuts: Sequence[float], says: str) -> Markup:
    """Draw how often each rating was given; a dashed line at each threshold.

    Whole numbers have a bin each, others nine bins of the range.

    Parameters
    ----------
    values : ndarray, shape (n,)
        Ratings; what is not finite is left out.
    low, high : float
        Ends of the rating's range.
    cuts : sequence of float
        Where ratings become low and high; empty where they do not.
    """
    seen = values[np.isfinite(values)]
    whole = bool(np.all(seen == np.round(seen))) and high - low <= 20
    first, last, bins = (low - 0.5, high + 0.5, round(high - low) + 1) if whole else (low, high, 9)
    counts, edges = np.histogram(np.clip(seen, low, high), bins=bins, range=(first, last))
    wide, high_px, floor = 260, 110, 88
    most = max(int(counts.max()), 1)
    parts = [f'<svg viewBox="0 0 {wide} {high_px}" role="img"><title>{escape(says)}</title>']
    step = (wide - 8) / len(counts)
    for k, n in enumerate(counts.tolist()):
        tall = (floor - 16) * n / most
        x = 4 + k * step
        bar = f'<rect x="{x + 1:.1f}" y="{floor - tall:.1f}" width="{step - 2:.1f}" height="{tall:.1f}" fill="#a9b3c0">'
        said = f"{(edges[k] + edges[k + 1]) / 2:g}" if whole else f"{edges[k]:.2g} to {edges[k + 1]:.2g}"
        parts.append(f"{bar}<title>{said}: {n}</title></rect>")
        if n:
            parts.append(f'<text x="{x + step / 2:.1f}" y="{floor - tall - 3:.1f}" class="mid">{n}</text>')
    parts.append(f'<line class="grid" x1="4" x2="{wide - 4}" y1="{floor}" y2="{floor}"/>')
    for cut in sorted(set(cuts)):
        x = 4 + (wide - 8) * (cut - first) / (last - first)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="6" y2="{floor}" stroke="#b8430a" stroke-dasharray="3 3"/>')
    for value, place in ((low, "start"), ((low + high) / 2, "middle"), (high, "end")):
        x = 4 + (wide - 8) * (value - first) / (last - first)
        parts.append(
            f'<text x="{x:.1f}" y="{floor + 15}" style="text-anchor:{"middle" if whole else place}">{value:g}</text>'
        )
    return Markup("".join(parts) + "</svg>")


def spectra(freqs: Floats, lines: Sequence[tuple[str, Floats]], says: str) -> Markup:
    """Draw power spectra in decibels over frequency.

    Parameters
    ----------
    freqs : ndarray, shape (F,)
        Hz.
    lines : sequence of (class of the line, ndarray of shape (F,))
        dB; drawn in their order.
    """
    if not lines or len(freqs) < 2:
        return Markup("")
    wide, high_px, left, floor = 340, 170, 34, 142
    every = np.concatenate([y for _, y in lines])  # (n * F,)
    every = every[np.isfinite(every)]
    if not every.size:
        return Markup("")
    low, high = 10 * np.floor(every.min() / 10), 10 * np.ceil(every.max() / 10 + 1e-9)
    high = max(high, low + 10)
    low = max(low, high - DEEPEST)
    parts = [f'<svg class="spectra" viewBox="0 0 {wide} {high_px}" role="img"><title>{escape(says)}</title>']
    for value in np.arange(low, high + 1, 10 if high - low <= 50 else 20):
        y = floor - (floor - 8) * (value - low) / (high - low)
        parts.append(f'<line class="grid" x1="{left}" x2="{wide}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 5}" y="{y + 4:.1f}" class="end">{_signed(float(value))}</text>')
    for value in np.arange(0, freqs[-1] + 1, 10):
        x = left + (wide - left - 4) * value / freqs[-1]
        last = value + 10 > freqs[-1]
        kind, text = ("end", f"{value:g} Hz") if last else ("mid", f"{value:g}")
        parts.append(f'<text x="{x:.1f}" y="{floor + 15}" class="{kind}">{text}</text>')
    for kind, y_db in lines:
        x_px = left + (wide - left - 4) * freqs / freqs[-1]  # (F,)
        y_px = floor - (floor - 8) * (np.maximum(y_db, low) - low) / (high - low)  # (F,)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x_px, y_px, strict=True) if np.isfinite(b))
        parts.append(f'<polyline class="{escape(kind)}" points="{points}"/>')
    return Markup("".join(parts) + "</svg>")


def _signed(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _short(name: str, most: int = 12) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _colour(share: float) -> str:
    at = float(np.clip(share, 0.0, 1.0))
    ends = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in SEEN]
    return "#" + "".join(f"{round(a + at * (b - a)):02x}" for a, b in zip(*ends, strict=True))
