"""What each ablation compares: its cells, what each changes, and the paper's figure where there is one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_args

from milmer.errors import UserError, nearest
from milmer.evaluation.subsets import MOST, subset_name, subsets

if TYPE_CHECKING:
    from milmer.config import Config

# Heads the column of the paper's figures: they are of another protocol than any honest one.
PAPER_COLUMN = "paper, accuracy %, random windows within subject (leaky protocol)"
PAPER_NOTE = (
    "The paper's figures are of random windows within each subject: windows of one trial are in training and in the "
    "test, and the best epoch was chosen on the test windows, so they largely measure whether a trial is recognised. "
    "They are on DEAP, and comparable with one another only, never with the other columns. A dash: no figure known."
)
TITLES: Mapping[str, str] = MappingProxyType(
    {
        "balancing": "How many visual tokens meet the EEG (the paper's Table 4)",
        "fusion": "How the modalities are fused (the paper's Table 5, and more)",
        "components": "What each component adds (the paper's Table 6)",
        "selection": "How frames are chosen",
        "modalities": "What is lost where a modality is missing",
        "eeg-band": "How much of the EEG is muscle",
    }
)
KINDS = tuple(TITLES)
BOTH, FACE, EEG = ("eeg", "face"), ("face",), ("eeg",)
DROPOUT, ENOUGH = 0.5, 0.3  # of modalities: where the configuration has less than enough
MUSCLE = "muscle artifact"
QUERIES = (16, 32, 64, 147, 196)
PAPER_QUERIES = 64
# Accuracy in %, the paper's Tables 4, 5 and 6, as far as they are known.
TABLE_4: Mapping[str, float] = MappingProxyType(
    {"16-queries": 93.84, "32-queries": 95.05, "64-queries": 96.72, "147-queries": 95.51, "none": 89.91, "mlp": 88.83}
)
TABLE_5: Mapping[str, float] = MappingProxyType({"transformer": 96.72, "concatenation": 89.88, "deepcca": 88.13})
TABLE_6: Mapping[str, float] = MappingProxyType({"tuned-mil-attention": 96.72, "frozen-mil-none": 89.83})


@dataclass(frozen=True)
class Cell:
    """One row of an ablation's table.

    Parameters
    ----------
    name : str
        Names the row, its folder and the word for ``--cells``.
    overrides : mapping of str to value
        Dotted keys of the configuration that this cell sets.
    needs : tuple of str
        Modalities without which the cell compares nothing.
    paper : float or None
        The paper's accuracy in %, of its leaky protocol; None where none is known.
    present : tuple of str
        The modalities that the fitted model is shown at test, where others are hidden from it: cells that differ in
        nothing else share a run. Without any, the model is given all that it takes.
    """

    name: str
    overrides: Mapping[str, Any]
    needs: tuple[str, ...] = FACE
    paper: float | None = None
    present: tuple[str, ...] = ()

    def apply(self, config: Config, seed: int) -> Config:
        """Return the configuration of this cell and training seed.

        Re-runs with permuted labels and probes are left out: they would multiply the work of every cell, and are of
        no use to a comparison.
        """
        from milmer.config import validate

        values = config.model_dump(mode="json")
        extra = {"training.seed": seed, "evaluation.permutations": 0, "evaluation.probes": False}
        for key, value in {**self.overrides, **extra}.items():
            *parents, last = key.split(".")
            leaf = values
            for parent in parents:
                leaf = leaf[parent]
            leaf[last] = value
        return validate(values, f"cell {self.name}")


def plan(kind: str, config: Config) -> tuple[Cell, ...]:
    """Return the cells of an ablation, in the order of its table.

    Parameters
    ----------
    kind : {'balancing', 'fusion', 'components', 'selection', 'modalities', 'eeg-band'}
        Which ablation.
    config : Config
        What the cells change; `components` takes its multiple-instance selection from it, `modalities` its modalities,
        and `eeg-band` the kinds of component that are taken out.

    Raises
    ------
    UserError
        If there is no such ablation, or the configuration has too few or too many modalities for it.
    """
    if kind == "balancing":
        return _balancing()
    if kind == "fusion":
        return _fusion()
    if kind == "components":
        return _components(config.model.selection.method)
    if kind == "selection":
        return _selection()
    if kind == "modalities":
        return _modalities(config)
    if kind == "eeg-band":
        return _eeg_band(config.data.reject)
    raise UserError(f"ablation '{kind}': found no such ablation, expected {', '.join(KINDS)}{nearest(kind, KINDS)}")


def choose(cells: Sequence[Cell], names: Iterable[str]) -> tuple[Cell, ...]:
    """Return the cells of these names, in the plan's order; all of them without a name.

    Raises
    ------
    UserError
        If there is no cell of a name.
    """
    wanted = list(names)
    known = [c.name for c in cells]
    for name in wanted:
        if name not in known:
            raise UserError(
                f"--cells {name}: found no such cell, expected some of {', '.join(known)}{nearest(name, known)}"
            )
    return tuple(c for c in cells if not wanted or c.name in wanted)


def best_known(kind: str, cells: Sequence[Cell]) -> str:
    """Return the name of the paper's own choice, to compare with where the user's own is no cell; else the first's."""
    return {
        "modalities": cells[0].name,
        "eeg-band": cells[0].name,
        "balancing": f"{PAPER_QUERIES}-queries",
        "fusion": "transformer",
        "components": "tuned-mil-attention",
        "selection": "gated-topk",
    }[kind]


