"""A comparison as words, a page, and pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from milmer.errors import UserError
from milmer.evaluation.comparison import Comparison, Pair
from milmer.evaluation.metrics import LESS_IS_BETTER
from milmer.evaluation.protocols import display_name
from milmer.evaluation.run import plain
from milmer.reports.comparison_plot import INFLATION, figure_word, pictures, render
from milmer.reports.words import number, p_words
from milmer.reports.writing import fill, write_file

ALT = {
    "ranks": "Average ranks of the runs, with bars that join runs not separated; the numbers are in the tables",
    "units": "The figure of every unit under each run; means are in the tables",
    "differences": "Figures of the two runs unit by unit, and their differences in order of size",
}


def write_comparison(out: Path, result: Comparison) -> list[Path]:
    """Write ``comparison.html``, ``compare.json`` and every picture as PNG and SVG.

    Parameters
    ----------
    out : Path
        Folder; made where it is not there, files of an earlier comparison are replaced.
    result : Comparison
        What came out.

    Returns
    -------
    list of Path
        What was written, the page first.

    Raises
    ------
    UserError
        If a file cannot be written, or `out` is a run.
    """
    from milmer.store import write_json

    if (out / "run.json").exists():
        raise UserError(f"{out}: is a run; give a folder of its own as --out")
    content = describe(result)
    written = [out / "comparison.html", out / "compare.json"]
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, figure in pictures(result).items():
            for kind in ("png", "svg"):
                file = out / f"{name}.{kind}"
                file.write_bytes(render(figure, kind))
                written.append(file)
            source = "data:image/png;base64," + base64.b64encode((out / f"{name}.png").read_bytes()).decode()
            content["pictures"].append({"source": source, "alt": ALT[name], "name": name})
        write_file(written[0], fill("comparison.html.j2", content))
        write_json(written[1], plain(result.to_json()))
    except OSError as error:
        raise UserError(
            f"{error.filename or out}: cannot be written ({error.strerror}); make room or give another --out"
        ) from error
    return written


def describe(result: Comparison) -> dict[str, Any]:
    """Return what the page shows, as words and plain values."""
    digits = _digits(result.figure)
    names = list(result.pairs)
    return {
        "title": f"Inflation: {_listed(result)}" if result.across else f"Compared: {_listed(result)}",
        "banners": banners(result),
        "sentences": sentences(result),
        "figure": figure_word(result.figure),
        "lower": result.figure in LESS_IS_BETTER,
        "unit": result.unit,
        "n": len(result.units),
        "trials": result.trials,
        "level": result.level,
        "heads": ["bal. accuracy" if n == "balanced_accuracy" else figure_word(n) for n in names],
        "budgets": any(run.budget != "none" for run in result.runs),
        "runs": [
            {
                "number": i + 1,
                "name": run.name,
                "protocol": display_name(run.protocol),
                "budget": run.budget,
                "seeds": run.seeds,
                "rank": number(result.ranks[i]),
                "figures": [number(run.mean(n), _digits(n)) for n in names],
            }
            for i, run in enumerate(result.runs)
        ],
        "pairs": [pair_words(result, pair) for pair in result.main],
        "new": result.stimuli.why == "",
        "judged": result.judged,
        "others": [
            {"figure": figure_word(n), "lower": n in LESS_IS_BETTER, **pair_words(result, pair, n)}
            for n in names
            if n != result.figure
            for pair in result.pairs[n]
        ],
        "of_units": [
            {"unit": unit, "values": [number(run.values[result.figure][u], digits) for run in result.runs]}
            for u, unit in enumerate(result.units)
        ],
        "settings": [(key, [_setting(v) for v in values]) for key, values in result.settings.items()],
        "notes": result.notes,
        "method": method(result),
        "pictures": [],
    }


def pair_words(result: Comparison, pair: Pair, figure: str | None = None) -> dict[str, Any]:
    """Return one line of the table of pairs, as text."""
    name = figure or result.figure
    digits, found = _digits(name), pair.result
    one, two = result.runs[pair.first], result.runs[pair.second]
    what = "difference"
    if pair.inflation:
        what = f"inflation, {_under(one.protocol, one.budget)} less {_under(two.protocol, two.budget)}"
    sort = "" if not result.across else "inflation " if pair.inflation else "difference "
    return {
        "label": f"{sort}{pair.first + 1} − {pair.second + 1}",
        "names": f"{one.name} less {two.name}",
        "what": what,
        "inflation": pair.inflation,
        "difference": signed(found.difference, digits),
        "interval": _interval(found.low, found.high, digits),
        "p": _p(found.p),
        "holm": _p(pair.p_holm),
        "wilcoxon": _p(found.p_wilcoxon),
        "d_z": number(found.d_z),
        "rank_biserial": number(found.rank_biserial),
        "score": f"{found.wins}–{found.ties}–{found.losses}",
        "n": found.n,
        "apart": result.separated(pair),
        "new_difference": signed(pair.new.difference, digits) if pair.new else "–",
        "new_interval": _interval(pair.new.low, pair.new.high, digits) if pair.new else "",
        "new_p": _p(pair.new.p) if pair.new else "–",
        "new_holm": _p(pair.new.p_holm) if pair.new else "–",
    }


def banners(result: Comparison) -> list[str]:
    """Return what a reader must not miss."""
    found = []
    if result.across:
        found.append(f"This is an {INFLATION}. It says how much of a figure the easier rules alone bring.")
    if result.shared:
        found.append(f"Not all runs tested the same: every figure here is of {result.shared}.")
    if any(run.protocol == "window" for run in result.runs):
        found.append("Leaky protocol: runs under “window” were tested on trials that they were trained on.")
    return found


def sentences(result: Comparison) -> list[str]:
    """Say what came out, with no more than the tests allow."""
    pairs, word = result.main, figure_word(result.figure)
    level = f"{100 * result.alpha:g} %"
    if len(pairs) == 1:
        return _of_two(result, pairs[0], word, level)
    if not result.judged:
        return [f"No pair of runs is judged for new stimuli ({result.stimuli.why}).", *_friedman(result)]
    also = ", also for new stimuli" if result.for_new else ""
    apart = sum(result.separated(p) for p in pairs)
    best = min(range(len(result.runs)), key=lambda i: result.ranks[i])
    run = result.runs[best]
    mean = number(run.mean(result.figure), _digits(result.figure))
    many = len(pairs)
    if result.across:
        largest = max((p for p in pairs if p.inflation), key=lambda p: abs(p.result.difference))
        line = pair_words(result, largest)
        return [
            f"Inflation between protocols: of {many} pairs of runs, {apart or 'none'} {'is' if apart == 1 else 'are'} "
            f"separated in {word} at {level}{also} (Holm over all pairs).",
            f"Largest: {line['what']} ({line['names']}), {_gap(result, largest)}.",
        ]
    beaten = sum(result.separated(p) and best in (p.first, p.second) and _wins(result, p, best) for p in pairs)
    others = len(result.runs) - 1
    shown = f"better than {beaten} of the {others} others" if beaten else "better than no other"
    found = [
        f"Of {many} pairs of runs, {apart or 'none'} {'is' if apart == 1 else 'are'} separated in {word} at {level}"
        f"{also} (Holm over all pairs).",
        f"Best average rank: {run.name} ({number(result.ranks[best])}, mean {mean}); it is shown to be {shown}.",
    ]
    return found + _friedman(result)


def _friedman(result: Comparison) -> list[str]:
    if result.p_friedman != result.p_friedman:
        return []
    of = ", on these stimuli" if result.for_new else ""
    return [f"All runs alike (Friedman, by permutation{of}): {p_words(result.p_friedman)}."]


def _of_two(result: Comparison, pair: Pair, word: str, level: str) -> list[str]:
    one, two = result.runs[pair.first], result.runs[pair.second]
    digits, found = _digits(result.figure), pair.result
    values = f"{number(one.mean(result.figure), digits)} and {number(two.mean(result.figure), digits)}"
    gap = f"{_gap(result, pair)} over {_over(result, pair)}"
    low, high, p = _decided(result, pair)
    also = ", also for new stimuli" if result.for_new else ""
    rules = _under(one.protocol, one.budget)
    if pair.inflation:
        head = f"Inflation in {word}, {_under(one.protocol, one.budget)} less {_under(two.protocol, two.budget)}"
        return [f"{head}: {gap} ({p_words(p)}).", f"The two means are {values}."]
    if not result.judged:
        head = f"Not judged for new stimuli ({result.stimuli.why})"
    elif result.separated(pair):
        winner = one if _wins(result, pair, pair.first) else two
        head = f"{winner.name} is better{also}"
    else:
        head = f"Not shown to differ at {level}{also}"
    more = [f"{head}: {word} {values}, difference {gap}, protocol {rules} ({p_words(p)})."]
    if found.ties == found.n:
        more.append(f"They are the same on every {result.unit}.")
    elif result.judged and not result.separated(pair):
        span = f": anything from {signed(low, digits)} to {signed(high, digits)} fits" if low == low else ""
        more.append(f"That does not make them equal{span}.")
    return more


def _decided(result: Comparison, pair: Pair) -> tuple[float, float, float]:
    """Return the interval and p that the verdict goes by; those over units where it is not judged."""
    found = pair.new if result.for_new and pair.new is not None else pair.result
    return found.low, found.high, found.p


def _gap(result: Comparison, pair: Pair) -> str:
    """Write the difference that the verdict goes by, and its interval."""
    found = pair.new if result.for_new and pair.new is not None else pair.result
    digits = _digits(result.figure)
    return f"{signed(found.difference, digits)} {_interval(found.low, found.high, digits)}".rstrip()


def _over(result: Comparison, pair: Pair) -> str:
    """Write what varies in that interval."""
    if result.for_new and pair.new is not None:
        return f"{result.stimuli.subjects} subjects and {result.stimuli.count} stimuli"
    these = " and these stimuli" if result.for_new else ""
    return f"{pair.result.n} {result.unit}s{these}"


def method(result: Comparison) -> list[str]:
    """Say how the figures were made."""
    result_ = result.main[0].result
    unit = result.unit
    interval = f"Intervals: {100 * result.confidence:g} %, Student t of the differences over {unit}s"
    interval += "." if result_.low == result_.low else f"; none is given, since fewer than 6 {unit}s say too little."
    averaged = "probabilities averaged over a trial’s windows" if result.level == "trial" else "a window at a time"
    what = (
        f"Each figure is made trial by trial, {averaged}; one subject."
        if unit == "trial"
        else f"Each figure is made subject by subject ({averaged}), averaged over a run’s seeds, then over subjects: "
        "every person counts alike. It differs a little from the pooled figure of metrics.json."
    )
    return [
        what,
        interval,
        f"p: two-sided sign-flip permutation test of the mean difference ({result_.p_how}; smallest possible "
        f"{_p(result_.p_smallest)}). Holm: the same, corrected for the number of pairs ({len(result.main)}); separated "
        f"means Holm’s p{' for new stimuli' if result.for_new else ''} is at most {result.alpha:g}. Each figure is "
        "corrected for itself, not for the other figures. Wilcoxon: signed-rank test, beside it.",
        _new_method(result),
        "d_z: mean difference over its standard deviation. r: matched-pairs rank-biserial correlation, from −1 to 1. "
        f"Won, tied, lost: {unit}s on which the first is better, equal, worse.",
    ]


def _new_method(result: Comparison) -> str:
    """Say how the difference for new stimuli was made, or why there is none."""
    if result.stimuli.why:
        return f"Also for new stimuli: no difference is given ({result.stimuli.why})."
    return (
        f"Also for new stimuli: the difference of figures of all {result.level}s pooled, its interval and two-sided p "
        f"by Student t, {result.stimuli.subjects} subjects and {result.stimuli.count} stimuli both varying (jackknife: "
        "variance over subjects, plus over stimuli, less over cells; Satterthwaite’s degrees). Pooled it can differ a "
        "little from the mean over subjects. "
        + ("Runs are told apart by it." if result.for_new else "For information: the verdict speaks of these stimuli.")
    )


def signed(value: float, digits: int) -> str:
    """Write ``+0.04``."""
    text = number(value, digits)
    return f"+{text}" if value > 0 and float(text) else text


def _wins(result: Comparison, pair: Pair, run: int) -> bool:
    sign = -1 if result.figure in LESS_IS_BETTER else 1
    found = pair.new if result.for_new and pair.new is not None else pair.result
    return (sign * found.difference > 0) == (run == pair.first)


def _interval(low: float, high: float, digits: int) -> str:
    return f"[{signed(low, digits)}, {signed(high, digits)}]" if low == low else ""


def _p(p: float) -> str:
    return p_words(p).removeprefix("p ").removeprefix("= ") if p == p else "–"


def _digits(figure: str) -> int:
    return 3 if figure in LESS_IS_BETTER else 2


def _under(protocol: str, budget: str) -> str:
    return display_name(protocol) + (f", budget {budget}" if budget != "none" else "")


def _listed(result: Comparison) -> str:
    names = [run.name for run in result.runs]
    return " and ".join(names) if len(names) == 2 else f"{len(names)} runs"


def _setting(value: Any) -> str:
    if isinstance(value, Mapping | list):
        return ", ".join(map(str, value))
    return "–" if value is None else str(value)
