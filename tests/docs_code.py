"""Runs the Python of a page of docs/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(path: Path) -> dict[str, Any]:
    """Execute the ```python blocks of a page in order, in one namespace; it is returned. A traceback has the page's lines."""
    text = path.read_text()
    namespace: dict[str, Any] = {"__name__": "docs"}
    blocks = list(BLOCK.finditer(text))
    assert blocks, f"{path} has no Python"
    for block in blocks:
        above = text[: block.start(1)].count("\n")
        exec(compile("\n" * above + block[1], str(path), "exec"), namespace)
    return namespace
