"""Another toolkit's work judged from its tables: rows, splits, and where there are any predictions and features."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from milmer.errors import UserError
from milmer.evaluation.audit import columns, remarks, scores, structure, tables, verdict
from milmer.evaluation.audit.confounds import confounds
from milmer.evaluation.chance import NEW_STIMULI
from milmer.evaluation.protocols import PERMITTED, display_name
from milmer.progress import Progress, silent
from milmer.store import write_json

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST_ROWS = 4000  # of which the probe keeps all distances
FILM_NULLS = (39, 1999)  # exchanges of films' names: p may then be as small as 0.0005, a tenth of alpha
COPIES = 0.2  # share of alpha that is left to the search for copies, which can end in leaky too (copies.py: 1e-3)


def audit_tables(
    metadata: Path,
    splits: Path,
    predictions: Path | None,
    features: Path | None,
    out: Path,
    *,
    progress: Progress = silent,
    **options: Any,
) -> dict[str, Any]:
    """Judge tables as `judge_tables` does, which takes `options`, and write ``audit.json`` and ``audit.html``."""
    from milmer.reports.audit import write_page

    progress(0, 1, "tables")
    found = judge_tables(metadata, splits, predictions, features, **options)
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
        write_json(Path(out) / "audit.json", found)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); name another folder with --out") from error
    write_page(Path(out))
    progress(1, 1, "tables")
    return found


def judge_tables(
    metadata: Path,
    splits: Path,
    predictions: Path | None = None,
    features: Path | None = None,
    *,
    protocol: str | None = None,
    target: str | None = None,
    threshold: float | str | None = None,
    alpha: float = verdict.ALPHA,
    seed: int = 0,
) -> dict[str, Any]:
    """Audit another toolkit's work.

    Parameters
    ----------
    metadata : Path
        One row a sample; see docs/audit.md for the columns of all four tables.
    splits : Path
        A table, or a folder of torcheeg-style folds.
    predictions, features : Path, optional
        What a model answered, and numbers that a probe may learn from. What needs them is left out without them, and
        the audit says so.
    protocol : str, optional
        What the work says that it does (``subject``, ...); without it, the strictest protocol that the splits keep.
    target : str, optional
        As `milmer.labels.make_labels` takes it. Without it: column ``label``, else the predictions' ``y_true``, else
        valence and arousal, else the first rating.
    threshold : float or text of one, optional
        "High" is a rating above it; 5 without it.
    alpha : float
        Chance of a false alarm of all tests together.

    Returns
    -------
    dict
        What audit.json holds.

    Raises
    ------
    UserError
        If a table lacks something; one line that says what.
    """
    began = time.monotonic()
    if protocol is not None and protocol not in PERMITTED:
        raise UserError(f"protocol '{protocol}': found no such protocol, expected {', '.join(PERMITTED)}")
    rows = tables.read_metadata(metadata)
    folds = tables.read_splits(splits, rows)
    answers = tables.read_predictions(predictions, rows, folds) if predictions is not None else None
    values = tables.read_features(features, rows) if features is not None else None
    y, classes, rule = labels_of(rows, answers, target, _number(threshold))
    guessed = structure.guess_protocol(rows, folds)
    name = protocol or guessed
    notes = remarks.on_splits(rows, folds, name, guessed, protocol)
    overlaps = structure.overlaps(rows, folds, name)
    labelled = np.unique(y[y >= 0]).size >= 2
    if labelled:
        confounded = confounds(rows, y, alpha=alpha, seed=seed)
        notes += remarks.on_classes(folds, y)
    else:
        confounded = []
        notes.append(
            f"The labels were not judged: {'none are given' if not (y >= 0).any() else 'there is one class only'} (add "
            "a column label, ratings, or predictions with y_true)."
        )
    found = structure.duplicates(values, rows, folds) if values is not None else []
    evidence, setting = verdict.Evidence(name, overlaps=overlaps), _setting(confounded)
    if values is not None and labelled:
        evidence, setting = _probed(values, rows, y, folds, evidence, setting, seed)
        notes += [evidence.unread] if evidence.unread else []
    elif values is None:
        notes.append("What a model can read from the signal was not judged: no features were given (--features).")
    tests = verdict.tests_of([evidence], setting)
    rejected = verdict.holm(tests, alpha * (1 - COPIES) if found else alpha)
    outcome, sentence = verdict.judge(evidence, setting, rejected)
    outcome, sentence = _structural(outcome, sentence, overlaps, found, values is not None)
    observed = no_signal = None
    inflation: list[dict[str, Any]] = []
    warnings: list[str] = []
    if answers is not None:
        told = scores.Told.of(rows, folds, answers, y, classes)
        warnings = remarks.on_answers(told, answers, rows, folds, y)
        observed = scores.observed(told, seed, structure.unit_codes(rows, "stimulus") if name in NEW_STIMULI else None)
        inflation = [d for d in [scores.dose(told)] if d is not None]
        no_signal = scores.without_signal(told, rows, folds, y, len(classes))
    else:
        notes.append("No score was judged: no predictions were given (--predictions).")
    return {
        "kind": "audit",
        "alpha": alpha,
        "source": _source(metadata, splits, predictions, features),
        "headline": f"{outcome.capitalize()} (protocol {name}). {sentence}",
        "seconds": round(time.monotonic() - began, 2),
        "versions": _versions(),
        "label_rule": rule,
        "warnings": warnings,
        "protocols": [
            {
                "protocol": name,
                "protocol_name": display_name(name),
                "verdict": outcome,
                "sentence": sentence,
                "counted": any(o["shared"] and not o["permitted"] for o in overlaps)
                or verdict.counted(evidence, setting, outcome),
                "fits_of_audit": sum(t.fits for t in (evidence.permuted, evidence.film) if t is not None),
                "overlaps": overlaps,
                "permuted": evidence.permuted.record() if evidence.permuted else None,
                "stimulus": evidence.film.record() if evidence.film else None,
                "observed": observed,
                "notes": warnings + notes,
            }
        ],
        "structure": _facts(rows, folds, overlaps, y) + found,
        "confounds": confounded,
        "recognised": [],
        "inflation": inflation,
        "no_signal": no_signal,
    }


def labels_of(
    rows: pd.DataFrame, answers: tables.Answers | None, target: str | None, threshold: float
) -> tuple[Ints, tuple[str, ...], str]:
    """Return classes of the rows, shape (n_rows,), -1 where there is none, their names, and how they were made.

    Raises
    ------
    UserError
        If predictions come without any truth, or with one that the metadata contradicts.
    """
    from milmer.labels import make_labels

    ratings = [c.removeprefix("rating_") for c in rows.columns if c.startswith("rating_")]
    if target is not None:
        made = make_labels(rows, target, threshold)
        return made.y, made.classes, made.rule
    if answers is not None and answers.truth is not None:
        truth = np.full(len(rows), None, dtype=object)  # (n_rows,)
        truth[answers.row] = answers.truth
        rule = "y_true of the predictions"
        if "label" in rows:
            label = columns.class_names(rows["label"])  # (n_rows,)
            same = _agree(label, truth)
            gap = np.array([t is None and n is not None for t, n in zip(truth, label, strict=True)])  # (n_rows,)
            if same and gap.any():
                truth[gap], rule = label[gap], f"{rule}, the metadata's label elsewhere"
        y, classes = _coded(truth)
        return y, classes, rule
    if "label" in rows:
        y, classes = _coded(columns.class_names(rows["label"]))
        return y, classes, "label as given"
    if ratings:
        name = "valence-arousal" if {"valence", "arousal"} <= set(ratings) else ratings[0]
        made = make_labels(rows, name, threshold)
        return made.y, made.classes, made.rule
    if answers is not None:
        raise UserError(
            "predictions: found no column y_true, nor a label or ratings in the metadata, expected one of them; add "
            "y_true to the predictions"
        )
    return np.full(len(rows), -1, dtype=np.int64), (), "none"


def _number(threshold: float | str | None) -> float:
    try:
        return 5.0 if threshold is None else float(threshold)
    except ValueError as error:
        raise UserError(
            f"threshold '{threshold}': expected a number, since tables do not say between which values a rating lies; "
            "make a column label for any other rule"
        ) from error


def _coded(names: NDArray[np.object_]) -> tuple[Ints, tuple[str, ...]]:
    classes = sorted({str(n) for n in names if n not in (None, "")})
    lookup = {c: i for i, c in enumerate(classes)}
    return np.array([lookup.get(str(n), -1) if n is not None else -1 for n in names], dtype=np.int64), tuple(classes)


def _agree(label: NDArray[np.object_], truth: NDArray[np.object_]) -> bool:
    """Return whether both say the same wherever both say something; refuse where they contradict each other."""
    both = [(a, b) for a, b in zip(label, truth, strict=True) if a is not None and b is not None]
    wrong = sum(a != b for a, b in both)
    if wrong and {a for a, _ in both} == {b for _, b in both}:
        raise UserError(
            f"predictions: y_true differs from the metadata's label in {wrong} of {len(both)} rows, expected the same; "
            "mend the order of rows, or take one of the columns out"
        )
    return bool(both) and not wrong


def _probed(
    values: Floats,
    rows: pd.DataFrame,
    y: Ints,
    folds: Sequence[tables.Fold],
    evidence: verdict.Evidence,
    setting: verdict.Setting,
    seed: int,
) -> tuple[verdict.Evidence, verdict.Setting]:
    """Let the probe look for labels that mean nothing, under the folds as they are."""
    from milmer.evaluation.audit.dependence import Units, association, permuted_scores, stimulus_scores, trial_labels
    from milmer.evaluation.audit.features import UNVARYING, standardised, varies
    from milmer.evaluation.audit.probe import make_probe
    from milmer.evaluation.protocols import Split

    kept = _thinned(rows, folds, seed)
    place = np.full(len(rows), -1, dtype=np.int64)  # (n_rows,)
    place[kept] = np.arange(kept.size)
    splits: list[Split] = []
    for fold in folds:
        learnt = np.concatenate([fold.train, fold.validation])
        train, test = (np.sort(place[part][place[part] >= 0]) for part in (learnt, fold.test))
        if train.size and test.size:
            splits.append(Split(len(splits), train, np.zeros(0, dtype=np.int64), test))
    units = Units.of(rows.iloc[kept])
    if not varies(values[kept], units.person):
        return replace(evidence, unread=UNVARYING), setting
    probe = make_probe(standardised(values[kept]))
    width = int(y.max()) + 1
    permuted = permuted_scores(probe, units, y[kept], width, lambda _y, _seed: splits, None, seed=seed)
    if permuted is not None:
        how = f"labels permuted between the trials of each subject, {permuted.n} times, under the folds as given"
        second = "what is found must be found in labels drawn for each trial on its own too"
        permuted = replace(permuted, how=f"{permuted.how.partition(';')[0]}; {how}; against guessing; {second}")
    # A film on one side only cannot be recognised. Within subjects: who it is must not tilt the exchange of films.
    film = None
    if any(o["kind"] == "stimulus" and o["shared"] for o in evidence.overlaps):
        probe = make_probe(standardised(values[kept], within=units.person))
        film = stimulus_scores(probe, units, splits, nulls=FILM_NULLS, seed=seed)
    labels = trial_labels(y[kept], units.trial, width)  # (T,)
    _, first = np.unique(units.trial, return_index=True)
    film_p = association(labels, units.stimulus[first], units.person[first], seed=seed) if film is not None else 1.0
    return (
        verdict.Evidence(evidence.protocol, overlaps=evidence.overlaps, permuted=permuted, film=film),
        replace(setting, film_p=film_p),
    )


def _thinned(rows: pd.DataFrame, folds: Sequence[tables.Fold], seed: int) -> Ints:
    """Choose rows for the probe: all, or so many of each trial that their distances fit into memory."""
    used = np.unique(np.concatenate([p for f in folds for p in (f.train, f.validation, f.test)]))
    if used.size <= MOST_ROWS:
        return used
    codes = structure.unit_codes(rows, "trial")
    trial = used if codes is None else codes[used]  # (n_used,)
    rng = np.random.default_rng([seed, 41])
    order = rng.permutation(used.size)
    order = order[np.argsort(trial[order], kind="stable")]  # trial by trial, in random order within
    starts = np.flatnonzero(np.r_[True, np.diff(trial[order]) != 0])
    sizes = np.diff(np.r_[starts, order.size])
    rank = np.arange(order.size) - np.repeat(starts, sizes)  # (n_used,)
    most = max(2, MOST_ROWS // starts.size)
    return np.sort(used[order[rank < most]])


def _setting(found: Sequence[Mapping[str, Any]]) -> verdict.Setting:
    fixed = {str(f["what"]): str(f["sentence"]) for f in found if f["fixed"]}
    return verdict.Setting(recording=fixed.get("recording", ""), subject=fixed.get("subject", ""))


def _structural(
    outcome: str, sentence: str, overlaps: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]], probed: bool
) -> tuple[str, str]:
    """Let what was counted speak where nothing was tested, and copies speak where the split itself is clean."""
    copies = [f["found"] for f in found if f["fault"]]
    if copies:
        what = f"Arrays are on two sides: {'; '.join(copies)}."
        return verdict.LEAKY, what if outcome != verdict.LEAKY else f"{sentence} {what}"
    forbidden = [o for o in overlaps if o["shared"] and not o["permitted"]]
    if forbidden:
        doses = max(forbidden, key=lambda o: float(o["dose"]))
        return outcome, f"{sentence} This touches {doses['dose']:.0%} of the test rows."
    if outcome == verdict.UNJUDGED and not probed:
        return outcome, (
            "Nothing is shared that may not be, as far as the tables tell; whether a model finds labels that mean "
            "nothing was not judged, for want of features."
        )
    return outcome, sentence


def _facts(
    rows: pd.DataFrame, folds: Sequence[tables.Fold], overlaps: Sequence[Mapping[str, Any]], y: Ints
) -> list[dict[str, Any]]:
    counts = [f"{len(rows)} rows"]
    for kind in ("subject", "recording", "trial", "stimulus"):
        codes = structure.unit_codes(rows, kind)
        if codes is not None:
            counts.append(f"{np.unique(codes[codes >= 0]).size} {structure.PLURAL[kind]}")
    tested = np.unique(np.concatenate([f.test for f in folds])).size
    text = f"{len(folds)} fold{'s' * (len(folds) != 1)}, which test {tested} of {len(rows)} rows"
    if not any(f.validation.size for f in folds):
        text += "; no validation part: what was chosen was chosen on the test, or not at all"
    facts = [
        {"what": "study", "found": ", ".join(counts), "fault": False},
        {"what": "splits", "found": text, "fault": False},
    ]
    for o in overlaps:
        facts.append(
            {
                "what": f"{structure.PLURAL[o['kind']] if o['kind'] != 'time' else 'time'} on two sides",
                "found": structure.sentence(o),
                "fault": bool(o["shared"] and not o["permitted"]),
            }
        )
    return facts


def _source(*files: Path | None) -> str:
    names = ("metadata", "splits", "predictions", "features")
    return ", ".join(f"{n} {Path(f).name}" for n, f in zip(names, files, strict=True) if f is not None)


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("milmer", "numpy", "pandas", "scipy", "pyarrow")}
