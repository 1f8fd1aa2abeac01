"""A comparison as pictures: average ranks, figures of every unit, and differences unit by unit."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from milmer.evaluation.comparison import Comparison
from milmer.evaluation.metrics import LESS_IS_BETTER
from milmer.evaluation.paired import Floats
from milmer.evaluation.protocols import LEAKY, display_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, LINE, BLUE, RED, BAND = "#1b2430", "#566072", "#dfe4ea", "#0b5fa5", "#b8430a", "#d5dae1"
NAMED_UNITS = 45  # more names than that cannot be read
INFLATION = "inflation between protocols, not a comparison of models"


def shorten(name: str, most: int = 30) -> str:
    """Cut the middle out of a long name: both ends tell runs apart."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most - most // 2) :]}"


def figure_word(name: str) -> str:
    """Write a figure's name as words: ``macro-F1``, ``log-loss``."""
    special = {"macro_f1": "macro-F1", "log_loss": "log-loss", "cohen_kappa": "Cohen’s κ", "brier": "Brier score"}
    return special.get(name, name.replace("_", " "))


def pictures(result: Comparison) -> dict[str, Figure]:
    """Return the pictures by name: ``ranks`` (from three runs), ``units``, ``differences`` (of two runs)."""
    if len(result.runs) == 2:
        return {"differences": _differences(result)}
    return {"ranks": _ranks(result), "units": _units(result)}


