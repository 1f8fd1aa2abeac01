from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from milmer.config import load_config
from milmer.errors import UserError
from milmer.evaluation.samples import write_samples
from milmer.reports.page import write_report
from milmer.reports.reading import read_run
from milmer.reports.words import interval, number
from milmer.store import Store


class Page(HTMLParser):
    """All tags with their attributes, and the text of the page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def images(self, kind: str) -> list[np.ndarray[Any, Any]]:
        """Embedded pictures of a kind, as grey arrays."""
        found = re.findall(rf"data:image/{kind};base64,([A-Za-z0-9+/=]+)", self.source)
        return [np.asarray(Image.open(BytesIO(base64.b64decode(x))).convert("L"), dtype=float) for x in found]


def detail(image: np.ndarray[Any, Any]) -> float:
    """Share of a picture's variance that is finer than an eighth of its side."""
    power = np.abs(np.fft.fft2(image - image.mean())) ** 2
    rate = np.abs(np.fft.fftfreq(len(image)) * len(image))
    return float(power[np.maximum.outer(rate, rate) > 8].sum() / power.sum())


def figure(run: Path, name: str, level: str = "window") -> dict[str, Any]:
    rows = json.loads((run / "metrics.json").read_text())
    part = "test" if any(r["part"] == "test" for r in rows) else "validation"
    return next(r for r in rows if (r["name"], r["level"], r["part"]) == (name, level, part) and not r.get("subject"))


def test_page_holds_everything_and_asks_for_nothing(make: Callable[..., Any]) -> None:
    made = make()
    path = write_report(made.run)
    assert path == made.run / "report.html"
    page = Page(path)
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "srcset", "data", "poster"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), (tag, attributes)
        if tag == "img":
            assert len(attributes.get("alt", "")) > 5
    assert not re.search(r"url\(|@import|@font-face", page.source)
    assert path.stat().st_size < 5e6
    identifiers = {a["id"] for _, a in page.tags if "id" in a}
    assert {a["href"][1:] for t, a in page.tags if t == "a"} <= identifiers
    for part in ("made up", "3 subjects", "24 trials", "96 windows of 3 s", "2026-01-02", "eye blink", "a note of s01"):
        assert part in page.text, part
    assert "fold 1: validation has no trial of HAHV" in page.text
    assert "balancing:" in page.text and f"milmer evaluate {made.store}" in page.text
    assert "where the network looked, not why" in page.text
    assert [p for p in made.run.iterdir() if p.name.startswith(".")] == []


def test_figures_are_those_of_metrics_json(make: Callable[..., Any]) -> None:
    made = make(modalities=("face",), subjects=6, trials=4)
    page = Page(write_report(made.run))
    row = figure(made.run, "macro_f1")
    assert row["low"] is not None
    said = f"Macro-F1 {number(row['value'])} {interval(row)}".rstrip() + " on windows of held-out trials"
    beside = f"; chance {number(row['chance'])}, always answering the commonest class {number(row['majority'])}."
    assert said + beside in page.text
    for name, digits in (("accuracy", 2), ("cohen_kappa", 2), ("auroc", 2), ("log_loss", 3), ("ece", 3)):
        for level in ("window", "trial"):
            found = figure(made.run, name, level)
            assert number(found["value"], digits) in page.text
            assert interval(found, digits) in page.text
    assert "That is above chance" in page.text


def test_changed_metrics_change_the_page(make: Callable[..., Any]) -> None:
    made = make(modalities=("face",), trials=8)
    rows = json.loads((made.run / "metrics.json").read_text())
    for row in rows:
        if row["name"] == "macro_f1":
            row |= {"value": 0.1234, "p": 0.62, "low": None, "high": None}
    (made.run / "metrics.json").write_text(json.dumps(rows))
    text = Page(write_report(made.run)).text
    assert "Macro-F1 0.12 on windows" in text
    assert "not above chance (p = 0.62" in text


@pytest.mark.parametrize("protocol", ["window", "trial", "subject"])
def test_only_the_window_protocol_is_called_leaky(make: Callable[..., Any], protocol: str) -> None:
    made = make(modalities=("face",), evaluation__protocol=protocol)
    page = Page(write_report(made.run))
    assert ("Leaky protocol." in page.text) == (protocol == "window")
    met = re.findall(r"(\d+) of (\d+)", page.text[page.text.index("Trials met") :])
    assert (met[0][0] != "0") == (protocol == "window")  # trials of the test part that training has met
    if protocol == "subject":
        assert met[1] == ("0", "1")


