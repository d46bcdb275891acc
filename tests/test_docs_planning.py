"""The pages of docs/ on planning, the agent and learning run as they stand, and say what there is."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import docs_code
import pytest

import fastwm
from fastwm.planning import Cost, Sampling

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", ["planning.md", "agent.md"])
def test_page(page: str) -> None:
    docs_code.run(DOCS / page)


def test_learning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = docs_code.run(DOCS / "learning.md")
    assert names["plan"].actions.shape == (1, 8, 2)
    assert abs(names["action"]).max() <= 1


def test_every_search_option_and_cost_is_in_a_table() -> None:
    text = (DOCS / "planning.md").read_text(encoding="utf-8")
    told = {
        name
        for cell in re.findall(r"^\|([^|]*`[^|]*)\|", text, re.MULTILINE)
        for name in re.findall(r"`(\w+)", cell)
    }
    kinds = [getattr(fastwm, name) for name in fastwm.__all__]
    kinds = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, (Sampling, Cost))]
    assert {kind.__name__ for kind in kinds} - {"Cost", "Sum"} <= told
    assert {field.name for field in dataclasses.fields(Sampling)} <= told
