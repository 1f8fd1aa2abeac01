from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest

from milmer.config import Evaluation, load_config
from milmer.evaluation.probes import INTACT, LEAST, PROBES, RANDOM, TOP, learns_weights, minus, probe_figures, wanted
from milmer.models.selection import SELECTIONS, make_selection

CLASSES = ("low", "high")


def make_table(right: dict[str, Any], subjects: int = 8, trials: int = 4, windows: int = 3) -> pd.DataFrame:
    """One pass for each entry, or for each of a list: `right` says which rows get 0.9 for the truth, others 0.4."""
    rows = pd.DataFrame(
        [(f"s{s}", t, w) for s in range(subjects) for t in range(trials) for w in range(windows)],
        columns=["subject", "trial", "window"],
    ).assign(study="x", session="", fold=0, seed=0, y_true=lambda d: d["trial"] % 2)
    parts = []
    for probe, entries in right.items():
        for repeat, entry in enumerate(entries if isinstance(entries, list) else [entries]):
            p = np.where(np.broadcast_to(entry, len(rows)), 0.9, 0.4)
            high = np.where(rows["y_true"] == 1, p, 1 - p)
            part = rows.assign(probe=probe, repeat=repeat, prob_low=1 - high, prob_high=high)
            parts.append(part.assign(unchanged=False, replacement=LEAST if probe in (TOP, RANDOM) else ""))
    return pd.concat(parts, ignore_index=True)


def settings(**values: Any) -> Evaluation:
    return Evaluation(resamples=200, **values)


def find(rows: list[dict[str, Any]], name: str, probe: str, level: str = "window") -> dict[str, Any]:
    (row,) = [r for r in rows if (r["name"], r["probe"], r["level"]) == (name, probe, level)]
    return row


def test_figures_of_answers_that_are_known() -> None:
    rows = probe_figures(make_table({INTACT: True, TOP: False, RANDOM: [True, False]}), settings(), CLASSES)
    assert find(rows, "accuracy", INTACT)["value"] == 1 and find(rows, "accuracy", TOP)["value"] == 0
    assert find(rows, "accuracy", RANDOM)["value"] == 0.5  # the mean of its repeats
    assert find(rows, "log_loss", TOP)["value"] == pytest.approx(-np.log(0.4))
    row = find(rows, "accuracy", minus(TOP, RANDOM))
    assert (row["value"], row["low"], row["high"]) == (-0.5, -0.5, -0.5)  # the same without any subject
    loss = find(rows, "log_loss", minus(TOP, INTACT), "trial")
    assert loss["value"] == pytest.approx(np.log(0.9) - np.log(0.4)) and loss["n"] == 32 and loss["n_of"] == "trials"
    assert "the third of the subject's frames with the least weight" in row["note"]
    assert {r["level"] for r in rows} == {"window", "trial"}


def test_equal_answers_differ_by_nothing_at_all() -> None:
    """The interval is paired: what varies between trials does not blur a difference that is always 0."""
    mixed = np.random.default_rng(0).random(96) < 0.6
    rows = probe_figures(make_table({INTACT: mixed, TOP: mixed, RANDOM: [mixed] * 3}), settings(), CLASSES)
    whole = find(rows, "accuracy", INTACT)
    assert whole["high"] - whole["low"] > 0.05
    for name in ("accuracy", "macro_f1", "log_loss"):
        row = find(rows, name, minus(TOP, RANDOM))
        assert (row["value"], row["low"], row["high"]) == (0, 0, 0)


def test_interval_covers_a_difference_and_is_over_subjects_whatever_the_protocol() -> None:
    rng = np.random.default_rng(1)
    intact, top = rng.random(96) < 0.8, rng.random(96) < 0.5
    table = make_table({INTACT: intact, TOP: top, RANDOM: intact})
    trial = find(probe_figures(table, settings(), CLASSES), "accuracy", minus(TOP, RANDOM))
    assert trial["low"] < trial["value"] < trial["high"] < 0
    assert trial["interval_how"] == "jackknife over 8 subjects"
    subject = find(probe_figures(table, settings(protocol="subject"), CLASSES), "accuracy", minus(TOP, RANDOM))
    assert subject == trial
    lone = make_table({INTACT: intact[:96], TOP: top[:96]}, subjects=1, trials=32)
    one = find(probe_figures(lone, settings(), CLASSES), "accuracy", minus(TOP, INTACT))
    assert one["interval_how"] == "jackknife over 32 trials of one subject" and one["low"] < one["value"] < one["high"]


def test_too_few_subjects_give_no_interval() -> None:
    rows = probe_figures(make_table({INTACT: True, TOP: False}, 3), settings(protocol="subject"), CLASSES)
    row = find(rows, "accuracy", minus(TOP, INTACT))
    assert row["value"] == -1 and row["low"] is None and row["high"] is None and "at least 6" in row["interval_how"]


