"""The verb audit: verdicts on the screen, mistakes in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from milmer.commands.app import app
from milmer.commands.audit import show
from milmer.errors import UserError


def call(*words: str) -> None:
    import milmer.cli  # registers the verbs

    assert milmer.cli.app is app
    result = CliRunner().invoke(app, ["audit", *words], standalone_mode=False)
    if result.exception is not None:
        raise result.exception


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "found no store"),
        (("--metadata", "a.csv"), "found no --splits"),
        (("store", "--metadata", "a.csv", "--splits", "b.csv"), "give one kind"),
        (("store", "--predictions", "p.csv"), "go with --metadata"),
        (("--metadata", "a.csv", "--splits", "b.csv", "--protocol", "trial", "--protocol", "subject"), "expected one"),
        (("--metadata", "a.csv", "--splits", "b.csv"), "found no such file"),
    ],
)
def test_what_does_not_go_together_is_said(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        call(*words, "--out", str(tmp_path / "out"))


def test_the_verdicts_are_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    entry = {
        "protocol": "window",
        "protocol_name": "window (leaky)",
        "verdict": "leaky",
        "sentence": "Trials are on two sides.",
        "permuted": {"score": 0.7, "base": 0.25},
        "stimulus": None,
        "observed": {"score": 0.8},
    }
    show(
        {"headline": "leaky: window (leaky)", "protocols": [entry], "confounds": [{"found": True, "sentence": "File."}]}
    )
    text = capsys.readouterr().out
    assert "run" not in text
    for word in ("leaky: window (leaky)", "0.70", "0.25", "0.80", "Trials are on two sides.", "confounded: File."):
        assert word in text


def test_a_run_has_its_own_line_and_warnings_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    own = {"protocol": "trial", "protocol_name": "trial, as R was split", "verdict": "clean", "sentence": "Fine."}
    other = own | {"protocol_name": "trial", "verdict": "leaky", "sentence": "Not so."}
    own |= {"permuted": {"score": 0.67, "base": 0.5, "decides": "one by one"}}
    show({"headline": "h", "protocols": [other], "runs": [own], "warnings": ["20 of 384 rows."]})
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[2].split()[:6] == ["trial,", "as", "R", "was", "split", "clean"] and "leaky" in lines[3]
    assert "trial, as R was split: Fine." in said.out
    assert "20 of 384 rows." in said.out + said.err


def test_who_stops_is_told_the_truth(tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from milmer.evaluation.audit import run

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "window_features", stop)
    import milmer.cli  # noqa: F401 -- registers the verbs

    result = CliRunner().invoke(app, ["audit", str(tiny_store), "--out", str(tmp_path / "out")])
    assert result.exit_code != 0 and not (tmp_path / "out").exists()
