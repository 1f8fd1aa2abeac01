"""From figures to a verdict in plain words. Nothing here measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from milmer.evaluation.audit.findings import Film, Permuted
from milmer.evaluation.protocols import PERMITTED, display_name

ALPHA = 0.005  # chance that any test of one audit calls a clean study leaky or confounded
LEAKY, CONFOUNDED, CLEAN, IMPOSSIBLE, UNJUDGED = "leaky", "confounded", "clean", "not possible", "not judged"
ORDER = (LEAKY, CONFOUNDED, UNJUDGED, IMPOSSIBLE, CLEAN)
UNSEEN_FILMS = frozenset({"stimulus", "subject-and-stimulus"})  # protocols that share no stimulus


@dataclass(frozen=True)
class Evidence:
    """What was found under one protocol.

    Parameters
    ----------
    protocol : str
    impossible : str
        Why it could not be tried; empty where it could.
    overlaps : sequence of dict
        ``kind``, ``shared``, ``of``, ``permitted``, as from `structure.overlaps`.
    permuted : Permuted, optional
    film : Film, optional
    unread : str
        Why the probe could read nothing at all; empty where it could.
    """

    protocol: str
    impossible: str = ""
    overlaps: Sequence[Mapping[str, Any]] = ()
    permuted: Permuted | None = None
    film: Film | None = None
    unread: str = ""


@dataclass(frozen=True)
class Setting:
    """What holds for the whole study.

    Parameters
    ----------
    film_p : float
        p that labels go with the stimulus, from `dependence.association`; 1 where it cannot be told.
    recording, subject : str
        A sentence where the label is the recording (each holds one class), or the subject; else empty.
    """

    film_p: float = 1.0
    recording: str = ""
    subject: str = ""


def tests_of(evidence: Sequence[Evidence], setting: Setting) -> dict[tuple[str, str], float]:
    """Return the p-value of every test of an audit, by protocol and kind."""
    found = {(e.protocol, "permuted"): e.permuted.p for e in evidence if e.permuted is not None}
    found |= {(e.protocol, "film"): e.film.p for e in evidence if e.film is not None and e.film.p is not None}
    if any(kind == "film" for _, kind in found):
        found["", "labels with the stimulus"] = setting.film_p
    return found


def holm(tests: Mapping[Any, float], alpha: float = ALPHA) -> set[Any]:
    """Return which tests reject when all of them together may err with probability `alpha` (Holm 1979)."""
    rejected: set[Any] = set()
    for i, (name, p) in enumerate(sorted(tests.items(), key=lambda item: item[1])):
        if not p <= alpha / (len(tests) - i):
            break
        rejected.add(name)
    return rejected


def judge(evidence: Evidence, setting: Setting, rejected: set[Any]) -> tuple[str, str]:
    """Return the verdict on one protocol and a plain sentence that says why.

    Parameters
    ----------
    evidence : Evidence
    setting : Setting
    rejected : set
        The tests of `tests_of` that `holm` rejects.

    Returns
    -------
    verdict : {'leaky', 'confounded', 'clean', 'not possible', 'not judged'}
    sentence : str
    """
    if evidence.impossible:
        return IMPOSSIBLE, evidence.impossible
    name = evidence.protocol
    shared = [o for o in evidence.overlaps if o["shared"] and not o["permitted"]]
    leak = (name, "permuted") in rejected
    film = evidence.film if (name, "film") in rejected else None
    reasons = []
    if shared:
        words = ", ".join(f"{o['shared']} of {o['of']} by {o['kind']}" for o in shared)
        reasons.append(f"the test shares with training what it may not ({words})")
    if leak and evidence.permuted is not None:
        reasons.append(_leak(evidence.permuted))
    if film is not None and name in UNSEEN_FILMS:
        reasons.append(f"films said to be unseen are recognised ({_film(film)})")
    if reasons:
        if not leak and evidence.permuted is not None:
            reasons.append(f"the probe gains {_points(evidence.permuted.excess)} by it, which chance may give")
        return LEAKY, _sentence(reasons)
    aside = _unconfirmed(evidence.permuted)
    beside = f" {_sentence([aside])}" if aside else ""
    if setting.recording:
        return CONFOUNDED, setting.recording + beside
    if setting.subject and "subject" in PERMITTED[name]:
        return CONFOUNDED, setting.subject + beside
    if film is not None and ("", "labels with the stimulus") in rejected:
        return CONFOUNDED, (
            f"The film can be recognised ({_film(film)}), and the labels go with the film: a score under this protocol "
            "may be of the film and not of the feeling; hold out films too (subject-and-stimulus)." + beside
        )
    if evidence.unread:
        return UNJUDGED, evidence.unread
    if evidence.permuted is None and evidence.film is None:
        return (
            UNJUDGED,
            "Nothing could be tested: no subject has two labels, no two subjects saw the same stimulus.",
        )
    found = []
    if aside:
        found.append(aside)
    elif evidence.permuted is not None:
        found.append(
            f"permuted labels are not found ({evidence.permuted.score:.2f}, {evidence.permuted.base:.2f} expected)"
        )
    else:
        found.append("labels could not be permuted, since no subject has two")
    if film is not None:
        found.append(f"the film can be recognised ({_film(film)}), but the labels do not go with it")
    elif evidence.film is not None and evidence.film.p is None:
        found.append(f"no film is in both, and labels of films are not found ({evidence.film.score:.2f})")
    elif evidence.film is not None:
        found.append(f"the film is not recognised ({_film(evidence.film)})")
    return CLEAN, _sentence(found)


def counted(evidence: Evidence, setting: Setting, verdict: str) -> bool:
    """Say whether a verdict of leaky or confounded rests on counting alone, with no chance in it."""
    if verdict == LEAKY:
        return any(o["shared"] and not o["permitted"] for o in evidence.overlaps)
    by_subject = bool(setting.subject) and "subject" in PERMITTED[evidence.protocol]
    return verdict == CONFOUNDED and (bool(setting.recording) or by_subject)


def headline(
    judged: Sequence[tuple[str, str]], alpha: float = ALPHA, counted: frozenset[str] | set[str] = frozenset()
) -> str:
    """Say what was found of all protocols in one sentence: ``[(protocol, verdict), ...]``.

    `counted` names the protocols whose verdict rests on counting alone: no error rate is theirs.
    """
    parts = []
    for verdict in ORDER:
        names = [protocol for protocol, found in judged if found == verdict]
        if names:
            parts.append(f"{verdict}: {', '.join(names)}")
    alarms = [(protocol, found) for protocol, found in judged if found in (LEAKY, CONFOUNDED)]
    sure = [protocol for protocol, _ in alarms if protocol in counted]
    rate = f"chance that any of this is a false alarm: at most {alpha:g}"
    if sure and len(judged) == 1:
        rate = "counted, no chance in it"
    elif sure and len(sure) == len(alarms):
        kinds = [v for v in (LEAKY, CONFOUNDED) if any(found == v for _, found in alarms)]
        rate = f"what is {' or '.join(kinds)} is counted, no chance in it"
    elif sure:
        rate = f"{', '.join(sure)}: counted, no chance in it; chance that any other is a false alarm: at most {alpha:g}"
    return f"{'; '.join(parts)} ({rate})"


def shown(protocol: str) -> str:
    """Name of a protocol as it is shown."""
    return display_name(protocol)


def _leak(found: Permuted) -> str:
    return (
        f"labels permuted between trials are found with {found.score:.2f}, where {found.base:.2f} is expected: "
        f"{_points(found.excess)} of a score come from the leak [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    )


def _unconfirmed(found: Permuted | None) -> str:
    """Explain an excess of permuted labels that the second look does not bear out; empty where there is none."""
    if found is None or found.again is None or not found.lost or found.low <= 0:
        return ""
    second = found.again
    return (
        f"labels permuted between the trials of each subject are found with {found.score:.2f} ({found.base:.2f} "
        "expected), for with few trials of a class they tell of one another (of one trial each of two classes, the "
        f"first gives the second away); labels drawn for each trial one by one are not found beyond chance "
        f"({_points(second.excess)} [{100 * second.low:.1f}, {100 * second.high:.1f}]), so this is not counted as leak"
    )


def _film(found: Film) -> str:
    return f"one random label a film is found with {found.score:.2f}, chance {found.chance:.2f}"


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


def _sentence(parts: Sequence[str]) -> str:
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."
