"""Decoded frames on disk: a data set of any format as one of our HDF5 files, made once and mapped from then on."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from . import hdf5
from .episodes import Episodes
from .readers import Damage
from .resize import FILTER, Size

VERSION = 1  # of what a cache holds; another one makes all old caches strangers


def cached(
    path: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    camera: str | None = None,
    image_size: int | Size | None = None,
    skip_damaged: bool = False,
    workers: int = 1,
    progress: bool = False,
) -> Episodes:
    """The episodes of `path`, decoded and resized to a file in `directory` where there is none of them yet.

    The file's name is a digest of the source (names, sizes and times of change of its files: a copy is decoded anew),
    `camera`, `image_size` and `skip_damaged`. It holds `pixels`, `action` and `state`, under its name only when it is
    whole; other processes wait while one writes it. workers: threads that decode. Unlike `Episodes`, which sees damage
    inside a video only when it comes to it, this decodes all: with `skip_damaged` such episodes are left out, too.

    Raises what `Episodes` raises, and OSError where the disk is full.
    """
    source = Path(path)
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file")
    key = {"camera": camera, "image_size": image_size, "skip_damaged": skip_damaged, "filter": FILTER}
    target = Path(directory) / f"{source.stem}-{source_digest(source, key)}.h5"
    target.parent.mkdir(parents=True, exist_ok=True)
    with _alone(target.with_suffix(".lock")):
        if not target.exists():
            episodes = Episodes(
                source, in_memory=False, camera=camera, image_size=image_size, skip_damaged=skip_damaged
            )
            _write(episodes, target, skip_damaged, workers, progress)
    found = Episodes(target)
    try:
        left_out = json.loads(found.attributes["damaged"])
        found.damaged = tuple(Damage(Path(file), episode, reason) for file, episode, reason in left_out)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{target}: damaged, or no cache of decoded frames; without it, it is made anew"
        ) from error
    return found


def source_digest(path: Path, key: dict[str, Any]) -> str:
    """16 hexadecimal digits that change with any file at or below `path` (by size and time) and with `key`."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    described = [
        (str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns)
        for file in files
        if file.is_file()
    ]
    text = json.dumps([VERSION, str(path.resolve()), described, key])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _write(episodes: Episodes, target: Path, skip_damaged: bool, workers: int, progress: bool) -> None:
    """All of `episodes` as the HDF5 file `target`."""
    names = [name for name in ("pixels", "action", "state") if name in episodes.columns]
    columns = {
        name: shape if name == "pixels" else hdf5.Column(np.dtype(np.float32), shape.shape)
        for name, shape in episodes.shapes.items()
        if name in names
    }
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    firsts = np.cumsum(episodes.lengths) - episodes.lengths
    usable = np.ones(len(episodes), bool)
    damaged = list(episodes.damaged)
    try:
        starts = hdf5.allocate(unfinished, columns, episodes.lengths, _attributes(episodes))

        def make(number: int) -> Damage | None:
            rows = episodes.offsets[number] + np.arange(episodes.lengths[number])
            try:
                values = episodes.rows(rows, names)
            except ValueError as error:
                if not skip_damaged:
                    raise
                return Damage(episodes.path, episodes.label(number), str(error))
            for name in names:
                last = np.nan_to_num(values[name][-1:]) if name == "action" else values[name][-1:]
                values[name] = np.concatenate([values[name][:-1], last])
                hdf5.write_rows(file.fileno(), starts[name], columns[name], int(firsts[number]), values[name])
            return None

        with (
            unfinished.open("r+b") as file,
            tqdm(
                total=len(episodes), unit="episode", desc=f"decode {episodes.path.name}", disable=not progress
            ) as bar,
            ThreadPoolExecutor(workers) as pool,
        ):
            for number, damage in enumerate(pool.map(make, range(len(episodes)))):
                bar.update()
                if damage is not None:
                    usable[number] = False
                    damaged.append(damage)
            os.fsync(file.fileno())
        _finish(unfinished, episodes.lengths, firsts, usable, damaged)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def _finish(unfinished: Path, lengths: Any, firsts: Any, usable: Any, damaged: list[Damage]) -> None:
    """Name the episodes that are `usable` [episodes], and those that are `damaged`."""
    if not usable.any():
        raise ValueError(f"no episode can be used: {damaged[0]}")
    with h5py.File(unfinished, "r+") as file:
        if not usable.all():
            del file[hdf5.LENGTHS], file[hdf5.OFFSETS]
            file[hdf5.LENGTHS], file[hdf5.OFFSETS] = lengths[usable].astype(np.int32), firsts[usable]
        file.attrs["damaged"] = json.dumps([(str(d.file), d.episode, d.reason) for d in damaged])


def _attributes(episodes: Episodes) -> dict[str, Any]:
    kept = {
        name: value
        for name, value in episodes.attributes.items()
        if isinstance(value, str | int | float | bool)
    }
    kept |= {"source": str(episodes.path.resolve()), "format": episodes.format, "camera": episodes.camera}
    return kept | ({"fps": episodes.fps} if episodes.fps else {})


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold `lock`, waiting for whoever holds it."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
