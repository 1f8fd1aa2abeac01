"""What the probe finds in labels that mean nothing: leaks and films, and nothing in clean studies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from milmer.evaluation.audit.dependence import Units, association, permuted_scores, stimulus_scores, trial_labels
from milmer.evaluation.audit.features import standardised
from milmer.evaluation.audit.run import Study, audit_study, case_of, judged, setting_of
from milmer.evaluation.audit.verdict import Setting
from milmer.evaluation.protocols import Split, make_splits

SUBJECTS, TRIALS, WINDOWS, FEATURES = 6, 12, 4, 12


def study(
    seed: int = 0, *, film: float = 0.0, follows: bool = False, classes: int = 2, trials: int = TRIALS, folds: int = 0
) -> Study:
    """Windows that know their subject and trial, and with `film` the film; `follows`: labels go with the film."""
    rng = np.random.default_rng([seed, 77])
    n = SUBJECTS * trials
    person = np.repeat(np.arange(SUBJECTS), trials)  # (T,)
    films = np.concatenate([rng.permutation(trials) for _ in range(SUBJECTS)])  # (T,)
    x = rng.normal(0, 1, (SUBJECTS, FEATURES))[person] + rng.normal(0, 1, (n, FEATURES))  # (T, F)
    x = x + film * rng.normal(0, 1, (trials, FEATURES))[films]  # (T, F)
    base = np.resize(np.arange(classes), trials)  # (trials,)
    y = base[films] if follows else np.concatenate([rng.permutation(base) for _ in range(SUBJECTS)])  # (T,)
    of = np.repeat(np.arange(n), WINDOWS)  # (n,)
    rows = pd.DataFrame(
        {
            "study": "made",
            "subject": [f"s{i}" for i in person[of]],
            "session": "",
            "recording": [f"s{i}" for i in person[of]],
            "trial": (np.arange(n) % trials)[of] + 1,
            "stimulus": [f"f{i}" for i in films[of]],
            "window": np.tile(np.arange(WINDOWS), n),
        }
    )
    return Study(rows, y[of], classes, x[of] + rng.normal(0, 0.5, (of.size, FEATURES)), seed=seed)


def verdicts(made: Study, *protocols: str) -> dict[str, dict[str, Any]]:
    measured = audit_study(made, {p: case_of(made, p) for p in protocols})
    return {e["protocol"]: e for e in judged(measured, setting_of(made, ()))}


def test_random_windows_are_leaky_and_the_rest_of_a_clean_study_is_clean() -> None:
    found = verdicts(study(), "window", "trial", "subject", "stimulus", "subject-and-stimulus")
    assert found["window"]["verdict"] == "leaky"
    assert found["window"]["permuted"]["excess"] > 0.2
    assert found["window"]["permuted"]["low"] > 0.15
    for protocol in ("trial", "subject", "stimulus", "subject-and-stimulus"):
        assert found[protocol]["verdict"] == "clean", found[protocol]["sentence"]
        assert abs(found[protocol]["permuted"]["score"] - 0.5) < 0.06


def test_a_film_with_a_signature_confounds_what_shares_films_and_nothing_else() -> None:
    found = verdicts(study(film=1.5, follows=True, classes=4), "trial", "subject", "stimulus", "subject-and-stimulus")
    assert {p: e["verdict"] for p, e in found.items()} == {
        "trial": "confounded",
        "subject": "confounded",
        "stimulus": "clean",
        "subject-and-stimulus": "clean",
    }
    # Permuted labels alone would call it clean: that is why films get labels of their own.
    assert found["subject"]["permuted"]["p"] > 0.001
    assert found["subject"]["stimulus"]["score"] > 0.6
    # A film that was never seen cannot be recognised: shown, and no test.
    assert found["subject-and-stimulus"]["stimulus"]["p"] is None


def test_strong_films_raise_no_alarm_where_they_are_unseen() -> None:
    """Windows of one film stand and fall together: that must not pass for a finding."""
    for seed in range(8):
        made = study(seed, film=1.0, follows=True)
        entry = verdicts(made, "subject-and-stimulus")["subject-and-stimulus"]
        assert entry["verdict"] == "clean", entry["sentence"]


def test_a_film_that_labels_do_not_go_with_is_told_and_not_held_against_the_protocol() -> None:
    found = verdicts(study(film=1.5), "subject")["subject"]
    assert found["verdict"] == "clean"
    assert "the film can be recognised" in found["sentence"]


def test_the_null_of_film_labels_sits_at_a_half() -> None:
    scores, chances = [], []
    for seed in range(12):
        made = study(seed)
        film = stimulus_scores(made.probe, made.units, case_of(made, "subject").splits(made.y, 0), seed=seed)
        assert film is not None
        scores.append(film.score)
        chances.append(film.chance)
    assert abs(np.mean(scores) - 0.5) < 0.03
    assert abs(np.mean(chances) - 0.5) < 0.01


def test_one_trial_of_twelve_on_two_sides_is_found() -> None:
    made = study()
    honest = case_of(made, "trial")
    moved = (made.rows["trial"].to_numpy() == 1) & (made.rows["window"].to_numpy() % 2 == 0)  # (n,)

    def torn(y: NDArray[np.int64], seed: int) -> list[Split]:
        out = []
        for split in honest.splits(y, seed):
            lost = split.test[moved[split.test]]
            out.append(
                Split(split.fold, np.union1d(split.train, lost), split.validation, np.setdiff1d(split.test, lost))
            )
        return out

    found = permuted_scores(made.probe, made.units, made.y, 2, torn, honest.splits)
    assert found is not None and found.p < 1e-3 and found.excess > 0.01
    clean = permuted_scores(made.probe, made.units, made.y, 2, honest.splits, honest.splits)
    assert clean is not None and clean.p == 1.0 and clean.excess == 0.0


def test_labels_that_give_one_another_away_are_no_leak() -> None:
    """Two trials a subject, one of each class: centred features and labels of one trial foretell the other's."""
    for seed in range(3):
        made = study(seed, trials=2)
        many = Study(made.rows, made.y, 2, made.x, seed=seed)
        found = permuted_scores(many.probe, many.units, many.y, 2, case_of(many, "trial").splits, None)
        assert found is not None and found.p > 0.001


