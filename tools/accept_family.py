"""The long checks of the model family: what it must reach on simulated studies whose truth is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from accept_parts import JOBS, STUDY, evaluated, figure, made, milmer
from truth import attention as attention_rows
from truth import shown

from milmer.config import load_config
from milmer.evaluation.intervals import clustered_mean, jackknife
from milmer.store import Store

QUICK = ["--set", "evaluation.probes=false"]  # where nothing is asked of the attention
LONGER = ["--subjects", "8", "--trials", "20", "--size", "320x256", "--fps", "25"]


def knows_faces(root: Path) -> list[str]:
    """Options of a frozen backbone, pretrained on drawn expressions of people that are in no study here."""
    pictures, backbone = root / "expressions", root / "backbone"
    if not backbone.exists():
        people = ["--expressions", "240", "--subjects", "40", "--seed", "1"]
        milmer("simulate", pictures, *people, "--jobs", JOBS)
        fitting = ["--backbone", "random:demo", "--epochs", "12", "--group-by", "prefix", "--resume"]
        milmer("pretrain", "faces", pictures, "--out", backbone, *fitting)
    return ["--backbone", str(backbone), "--trainable-stages", "0"]


def mean_of(values: Iterable[float], subjects: Sequence[str]) -> dict[str, Any]:
    """Mean over rows, with an interval over subjects."""
    numbers = np.asarray(list(values), dtype=np.float64)  # (n,)
    low, high = clustered_mean(numbers, np.asarray(subjects))
    return {"value": float(numbers.mean()), "low": low, "high": high, "n": len(numbers)}


def ratio_of(rows: pd.DataFrame) -> dict[str, Any]:
    """Mean weight on expressive frames over that on others, with an interval over subjects."""
    sums = rows.groupby("subject")[["on", "off"]].sum().to_numpy()  # (subjects, 2)
    left = sums.sum(0) - sums  # (subjects, 2)
    value = float(rows["on"].sum() / rows["off"].sum())
    low, high = jackknife(value, left[:, 0] / left[:, 1], scale="positive")
    return {"value": value, "low": low, "high": high, "n": len(rows)}


def right(run: Path, level: str = "window") -> pd.Series[float]:
    """1 where a test window (or trial, by its mean probabilities) was answered rightly, by its identity."""
    table = pd.read_parquet(run / "predictions.parquet")
    table = table[table["part"] == "test"]
    if level == "trial":
        prob = [c for c in table if c.startswith("prob_")]
        table = table.groupby(["subject", "trial"], as_index=False).agg(
            {**dict.fromkeys(prob, "mean"), "y_true": "first"}
        )
        table = table.assign(window=0, y_pred=table[prob].to_numpy().argmax(1))
    hit = (table["y_true"] == table["y_pred"]).astype(float)
    return hit.set_axis(pd.MultiIndex.from_frame(table[["subject", "trial", "window"]])).sort_index()


def gain(run: Path, other: Path, level: str = "window") -> dict[str, Any]:
    """Accuracy of `run` less that of `other`, paired, with an interval over subjects."""
    one, two = right(run, level), right(other, level)
    if not one.index.equals(two.index):
        raise ValueError(f"{run} and {other} were not tested on the same rows")
    return mean_of(one - two, one.index.get_level_values("subject").tolist())


def attention(folder: Path) -> dict[str, Any]:
    """On people never seen, weights find the planted moments: at least 5 times the weight of other frames, top 3 right
    in 0.85; whole-trial bags rank them with average precision 0.8; the published scorer weighs all frames nearly alike;
    replacing the top frames by neutral ones costs more than replacing random ones."""
    longer = [*LONGER, "--seconds", "33", "--seed", "10"]
    study, store = folder / "study", made(folder, longer)
    faces = knows_faces(folder.parent)
    common = [*faces, "--protocol", "subject", "--folds", "4"]
    halves = ["--set", "data.step=6"]
    trial = ["--bag", "trial", "--batch", "6", "--epochs", "16", "--modalities", "face"]
    runs = {
        "windows": [*common, *halves],
        "windows, published selection": [*common, *halves, "--selection", "published"],
        "whole trials": [*common, *trial],
    }
    found: dict[str, Any] = {}
    opened = Store(store)
    for name, options in runs.items():
        run = folder / name.replace(", ", "-").replace(" ", "-")
        rows = evaluated(store, run, *options)
        level = "window" if "windows" in name else "trial"
        found[f"{name}: accuracy by {level}"] = figure(rows, "accuracy", level)
        seen = attention_rows(study, opened, pd.read_parquet(run / "predictions.parquet"))
        subjects = seen["subject"].tolist()
        found[f"{name}: weight on expressive frames over that on others"] = ratio_of(seen)
        found[f"{name}: precision of the top 3 a window"] = mean_of(seen["precision"], subjects)
        found[f"{name}: average precision"] = mean_of(seen["average_precision"], subjects)
        found[f"{name}: share of frames that are expressive"] = mean_of(seen["share"], subjects)
    found |= untrained(folder / "windows-published-selection", store, study)
    found |= deletion(folder / "windows", store, study)
    one, three = found["windows: precision of the top 3 a window"], found["whole trials: average precision"]
    five = found["windows: weight on expressive frames over that on others"]
    published = found["windows, published selection: weight on expressive frames over that on others"]
    harm = found["deletion, accuracy: top less random frames replaced by neutral ones"]
    good = five["value"] >= 5 and one["value"] >= 0.85 and three["value"] >= 0.8
    return {"passed": good and published["value"] < 1.5 and harm["high"] < 0, "figures": found}


def untrained(run: Path, store: Path, study: Path) -> dict[str, Any]:
    """What scorers that never train choose. To a backbone that knows faces an expression lies apart from the rest, so
    that any direction has some at its end: one random scorer looks skilled and another worse than chance."""
    import torch

    from milmer.training.data import Bags
    from milmer.training.fit import build_model

    config = load_config(file=run / "config.yaml")
    opened = Store(store)
    bags = Bags(opened, config.data)
    rows = np.arange(len(bags.table))[:: max(1, len(bags.table) // 160)]  # (n,)
    table = bags.table.iloc[rows].reset_index(drop=True).assign(part="test", face_rows=list(bags.face_rows[rows, 0]))
    batch = bags.__getitems__([(0, int(i)) for i in rows])
    means, shares = [], []
    for seed in range(20):
        seeded = config.model_copy(update={"training": config.training.model_copy(update={"seed": seed})})
        with torch.inference_mode():
            weights = build_model(seeded, bags, rows).eval()(batch).frame_weights[:, 0].numpy()  # (n, N)
        seen = attention_rows(study, opened, table.assign(frame_weights=list(weights)))
        means.append(float(seen["precision"].mean()))
        shares.append(float(seen["share"].mean()))
    low, high = min(means), max(means)
    name = "published selection, 20 random scorers: mean precision"
    found: dict[str, Any] = {name: {"value": float(np.mean(means)), "low": low, "high": high, "n": 20}}
    return found | {"(there the interval is the least and the most; share of expressive frames)": np.mean(shares)}


def deletion(run: Path, store: Path, study: Path) -> dict[str, Any]:
    """The deletion test with frames that are known to show nothing."""
    from milmer.evaluation.protocols import make_splits
    from milmer.training.data import Bags
    from milmer.training.probes import probe_fold

    config = load_config(file=run / "config.yaml")
    opened = Store(store)
    bags = Bags(opened, config.data)
    neutral = {key: np.flatnonzero(shown(study, opened, key) == 0) for key in opened.keys}  # (F,) each
    evaluation = config.evaluation
    splits = make_splits(
        bags.table, bags.labels.y, evaluation.protocol, evaluation.folds, evaluation.seed, bags.labels.classes
    )
    asked = [probe_fold(config, bags, s.test, run / "folds" / str(s.fold), neutral) for s in splits]
    table = pd.concat(asked, ignore_index=True)
    prob = [c for c in table if c.startswith("prob_")]
    table["right"] = (table[prob].to_numpy().argmax(1) == table["y_true"].to_numpy()).astype(float)
    rows = ["subject", "trial", "window"]
    means = table.groupby(["probe", *rows])["right"].mean()
    found: dict[str, Any] = {}
    for probe in ("intact", "frames-top", "frames-random"):
        found[f"deletion, accuracy: {probe}"] = mean_of(means[probe], means[probe].index.get_level_values(0).tolist())
    less = means["frames-top"] - means["frames-random"]
    name = "deletion, accuracy: top less random frames replaced by neutral ones"
    found[name] = mean_of(less, less.index.get_level_values(0).tolist())
    return found


def fusion(folder: Path) -> dict[str, Any]:
    """Where valence is only in the EEG and arousal only in the face, fusion beats both single modalities under the
    trial and the subject protocol, paired by subject, with an interval above zero."""
    apart = ["--valence", "eeg", "--arousal", "face", "--seed", "11"]
    store = made(folder, [*LONGER, "--seconds", "33", *apart])
    faces = [*knows_faces(folder.parent), "--set", "data.step=9", *QUICK]
    found: dict[str, Any] = {}
    for protocol in ("trial", "subject"):
        runs = {name: folder / f"{protocol}-{name.replace(',', '-')}" for name in ("eeg,face", "eeg", "face")}
        for name, run in runs.items():
            folds = ["--folds", "4"] if protocol == "subject" else []
            rows = evaluated(store, run, *faces, "--protocol", protocol, *folds, "--modalities", name)
            found[f"{protocol}: accuracy of {name} by window"] = figure(rows, "accuracy", "window")
        for name in ("eeg", "face"):
            found[f"{protocol}: fusion less {name} alone"] = gain(runs["eeg,face"], runs[name])
    less = [f for name, f in found.items() if "fusion less" in name]
    return {"passed": all(f["low"] > 0 for f in less), "figures": found}


def joint(folder: Path) -> dict[str, Any]:
    """Where the label is the exclusive-or of what EEG and face carry, joint fusion beats the ensemble of two
    single-modality models by 5 points at least; where both say the same, it loses 1 at most."""
    found: dict[str, Any] = {}
    many = ["--subjects", "16", "--trials", "40", "--seconds", "12", "--size", "320x256", "--fps", "25"]
    fewer = ["--target", "arousal", "--folds", "3", "--epochs", "14"]
    studies = {
        "exclusive-or": ([*many, "--seed", "12", "--joint", "xor"], fewer),
        "both say the same": ([*STUDY, "--seed", "14"], []),
    }
    for name, (options, asked) in studies.items():
        place = folder / name.replace(" ", "-")
        store = made(place, options)
        faces = [*knows_faces(folder.parent), *asked, *QUICK]
        for kind in ("transformer", "ensemble"):
            rows = evaluated(store, place / kind, *faces, "--fusion", kind)
            for level in ("window", "trial"):
                found[f"{name}: accuracy of {kind} by {level}"] = figure(rows, "accuracy", level)
        for level in ("window", "trial"):
            less = gain(place / "transformer", place / "ensemble", level)
            found[f"{name}: transformer less ensemble by {level}"] = less
    better = found["exclusive-or: transformer less ensemble by window"]
    same = found["both say the same: transformer less ensemble by window"]
    return {"passed": better["value"] >= 0.05 and better["low"] > 0 and same["value"] >= -0.01, "figures": found}


def published(folder: Path) -> dict[str, Any]:
    """With the demo's backbone, width and training for both, the mechanisms of preset `default` are at least as
    accurate as those of `published` under every protocol."""
    store = made(folder, [*STUDY, "--seed", "14"])
    faces = knows_faces(folder.parent)
    demo = load_config("demo").model.model_dump(mode="json")
    found: dict[str, Any] = {}
    for protocol in ("trial", "subject", "window"):
        runs = {}
        for preset in ("default", "published"):
            model = load_config(preset).model.model_dump(mode="json")
            model |= {name: demo[name] for name in ("width", "backbone", "trainable_stages")}
            model["fusion"] |= {name: demo["fusion"][name] for name in ("heads", "feedforward")}
            file = folder / f"{preset}.yaml"
            file.write_text(yaml.safe_dump({"model": model}))
            runs[preset] = folder / f"{protocol}-{preset}"
            rows = evaluated(store, runs[preset], "--config", str(file), "--protocol", protocol, *faces, *QUICK)
            for level in ("window", "trial"):
                found[f"{protocol}: accuracy of {preset} by {level}"] = figure(rows, "accuracy", level)
        found[f"{protocol}: default less published by window"] = gain(runs["default"], runs["published"])
    less = [f["value"] for name, f in found.items() if "less published" in name]
    return {"passed": min(less) >= 0, "figures": found}


def pretraining(folder: Path) -> dict[str, Any]:
    """A backbone pretrained on 1,200 drawn faces of 40 others helps with people never seen: face alone, subject
    protocol, against the same network from random weights, all of it trained."""
    store = made(folder.parent / "fusion-same", [*STUDY, "--seed", "15"])
    alone = ["--modalities", "face", "--protocol", "subject", *QUICK]
    found: dict[str, Any] = {}
    for name, options in (("pretrained", knows_faces(folder.parent)), ("random", [])):
        rows = evaluated(store, folder / name, *alone, *options)
        for level in ("window", "trial"):
            found[f"{name}: accuracy by {level}"] = figure(rows, "accuracy", level)
    for level in ("window", "trial"):
        found[f"pretrained less random by {level}"] = gain(folder / "pretrained", folder / "random", level)
    return {"passed": found["pretrained less random by window"]["low"] > 0, "figures": found}
