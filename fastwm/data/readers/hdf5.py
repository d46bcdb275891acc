"""Our HDF5 files and stable-worldmodel's: one dataset per column, `ep_len` and `ep_offset` (fastwm/data/hdf5.py). Every column
of pictures, uint8 [steps, height, width, 3], is a camera.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from fastwm.data import hdf5
from fastwm.data.resize import Size, check_size, resize_all

from .reader import Damage, Reader


class HDF5Reader(Reader):
    """The file `path`; columns that lie in it contiguously are mapped."""

    format = "HDF5"
    decodes = False

    def __init__(
        self, path: Path, *, image_size: int | Size | None = None, skip_damaged: bool = False
    ) -> None:
        self.path = path
        self.file = hdf5.open_file(path)
        try:
            self.lengths, self.offsets = self._episodes(skip_damaged)
            end = int((self.offsets + self.lengths).max())
            self.datasets = hdf5.read_columns(self.file, path, end)
            self.attributes = hdf5.read_attributes(path)
        except BaseException:
            self.file.close()
            raise
        self.fps = self.attributes.get("fps")
        self.cameras = tuple(name for name, data in self.datasets.items() if _shows_pictures(name, data))
        size = check_size(image_size)
        self._size = (size, size) if isinstance(size, int) else size
        self.columns = {
            name: hdf5.Column(data.dtype, self._shape(name, data)) for name, data in self.datasets.items()
        }

    def read(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """`rows` [n] of column `name`, run by run of evenly spaced rows."""
        dataset = self.datasets[name]
        values = np.empty((len(rows), *dataset.shape[1:]), dataset.dtype)
        for run in _runs(rows):
            first, last = int(rows[run.start]), int(rows[run.stop - 1])
            step = int(rows[run.start + 1]) - first if run.stop - run.start > 1 else 1
            values[run] = hdf5.read(dataset, self.path, slice(first, last + 1, step))
        return resize_all(values, self._size) if name in self.cameras else values

    def whole(self, name: str) -> NDArray[Any] | None:
        """Column `name` as a memory map, or None where it is chunked, compressed or to be resized."""
        if self.datasets[name].shape[1:] != self.columns[name].shape:
            return None
        return hdf5.memory_map(self.datasets[name], self.path)

    def close(self) -> None:
        """Close the file; `read` cannot be called any more."""
        self.file.close()

    def _shape(self, name: str, data: h5py.Dataset) -> tuple[int, ...]:
        return (*self._size, 3) if self._size and name in self.cameras else data.shape[1:]

    def _episodes(self, skip_damaged: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Lengths and offsets [episodes]; with `skip_damaged` those that lie in the file and in no other."""
        if not skip_damaged:
            return hdf5.read_episodes(self.file, self.path)
        lengths, offsets = hdf5.read_places(self.file, self.path)
        columns = hdf5.read_columns(self.file, self.path, 0)
        rows = {name: len(item) for name, item in columns.items()}
        least = min(rows, key=lambda name: rows[name], default=hdf5.LENGTHS)
        usable, end = np.ones(len(lengths), bool), 0
        for episode, (length, offset) in enumerate(zip(lengths, offsets, strict=True)):
            reason = None
            if length < 1:
                reason = f"column {hdf5.LENGTHS!r}: it has no steps"
            elif offset < end:
                reason = f"column {hdf5.OFFSETS!r}: it overlaps the one before, or is out of order"
            elif offset + length > rows.get(least, 0):
                reason = f"column {least!r}: it ends at row {offset + length} of {rows.get(least, 0)}"
            if reason is None:
                end = int(offset + length)
            else:
                usable[episode] = False
                self.damaged += (Damage(self.path, f"episode {episode}", reason),)
        if not usable.any():
            raise ValueError(f"{self.path}: no episode can be used: {self.damaged[0]}")
        return lengths[usable], offsets[usable]


def _shows_pictures(name: str, data: h5py.Dataset) -> bool:
    """Whether a column is a camera's, whatever it is called."""
    return name == "pixels" or (data.ndim == 4 and data.dtype == np.uint8 and data.shape[3] == 3)


def _runs(rows: NDArray[np.int64]) -> list[slice]:
    """`rows` [n] cut into runs of ascending rows that are equally far apart."""
    runs, start = [], 0
    for place in range(1, len(rows) + 1):
        ends = place == len(rows) or rows[place] <= rows[place - 1]
        if not ends and place - start >= 2:
            ends = rows[place] - rows[place - 1] != rows[start + 1] - rows[start]
        if ends:
            runs.append(slice(start, place))
            start = place
    return runs
