"""The classical floor: log band powers, standardised, and a multinomial logistic regression. No network."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from milmer.config import Config
from milmer.errors import UserError
from milmer.evaluation.guard import Guard
from milmer.models.baselines import NEVER, BandPowerLogistic, electrodes_of
from milmer.progress import Progress, silent
from milmer.training.data import Bags, make_loader
from milmer.training.members import judge, only, present

Ints = NDArray[np.int64]
STRENGTHS = np.logspace(-4, 2, 7)  # C of the logistic regression


def fit_bandpower(
    config: Config,
    bags: Bags,
    guard: Guard,
    progress: Progress = silent,
    text: str = "fit",
) -> tuple[BandPowerLogistic, pd.DataFrame]:
    """Fit band power + logistic regression on training rows, its strength chosen on validation rows by log-loss.

    Parameters
    ----------
    guard : Guard
        Says which rows these are, and shows no others.

    Returns
    -------
    model : BandPowerLogistic
    curve : DataFrame
        One row for each strength `C` that was tried.

    Raises
    ------
    UserError
        If no training row holds any EEG.
    """
    heard, batch = only(bags, "eeg"), 2 * config.training.batch
    train = guard.rows("weights")
    train = train[present(bags, train, "eeg")]  # (n,)
    known = guard.view("normaliser", heard)
    places = electrodes_of(bag for bag, _, _ in make_loader(known, train, batch))  # (E, 3)
    if not len(places):
        raise UserError("bandpower-logistic: no training row holds any EEG; use --modalities face and another method")
    model = BandPowerLogistic(
        config.model,
        n_classes=len(bags.labels.classes),
        n_times=bags.samples,
        sfreq=bags.store.eeg_rate,
        electrodes=len(places),
        px=config.data.px,
        n_frames=config.data.frames,
        n_windows=bags.members.shape[1],
    )
    model.positions = places
    powers = guard.fit("normaliser", lambda rows: fit_powers(model, known, rows, batch), train, what="band powers")
    with torch.no_grad():
        x = model.standardised(powers).double()  # (n, E·F)
    y = guard.view("weights", heard).labels.y[train]  # (n,)

    def regress(_: Ints) -> list[tuple[Tensor, Tensor]]:
        layers = []
        for done, strength in enumerate(STRENGTHS):
            progress(done, len(STRENGTHS), f"{text}: logistic regression, C {strength:g}")
            layers.append(_regression(x, y, strength, config.training.class_weights, model.n_classes))
        return layers

    layers = guard.fit("weights", regress, train, what="logistic regression")
    held = guard.view("early stopping", heard)

    def judged(rows: Ints) -> list[dict[str, float]]:
        unseen = model.standardised(measured(model, held, rows, batch)).double()  # (m, E·F)
        curve = []
        for strength, (weight, bias) in zip(STRENGTHS, layers, strict=True):
            mine, theirs = ((v @ weight.T + bias).softmax(-1).numpy() for v in (x, unseen))  # (n, k), (m, k)
            own = {"C": float(strength), "train_loss": judge(y, mine)["val_loss"]}
            curve.append(own | judge(held.labels.y[rows], theirs))
        return curve

    with torch.no_grad():
        what = "strength of the logistic regression"
        curve = guard.fit("early stopping", judged, guard.rows("early stopping"), what=what)
        weight, bias = layers[int(np.argmin([row["val_loss"] for row in curve]))]
        model.linear.weight.copy_(weight)
        model.linear.bias.copy_(bias)
    return model.eval(), pd.DataFrame(curve).assign(member="logistic")


def fit_powers(model: BandPowerLogistic, bags: Bags, rows: Ints, batch: int) -> Tensor:
    """Fit the standardisation of band powers on `rows`; return these rows' powers (n, E, F)."""
    powers = measured(model, bags, rows, batch)  # (n, E, F)
    with torch.no_grad():
        model.learn(powers)
    return powers


def measured(model: BandPowerLogistic, bags: Bags, rows: Ints, batch: int) -> Tensor:
    """Log band powers (n, E, F) of `rows`."""
    with torch.no_grad():
        return torch.cat([model.measure(bag) for bag, _, _ in make_loader(bags, rows, batch)])  # (n, E, F)


def _regression(x: Tensor, y: Ints, strength: float, balanced: bool, n_classes: int) -> tuple[Tensor, Tensor]:
    """Fit a multinomial logistic regression of `y` (n,) on `x` (n, E·F); weight (n_classes, E·F), bias (n_classes,)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    classes = np.unique(y)
    if len(classes) < 2:
        return _layer(np.zeros((1, x.shape[1])), np.zeros(1), classes, n_classes)
    weight = "balanced" if balanced else None
    regression = LogisticRegression(C=strength, class_weight=weight, max_iter=5000, tol=1e-7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the strength is judged by what it predicts
        regression.fit(x.numpy(), y)
    return _layer(regression.coef_, regression.intercept_, classes, n_classes)


def _layer(
    coefficients: NDArray[np.float64], intercept: NDArray[np.float64], classes: NDArray[np.int64], n_classes: int
) -> tuple[Tensor, Tensor]:
    """One row for each class of the study: two classes share one row in scikit-learn, and training may lack some."""
    if len(classes) == 2:
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])  # (2, E·F)
        intercept = np.concatenate([np.zeros_like(intercept), intercept])  # (2,)
    weight = torch.zeros(n_classes, coefficients.shape[1], dtype=torch.float64)  # (n_classes, E·F)
    bias = torch.full((n_classes,), NEVER, dtype=torch.float64)  # (n_classes,)
    weight[classes], bias[classes] = torch.from_numpy(coefficients), torch.from_numpy(intercept)
    return weight, bias
