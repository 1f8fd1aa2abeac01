"""How often the intervals cover and how often chance passes for skill, by simulation: docs/statistics.md's tables.

    python tools/coverage.py --studies 2000

takes some minutes on one core, and writes docs/statistics.json and the tables between two marks in docs/statistics.md.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from milmer import console
from milmer.evaluation import chance as luck
from milmer.evaluation.intervals import jackknife, scale_of, two_way
from milmer.evaluation.metrics import classification, confusion, from_confusion, from_statistics, statistics_of
from milmer.evaluation.predictions import Rows
from milmer.evaluation.regression import from_moments, moments, regression
from milmer.evaluation.statistics import chance_level, left_out, left_tables, p_value

Floats = NDArray[np.float64]
Row = dict[str, Any]

SUBJECTS, CLASSES, TRIALS, BOOTSTRAPS = (6, 8, 12, 16, 22, 32), (2, 4), 40, 600
# Mean and spread over people of how far the right class stands out; the names are of what comes of it.
SKILLS = {"none": (0.0, 0.0), "some": (1.0, 0.5), "much": (3.0, 1.0)}
BEGIN, END = "<!-- coverage: written by tools/coverage.py -->", "<!-- coverage: end -->"
NAMES = ("HAHV", "HALV", "LAHV", "LALV")


def people(rng: np.random.Generator, shape: tuple[int, ...], k: int, skill: str) -> Floats:
    """Chance of each cell of a person's confusion table, (*shape, k, k): people differ in skill, leaning and labels."""
    mean, spread = SKILLS[skill]
    odds = np.exp(rng.normal(mean, spread, (*shape, 1, 1)) * np.eye(k) + rng.normal(0, 0.5, (*shape, 1, k)))
    cells = rng.dirichlet(np.full(k, 5.0), shape)[..., None] * odds / odds.sum(-1, keepdims=True)  # (*shape, k, k)
    found: Floats = cells / cells.sum((-1, -2), keepdims=True)  # (*shape, k, k)
    return found


def over_subjects(studies: int, seed: int) -> list[Row]:
    """Accuracy and macro-F1: our interval, its plain scale, and the percentile bootstrap over subjects."""
    rows: list[Row] = []
    for k in CLASSES:
        for skill in SKILLS:
            truth = from_confusion(
                people(np.random.default_rng([seed, k]), (300_000,), k, skill).mean(0)[None], NAMES[:k]
            )
            for n in SUBJECTS:
                rng = np.random.default_rng([seed, k, n, list(SKILLS).index(skill)])
                hits = {(f, how): 0 for f in ("accuracy", "macro_f1") for how in ("ours", "plain", "bootstrap")}
                for _ in range(studies):
                    cells = people(rng, (n,), k, skill).reshape(n, k * k)
                    tables = rng.multinomial(TRIALS, cells).reshape(n, k, k).astype(float)  # (S, k, k)
                    value = from_confusion(tables.sum(0)[None], NAMES[:k])
                    left = from_confusion(tables.sum(0) - tables, NAMES[:k])
                    weights = rng.multinomial(n, np.full(n, 1 / n), size=BOOTSTRAPS).astype(float)  # (B, S)
                    drawn = from_confusion((weights @ tables.reshape(n, k * k)).reshape(-1, k, k), NAMES[:k])
                    for f in ("accuracy", "macro_f1"):
                        t, v = float(truth[f][0]), float(value[f][0])
                        ends = {
                            "ours": jackknife(v, left[f], 0.95, scale_of(f)),
                            "plain": jackknife(v, left[f], 0.95),
                            "bootstrap": tuple(np.quantile(drawn[f], [0.025, 0.975])),
                        }
                        for how, (low, high) in ends.items():
                            hits[f, how] += bool(low <= t <= high)
                for f in ("accuracy", "macro_f1"):
                    row: Row = {"figure": f, "classes": k, "skill": skill, "true": float(truth[f][0]), "subjects": n}
                    rows.append(row | {how: hits[f, how] / studies for how in ("ours", "plain", "bootstrap")})
    return rows


def logits(rng: np.random.Generator, subjects: int, trials: int, k: int) -> tuple[NDArray[np.int64], Floats]:
    """Labels and probabilities of a model that is better for some people than for others, and too sure."""
    y = rng.integers(0, k, (subjects, trials))  # (S, T)
    own = rng.normal(1.0, 0.5, (subjects, 1, 1))
    z = 1.5 * (rng.normal(size=(subjects, trials, k)) + own * np.eye(k)[y] + rng.normal(0, 0.4, (subjects, 1, k)))
    p = np.exp(z - z.max(-1, keepdims=True))
    return y.ravel(), (p / p.sum(-1, keepdims=True)).reshape(-1, k)


