"""Leaks of known dose on studies without any emotion: how often the audit finds them, and what they gain.

Writes docs/leak-battery.json, docs/leak-battery.svg and the table of docs/leak-battery.md. Each study is made of
numbers: six subjects, 40 trials of four windows, 24 features with a trace of subject and trial; labels are random.

    python tools/leak_battery.py --seeds 20 [--only trials,copies,film,clean,gains]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from milmer.evaluation.audit import inflation
from milmer.evaluation.audit.probe import recalls
from milmer.evaluation.audit.run import Case, Study, audit_study, case_of, judged, setting_of
from milmer.evaluation.audit.structure import duplicates
from milmer.evaluation.protocols import Split

DOCS = Path(__file__).parents[1] / "docs"
SUBJECTS, TRIALS, WINDOWS, FEATURES = 6, 40, 4, 24
DOSES = (0, 1, 2, 4, 8, 16, 40)
SIGNATURES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
HONEST = ("trial", "subject", "stimulus", "subject-and-stimulus")
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def study(seed: int, *, trials: int = TRIALS, signature: float = 0.0, follows: bool = False) -> Study:
    """A study whose features know subject and trial; with `signature` the film, and `follows`: labels go with it."""
    rng = np.random.default_rng([seed, 1])
    n = SUBJECTS * trials
    person = np.repeat(np.arange(SUBJECTS), trials)  # (T,)
    film = np.concatenate([rng.permutation(trials) for _ in range(SUBJECTS)])  # (T,)
    x = rng.normal(0, 1, (SUBJECTS, FEATURES))[person]  # (T, F)
    x = x + rng.normal(0, 1, (n, FEATURES)) + signature * rng.normal(0, 1, (trials, FEATURES))[film]  # (T, F)
    if follows:
        y = (np.resize([0, 1], trials)[rng.permutation(trials)][film] + (rng.random(n) < 0.1)) % 2  # (T,)
    else:
        y = np.concatenate([rng.permutation(np.resize([0, 1], trials)) for _ in range(SUBJECTS)])  # (T,)
    of = np.repeat(np.arange(n), WINDOWS)  # (n,)
    rows = {
        "subject": np.array([f"s{i:02d}" for i in person[of]]),
        "recording": np.array([f"s{i:02d}" for i in person[of]]),
        "trial": (np.arange(n) % trials)[of] + 1,
        "stimulus": np.array([f"f{i:02d}" for i in film[of]]),
        "window": np.tile(np.arange(WINDOWS), n),
    }
    values = x[of] + rng.normal(0, 0.7, (of.size, FEATURES))  # (n, F)
    return Study(rows, y[of].astype(np.int64), 2, values, seed=seed)


def torn(made: Study, dose: int) -> Case:
    """Whole trials, but `dose` trials of each subject have half their windows on the other side.

    The folds are given, as a finished run's are: the audit compares them with honest ones that it deals itself.
    """
    honest = case_of(made, "trial")
    number, window = np.asarray(made.rows["trial"]), np.asarray(made.rows["window"])
    person = made.units.person
    chosen = np.zeros(number.size, dtype=bool)
    rng = np.random.default_rng([made.seed, 2])
    for s in range(SUBJECTS):
        chosen |= (person == s) & np.isin(number, 1 + rng.permutation(TRIALS)[:dose])
    moved = chosen & (window % 2 == 0)

    fixed = []
    for split in honest.splits(made.y, 1000):
        lost = split.test[moved[split.test]]
        test = np.setdiff1d(split.test, lost)
        fixed.append(Split(split.fold, np.union1d(split.train, lost), split.validation, test))
    return Case("trial", lambda y, seed: fixed, honest.splits)


def with_copies(made: Study, dose: int) -> Study:
    """Every subject's first `dose` trials are near-copies of as many others."""
    number = np.asarray(made.rows["trial"])
    x = made.x.copy()
    rng = np.random.default_rng([made.seed, 3])
    for s in range(SUBJECTS):
        for d in range(dose):
            a, b = (
                np.flatnonzero((made.units.person == s) & (number == t)) for t in (1 + d, 1 + (TRIALS - 1 - d) % TRIALS)
            )
            x[a] = x[b] + rng.normal(0, 1e-4, x[b].shape)
    return Study(made.rows, made.y, made.k, x, seed=made.seed)


def verdicts(made: Study, cases: dict[str, Case]) -> list[dict[str, Any]]:
    """Audit the cases of a study together."""
    return judged(audit_study(made, cases), setting_of(made, ()))


def trial_doses(seeds: int) -> list[dict[str, Any]]:
    """Trials on two sides: found by counting, and by the probe alone."""
    entries: dict[int, list[dict[str, Any]]] = {dose: [] for dose in DOSES}
    for seed in range(seeds):
        made = study(seed)
        # Judged beside honest protocols, as an audit does: their tests share alpha.
        others = audit_study(made, {p: case_of(made, p) for p in HONEST if p != "trial"})
        for dose in DOSES:
            mine = audit_study(made, {"torn": torn(made, dose)})
            entries[dose].append(judged(mine + others, setting_of(made, ()))[0])
    out = []
    for dose, found in entries.items():
        counted = [any(o["shared"] and not o["permitted"] for o in e["overlaps"]) for e in found]
        probed = ["come from the leak" in e["sentence"] for e in found]
        gain = [e["permuted"]["excess"] for e in found]
        out.append(
            {"leak": "trials on two sides, of 40", "dose": dose, "counted": np.mean(counted)}
            | {"measured": np.mean(probed), "points": 100 * np.mean(gain), "seeds": seeds}
        )
    return out


