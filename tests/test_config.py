import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from milmer.config import Component, Config, Section, differences, dump, load_config, preset_names, validate
from milmer.errors import UserError
from milmer.signals.ica_labels import LABELS


def sections(kind: type[BaseModel]) -> list[type[BaseModel]]:
    inner = [f.annotation for f in kind.model_fields.values() if isinstance(f.annotation, type)]
    return [kind] + [s for k in inner if issubclass(k, BaseModel) for s in sections(k)]


def test_without_anything_it_is_the_default() -> None:
    assert load_config() == load_config("default")
    assert load_config().preset == "default"


@pytest.mark.parametrize("preset", preset_names())
def test_a_dumped_configuration_loads_as_itself(preset: str, tmp_path: Path) -> None:
    config = load_config(preset, overrides=["data.reject=[]", "model.backbone='a: # b'", "training.lr=3e-5"])
    file = tmp_path / "config.yaml"
    file.write_text(dump(config), encoding="utf-8")
    assert load_config(file=file) == config
    assert yaml.safe_load(dump(config)) == config.model_dump(mode="json")


def test_every_key_is_dumped_with_a_comment_and_described() -> None:
    for line in dump(load_config("paper")).splitlines():
        assert not line or "  # " in line or line.startswith("preset:") or line.endswith("# "), line
    for section in sections(Config):
        assert issubclass(section, Section) and section.__doc__
        for name, field in section.model_fields.items():
            assert field.description or isinstance(field.default, BaseModel), f"{section.__name__}.{name}"


def test_the_papers_numbers() -> None:
    paper = load_config("paper")
    assert (paper.data.window, paper.data.frames, paper.data.px, paper.data.threshold) == (3.0, 10, 224, 5.0)
    assert paper.preparation.eeg.band == (1.0, 50.0) and paper.preparation.eeg.rate == 128
    assert paper.preparation.eeg.ica == "fastica"
    assert (paper.preparation.face.confidence, paper.preparation.face.margin) == (0.7, 0.1)
    assert (paper.model.width, paper.model.selection.keep, paper.model.balancing.queries) == (768, 3, 64)
    assert paper.model.balancing.layers == 2 and paper.model.head_dropout == 0.1
    fusion = paper.model.fusion
    assert (fusion.layers, fusion.heads, fusion.feedforward, fusion.dropout) == (6, 12, 2048, 0.2)
    training = paper.training
    assert (training.lr, training.lr_floor, training.batch, training.epochs, training.seed) == (1e-4, 0.1, 14, 100, 0)


def test_preset_gives_way_to_file_and_file_to_flags(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: paper\nmodel: {width: 384, balancing: {queries: 5}}\n", encoding="utf-8")
    alone = load_config(file=file)
    assert (alone.preset, alone.model.width, alone.model.balancing.queries) == ("paper", 384, 5)
    assert alone.model.balancing.layers == 2  # what the file leaves out stays
    demo = load_config("demo", file)
    assert (demo.preset, demo.model.width, demo.model.balancing.layers) == ("demo", 384, 1)
    flags = load_config(None, file, ["model.balancing.queries=7", "model.width=96"])
    assert (flags.model.width, flags.model.balancing.queries) == (96, 7)
    assert load_config(None, file, {"model.width": 192}).model.width == 192


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("", encoding="utf-8")
    assert load_config(file=file) == load_config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: {}", r"unknown option 'modle' \(did you mean 'model'\?\)"),
        ("model: {balancing: {querys: 3}}", r"'model.balancing.querys' \(did you mean 'queries'\?\)"),
        ("3: 4", "unknown option '3'"),
        ("model: 3", "model: found 3, expected keys and values"),
        ("- a", "found list, expected keys and values"),
        ("a: [", "not readable as YAML"),
        ("preset: papr", r"preset 'papr': known presets are default, demo, paper, published.*did you mean 'paper'"),
        ("training: {lr: .nan}", "training.lr: .*found nan"),
        ("training: {epochs: 0}", "training.epochs: .*found 0"),
        ("training: {epochs: 3.5}", "training.epochs"),
        ("evaluation: {protocol: trials}", "evaluation.protocol: .*'cross-study' or 'window'.*found 'trials'"),
        ("evaluation: {folds: 1}", "evaluation.folds"),
        ("data: {modalities: []}", "name some of eeg, face"),
        ("data: {modalities: [smell]}", "data.modalities.0: .*found 'smell'"),
        ("{data: {modalities: [eeg]}, model: {fusion: {method: ensemble}}}", "joins a model of each.*is eeg; name"),
        ("{data: {modalities: [face]}, model: {fusion: {method: deepcca}}}", "joins a model of the EEG.*is face; use"),
        ("{data: {modalities: [face]}, model: {fusion: {method: bandpower-logistic}}}", "uses the EEG alone.*is face"),
        ("model: {eeg_tokens: 'braindecode:@user/weights'}", "model.eeg_tokens: expected channel, bandpower, temporal"),
        ("model: {width: 60, fusion: {heads: 7}}", "model.width 60 must be a multiple of model.fusion.heads 7"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_that_names_it(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        load_config(file=file)
    assert "\n" not in str(error.value)
    assert "bad.yaml" in str(error.value) or "preset" in text


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("model.width", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("model.width=[", "the value is not YAML"),
        ("model.widht=3", r"unknown option 'model.widht' \(did you mean 'width'\?\)"),
        ("model=3", "expected keys and values"),
        ("data.step=0", "data.step: .*greater than 0"),
        ("data.threshold=high", "threshold: .* a valid number, .* or 'midpoint' or 'median', found 'high'"),
        ("evaluation.budget=all", "budget: found 'all', expected what .*: none, unlabelled.*labelled:trials"),
    ],
)
def test_a_mistake_in_a_flag_is_one_line(pair: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_config(overrides=[pair])
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.yaml: no such configuration file"):
        load_config(file=tmp_path / "gone.yaml")


def test_a_configuration_does_not_change() -> None:
    config = load_config()
    with pytest.raises(ValidationError):
        config.model.width = 3  # type: ignore[misc]  # that it is refused is the test
    assert validate({}, "nothing").model.width == 768


def test_differences_name_the_keys() -> None:
    old, new = (load_config(overrides=o).model_dump(mode="json") for o in ([], ["model.balancing.queries=9"]))
    assert differences(old, old) == []
    assert differences(old, new) == ["model.balancing.queries 32, asked for 9"]


def test_importing_the_configuration_imports_nothing_heavy() -> None:
    program = (
        "import sys, milmer.config\n"
        "heavy = {'torch', 'lightning', 'transformers', 'mne', 'matplotlib', 'sklearn', 'av', 'pandas', 'numpy'}\n"
        "sys.stdout.write(str(sorted(heavy & set(sys.modules))))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]"


def test_a_kind_of_component_that_is_none_is_refused() -> None:
    """Else a misspelt kind would silently take nothing out."""
    assert get_args(Component) == LABELS
    with pytest.raises(UserError, match=r"data.reject.0: .*'eye blink'.* found 'eog'"):
        load_config("demo", overrides={"data.reject": ["eog"]})
