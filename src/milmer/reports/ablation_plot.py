"""An ablation as a picture: accuracy of each cell with its interval, and its difference from the reference."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

from milmer.evaluation.ablations.results import Ablation
from milmer.evaluation.protocols import LEAKY, display_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, SOFT, LINE, BLUE, BAND = "#1b2430", "#566072", "#dfe4ea", "#0b5fa5", "#d5dae1"
OFFSETS = {"window": -0.14, "trial": 0.14}  # windows above trials within a cell's row
WORDS = {"window": "windows", "trial": "trials, windows averaged"}


def draw(ablation: Ablation, figure_name: str = "accuracy") -> bytes:
    """Draw the cells that were run; PNG, or nothing where none was.

    The paper's figures are not in the picture: they are of another, leaky protocol.

    Parameters
    ----------
    ablation : Ablation
        What came out.
    figure_name : {'accuracy', 'balanced_accuracy', 'macro_f1'}
        Which figure.
    """
    rows = ablation.done
    if not rows:
        return b""
    from matplotlib.artist import Artist
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    inches = 1.9 + 0.42 * len(rows)
    compared = any(r[f"{figure_name}_{lv}_difference"] is not None for r in rows for lv in OFFSETS)
    figure = Figure(figsize=(9.6, inches), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        1, 2, width_ratios=(3, 2), left=0.19, right=0.985, top=1 - 0.62 / inches, bottom=1.03 / inches, wspace=0.06
    )
    left = figure.add_subplot(grid[0])
    word = figure_name.replace("_", " ").replace("f1", "F1")
    leaky = "\n(leaky protocol)" if ablation.protocol in LEAKY else ""
    many = len(ablation.seeds) > 1
    for place, row in enumerate(rows):
        for level in OFFSETS:
            _point(left, row, f"{figure_name}_{level}", place, level, many)
    reference = next((r for r in rows if r["cell"] == ablation.reference), None)
    if reference is not None:
        left.axvline(reference[f"{figure_name}_window"], color=BLUE, lw=0.9, ls=(0, (4, 3)), zorder=1)
    left.set_xlabel(f"{word}{leaky}", color=SOFT, fontsize=9.5)
    left.set_yticks(range(len(rows)), [_name(r, ablation) for r in rows], fontsize=9.5)
    _dress(left, len(rows))
    if compared:
        right = figure.add_subplot(grid[1])
        for place, row in enumerate(rows):
            for level in OFFSETS:
                _gap(right, row, f"{figure_name}_{level}", place, level)
        right.axvline(0, color=INK, lw=0.9, zorder=1)
        right.set_xlabel(f"difference from {ablation.reference}{leaky}", color=SOFT, fontsize=9.5)
        right.set_yticks([])
        _dress(right, len(rows))
        right.xaxis.set_major_locator(MaxNLocator(5))
    handles: list[Artist] = [
        Line2D([], [], color=BLUE, marker="o", ms=5.5, lw=1.6, mfc=BLUE if lv == "window" else "white", label=WORDS[lv])
        for lv in OFFSETS
    ]
    handles.append(Patch(color=BAND, label="chance, mean to one-in-twenty limit"))
    if reference is not None:
        handles.append(Line2D([], [], color=BLUE, lw=0.9, ls=(0, (4, 3)), label="reference, windows"))
    if many:
        handles.append(Line2D([], [], color=SOFT, marker="|", ms=6, lw=0, label="least and most seed"))
    figure.legend(
        handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=8.5, labelcolor=SOFT,
        handletextpad=0.5, columnspacing=1.4, bbox_to_anchor=(0.5, 0.0),
    )  # fmt: skip
    seeds = f"{len(ablation.seeds)} seeds" if many else "one seed"
    level = f"{100 * ablation.config.evaluation.confidence:g} % intervals"
    title = f"{ablation.study}: {ablation.kind}, protocol {display_name(ablation.protocol)}, {seeds}, {level}"
    shown = title.replace("$", r"\$")  # a study's name is no mathematics
    figure.text(0.015, 1 - 0.28 / inches, shown, fontsize=11.5, fontweight="bold", color=INK, va="center")
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()


def _name(row: Mapping[str, Any], ablation: Ablation) -> str:
    return str(row["cell"]) + (" (ref.)" if row["cell"] == ablation.reference else "")


def _point(axes: Axes, row: Mapping[str, Any], key: str, place: int, level: str, many: bool) -> None:
    at = place + OFFSETS[level]
    chance, limit = row[f"{key}_chance"], row[f"{key}_chance_high"]
    if chance is not None:
        axes.barh(at, limit - chance, left=chance, height=0.24, color=BAND, zorder=0)
    _mark(axes, row[key], row[f"{key}_low"], row[f"{key}_high"], at, level)
    if many:
        ends = [row[f"{key}_min"], row[f"{key}_max"]]
        axes.plot(ends, [at, at], ls="none", marker="|", ms=7, color=SOFT, zorder=4)


def _gap(axes: Axes, row: Mapping[str, Any], key: str, place: int, level: str) -> None:
    value = row[f"{key}_difference"]
    if value is not None:
        low, high = row[f"{key}_difference_low"], row[f"{key}_difference_high"]
        _mark(axes, value, low, high, place + OFFSETS[level], level)


def _mark(axes: Axes, value: float, low: float | None, high: float | None, at: float, level: str) -> None:
    if low is not None and high is not None:
        axes.plot([low, high], [at, at], color=BLUE, lw=1.6, solid_capstyle="butt", zorder=2)
    axes.plot([value], [at], marker="o", ms=5.5, color=BLUE, mfc=BLUE if level == "window" else "white", zorder=3)


def _dress(axes: Axes, rows: int) -> None:
    axes.use_sticky_edges = False
    axes.autoscale(axis="x")
    axes.set_ylim(rows - 0.5, -0.5)
    axes.grid(axis="x", color=LINE, lw=0.7, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(colors=SOFT, labelsize=9, length=0)
    for label in axes.get_yticklabels():
        label.set_color(INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.axhline(rows - 0.5, color=LINE, lw=1.2)
