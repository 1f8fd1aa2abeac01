"""Rows of figures, as JSON and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.timing import Ratio, Times, ratio_of

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Parameters
    ----------
    section : str
        Which table.
    what, switches : str
        What was measured, and under which settings.
    value, low, high : float or None
        Median, least and greatest of the repeats; None where it was not measured.
    unit : str
        Of these.
    ratio : Ratio or None
        Times better than the published design, repeat by repeat.
    target : float or None
        What is to be reached, by the ratio if there is one, else by the value.
    note : str
        What a reader must know.
    work : float or None
        The ratio again, of seconds of processor instead of the clock: a neighbour on the same cores changes it less.
    """

    section: str
    what: str
    switches: str = "-"
    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = "s/sample"
    ratio: Ratio | None = None
    target: float | None = None
    note: str = ""
    work: float | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None without target or figure."""
        found = self.ratio.median if self.ratio else self.value
        return None if self.target is None or found is None else found >= self.target

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self) | {"reached": self.reached}


def timed_row(
    section: str,
    what: str,
    switches: str,
    times: Times | None,
    against: Times | None = None,
    target: float | None = None,
    note: str = "",
) -> Row:
    """Make a row of times, with the ratio to what it is held `against`; without `times` it says that there are none."""
    if times is None:
        return Row(section, what, switches, target=target, note=note or NOT_MEASURED)
    ratio = ratio_of(against.wall, times.wall) if against is not None else None
    work = ratio_of(against.processor, times.processor).median if against is not None else None
    return Row(section, what, switches, times.middle, *times.spread(), ratio=ratio, target=target, note=note, work=work)


def number(x: float | None) -> str:
    """Write a figure with three digits that count."""
    if x is None:
        return NOT_MEASURED
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def ratio_words(ratio: Ratio | None) -> str:
    """Write a ratio: median (least to greatest)."""
    return "" if ratio is None else f"{number(ratio.median)}x ({number(ratio.low)} to {number(ratio.high)})"


def to_markdown(rows: Sequence[Row]) -> str:
    """Return one table a section."""
    lines: list[str] = []
    once = [r for r in rows if r.ratio and r.ratio.repeats == 1 and r.unit == "s/sample"]
    if once:
        lines += ["Only one repeat was made: there is no spread, and these figures are a first look.", ""]
    for section in dict.fromkeys(r.section for r in rows):
        lines += [f"### {section}", ""]
        lines += ["| what | switches | measured (least to greatest) | beside the published design | target | reached |"]
        lines += ["|---|---|---|---|---|---|"]
        for r in (r for r in rows if r.section == section):
            spread = "" if r.low is None or r.low == r.high else f" ({number(r.low)} to {number(r.high)})"
            value = NOT_MEASURED if r.value is None else f"{number(r.value)}{spread} {r.unit}"
            beside = ratio_words(r.ratio) + (f"; work {number(r.work)}x" if r.work else "")
            target = "" if r.target is None else f"{r.target:g}{'x' if r.unit == 's/sample' or r.ratio else ''}"
            reached = {None: "", True: "yes", False: "**no**"}[r.reached]
            note = f"; {r.note}" if r.note and r.note != NOT_MEASURED else ""
            lines += [f"| {r.what} | {r.switches}{note} | {value} | {beside} | {target} | {reached} |"]
        lines += [""]
    return "\n".join(lines)
