"""What a LeRobot data set (version 3) says of itself: `meta/info.json` and the table of episodes.

Both are checked before a row is read. What is wrong with one episode is that episode's damage, not the data set's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .parquet import read_table

NAMES = {"observation.state": "state", "next.reward": "reward"}  # LeRobot's name, ours
PICTURES = ("video", "image")
LARGEST = 2**24  # numbers in a row: more is damage


@dataclass(frozen=True)
class Feature:
    """A column: the type as LeRobot writes it, and the shape of a row."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Info:
    """`meta/info.json` of the data set in `path`."""

    path: Path
    fps: float
    features: dict[str, Feature]
    data_path: str
    video_path: str
    total_frames: int | None
    attributes: dict[str, Any]

    @property
    def videos(self) -> list[str]:
        """The cameras whose pictures lie in video files."""
        return [name for name, feature in self.features.items() if feature.dtype == "video"]

    def data_file(self, chunk: int, number: int) -> Path:
        """Where the numbers of file `number` of `chunk` are."""
        return self.path / self.data_path.format(chunk_index=chunk, file_index=number)

    def video_file(self, camera: str, chunk: int, number: int) -> Path:
        """Where the pictures of file `number` of `chunk` are."""
        return self.path / self.video_path.format(video_key=camera, chunk_index=chunk, file_index=number)


@dataclass(frozen=True)
class EpisodeTable:
    """The episodes in the order of their rows; `problems` says what is wrong with some, by their place."""

    numbers: NDArray[np.int64]  # as LeRobot counts them
    labels: list[str]
    files: list[Path]  # where in meta/episodes each was read
    lengths: NDArray[np.int64]
    begins: NDArray[np.int64]  # their first rows
    ends: NDArray[np.int64]
    data: list[Path]
    videos: dict[str, list[Path]]  # of each camera
    seconds: dict[str, NDArray[np.float64]]  # of each camera's video at which they begin
    until: dict[str, NDArray[np.float64]]  # the same where they end, NaN where the table does not say
    problems: dict[int, str]


def read_info(path: Path) -> Info:
    """`meta/info.json`; ValueError naming it and its entry where something is missing or of another type."""
    file = path / "meta" / "info.json"
    try:
        info = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: damaged: {error}") from error
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if not str(version).startswith("v3."):
        raise ValueError(
            f"{file}: codebase_version: expected v3.0, got {version!r}; lerobot converts older ones"
        )
    if missing := {"fps", "features", "data_path"} - set(info):
        raise ValueError(f"{file}: {sorted(missing)} are missing")
    fps = info["fps"]
    if not _is_number(fps) or fps <= 0:
        raise ValueError(f"{file}: fps: expected a number above 0, got {fps!r}")
    if not isinstance(info["features"], dict):
        raise ValueError(f"{file}: features: expected names and what they are, got {info['features']!r}")
    features = {name: _feature(file, name, given) for name, given in info["features"].items()}
    for name, other in NAMES.items():
        if name in features and other in features:
            raise ValueError(f"{file}: features: {name!r} is {other!r} here, which there is, too")
    total = info.get("total_frames")
    wanted = ("codebase_version", "robot_type", "total_episodes", "total_tasks")
    read = Info(
        path,
        float(fps),
        features,
        info["data_path"],
        info.get("video_path") or "",
        total if _is_whole(total) else None,
        {name: info[name] for name in wanted if info.get(name) is not None},
    )
    _check_paths(file, read)
    return read


def read_episodes(info: Info) -> EpisodeTable:
    """The table of episodes, its files in their order; ValueError where a file is damaged or no file has a column."""
    numbers = ["episode_index", "length", "dataset_from_index", "dataset_to_index"]
    numbers += ["data/chunk_index", "data/file_index"]
    numbers += [f"videos/{camera}/{of}_index" for camera in info.videos for of in ("chunk", "file")]
    seconds = [f"videos/{camera}/from_timestamp" for camera in info.videos]
    until = [f"videos/{camera}/to_timestamp" for camera in info.videos]  # may be missing
    files = sorted((info.path / "meta" / "episodes").rglob("*.parquet"))
    if not files:
        raise ValueError(f"{info.path}: meta/episodes is missing, or holds no Parquet file")

    rows: list[tuple[Path, dict[str, Any]]] = []
    there: set[str] = set()
    for file in files:
        columns, length = read_table(file, [*numbers, *seconds, *until])
        there |= set(columns)
        rows += [(file, {name: values[place] for name, values in columns.items()}) for place in range(length)]
    if missing := [name for name in (*numbers, *seconds) if name not in there]:
        raise ValueError(f"{files[0]}: columns {missing} are missing")
    if not rows:
        raise ValueError(f"{files[0]}: it lists no episode")

    problems: list[str | None] = []
    for _, row in rows:
        problem = None
        for names, fits, what in ((numbers, _is_whole, "a whole number"), (seconds, _is_number, "a number")):
            for name in names:
                if not fits(row.get(name)):
                    problem = problem or f"{name!r}: expected {what}, got {row.get(name)!r}"
                    row[name] = -1
        row |= {name: math.nan for name in until if not _is_number(row.get(name))}
        problems.append(problem)
    return _in_order(info, rows, problems)


