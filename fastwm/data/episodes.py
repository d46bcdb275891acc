"""Reading episodes: windows of consecutive frames, as training wants them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import hdf5

# "auto" reads columns into memory that together take less than this share of the memory now free.
MEMORY_SHARE = 0.5
FLOATS = np.dtype(np.float32)


class Episodes:
    """The episodes of an HDF5 file, or some of them after `split`.

    `in_memory=True` reads the whole file at once, `False` reads what a batch needs: through a memory map
    where columns are contiguous, as in our files, else through HDF5. "auto" maps what it can and reads the
    rest into memory where that takes less than half of the free memory. (A map opens at once and gives 0.9 of
    the clips per second that memory does, HDF5 chunks of one frame 0.1.)

    A row is a step of the file. `action[t]` leads from frame t to frame t + 1, so an episode's last action
    leads nowhere: our files have zeros there, stable-worldmodel's NaN, and no batch contains it.

    Raises FileNotFoundError, or ValueError naming file and column where the file is damaged or holds no
    episodes.
    """

    path: Path
    lengths: NDArray[np.int64]  # [episodes], frames
    offsets: NDArray[np.int64]  # [episodes], the first row of each
    attributes: dict[str, Any]  # of the file: fastwm_version, world, seed, …

    def __init__(self, path: str | os.PathLike[str], *, in_memory: bool | str = "auto") -> None:
        if in_memory not in (True, False, "auto"):
            raise ValueError(f"in_memory: expected True, False or 'auto', got {in_memory!r}")
        self.path = Path(path)
        file = hdf5.open_file(self.path)
        try:
            self.lengths, self.offsets = hdf5.read_episodes(file, self.path)
            datasets = hdf5.read_columns(file, self.path, self._end)
            self._check(datasets)
            self._columns = _load(datasets, self.path, in_memory)
            self._check_values()
            self.attributes = hdf5.read_attributes(self.path)
        except BaseException:
            file.close()
            raise
        if not any(isinstance(column, h5py.Dataset) for column in self._columns.values()):
            file.close()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the file's columns, without those that say where episodes lie."""
        return tuple(self._columns)

    @property
    def frames(self) -> int:
        """Frames in all episodes together."""
        return int(self.lengths.sum())

    @property
    def action_dim(self) -> int:
        """Numbers in one action."""
        return int(self._columns["action"].shape[1])

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.lengths)

    def __repr__(self) -> str:
        size = f"{len(self)} episodes, {self.frames} frames"
        return f"Episodes({str(self.path)!r}: {size}, columns {', '.join(self.columns)})"

    def windows(self, length: int, *, frame_skip: int = 1) -> NDArray[np.int64]:
        """Rows [windows] at which `length` frames, `frame_skip` steps apart, fit into their episode."""
        places = np.maximum(self.lengths - _span(length, frame_skip) + 1, 0)
        first = np.repeat(self.offsets - (np.cumsum(places) - places), places)
        return first + np.arange(len(first))

    def batch(
        self, starts: ArrayLike, length: int, *, frame_skip: int = 1, columns: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """The windows of `length` frames, `frame_skip` steps apart, that begin at rows `starts` [b].

        `pixels` uint8 [b, length, height, width, 3]; `action` float32 [b, length - 1, frame_skip *
        action_dim], the actions between two frames side by side in the order they were taken; any other of
        `columns` (without it: `state`, where the file has one) [b, length, …], floats as float32. ValueError
        where a window leaves its episode.
        """
        span = _span(length, frame_skip)
        rows = self._check_starts(starts, span)
        names = (
            [name for name in ("pixels", "action", "state") if name in self._columns]
            if columns is None
            else columns
        )
        if unknown := [name for name in names if name not in self._columns]:
            raise ValueError(f"columns: {self.path} has no {unknown}; it has {list(self.columns)}")
        batch = {}
        for name in names:
            if name == "action":
                actions = self._gather(name, rows, span - 1, 1)
                values = actions.reshape(len(rows), length - 1, frame_skip * self.action_dim)
            else:
                values = self._gather(name, rows, length, frame_skip)
            batch[name] = values.astype(FLOATS, copy=False) if values.dtype.kind == "f" else values
        return batch

    def split(self, validation: float = 0.05, seed: int = 0) -> tuple[Episodes, Episodes]:
        """These episodes as (training, validation), whole episodes drawn by `seed`; both share this one's
        memory.

        `validation` is a share between 0 and 1, rounded to at least one episode on either side.
        """
        if not 0 < validation < 1:
            raise ValueError(f"validation: expected a share between 0 and 1, got {validation}")
        if len(self) < 2:
            raise ValueError(f"split: expected at least 2 episodes, {self.path} has {len(self)}")
        held_out = min(max(round(validation * len(self)), 1), len(self) - 1)
        order = np.random.default_rng(seed).permutation(len(self))
        return self._subset(np.sort(order[held_out:])), self._subset(np.sort(order[:held_out]))

    def action_statistics(self, frame_skip: int = 1) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and standard deviation, float32 [frame_skip * action_dim] each, of the action blocks between
        frames.

        Over every block of `frame_skip` actions that `batch` can return. Where an action never changes its
        standard deviation is 0.
        """
        starts = self.windows(2, frame_skip=frame_skip)
        if len(starts) == 0:
            raise ValueError(f"frame_skip: {self.path} has no episode of more than {frame_skip} frames")
        action = np.asarray(self._columns["action"][: self._end], np.float64)
        places = [action[starts + step] for step in range(frame_skip)]
        mean = np.concatenate([values.mean(axis=0) for values in places])
        std = np.concatenate([values.std(axis=0) for values in places])
        return mean.astype(FLOATS), std.astype(FLOATS)

    @property
    def _end(self) -> int:
        return int((self.offsets + self.lengths).max())

    def _subset(self, episodes: NDArray[np.integer]) -> Episodes:
        part = object.__new__(Episodes)
        part.__dict__.update(self.__dict__, lengths=self.lengths[episodes], offsets=self.offsets[episodes])
        return part

    def _check(self, datasets: dict[str, h5py.Dataset]) -> None:
        for name, kinds, ndim, expected in (
            ("pixels", "u", 4, "uint8 [steps, height, width, 3]"),
            ("action", "f", 2, "floats [steps, action_dim]"),
            ("state", "f", 2, "floats [steps, state_dim]"),
        ):
            if name not in datasets:
                if name == "state":
                    continue
                raise ValueError(f"{self.path}: column {name!r} is missing; there are {sorted(datasets)}")
            dataset = datasets[name]
            wrong_pixels = name == "pixels" and (dataset.dtype != np.uint8 or dataset.shape[-1] != 3)
            if dataset.dtype.kind not in kinds or dataset.ndim != ndim or wrong_pixels:
                got = f"{dataset.dtype} {list(dataset.shape)}"
                raise ValueError(f"{self.path}: column {name!r}: expected {expected}, got {got}")

    def _check_values(self) -> None:
        """Refuse actions and states that are not finite where a batch could contain them."""
        inside = np.zeros(self._end, bool)
        for offset, length in zip(self.offsets, self.lengths, strict=True):
            inside[offset : offset + length] = True
        leads_on = inside.copy()
        leads_on[self.offsets + self.lengths - 1] = False
        for name, rows in (("action", leads_on), ("state", inside)):
            if name not in self._columns:
                continue
            finite = np.isfinite(self._columns[name][: self._end]).all(axis=1)
            if (bad := rows & ~finite).any():
                raise ValueError(f"{self.path}: column {name!r}: row {int(np.argmax(bad))} is not finite")

    def _gather(self, name: str, rows: NDArray[np.int64], length: int, stride: int) -> NDArray[Any]:
        """`length` rows of column `name`, `stride` apart, from each of `rows` [b] on: [b, length, …]."""
        column = self._columns[name]
        if isinstance(column, np.ndarray):
            return np.asarray(column[rows[:, None] + stride * np.arange(length)])
        values = np.empty((len(rows), length, *column.shape[1:]), column.dtype)
        for place in np.argsort(rows):
            window = slice(rows[place], rows[place] + (length - 1) * stride + 1, stride)
            values[place] = hdf5.read(column, self.path, window if length else slice(0, 0))
        return values

    def _check_starts(self, starts: ArrayLike, span: int) -> NDArray[np.int64]:
        rows = np.asarray(starts)
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise ValueError(f"starts: expected integers [b], got {rows.dtype} {list(rows.shape)}")
        rows = rows.astype(np.int64, copy=False)
        episode = np.searchsorted(self.offsets, rows, side="right") - 1
        fits = (episode >= 0) & (rows + span <= (self.offsets + self.lengths)[episode])
        if not fits.all():
            row = int(rows[np.argmin(fits)])
            raise ValueError(
                f"starts: no window of {span} steps begins at row {row} and stays in one of these episodes"
            )
        return rows


def _span(length: int, frame_skip: int) -> int:
    """Rows from a window's first frame to its last, both counted."""
    if length < 1:
        raise ValueError(f"length: expected at least 1 frame, got {length}")
    if frame_skip < 1:
        raise ValueError(f"frame_skip: expected at least 1, got {frame_skip}")
    return (length - 1) * frame_skip + 1


def _load(
    datasets: dict[str, h5py.Dataset], path: Path, in_memory: bool | str
) -> dict[str, NDArray[Any] | h5py.Dataset]:
    """`datasets` in memory, mapped, or as they are where they can only be read through HDF5."""
    columns: dict[str, NDArray[Any] | h5py.Dataset] = dict(datasets)
    if in_memory is not True:
        columns.update(
            {
                name: mapped
                for name in datasets
                if (mapped := hdf5.memory_map(datasets[name], path)) is not None
            }
        )
    rest = [name for name in datasets if columns[name] is datasets[name]]
    if in_memory == "auto":
        in_memory = sum(datasets[name].nbytes for name in rest) < MEMORY_SHARE * _free_memory()
    if in_memory:
        columns.update({name: hdf5.read(datasets[name], path) for name in rest})
    return columns


def _free_memory() -> int:
    """Bytes of memory that can be taken without swapping, or 0 where the system does not say."""
    try:
        with open("/proc/meminfo") as info:
            fields = dict(line.split(":", 1) for line in info)
        return 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return 0