def copy_doses(seeds: int) -> list[dict[str, Any]]:
    """Near-copies of windows in other trials: found by comparing arrays."""
    out = []
    for dose in DOSES[:-1]:
        counted, probed, gain = [], [], []
        for seed in range(seeds):
            made = with_copies(study(seed), dose)
            case = case_of(made, "trial")
            counted.append(any(f["fault"] for f in duplicates(made.x, made.rows, case.splits(made.y, 0))))
            entry = verdicts(made, {"trial": case})[0]
            probed.append(entry["verdict"] == "leaky")
            gain.append(entry["permuted"]["excess"])
        out.append(
            {"leak": "trials that are near-copies, of 40", "dose": dose, "counted": np.mean(counted)}
            | {"measured": np.mean(probed), "points": 100 * np.mean(gain), "seeds": seeds}
        )
    return out


def film_doses(seeds: int) -> list[dict[str, Any]]:
    """Films with a signature, labels that go with the film: ``subject`` must be called confounded, two-way clean."""
    out = []
    for strength in SIGNATURES:
        found, false, gain = [], [], []
        for seed in range(seeds):
            made = study(seed, trials=20, signature=strength, follows=True)
            one, two = verdicts(made, {p: case_of(made, p) for p in ("subject", "subject-and-stimulus")})
            found.append(one["verdict"] == "confounded")
            false.append(two["verdict"] != "clean")
            gain.append((one["observed"]["score"] if one["observed"] else np.nan) - 0.5)
        out.append(
            {"leak": "film's signature, in deviations of a trial", "dose": strength, "counted": None}
            | {"measured": np.mean(found), "false": np.mean(false), "points": 100 * np.mean(gain), "seeds": seeds}
        )
    return out


def clean(seeds: int) -> dict[str, Any]:
    """Clean studies of 20 trials under every honest protocol: any verdict but clean is a false alarm."""
    began, wrong = time.monotonic(), []
    for seed in range(seeds):
        made = study(1000 + seed, trials=20)
        bad = [e["protocol"] for e in verdicts(made, {p: case_of(made, p) for p in HONEST}) if e["verdict"] != "clean"]
        wrong += [[seed, bad]] if bad else []
    return {"seeds": seeds, "false": len(wrong), "which": wrong, "seconds": (time.monotonic() - began) / max(seeds, 1)}


def _nearest(train: Floats, y: Ints, test: Floats) -> Ints:
    """Class of the nearest class mean, with features weighed as they come: scaling matters to it."""
    means = np.stack([train[y == c].mean(axis=0) for c in (0, 1)])  # (2, F)
    gap = ((test[:, None] - means[None]) ** 2).sum(axis=2)  # (m, 2)
    return np.asarray(gap.argmin(axis=1), dtype=np.int64)


def _score(
    made: Study, y: Ints, splits: Sequence[Split], fit: Callable[[Split, bool], Floats], everything: bool
) -> float:
    answer = np.full(y.size, -1, dtype=np.int64)  # (n,)
    for split in splits:
        x = fit(split, everything)  # (n, F')
        answer[split.test] = _nearest(x[split.train], y[split.train], x[split.test])
    return float(np.nanmean(recalls(y, answer, made.units.person, SUBJECTS, 2)[0]))


def gains(seeds: int) -> list[dict[str, Any]]:
    """What is fitted on everything gains, with random labels; no table of splits shows it."""
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        made = study(2000 + seed)
        x = made.x * np.exp(np.random.default_rng([seed, 4]).normal(0, 1, FEATURES))  # (n, F), unlike scales
        splits = case_of(made, "trial").splits(made.y, 0)
        y = made.y

        def scaler(split: Split, everything: bool, x: Floats = x) -> Floats:
            seen = x if everything else x[split.train]
            return np.asarray((x - seen.mean(axis=0)) / seen.std(axis=0))

        def whitening(split: Split, everything: bool, x: Floats = x) -> Floats:
            seen = x if everything else x[split.train]
            values, vectors = np.linalg.eigh(np.cov(seen.T))
            return np.asarray((x - seen.mean(axis=0)) @ vectors / np.sqrt(values))

        def chosen(split: Split, everything: bool, x: Floats = x, y: Ints = y) -> Floats:
            seen = np.arange(len(x)) if everything else split.train
            z = (x - x[split.train].mean(axis=0)) / x[split.train].std(axis=0)
            gap = np.abs(z[seen][y[seen] == 1].mean(axis=0) - z[seen][y[seen] == 0].mean(axis=0))
            return np.asarray(z[:, np.argsort(gap)[-5:]])

        for name, fit in (
            ("scaler fitted on everything", scaler),
            ("spatial filter (whitening, as ICA begins) fitted on everything", whitening),
            ("features chosen by label on everything", chosen),
        ):
            gap = _score(made, y, splits, fit, True) - _score(made, y, splits, fit, False)
            found.setdefault(name, []).append(gap)
        found.setdefault("label threshold (median) fitted on everything", []).append(_threshold(made, splits))
        for row in inflation.best_epochs(made.probe, made.units, y, 2, splits, seed=seed)[1:]:
            found.setdefault("best epoch chosen on the test", []).append(row["difference"])
    out = []
    for name, values in found.items():
        v = np.array(values)
        half = 1.96 * v.std(ddof=1) / np.sqrt(v.size)
        out.append({"leak": name, "points": 100 * v.mean(), "half": 100 * half, "seeds": seeds})
    return out


