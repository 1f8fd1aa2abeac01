"""`milmer report`: a run as one self-contained HTML page."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from milmer.config import dump
from milmer.errors import UserError
from milmer.evaluation.samples_eeg import BANDS, NAMES
from milmer.evaluation.samples_frames import choose_examples
from milmer.reports import (
    brain,
    curves,
    examples,
    figures,
    probes,
    protocols,
    reliability,
    targets,
    traces,
    verdict,
    words,
)
from milmer.reports.reading import Run, read_run, started
from milmer.reports.writing import fill, write_file

LONG = 12  # recordings, beyond which the table is folded


def write_report(
    run: Path, *, show_faces: bool = False, store: Path | None = None, beside: Sequence[Path] = ()
) -> Path:
    """Write ``report.html`` into a run folder.

    The page holds everything it shows: it opens from disk without a network, and asks nothing of one. Frames, EEG maps
    and what preparation removed come from the run's own ``samples/``; a run without them needs the store it names, and
    where that is gone the page says so.

    Parameters
    ----------
    run : Path
        What `milmer train` or `milmer evaluate` wrote.
    show_faces : bool
        Show faces as they are. By default they are averaged to 8 x 8 cells, which cannot be undone.
    store : Path, optional
        The run's store: for faces as they are, or for a run without samples whose store was moved.
    beside : sequence of Path
        Runs of the same study under other protocols, to draw beside this one.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    UserError
        If `run` is no finished run, `store` is not its store, faces are asked for and nowhere to be had, a run beside
        it is of something else, or the page cannot be written.
    """
    found = read_run(Path(run), store, show_faces=show_faces)
    others = protocols.read_beside(found, beside)
    return write_file(found.path / "report.html", fill("report.html.j2", _content(found, others, show_faces)))


def _cards(run: Run, maps: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the example windows: of the samples, or without pictures of the predictions alone."""
    samples = run.samples
    rows = samples.examples if samples else choose_examples(run.once, run.classes)
    cards = []
    for i in range(len(rows)):
        row = rows.iloc[i]
        card = examples.describe_example(run, row)
        card["frames"] = examples.frame_strip(run, row, samples.frames[i]) if samples else []
        card["traces"] = traces.eeg_traces(*samples.eeg[i], samples.rate) if samples else ""
        card["more"] = examples.more_windows(run, row) if card["frames"] else ""
        card["map"] = maps["examples"][i] if maps.get("examples") else ""
        cards.append(card)
    return cards


def _content(run: Run, others: Sequence[Run], show_faces: bool) -> dict[str, Any]:
    record, config = run.record, run.config
    faults: list[str] = list(run.samples.faults) if run.samples else []

    def guard(make: Callable[[], Any], otherwise: Any) -> Any:
        """Let a part that cannot be made cost itself only."""
        try:
            return make()
        except (UserError, OSError) as error:
            faults.append(str(error))
            return otherwise

    maps = guard(lambda: brain.scalp_maps(run), {"fault": "not readable"})
    main, _ = words.main_row(run)
    audit = verdict.audit_verdict(run)
    honest = run.part == "test" and audit["kind"] not in ("leaky", "confounded")
    return {
        "title": f"{record.get('study', 'Study')}: {_target(run)}",
        "kind": record.get("kind", "evaluate"),
        "protocol": record.get("protocol_name") or run.protocol,
        "part": run.part,
        "leaky": run.leaky,
        "facts": _facts(run),
        "headline": [*words.headline(run), *verdict.claims(run)],
        "gain": verdict.gain(run),
        "audit": audit,
        # Green is for honest figures only.
        "verdict": words.verdict(main) if honest else "",
        "banners": words.banners(run),
        "classes": run.classes,
        "levels": run.levels,
        "level_words": words.level_words(run),
        "row_word": run.row_word,
        "rows_word": run.rows_word,
        "figures": figures.figure_table(run),
        "figure_notes": figures.figure_notes(run),
        "dots": figures.dot_plot(run),
        "beside": protocols.compare_protocols(run, others),
        "binary": targets.binary_tables(run),
        "ratings": targets.rating_tables(run),
        "reliability": guard(lambda: reliability.reliability(run), {}),
        "confusions": figures.confusion_tables(run),
        "subjects": figures.subject_plot(run),
        "config_auxiliary": config.model.auxiliary > 0 and any("epoch" in h for h in run.histories.values()),
        "curves": curves.learning_curves(run),
        "attention_curves": curves.attention_curves(run),
        "attention_notes": probes.attention_notes(run),
        "deletion": probes.deletion(run),
        "added": probes.added(run),
        "cards": _cards(run, maps),
        "modalities": config.data.modalities,
        "kept_words": examples.kept_words(run),
        "spread": examples.attention_spread(run),
        "show_faces": show_faces,
        "maps": maps,
        "bands": [{"sign": s, "name": NAMES[s], "range": f"{a:g}–{b:g} Hz"} for s, (a, b) in BANDS.items()],
        "preparation": brain.preparation_table(run),
        "components": guard(lambda: brain.removed_components(run), []),
        "reject": config.data.reject,
        "long": LONG,
        "store_fault": run.store_fault,
        "faults": sorted(set(faults)),
        "failed": dict(run.samples.failed) if run.samples else {},
        "protocol_words": words.PROTOCOLS.get(run.protocol, ""),
        "splits": figures.splits_table(run),
        "guard": verdict.guard_rows(run),
        "failed_folds": [_failure(f) for f in record.get("failed") or []],
        "notes": list(record.get("notes", [])),
        "typed": _typed(record.get("command")),
        "split_hash": str(record.get("split_hash") or ""),
        "command": _command(run),
        "config": dump(config),
        "versions": sorted(dict(record.get("versions", {})).items()),
        "seconds": words.duration(record.get("seconds")),
        "memory": _memory(record.get("peak_memory_bytes")),
        "missing": words.MISSING,
    }


