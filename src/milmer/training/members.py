"""Single-modality models are made one: which rows each learns from, and what DeepCCA learns on top of them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from milmer.config import Config
from milmer.errors import UserError
from milmer.evaluation.guard import Guard
from milmer.evaluation.metrics import classification
from milmer.models.bag import EEG, FACE
from milmer.models.baselines import DeepCCA, Ensemble
from milmer.models.cca import LinearCCA, cca_loss
from milmer.models.milmer import Milmer
from milmer.models.weights import load_model
from milmer.progress import Progress, silent
from milmer.sections import Modality
from milmer.training.body_reading import BodyReader
from milmer.training.data import Bags, make_loader
from milmer.training.prefix import suited

CLASSIFIER_LR, CLASSIFIER_BATCH = 1e-2, 64  # of one linear layer on variates of unit variance


def member_config(config: Config, name: Modality) -> Config:
    """Return the configuration of the model of one modality alone: a network, whatever the whole is."""
    fusion = config.model.fusion.model_copy(update={"method": "transformer"})
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"modalities": (name,)}),
            "model": config.model.model_copy(update={"fusion": fusion}),
        }
    )


def only(bags: Bags, name: Modality) -> Bags:
    """Return the same bags, of which nothing but one modality is read."""
    other = copy.copy(bags)
    other.config = bags.config.model_copy(update={"modalities": (name,)})
    other.body = BodyReader(bags.store, other.config)
    if name != "face":
        other.face_rows = bags.face_rows[..., :0]  # (n_bags, W, 0)
    return other


def present(bags: Bags, rows: NDArray[np.int64], name: Modality) -> NDArray[np.bool_]:
    """Whether each of `rows` holds any of a modality; (n_rows,)."""
    if name == "face":
        return np.asarray((bags.face_rows[rows] >= 0).any(axis=(1, 2)))  # (n_rows,)
    if name != "eeg":
        places = bags.table["trial_row"].to_numpy(np.int64)[rows]  # (n_rows,)
        return bags.body.there(name, places, bags.table[["start", "stop"]].to_numpy(np.float64)[rows])  # (n_rows,)
    return bags.with_eeg[rows]  # (n_rows,)


def member_guard(bags: Bags, guard: Guard, name: Modality, seed: int) -> Guard:
    """Return the guard of the model of one modality: it learns and chooses its epoch on rows that hold any of it.

    Where no validation row does, a fifth of the training trials is held out in their place.

    Raises
    ------
    UserError
        If no training row holds any.
    """
    train, validation = guard.rows("weights"), guard.rows("early stopping")  # (n,), (m,)
    mine = train[present(bags, train, name)]  # (n',)
    held = validation[present(bags, validation, name)]  # (m,)
    trials = np.unique(bags.table["trial_row"].to_numpy()[mine])  # (t,)
    if not len(held) and len(trials) > 1:
        aside = np.random.default_rng([seed, 5]).permutation(trials)[: max(1, len(trials) // 5)]  # (t/5,)
        out = np.isin(bags.table["trial_row"].to_numpy()[mine], aside)  # (n,)
        mine, held = mine[~out], mine[out]  # (n',), (m,)
    if not len(mine) or not len(held):
        others = [m for m in bags.config.modalities if m != name]
        raise UserError(
            f"no training row holds any {name}, of which a model is to be fitted; leave it out with --modalities "
            f"{','.join(others)}{' and another model.fusion.method' if len(others) < 2 else ''}"
        )
    return guard.within(mine, held)


def combine(
    config: Config,
    bags: Bags,
    guard: Guard,
    folders: Mapping[Modality, Path],
    *,
    device: str = "cpu",
    progress: Progress = silent,
    text: str = "fit",
) -> tuple[Ensemble | DeepCCA, pd.DataFrame]:
    """Make one model of those in `folders`; its learning curve has a column ``member``.

    Parameters
    ----------
    device : str
        Where the members compute their features; what is learned from these is learned on the CPU.

    Raises
    ------
    UserError
        For DeepCCA, if too few training rows hold both modalities.
    """
    members: dict[Modality, Milmer] = {}
    curves = []
    for name in folders:
        member, _ = load_model(folders[name])
        if not isinstance(member, Milmer):
            raise UserError(f"{folders[name]}: holds no network of one modality; fit again without --resume")
        members[name] = member
        curves.append(pd.read_csv(folders[name] / "history.csv").assign(member=name))
    if config.model.fusion.method == "ensemble":
        return Ensemble(config.model, members).eval(), _curve(curves)
    with seeded(config.training.seed):
        model = DeepCCA(config.model, members).eval()
    progress(1, 1, f"{text}, joining both")
    model.to(device)
    kinds = ("weights", "early stopping")
    train, validation = (guard.rows(k) for k in kinds)  # (n,), (m,)
    read = _cached(model, bags, guard, np.concatenate([train, validation]), 2 * config.training.batch)
    model.to("cpu")
    guard.fit(
        "normaliser", lambda rows: standardise(model, read("normaliser", rows)), train, what="features of both views"
    )
    fitted = guard.fit("weights", lambda rows: read("weights", rows), train, what="views, linear CCA, classifier")
    judged = guard.fit(
        "early stopping", lambda rows: read("early stopping", rows), validation, what="views, classifier"
    )
    curves.append(fit_views(model, config, fitted, judged).assign(member="cca"))
    curves.append(fit_classifier(model, config, fitted, judged).assign(member="classifier"))
    return model, _curve(curves)


def _cached(
    model: DeepCCA, bags: Bags, guard: Guard, rows: NDArray[np.int64], batch: int
) -> Callable[[str, NDArray[np.int64]], Rows]:
    """Compute the features of `rows` once; return a function that gives those that a fit of a kind may see."""
    features, there = _features(model, guard.view(("weights", "early stopping"), bags), rows, batch)
    places = np.full(len(bags.table), -1, dtype=np.int64)  # (n_bags,)
    places[rows] = np.arange(len(rows))

    def read(kind: str, wanted: NDArray[np.int64]) -> Rows:
        at = guard.seen(kind, places)[wanted]  # (n,)
        y = torch.from_numpy(guard.view(kind, bags).labels.y[wanted])  # (n,)
        return Rows(features[at], there[at], y)

    return read


class Rows:
    """Cached features of some rows: (n, 2, D), which are of something (n, 2), classes (n,)."""

    def __init__(self, features: Tensor, there: Tensor, y: Tensor) -> None:
        some = there.any(1)  # (n,)
        self.features, self.there, self.y = features[some], there[some], y[some]  # (m, 2, D), (m, 2), (m,)
        both = self.there.all(1)  # (m,)
        self.pairs = self.features[both]  # (p, 2, D)


def standardise(model: DeepCCA, train: Rows) -> None:
    """Fit the standardisation of both views' features on `train`."""
    for i, view in enumerate((model.eeg_view, model.face_view)):
        view.standardise(train.features[train.there[:, i], i])