def _balancing() -> tuple[Cell, ...]:
    """Table 4. The MLP makes as many tokens as the paper's best, whatever the preset has, so that the rows compare."""
    method, queries = "model.balancing.method", "model.balancing.queries"
    rows: dict[str, dict[str, Any]] = {f"{n}-queries": {method: "cross-attention", queries: n} for n in QUERIES}
    rows |= {"none": {method: "none"}, "mlp": {method: "mlp", queries: PAPER_QUERIES}}
    return tuple(Cell(name, values, FACE, TABLE_4.get(name)) for name, values in rows.items())


def _fusion() -> tuple[Cell, ...]:
    """Table 5, two more ways to use both modalities, each modality alone, and the classical floor."""
    method, given = "model.fusion.method", "data.modalities"
    cells = [
        Cell(name, {method: name, given: list(BOTH)}, BOTH, TABLE_5.get(name))
        for name in ("transformer", "concatenation", "deepcca", "cross-modal", "ensemble")
    ]
    cells.append(Cell("eeg-only", {method: "transformer", given: list(EEG)}, EEG))
    cells.append(Cell("face-only", {method: "transformer", given: list(FACE)}, FACE))
    cells.append(Cell("bandpower-logistic", {method: "bandpower-logistic", given: list(EEG)}, EEG))
    return tuple(cells)


def _components(own: str) -> tuple[Cell, ...]:
    """Table 6, all eight combinations. Multiple-instance selection is the user's own unless that takes one frame."""
    mil = "gated-topk" if own == "middle-frame" else own
    cells = []
    for swin, stages in (("tuned", "all"), ("frozen", 0)):
        for frames, method in (("mil", mil), ("middle", "middle-frame")):
            for tokens, balancing in (("attention", "cross-attention"), ("none", "none")):
                name = f"{swin}-{frames}-{tokens}"
                overrides = {
                    "model.trainable_stages": stages,
                    "model.selection.method": method,
                    "model.balancing.method": balancing,
                }
                cells.append(Cell(name, overrides, FACE, TABLE_6.get(name)))
    return tuple(cells)


def dropout_of(config: Config) -> float:
    """Return the modality dropout that `modalities` trains with: 0.5 unless the configuration's own is 0.3 or more.

    A model that has hardly ever been shown one modality of three answers badly by it, and the table would tell of the
    presets' 0.1 and not of the modality. docs/ablations.md has the figures.
    """
    own = config.model.modality_dropout
    return own if own >= ENOUGH else DROPOUT


def _modalities(config: Config) -> tuple[Cell, ...]:
    """Every subset of the modalities shown to one model; then a model of each alone, and one of all without dropout."""
    names, method = config.data.modalities, config.model.fusion.method
    given = f"ablate modalities: --modalities {','.join(names)}"
    if len(names) < 2:
        raise UserError(f"{given}: found one, expected two at least to hide one of, such as eeg,face or eeg,gsr,ppg")
    if len(names) > MOST:
        many = f"found {len(names)} ({2 ** len(names) - 1} subsets), expected at most {MOST} ({2**MOST - 1})"
        raise UserError(f"{given}: {many}; leave some out")
    if method == "bandpower-logistic":
        raise UserError(f"{given}: model.fusion.method {method} uses the EEG alone; use another")
    apart = method in ("ensemble", "deepcca")  # each modality's model is fitted alone, so that none is ever dropped
    shared = {"data.modalities": list(names), "evaluation.subsets": True}
    shared |= {} if apart else {"model.modality_dropout": dropout_of(config)}
    cells = [Cell(subset_name(s), shared, names, present=s) for s in subsets(names)]
    plain: dict[str, Any] = {"model.modality_dropout": 0.0, "evaluation.subsets": False}
    lone = plain | ({"model.fusion.method": "transformer"} if apart else {})
    cells += [Cell(f"{n}-alone", {"data.modalities": [n]} | lone, (n,)) for n in names]
    if not apart:
        cells.append(Cell("without-dropout", {"data.modalities": list(names)} | plain, names))
    return tuple(cells)


def _eeg_band(own: Sequence[str]) -> tuple[Cell, ...]:
    """The stored band and one below most of the muscles', each with muscle components taken out and left in.

    Muscles of the face speak above 30 Hz: what is lost below it may have been the face, seen by the EEG.
    """
    without = [k for k in own if k != MUSCLE]
    bands: Mapping[str, list[float] | None] = {"stored-band": None, "1-30": [1.0, 30.0]}
    rejects = {"": [*without, MUSCLE], "-with-muscle": without}
    return tuple(
        Cell(f"{band}{word}", {"data.band": edges, "data.reject": reject}, EEG)
        for band, edges in bands.items()
        for word, reject in rejects.items()
    )


def _selection() -> tuple[Cell, ...]:
    """Every selection method there is."""
    from milmer.sections import Selection

    methods = get_args(Selection.model_fields["method"].annotation)
    return tuple(Cell(str(m), {"model.selection.method": m}) for m in methods)
