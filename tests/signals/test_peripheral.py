from __future__ import annotations

import numpy as np
import pytest

from milmer.datasets.base import Signal
from milmer.errors import UserError
from milmer.signals.peripheral import prepare_peripheral


def test_it_is_resampled_padding_dropped_and_level_kept() -> None:
    t = np.arange(-3 * 512, 20 * 512) / 512.0
    x = 36.0 + 0.2 * np.sin(2 * np.pi * t) + 0.2 * np.sin(2 * np.pi * 100 * t)
    y, rate = prepare_peripheral(Signal(x[None], ("temperature",), 512.0, "degC", pad_before=3.0))
    assert (y.shape, y.dtype, rate) == ((2560,), np.float32, 128.0)
    expected = 36.0 + 0.2 * np.sin(2 * np.pi * np.arange(2560) / 128.0)
    assert np.abs(y - expected)[:-40].max() < 1e-3


def test_the_own_rate_is_kept_up_to_128_hz_and_any_can_be_asked_for() -> None:
    signal = Signal(np.arange(40.0)[None], ("gsr",), 4.0, "S")
    assert prepare_peripheral(signal)[1] == 4.0
    np.testing.assert_allclose(prepare_peripheral(signal)[0], np.arange(40.0))
    y, rate = prepare_peripheral(signal, 8.0)
    assert (len(y), rate) == (80, 8.0)


def test_missing_samples_are_bridged_and_a_missing_channel_stays_missing() -> None:
    x = np.arange(100.0)[None]
    x[0, 40:50] = np.nan
    np.testing.assert_allclose(prepare_peripheral(Signal(x, ("gsr",), 10.0))[0], np.arange(100.0))
    assert np.isnan(prepare_peripheral(Signal(np.full((1, 100), np.nan), ("gsr",), 10.0))[0]).all()


def test_two_channels_under_one_name_are_refused() -> None:
    with pytest.raises(UserError, match="found 2 channels, expected one"):
        prepare_peripheral(Signal(np.zeros((2, 10)), ("a", "b"), 10.0))
