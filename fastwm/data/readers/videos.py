"""A folder of videos: each file is an episode, in the order of their names, with actions beside it or without.

`walk.npy` (or .npz, .csv) beside `walk.mp4` holds numbers of its steps. A .npy is the actions [length or length - 1,
A]; an .npz may hold other columns besides `action`; a .csv is the actions, with a first line of names or without.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from fastwm.data.hdf5 import Column
from fastwm.data.resize import Size, check_size
from fastwm.data.video import Video

from . import VIDEOS
from .reader import WITHOUT_IT, Damage, Reader, keep

PIXELS = "pixels"


class VideosReader(Reader):
    """The videos at and below `path`, or the one that it is."""

    format = "videos"
    cameras = (PIXELS,)

    def __init__(
        self, path: Path, *, image_size: int | Size | None = None, skip_damaged: bool = False
    ) -> None:
        self.path = path
        self.videos: list[Video] = []
        numbers: list[dict[str, NDArray[np.float32]]] = []
        for file in find_videos(path):
            try:
                video = Video(file)
                if video.packets.damage:
                    raise ValueError(f"{file}: damaged: {video.packets.damage}")
                beside = _beside(file, len(video))
            except ValueError as error:
                if not skip_damaged:
                    raise ValueError(f"{error}{WITHOUT_IT}") from error
                self.damaged += (Damage(file, self._name(file), str(error).removeprefix(f"{file}: ")),)
                continue
            self.videos.append(video)
            numbers.append(beside)
        if not self.videos:
            raise ValueError(f"{path}: no episode can be used: {self.damaged[0]}")

        self.lengths = np.array([len(video) for video in self.videos], np.int64)
        self.offsets = np.cumsum(self.lengths) - self.lengths
        self._ends = self.offsets + self.lengths
        self._numbers = self._joined(numbers, skip_damaged)
        size = check_size(image_size)
        self._size = (size, size) if isinstance(size, int) else size or self._one_size()
        self.columns = {PIXELS: Column(np.dtype(np.uint8), (*self._size, 3))} | {
            name: Column(values.dtype, values.shape[1:]) for name, values in self._numbers.items()
        }
        rates = {video.fps for video in self.videos}
        self.fps = rates.pop() if len(rates) == 1 else None
        self.attributes = {}

    def read(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """`rows` [n] of column `name`; frames are decoded video by video."""
        if name != PIXELS:
            return self._numbers[name][rows]
        pictures = np.empty((len(rows), *self.columns[PIXELS].shape), np.uint8)
        episode = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(episode):
            places = np.flatnonzero(episode == number)
            start = self._ends[number] - len(self.videos[number])
            pictures[places] = self.videos[number].frames(rows[places] - start, self._size)
        return pictures

    def whole(self, name: str) -> NDArray[Any] | None:
        """All rows of a column that is not pictures."""
        return self._numbers.get(name)

    def label(self, episode: int) -> str:
        """The name of the episode's file."""
        place = int(np.searchsorted(self._ends, self.offsets[episode], side="right"))
        return self._name(self.videos[place].path)

    def _name(self, file: Path) -> str:
        return str(file.relative_to(self.path)) if self.path.is_dir() else file.name

    def _one_size(self) -> Size:
        """The size of all videos; ValueError where they differ."""
        first = self.videos[0]
        for video in self.videos:
            if video.size != first.size:
                raise ValueError(
                    f"{first.path}: {_pixels(first.size)}, {video.path}: {_pixels(video.size)}: videos of one data set "
                    "have one size; image_size (--image-size) resizes them on reading"
                )
        return first.size

    def _joined(
        self, numbers: list[dict[str, NDArray[np.float32]]], skip_damaged: bool
    ) -> dict[str, NDArray[np.float32]]:
        """The columns of all episodes one after another: those of the first one that has any."""
        like = max(numbers, key=len)
        shapes = {name: values.shape[1:] for name, values in like.items()}
        usable = np.ones(len(numbers), bool)
        for place, beside in enumerate(numbers):
            found = {name: values.shape[1:] for name, values in beside.items()}
            if found == shapes:
                continue
            file = self.videos[place].path
            reason = f"the numbers beside it are {_shapes(found)}, other episodes' {_shapes(shapes)}"
            if not skip_damaged:
                raise ValueError(f"{file}: {reason}{WITHOUT_IT}")
            self.damaged += (Damage(file, self._name(file), reason),)
            usable[place] = False
            numbers[place] = {
                name: np.zeros((len(self.videos[place]), *shapes[name]), np.float32) for name in like
            }
        keep(self, usable)
        return {name: np.concatenate([beside[name] for beside in numbers]) for name in like}


def find_videos(path: Path) -> list[Path]:
    """The video files at or below `path`, by name."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file() and file.suffix.lower() in VIDEOS)


def _beside(video: Path, length: int) -> dict[str, NDArray[np.float32]]:
    """The numbers beside `video`, float32 [length, …] each; ValueError where they do not fit its `length` frames."""
    columns: dict[str, Any] = {}
    file = next((f for s in (".npy", ".npz", ".csv") if (f := video.with_suffix(s)).is_file()), None)
    if file is None:
        return {}
    try:
        if file.suffix == ".csv":
            columns["action"] = _csv(file)
        else:
            loaded = np.load(file, allow_pickle=False)
            columns = {"action": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise ValueError(f"{file}: damaged: {error}") from error
    return {name: _column(file, name, values, length) for name, values in columns.items()}


def _csv(file: Path) -> NDArray[np.float32]:
    """The numbers [lines, A] of `file`, but for a first line of names."""
    with file.open() as lines:
        first = lines.readline().strip().split(",")
    try:
        skip = 0 if [float(cell) for cell in first] else 1
    except ValueError:
        skip = 1
    return np.loadtxt(file, np.float32, delimiter=",", skiprows=skip, ndmin=2)


def _column(file: Path, name: str, values: NDArray[Any], length: int) -> NDArray[np.float32]:
    if values.dtype.kind not in "biuf" or values.ndim == 0 or (name == "action" and values.ndim > 2):
        raise ValueError(
            f"{file}: {name}: expected numbers [{length}, …], got {values.dtype} {list(values.shape)}"
        )
    values = values.astype(np.float32)
    if name == "action" and values.ndim == 1:
        values = values[:, None]
    if name == "action" and len(values) == length - 1:
        values = np.concatenate([values, np.zeros_like(values, shape=(1, *values.shape[1:]))])
    if len(values) != length:
        raise ValueError(
            f"{file}: {name}: expected {length} rows, as the video has frames, got {len(values)}"
        )
    return values


def _pixels(size: Size) -> str:
    return f"{size[1]} x {size[0]} pixels"


def _shapes(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "missing"
