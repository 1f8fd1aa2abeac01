"""The audit's page: verdict first, all it shows within it, nothing asked of the network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from milmer.errors import UserError
from milmer.reports.audit import content, points, write_page


def audit(**more: Any) -> dict[str, Any]:
    entry = {
        "protocol": "window",
        "protocol_name": "window (leaky)",
        "verdict": "leaky",
        "sentence": "The test shares <b>trials</b>.",
        "fits_of_audit": 9,
        "overlaps": [
            {"kind": "trial", "shared": 3, "of": 4, "permitted": False, "dose": 0.75},
            {"kind": "subject", "shared": 2, "of": 2, "permitted": True},
            {"kind": "time", "shared": 0, "of": 9, "permitted": False},
        ],
        "permuted": {"score": 0.9, "base": 0.25, "excess": 0.65, "low": 0.6, "high": 0.7, "p": 0.0, "n": 9, "how": "x"},
        "stimulus": {"score": 0.68, "chance": 0.5, "p": 0.2, "how": "y"},
        "observed": {"score": 0.93, "chance": 0.25, "p": 0.001},
        "notes": ["a note"],
    }
    clean = entry | {
        "protocol": "trial",
        "protocol_name": "trial",
        "verdict": "clean",
        "permuted": None,
        "overlaps": [],
    }
    clean |= {"stimulus": None, "observed": None, "notes": []}
    made = {
        "kind": "audit",
        "alpha": 0.005,
        "source": "a <store>",
        "headline": "leaky: window",
        "seconds": 61,
        "versions": {"milmer": "0"},
        "protocols": [clean, entry],
        "structure": [{"what": "identical arrays", "found": "3 rows", "fault": True}],
        "confounds": [{"what": "time", "value": 0.1, "chance": 0.1, "p": 0.4, "found": False, "sentence": "No drift."}],
        "recognised": [{"what": "trial", "score": 0.8, "chance": 0.0125}],
        "inflation": [
            {"what": "w", "one": 0.9, "other": 0.3, "difference": 0.6, "low": None, "high": None, "n": 4},
            {"what": "not compared", "one": None, "other": None, "difference": None, "low": None, "high": None, "n": 0},
        ],
        "no_signal": {"score": 0.58, "probe": 0.61, "gain": 0.03, "low": -0.04, "high": 0.1, "n": 6, "how": "h"},
    }
    return made | more


def page(folder: Path, found: dict[str, Any]) -> str:
    (folder / "audit.json").write_text(json.dumps(found))
    return write_page(folder).read_text(encoding="utf-8")


def test_the_verdict_comes_first_with_its_error_rate(tmp_path: Path) -> None:
    text = page(tmp_path, audit())
    body = text[text.index("<body>") :]
    head = body[: body.index('id="protocols"')]
    assert "Leaky: window. Clean: trial." in head
    assert "at most 0.5 %" in head
    assert 'class="headline leaky"' in head
    order = [body.index(f'id="{name}"') for name in ("protocols", "structure", "confounds", "inflation", "no-signal")]
    assert order == sorted(order)


def test_figures_are_shown_with_what_they_stand_against(tmp_path: Path) -> None:
    text = page(tmp_path, audit())
    for words in ("+65.0", "[60.0, 70.0]", "0.90 for 0.25", "forbidden: 3 of 4 trials (75% of test rows)", "+60.0"):
        assert words in text, words
    assert "permitted: 2 of 2 subjects" in text
    assert "+3.0 points" in text and "[−4.0, 10.0]" in text and "not shown to be more than none" in text
    assert "not compared" not in text


def test_the_excess_that_decides_is_shown_first(tmp_path: Path) -> None:
    again = {"score": 0.51, "base": 0.5, "excess": 0.007, "low": -0.016, "high": 0.03, "p": 0.5}
    found = audit()
    found["protocols"][0] |= {"verdict": "confounded", "counted": True}
    found["protocols"][0]["permuted"] = found["protocols"][1]["permuted"] | {"again": again, "decides": "one by one"}
    first, second = content(found)["protocols"][0]["excesses"]
    assert (first["points"], first["name"]) == ("+0.7", "labels drawn one by one, decides")
    assert (second["points"], second["name"]) == ("+65.0", "labels permuted within subjects")
    text = page(tmp_path, found)
    assert text.index("+0.7</b>") < text.index('soft">+65.0</span>')
    assert "the look that finds less decides" in text and "the verdict on trial rests on that" in text


def test_the_page_is_self_contained_and_escapes(tmp_path: Path) -> None:
    text = page(tmp_path, audit())
    assert "a &lt;store&gt;" in text and "&lt;b&gt;trials&lt;/b&gt;" in text and "<b>trials</b>" not in text
    assert not re.search(r'(?:src|href)="(?!#|data:)', text)
    assert "<script" not in text and "@media print" in text and "width=device-width" in text


def test_little_is_enough(tmp_path: Path) -> None:
    entry = {"protocol": "subject", "verdict": "not possible", "sentence": "too few subjects"}
    text = page(tmp_path, {"kind": "audit", "protocols": [entry], "headline": "Not possible."})
    assert "Not possible." in text and 'id="structure"' not in text and "not available" in text


def test_only_a_gain_whose_interval_is_above_zero_is_one() -> None:
    sure = audit(no_signal={"score": 0.5, "probe": 0.6, "gain": 0.1, "low": 0.02, "high": 0.18, "n": 8, "how": ""})
    assert content(sure)["no_signal"]["sure"] and not content(audit())["no_signal"]["sure"]
    assert (points(0.123), points(-0.05), points(0.0), points(None)) == ("+12.3", "−5.0", "0.0", "")


def test_what_is_no_audit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no audit.json"):
        write_page(tmp_path)
    (tmp_path / "audit.json").write_text("{")
    with pytest.raises(UserError, match="not readable"):
        write_page(tmp_path)
    (tmp_path / "audit.json").write_text('{"kind": "evaluate"}')
    with pytest.raises(UserError, match="no audit in it"):
        write_page(tmp_path)
