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
from milmer.models.baselines import NEVER, BandPowerLogistic, electrodes_of
from milmer.progress import Progress, silent
from milmer.training.data import Bags, make_loader
from milmer.training.members import judge, only, present

STRENGTHS = np.logspace(-4, 2, 7)  # C of the logistic regression


def fit_bandpower(
    config: Config,
    bags: Bags,
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    progress: Progress = silent,
    text: str = "fit",
) -> tuple[BandPowerLogistic, pd.DataFrame]:
    """Fit band power + logistic regression on `train`, its strength chosen on `validation` by log-loss.

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
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    heard = only(bags, "eeg")
    train = train[present(bags, train, "eeg")]  # (n,)
    batch = 2 * config.training.batch
    places = electrodes_of(bag for bag, _, _ in make_loader(heard, train, batch))  # (E, 3)
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
    with torch.no_grad():
        powers = torch.cat([model.measure(bag) for bag, _, _ in make_loader(heard, train, batch)])  # (n, E, F)
        model.learn(powers)
        judged = torch.cat([model.measure(bag) for bag, _, _ in make_loader(heard, validation, batch)])  # (m, E, F)
        x = model.standardised(powers).double().numpy()  # (n, E·F)
        unseen = model.standardised(judged).double()  # (m, E·F)
    y = bags.labels.y[train]  # (n,)
    classes = np.unique(y)
    weight = "balanced" if config.training.class_weights else None
    rows, layers = [], []
    for done, strength in enumerate(STRENGTHS):
        progress(done, len(STRENGTHS), f"{text}: logistic regression, C {strength:g}")
        if len(classes) > 1:
            regression = LogisticRegression(C=strength, class_weight=weight, max_iter=5000, tol=1e-7)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # the strength is judged by what it predicts
                regression.fit(x, y)
            coefficients, intercept = regression.coef_, regression.intercept_  # (c, E·F), (c,)
        else:
            coefficients, intercept = np.zeros((1, x.shape[1])), np.zeros(1)
        layers.append(_layer(coefficients, intercept, classes, model.n_classes))
        prob = (unseen @ layers[-1][0].T + layers[-1][1]).softmax(-1).numpy()  # (m, n_classes)
        mine = (torch.from_numpy(x) @ layers[-1][0].T + layers[-1][1]).softmax(-1).numpy()  # (n, n_classes)
        rows.append({"C": strength, "train_loss": judge(y, mine)["val_loss"]})
        rows[-1] |= judge(bags.labels.y[validation], prob)
    chosen = int(np.argmin([row["val_loss"] for row in rows]))
    with torch.no_grad():
        model.linear.weight.copy_(layers[chosen][0])
        model.linear.bias.copy_(layers[chosen][1])
    return model.eval(), pd.DataFrame(rows).assign(member="logistic")


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
