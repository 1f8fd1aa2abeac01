"""What every loader owes, whatever the publisher's layout: one test for all studies that have a fixture.

A study takes part when ``tests/datasets/<its name>_fixture.py`` (``-`` as ``_``) has ``write_tiny(root) -> Path``,
which writes a small study and returns what `open_study` takes.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milmer.datasets import open_study
from milmer.datasets.base import BODY_KINDS, Recording, Signal, body_kind
from milmer.datasets.catalog import CATALOG
from milmer.errors import UserError
from milmer.signals.channels import clean_names

IO = Path("/proc/self/io")


def fixture_of(name: str) -> Any:
    module = f"{__package__ or 'tests.datasets'}.{name.replace('-', '_')}_fixture"
    if find_spec(module) is None:
        return None
    return getattr(import_module(module), "write_tiny", None)


STUDIES = [name for name in CATALOG if fixture_of(name) is not None]


@pytest.fixture(scope="module", params=STUDIES)
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    name = request.param
    return name, Path(fixture_of(name)(tmp_path_factory.mktemp(name)))


def listed(study: tuple[str, Path]) -> Sequence[Recording]:
    return open_study(*study).recordings()


def bytes_read() -> int:
    """Bytes that this process has read so far, from disk or cache."""
    return int(next(line for line in IO.read_text().splitlines() if line.startswith("rchar")).split()[1])


def test_every_loader_takes_part() -> None:
    assert set(STUDIES) == set(CATALOG)


def test_keys_are_unique_and_say_whose_they_are(study: tuple[str, Path]) -> None:
    recordings = listed(study)
    keys = [t.key for r in recordings for t in r.trials]
    assert keys
    assert len(set(keys)) == len(keys)
    assert len({r.key.lower() for r in recordings}) == len(recordings)
    for recording in recordings:
        assert len({(t.subject, t.session) for t in recording.trials}) <= 1
        assert all(t.study == open_study(*study).name and t.subject and t.trial >= 1 for t in recording.trials)


def test_trials_have_a_length_and_a_label_or_ratings_in_range(study: tuple[str, Path]) -> None:
    ranges = open_study(*study).rating_ranges
    classes = set(CATALOG[study[0]].labels)
    for recording in listed(study):
        for trial in recording.trials:
            assert trial.duration is None or trial.duration > 0
            assert trial.label or any(np.isfinite(v) for v in trial.ratings.values())
            assert set(trial.ratings) <= set(ranges)
            assert all(np.isnan(v) or ranges[k][0] <= v <= ranges[k][1] for k, v in trial.ratings.items())
            assert not trial.label or not classes or trial.label in classes


def test_sources_exist_and_hold_every_video(study: tuple[str, Path]) -> None:
    for recording in listed(study):
        assert recording.sources
        assert all(p.exists() for p in recording.sources)
        assert {t.video for t in recording.trials if t.video} <= set(recording.sources)


@pytest.mark.skipif(not IO.exists(), reason="the system does not count what a process reads")
def test_listing_reads_no_signals(study: tuple[str, Path]) -> None:
    size = sum(p.stat().st_size for p in {p for r in listed(study) for p in r.sources})  # and all is imported now
    if size < 2**23:
        pytest.skip("too small to tell headers from signals: readers take pieces of 128 KiB")
    before = bytes_read()
    listed(study)
    assert bytes_read() - before < size / 2  # MNE reads 2 MB of a Neuroscan header, whatever the length


def test_signals_are_electrodes_in_volts_and_as_long_as_said(study: tuple[str, Path]) -> None:
    """The first and the last trial of every recording, which share their channels."""
    offered = set(CATALOG[study[0]].modalities) or {"eeg", *BODY_KINDS}  # a table has what its files have
    for recording in listed(study):
        for note in recording.check() if recording.check else ():
            assert "\n" not in note
        names = []
        for trial in [t for t in recording.trials if t.eeg][:: max(1, len(recording.trials) - 1)]:
            assert trial.eeg is not None
            signal = trial.eeg()
            assert isinstance(signal, Signal)
            assert "eeg" in offered
            assert (signal.unit, signal.samples.ndim) == ("V", 2)
            assert clean_names(signal.names).names == signal.names
            assert signal.samples.shape[0] == len(signal.names)
            assert signal.samples.dtype.kind == "f"
            inner = signal.samples.shape[1] / signal.rate - signal.pad_before - signal.pad_after
            assert inner > 0
            assert trial.duration is None or inner == pytest.approx(trial.duration, abs=1.5 / signal.rate)
            names.append(signal.names)
            if trial.eog is not None:
                eog = trial.eog()
                assert eog.samples.shape == (len(eog.names), signal.samples.shape[1])
                assert eog.rate == signal.rate
            for name, lazy in trial.peripheral.items():
                assert body_kind(name) in offered
                assert lazy().samples.ndim == 2
        assert len(set(names)) <= 1
        assert len({t.eog is None for t in recording.trials if t.eeg}) <= 1


def test_the_survey_is_lines(study: tuple[str, Path]) -> None:
    survey = getattr(open_study(*study), "survey", None)
    if survey is None:
        pytest.fail("this loader cannot say what is missing")
    lines = survey()
    assert all(isinstance(line, str) and line and "\n" not in line for line in lines)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not list a process's open files")
def test_one_file_is_open_at_most(study: tuple[str, Path]) -> None:
    recordings = listed(study)
    sources = {str(p.resolve()) for r in recordings for p in r.sources}
    for recording in recordings:
        trial = next((t for t in recording.trials if t.eeg), None)
        if trial is not None and trial.eeg is not None:
            trial.eeg()
    gc.collect()
    held = {str(p.resolve()) for p in Path("/proc/self/fd").iterdir()} & sources
    assert len(held) <= 1


def test_a_folder_that_must_not_be_read_is_said_in_a_line(
    study: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, root = study
    listing = Path.iterdir
    for shut in [p for p in (root if root.is_dir() else root.parent).rglob("*") if p.is_dir()]:

        def refuse(path: Path, shut: Path = shut) -> Iterator[Path]:
            if path == shut:
                raise PermissionError(13, "Permission denied", str(path))
            return listing(path)

        monkeypatch.setattr(Path, "iterdir", refuse)
        said = []
        try:
            recordings = open_study(name, root).recordings()
            said += [note for r in recordings if not r.trials for note in r.notes]
        except UserError as error:
            said.append(str(error))
        assert all("\n" not in line for line in said)
        assert not said or any(f"{shut}: cannot be read (Permission denied)" in line for line in said)
