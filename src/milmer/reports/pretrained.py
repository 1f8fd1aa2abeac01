"""What a pretrained backbone's folder shows of itself: a confusion matrix and a card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def write_pages(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``confusion.png`` and ``README.md`` into a pretrained backbone's folder.

    Parameters
    ----------
    folder : Path
        What ``milmer pretrain faces`` wrote.
    record : mapping
        What its ``milmer_pretrain.json`` holds.
    """
    tables = {part: np.array(table, dtype=np.int64) for part, table in record["confusion"].items()}  # (k, k) each
    write_confusion(folder / "confusion.png", tables, record["classes"])
    write_card(folder / "README.md", record)


def write_confusion(file: Path, tables: Mapping[str, Ints], classes: Sequence[str]) -> None:
    """Draw confusion tables side by side: shades by share of the true class, shares and counts as text.

    Parameters
    ----------
    file : Path
        PNG to write.
    tables : mapping of str to ndarray, shape (k, k)
        By part; rows are true classes.
    classes : sequence of str, length k
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    k = len(classes)
    side = max(3.6, 0.72 * k + 1.6)  # inches
    figure = Figure(figsize=(side * len(tables) + 0.4, side + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (part, table) in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables.items(), strict=True):
        of_class = table.sum(axis=1, keepdims=True)  # (k, 1)
        share = table / np.maximum(of_class, 1)  # (k, k)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row in range(k):
            for column in range(k):
                text = f"{share[row, column]:.0%}\n{table[row, column]}" if of_class[row, 0] else "–"
                colour = "white" if share[row, column] > 0.55 else "#222222"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
        axes.set_xticks(range(k), classes, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(k), [f"{c} ({n})" for c, n in zip(classes, of_class[:, 0], strict=True)])
        axes.set_xlabel("answer")
        axes.set_ylabel("true class (pictures)")
        axes.set_title(f"{part}: share of the true class, and count", fontsize=10)
        axes.tick_params(length=0)
    figure.savefig(file, dpi=120)


def figure_lines(record: Mapping[str, Any]) -> list[str]:
    """Return one line a part: its figures with interval and majority baseline.

    Parameters
    ----------
    record : mapping
        What ``milmer_pretrain.json`` holds.
    """
    lines = []
    for part in ("validation", "test"):
        rows = [f for f in record["figures"] if f["part"] == part]
        if rows:
            said = ", ".join(
                f"{f['name'].replace('_', ' ').replace('f1', 'F1')} {f['value']:.2f}"
                + ("" if f["low"] is None else f" [{f['low']:.2f}, {f['high']:.2f}]")
                + f" (commonest class: {f['majority']:.2f})"
                for f in rows
            )
            lines.append(f"{part}, {rows[0]['n']} pictures: {said}")
    return lines


def write_card(file: Path, record: Mapping[str, Any]) -> None:
    """Write a model card of a few lines; `record` is what ``milmer_pretrain.json`` holds."""
    settings = record["settings"]
    counts = ", ".join(f"{sum(n.values())} {part}" for part, n in record["pictures"].items() if sum(n.values()))
    lines = [
        "# A backbone pretrained on facial expressions",
        "",
        f"Start: `{settings['backbone']}`. Data: `{record['data']}`, {counts} pictures of {settings['px']} px. "
        f"Classes: {', '.join(record['classes'])}; {record['class_balance']}. "
        f"Epoch {record['best_epoch'] + 1} of {settings['epochs']}, seed {settings['seed']}.",
        "",
        f"Validation: {record['validation']}.",
        "The epoch was chosen on the validation pictures: their figures are somewhat too good; test figures are not.",
        "",
        *(f"* {line}" for line in figure_lines(record)),
        "",
        "Intervals are 95 % jackknife intervals. `confusion.png` shows what is taken for what.",
        "",
        "    milmer evaluate STORE --backbone THIS_FOLDER --out RUN",
        "    transformers.SwinModel.from_pretrained(THIS_FOLDER)",
        "",
        "The classifier used in pretraining is not kept. The licence of the start and of the data hold here too.",
        "",
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
