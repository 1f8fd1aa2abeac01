from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.reports.test_page import Page

from milmer.errors import UserError
from milmer.reports.page import write_report
from milmer.reports.protocols import read_beside
from milmer.reports.reading import Run, read_run
from milmer.reports.verdict import audit_verdict, claims, gain, guard_rows, structure
from milmer.reports.words import headline, main_row, verdict


def audited(run: Path, **entry: Any) -> None:
    found = {"kind": "audit", "alpha": 0.005, "headline": "", "structure": [], "confounds": []}
    (run / "audit.json").write_text(json.dumps(found | {"protocols": [entry]}))


@pytest.fixture
def run(make: Callable[..., Any]) -> Run:
    return read_run(make(modalities=("face",)).run)


def test_the_audits_verdict_stands_right_under_the_headline(make: Callable[..., Any]) -> None:
    made = make(modalities=("face",))
    permuted = {"score": 0.62, "base": 0.25, "excess": 0.37, "low": 0.30, "high": 0.44, "p": 0.0001, "n": 60}
    overlaps = [{"kind": "trial", "shared": 12, "of": 24, "permitted": False}]
    audited(
        made.run,
        protocol="trial",
        verdict="leaky",
        sentence="Something is known of the test.",
        permuted=permuted,
        overlaps=overlaps,
        fits_of_audit=40,
    )
    page = Page(write_report(made.run))
    heading, verdict, figures = (page.text.index(x) for x in ("Macro-F1 0.", "Audit: leaky", "Study made up"))
    assert heading < verdict < figures
    for said in (
        "Something is known of the test.",
        "still scores 0.62, against 0.25",
        "an excess of 37 [30, 44] points",
        "0.5 % of clean studies",
        "40 fits",
        "12 of 24 a leak",
    ):
        assert said in page.text, said
    assert "milmer audit " not in page.text.split("By milmer audit")[0]  # nothing more to type
    assert '<div class="headline ">' in page.source  # green is for honest figures only
    audited(made.run, protocol="trial", verdict="clean", sentence="Nothing was found.")
    assert '<div class="headline above">' in Page(write_report(made.run)).source


def test_without_an_audit_the_split_is_told_and_what_to_type(make: Callable[..., Any]) -> None:
    made = make(modalities=("face",), evaluation__protocol="subject")
    run = read_run(made.run)
    found = audit_verdict(run)
    assert found["kind"] == "none" and found["command"] == f"milmer audit {made.store} --run {made.run} --out AUDIT"
    shared = {o["kind"]: (o["shared"], o["permitted"]) for o in structure(run)}
    assert shared["subject"] == (0, False) and shared["trial"] == (0, False)
    assert shared["stimulus"][0] > 0 and shared["stimulus"][1]
    # The same split, said to be of another protocol, shares what that one forbids.
    other = audit_verdict(replace(run, record={**run.record, "protocol": "stimulus"}))
    assert other["kind"] == "leaky" and "stimuli of the test part are in training" in other["sentences"][0]


def test_an_audit_of_another_protocol_is_not_taken_for_this_ones(run: Run) -> None:
    entry = {"protocol": "subject", "verdict": "clean", "sentence": "Nothing was found."}
    found = audit_verdict(replace(run, audit={"protocols": [entry]}))
    assert found["kind"] == "none" and "says nothing of “trial”" in found["sentences"][1]
    assert audit_verdict(replace(run, audit={"protocols": [entry | {"protocol": "trial"}]}))["kind"] == "clean"


def test_every_figure_of_a_leaky_run_is_called_leaky(make: Callable[..., Any]) -> None:
    made = make(modalities=("face",), evaluation__protocol="window")
    page = Page(write_report(made.run))
    assert "Not audited, but leaky" in page.text
    for part in ("figures", "confusion", "subjects", "reliability", "curves", "attention", "windows", "splits"):
        section = re.search(rf'<section id="{part}">(.*?)</section>', page.source, re.DOTALL)
        assert section and "leaky" in section.group(1), part
    tracks = [a for t, a in page.tags if t == "span" and a.get("class", "").startswith("track")]
    assert tracks and all("leaky" in a["class"] and "leaky" in a["aria-label"] for a in tracks)
    assert "on held-out windows of trials that were trained on (leaky)" in page.text


def test_an_honest_run_is_nowhere_called_leaky(make: Callable[..., Any]) -> None:
    page = Page(write_report(make(modalities=("face",)).run))
    assert not [a for _, a in page.tags if "leak" in a.get("class", "")]


def of(run: Run, **keys: Any) -> Run:
    """Return the run with keys added to macro-F1 of trials."""
    rows = [dict(r) for r in run.metrics]
    for row in rows:
        if (row["name"], row["level"], row.get("subject")) == ("macro_f1", "trial", None):
            row |= keys
    return replace(run, metrics=rows)


