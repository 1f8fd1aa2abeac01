"""Audit of a store: every protocol tried with a probe, judged, and written down."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from milmer.errors import UserError, nearest
from milmer.evaluation.audit import dependence, inflation
from milmer.evaluation.audit.confounds import confounds
from milmer.evaluation.audit.features import UNVARYING, standardised, varies, window_features
from milmer.evaluation.audit.findings import Permuted
from milmer.evaluation.audit.folder import made
from milmer.evaluation.audit.probe import Probe, make_probe
from milmer.evaluation.audit.structure import duplicates, overlaps
from milmer.evaluation.audit.units import Units, trial_labels
from milmer.evaluation.audit.verdict import ALPHA, Evidence, Setting, counted, headline, holm, judge, shown, tests_of
from milmer.evaluation.chance import NEW_STIMULI
from milmer.evaluation.protocol_fits import DEFAULT_FOLDS
from milmer.evaluation.protocols import PROTOCOLS, Split, make_splits
from milmer.evaluation.run import plain
from milmer.progress import Progress, silent

if TYPE_CHECKING:
    import pandas as pd

    from milmer.config import Config
    from milmer.store import Store

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Splitter = Callable[[Ints, int], Sequence[Split]]

ORDER = ("window", "trial", "subject", "stimulus", "subject-and-stimulus", "cross-study")


@dataclass
class Study:
    """Rows of a study with their features, ready to be audited.

    Parameters
    ----------
    rows : DataFrame or mapping of columns, n rows long
    y : ndarray of int64, shape (n,)
        Classes, -1 where there is none.
    k : int
        Number of classes.
    x : ndarray, shape (n, F)
        Features, NaN where missing.
    modality : ndarray of int, shape (F,), optional
        See `features.standardised`.
    seed : int
    """

    rows: pd.DataFrame | Mapping[str, Any]
    y: Ints
    k: int
    x: Floats
    modality: Ints | None = None
    seed: int = 0
    _dealt: dict[tuple[int | None, int, bytes], list[Split]] = field(default_factory=dict, init=False, repr=False)

    @functools.cached_property
    def units(self) -> Units:
        """Codes of the rows' people, trials and stimuli."""
        return Units.of(self.rows)

    @functools.cached_property
    def centred(self) -> Floats:
        """Features standardised, centred within each person: (n, F)."""
        return standardised(self.x, self.modality, self.units.person)

    @functools.cached_property
    def probe(self) -> Probe:
        """Probe of the rows, their features centred within each person."""
        return make_probe(self.centred)

    @functools.cached_property
    def varies(self) -> bool:
        """Whether any feature differs between two rows of one person: else there is nothing to probe."""
        return varies(self.x, self.units.person)

    @functools.cached_property
    def raw_probe(self) -> Probe:
        """Probe of the rows, their features as they are."""
        return make_probe(standardised(self.x, self.modality), neighbours=False)

    @functools.cached_property
    def trial_rows(self) -> Ints:
        """First row of each trial, (T,)."""
        return np.unique(self.units.trial, return_index=True)[1].astype(np.int64)

    def split(self, protocol: str, y: Ints, folds: int | None, seed: int) -> list[Split]:
        """Split the rows by a protocol; whole trials are dealt once, for every protocol is compared with them."""
        if protocol != "trial":
            return make_splits(self.rows, y, protocol, folds, self.seed + seed)
        key = (folds, seed, hashlib.blake2b(np.ascontiguousarray(y).tobytes(), digest_size=16).digest())
        if key not in self._dealt:
            self._dealt[key] = make_splits(self.rows, y, protocol, folds, self.seed + seed)
        return self._dealt[key]


def audit_study(
    study: Study, cases: Mapping[str, Case], progress: Progress = silent
) -> list[tuple[Evidence, dict[str, Any]]]:
    """Measure each case: overlaps, permuted labels, labels of the stimuli, true labels.

    Returns
    -------
    list of (Evidence, dict)
        And what more audit.json says of it: ``observed``, ``fits_of_audit``.
    """
    out: list[tuple[Evidence, dict[str, Any]]] = []
    for done, (name, case) in enumerate(cases.items()):
        progress(done, len(cases), f"protocol {name}")
        try:
            splits = case.splits(study.y, 0)
        except UserError as error:
            out.append((Evidence(case.protocol, impossible=str(error)), {"observed": None, "fits_of_audit": 0}))
            continue
        found = overlaps(study.rows, splits, case.protocol)
        if not study.varies:
            blind = Evidence(case.protocol, "", found, unread=UNVARYING)
            out.append((blind, {"observed": None, "fits_of_audit": 0}))
            continue
        permuted = dependence.permuted_scores(
            study.probe, study.units, study.y, study.k, case.splits, case.base, seed=study.seed
        )
        film = dependence.stimulus_scores(study.probe, study.units, splits, seed=study.seed)
        evidence = Evidence(case.protocol, "", found, permuted, film)
        fits = len(splits) + (permuted.fits if permuted else 0) + (film.fits if film else 0)
        out.append((evidence, {"observed": _observed(study, splits, permuted, case.protocol), "fits_of_audit": fits}))
    return out


