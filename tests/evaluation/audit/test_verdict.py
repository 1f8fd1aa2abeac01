"""From figures to a verdict: nothing is measured here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from milmer.evaluation.audit import verdict as rules
from milmer.evaluation.audit.findings import Film, OneByOne, Permuted
from milmer.evaluation.audit.verdict import ALPHA, Evidence, Setting, counted, headline, holm, judge

NOTHING = Permuted(0.26, 0.25, 0.01, -0.02, 0.03, 0.4, 12, 100, "how")
LEAK = replace(NOTHING, score=0.7, excess=0.45, low=0.43, high=0.47, p=1e-9)
FILM = Film(0.68, 0.5, 0.0002, 4999, 1, "how")
NO_FILM = Film(0.49, 0.5, 0.7, 39, 1, "how")
SHARED = ({"kind": "trial", "shared": 3, "of": 40, "permitted": False},)
FINE = ({"kind": "subject", "shared": 6, "of": 6, "permitted": True},)


def verdict(evidence: Evidence, setting: Setting | None = None) -> tuple[str, str]:
    setting = setting or Setting()
    return judge(evidence, setting, holm(rules.tests_of([evidence], setting)))


@pytest.mark.parametrize(
    ("evidence", "setting", "expected", "word"),
    [
        (Evidence("trial", "", FINE, NOTHING, NO_FILM), Setting(), "clean", "not found"),
        (Evidence("trial", "", SHARED, NOTHING, NO_FILM), Setting(), "leaky", "3 of 40 by trial"),
        (Evidence("trial", "", FINE, LEAK, NO_FILM), Setting(), "leaky", "45.0 points"),
        (Evidence("subject", "", FINE, NOTHING, FILM), Setting(film_p=0.0002), "confounded", "0.68"),
        (Evidence("subject", "", FINE, NOTHING, FILM), Setting(film_p=0.5), "clean", "do not go with it"),
        (Evidence("subject", "", FINE, NOTHING, NO_FILM), Setting(film_p=0.0002), "clean", "not recognised"),
        (Evidence("stimulus", "", FINE, NOTHING, FILM), Setting(), "leaky", "said to be unseen"),
        (Evidence("trial", "", FINE, NOTHING), Setting(recording="The file."), "confounded", "The file."),
        (Evidence("trial", "", SHARED, LEAK), Setting(recording="The file."), "leaky", "by trial"),
        (Evidence("trial", "", FINE, NOTHING), Setting(subject="Each person."), "confounded", "Each person."),
        (Evidence("subject", "", FINE, NOTHING), Setting(subject="Each person."), "clean", "not found"),
        (Evidence("stimulus", "no names; add them"), Setting(), "not possible", "no names; add them"),
        (Evidence("trial", "", FINE), Setting(), "not judged", "Nothing could be tested"),
    ],
)
def test_each_finding_has_its_verdict(evidence: Evidence, setting: Setting, expected: str, word: str) -> None:
    found, sentence = verdict(evidence, setting)
    assert found == expected
    assert word in sentence


def test_a_finding_that_one_test_of_many_may_give_by_chance_is_no_finding() -> None:
    close = replace(NOTHING, p=ALPHA / 2, excess=0.02)
    assert verdict(Evidence("trial", "", FINE, close))[0] == "leaky"
    many = [Evidence("trial", "", FINE, close)] + [Evidence(p, "", FINE, NOTHING) for p in ("subject", "stimulus")]
    rejected = holm(rules.tests_of(many, Setting()))
    assert judge(many[0], Setting(), rejected)[0] == "clean"


def test_holm_steps_down_and_stops() -> None:
    assert holm({"a": 0.001, "b": 0.004, "c": 0.2}, 0.005) == {"a"}
    assert holm({"a": 0.001, "b": 0.0025, "c": 0.005}, 0.005) == {"a", "b", "c"}
    assert holm({"a": float("nan")}, 0.005) == set()


def test_film_labels_where_trials_are_on_two_sides_are_no_test() -> None:
    window = Evidence("window", "", SHARED, LEAK, replace(FILM, p=None))
    assert ("window", "film") not in rules.tests_of([window], Setting())


def test_the_headline_puts_the_worst_first_and_names_its_error_rate() -> None:
    line = headline([("trial", "clean"), ("window (leaky)", "leaky"), ("subject", "confounded")])
    assert line.startswith("leaky: window (leaky); confounded: subject; clean: trial")
    assert "0.005" in line


def test_an_excess_that_the_second_look_does_not_bear_out_is_explained() -> None:
    """As in two trials a subject, one of each class: the label of one gives that of the other away."""
    second = OneByOne(0.5, 0.5, 0.0, -0.02, 0.02, 0.5)
    lost = replace(NOTHING, score=0.67, base=0.5, excess=0.17, low=0.15, high=0.19, p=0.5, first=1e-9, again=second)
    for setting, expected in ((Setting(), "clean"), (Setting(recording="The file."), "confounded")):
        found, sentence = verdict(Evidence("trial", "", FINE, lost), setting)
        assert found == expected
        for word in ("one by one are not found", "0.0 points [-2.0, 2.0]", "the first gives the second away"):
            assert word in sentence
        assert "not counted as leak" in sentence
    assert lost.record()["decides"] == "one by one" and lost.record()["again"]["p"] == 0.5
    assert "one by one" not in verdict(Evidence("trial", "", FINE, NOTHING))[1]
    kept = replace(lost, p=1e-9, again=replace(second, p=1e-10, excess=0.3))
    assert kept.record()["decides"] == "permuted" and verdict(Evidence("trial", "", FINE, kept))[0] == "leaky"


def test_features_that_say_nothing_are_not_judged_and_what_is_counted_still_is() -> None:
    blind = Evidence("trial", "", FINE, unread="No feature differs.")
    assert verdict(blind) == ("not judged", "No feature differs.")
    assert verdict(replace(blind, overlaps=SHARED))[0] == "leaky"
    assert verdict(blind, Setting(recording="The file."))[0] == "confounded"


def test_a_verdict_of_counting_alone_has_no_chance_in_it() -> None:
    assert counted(Evidence("window", "", SHARED, LEAK), Setting(), "leaky")
    assert not counted(Evidence("trial", "", FINE, LEAK), Setting(), "leaky")
    assert counted(Evidence("trial", "", FINE), Setting(recording="The file."), "confounded")
    assert not counted(Evidence("trial", "", FINE, NOTHING, FILM), Setting(film_p=0.0002), "confounded")
    assert not counted(Evidence("trial", "", FINE, NOTHING), Setting(recording="The file."), "clean")
    alone = headline([("window", "leaky")], counted={"window"})
    assert alone == "leaky: window (counted, no chance in it)"
    both = headline([("window", "leaky"), ("trial", "clean")], counted={"window"})
    assert "what is leaky is counted" in both and "0.005" not in both
    mixed = headline([("window", "leaky"), ("trial", "confounded")], counted={"window"})
    assert "window: counted, no chance in it; chance that any other is a false alarm: at most 0.005" in mixed