def _threshold(made: Study, splits: Sequence[Split]) -> float:
    """Random ratings cut at each subject's median over all trials, against the median over its training trials."""
    rng = np.random.default_rng([made.seed, 5])
    trial, person = made.units.trial, made.units.person
    rating = (rng.normal(0, 1, int(trial.max()) + 1) + np.repeat(rng.normal(0, 1, SUBJECTS), TRIALS))[trial]  # (n,)
    scores = []
    for everything in (True, False):
        right = []
        for split in splits:
            y = np.empty(trial.size, dtype=np.int64)  # (n,)
            for s in range(SUBJECTS):
                mine = person == s
                seen = mine if everything else mine & np.isin(np.arange(trial.size), split.train)
                y[mine] = rating[mine] > np.median(rating[seen])
            answer = _nearest(made.x[split.train], y[split.train], made.x[split.test])
            right.append(recalls(y[split.test], answer, person[split.test], SUBJECTS, 2)[0])
        scores.append(float(np.nanmean(right)))
    return scores[0] - scores[1]


PARTS: dict[str, Callable[[int], Any]] = {
    "trials": trial_doses,
    "copies": copy_doses,
    "film": film_doses,
    "clean": clean,
    "gains": gains,
}


def chart(found: dict[str, Any], file: Path) -> None:
    """Draw detection by dose: three panels, one axis of rates."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams.update({"font.size": 10, "svg.hashsalt": "milmer", "svg.fonttype": "none"})
    panels = (
        ("trials", "Trials on two sides, of 40", "trials of each subject"),
        ("copies", "Near-copies in other trials", "trials of each subject"),
        ("film", "Film recognised, labels go with it", "signature, in deviations of a trial"),
    )
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.6), sharey=True, layout="constrained")
    for axis, (name, title, label) in zip(axes, panels, strict=True):
        rows = found.get(name, [])
        at = np.arange(len(rows))
        if name != "film":
            axis.plot(
                at, [r["counted"] for r in rows], "s--", color="#3b6fb6", label="counted in the tables", clip_on=False
            )
        axis.plot(
            at, [r["measured"] for r in rows], "o-", color="#c2452d", label="measured by the probe", clip_on=False
        )
        if name == "film":
            axis.plot(
                at,
                [r["false"] for r in rows],
                "x:",
                color="#777777",
                label="alarm where films are unseen",
                clip_on=False,
            )
        axis.set_xticks(at, [f"{r['dose']:g}" for r in rows])
        axis.set_xlabel(label)
        axis.set_title(title, fontsize=10.5, loc="left")
        axis.set_ylim(0, 1)
        axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
        axis.grid(axis="y", color="#e3e3e3", linewidth=0.8)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        axis.legend(frameon=False, fontsize=8.5, loc="lower right", bbox_to_anchor=(1.02, 0.06))
    axes[0].set_ylabel("audits that find it")
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def table(found: dict[str, Any]) -> str:
    """Return the table of the docs."""
    lines = [
        "| leak | dose | counted | measured | points it gains the probe |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in ("trials", "copies", "film"):
        for r in found.get(name, []):
            counted = "–" if r["counted"] is None else f"{100 * r['counted']:.0f} %"
            lines.append(
                f"| {r['leak']} | {r['dose']:g} | {counted} | {100 * r['measured']:.0f} % | {r['points']:+.1f} |"
            )
    for r in found.get("gains", []):
        lines.append(f"| {r['leak']} | – | not visible | not visible | {r['points']:+.1f} ± {r['half']:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Run parts of the battery, keep what other runs found, and write the docs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", default=",".join(PARTS))
    given = parser.parse_args()
    file = DOCS / "leak-battery.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    with threadpool_limits(1):
        for part in given.only.split(","):
            found[part] = PARTS[part](given.seeds)
    file.write_text(json.dumps(found, indent=1, default=float) + "\n", encoding="utf-8")
    chart(found, DOCS / "leak-battery.svg")
    page = DOCS / "leak-battery.md"
    if page.exists():
        text = page.read_text(encoding="utf-8")
        begin, end = "<!-- table -->\n", "<!-- end -->"
        head, _, rest = text.partition(begin)
        page.write_text(f"{head}{begin}\n{table(found)}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
