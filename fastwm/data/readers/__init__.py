"""Readers: one file per format, behind one interface (reader.py). `open_reader` recognises which."""

from __future__ import annotations

import os
from pathlib import Path

from fastwm.data.resize import Size

from .hdf5 import HDF5Reader
from .reader import Damage, Reader

__all__ = ["Damage", "HDF5Reader", "Reader", "open_reader"]

VIDEOS = (".mp4", ".webm", ".gif", ".mkv", ".mov", ".avi")


def open_reader(
    path: str | os.PathLike[str], *, image_size: int | Size | None = None, skip_damaged: bool = False
) -> Reader:
    """The reader of what `path` is: a file of episodes in HDF5, a Lance table, a LeRobot data set (version 3), a
    video or a folder of videos.

    image_size: of all pictures, in pixels (see resize.py). skip_damaged: leave damaged episodes out, and list them
    in `damaged`, instead of raising ValueError for the first one.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_file() and path.suffix.lower() not in VIDEOS:
        return HDF5Reader(path, image_size=image_size, skip_damaged=skip_damaged)
    if (path / "meta" / "info.json").is_file():
        from .lerobot import LeRobotReader

        return LeRobotReader(path, image_size=image_size, skip_damaged=skip_damaged)
    if path.is_dir() and (path.suffix == ".lance" or any(path.glob("*.lance"))):
        from .lance import LanceReader

        return LanceReader(path, image_size=image_size, skip_damaged=skip_damaged)
    from .videos import VideosReader, find_videos

    if not find_videos(path):
        raise ValueError(
            f"{path}: expected a file of episodes (HDF5), a LeRobot data set (with meta/info.json), a Lance table "
            f"(*.lance) or videos ({', '.join(VIDEOS)}); found none of them"
        )
    return VideosReader(path, image_size=image_size, skip_damaged=skip_damaged)
