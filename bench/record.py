"""Results on disk: {"machine": header(), "results": [line, …]} in bench/results/<stem>.json."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fastwm.models.storage import write_atomically

RESULTS = Path(__file__).parent / "results"


def save(path: str | os.PathLike[str], content: dict) -> None:
    """Write under a temporary name, then rename."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(Path(path), (json.dumps(content, indent=1) + "\n").encode())


def read(path: str | os.PathLike[str]) -> dict:
    """The content of one file of results; ValueError where it is damaged or holds something else."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        machine, results = content["machine"], content["results"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no results ({error}); run the benchmark again") from error
    if not isinstance(machine, dict) or not isinstance(results, list):
        raise ValueError(f"{path} holds no results; run the benchmark again")
    return content