def other_figures(studies: int, seed: int) -> list[Row]:
    """Figures of probabilities, agreement, and continuous ratings."""
    y, p = logits(np.random.default_rng([seed, 1]), 20_000, 5, 4)
    truth = classification(y, p, NAMES)

    def ratings(rng: np.random.Generator, n: int, t: int) -> tuple[Floats, Floats]:
        given = np.clip(5 + rng.normal(0, 0.7, (n, 1)) + rng.normal(0, 1.5, (n, t)), 1, 9)
        gain = rng.normal(0.5, 0.2, (n, 1))
        return given.ravel(), (5 + gain * (given - 5) + rng.normal(0, 0.8, (n, t))).ravel()

    truth |= regression(*ratings(np.random.default_rng([seed, 2]), 20_000, 20))
    names = [n for n in truth if "/" not in n]
    rows: list[Row] = []
    for n in (8, 12, 16, 32):
        rng, hits = np.random.default_rng([seed, n, 3]), dict.fromkeys(names, 0)
        cluster = np.repeat(np.arange(n), TRIALS)
        for _ in range(studies):
            y, p = logits(rng, n, TRIALS, 4)
            value = from_statistics(statistics_of(y, p), NAMES)
            left = from_statistics(left_out(y, p, cluster), NAMES)
            given, said = ratings(rng, n, TRIALS)
            sums = moments(given, said, cluster, 5.0)  # (S, 6)
            value |= from_moments(sums.sum(0)[None])
            left |= from_moments(sums.sum(0) - sums)
            for name in names:
                low, high = jackknife(float(value[name][0]), left[name], 0.95, scale_of(name))
                hits[name] += bool(low <= truth[name] <= high)
        rows += [{"figure": f, "subjects": n, "true": truth[f], "ours": hits[f] / studies} for f in names]
    return rows


def two_ways(studies: int, seed: int) -> list[Row]:
    """New subjects and new stimuli, stimuli varying as much as subjects: two-way, and over subjects alone."""
    rows: list[Row] = []
    for k in CLASSES:
        for n, items in ((8, 20), (12, 40), (16, 16), (22, 40), (32, 40)):
            rng = np.random.default_rng([seed, k, n, items])
            mean = 0.6
            many = np.random.default_rng([seed, k, 9]).normal(mean, np.sqrt(2) * 0.6, 1_000_000)
            right = float((1 / (1 + np.exp(-many))).mean())
            truth = {"accuracy": right, "macro_f1": right}  # classes are even, errors go to all others alike
            hits = {(f, how): 0 for f in truth for how in ("ours", "alone")}
            person, item = (a.ravel() for a in np.meshgrid(np.arange(n), np.arange(items), indexing="ij"))
            cell = np.arange(n * items)
            for _ in range(studies):
                z = mean + rng.normal(0, 0.6, (n, 1)) + rng.normal(0, 0.6, (1, items))  # (S, I)
                hit = (rng.random((n, items)) < 1 / (1 + np.exp(-z))).ravel()
                y = rng.integers(0, k, n * items)
                answer = np.where(hit, y, (y + rng.integers(1, k, n * items)) % k)
                value = from_confusion(confusion(y, answer, k)[None], NAMES[:k])
                one, other, both = (
                    from_confusion(left_tables(y, answer, c, k), NAMES[:k]) for c in (person, item, cell)
                )
                for f, true in truth.items():
                    low, high = two_way(float(value[f][0]), one[f], other[f], both[f], 0.95, scale_of(f))
                    hits[f, "ours"] += bool(low <= true <= high)
                    low, high = jackknife(float(value[f][0]), one[f], 0.95, scale_of(f))
                    hits[f, "alone"] += bool(low <= true <= high)
            for f in truth:
                row: Row = {"figure": f, "classes": k, "subjects": n, "stimuli": items}
                rows.append(row | {how: hits[f, how] / studies for how in ("ours", "alone")})
    return rows


def false_alarms(studies: int, seed: int) -> list[Row]:
    """Studies whose labels have nothing to do with the answers: how often each rule says that they have."""
    rows: list[Row] = []
    k, windows = 4, 10
    for n, trials in ((8, 12), (16, 20), (32, 40)):
        for kind in ("even classes", "classes and answers of each subject's own"):
            rng = np.random.default_rng([seed, n, len(kind)])
            hits = dict.fromkeys(("p", "trials", "subjects", "windows"), 0)
            person = np.repeat(np.arange(n), trials)
            for _ in range(studies):
                share = np.full((n, k), 0.25) if kind == "even classes" else rng.dirichlet(np.full(k, 2.0), n)
                y = (rng.random((n, trials, 1)) > share.cumsum(1)[:, None]).sum(-1).clip(0, k - 1).ravel()
                lean = np.zeros((n, k)) if kind == "even classes" else np.log(share + 0.05)
                z = lean[person] + rng.normal(size=(n * trials, k))  # (T, k), the same for all windows of a trial
                near = z[:, None] + 0.7 * rng.normal(size=(n * trials, windows, k))
                table = _rows(y, z, person)
                null, _ = luck.held(table, 200, NAMES, rng, answers_only=True)
                value = float((z.argmax(1) == y).mean())
                mean, limit = chance_level(null["accuracy"])
                left = from_confusion(left_tables(y, z.argmax(1), person, k), NAMES)
                hits["p"] += p_value(value, null["accuracy"]) <= 0.05
                for unit, protocol in (("trials", "trial"), ("subjects", "subject")):
                    level, _ = luck.above("accuracy", mean, limit, protocol, n * trials, left, None, "subjects")
                    hits[unit] += value >= level
                of_windows = float((near.argmax(-1) == y[:, None]).mean())
                hits["windows"] += of_windows >= luck.binomial_level(mean, n * trials * windows)
            row: Row = {"study": f"{n} subjects, {trials} trials each, {kind}"}
            rows.append(row | {how: float(count) / studies for how, count in hits.items()})
    return rows