def test_faces_are_blurred_unless_asked_for(make: Callable[..., Any]) -> None:
    made = make(modalities=("face",))
    blurred = Page(write_report(made.run)).images("jpeg")
    shown = Page(write_report(made.run, show_faces=True)).images("jpeg")
    assert len(blurred) == len(shown) >= 40
    crop = np.asarray(Image.open(BytesIO(made.crop)).convert("L"), dtype=float)
    assert detail(crop) > 0.3
    assert max(map(detail, blurred)) < 0.02
    assert min(map(detail, shown)) > 0.2


def test_without_the_store_the_page_says_what_is_missing(make: Callable[..., Any]) -> None:
    made = make(modalities=("face",))
    moved = made.store.with_name("moved")
    shutil.move(made.store, moved)
    page = Page(write_report(made.run))
    assert "has no samples of its store, and the store is not there any more (store)" in page.text
    assert "milmer report RUN --store STORE" in page.text
    assert not page.images("jpeg") and not page.images("png")
    assert number(figure(made.run, "accuracy")["value"]) in page.text
    assert Page(write_report(made.run, store=moved)).images("jpeg")


def sampled(made: Any, **overrides: Any) -> None:
    """Add to a run the samples that evaluate keeps of its store."""
    run = read_run(made.run, pictures=False)
    config = load_config(
        file=made.run / "config.yaml", overrides={k.replace("__", "."): v for k, v in overrides.items()}
    )
    write_samples(made.run, Store(made.store), config, run.predictions, run.classes)


def test_with_samples_neither_store_nor_model_is_needed(make: Callable[..., Any]) -> None:
    made = make()
    with_store = Page(write_report(made.run))
    sampled(made)
    shutil.rmtree(made.store)
    for fold in (made.run / "folds").iterdir():
        assert [f.name for f in fold.iterdir()] == ["history.csv"]  # there never was a model
    page = Page(write_report(made.run))
    assert page.text == with_store.text  # nothing is said to be missing
    for kind in ("jpeg", "png"):
        ones, others = with_store.images(kind), page.images(kind)
        assert len(ones) == len(others) >= 8
        assert all(np.array_equal(a, b) for a, b in zip(ones, others, strict=True))
    assert page.source.count('<figure class="traces">') == with_store.source.count('<figure class="traces">') >= 5


def test_faces_come_from_the_store_or_from_samples_that_have_them(make: Callable[..., Any]) -> None:
    made = make(modalities=("face",))
    sampled(made)
    assert min(map(detail, Page(write_report(made.run, show_faces=True)).images("jpeg"))) > 0.2
    moved = made.store.with_name("moved")
    shutil.move(made.store, moved)
    with pytest.raises(UserError, match=r"--show-faces needs the store.*evaluation\.samples=faces"):
        write_report(made.run, show_faces=True)
    assert min(map(detail, Page(write_report(made.run, show_faces=True, store=moved)).images("jpeg"))) > 0.2
    shutil.move(moved, made.store)
    sampled(made, evaluation__samples="faces")
    shutil.rmtree(made.store)
    assert min(map(detail, Page(write_report(made.run, show_faces=True)).images("jpeg"))) > 0.2
    assert max(map(detail, Page(write_report(made.run)).images("jpeg"))) < 0.02  # blurred unless asked for


def test_damaged_samples_give_way_to_the_store(make: Callable[..., Any]) -> None:
    made = make(modalities=("face",))
    sampled(made)
    (made.run / "samples" / "eeg.npz").write_bytes(b"broken")
    assert Page(write_report(made.run)).images("jpeg")
    shutil.rmtree(made.store)
    page = Page(write_report(made.run))
    assert "eeg.npz" in page.text or "samples: not readable" in page.text
    assert not page.images("jpeg")


def test_a_run_from_before_a_key_was_renamed_is_read(make: Callable[..., Any]) -> None:
    made = make(modalities=("face",))
    text = (made.run / "config.yaml").read_text("utf-8")
    lines = [x for x in text.replace("  resamples:", "  bootstraps:").splitlines() if "  samples: blurred" not in x]
    (made.run / "config.yaml").write_text("\n".join(lines), encoding="utf-8")
    assert read_run(made.run, pictures=False).config.evaluation.resamples == 200
    (made.run / "config.yaml").write_text(text + "\n  unheard: 1\n", encoding="utf-8")
    with pytest.raises(UserError, match="unheard"):
        read_run(made.run)


