from __future__ import annotations

from dataclasses import replace

import mne
import numpy as np
import pytest

from milmer.config import EEGPreparation
from milmer.errors import UserError
from milmer.signals import ica as module
from milmer.signals.eeg import prepare_eeg
from milmer.signals.ica import ICA, Material, fit_and_label
from milmer.signals.ica_labels import LABELS, iclabel_refusal


def _material(head, **other) -> Material:
    chunks = np.stack([s.samples - s.samples.mean(axis=0) for s in head.eeg])
    chunks = chunks - chunks.mean(axis=2, keepdims=True)
    eog = np.stack([s.samples for s in head.eog])
    names = head.eeg[0].names
    return replace(Material(chunks, head.eeg[0].rate, names, tuple(range(len(names))), 0, eog, ("vEOG",)), **other)


@pytest.mark.parametrize("method", ["picard", "fastica", "infomax"])
def test_the_operator_does_what_mne_does(make_head, method: str) -> None:
    material = _material(make_head(trials=2, seconds=20.0))
    n_comp = 20  # fewer than the rank: what lies outside the components must stay
    fitted = module._fit(material, n_comp, method, seed=3)
    mixing, unmixing = module._matrices(fitted)
    np.testing.assert_allclose(unmixing @ mixing, np.eye(n_comp), atol=1e-9)
    labels = tuple("eye blink" if i in (0, 4, 7) else "brain" for i in range(n_comp))
    ica = ICA(mixing, unmixing, labels, np.zeros(n_comp), method, "none", "")
    x = material.chunks.transpose(1, 0, 2).reshape(32, -1)
    raw = mne.io.RawArray(x.copy(), module.montage_info(material), verbose="ERROR")
    theirs = fitted.apply(raw, exclude=[0, 4, 7], verbose="ERROR").get_data()
    ours = ica.operator({"eye blink"}) @ x
    ours -= ours.mean(axis=1, keepdims=True)
    theirs -= theirs.mean(axis=1, keepdims=True)
    assert np.abs(ours - theirs).max() < 1e-6 * np.abs(theirs).max()
    assert np.abs(ours - x).max() > 1e-6  # and it does something


def test_rejecting_nothing_is_the_identity_and_an_unknown_label_is_refused() -> None:
    ica = ICA(np.ones((3, 1)), np.ones((1, 3)), ("brain",), np.zeros(1), "picard", "none", "")
    np.testing.assert_array_equal(ica.operator(()), np.eye(3))
    np.testing.assert_array_equal(ica.operator({"eye blink"}), np.eye(3))
    with pytest.raises(UserError, match=r"found 'eye blnk'.*did you mean 'eye blink'"):
        ica.operator({"eye blnk"})


def test_the_rank_is_that_of_the_signal(make_head) -> None:
    material = _material(make_head(seconds=50.0))
    basis = np.linalg.svd(np.random.default_rng(0).normal(size=(32, 25)), full_matrices=False)[0]
    cleaned = replace(material, chunks=basis @ basis.T @ material.chunks)
    ica, notes = fit_and_label(cleaned, EEGPreparation(), "test", 0)
    assert ica is not None
    assert ica.mixing.shape == (32, 25)
    assert any("rank is 25 of 32" in n for n in notes)
    mended, _ = fit_and_label(replace(material, n_mended=4), EEGPreparation(), "test", 0)
    assert mended is not None
    assert mended.mixing.shape[1] == 32 - 1 - 4


def test_short_signal_bears_fewer_components_or_none(make_head) -> None:
    material = _material(make_head(trials=1))
    ica, notes = fit_and_label(
        replace(material, chunks=material.chunks[:, :, :2000], eog=None), EEGPreparation(), "test", 0
    )
    assert ica is not None
    assert ica.mixing.shape[1] == 10
    assert any("10 instead of 31 components" in n for n in notes)
    none, notes = fit_and_label(
        replace(material, chunks=material.chunks[:, :, :200], eog=None), EEGPreparation(), "test", 0
    )
    assert none is None
    assert "too short" in notes[0]


def test_the_same_seed_gives_the_same_components(make_head) -> None:
    material = _material(make_head(trials=1))
    a, b = (fit_and_label(material, EEGPreparation(), "test", 5)[0] for _ in range(2))
    assert a is not None
    assert b is not None
    np.testing.assert_array_equal(a.unmixing, b.unmixing)
    assert a.labels == b.labels


def test_masked_channels_take_no_part(make_head) -> None:
    material = _material(make_head())
    chunks = material.chunks.copy()
    chunks[:, 5] = 0.0
    present = tuple(c for c in range(32) if c != 5)
    ica, _ = fit_and_label(replace(material, chunks=chunks, present=present), EEGPreparation(), "test", 0)
    assert ica is not None
    assert np.all(ica.mixing[5] == 0)
    assert np.all(ica.unmixing[:, 5] == 0)


@pytest.mark.parametrize(
    ("rate", "channels", "placed", "off", "why"),
    [
        (256.0, 32, True, "already cleaned", "already cleaned"),
        (128.0, 32, True, "", "128 Hz"),
        (256.0, 14, True, "", "14"),
        (256.0, 32, False, "", "position"),
    ],
)
def test_iclabel_says_why_it_is_out_of_its_range(rate: float, channels: int, placed: bool, off: str, why: str) -> None:
    assert why in iclabel_refusal(rate, channels, placed, off)
    assert iclabel_refusal(256.0, 32, True, "") == ""


def test_iclabel_finds_the_blink_and_draws_no_global_random_numbers(make_head) -> None:
    head = make_head(rate=256.0, seconds=40.0, trials=2)
    np.random.seed(1)  # noqa: NPY002 - the global generator is what is watched here
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - as above
    prepared = prepare_eeg(head.eeg, EEGPreparation())
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002 - as above
    ica = prepared.ica
    assert ica is not None
    assert ica.labelled_by == "iclabel"
    assert "ICLabel on 32 channels" in ica.reason
    assert set(ica.labels) <= set(LABELS)
    assert np.all((ica.scores > 0) & (ica.scores <= 1))
    likeness = [abs(np.corrcoef(m, head.field)[0, 1]) for m in ica.mixing.T]
    best = int(np.argmax(likeness))
    assert likeness[best] > 0.95
    assert ica.labels[best] == "eye blink"
    assert ica.scores[best] > 0.8
