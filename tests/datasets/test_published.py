"""Orders of channels, labels and times as the publishers give them, typed anew: no loader may agree with itself only.

What a fixture plants by number comes back by name; which name belongs to a number is asked here.
"""

from __future__ import annotations

import numpy as np
import pytest

from milmer.datasets import (
    amigos,
    deap_files,
    deap_raw,
    dreamer,
    eav,
    faced,
    mahnob,
    mahnob_files,
    seed,
    seed_common,
    seed_iv,
    seed_v,
)
from milmer.datasets.catalog import CATALOG
from milmer.signals.channels import clean_names

EMOTIV = "AF3 F7 F3 FC5 T7 P7 O1 O2 P8 T8 FC6 F4 F8 AF4"
GENEVA = "Fp1 AF3 F3 F7 FC5 FC1 C3 T7 CP5 CP1 P3 P7 PO3 O1 Oz Pz Fp2 AF4 Fz F4 F8 FC6 FC2 Cz C4 T8 CP6 CP2 P4 P8 PO4 O2"
TWENTE = "Fp1 AF3 F7 F3 FC1 FC5 T7 C3 CP1 CP5 P7 P3 Pz PO3 O1 Oz O2 PO4 P4 P8 CP6 CP2 C4 T8 FC6 FC2 F4 F8 AF4 Fp2 Fz Cz"
SEED = (
    "FP1 FPZ FP2 AF3 AF4 F7 F5 F3 F1 FZ F2 F4 F6 F8 FT7 FC5 FC3 FC1 FCZ FC2 FC4 FC6 FT8 T7 C5 C3 C1 CZ C2 C4 C6 T8 "
    "TP7 CP5 CP3 CP1 CPZ CP2 CP4 CP6 TP8 P7 P5 P3 P1 PZ P2 P4 P6 P8 PO7 PO5 PO3 POZ PO4 PO6 PO8 CB1 O1 OZ O2 CB2"
)
FACED = "FP1 FP2 FZ F3 F4 F7 F8 FC1 FC2 FC5 FC6 CZ C3 C4 T7 T8 CP1 CP2 CP5 CP6 PZ P3 P4 P7 P8 PO3 PO4 OZ O1 O2 A2 A1"
EAV = "Fp1 Fp2 F7 F3 Fz F4 F8 FC5 FC1 FC2 FC6 T7 C3 Cz C4 T8 CP5 CP1 CP2 CP6 P7 P3 Pz P4 P8 PO9 O1 Oz O2 PO10"
SEED_IV = {
    1: "1 2 3 0 2 0 0 1 0 1 2 1 1 1 2 3 2 2 3 3 0 3 0 3",
    2: "2 1 3 0 0 2 0 2 3 3 2 3 2 0 1 1 2 1 0 3 0 1 3 1",
    3: "1 2 2 1 3 3 3 1 1 2 1 0 2 3 3 0 2 3 0 0 2 0 1 0",
}
SEED_V = {  # labels, starts, ends
    1: (
        "4 1 3 2 0 4 1 3 2 0 4 1 3 2 0",
        "30 132 287 555 773 982 1271 1628 1730 2025 2227 2435 2667 2932 3204",
        "102 228 524 742 920 1240 1568 1697 1994 2166 2401 2607 2901 3172 3359",
    ),
    2: (
        "2 1 3 0 4 4 0 3 2 1 3 4 1 2 0",
        "30 299 548 646 836 1000 1091 1392 1657 1809 1966 2186 2333 2490 2741",
        "267 488 614 773 967 1059 1331 1622 1777 1908 2153 2302 2428 2709 2817",
    ),
    3: (
        "2 1 3 0 4 4 0 3 2 1 3 4 1 2 0",
        "30 353 478 674 825 908 1200 1346 1451 1711 2055 2307 2457 2726 2888",
        "321 418 643 764 877 1147 1284 1418 1679 1996 2275 2425 2664 2857 3066",
    ),
}


def whole(text: str) -> list[int]:
    return [int(n) for n in text.split()]


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (deap_files.EEG_NAMES, GENEVA),
        (deap_raw.ORDERS["Geneva"], GENEVA),
        (deap_raw.ORDERS["Twente"], TWENTE),
        (amigos.EEG_NAMES, EMOTIV),
        (dreamer.ELECTRODES, EMOTIV),
        (seed_common.CHANNELS, SEED),
        (faced.CHANNELS, FACED),
        (eav.CHANNELS, EAV),
    ],
    ids=["deap", "deap-raw Geneva", "deap-raw Twente", "amigos", "dreamer", "seed", "faced", "eav"],
)
def test_channels_are_in_the_publishers_order(names: tuple[str, ...], order: str) -> None:
    assert list(names) == order.split()
    clean = clean_names(names)
    assert [n.upper() for n in clean.names] == [n.upper() for k, n in enumerate(names) if k in clean.kept]
    assert {names[k] for k in set(range(len(names))) - set(clean.kept)} <= {"A1", "A2", "CB1", "CB2"}