def test_rows_that_could_not_be_changed_are_left_out_on_both_sides() -> None:
    """Subject s0 is always right and has no donor: with its rows in, the exchange would seem to cost less."""
    first = np.repeat(np.arange(8), 12) == 0
    table = make_table({INTACT: True, "eeg-same-class": [first, first], "face-any-class": first})
    table.loc[(table["probe"] == "eeg-same-class") & (table["subject"] == "s0"), "unchanged"] = True
    rows = probe_figures(table, settings(), CLASSES)
    row = find(rows, "accuracy", "eeg-same-class")
    assert (row["value"], row["intact"], row["n"], row["of"], row["repeats"]) == (0, 1, 84, 96, 2)
    assert row["note"].startswith("12 of 96 bags are left out: they have no EEG, or their subject no other tested or")
    change = find(rows, "accuracy", minus("eeg-same-class", INTACT))
    assert (change["value"], change["n"], change["note"]) == (-1, 84, row["note"])
    assert change["interval_how"] == "jackknife over 7 subjects"
    assert find(rows, "accuracy", minus("eeg-same-class", INTACT), "trial")["n"] == 28
    other = find(rows, "accuracy", minus("face-any-class", INTACT))
    assert other["value"] == pytest.approx(-7 / 8) and (other["n"], other["note"]) == (96, "")
    assert find(rows, "accuracy", INTACT)["n"] == 96


def test_untouched_figures_are_of_the_same_rows() -> None:
    wrong = np.repeat(np.arange(8), 12) > 0
    table = make_table({INTACT: wrong, "eeg-any-class": wrong})
    table.loc[(table["probe"] == "eeg-any-class") & (table["subject"] == "s0"), "unchanged"] = True
    rows = probe_figures(table, settings(), CLASSES)
    assert find(rows, "accuracy", "eeg-any-class")["intact"] == 1
    assert find(rows, "accuracy", INTACT)["value"] == pytest.approx(7 / 8)


def test_a_row_without_a_donor_in_one_repeat_is_out_of_all() -> None:
    table = make_table({INTACT: True, "eeg-any-class": [True, False]})
    table.loc[(table["probe"] == "eeg-any-class") & (table["repeat"] == 1) & (table["trial"] == 0), "unchanged"] = True
    row = find(probe_figures(table, settings(), CLASSES), "accuracy", "eeg-any-class")
    assert row["value"] == 0.5 and row["n"] == 72


def test_where_no_row_has_a_donor_there_is_no_figure() -> None:
    table = make_table({INTACT: True, TOP: True, RANDOM: [True, True], "eeg-same-class": True})
    table.loc[table["probe"] != INTACT, "unchanged"] = True
    rows = probe_figures(table, settings(), CLASSES)
    for probe in ("eeg-same-class", TOP, minus("eeg-same-class", INTACT), minus(TOP, RANDOM)):
        for level in ("window", "trial"):
            row = find(rows, "accuracy", probe, level)
            assert row["value"] is row["low"] is row["high"] is row["intact"] is None and row["n"] == 0
            assert "all 96 bags are left out" in row["note"]
    assert find(rows, "accuracy", INTACT)["value"] == 1


def test_rows_are_matched_by_name_not_by_place() -> None:
    rng = np.random.default_rng(4)
    right = rng.random(96) < 0.5
    table = make_table({INTACT: right, "eeg-any-class": ~right})
    table.loc[(table["probe"] == "eeg-any-class") & (table["subject"] == "s3"), "unchanged"] = True
    shuffled = table.sample(frac=1, random_state=1)
    for name in ("accuracy", "log_loss"):
        one, other = (
            find(probe_figures(t, settings(), CLASSES), name, minus("eeg-any-class", INTACT)) for t in (table, shuffled)
        )
        assert one["value"] == pytest.approx(other["value"])


def test_only_probes_that_can_say_something_are_wanted() -> None:
    assert wanted(load_config("demo")) == PROBES
    assert wanted(load_config("demo", overrides={"data.modalities": ["face"]})) == (TOP, RANDOM)
    assert wanted(load_config("demo", overrides={"data.modalities": ["eeg"]})) == ()
    assert wanted(load_config("demo", overrides={"evaluation.probes": False})) == ()
    several = load_config("demo", overrides={"data.modalities": ["eeg", "face", "gsr"]})
    assert wanted(several) == (*PROBES, "gsr-same-class", "gsr-any-class")
    bodies = load_config("demo", overrides={"data.modalities": ["gsr", "eeg"]})
    assert wanted(bodies) == ("eeg-same-class", "eeg-any-class", "gsr-same-class", "gsr-any-class")
    for method in ("mean", "middle-frame", "published"):
        config = load_config("demo", overrides={"model.selection.method": method})
        assert not learns_weights(config.model) and wanted(config) == PROBES[2:]


def test_methods_with_nothing_to_learn_are_those_without_trained_weights() -> None:
    for name in SELECTIONS:
        config = load_config("demo", overrides={"model.selection.method": name}).model
        learned = any(p.requires_grad for p in make_selection(8, config.selection, n_frames=4).parameters())
        assert learns_weights(config) == learned, name


def test_it_is_imported_without_torch() -> None:
    code = "import sys, milmer.evaluation.probes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