def test_another_store_is_not_mistaken_for_the_runs(make: Callable[..., Any]) -> None:
    made = make(modalities=("face",))
    info = json.loads((made.store / "study.json").read_text())
    (made.store / "study.json").write_text(json.dumps(info | {"parameters_hash": "another"}))
    assert "prepared anew after this run" in Page(write_report(made.run)).text
    with pytest.raises(UserError, match="fingerprint"):
        write_report(made.run, store=made.store)


def test_a_damaged_recording_costs_its_own_part_only(make: Callable[..., Any]) -> None:
    made = make()
    (made.store / "recordings" / "s01" / "eeg.npy").write_bytes(b"broken")
    page = Page(write_report(made.run))
    assert "eeg.npy: not readable" in page.text
    assert page.images("jpeg")


def test_eeg_alone(make: Callable[..., Any]) -> None:
    page = Page(write_report(make(modalities=("eeg",)).run))
    assert not page.images("jpeg") and len(page.images("png")) >= 8
    assert "attention weight" not in page.text
    assert "Scalp maps of the classes" in page.text


def test_faces_alone(make: Callable[..., Any]) -> None:
    made = make(modalities=("face",))
    page = Page(write_report(made.run))
    assert page.source == Page(write_report(made.run)).source  # nothing in it depends on the hour
    assert page.images("jpeg") and not page.images("png")
    assert "The model was not given EEG." in page.text


def test_two_classes_and_validation_figures(make: Callable[..., Any]) -> None:
    made = make("train", ("face",), data__target="valence")
    page = Page(write_report(made.run))
    assert "Validation figures: the epoch was chosen on them" in page.text
    assert "low" in page.text and "HAHV" not in page.text.replace("trial of HAHV", "")
    assert "milmer train" in page.text


def test_what_is_lacking_is_said(make: Callable[..., Any]) -> None:
    made = make(modalities=("face",))
    (made.run / "metrics.json").unlink()
    shutil.rmtree(made.run / "folds")
    record = json.loads((made.run / "run.json").read_text())
    kept = {k: record[k] for k in ("kind", "store", "fingerprint")}
    (made.run / "run.json").write_text(json.dumps(kept))
    text = Page(write_report(made.run)).text
    assert "Macro-F1 is not available" in text
    assert text.count("ot available") >= 5


def test_names_from_data_cannot_become_markup(make: Callable[..., Any]) -> None:
    made = make(modalities=("face",))
    record = json.loads((made.run / "run.json").read_text())
    record["notes"] = ["<script>alert(1)</script>"]
    (made.run / "run.json").write_text(json.dumps(record))
    page = Page(write_report(made.run))
    assert "<script>alert(1)</script>" in page.text
    assert not any(tag == "script" for tag, _ in page.tags)


def test_what_is_no_run_is_refused(make: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found no run\.json"):
        write_report(tmp_path)
    made = make(modalities=("face",))
    (made.run / "predictions.parquet").unlink()
    with pytest.raises(UserError, match="expected a finished run"):
        write_report(made.run)
    record = json.loads((made.run / "run.json").read_text())
    record["failed"] = [{"what": "fold 2 of 3", "folder": "folds/1", "reason": "out of memory"}]
    (made.run / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"fold 2 of 3: out of memory.*--resume"):
        write_report(made.run)


def test_folds_have_the_names_that_their_splits_have(make: Callable[..., Any]) -> None:
    made = make(modalities=("face",))
    table = pd.DataFrame({"fold": [0, 0, 1, 2, -1], "name": ["subjects 1", "subjects 1", "<b>two</b>", "", ""]})
    table.assign(part="train", row=range(5)).to_parquet(made.run / "splits.parquet", index=False)
    assert read_run(made.run, pictures=False).fold_names == {0: "subjects 1", 1: "<b>two</b>"}
    page = Page(write_report(made.run))
    assert "Fold 1, subjects 1." in page.text and "Fold 2, <b>two</b>." in page.text and "Fold 3. " in page.text
    (made.run / "splits.parquet").write_bytes(b"broken")
    assert "Fold 1. " in Page(write_report(made.run)).text


def test_seeds_are_counted_once(make: Callable[..., Any]) -> None:
    made = make(modalities=("face",))
    table = pd.read_parquet(made.run / "predictions.parquet")
    pd.concat([table, table.assign(seed=1)]).to_parquet(made.run / "predictions.parquet", index=False)
    page = Page(write_report(made.run))
    assert "24 trials, 96 windows of 3 s" in page.text and "Seeds 0, 1 (training)" in page.text
    assert "(192 answers of 2 seeds)" in page.text


def test_reports_need_no_torch() -> None:
    code = "import sys, milmer.reports.page, milmer.reports.timeline; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
