"""What a demo's directory was made from, and how long each stage took: on disk, for the run that goes on from there."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastwm.models.storage import write_atomically

logger = logging.getLogger(__name__)


class Ledger:
    """Times stages; remembers those that a later run need not repeat.

    recipe: what the kept work depends on. Raises ValueError where `path` holds another recipe, or is damaged.
    """

    def __init__(self, path: Path, recipe: Mapping[str, Any]) -> None:
        self._path, self._recipe = path, dict(recipe)
        self._kept: dict[str, float] = {}
        self.seconds: dict[str, float | None] = {}  # of each stage; None where an earlier run's is not known
        if path.is_file():
            self._kept = self._read()
        else:
            self._write()

    @contextmanager
    def stage(self, name: str, what: str) -> Iterator[None]:
        """Announce a stage and time it."""
        logger.info("%s: %s", name, what)
        began = time.perf_counter()
        yield
        self.seconds.setdefault(name, time.perf_counter() - began)

    def made(self, name: str, seconds: float) -> None:
        """A stage whose result is kept took `seconds`."""
        self.seconds[name] = self._kept[name] = seconds
        self._write()

    def reuse(self, name: str, what: object) -> None:
        """An earlier run has made `what`: its time counts."""
        logger.info("%s: %s is already there", name, what)
        self.seconds[name] = self._kept.get(name)

    def _read(self) -> dict[str, float]:
        start_over = "choose another directory, or start over (--fresh)"
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            recipe, seconds = dict(kept["recipe"]), dict(kept["seconds"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self._path} is damaged ({error}); {start_over}") from error
        names = [name for name in {**recipe, **self._recipe} if recipe.get(name) != self._recipe.get(name)]
        if names:
            changes = ", ".join(f"{name} {recipe.get(name)} -> {self._recipe.get(name)}" for name in names)
            raise ValueError(
                f"{self._path.parent} holds a demo with other settings ({changes}); {start_over}"
            )
        return seconds

    def _write(self) -> None:
        content = json.dumps({"recipe": self._recipe, "seconds": self._kept}, indent=2) + "\n"
        write_atomically(self._path, content.encode())