def _in_order(
    info: Info, rows: list[tuple[Path, dict[str, Any]]], problems: list[str | None]
) -> EpisodeTable:
    """The table of `rows`, which have all their entries, by their first row in the data set."""
    order = sorted(range(len(rows)), key=lambda place: int(rows[place][1]["dataset_from_index"]))
    files, table = [rows[place][0] for place in order], [rows[place][1] for place in order]

    def whole(name: str) -> NDArray[np.int64]:
        return np.array([row[name] for row in table], np.int64)

    def paths(of: str, name: Callable[[int, int], Path]) -> list[Path]:
        return [name(int(row[f"{of}/chunk_index"]), int(row[f"{of}/file_index"])) for row in table]

    def video(camera: str) -> Callable[[int, int], Path]:
        return lambda chunk, number: info.video_file(camera, chunk, number)

    def real(of: str) -> dict[str, NDArray[np.float64]]:
        return {
            camera: np.array([row[f"videos/{camera}/{of}"] for row in table], np.float64)
            for camera in info.videos
        }

    return EpisodeTable(
        numbers=whole("episode_index"),
        labels=[
            f"episode {row['episode_index']}" if row["episode_index"] >= 0 else f"the episode in row {place}"
            for place, row in zip(order, table, strict=True)
        ],
        files=files,
        lengths=whole("length"),
        begins=whole("dataset_from_index"),
        ends=whole("dataset_to_index"),
        data=paths("data", info.data_file),
        videos={camera: paths(f"videos/{camera}", video(camera)) for camera in info.videos},
        seconds=real("from_timestamp"),
        until=real("to_timestamp"),
        problems={new: problem for new, old in enumerate(order) if (problem := problems[old]) is not None},
    )


def _feature(file: Path, name: str, given: Any) -> Feature:
    """Feature `name` of info.json as it is `given`; pictures have a shape that their files know better."""
    if not isinstance(given, dict) or not isinstance(given.get("dtype"), str):
        raise ValueError(f"{file}: feature {name!r}: expected a dtype and a shape, got {given!r}")
    dtype, shape = given["dtype"], given.get("shape", [])
    if dtype in PICTURES or dtype == "string":
        return Feature(dtype, ())
    try:
        known = np.dtype(dtype).kind in "biuf"
    except TypeError:
        known = False
    if not known:
        raise ValueError(f"{file}: feature {name!r}: dtype {dtype!r} is none of numbers, nor of pictures")
    if not isinstance(shape, list) or not all(_is_whole(size) and size > 0 for size in shape):
        raise ValueError(f"{file}: feature {name!r}: shape: expected sizes above 0, got {shape!r}")
    if len(shape) > 8 or math.prod(shape) > LARGEST:
        raise ValueError(
            f"{file}: feature {name!r}: shape: expected at most {LARGEST} numbers, got {shape!r}"
        )
    return Feature(dtype, tuple(shape))


def _check_paths(file: Path, info: Info) -> None:
    """ValueError where no file's name can be made of `data_path` or, where there are videos, `video_path`."""
    if info.videos and not info.video_path:
        raise ValueError(f"{file}: video_path is missing, which {info.videos[0]!r} needs")
    names: dict[str, Callable[[], Path]] = {"data_path": lambda: info.data_file(0, 0)}
    if info.videos:
        names["video_path"] = lambda: info.video_file(info.videos[0], 0, 0)
    for name, made in names.items():
        try:
            made()
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file}: {name}: expected a pattern of chunk_index and file_index, got {getattr(info, name)!r}"
            ) from error


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53


def _is_number(value: Any) -> bool:
    return (isinstance(value, float) and math.isfinite(value)) or _is_whole(value)
