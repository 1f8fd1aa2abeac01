"""Every study that can be read: what it offers, what to expect of it, and which loader reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Facts:
    """What the publisher of a study says of it.

    Parameters
    ----------
    title : str
        A line that says what it is.
    loader : str
        ``module:class`` in `milmer.datasets`, called with the root and a name.
    modalities : tuple of str
        Of ``eeg``, ``face`` and `milmer.datasets.base.BODY_KINDS`.
    labels : tuple of str
        Ratings with their range (``valence 1-9``), or the named classes; empty where the user's files say.
    subjects, trials : int or None
        Subjects, and trials in all, of the whole study.
    access : str
        How it is had.
    """

    title: str
    loader: str
    modalities: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    subjects: int | None = None
    trials: int | None = None
    access: str = ""


_DEAP_BODY = ("eeg", "face", "gsr", "ppg", "respiration", "temperature", "emg", "eog")
_DEAP_LABELS = ("valence 1-9", "arousal 1-9", "dominance 1-9", "liking 1-9", "familiarity 1-5")

CATALOG: Mapping[str, Facts] = MappingProxyType(
    {
        "deap": Facts(
            "DEAP, preprocessed signals (Python or Matlab), and simulated studies",
            "deap:DeapStudy",
            _DEAP_BODY,
            _DEAP_LABELS,
            32,
            1280,
            "by request (EULA)",
        ),
        "deap-raw": Facts(
            "DEAP, the original recordings (BDF)",
            "deap_raw:DeapRawStudy",
            _DEAP_BODY,
            _DEAP_LABELS,
            32,
            1280,
            "by request (EULA)",
        ),
        "mahnob-hci": Facts(
            "MAHNOB-HCI, emotion elicitation: raw EEG, body and face of 20 films",
            "mahnob:MahnobStudy",
            ("eeg", "face", "gsr", "ecg", "respiration", "temperature"),
            (
                *("valence 1-9", "arousal 1-9", "dominance 1-9", "predictability 1-9"),
                *("neutral", "anger", "disgust", "fear", "joy", "sadness", "surprise", "scream", "bored", "sleepy"),
                *("unknown", "amusement", "anxiety"),
            ),
            27,
            540,
            "by request (EULA)",
        ),
        "amigos": Facts(
            "AMIGOS, preprocessed signals of 16 short and 4 long videos",
            "amigos:AmigosStudy",
            ("eeg", "gsr", "ecg"),
            (
                *("valence 1-9", "arousal 1-9", "dominance 1-9", "liking 1-9", "familiarity 1-9"),
                *("neutral", "disgust", "happiness", "surprise", "anger", "fear", "sadness"),
            ),
            40,
            788,
            "by request (EULA)",
        ),
        "dreamer": Facts(
            "DREAMER, EEG and ECG of 18 films",
            "dreamer:DreamerStudy",
            ("eeg", "ecg"),
            ("valence 1-5", "arousal 1-5", "dominance 1-5"),
            23,
            414,
            "by request",
        ),
        "seed": Facts(
            "SEED, preprocessed EEG of 15 films, three sittings",
            "seed:SeedStudy",
            ("eeg",),
            ("negative", "neutral", "positive"),
            15,
            675,
            "by request (licence agreement)",
        ),
        "seed-iv": Facts(
            "SEED-IV, EEG of 72 films in three sessions",
            "seed_iv:SeedIVStudy",
            ("eeg",),
            ("fear", "happy", "neutral", "sad"),
            15,
            1080,
            "by request (licence agreement)",
        ),
        "seed-v": Facts(
            "SEED-V, raw EEG of 45 films in three sessions",
            "seed_v:SeedVStudy",
            ("eeg", "eog"),
            ("disgust", "fear", "happy", "neutral", "sad"),
            16,
            720,
            "by request (licence agreement)",
        ),
        "faced": Facts(
            "FACED, preprocessed EEG of 28 films",
            "faced:FacedStudy",
            ("eeg",),
            ("amusement", "anger", "disgust", "fear", "inspiration", "joy", "neutral", "sadness", "tenderness"),
            123,
            3444,
            "by request",
        ),
        "eav": Facts(
            "EAV, conversations: EEG and face video",
            "eav:EavStudy",
            ("eeg", "face"),
            ("anger", "calmness", "happiness", "neutral", "sadness"),
            42,
            8400,
            "by request (Zenodo 10205702)",
        ),
        "bids": Facts(
            "EEG-BIDS, the form of open studies: its events are trials, their columns labels and ratings",
            "bids:BidsStudy",
            ("eeg", "gsr", "ppg", "ecg", "respiration", "temperature", "emg", "eog"),
            access="open studies such as OpenNeuro's ds005540",
        ),
        "table": Facts(
            "your own: a table with one row a trial",
            "table:TableStudy",
            ("eeg", "face", "gsr", "ppg", "ecg", "respiration", "temperature", "emg", "eog"),
        ),
    }
)
