"""What the catalog says can be had, and is said in words that the rest of the house knows."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from milmer.datasets import open_study
from milmer.datasets.catalog import CATALOG
from milmer.errors import UserError
from milmer.preparation.check import MODALITIES


@pytest.mark.parametrize("name", CATALOG)
def test_every_study_has_a_loader_and_known_words(name: str, tmp_path: Path) -> None:
    facts = CATALOG[name]
    assert re.fullmatch(r"[a-z0-9-]+", name)
    assert facts.title
    module, _, kind = facts.loader.partition(":")
    loader = getattr(import_module(f"milmer.datasets.{module}"), kind)
    assert callable(loader.recordings)
    assert set(facts.modalities) <= set(MODALITIES)
    assert len(set(facts.modalities)) == len(facts.modalities)
    assert all(re.fullmatch(r"[^,;]+", label) for label in facts.labels)
    assert (facts.subjects is None) == (facts.trials is None)
    if facts.subjects is not None and facts.trials is not None:
        assert 0 < facts.subjects <= facts.trials
    with pytest.raises(UserError) as caught:
        open_study(name, tmp_path / "nowhere").recordings()
    assert "nowhere" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_page_on_studies_has_a_row_for_each() -> None:
    page = (Path(__file__).parents[2] / "docs/studies.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([\w-]+)` \|", page, flags=re.M) == list(CATALOG)


def test_an_unknown_study_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"known are deap, .*did you mean 'deap-raw'"):
        open_study("deap_raw", Path())
