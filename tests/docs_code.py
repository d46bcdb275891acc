"""The code on a page of docs/, run as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(path: str | Path) -> dict[str, Any]:
    """Execute the ```python blocks of a page, in their order and in one namespace, which is returned.

    Errors point to the lines of the page. Raises ValueError for a page without code.
    """
    text = Path(path).read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    if not blocks:
        raise ValueError(f"{path} has no ```python block")
    namespace: dict[str, Any] = {"__name__": "docs"}
    for block in blocks:
        before = text.count("\n", 0, block.start(1))
        exec(compile("\n" * before + block[1], str(path), "exec"), namespace)
    return namespace
