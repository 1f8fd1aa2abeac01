"""A real recording in every form that people have it in gives the same trial through a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest

from milmer.datasets.base import Signal
from milmer.datasets.table import TableStudy

START, STOP = 5.0, 17.0


@pytest.fixture(scope="module")
def raw(samples: Path) -> Any:
    """Half a minute of real EEG, 64 channels whose names end in dots as the recorder wrote them."""
    return mne.io.read_raw_edf(samples / "S001R02.edf", verbose="error").crop(0, 30).load_data(verbose="error")


def written(raw: Any, ending: str, folder: Path) -> Path:
    path = folder / f"film{ending}"
    if ending == ".fif":
        path = folder / "film_raw.fif"
        raw.save(path, verbose="error")
    else:
        mne.export.export_raw(path, raw, physical_range="channelwise", verbose="error")
    return path


def read(path: Path) -> Signal:
    table = path.with_suffix(".csv")
    header = "subject,trial,eeg_path,eeg_start_s,eeg_stop_s,valence"
    table.write_text(f"{header}\np1,1,{path.name},{START},{STOP},7\n", encoding="utf-8")
    (recording,) = TableStudy(table).recordings()
    lazy = recording.trials[0].eeg
    assert lazy is not None
    return lazy()


@pytest.mark.parametrize("ending", [".edf", ".bdf", ".vhdr", ".set", ".fif"])
def test_every_form_gives_the_same_volts(raw: Any, ending: str, tmp_path: Path) -> None:
    signal = read(written(raw, ending, tmp_path))
    assert len(signal.names) == 64 and {"Fpz", "Cz", "Oz", "T9"} <= set(signal.names)
    before = round(signal.pad_before * signal.rate)
    found = signal.samples[:, before : before + round((STOP - START) * signal.rate)]  # (C, S)
    first = round(START * 160)
    expected = raw.get_data()[:, first : first + found.shape[1]]  # (C, S)
    assert found.shape[1] == round((STOP - START) * 160)
    assert np.abs(found - expected).max() < 2e-7  # V: an EDF written again rounds once more
    assert np.corrcoef(found[21], expected[21])[0, 1] > 0.9999