@dataclass(frozen=True)
class Case:
    """A way of splitting that is audited.

    Parameters
    ----------
    protocol : str
        What it claims to be.
    splits : callable (y, seed) -> splits
        Made anew for the labels given, or always the same.
    base : callable, optional
        What it is compared with: ``trial`` with as many folds.
    """

    protocol: str
    splits: Splitter
    base: Splitter | None


def case_of(study: Study, protocol: str, folds: int | None = None) -> Case:
    """Return how a protocol splits a study, and ``trial`` with as many folds for comparison."""
    people = int(study.units.person.max(initial=-1)) + 1
    if protocol == "subject" and people >= 3:
        folds = min(folds or DEFAULT_FOLDS, people)

    made: list[int] = []  # how many fits the protocol takes: the same for all labels

    def splits(y: Ints, seed: int) -> list[Split]:
        found = study.split(protocol, y, folds, seed)
        made[:] = [len(found)]
        return found

    def base(y: Ints, seed: int) -> list[Split]:
        count = made[0] if made else len(splits(y, seed))
        if protocol == "subject-and-stimulus":
            count = int(np.sqrt(count) + 0.5)
        return study.split("trial", y, max(3, min(count, int(study.units.trial.max()) + 1)), seed)

    return Case(protocol, splits, None if protocol == "trial" else base)


def _observed(study: Study, splits: Sequence[Split], permuted: Permuted | None, protocol: str) -> dict[str, Any] | None:
    from scipy.special import stdtr

    scores, chance = dependence.fold_scores(study.probe, study.units, study.y, study.k, splits)  # (3,), ()
    if not np.isfinite(scores[2]):
        return None
    null = np.array(permuted.null) if permuted is not None else np.zeros(0)  # (R,)
    if null.size < 2:
        return {"score": float(scores[2]), "chance": chance, "p": None}
    mean, spread = float(null.mean()), float(null.std(ddof=1) * np.sqrt(1 + 1 / null.size))
    # One further draw from a normal distribution known by these few: ranks among twelve could not tell 0.05 from less.
    p = float(stdtr(null.size - 1, (mean - scores[2]) / spread)) if spread > 1e-12 else None
    if protocol in NEW_STIMULI:  # a few films decide there, which trials permuted one by one do not know
        p = None
    return {"score": float(scores[2]), "chance": mean, "p": p}


