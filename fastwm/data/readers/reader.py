"""What every format of episodes gives: columns of rows, one row per step, and where in them the episodes lie."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastwm.data.hdf5 import Column


@dataclass(frozen=True)
class Damage:
    """An episode that cannot be used: the file that it is in, its name, and why."""

    file: Path
    episode: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.episode}: {self.reason}"


# What an error that refuses a data set for one episode ends with.
WITHOUT_IT = "; skip_damaged (--skip-damaged) goes on without it"


class Reader(ABC):
    """The rows of a data set. A row is a step; episodes are runs of `lengths` rows from `offsets` on.

    Pictures are uint8 [height, width, 3] a row; columns that hold some are `cameras`. The action column is "action"
    [A] and leads from its row to the next, the state column "state", whatever the format calls them. `read` may be
    called by several threads at once.
    """

    format: ClassVar[str]  # in words, for people
    decodes: ClassVar[bool] = True  # reading a picture takes decoding it

    path: Path
    columns: Mapping[str, Column]
    cameras: tuple[str, ...]
    lengths: NDArray[np.int64]  # [episodes], frames
    offsets: NDArray[np.int64]  # [episodes], the first row of each
    attributes: dict[str, Any]
    fps: float | None = None
    damaged: tuple[Damage, ...] = ()  # episodes that `skip_damaged` left out of `lengths` and `offsets`

    @abstractmethod
    def read(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """`rows` [n] of column `name`: [n, *columns[name].shape]; ValueError naming what is damaged."""

    def whole(self, name: str) -> NDArray[Any] | None:
        """All rows of column `name` where they are in memory or mapped, else None."""
        return None

    def label(self, episode: int) -> str:
        """What episode number `episode` of `lengths` is called in messages."""
        return f"episode {episode}"

    def close(self) -> None:  # noqa: B027, most readers keep nothing open
        """Let go of open files."""


def needs(module: str, extra: str, path: Path) -> ModuleType:
    """The optional package `module`; an ImportError says how it is installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{path}: reading it needs {module} ({error}): pip install 'fastwm[{extra}]'"
        ) from error


def keep(reader: Reader, usable: NDArray[np.bool_]) -> None:
    """Leave the episodes of `reader` that are not `usable` [episodes] out; ValueError where none is."""
    if not usable.any():
        first = f": {reader.damaged[0]}" if reader.damaged else ""
        raise ValueError(f"{reader.path}: no episode can be used{first}")
    reader.lengths, reader.offsets = reader.lengths[usable], reader.offsets[usable]
