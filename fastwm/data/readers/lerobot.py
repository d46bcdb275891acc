"""LeRobot data sets, format version 3: numbers in Parquet, pictures in MP4, several episodes in a file of either.

`meta/info.json` names the columns ("features"), `meta/episodes/**.parquet` says for every episode how long it is and at
which second of which video it begins. Read with pyarrow and PyAV, without the package lerobot. "observation.state" is
the column `state` here and "next.reward", what a row's action earned, `reward`; others keep their names. So does "next.done",
which is true where time ran out, too: it does not say that an episode ended by what was done.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastwm.data.hdf5 import Column
from fastwm.data.resize import Size, check_size
from fastwm.data.video import Video

from .lerobot_tables import NAMES, PICTURES, read_episodes, read_info
from .parquet import read_pictures, read_rows
from .reader import WITHOUT_IT, Damage, Reader, keep

INDICES = ("index", "episode_index", "frame_index", "timestamp", "task_index")
SLACK = 1.5  # frames: a video's stated duration may be one longer or shorter than what was recorded
PLACE = ("episode_index", "frame_index")  # what a row says of where it belongs


class LeRobotReader(Reader):
    """The data set in folder `path`. Numbers are read at once, pictures when they are asked for."""

    format = "LeRobot v3"

    def __init__(
        self, path: Path, *, image_size: int | Size | None = None, skip_damaged: bool = False
    ) -> None:
        self.path = path
        self._info = read_info(path)
        self._episodes = read_episodes(self._info)
        self._videos: dict[Path, Video] = {}
        features = self._info.features
        self.cameras = tuple(name for name, feature in features.items() if feature.dtype in PICTURES)
        self._images = [name for name in self.cameras if features[name].dtype == "image"]
        self.lengths, self.offsets = self._episodes.lengths, self._episodes.begins
        self._where = np.arange(len(self.lengths))  # of those episodes that are kept, in the table
        self.fps = self._info.fps

        usable = self._check_lengths(skip_damaged)
        self._numbers = self._read_numbers(usable, skip_damaged)
        self._check_videos(usable, skip_damaged)
        keep(self, usable)
        self._where = np.flatnonzero(usable)
        size = check_size(image_size)
        self._sizes = {name: (size, size) if isinstance(size, int) else size for name in self.cameras}
        self.columns = {
            name: Column(np.dtype(np.uint8), (*(self._sizes[name] or self._own_size(name)), 3))
            for name in self.cameras
        } | {name: Column(values.dtype, values.shape[1:]) for name, values in self._numbers.items()}
        self.attributes = self._info.attributes

    def read(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """`rows` [n] of column `name`; pictures are decoded file by file."""
        if name in self._numbers:
            return self._numbers[name][rows]
        episode = np.searchsorted(self._episodes.begins, rows, side="right") - 1
        step = rows - self._episodes.begins[episode]
        pictures = np.empty((len(rows), *self.columns[name].shape), np.uint8)
        size = self.columns[name].shape[0], self.columns[name].shape[1]
        by_file: dict[Path, list[int]] = {}
        for number in np.unique(episode).tolist():
            by_file.setdefault(self._file(name, number), []).append(number)
        for file, episodes in by_file.items():
            places = np.flatnonzero(np.isin(episode, episodes))
            if name in self._images:
                pictures[places] = read_pictures(file, name, rows[places], size)
                continue
            video = self._video(file)
            seconds = self._episodes.seconds[name][episode[places]] + step[places] / self._info.fps
            numbers = video.at(seconds, within=0.5 / self._info.fps)
            if (numbers < 0).any():
                lost = int(np.argmin(numbers))
                label = self._episodes.labels[episode[places[lost]]]
                raise ValueError(f"{file}: {label}: damaged: no frame at {seconds[lost]:.3f} s")
            pictures[places] = video.frames(numbers, size)
        return pictures

    def whole(self, name: str) -> NDArray[Any] | None:
        """All rows of a column that is not pictures."""
        return self._numbers.get(name)

    def label(self, episode: int) -> str:
        """The episode by its `episode_index`."""
        return self._episodes.labels[self._where[episode]]

    def _check_lengths(self, skip_damaged: bool) -> NDArray[np.bool_]:
        """Which episodes [episodes] the table describes, with as many rows as they say, in order, overlapping no other."""
        table = self._episodes
        usable = np.ones(len(table.lengths), bool)
        total = self._info.total_frames
        previous = 0
        for place, (length, begin, end) in enumerate(
            zip(table.lengths, table.begins, table.ends, strict=True)
        ):
            reason = table.problems.get(place)
            if reason is None and (length < 1 or end - begin != length or begin < previous):
                reason = f"its length {length} and rows {begin} to {end} do not add up"
            if reason is None and total is not None and end > total:
                reason = f"its rows {begin} to {end} are none of the {total} of meta/info.json"
            if reason is None:
                previous = end
            else:
                self._damage(usable, place, table.files[place], reason, skip_damaged)
        return usable

    def _read_numbers(self, usable: NDArray[np.bool_], skip_damaged: bool) -> dict[str, NDArray[Any]]:
        """Columns of numbers [rows, …], with zeros where a damaged file had some."""
        features = {
            name: feature
            for name, feature in self._info.features.items()
            if feature.dtype not in (*PICTURES, "string") and name not in INDICES
        }
        types = {name: Column(np.dtype(feature.dtype), feature.shape) for name, feature in features.items()}
        types |= {name: Column(np.dtype(np.int64), ()) for name in PLACE if name in self._info.features}
        files = sorted({self._episodes.data[place] for place in np.flatnonzero(usable)})
        parts = [read_rows(file, types) for file in files]
        problems = {file: problem for file, (_, _, problem) in zip(files, parts, strict=True) if problem}
        # What is there bounds what is allocated, whatever the table says.
        there = max((int(index.max()) + 1 for index, _, _ in parts if len(index)), default=0)
        rows = max(0, min(there, int((self.offsets + self.lengths)[usable].max())))
        read = np.zeros(rows, bool)
        values = {name: np.zeros((rows, *kind.shape), kind.dtype) for name, kind in types.items()}
        for index, found, _ in parts:
            inside = (index >= 0) & (index < rows)
            read[index[inside]] = True
            for name, some in found.items():
                values[name][index[inside]] = some[inside]
        for place in map(int, np.flatnonzero(usable)):
            file = self._episodes.data[place]
            part = slice(self.offsets[place], self.offsets[place] + self.lengths[place])
            lost = int(self.lengths[place]) - np.count_nonzero(read[part])
            reason = f"{lost} of its {self.lengths[place]} rows are missing" if lost else None
            if lost and file in problems:
                reason = f"{reason} ({problems[file]})"
            reason = reason or self._strange(
                place, {name: values[name][part] for name in PLACE if name in values}
            )
            if reason:
                self._damage(usable, place, file, reason, skip_damaged)
        return {NAMES.get(name, name): rows for name, rows in values.items() if name in features}

    def _strange(self, place: int, rows: dict[str, NDArray[Any]]) -> str | None:
        """Which of the rows of the episode at `place` says that it belongs elsewhere."""
        expected = {
            "episode_index": np.full(self.lengths[place], self._episodes.numbers[place]),
            "frame_index": np.arange(self.lengths[place]),
        }
        for name, values in rows.items():
            wrong = np.flatnonzero(values != expected[name])
            if len(wrong):
                first = int(wrong[0])
                return f"its row {first} has {name} {values[first]}, expected {expected[name][first]}"
        return None

    def _check_videos(self, usable: NDArray[np.bool_], skip_damaged: bool) -> None:
        """Refuse episodes whose video is missing or ends before them."""
        for camera in self.cameras:
            if camera in self._images:
                continue
            broken: dict[Path, str] = {}
            misplaced = self._misplaced(camera, usable)
            for place in np.flatnonzero(usable):
                file = self._file(camera, int(place))
                if file not in self._videos and file not in broken:
                    try:
                        self._video(file)
                    except (ValueError, FileNotFoundError) as error:
                        broken[file] = str(error).removeprefix(f"{file}: ")
                reason = (
                    broken.get(file) or misplaced.get(int(place)) or self._lacks(file, camera, int(place))
                )
                if reason:
                    self._damage(usable, int(place), file, reason, skip_damaged)

    def _misplaced(self, camera: str, usable: NDArray[np.bool_]) -> dict[int, str]:
        """What speaks against the seconds of video that the table gives episodes, by their place."""
        table, step = self._episodes, 1 / self._info.fps
        begins, ends, lengths = table.seconds[camera], table.until[camera], self.lengths * step
        found = {
            place: f"its {lengths[place]:.3f} s of video are said to be {begins[place]:.3f} to {ends[place]:.3f}"
            for place in map(int, np.flatnonzero(np.abs(ends - begins - lengths) > SLACK * step))
        }
        videos = table.videos[camera]
        order = sorted(map(int, np.flatnonzero(usable)), key=lambda place: (videos[place], begins[place]))
        for one, next_ in pairwise(order):
            if videos[one] == videos[next_] and begins[next_] < begins[one] + lengths[one] - SLACK * step:
                found.setdefault(one, f"it shares seconds of the video with {table.labels[next_]}")
                found.setdefault(next_, f"it shares seconds of the video with {table.labels[one]}")
        return found

    def _lacks(self, file: Path, camera: str, place: int) -> str | None:
        """What `file` lacks of the episode at `place`; all of its packets are read only where it may lack some."""
        video, rate = self._video(file), self._info.fps
        seconds = self._episodes.seconds[camera][place] + np.arange(self.lengths[place]) / rate
        complete = seconds[0] >= 0 and seconds[-1] < video.seconds
        if complete and not video.cut_short and (video.fps or rate) > 0.99 * rate:
            return None
        lost = int(np.count_nonzero(video.at(seconds, within=0.5 / rate) < 0))
        return f"damaged: {lost} of its {len(seconds)} frames are missing" if lost else None

    def _damage(
        self, usable: NDArray[np.bool_], place: int, file: Path, reason: str, skip_damaged: bool
    ) -> None:
        damage = Damage(file, self._episodes.labels[place], reason)
        if not skip_damaged:
            raise ValueError(f"{damage}{WITHOUT_IT}")
        usable[place] = False
        self.damaged += (damage,)
        if not usable.any():
            raise ValueError(f"{self.path}: no episode can be used: {self.damaged[0]}")

    def _own_size(self, camera: str) -> Size:
        if camera not in self._images:
            return self._video(self._file(camera, int(self._where[0]))).size
        first: ValueError | None = None
        for place in self._where:  # the first picture may be a damaged one
            row = np.array([self._episodes.begins[place]])
            try:
                height, width = read_pictures(self._episodes.data[place], camera, row, None).shape[1:3]
                return int(height), int(width)
            except ValueError as error:
                first = first or error
        raise first or ValueError(f"{self.path}: holds no picture")

    def _video(self, file: Path) -> Video:
        if file not in self._videos:
            self._videos[file] = Video(file)
        return self._videos[file]

    def _file(self, camera: str, place: int) -> Path:
        """The file that holds the pictures of the episode at `place`."""
        return (self._episodes.data if camera in self._images else self._episodes.videos[camera])[place]