def judged(
    measured: Sequence[tuple[Evidence, Mapping[str, Any]]], setting: Setting, names: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Return the entries ``protocols`` of audit.json, every test of them judged together."""
    tests = tests_of([evidence for evidence, _ in measured], setting)
    rejected = holm(tests)
    out = []
    for i, (evidence, more) in enumerate(measured):
        verdict, sentence = judge(evidence, setting, rejected)
        notes = []
        if evidence.film is not None and evidence.film.untested:
            notes.append(f"labels of films are shown and not tested: {evidence.film.untested}")
        out.append(
            {
                "protocol": evidence.protocol,
                "protocol_name": names[i] if names else shown(evidence.protocol),
                "verdict": verdict,
                "sentence": sentence,
                "counted": counted(evidence, setting, verdict),
                "overlaps": list(evidence.overlaps),
                "permuted": evidence.permuted.record() if evidence.permuted else None,
                "stimulus": evidence.film.record() if evidence.film else None,
                "notes": notes,
                **more,
            }
        )
    return out


def setting_of(study: Study, found: Sequence[Mapping[str, Any]]) -> Setting:
    """Return what holds for the whole study: whether labels go with films, or are the recording or the subject."""
    fixed = {str(f["what"]): str(f["sentence"]) for f in found if f.get("fixed")}
    label = trial_labels(study.y, study.units.trial, study.k)  # (T,)
    first = study.trial_rows
    p = dependence.association(label, study.units.stimulus[first], study.units.person[first], seed=study.seed)
    return Setting(p, fixed.get("recording", ""), fixed.get("subject", ""))


def audit_store(
    store: Store,
    config: Config,
    out: Path,
    runs: Sequence[Path] = (),
    protocols: Sequence[str] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Audit a store under every protocol it allows, and evaluated runs of it as they were split.

    Parameters
    ----------
    store : Store
    config : Config
        Windows, modalities, target and threshold; number of folds; seed.
    out : Path
        Folder for audit.json and audit.html.
    runs : sequence of Path
        Folders of ``milmer evaluate`` on this store; each gets an audit.json of its own.
    protocols : sequence of str, optional
        Which to try; all that the store allows without it.

    Returns
    -------
    dict
        What audit.json holds, and ``runs``: the entry of each of `runs`, as it is in that run's own audit.json.

    Raises
    ------
    UserError
        If a protocol has no such name, `out` cannot be written, a run is not of this store, or the store has no labels
        of two classes.
    """
    from threadpoolctl import threadpool_limits

    from milmer.evaluation.audit.of_runs import check_run

    wanted = _wanted(protocols)
    for run in runs:
        check_run(run, store)
    with made(out), threadpool_limits(1):  # thousands of small products: threads would only wait for each other
        return _audit(store, config, out, runs, wanted if protocols else _allowed(store, wanted), progress)


def _allowed(store: Store, wanted: tuple[str, ...]) -> tuple[str, ...]:
    return wanted if store.trials["study"].nunique() > 1 else tuple(p for p in wanted if p != "cross-study")


def _audit(
    store: Store, config: Config, out: Path, runs: Sequence[Path], wanted: tuple[str, ...], progress: Progress
) -> dict[str, Any]:
    from milmer.evaluation.audit.of_runs import audit_run
    from milmer.labels import make_labels
    from milmer.store import write_json

    begun = time.monotonic()
    features = window_features(store, config.data, progress)
    labels = make_labels(
        features.table,
        config.data.target,
        config.data.threshold,
        store.info.get("rating_ranges") or None,
        config.data.ties,
    )
    study = Study(
        features.table, labels.y, len(labels.classes), features.values, features.modality, config.evaluation.seed
    )
    found = confounds(features.table, labels.y, seed=config.evaluation.seed)
    setting = setting_of(study, found)
    cases = {p: case_of(study, p, config.evaluation.folds) for p in wanted}
    measured = audit_study(study, cases, progress)
    progress(1, 1, "inflation")
    entries = judged(measured, setting)
    for entry in entries:
        entry["notes"] += list(features.notes)
    record: dict[str, Any] = {
        "kind": "audit",
        "alpha": ALPHA,
        "source": f"{store.path} ({store.name}; {labels.rule})",
        "headline": headline(
            [(e["protocol_name"], e["verdict"]) for e in entries],
            counted={e["protocol_name"] for e in entries if e["counted"]},
        ),
        "protocols": entries,
        "structure": _structure(study, config.evaluation.folds),
        "confounds": found,
        **_context(study, config.evaluation.folds),
        "versions": versions(),
        "seconds": round(time.monotonic() - begun, 1),
    }
    record = plain(record)
    told = {run: audit_run(run, store, study, setting, record) for run in runs}
    write_json(out / "audit.json", record)  # all is written at the end: who stops it before has nothing half done
    for run, own in told.items():
        write_json(run / "audit.json", own)
    _page(out)
    return record | {"runs": [own["protocols"][0] for own in told.values()]}


def _page(out: Path) -> None:
    """Write audit.html beside audit.json."""
    from milmer.reports.audit import write_page

    write_page(out)


def _context(study: Study, folds: int | None) -> dict[str, Any]:
    """Recognition, inflation and the predictor without signal; what a study is too small for is left out."""
    out: dict[str, Any] = {"recognised": [], "inflation": [], "no_signal": None}
    if not study.varies:
        return out
    parts: dict[str, list[Split] | None] = {}
    for protocol in ("trial", "subject", "window"):
        try:
            parts[protocol] = list(case_of(study, protocol, folds).splits(study.y, 0))
        except UserError:
            parts[protocol] = None
    trial, subject, window = parts["trial"], parts["subject"], parts["window"]
    if trial is not None:
        out["recognised"] = inflation.recognised(study.raw_probe, study.probe, study.units, trial, subject)
        if window is not None:
            out["inflation"].append(
                inflation.window_against_trial(study.probe, study.units, study.y, study.k, window, trial)
            )
        out["inflation"] += inflation.best_epochs(study.probe, study.units, study.y, study.k, trial, seed=study.seed)
    honest = "subject" if subject is not None else "trial"
    if parts[honest] is not None:
        out["no_signal"] = inflation.over_no_signal(
            study.probe, study.units, study.y, study.k, parts[honest] or [], honest
        )
    return out


def _structure(study: Study, folds: int | None) -> list[dict[str, Any]]:
    """Look for copies of windows among trials: they would be on two sides of any split by trials."""
    try:
        splits = case_of(study, "trial", folds).splits(study.y, 0)
    except UserError:
        return []
    return [dict(f) for f in duplicates(study.x, study.rows, splits)]


def _wanted(protocols: Sequence[str] | None) -> tuple[str, ...]:
    for protocol in protocols or ():
        if protocol not in PROTOCOLS:
            raise UserError(
                f"--protocol {protocol}: found no such protocol, expected {', '.join(PROTOCOLS)}"
                f"{nearest(protocol, PROTOCOLS)}"
            )
    return tuple(dict.fromkeys(protocols)) if protocols else ORDER


def versions() -> dict[str, str]:
    """Versions of what the audit was made with."""
    names = ("milmer", "numpy", "pandas", "scipy")
    return {n: importlib.metadata.version(n) for n in names} | {"python": platform.python_version()}
