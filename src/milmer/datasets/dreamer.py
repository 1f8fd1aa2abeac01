"""DREAMER: 23 subjects, 18 film clips, EEG of 14 channels and two ECG channels in one Matlab file; no face.

Its films are in the publisher's order for everybody: a trial's number is its place there, and as the file does not say
when a film was shown, trials have no order. The baselines before the films are recordings of their own and do not touch
the films, so they serve for nothing here. Only one subject's signals are ever in memory.

Katsigiannis and Ramzan (2018), DREAMER: a database for emotion recognition through EEG and ECG signals from wireless
low-cost off-the-shelf devices, IEEE Journal of Biomedical and Health Informatics 22(1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milmer.datasets.base import LazySignal, Recording, Signal, Trial
from milmer.datasets.folders import inside, unreadable
from milmer.datasets.matfile import Left, Place, read_mat
from milmer.datasets.microvolts import to_volts
from milmer.datasets.opened import LastOpened
from milmer.datasets.rated import rating
from milmer.errors import UserError
from milmer.signals.channels import clean_names

FILE = "DREAMER.mat"
FILMS = 18
SCORES: Mapping[str, str] = {"valence": "ScoreValence", "arousal": "ScoreArousal", "dominance": "ScoreDominance"}
ELECTRODES = ("AF3", "F7", "F3", "FC5", "T7", "P7", "O1", "O2", "P8", "T8", "FC6", "F4", "F8", "AF4")
RATES: Mapping[str, float] = {"EEG": 128.0, "ECG": 256.0}  # Hz, where the file does not say
ICA_LABELS_OFF = "DREAMER's EEG (14 channels at 128 Hz) is outside ICLabel's range, which reaches to 100 Hz"
_ECG_CHANNELS = 2
_LONGEST_DIFFERENCE = 1.0  # s between the EEG and the ECG of one film


@dataclass(frozen=True)
class _Film:
    """One kind of signal (``EEG`` or ``ECG``) of one subject and film: read when called."""

    path: Path
    opened: LastOpened[Any] = field(compare=False, repr=False)
    subject: int  # from 0
    film: int  # from 0
    kind: str
    columns: tuple[int, ...]
    names: tuple[str, ...]
    rate: float
    warnings: tuple[str, ...] = ()

    def __call__(self) -> Signal:
        # A name for each subject's part of the one file: LastOpened keeps one at a time.
        found = self.opened.get(self.path / str(self.subject), lambda _: self._read())
        samples = np.asarray(_cells(found[self.kind]["stimuli"])[self.film])[:, list(self.columns)].T  # (C, S)
        if self.kind == "EEG":
            volts, odd = to_volts(samples, self.path)
            return Signal(volts, self.names, self.rate, warnings=self.warnings + odd)
        return Signal(samples.astype(np.float64), self.names, self.rate, "1", warnings=self.warnings)

    def _read(self) -> dict[str, Any]:
        def of_subject(place: Place) -> bool:
            return place[1:3] == ("Data", self.subject) and "stimuli" in place

        found: dict[str, Any] = _cells(read_mat(self.path, ["DREAMER"], of_subject)["DREAMER"]["Data"])[self.subject]
        return found


class DreamerStudy:
    """DREAMER as published: one nested Matlab file.

    Parameters
    ----------
    root : Path
        DREAMER.mat or the folder that holds it.
    name : str, optional
        What the study is called; by default ``dreamer``.

    Raises
    ------
    UserError
        If the file is not there.
    """

    rating_ranges: Mapping[str, tuple[float, float]] = dict.fromkeys(SCORES, (1.0, 5.0))

    def __init__(self, root: Path, name: str | None = None) -> None:
        self.root, self.name = Path(root), name or "dreamer"
        self.path = self.root if self.root.is_file() else self.root / FILE
        if not self.path.is_file():
            here = ", ".join([p.name for p in inside(self.root)][:6]) if self.root.is_dir() else ""
            raise UserError(
                f"{self.root}: found {here or 'nothing'}, expected {FILE}; give the file or its folder, unpacked"
            )
        self._opened: LastOpened[Any] = LastOpened()
        self._outline: dict[str, Any] | None = None

    def recordings(self) -> Sequence[Recording]:
        """One recording a subject; goes through the file once for ratings and lengths.

        A subject whose arrays or ratings cannot be right is refused when it is checked; the others go on.

        Raises
        ------
        UserError
            If the file is damaged or not of this layout.
        """
        whole = self._whole()
        rates = {kind: _rate(whole, f"{kind}_SamplingRate", rate) for kind, rate in RATES.items()}
        names = _electrodes(self.path, whole)
        found = []
        for index, subject in enumerate(_cells(whole["Data"])):
            key = f"s{index + 1:02d}"
            try:
                found.append(self._recording(key, index, subject, rates, names))
            except UserError as error:
                found.append(unreadable(key, error, [self.path]))
        return found

    def survey(self) -> Sequence[str]:
        """Say which subjects lack films."""
        return [
            f"{recording.key}: {len(recording.trials)} films, the publisher's file has {FILMS}"
            for recording in self.recordings()
            if 0 < len(recording.trials) < FILMS
        ]

    def _whole(self) -> dict[str, Any]:
        if self._outline is None:
            whole = read_mat(self.path, ["DREAMER"], lambda _: False)["DREAMER"]
            if not isinstance(whole, dict) or not _cells(whole.get("Data")):
                raise UserError(f"{self.path}: DREAMER has no subjects in Data; is it the publisher's file?")
            self._outline = whole
        return self._outline

    def _recording(
        self, key: str, index: int, subject: Any, rates: Mapping[str, float], names: tuple[str, ...]
    ) -> Recording:
        eeg, ecg = (self._shapes(key, subject, kind, width) for kind, width in (("EEG", len(names)), ("ECG", 2)))
        if len(eeg) != len(ecg):
            raise UserError(f"{self.path}: {key} has {len(eeg)} films of EEG and {len(ecg)} of ECG; get the file again")
        scores = {name: self._scores(key, subject, field_, len(eeg)) for name, field_ in SCORES.items()}
        trials: list[Trial] = []
        notes: list[str] = []
        for film in range(len(eeg)):
            lengths = {"EEG": eeg[film] / rates["EEG"], "ECG": ecg[film] / rates["ECG"]}
            if not any(lengths.values()):
                notes.append(f"film {film + 1}: empty, left out")
                continue
            odd = ""
            if all(lengths.values()) and abs(lengths["EEG"] - lengths["ECG"]) > _LONGEST_DIFFERENCE:
                odd = f"film {film + 1}: EEG is {lengths['EEG']:.1f} s long, ECG {lengths['ECG']:.1f} s"
                notes.append(odd)
            signal = _Film(self.path, self._opened, index, film, "EEG", tuple(range(len(names))), names, rates["EEG"])
            trials.append(
                Trial(
                    study=self.name,
                    subject=key,
                    trial=film + 1,
                    stimulus=f"film{film + 1:02d}",
                    recording=key,
                    duration=lengths["EEG"] or lengths["ECG"],
                    eeg=signal if eeg[film] else None,
                    peripheral=self._ecg(index, film, rates["ECG"]) if ecg[film] else {},
                    ratings={
                        name: rating(values[film], 1, 5, f"{self.path}: {key}, film {film + 1}: {SCORES[name]}")
                        for name, values in scores.items()
                    },
                )
            )
        return Recording(key, trials, [self.path], ICA_LABELS_OFF, notes)

    def _ecg(self, subject: int, film: int, rate: float) -> dict[str, LazySignal]:
        return {
            name: _Film(self.path, self._opened, subject, film, "ECG", (column,), (name,), rate)
            for column, name in enumerate(("ecg-1", "ecg-2"))
        }

    def _shapes(self, key: str, subject: Any, kind: str, width: int) -> list[int]:
        """Samples of each film."""
        found = subject.get(kind) if isinstance(subject, dict) else None
        films = _cells(found.get("stimuli")) if isinstance(found, dict) else []
        if not films:
            raise UserError(f"{self.path}: {key} has no {kind}.stimuli; is it the publisher's file, unchanged?")
        lengths = []
        for number, film in enumerate(films, start=1):
            shape = film.shape if isinstance(film, np.ndarray | Left) else ()
            if 0 in shape:
                lengths.append(0)
                continue
            if len(shape) != 2 or shape[1] != width:
                raise UserError(
                    f"{self.path}: {key}, film {number}: found {kind} {shape or type(film).__name__}, expected "
                    f"(samples, {width}); get the file again"
                )
            lengths.append(shape[0])
        return lengths

    def _scores(self, key: str, subject: dict[str, Any], name: str, count: int) -> NDArray[Any]:
        found = subject.get(name)
        if not isinstance(found, np.ndarray) or found.size != count or found.dtype.kind not in "fiu":
            shape = found.shape if isinstance(found, np.ndarray) else "nothing"
            raise UserError(f"{self.path}: {key}: found {name} {shape}, expected a number for each of {count} films")
        return found.ravel()  # (films,)


def _cells(value: Any) -> list[Any]:
    """Items of a cell or struct array."""
    if isinstance(value, dict):
        return [value]
    if isinstance(value, np.ndarray) and value.dtype == object:
        return list(value.ravel(order="F"))
    return []


def _rate(whole: dict[str, Any], name: str, default: float) -> float:
    found = whole.get(name)
    return float(found.ravel()[0]) if isinstance(found, np.ndarray) and found.size == 1 else default


def _electrodes(path: Path, whole: dict[str, Any]) -> tuple[str, ...]:
    given = [n for n in _cells(whole.get("EEG_Electrodes")) if isinstance(n, str)] or list(ELECTRODES)
    cleaned = clean_names(given)
    if len(cleaned.names) != len(given):
        raise UserError(
            f"{path}: EEG_Electrodes has {'; '.join(f'{n!r} ({why})' for n, why in cleaned.dropped.items())}"
        )
    return cleaned.names