def test_claims_beyond_chance(run: Run) -> None:
    plain = replace(run, metrics=[{k: v for k, v in r.items() if k in OLD} for r in run.metrics])
    assert claims(plain) == []
    assert gain(plain) == ""
    said = gain(of(plain, no_signal=0.41, gain=0.12, gain_low=0.02, gain_high=0.22))
    assert said.startswith("Gain over no signal 0.12 [0.02, 0.22]: ") and said.endswith("; its interval excludes 0.")
    assert "one gets 0.41, this model" in said
    said = gain(of(plain, no_signal=0.41, gain=0.12, gain_low=-0.02, gain_high=0.26))
    assert "not shown to differ from nothing" in said
    said = gain(of(plain, no_signal=0.91, gain=-0.12, gain_low=-0.22, gain_high=-0.02))
    assert "the model does worse than that" in said
    assert "too few subjects" in gain(of(plain, no_signal=0.41, gain=0.12, gain_low=None, gain_high=None))
    (new,) = claims(of(plain, low_new=0.3, high_new=0.9, interval_new_how="3 subjects, 8 stimuli"))
    assert "[0.30, 0.90] (macro-F1 of trials; 3 subjects, 8 stimuli)" in new
    leaky = replace(plain, record={**plain.record, "protocol": "window"})
    assert claims(of(leaky, low_new=0.3, high_new=0.9)) == []
    assert gain(of(leaky, no_signal=0.41, gain=0.12)).startswith("Gain of a leaky protocol over no signal 0.12")
    (spread,) = claims(of(plain, seeds=3, seed_sd=0.0123))
    assert "Over 3 seeds of training: standard deviation 0.012" in spread


OLD = (
    *("name", "level", "part", "protocol", "subject", "value", "low", "high", "interval_how", "n", "n_of", "chance"),
    *("chance_high", "p", "chance_how", "majority", "seed"),
)


def test_the_gain_stands_right_after_the_first_sentence(make: Callable[..., Any]) -> None:
    made = make(modalities=("face",))
    rows = json.loads((made.run / "metrics.json").read_text())
    for row in rows:
        row |= {"no_signal": 0.31, "gain": 0.2, "gain_low": 0.1, "gain_high": 0.3}
    (made.run / "metrics.json").write_text(json.dumps(rows))
    text = Page(write_report(made.run)).text
    first, said, chance = (text.index(x) for x in ("Macro-F1 0.", "Gain over no signal 0.20", "That is above chance"))
    assert first < said < chance


def test_metrics_of_an_older_run_still_give_a_page(make: Callable[..., Any]) -> None:
    made = make(modalities=("face",))
    rows = json.loads((made.run / "metrics.json").read_text())
    rows = [
        {k: v for k, v in r.items() if k in OLD and (k != "subject" or v)}
        for r in rows
        if not r.get("calibrated") and r.get("target") in (None, "valence-arousal") and "low" in r
    ]
    (made.run / "metrics.json").write_text(json.dumps(rows))
    page = Page(write_report(made.run))
    assert "Valence, arousal and the ratings" not in page.text and "differs from chance at 5 % beyond" not in page.text
    assert "above chance" in page.text


def test_marks_of_chance_are_on_every_point(make: Callable[..., Any]) -> None:
    made = make(modalities=("face",))
    rows = json.loads((made.run / "metrics.json").read_text())
    for row in rows:
        row |= {
            "prior": 0.26,
            "above": 0.4,
            "above_how": "24 trials",
            "no_signal": 0.31,
            "majority": 0.2,
            "chance": 0.25,
        }
    (made.run / "metrics.json").write_text(json.dumps(rows))
    page = Page(write_report(made.run))
    tracks = page.source.split('<span class="track ')[1:]
    assert len(tracks) >= 12
    for track in tracks:
        for mark in ("chance", "majority", "prior", "above", "no_signal"):
            assert f'class="mark {mark}"' in track.split("</span>")[0]
    assert "The bar to differ from chance at 5 % is 0.40 (24 trials)." in page.text
    assert "class prior" in page.text and "others’ ratings of the stimulus" in page.text


def test_the_guards_log_is_one_row_a_kind_of_fit(run: Run) -> None:
    log = [
        {"kind": "weights", "what": "network", "parts": "train", "fewest_rows": 60, "most_rows": 62, "fits": 3},
        {
            "kind": "calibration",
            "what": "temperature",
            "parts": "validation",
            "fewest_rows": 9,
            "most_rows": 9,
            "fits": 3,
        },
    ]
    found = guard_rows(replace(run, record={**run.record, "guard": log}))
    assert [r["rows"] for r in found] == ["60 to 62", "9"]
    assert found[0] == {"kind": "weights", "what": "network", "fits": 3, "rows": "60 to 62", "parts": "train"}
    assert guard_rows(run) == []


