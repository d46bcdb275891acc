"""Reading episodes: windows of consecutive frames, as training wants them, whatever format they are kept in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .hdf5 import Column
from .loading import check_columns, check_finite, load
from .readers import Damage, open_reader
from .resize import Size

FLOATS = np.dtype(np.float32)
PIXELS = "pixels"


class Episodes:
    """The episodes of a file or folder, or some of them after `split`.

    What `path` may be is said by `readers.open_reader`: HDF5, Lance, LeRobot version 3, videos.

    in_memory: True reads the whole data set at once, decoding all pictures; False reads what a batch needs: through
        a memory map where columns are contiguous, as in our files. "auto" maps what it can and reads the rest into
        memory where that takes less than half of the free memory and no decoding. (A map opens at once and gives 0.9
        of the clips per second that memory does, HDF5 chunks of one frame 0.1.)
    camera: the column of pictures that `pixels` is. By default the only one, or the one of that name; others can be
        read under their own names.
    image_size: of all pictures: pixels of a square, or (height, width) (resize.py says how).
    skip_damaged: leave damaged episodes out, and list them in `damaged`, instead of refusing them all.
    workers: threads that decode a batch; 1 for files that need no decoding.

    A row is a step. `action[t]` leads from frame t to frame t + 1, so an episode's last action leads nowhere: our
    files have zeros there, stable-worldmodel's NaN, and no batch contains it. Without actions (`has_actions` False)
    batches have none, and what needs them raises ValueError.

    Raises FileNotFoundError, ImportError naming the extra that a format needs, or ValueError naming file and column
    or episode where the data is damaged or holds no episodes.
    """

    path: Path
    lengths: NDArray[np.int64]  # [episodes], frames
    offsets: NDArray[np.int64]  # [episodes], the first row of each
    attributes: dict[str, Any]  # of the data set: fastwm_version, world, seed, …
    cameras: tuple[str, ...]  # columns of pictures, under their own names
    camera: str  # the one that `pixels` is
    damaged: tuple[Damage, ...]  # episodes that `skip_damaged` left out

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        in_memory: bool | str = "auto",
        camera: str | None = None,
        image_size: int | Size | None = None,
        skip_damaged: bool = False,
        workers: int = 1,
    ) -> None:
        if in_memory not in (True, False, "auto"):
            raise ValueError(f"in_memory: expected True, False or 'auto', got {in_memory!r}")
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise ValueError(f"workers: expected at least 1, got {workers!r}")
        self.path = Path(path)
        self._reader = open_reader(self.path, image_size=image_size, skip_damaged=skip_damaged)
        self._workers = ThreadPoolExecutor(workers, "decode") if workers > 1 else None
        try:
            self._take(in_memory, camera, skip_damaged)
        except BaseException:
            self._reader.close()
            raise
        if len(self._columns) == len(self._shapes):
            self._reader.close()

    def _take(self, in_memory: bool | str, camera: str | None, skip_damaged: bool) -> None:
        reader = self._reader
        self.lengths, self.offsets = reader.lengths, reader.offsets
        self.attributes, self.fps, self.cameras = reader.attributes, reader.fps, reader.cameras
        self.camera = self._choose(camera)
        self._names = {  # of the reader's columns
            PIXELS if name == self.camera else name: name
            for name in reader.columns
            if name != PIXELS or name == self.camera
        }
        self._shapes = {name: reader.columns[column] for name, column in self._names.items()}
        check_columns(self.path, self._shapes)
        self._columns = load(reader, self._names, self._end, in_memory)
        numbers = {name: self._all(name)[: self._end] for name in ("action", "state") if name in self._shapes}
        usable, damaged = check_finite(reader, numbers, skip_damaged)
        self.lengths, self.offsets = self.lengths[usable], self.offsets[usable]
        self.damaged = reader.damaged + damaged

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, without those that say where episodes lie."""
        return tuple(self._shapes)

    @property
    def shapes(self) -> dict[str, Column]:
        """Type and shape of a row of each column."""
        return dict(self._shapes)

    @property
    def format(self) -> str:
        """What the data set is kept in, in words."""
        return self._reader.format

    @property
    def frames(self) -> int:
        """Frames in all episodes together."""
        return int(self.lengths.sum())

    @property
    def decodes(self) -> bool:
        """Whether a batch's frames are decoded when it is made."""
        return self._reader.decodes and PIXELS not in self._columns

    @property
    def has_actions(self) -> bool:
        """Whether there are actions."""
        return "action" in self._shapes

    @property
    def action_dim(self) -> int:
        """Numbers in one action; ValueError where there are none."""
        if not self.has_actions:
            raise ValueError(
                f"{self.path} has no actions (column 'action'); there are {sorted(self.columns)}"
            )
        return int(self._shapes["action"].shape[0])

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
        `columns` (without it: `pixels`, and `action` and `state` where there are any) [b, length, …], floats as
        float32. ValueError where a window leaves its episode, and naming the file where a frame cannot be decoded.
        """
        span = _span(length, frame_skip)
        rows = self._check_starts(starts, span)
        names = (
            [name for name in (PIXELS, "action", "state") if name in self._shapes]
            if columns is None
            else columns
        )
        if unknown := [name for name in names if name not in self._shapes]:
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

    def rows(self, rows: NDArray[np.int64], columns: Sequence[str]) -> dict[str, NDArray[Any]]:
        """`rows` [n] of `columns`, whatever episode they belong to: [n, …] each."""
        return {name: self._gather(name, rows, 1, 1)[:, 0] for name in columns}

    def label(self, episode: int) -> str:
        """What episode number `episode` is called in messages."""
        return self._reader.label(int(np.searchsorted(self._reader.offsets, self.offsets[episode])))

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
        assert self.action_dim
        starts = self.windows(2, frame_skip=frame_skip)
        if len(starts) == 0:
            raise ValueError(f"frame_skip: {self.path} has no episode of more than {frame_skip} frames")
        action = np.asarray(self._all("action")[: self._end], np.float64)
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

    def _choose(self, camera: str | None) -> str:
        """The column that `pixels` is."""
        if camera is None and (len(self.cameras) == 1 or PIXELS in self.cameras):
            return PIXELS if PIXELS in self.cameras else self.cameras[0]
        if not self.cameras:
            raise ValueError(
                f"{self.path}: column 'pixels' is missing; there are {sorted(self._reader.columns)}"
            )
        if camera not in self.cameras:
            got = "there are several" if camera is None else f"got {camera!r}"
            raise ValueError(f"camera: expected one of {', '.join(self.cameras)}, {got} ({self.path})")
        return camera

    def _all(self, name: str) -> NDArray[Any]:
        """All rows of column `name`."""
        values = self._columns.get(name)
        return self._reader.read(self._names[name], np.arange(self._end)) if values is None else values

    def _gather(self, name: str, rows: NDArray[np.int64], length: int, stride: int) -> NDArray[Any]:
        """`length` rows of column `name`, `stride` apart, from each of `rows` [b] on: [b, length, …]."""
        wanted = rows[:, None] + stride * np.arange(length)
        column = self._columns.get(name)
        if column is not None:
            return np.asarray(column[wanted])
        shape = self._shapes[name].shape

        def read(part: NDArray[np.int64]) -> NDArray[Any]:
            values = self._reader.read(self._names[name], wanted[part].reshape(-1))
            return values.reshape(len(part), length, *shape)

        order = np.argsort(rows, kind="stable")
        values = np.empty((len(rows), length, *shape), self._shapes[name].dtype)
        if self._workers is None or len(rows) < 2:
            values[order] = read(order)
            return values
        parts = np.array_split(order, min(len(rows), 4 * self._workers._max_workers))
        for part, found in zip(parts, self._workers.map(read, parts), strict=True):
            values[part] = found
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
