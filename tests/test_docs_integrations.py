"""The pages of docs/ on integrations run as they stand."""

from __future__ import annotations

from pathlib import Path

import docs_code
import pytest

DOCS = Path(__file__).parents[1] / "docs"


def test_plain_function() -> None:
    pytest.importorskip("jax", reason="jax is not installed")
    docs_code.run(DOCS / "plain_function.md")


def test_gymnasium(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = docs_code.run(DOCS / "gymnasium.md")
    assert (tmp_path / "two-room.gif").is_file()
    assert len(names["result"].returns) == 1


@pytest.mark.peers
def test_torchrl() -> None:
    pytest.importorskip("torchrl", reason="torchrl is not installed", exc_type=ImportError)
    docs_code.run(DOCS / "torchrl.md")


def test_a_page_that_is_wrong_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\na = 1\n```\n\ntext\n\n```python\nassert a == 2\n```\n")
    with pytest.raises(AssertionError) as caught:
        docs_code.run(page)
    assert caught.traceback[-1].lineno == 9, "counted from 0: the page's own line"