def _rows(y: NDArray[np.int64], z: Floats, person: NDArray[np.int64]) -> Rows:
    p, at, zero = np.exp(z) / np.exp(z).sum(1, keepdims=True), np.arange(y.size), np.zeros(y.size, dtype=np.int64)
    names = np.full(y.size, "", dtype=object)
    return Rows("trial", "test", y, p, person, names, at, at, at, zero, zero, zero - 1, None, None, {})


def markdown(found: dict[str, Any]) -> str:
    """Return the tables."""
    out = [f"{found['studies']} studies a setting, {found['seconds']:.0f} s on one core; seed {found['seed']}.", ""]
    head = " | ".join(str(n) for n in SUBJECTS)
    out += ["### Over subjects: share of 95 % intervals that hold the true figure", ""]
    out += [
        f"| figure | classes | skill (true figure) | interval | {head} subjects |",
        "|---" * (4 + len(SUBJECTS)) + "|",
    ]
    words = {
        "ours": "**jackknife, bound scale**",
        "plain": "jackknife, plain scale",
        "bootstrap": "percentile bootstrap",
    }
    keys = dict.fromkeys((r["figure"], r["classes"], r["skill"], r["true"]) for r in found["over_subjects"])
    for f, k, skill, true in keys:
        mine = [r for r in found["over_subjects"] if (r["figure"], r["classes"], r["skill"]) == (f, k, skill)]
        for how, word in words.items():
            shares = " | ".join(f"{r[how]:.3f}" for r in mine)
            out.append(f"| {f} | {k} | {skill} ({true:.2f}) | {word} | {shares} |")
    out += ["", "### Other figures, 4 classes and ratings", ""]
    others = found["other_figures"]
    sizes = list(dict.fromkeys(r["subjects"] for r in others))
    out += [f"| figure | true | {' | '.join(str(n) for n in sizes)} subjects |", "|---" * (2 + len(sizes)) + "|"]
    for f in dict.fromkeys(r["figure"] for r in others):
        mine = [r for r in others if r["figure"] == f]
        shares = " | ".join(f"{r['ours']:.3f}" for r in mine)
        out.append(f"| {f} | {mine[0]['true']:.3f} | {shares} |")
    out += ["", "### New subjects and new stimuli, both varying alike", ""]
    out += ["| figure | classes | subjects x stimuli | **two-way** | over subjects alone |", "|---" * 5 + "|"]
    for r in found["two_ways"]:
        size = f"{r['subjects']} x {r['stimuli']}"
        out.append(f"| {r['figure']} | {r['classes']} | {size} | {r['ours']:.3f} | {r['alone']:.3f} |")
    out += ["", "### Studies with nothing in them: share called above chance at 5 % (accuracy, 4 classes)", ""]
    out += [
        "| study | permutation p | above, trials | above, subjects | binomial over windows (wrong) |",
        "|---" * 5 + "|",
    ]
    for r in found["false_alarms"]:
        out.append(f"| {r['study']} | {r['p']:.3f} | {r['trials']:.3f} | {r['subjects']:.3f} | {r['windows']:.3f} |")
    return "\n".join(out)


def main(
    studies: Annotated[int, typer.Option(min=10, help="simulated studies a setting")] = 2000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path, typer.Option(help="folder of statistics.md and statistics.json")] = Path("docs"),
) -> None:
    """Simulate studies whose truth is known and write how often intervals cover and chance passes for skill."""
    begun = time.process_time()
    found: dict[str, Any] = {"studies": studies, "seed": seed}
    for part in (over_subjects, other_figures, two_ways, false_alarms):
        rows = part(studies, seed)
        found[part.__name__] = rows
        console.say(f"{part.__name__}: {len(rows)} settings, {time.process_time() - begun:.0f} s")
    found["seconds"] = round(time.process_time() - begun, 1)
    out.mkdir(parents=True, exist_ok=True)
    (out / "statistics.json").write_text(json.dumps(found, indent=1) + "\n")
    page = out / "statistics.md"
    text = page.read_text() if page.exists() else f"# Statistics\n\n{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN)[0], text.split(END)[-1]
    page.write_text(f"{before}{BEGIN}\n\n{markdown(found)}\n\n{END}{rest}")


if __name__ == "__main__":
    typer.run(main)