def test_what_deap_has_beside_eeg() -> None:
    rows = {name: row + 1 for name, (row, _, _) in deap_files.PERIPHERAL.items()}  # the publisher counts from 1
    assert rows == {
        "emg-zygomaticus": 35,
        "emg-trapezius": 36,
        "gsr": 37,
        "respiration": 38,
        "ppg": 39,
        "temperature": 40,
    }
    assert (deap_files.RATE, deap_files.BASELINE) == (128.0, 3.0)
    assert (deap_raw.STARTS, deap_raw.ENDS, deap_raw.FILM, deap_raw.PAD_BEFORE) == (4, 5, 60.0, 5.0)


def test_amigos_has_arousal_first() -> None:
    said = "arousal valence dominance liking familiarity neutral disgust happiness surprise anger fear sadness"
    assert " ".join((*amigos.RATINGS, *amigos.EMOTIONS)) == said
    assert amigos.PERIPHERAL == {"ecg-right": 14, "ecg-left": 15, "gsr": 16}
    assert (amigos.RATE, amigos.BASELINE, amigos.SHORT, amigos.VIDEOS) == (128.0, 5.0, 16, 20)


def test_dreamer_is_read_at_two_rates() -> None:
    assert dreamer.RATES == {"EEG": 128.0, "ECG": 256.0}
    assert dreamer.SCORES == {"valence": "ScoreValence", "arousal": "ScoreArousal", "dominance": "ScoreDominance"}


def test_mahnobs_attributes_and_emotions() -> None:
    assert mahnob_files.RATINGS == {
        "valence": "feltVlnc",
        "arousal": "feltArsl",
        "dominance": "feltCtrl",
        "predictability": "feltPred",
    }
    said = "neutral anger disgust fear joy sadness surprise scream bored sleepy unknown amusement anxiety"
    assert [mahnob_files.EMOTIONS[k] for k in range(13)] == said.split()
    assert set(said.split()) <= set(CATALOG["mahnob-hci"].labels)
    assert mahnob.OTHERS["gsr"] == ("GSR1", "ohm")


def test_labels_of_seed_and_seed_iv() -> None:
    assert dict(seed.CLASSES) == {-1: "negative", 0: "neutral", 1: "positive"}
    assert seed_iv.CLASSES == ("neutral", "sad", "fear", "happy")
    assert {s: list(codes) for s, codes in seed_iv.LABELS.items()} == {s: whole(t) for s, t in SEED_IV.items()}
    assert all(np.bincount(codes).tolist() == [6, 6, 6, 6] for codes in seed_iv.LABELS.values())


@pytest.mark.parametrize("session", [1, 2, 3])
def test_labels_and_times_of_seed_v(session: int) -> None:
    plan = seed_v.PLANS[session]
    assert seed_v.CLASSES == ("disgust", "fear", "sad", "neutral", "happy")
    assert [list(plan.labels), list(plan.starts), list(plan.ends)] == [whole(text) for text in SEED_V[session]]
    edges = np.ravel(np.column_stack([plan.starts, plan.ends]))  # (30,)
    assert np.all(np.diff(edges) > 0)
    assert np.bincount(plan.labels).tolist() == [3] * 5


def test_films_of_faced() -> None:
    said = [("anger", 3), ("disgust", 3), ("fear", 3), ("sadness", 3), ("neutral", 4)]
    said += [("amusement", 3), ("inspiration", 3), ("joy", 3), ("tenderness", 3)]
    assert list(faced.LABELS) == [name for name, films in said for _ in range(films)]
    assert (faced.RATE, faced.SHAPE) == (250.0, (28, 32, 7500))


def test_rows_of_eav() -> None:
    assert eav.CLASSES == ("neutral", "sadness", "anger", "happiness", "calmness")
    assert eav.BLOCKS == ("listening", "speaking")
    assert (eav.RATE, eav.SECONDS, eav.TRIALS, eav.SUBJECTS) == (500.0, 20.0, 200, 42)


def test_sizes_of_the_studies() -> None:
    said = {
        "deap": (32, 32 * 40),
        "deap-raw": (32, 32 * 40),
        "dreamer": (23, 23 * 18),
        "seed": (15, 15 * 3 * 15),
        "seed-iv": (15, 15 * 3 * 24),
        "seed-v": (16, 16 * 3 * 15),
        "faced": (123, 123 * 28),
        "eav": (42, 42 * 200),
    }
    assert {name: (CATALOG[name].subjects, CATALOG[name].trials) for name in said} == said