def fit_views(model: DeepCCA, config: Config, train: Rows, validation: Rows) -> pd.DataFrame:
    """Fit networks and linear CCA of both (standardised) views on `train`, the epoch chosen on `validation`.

    Returns
    -------
    DataFrame
        A row an epoch: `train_loss`, `val_loss` are 1 less the mean correlation of the components.
    """
    cca, settings = config.model.fusion.cca, config.training
    if len(train.pairs) < cca.width + 2:
        raise UserError(
            f"deepcca: {len(train.pairs)} training rows hold both EEG and face, expected at least {cca.width + 2}; "
            "use model.fusion.method=ensemble, which needs none"
        )
    views = (model.eeg_view, model.face_view)
    both = nn.ModuleList(views)
    judged = validation.pairs if len(validation.pairs) > 2 else train.pairs  # (p, 2, D)
    optimiser = torch.optim.AdamW(both.parameters(), lr=cca.lr, weight_decay=settings.weight_decay)
    best = _Best(both, settings.patience)
    for epoch in range(cca.epochs):
        order = np.random.default_rng([settings.seed, epoch, 4]).permutation(len(train.pairs))  # (p,)
        for rows in np.array_split(order, max(1, len(order) // cca.batch)):  # none smaller than cca.batch
            one, two = (view.encode(train.pairs[rows, i]) for i, view in enumerate(views))  # (b, k), (b, k)
            optimiser.zero_grad()
            cca_loss(one, two, cca.ridge).backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
            optimiser.step()
        with torch.no_grad():
            found = _linear(model, train.pairs, cca.width, cca.ridge)
            held = found.held_out(*(view.encode(judged[:, i]) for i, view in enumerate(views)))  # (k,)
        if best.stop({"train_loss": 1 - float(found.correlations.mean()), "val_loss": 1 - float(held.mean())}):
            break
    best.restore()
    with torch.no_grad():
        model.align(_linear(model, train.pairs, cca.width, cca.ridge))
    return best.history


def fit_classifier(model: DeepCCA, config: Config, train: Rows, validation: Rows) -> pd.DataFrame:
    """Fit the weights of the views and the classifier on `train`, the epoch chosen on `validation`."""
    settings = config.training
    judged = validation if len(validation.y) else train
    weights = class_weights(train.y.numpy(), model.n_classes) if settings.class_weights else None  # (n_classes,)
    with torch.no_grad():
        known, unseen = model.variates(train.features), model.variates(judged.features)  # (n, 2, k), (m, 2, k)
    learned = nn.ParameterList([model.mix, *model.head.parameters()])
    optimiser = torch.optim.AdamW(learned, lr=CLASSIFIER_LR, weight_decay=settings.weight_decay)
    best = _Best(learned, settings.patience)
    for epoch in range(config.model.fusion.cca.epochs):
        order = np.random.default_rng([settings.seed, epoch, 6]).permutation(len(train.y))  # (n,)
        total = 0.0
        for rows in np.array_split(order, -(-len(order) // CLASSIFIER_BATCH)):
            logits = model.classify(known[rows], train.there[rows])  # (b, n_classes)
            loss = nn.functional.cross_entropy(logits, train.y[rows], weight=weights)  # ()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
            optimiser.step()
            total += float(loss.detach()) * len(rows) / len(order)
        with torch.no_grad():
            logits = model.classify(unseen, judged.there)  # (m, n_classes)
        figures = judge(judged.y.numpy(), logits.softmax(-1).numpy())
        if best.stop({"train_loss": total, **figures}):
            break
    best.restore()
    return best.history


def class_weights(y: NDArray[np.int64], classes: int) -> Tensor:
    """Inverse frequency of each class in `y` (n,), 0 for one that is not there; mean 1 over rows; (classes,)."""
    counts = np.bincount(y, minlength=classes)  # (classes,)
    present = np.maximum(counts, 1)  # (classes,)
    weights = np.where(counts > 0, len(y) / (present * max(1, (counts > 0).sum())), 0.0)  # (classes,)
    return torch.tensor(weights, dtype=torch.float32)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw initial weights as a function of `seed`, and leave torch's generator as it was."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


class _Best:
    """The parameters at the smallest validation loss so far, and the curve to them."""

    def __init__(self, module: nn.Module, patience: int) -> None:
        self.module, self.patience, self.rows = module, patience, list[dict[str, float]]()
        self._at, self._state = 0, copy.deepcopy(module.state_dict())

    def stop(self, figures: dict[str, float]) -> bool:
        """Take note of an epoch; whether there have been `patience` of them without a better one."""
        self.rows.append({"epoch": float(len(self.rows)), **figures})
        if len(self.rows) == 1 or figures["val_loss"] < self.rows[self._at]["val_loss"]:
            self._at, self._state = len(self.rows) - 1, copy.deepcopy(self.module.state_dict())
        return len(self.rows) - 1 - self._at >= self.patience

    def restore(self) -> None:
        """Go back to the best."""
        self.module.load_state_dict(self._state)

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch."""
        return pd.DataFrame(self.rows)


def _features(model: DeepCCA, bags: Bags, rows: NDArray[np.int64], batch: int) -> tuple[Tensor, Tensor]:
    """CLS features (n, 2, D) of `rows`, and which are of something (n, 2)."""
    place = model.mix.device
    found, there = [], []
    with torch.no_grad():
        for bag, _, _ in make_loader(suited(bags, model), rows, batch):
            features, here, _ = model.describe(bag.to(place))  # (B, 2, D), (B, 2)
            found.append(features.cpu())  # (B, 2, D)
            there.append(here.cpu())  # (B, 2)
    return torch.cat(found), torch.cat(there)


def _linear(model: DeepCCA, pairs: Tensor, width: int, ridge: float) -> LinearCCA:
    one, two = model.eeg_view.encode(pairs[:, EEG]), model.face_view.encode(pairs[:, FACE])  # (p, k), (p, k)
    return LinearCCA.fit(one, two, width, ridge)


def judge(y: NDArray[np.int64], prob: NDArray[np.floating]) -> dict[str, float]:
    """Validation figures of the probabilities `prob` (n, n_classes) of rows of the classes `y` (n,)."""
    if not len(y):
        return {"val_loss": float("nan")}
    found = classification(y, prob, [str(i) for i in range(prob.shape[1])])
    loss = -np.log(np.maximum(prob[np.arange(len(y)), y], 1e-12)).mean()
    return {"val_loss": float(loss), "val_macro_f1": found["macro_f1"], "val_accuracy": found["accuracy"]}


def _curve(curves: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(curves, ignore_index=True)
