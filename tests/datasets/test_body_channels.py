"""The body's channels of a user's EEG file: known by name and kind, in the file's unit, from a table to the store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import edfio
import mne
import numpy as np
import pandas as pd
import pytest

from milmer.config import EEGPreparation, Preparation
from milmer.datasets.base import Recording, Signal, body_kind
from milmer.datasets.body_names import body_name
from milmer.datasets.body_units import si_unit
from milmer.datasets.mne_objects import MneStudy
from milmer.datasets.simulated_eeg import pulse
from milmer.datasets.table import TableStudy
from milmer.preparation import prepare_study
from milmer.store import Store

RATE, SECONDS = 200.0, 64.0
TIME = np.arange(round(RATE * SECONDS)) / RATE  # (S,)
BEATS = np.arange(0.4, SECONDS, 0.8)  # s: 75 a minute
PLAIN = Preparation(eeg=EEGPreparation(ica="none", line_freq=None, bad_channels=False))


def planted() -> dict[str, tuple[np.ndarray, str]]:
    """Channels as a recorder names them: values and the unit they are in."""
    rng = np.random.default_rng(4)
    burst = np.where(TIME > SECONDS / 2, 80.0, 4.0)  # the muscle tightens in the second half
    made: dict[str, tuple[np.ndarray, str]] = {
        n: (rng.normal(0, 10, len(TIME)), "uV") for n in ("EEG Fz-REF", "Cz", "Pz", "P7", "P8", "T8")
    }
    level = 5 + 1.5 * np.exp(-(((TIME - 20) % 30) ** 2) / 4)  # (S,)
    made["GSR1"] = (level, "uS")
    made["Plet"] = (pulse(BEATS, TIME), "")
    made["Pulse Rate"] = (np.full(len(TIME), 75.0) + rng.normal(0, 1, len(TIME)), "bpm")
    made["Resp"] = (np.sin(2 * np.pi * 0.25 * TIME), "")
    made["Temp"] = (33 + 0.5 * TIME / SECONDS, "degC")
    made["EMG Chin"] = (rng.normal(0, 1, len(TIME)) * burst, "uV")
    made["Trapezius"] = (rng.normal(0, 10, len(TIME)), "uV")
    made["Trigger"] = (np.zeros(len(TIME)) + (TIME > 1), "")
    return made


def write_edf(path: Path, channels: Mapping[str, tuple[np.ndarray, str]]) -> Path:
    signals = [
        edfio.EdfSignal(
            values, RATE, label=name, physical_dimension=unit, physical_range=(values.min() - 1e-3, values.max() + 1e-3)
        )
        for name, (values, unit) in channels.items()
    ]
    edfio.Edf(signals).write(path)
    return path


def trial_of(path: Path, start: float = 4.0, stop: float = 60.0) -> TableStudy:
    table = path.with_suffix(".csv")
    table.write_text(
        f"subject,trial,stimulus,eeg_path,eeg_start_s,eeg_stop_s,valence\np1,1,a,{path.name},{start},{stop},7\n",
        encoding="utf-8",
    )
    return TableStudy(table)


def signals_of(recording: Recording) -> dict[str, Signal]:
    return {name: lazy() for name, lazy in recording.trials[0].peripheral.items()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *[(n, "gsr") for n in ("GSR", "GSR1", "EDA", "EDA_left", "SC", "SC 2", "SCR", "Galvanic Skin Response")],
        *[(n, "ppg") for n in ("PPG", "Pleth", "Plet", "BVP", "Pulse", "SpO2 Pleth", "EEG BVP-REF")],
        *[(n, "respiration") for n in ("Resp", "RSP", "Respiration", "Airflow", "Belt", "Resp1")],
        *[(n, "temperature") for n in ("Temp", "Temperature", "SKT", "SkinTemp")],
        *[(n, "emg-zygomaticus") for n in ("zEMG", "EMG_zyg", "Zygomaticus")],
        *[(n, "emg-trapezius") for n in ("tEMG", "Trapezius", "EMG-Trap R")],
        *[(n, "emg-chin") for n in ("Chin", "EMG Chin", "Chin1-Chin2")],
        *[("EMG", "emg"), ("EMG2", "emg-2"), ("EMG left arm", "emg-left-arm")],
        # Numbers made of a wave, the device's own warmth, the hippocampus' neighbour, buttons.
        *[(n, "") for n in ("SpO2", "Pulse Rate", "PulseRate", "HR", "Resp Rate", "Amp Temp", "Temporal", "Response")],
        *[(n, "") for n in ("Status", "EXG1", "C99", "Trigger", "")],
    ],
)
def test_names_that_people_use(name: str, expected: str) -> None:
    assert body_name(name) == expected
    assert body_kind(expected) == expected.partition("-")[0]


def test_the_kind_of_the_format_counts_where_the_name_tells_nothing() -> None:
    assert body_name("AUX1", "gsr") == "gsr"
    assert body_name("left", "resp") == "respiration"
    assert body_name("AUX3", "emg") == "emg-3"
    assert body_name("GSR", "misc") == "gsr"
    assert body_name("GSR", "stim") == body_name("AUX1", "misc") == ""


@pytest.mark.parametrize(
    ("kind", "unit", "suffix", "expected"),
    [
        ("gsr", "uS", ".edf", ("S", 1e-6)),
        ("gsr", "\u00b5S", ".bdf", ("S", 1e-6)),
        ("gsr", "\u03bcS", "", ("S", 1e-6)),
        ("gsr", "microsiemens", "", ("S", 1e-6)),
        ("gsr", "umho", "", ("S", 1e-6)),
        ("gsr", "nS", ".edf", ("S", 1e-9)),
        ("gsr", "uS", ".vhdr", ("S", 1.0)),  # MNE has multiplied it
        ("gsr", "uS", ".set", ("S", 1.0)),  # it takes them all for microvolts
        ("gsr", "kOhm", ".edf", ("ohm", 1e3)),
        ("gsr", "k\u03a9", "", ("ohm", 1e3)),
        ("gsr", "MOhm", "", ("ohm", 1e6)),
        ("gsr", "Ohm", "", ("ohm", 1.0)),
        ("gsr", "uV", ".edf", None),
        ("gsr", "", "", None),
        ("temperature", "degC", "", ("degC", 1.0)),
        ("temperature", "\u00b0C", "", ("degC", 1.0)),
        ("temperature", "uV", "", None),
        ("ppg", "uV", "", ("1", 1.0)),
        ("emg-chin", "uV", "", ("V", 1.0)),
    ],
)
def test_units_in_the_words_of_files(kind: str, unit: str, suffix: str, expected: Any) -> None:
    found = si_unit(body_kind(kind), unit, suffix)
    if expected is None:
        assert found is None
    else:
        assert found is not None and found[0] == expected[0] and found[1] == pytest.approx(expected[1])


def test_an_edf_through_a_table_into_the_store(tmp_path: Path) -> None:
    study = trial_of(write_edf(tmp_path / "a.edf", planted()))
    prepare_study(study, tmp_path / "store", PLAIN)
    store = Store(tmp_path / "store")
    assert set(store.body_kinds("p1")) == {"gsr", "ppg", "respiration", "temperature", "emg"}
    assert store.recording("p1").names == ("Fz", "Cz", "Pz", "P7", "P8", "T8")
    tonic, phasic = store.body(0, "gsr")  # (S_b,), (S_b,)
    truth = 1e-6 * planted()["GSR1"][0][round(4 * RATE) : round(60 * RATE)].mean()
    assert tonic.mean() == pytest.approx(truth, rel=0.05)
    assert np.argmax(phasic[: 30 * 32]) / 32 == pytest.approx(16, abs=2.5)  # s: the response at 20 s of the file
    assert 60 * np.median(store.body(0, "ppg")[1]) == pytest.approx(75, abs=1)
    assert 60 * np.median(store.body(0, "respiration")[1]) == pytest.approx(15, abs=1)
    assert store.body(0, "temperature").mean() == pytest.approx(33.25, abs=0.02)
    chin, trapezius = store.body(0, "emg")  # (S_b,), (S_b,)
    half = len(chin) // 2
    assert chin[half + 64 :].mean() > 10 * chin[: half - 64].mean()
    assert trapezius[half + 64 :].mean() == pytest.approx(trapezius[: half - 64].mean(), rel=0.2)
    notes = " ".join(store.recording("p1").notes)
    assert "'Pulse Rate'" in notes and "'GSR1' gsr: kept as a peripheral signal" in notes


@pytest.mark.parametrize(("unit", "values", "si"), [("kOhm", 200.0, ("ohm", 2e5)), ("nS", 5000.0, ("S", 5e-6))])
def test_skin_in_other_units_of_an_edf(tmp_path: Path, unit: str, values: float, si: tuple[str, float]) -> None:
    channels = planted() | {"GSR1": (values * (1 + 0.1 * np.sin(TIME)), unit)}
    signal = signals_of(trial_of(write_edf(tmp_path / "a.edf", channels)).recordings()[0])["gsr"]
    assert signal.unit == si[0] and np.median(signal.samples) == pytest.approx(si[1], rel=0.05)
    assert not signal.warnings


def test_a_unit_that_no_skin_has_is_said(tmp_path: Path) -> None:
    channels = planted() | {"GSR1": (planted()["GSR1"][0], "uV"), "GSR2": (planted()["GSR1"][0], "")}
    (recording,) = trial_of(write_edf(tmp_path / "a.edf", channels)).recordings()
    signals = signals_of(recording)
    assert signals["gsr"].unit == signals["gsr-2"].unit == "1"
    lazy = recording.trials[0].eeg
    assert lazy is not None
    said = [w for w in lazy().warnings if "GSR" in w and "unit" in w]
    assert len(said) == 2 and "unit 'uV'" in said[0] and "unit none" in said[1]


@pytest.mark.parametrize("ending", [".vhdr", ".set", "_raw.fif"])
def test_other_formats(tmp_path: Path, ending: str) -> None:
    raw = raw_of(planted())
    path = tmp_path / f"a{ending}"
    raw.save(path) if ending == "_raw.fif" else mne.export.export_raw(path, raw, verbose="error")
    signals = signals_of(trial_of(path).recordings()[0])
    assert set(signals) == {"gsr", "ppg", "respiration", "temperature", "emg-chin", "emg-trapezius"}
    assert signals["emg-chin"].unit == "V"
    if ending == "_raw.fif":
        assert signals["gsr"].unit == "S" and np.median(signals["gsr"].samples) == pytest.approx(5e-6, rel=0.1)
        assert signals["temperature"].unit == "degC"


def raw_of(channels: Mapping[str, tuple[np.ndarray, str]]) -> Any:
    kinds = {"GSR1": "gsr", "Resp": "resp", "Temp": "temperature", "Plet": "misc", "Pulse Rate": "misc"}
    scale = {"uV": 1e-6, "uS": 1e-6}
    info = mne.create_info(list(channels), RATE, [kinds.get(n, "eeg") for n in channels], verbose="error")
    samples = np.stack([values * scale.get(unit, 1.0) for values, unit in channels.values()])  # (C, S)
    return mne.io.RawArray(samples, info, verbose="error")


def test_what_mne_has_in_memory(tmp_path: Path) -> None:
    rows = pd.DataFrame({"subject": ["a"], "trial": [1], "start_s": [4.0], "stop_s": [60.0], "label": ["x"]})
    (recording,) = MneStudy({"a": raw_of(planted())}, rows).recordings()
    signals = signals_of(recording)
    assert set(signals) == {"gsr", "ppg", "respiration", "temperature", "emg-chin", "emg-trapezius"}
    assert signals["gsr"].unit == "S" and np.median(signals["gsr"].samples) == pytest.approx(5e-6, rel=0.1)
    assert signals["temperature"].unit == "degC" and signals["gsr"].pad_before == 3.0

    read = mne.io.read_raw_edf(write_edf(tmp_path / "a.edf", planted()), verbose="error")
    gsr = signals_of(MneStudy({"a": read}, rows).recordings()[0])["gsr"]
    assert gsr.unit == "S" and np.median(gsr.samples) == pytest.approx(5e-6, rel=0.1)
    (changed,) = MneStudy({"a": read.load_data()}, rows).recordings()  # its numbers may be others by now
    assert signals_of(changed)["gsr"].unit == "1" and any("GSR1: gsr: unit none" in n for n in changed.notes)


def test_microsiemens_declared_as_siemens_are_said(tmp_path: Path) -> None:
    raw = raw_of(planted() | {"GSR1": (planted()["GSR1"][0], "S")})
    raw.save(tmp_path / "a_raw.fif", verbose="error")
    signal = signals_of(trial_of(tmp_path / "a_raw.fif").recordings()[0])["gsr"]
    assert "probably microsiemens" in signal.warnings[0]


def test_a_real_recording_of_electrodes_has_none(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "a.edf").symlink_to(samples / "S001R02.edf")
    (recording,) = trial_of(tmp_path / "a.edf").recordings()
    assert not recording.trials[0].peripheral and recording.trials[0].eog is None


def test_a_kind_of_the_format_does_not_hide_a_name(tmp_path: Path) -> None:
    kinds = {"HEOG": "misc", "EKG": "bio", "EDA": "eog", "C3": "gsr", "AUX": "gsr"}
    raw = raw_of(planted() | dict.fromkeys(kinds, (TIME, "uV")))
    raw.set_channel_types(kinds, verbose="error", on_unit_change="ignore")
    raw.save(tmp_path / "a_raw.fif", verbose="error")
    trial = trial_of(tmp_path / "a_raw.fif").recordings()[0].trials[0]
    assert {"ecg", "gsr", "gsr-2", "gsr-3"} <= set(trial.peripheral)
    assert trial.eog is not None and trial.eog().names == ("HEOG",)
    assert trial.eeg is not None and "C3" in trial.eeg().names


def test_a_new_recording_to_predict_from_has_them_too(tmp_path: Path) -> None:
    from milmer.inference.predictor import _one_recording

    (recording,) = _one_recording(write_edf(tmp_path / "new.edf", planted()), None, 0.0).recordings()
    signals = signals_of(recording)
    assert set(signals) == {"gsr", "ppg", "respiration", "temperature", "emg-chin", "emg-trapezius"}
    assert signals["gsr"].unit == "S" and np.median(signals["gsr"].samples) == pytest.approx(5e-6, rel=0.1)