def render(figure: Figure, kind: str) -> bytes:
    """Return a picture as ``png`` or ``svg``."""
    buffer = BytesIO()
    figure.savefig(buffer, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def caption(result: Comparison) -> str:
    """Say in one line what every picture must say: figure, units, and what was left out."""
    parts = [f"{figure_word(result.figure)} of {len(result.units)} {result.unit}s"]
    rules = {(run.protocol, run.budget) for run in result.runs}
    if len(rules) == 1:
        protocol, budget = rules.pop()
        parts += [f"protocol {display_name(protocol)}" + (f", budget {budget}" if budget != "none" else "")]
    parts += [f"by {result.level}"] if result.level == "window" else []
    parts += [result.shared] if result.shared else []
    parts += [INFLATION] if result.across else []
    return "; ".join(parts)


def _ranks(result: Comparison) -> Figure:
    """Draw average ranks on a line; a bar joins neighbours of which no two are separated by the corrected test."""
    k = len(result.runs)
    order = np.argsort(result.ranks, kind="stable").tolist()
    half = (k + 1) // 2
    bars = len(result.groups)
    rows = 0.5 * bars + 0.6  # from the axis to the first name, in rows
    height = 1.75 + 0.3 * (rows + half)
    figure, axes = _canvas(8.6, height)
    axes.set_position((0.02, 0.02, 0.96, 1 - (1.05 + 0.02 * height) / height))
    width = max(k - 1.0, 1.0)
    side = 0.66 * width  # room for the names on either side of the ranks
    axes.set_xlim(1 - side, k + side)
    axes.set_ylim(rows + half + 0.1, -0.9)
    axes.plot([1, k], [0, 0], color=INK, lw=1.2, solid_capstyle="butt")
    for tick in range(1, k + 1):
        axes.plot([tick, tick], [-0.18, 0], color=INK, lw=1.0)
        axes.text(tick, -0.3, str(tick), ha="center", va="bottom", fontsize=9, color=SOFT)
    axes.text(1 - 0.04 * width, -0.3, "best", ha="right", va="bottom", fontsize=9, color=SOFT, style="italic")
    for number, group in enumerate(result.groups):
        at = 0.4 + 0.5 * number
        ends = [float(result.ranks[group[0]]) - 0.008 * width, float(result.ranks[group[-1]]) + 0.008 * width]
        axes.plot(ends, [at, at], color=BLUE, lw=4.5, solid_capstyle="butt", zorder=3)
    for place, run in enumerate(order):
        left = place < half
        row = rows + (place if left else k - 1 - place) + 0.2
        edge = 1 - 0.06 * width if left else k + 0.06 * width
        rank = float(result.ranks[run])
        axes.plot([rank, rank, edge], [0, row, row], color=SOFT, lw=0.8, zorder=1)
        axes.plot([rank], [0], marker="o", ms=4.5, color=INK, zorder=4)
        text = _plain(f"{run + 1}  {_label(result, run, 24)}")
        value = f"{rank:.2f}; {_number(result.runs[run].mean(result.figure), result.figure)}"
        around = {"ha": "right" if left else "left", "va": "center"}
        place_x = edge + (-0.015 if left else 0.015) * width
        axes.text(place_x, row - 0.17, text, fontsize=9.5, color=INK, **around)  # type: ignore[arg-type]  # ha, va
        axes.text(place_x, row + 0.27, value, fontsize=7.5, color=SOFT, **around)  # type: ignore[arg-type]  # ha, va
    axes.axis("off")
    joins = "A bar joins neighbours of which no two are separated" if bars else "All neighbours are separated"
    tests = "t for new stimuli" if result.for_new else "sign-flip tests"
    verdict = f"{joins} ({tests}, Holm, {100 * result.alpha:g} %)" if result.judged else "Not judged for new stimuli"
    under = f"{verdict}. Small: average rank; mean {_mean_of(result)}."
    _title(figure, height, "Average ranks, 1 is best", caption(result), under)
    return figure


def _units(result: Comparison) -> Figure:
    """Draw every unit's figure under each run, and the mean."""
    k = len(result.runs)
    height = 1.55 + 0.36 * k
    figure, axes = _canvas(8.6, height)
    axes.set_position((0.31, 0.42 / height, 0.66, 1 - 1.3 / height))
    for row, run in enumerate(result.runs):
        values = run.values[result.figure]
        axes.plot(values, np.full(values.size, row), ls="none", marker="o", ms=5, color=SOFT, alpha=0.4, mew=0)
        axes.plot([run.mean(result.figure)] * 2, [row - 0.32, row + 0.32], color=BLUE, lw=2.4, solid_capstyle="butt")
    names = [_plain(f"{n + 1}  {_label(result, n, 28)}") for n in range(k)]
    axes.set_yticks(range(k), names, fontsize=9.5)
    axes.set_ylim(k - 0.5, -0.5)
    _dress(axes)
    under = f"A dot is a {result.unit}, the blue line their mean. Dots are paired between runs: differences count."
    _title(figure, height, f"{_capital(result.figure)} of every {result.unit}", caption(result), under)
    return figure


def _differences(result: Comparison) -> Figure:
    """Draw two runs: a line a unit from the one to the other, and the differences in order of size."""
    pair = result.main[0]
    a, b = (result.runs[i].values[result.figure] for i in (pair.first, pair.second))
    known = np.isfinite(a) & np.isfinite(b)
    units = [u for u, ok in zip(result.units, known.tolist(), strict=True) if ok]
    a, b = a[known], b[known]  # (n,), (n,)
    n = len(units)
    named = n <= NAMED_UNITS
    rows = n if named else 16
    height = 2.2 + max(0.2 * rows, 1.6)
    figure, right = _canvas(8.6, height)
    bottom, top = 0.62 / height, 1 - 1.0 / height
    slope = result.unit == "subject"
    right.set_position((0.53 if slope else 0.12, bottom, 0.44 if slope else 0.84, top - bottom))
    if slope:
        _slope(figure.add_axes((0.075, bottom, 0.33, top - bottom)), result, a, b)
    _sorted(right, result, a - b, units, named)
    word = "Inflation between protocols" if result.across else f"{_capital(result.figure)} of two runs"
    better = "lower is better" if result.figure in LESS_IS_BETTER else "higher is better"
    first, second = (f"{i + 1} is {_label(result, i, 38)}" for i in (pair.first, pair.second))
    names = _plain(f"{first}, {second}{'' if result.across else f'; {better}'}.")
    _title(figure, height, word, caption(result), names)
    return figure


def _slope(axes: Axes, result: Comparison, a: Floats, b: Floats) -> None:
    sign = -1 if result.figure in LESS_IS_BETTER else 1
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        color = BLUE if sign * (x - y) > 0 else RED if sign * (x - y) < 0 else SOFT
        axes.plot([0, 1], [x, y], color=color, lw=1.1, alpha=0.65, marker="o", ms=4, mew=0)
    axes.plot([0, 1], [a.mean(), b.mean()], color=INK, lw=2.6, marker="o", ms=7, zorder=5)
    first, second = result.main[0].first + 1, result.main[0].second + 1
    axes.set_xticks([0, 1], [str(first), str(second)], fontsize=10.5)
    axes.set_xlim(-0.18, 1.18)
    axes.set_xlabel(f"black: mean; blue: {first} is ahead", color=SOFT, fontsize=8.5)
    axes.set_ylabel(figure_word(result.figure), color=SOFT, fontsize=9)
    _dress(axes, "y")


def _sorted(axes: Axes, result: Comparison, d: Floats, units: list[str], named: bool) -> None:
    order = np.argsort(-d, kind="stable")  # (n,)
    sign = -1 if result.figure in LESS_IS_BETTER else 1
    colors = [BLUE if sign * v > 0 else RED if sign * v < 0 else SOFT for v in d[order].tolist()]
    axes.axvline(0, color=INK, lw=0.9, zorder=1)
    axes.scatter(d[order], np.arange(d.size), s=26 if named else 8, c=colors, zorder=3, linewidths=0)
    found = result.main[0].result
    at = d.size * 1.02 + 0.6
    if np.isfinite(found.low):
        axes.axvspan(found.low, found.high, color=BAND, alpha=0.6, lw=0, zorder=0)
        axes.plot([found.low, found.high], [at, at], color=INK, lw=2, solid_capstyle="butt")
    axes.plot([found.difference], [at], marker="D", ms=6.5, color=INK)
    ticks = [*(range(d.size) if named else []), at]
    labels = [*([_plain(shorten(units[i], 14)) for i in order] if named else []), "mean"]
    new = result.main[0].new
    if new is not None and np.isfinite(new.difference):
        at += 0.06 * d.size + 0.6
        axes.plot([new.low, new.high], [at, at], color=SOFT, lw=2, solid_capstyle="butt")
        axes.plot([new.difference], [at], marker="D", ms=6.5, color=SOFT)
        ticks, labels = [*ticks, at], [*labels, "new stimuli"]
    axes.set_yticks(ticks, labels, fontsize=8.5)
    axes.set_ylim(at + 0.03 * d.size + 0.6, -0.03 * d.size - 0.6)
    interval = f"; band: {100 * result.confidence:g} % interval of the mean" if np.isfinite(found.low) else ""
    head = "inflation" if result.main[0].inflation else "difference"
    axes.set_xlabel(
        f"{head}, {result.main[0].first + 1} less {result.main[0].second + 1}{interval}", color=SOFT, fontsize=8.5
    )
    _dress(axes)


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.add_axes((0.1, 0.1, 0.8, 0.8))


def _title(figure: Figure, height: float, title: str, first: str, second: str) -> None:
    for text, inches, size, color, weight in (
        (title, 0.24, 12.0, INK, "bold"),
        (first, 0.50, 9.0, SOFT, "normal"),
        (second, 0.72, 9.0, SOFT, "normal"),
    ):
        size *= min(1.0, 112 / max(len(text), 1))  # a long line is smaller, not cut off
        figure.text(0.02, 1 - inches / height, text, fontsize=size, color=color, fontweight=weight, va="center")


def _dress(axes: Axes, grid: str = "x") -> None:
    axes.grid(axis="x" if grid == "x" else "y", color=LINE, lw=0.7, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(colors=SOFT, length=0)
    for label in (*axes.get_yticklabels(), *axes.get_xticklabels()):
        label.set_color(INK)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _number(value: float, figure: str) -> str:
    return f"{value:.{3 if figure in LESS_IS_BETTER else 2}f}".replace("-", "−")


def _mean_of(result: Comparison) -> str:
    return f"{figure_word(result.figure)}{' (lower is better)' if result.figure in LESS_IS_BETTER else ''}"


def _capital(figure: str) -> str:
    word = figure_word(figure)
    return word[0].upper() + word[1:]


def _label(result: Comparison, run: int, most: int) -> str:
    """Name a run; a leaky protocol is called leaky beside honest ones."""
    leaky = " (leaky)" if result.across and result.runs[run].protocol in LEAKY else ""
    return shorten(result.runs[run].name, most - len(leaky)) + leaky


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # a run's name is no mathematics