def _target(run: Run) -> str:
    target = run.config.data.target
    if target == "label" and len(run.classes) <= 4:
        return " or ".join(run.classes)
    return {"valence-arousal": "valence and arousal", "label": "labels"}.get(target, target)


def _facts(run: Run) -> list[tuple[str, str]]:
    """Return what was run on what, as pairs for the head of the page."""
    record, config, scored = run.record, run.config, run.once
    data = config.data
    trials = scored[[c for c in ("subject", "session", "trial") if c in scored]].drop_duplicates()
    counts = [
        words.count(scored["subject"].nunique(), "subject"),
        words.count(len(trials), "trial"),
        words.bags(run, len(scored)),
    ]
    folds = run.predictions["fold"].nunique()
    scope = str(record.get("scope") or config.evaluation.scope)
    within = ", a model for each subject alone" if scope == "subject" else ""
    seeds = ", ".join(map(str, run.seeds)) if len(run.seeds) > 1 else str(config.training.seed)
    rule = record.get("label_rule") or words.MISSING
    scores = [f"{c} {n}" for c, n in zip(run.classes, _per_class(run), strict=True)]
    facts = [
        ("Study", str(record.get("study", words.MISSING))),
        ("Input", " and ".join(words.INPUTS[m] for m in data.modalities)),
        ("Protocol", f"{record.get('protocol_name') or run.protocol}, {words.count(folds, 'fold')}{within}"),
        ("Figures of", f"the {run.part} part: {', '.join(counts)}"),
        ("Classes", f"{', '.join(scores)} ({run.rows_word})"),
        ("Label rule", str(rule)),
        ("Model", f"preset {config.preset}, backbone {config.model.backbone}"),
        ("Seeds" if len(run.seeds) > 1 else "Seed", f"{seeds} (training), {config.evaluation.seed} (split)"),
        ("Budget", _budget(run)),
        ("Store", str(record.get("fingerprint", words.MISSING))),
        *([("Folds from", str(record["splits"].get("file")))] if record.get("splits") else []),
        (
            "Made",
            ", ".join(filter(None, [started(run), f"milmer {dict(record.get('versions', {})).get('milmer', '?')}"])),
        ),
    ]
    return (
        facts
        if "face" in data.modalities
        else [f if f[0] != "Model" else (f[0], f"preset {config.preset}") for f in facts]
    )


def _per_class(run: Run) -> list[int]:
    counts = run.once["y_true"].value_counts()
    return [int(counts.get(i, 0)) for i in range(len(run.classes))]


def _budget(run: Run) -> str:
    """What of a test person was seen before the test."""
    told = run.record.get("budget")
    return str(told) if told else ", ".join(sorted({str(b) for b in run.predictions.get("budget", ["none"])}))


def _command(run: Run) -> str:
    store = run.store_path or "STORE"
    parts = ["milmer", str(run.record.get("kind", "evaluate")), store, "--config", str(run.path / "config.yaml")]
    if run.record.get("test_store"):
        parts += ["--test-store", str(run.record["test_store"])]
    if run.record.get("splits"):
        parts += ["--splits", str(run.path / "splits.parquet")]
    return shlex.join([*parts, "--out", "NEW_RUN"])


def _typed(command: Any) -> str:
    """The command as it was typed, from the argv that the run keeps."""
    if not command:
        return ""
    if isinstance(command, str):
        return command
    first, *rest = [str(c) for c in command]
    return shlex.join([Path(first).name, *rest])


def _failure(fold: Any) -> str:
    return f"{fold.get('what')}: {fold.get('reason')}" if isinstance(fold, dict) else str(fold)


def _memory(peak: float | None) -> str:
    return f"{peak / 1e9:.2f} GB" if peak else words.MISSING