def test_what_was_run_is_told(make: Callable[..., Any]) -> None:
    made = make(modalities=("face",))
    record = json.loads((made.run / "run.json").read_text())
    record |= {"command": ["/some/where/milmer", "evaluate", "a store", "--out", "x"], "split_hash": "0123456789abcdef"}
    record |= {
        "failed": [{"what": "fold 2 of 3", "folder": "folds/1", "reason": "out of memory"}],
        "budget": "labelled:4",
        "scope": "subject",
    }
    record["guard"] = [
        {"kind": "weights", "what": "network", "parts": "train", "fewest_rows": 60, "most_rows": 60, "fits": 3}
    ]
    record |= {"test_store": "/other/store", "splits": {"file": "mine.csv", "sha256": "0"}}
    (made.run / "run.json").write_text(json.dumps(record))
    text = Page(write_report(made.run)).text
    for said in ("milmer evaluate 'a store' --out x", "Split 0123456789abcdef", "fold 2 of 3: out of memory"):
        assert said in text
    assert "Budget labelled:4" in text and "a model for each subject alone" in text and "The guard’s log" in text
    assert "/some/where" not in text
    assert f"--test-store /other/store --splits {made.run / 'splits.parquet'}" in text
    assert "Folds from mine.csv" in text


def chance_of(run: Run, level: str, **keys: Any) -> Run:
    """Return the run with keys added to macro-F1 at a level."""
    rows = [dict(r) for r in run.metrics]
    for row in rows:
        if (row["name"], row["level"], row.get("subject")) == ("macro_f1", level, None):
            row |= keys
    return replace(run, metrics=rows)


def test_the_headline_follows_the_one_rule(run: Run) -> None:
    above = chance_of(run, "window", value=0.6, above=0.5, above_how="t over subjects", p=0.01)
    assert verdict(main_row(above)[0]) == "above"
    assert "That is above chance (p = 0.010). The bar to differ from chance at 5 % is 0.50" in " ".join(headline(above))
    unsure = chance_of(above, "window", p=0.15)
    assert verdict(main_row(unsure)[0]) == "not above"
    assert "reaches the bar of 0.50 (t over subjects), but p would have to be 0.05 at most" in " ".join(
        headline(unsure)
    )
    below = chance_of(above, "window", above=0.7)
    said = " ".join(headline(below))
    assert "That is not above chance (p = 0.010" in said and "would have to be above 0.70" in said


def test_where_windows_have_no_chance_level_the_headline_is_that_of_whole_trials(run: Run) -> None:
    how = (
        "none over windows: a subject's trials of different classes differ in length; read the figures of whole trials"
    )
    none = dict.fromkeys(("chance", "chance_high", "p", "above"))
    windows = chance_of(run, "window", **none, chance_how=how, above_how=how)
    known = chance_of(windows, "trial", value=0.61, above=0.5, p=0.01)
    assert main_row(known)[1] == "trial"
    said = headline(known)
    assert said[0].startswith("Macro-F1 0.61") and "on held-out trials" in said[0] and "window" not in said[0]
    assert said[2].endswith(f"whether that is above chance is not known ({how}).")
    nothing = chance_of(windows, "trial", **none)
    assert verdict(main_row(nothing)[0]) == "unknown"
    assert "not known: there is no chance level over windows: a subject's trials" in " ".join(headline(nothing))


def test_what_the_split_shares_is_counted_once_however_many_folds(run: Run) -> None:
    table = run.predictions.assign(study="one")
    found = {o["kind"]: (o["shared"], o["of"]) for o in structure(replace(run, predictions=table))}
    assert found["study"] == (1, 1)
    people = table["subject"].nunique()
    assert found["subject"] == (people, people)


def test_a_run_is_not_drawn_beside_itself(run: Run) -> None:
    with pytest.raises(UserError, match="is drawn already; give --beside another run"):
        read_beside(run, [run.path])


def test_the_excess_that_decides_and_a_counted_verdict_are_said(make: Callable[..., Any]) -> None:
    again = {"score": 0.51, "base": 0.5, "excess": 0.01, "low": -0.02, "high": 0.03, "p": 0.5}
    permuted = {"score": 0.67, "base": 0.5, "excess": 0.17, "low": 0.15, "high": 0.19, "p": 0.5, "n": 48}
    permuted |= {"again": again, "decides": "one by one"}
    made = make(modalities=("face",))
    audited(made.run, protocol="trial", verdict="confounded", sentence="The file.", permuted=permuted, counted=True)
    said = " ".join(audit_verdict(read_run(made.run))["sentences"])
    assert "labels drawn for each trial one by one: 1 [−2, 3] points" in said
    assert "no chance in it" in said and "% of clean studies" not in said
