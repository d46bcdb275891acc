"""Writing episodes of any origin, one at a time: a robot's log, another simulator."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import hdf5

BLOCK = 1 << 24  # bytes copied at a time


class EpisodeWriter:
    """Collects episodes and writes them to `path` when the `with` block ends; an exception in it leaves no
    file.

        with EpisodeWriter("episodes.h5", world="my robot") as writer:
            writer.append(pixels=…, action=…, state=…)

    Keyword arguments become attributes of the file. Until the end columns are kept in anonymous files beside
    `path`.
    """

    def __init__(self, path: str | os.PathLike[str], **attributes: str | int | float) -> None:
        from fastwm import __version__

        self.path = Path(path)
        self._attributes = {"fastwm_version": __version__, **attributes}
        self._columns: dict[str, hdf5.Column] = {}
        self._files = ExitStack()
        self._spools: dict[str, IO[bytes]] = {}
        self._lengths: list[int] = []

    def append(self, **values: ArrayLike) -> None:
        """Add an episode: `pixels` uint8 [length, height, width, 3], others, such as `action` [length or
        length - 1, action_dim].

        All columns have `length` rows; an `action` with one row less gets a last row of zeros. Floats are
        stored as float32. Raises ValueError where columns differ from the first episode's.
        """
        episode = _episode(values)
        columns = {name: hdf5.Column(array.dtype, array.shape[1:]) for name, array in episode.items()}
        if not self._lengths:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._columns = columns
            for name in columns:
                spool = tempfile.TemporaryFile(dir=self.path.parent)  # noqa: SIM115, the stack closes it
                self._spools[name] = self._files.enter_context(spool)
        if columns != self._columns:
            raise ValueError(f"append: expected the first episode's columns {self._columns}, got {columns}")
        for name, array in episode.items():
            self._spools[name].write(array.reshape(-1).view(np.uint8).data)
        self._lengths.append(len(episode["pixels"]))

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._write()
        finally:
            self._files.close()

    def _write(self) -> None:
        if not self._lengths:
            raise ValueError(f"{self.path}: no episode was appended")
        unfinished = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        try:
            starts = hdf5.allocate(unfinished, self._columns, np.array(self._lengths), self._attributes)
            with unfinished.open("r+b") as file:
                for name, spool in self._spools.items():
                    _copy(spool, file.fileno(), starts[name])
                os.fsync(file.fileno())
            os.replace(unfinished, self.path)
        finally:
            unfinished.unlink(missing_ok=True)


def _episode(values: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
    """`values` as contiguous arrays with one row per step, or a ValueError."""
    if "pixels" not in values:
        raise ValueError("append: missing ['pixels']")
    if reserved := {hdf5.LENGTHS, hdf5.OFFSETS} & set(values):
        raise ValueError(f"append: {sorted(reserved)} are written by the writer itself")
    episode = {name: np.asarray(value) for name, value in values.items()}
    pixels = episode["pixels"]
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3 or len(pixels) == 0:
        raise ValueError(
            f"pixels: expected uint8 [length, height, width, 3], got {pixels.dtype} {list(pixels.shape)}"
        )
    for name, array in episode.items():
        if array.dtype.kind not in "biuf" or array.ndim == 0:
            raise ValueError(f"{name}: expected numbers [length, …], got {array.dtype} {list(array.shape)}")
        if name == "action" and (array.ndim != 2 or array.dtype.kind != "f"):
            raise ValueError(
                f"action: expected floats [length, action_dim], got {array.dtype} {list(array.shape)}"
            )
        if array.dtype.kind == "f":
            array = array.astype(np.float32)
            if not np.isfinite(array).all():
                raise ValueError(f"{name}: row {int(np.argwhere(~np.isfinite(array))[0][0])} is not finite")
        if name == "action" and len(array) == len(pixels) - 1:
            array = np.concatenate([array, np.zeros_like(array, shape=(1, array.shape[1]))])
        if len(array) != len(pixels):
            raise ValueError(f"{name}: expected {len(pixels)} rows, as pixels, got {len(array)}")
        episode[name] = np.ascontiguousarray(array)
    return episode


def _copy(spool: IO[bytes], file: int, start: int) -> None:
    """Copy all of `spool` to byte `start` of descriptor `file`."""
    spool.seek(0)
    while block := spool.read(BLOCK):
        hdf5.write_bytes(file, start, memoryview(block))
        start += len(block)