def test_nothing_to_exchange_says_so() -> None:
    made = study()
    y = made.units.person % 2  # (n,)
    splits = case_of(made, "subject").splits
    assert permuted_scores(made.probe, made.units, y, 2, splits, None) is None
    alone = Units(made.units.person, made.units.trial, made.units.trial)  # a film of its own for every trial
    assert stimulus_scores(made.probe, alone, splits(made.y, 0)) is None


def test_association_is_exact_where_labels_are_free_and_sees_labels_that_follow() -> None:
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(6), 12)  # (T,)
    film = np.tile(np.arange(12), 6)  # (T,)
    ps = [association(rng.integers(0, 2, 72), film, person, draws=199, seed=s) for s in range(100)]
    assert 0.005 <= np.mean(np.array(ps) <= 0.1) <= 0.2
    assert association(film % 2, film, person, draws=1999) == 1 / 2000
    assert association(person % 2, film, person) == 1.0


def test_labels_of_trials_are_the_commonest_of_their_rows() -> None:
    assert trial_labels([0, 1, 1, -1, -1], [0, 0, 0, 1, 2], 2).tolist() == [1, -1, -1]


def test_a_protocol_that_a_study_is_too_small_for_is_not_possible() -> None:
    made = study()
    rows = made.rows.assign(subject="s0", trial=np.arange(len(made.rows)) // WINDOWS)  # type: ignore[union-attr]  # a DataFrame here
    one = Study(rows, made.y, 2, made.x)
    found = verdicts(one, "trial", "subject")
    assert found["subject"]["verdict"] == "not possible" and "at least 3" in found["subject"]["sentence"]
    assert found["trial"]["verdict"] == "clean"


def test_a_label_that_is_the_recording_is_said_before_all_else() -> None:
    made = study()
    measured = audit_study(made, {"trial": case_of(made, "trial")})
    entry = judged(measured, Setting(recording="The label is the recording."))[0]
    assert (entry["verdict"], entry["sentence"]) == ("confounded", "The label is the recording.")


def test_features_that_are_missing_become_the_middle() -> None:
    x = np.array([[1.0, np.nan, 5.0], [2.0, np.nan, 5.0], [4.0, np.nan, 5.0], [np.nan, np.nan, 5.0]])  # (4, 3)
    out = standardised(x)  # (4, 1): what is constant or absent is left out
    assert out.shape == (4, 1) and out[3, 0] == 0.0 and out[1, 0] == 0.0
    within = standardised(np.array([[1.0], [3.0], [11.0], [13.0]]), within=[0, 0, 1, 1])  # (4, 1)
    np.testing.assert_allclose(within[:2], within[2:])


@pytest.mark.parametrize("protocol", ["trial", "subject"])
def test_the_probe_reads_labels_of_training_rows_only(protocol: str) -> None:
    made = study(film=1.0, follows=True)
    split = make_splits(made.rows, made.y, protocol, 4)[0]
    blind = made.y.copy()
    blind[split.test] = 1 - blind[split.test]
    blind[split.validation] = 1 - blind[split.validation]
    one = made.probe.predict(made.y, split.train, split.test, 2)
    np.testing.assert_array_equal(one, made.probe.predict(blind, split.train, split.test, 2))
