"""Numbers and sentences of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from milmer.evaluation.chance import ALPHA, differs
from milmer.evaluation.probes import SIGNALS
from milmer.reports.reading import Run

MISSING = "not available"
INPUTS = {**SIGNALS, "face": "face video", "emg": "muscles", "eog": "eyes"}

# Name, digits, one line that says what it is; higher is better but for the last three.
FIGURES = {
    "accuracy": ("Accuracy", 2, "share of right answers; flatters where one class is common"),
    "balanced_accuracy": ("Balanced accuracy", 2, "mean of the classes' recalls"),
    "macro_f1": ("Macro-F1", 2, "mean of the classes' F1; an ignored class counts as 0"),
    "cohen_kappa": ("Cohen’s κ", 2, "agreement beyond that of the class frequencies; 0 is none"),
    "mcc": ("MCC", 2, "correlation of truth and answer; 0 is none"),
    "auroc": ("AUROC", 2, "chance that a member of a class is ranked above a non-member; 0.5 is none"),
    "log_loss": ("Log-loss", 3, "surprise at the truth in nats; lower is better"),
    "brier": ("Brier score", 3, "squared error of the probabilities; lower is better"),
    "ece": ("Calibration error", 3, "gap between confidence and hits (ECE, 15 bins); lower is better"),
}
RATINGS = {
    "ccc": ("CCC", 2, "agreement of expected and given rating: correlation, less what scale and shift cost"),
    "pearson": ("Pearson’s\u00a0r", 2, "correlation of expected and given rating"),
    "rmse": ("RMSE", 2, "root of the mean squared error, in points of the scale; lower is better"),
}
LOWER_IS_BETTER = ("log_loss", "brier", "ece", "rmse")

# What training and test may share, as people say it.
KIND_WORDS = {
    "time": "seconds of a trial",
    "trial": "trials",
    "recording": "recordings",
    "subject": "subjects",
    "stimulus": "stimuli",
    "study": "studies",
}

PROTOCOLS = {
    "trial": (
        "Whole trials are held out. Every window of a trial is in one part only; the model has seen other trials of "
        "the same subjects, and others with the same stimulus. The figures speak for new trials of known subjects."
    ),
    "subject": (
        "Whole subjects are held out: nothing of a test subject was in training. Others watched the same stimuli, "
        "so a label that goes with the stimulus can still be learnt from it. The figures speak for new subjects."
    ),
    "stimulus": (
        "Whole stimuli are held out, over all subjects and sessions: no stimulus of the test was in training. The "
        "model has seen other trials of the same subjects. The figures speak for new stimuli, shown to known subjects."
    ),
    "subject-and-stimulus": (
        "Whole subjects and whole stimuli are held out together: neither the person nor the stimulus of a test trial "
        "was in training. The figures speak for new subjects who are shown new stimuli."
    ),
    "cross-study": (
        "Whole studies are held out: the model was fitted on other people, recorded elsewhere. The figures speak for "
        "another laboratory."
    ),
    "window": (
        "Windows are dealt out at random, so windows of one and the same trial are in training and in the test. What "
        "is measured is largely whether the model recognises the trial. For comparison only."
    ),
}
HELD_OUT = {
    "trial": "windows of held-out trials",
    "subject": "windows of held-out subjects",
    "stimulus": "windows of held-out stimuli",
    "subject-and-stimulus": "windows of held-out subjects with held-out stimuli",
    "cross-study": "windows of held-out studies",
    "window": "held-out windows of trials that were trained on",
}


def level_words(run: Run) -> dict[str, str]:
    """Name the levels as the heads of columns."""
    w = run.config.data.windows_per_bag
    return {"window": "Windows" if w == 1 else f"Bags of {w} windows", "trial": "Trials"}


def bags(run: Run, n: int) -> str:
    """Say how many rows there are and what each is."""
    w, seconds = run.config.data.windows_per_bag, f"{run.config.data.window:g} s"
    if w == "trial":
        return f"each given whole, as one bag of windows of {seconds}"
    return count(n, "window") + f" of {seconds}" if w == 1 else count(n, "bag") + f" of {w} windows of {seconds}"


def number(value: Any, digits: int = 2) -> str:
    """Write a number with a true minus sign; what is missing or undefined becomes an en dash."""
    if value is None or not np.isfinite(float(value)):
        return "–"
    text = f"{float(value):.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")  # no "-0.00"
    return text.replace("-", "−")


def interval(row: Mapping[str, Any] | None, digits: int = 2) -> str:
    """Write ``[0.60, 0.73]``, or nothing where there is no interval."""
    if row is None or row.get("low") is None or row.get("high") is None:
        return ""
    return f"[{number(row['low'], digits)}, {number(row['high'], digits)}]"


def p_words(p: float | None) -> str:
    """Write ``p = 0.012``."""
    if p is None:
        return "p not available"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def count(n: int, singular: str) -> str:
    """Write ``1 fold``, ``1 280 trials``."""
    return f"{n:,}".replace(",", " ") + f" {singular}{'' if n == 1 else 's'}"


def duration(seconds: float | None) -> str:
    """Write ``3 min 20 s``."""
    if seconds is None:
        return MISSING
    whole = round(float(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def clock(seconds: float) -> str:
    """Write a time within a trial: ``12 s``, ``1:03``, ``4.5 s``."""
    if seconds >= 60:
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
    return f"{seconds:.1f}".removesuffix(".0") + " s"


def headline(run: Run) -> list[str]:
    """Return what came out, in plain sentences."""
    row, level = main_row(run)
    if row is None:
        return ["Macro-F1 is not available: this run’s metrics.json has no such figure."]
    where = HELD_OUT.get(run.protocol, "held-out windows") if run.part == "test" else "windows of the validation part"
    if run.row_word == "trial" or level == "trial":
        where = where.replace("windows of held-out trials", "held-out trials").replace("windows", "whole trials", 1)
    elif run.row_word == "bag":
        where = where.replace("windows", "bags of windows", 1)
    if run.leaky:
        where += " (leaky)"
    first = f"Macro-F1 {number(row['value'])} {interval(row)}".rstrip() + f" on {where}"
    beside = []
    if row.get("chance") is not None:
        beside.append(f"chance {number(row['chance'])}")
    if row.get("majority") is not None:
        beside.append(f"always answering the commonest class {number(row['majority'])}")
    sentences = [first + (f"; {', '.join(beside)}." if beside else ".")]
    sentences.append(_against_chance(row))
    window = run.metric("macro_f1", run.levels[0])
    if level != run.levels[0] and window is not None:
        how = f" ({window['chance_how']})" if window.get("chance_how") else ""
        sentences.append(
            f"Over {run.rows_word} it is {number(window['value'])} {interval(window)}".rstrip()
            + f"; whether that is above chance is not known{how}."
        )
    trial = run.metric("macro_f1", "trial")
    if trial is not None and level != "trial":
        text = f"With a trial’s windows averaged: {number(trial['value'])} {interval(trial)}".rstrip()
        said = {"above": "above chance, ", "not above": "not above chance, ", "unknown": ""}[verdict(trial)]
        sentences.append(f"{text} over {count(int(trial['n']), 'trial')} ({said}{p_words(trial.get('p'))}).")
    return sentences


def main_row(run: Run) -> tuple[Mapping[str, Any] | None, str]:
    """Return the figure of the headline, macro-F1, and its level.

    That of windows, and of whole trials where only these can be held against chance: where classes differ in the
    length of their trials, permuted labels say nothing of windows.
    """
    level = run.levels[0]
    row, trial = run.metric("macro_f1", level), run.metric("macro_f1", "trial")
    if row is not None and verdict(row) == "unknown" and verdict(trial) != "unknown":
        return trial, "trial"
    return row, level


def verdict(row: Mapping[str, Any] | None) -> str:
    """Return ``above``, ``not above`` or ``unknown``, by `milmer.evaluation.chance.differs`."""
    found = None if row is None else differs(row)
    return "unknown" if found is None else "above" if found else "not above"


def _against_chance(row: Mapping[str, Any]) -> str:
    """Say by the one rule whether the figure is above chance, and what its level and p are."""
    found, above, p = verdict(row), row.get("above"), row.get("p")
    if found == "unknown":
        how = str(row.get("chance_how") or "")
        reason = f": {how[6:]}" if how.startswith("none: ") else f" {how[5:]}" if how.startswith("none over") else ""
        return f"Whether that is above chance is not known: there is no chance level{reason}."
    how = f" ({row['above_how']})" if row.get("above_how") else ""
    if found == "above":
        bar = "" if above is None else f" The bar to differ from chance at 5 % is {number(above)}{how}."
        return f"That is above chance ({p_words(p)}).{bar}"
    limit = row.get("chance_high")
    beyond = f"; chance reaches {number(limit)} one time in twenty" if limit is not None else ""
    said = f"That is not above chance ({p_words(p)}{beyond})."
    if above is None:
        return said
    side = "below" if row.get("name") in LOWER_IS_BETTER else "above"
    if differs({**row, "p": None}):
        return f"{said} It reaches the bar of {number(above)}{how}, but p would have to be {ALPHA:g} at most as well."
    return f"{said} It would have to be {side} {number(above)} to differ from chance at 5 %{how}."


def banners(run: Run) -> list[tuple[str, str]]:
    """Return (kind, sentence) of what a reader must not miss; kind is ``warning`` or ``note``."""
    found = []
    if run.leaky:
        found.append(
            (
                "warning",
                "Leaky protocol. Windows of the same trial are in training and in the test, so this figure says little "
                "about new trials. It is for comparison with the protocol “trial” only.",
            )
        )
    if run.part == "validation":
        found.append(
            (
                "warning",
                "Validation figures: the epoch was chosen on them, so they flatter. An honest figure comes from "
                "“milmer evaluate”.",
            )
        )
    if run.config.data.permute_labels is not None:
        found.append(("warning", "Permuted labels: this run shows what chance looks like. It is not a result."))
    if not run.record.get("complete", True):
        found.append(("warning", "This run has not finished; its figures are of what is there."))
    budget = ", ".join(sorted({str(b) for b in run.predictions.get("budget", []) if str(b) != "none"}))
    if budget:
        found.append(("note", f"Before the test, of the test subjects was seen: {_seen(budget)}."))
    if run.store_fault:
        found.append(("note", run.store_fault))
    return found


def _seen(budget: str) -> str:
    """Say what a budget lets be seen."""
    kind, _, amount = budget.partition(":")
    if kind == "unlabelled":
        what = f"the first {amount} s of their recordings" if amount else "all of their recordings"
        return f"{what}, without labels (budget {budget})"
    return f"{amount} of their trials with labels (budget {budget})" if kind == "labelled" else budget
