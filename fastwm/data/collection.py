"""Collecting episodes of a world into an HDF5 file, resumably.

The file is allocated whole under the name `<path>.partial` and filled part by part, each part seeded by its
number, so that parts can be made in any order, by any number of threads, again and again, with the same
bytes. A part that is on the disk is ticked off in `<path>.parts`, one byte each; a killed collection goes on
with those not ticked. When all are there, the file gets its name. So nothing is copied, and what has the
final name is whole.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fastwm import __version__, envs
from fastwm.envs import World, trajectories
from fastwm.envs.behaviour import check_policy
from fastwm.envs.raster import CHUNK

from . import hdf5

FRAMES_PER_PART = 4096  # 50 MB: what a kill can cost, a tenth of a second
MAX_SEED = 2**63

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What a collection is made of: the same request gives the same bytes."""

    world: World
    episodes: int
    length: int
    seed: int
    policy: str

    @property
    def attributes(self) -> dict[str, Any]:
        """The request as attributes of the file."""
        return {
            "fastwm_version": __version__,
            "world": self.world.name,
            "episodes": self.episodes,
            "length": self.length,
            "seed": self.seed,
            "policy": self.policy,
        }

    @property
    def columns(self) -> dict[str, hdf5.Column]:
        """The columns of the file."""
        size = self.world.image_size
        return {
            "pixels": hdf5.Column(np.dtype(np.uint8), (size, size, 3)),
            "action": hdf5.Column(np.dtype(np.float32), (self.world.action_dim,)),
            "state": hdf5.Column(np.dtype(np.float32), (self.world.state_dim,)),
        }

    @property
    def episodes_per_part(self) -> int:
        """Episodes made together; from the length alone, so that more episodes begin like fewer."""
        return max(FRAMES_PER_PART // self.length, 1)

    @property
    def parts(self) -> int:
        """Number of parts."""
        return -(-self.episodes // self.episodes_per_part)

    def part_frames(self, part: int) -> int:
        """Frames in part number `part`."""
        return self.length * min(self.episodes_per_part, self.episodes - part * self.episodes_per_part)


def collect(
    world_name: str,
    path: str | os.PathLike[str],
    *,
    episodes: int,
    length: int,
    seed: int = 0,
    policy: str = "mix",
    workers: int = 1,
    progress: bool = True,
) -> Path:
    """Write `episodes` episodes of `length` frames of world `world_name` to the HDF5 file `path`, and return
    it.

    Columns: `pixels` uint8 [N, 64, 64, 3], `action` float32 [N, A] in [-1, 1], `state` float32 [N, state_dim]
    in pixels, with N = episodes * length. `policy` is "mix" (noisy experts and random, as the world's
    `behaviour` says), "expert" or "random". The bytes depend on neither `workers` (threads) nor
    interruptions: called again with the same arguments, a killed collection goes on where it was, and a
    finished one is returned. A longer collection begins with the episodes of a shorter one.

    Raises ValueError for arguments out of range and for an unfinished collection of other arguments beside
    `path`, FileExistsError where `path` is something else, BlockingIOError where another process is
    collecting to it, and OSError where the disk is full.
    """
    request = _check(world_name, episodes, length, seed, policy, workers)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        _check_finished(path, request)
        logger.info("%s is already collected", path)
        return path
    unfinished = path.with_name(path.name + ".partial")
    with _ticks(path, unfinished) as ticked:
        _fill(request, unfinished, ticked, workers, progress)
        os.replace(unfinished, path)
    return path


def _fill(request: Request, unfinished: Path, ticked: int, workers: int, progress: bool) -> None:
    """Make the parts that are not ticked off in descriptor `ticked`."""
    if unfinished.exists():
        _check_unfinished(unfinished, request)
    else:
        os.ftruncate(ticked, 0)
        _allocate(request, unfinished)
    starts = hdf5.read_starts(unfinished)
    os.ftruncate(ticked, request.parts)  # zeros where no part was ticked off yet
    done = os.pread(ticked, request.parts, 0)
    logger.info("%s: %d of %d parts are there", unfinished, sum(done), request.parts)
    missing = [part for part in range(request.parts) if not done[part]]
    there = sum(request.part_frames(part) for part in range(request.parts) if done[part])

    bar = tqdm(
        total=request.episodes * request.length,
        initial=there,
        unit="frame",
        unit_scale=True,
        desc=f"collect {request.world.name}",
        disable=not progress,
    )
    with bar, unfinished.open("r+b") as file, ThreadPoolExecutor(workers) as pool:
        make = partial(_make_part, request, file.fileno(), starts, ticked)
        futures = {pool.submit(make, part): part for part in missing}
        try:
            for future in as_completed(futures):
                future.result()
                bar.update(request.part_frames(futures[future]))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        os.fsync(file.fileno())


def _allocate(request: Request, unfinished: Path) -> None:
    incomplete = unfinished.with_name(unfinished.name + ".tmp")
    hdf5.allocate(incomplete, request.columns, np.full(request.episodes, request.length), request.attributes)
    os.replace(incomplete, unfinished)


def _make_part(request: Request, file: int, starts: dict[str, int], ticked: int, part: int) -> None:
    """Make part number `part`, write it to descriptor `file`, then tick it off in descriptor `ticked`."""
    world, columns = request.world, request.columns
    rng = np.random.Generator(np.random.Philox(key=np.array([request.seed, part], np.uint64)))
    states, actions = trajectories(world, rng, request.episodes_per_part, request.length, request.policy)
    frames = request.part_frames(part)
    state = states.reshape(-1, world.state_dim)[:frames]
    first = part * request.episodes_per_part * request.length
    hdf5.write_rows(file, starts["state"], columns["state"], first, state)
    hdf5.write_rows(
        file, starts["action"], columns["action"], first, actions.reshape(-1, world.action_dim)[:frames]
    )
    pictures = np.empty((CHUNK, *columns["pixels"].shape), np.uint8)
    for row in range(0, frames, CHUNK):
        drawn = world.render(state[row : row + CHUNK], pictures[: frames - row])
        hdf5.write_rows(file, starts["pixels"], columns["pixels"], first + row, drawn)
    os.fsync(file)
    os.pwrite(ticked, b"\x01", part)


@contextmanager
def _ticks(path: Path, unfinished: Path) -> Iterator[int]:
    """A descriptor of the file of ticks, held by this process alone; it lives as long as `unfinished`."""
    ticks = path.with_name(path.name + ".parts")
    descriptor = os.open(ticks, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f"another process is collecting to {path}") from error
        try:
            yield descriptor
        finally:
            if not unfinished.exists():
                ticks.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _check(world_name: str, episodes: int, length: int, seed: int, policy: str, workers: int) -> Request:
    for name, value, least in (
        ("episodes", episodes, 1),
        ("length", length, 2),
        ("seed", seed, 0),
        ("workers", workers, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{name}: expected an integer, got {value!r}")
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")
    if seed >= MAX_SEED:
        raise ValueError(f"seed: expected less than 2**63, got {seed}")
    check_policy(policy)
    return Request(envs.world(world_name), int(episodes), int(length), int(seed), policy)


def _check_unfinished(unfinished: Path, request: Request) -> None:
    if differences := _differences(hdf5.read_attributes(unfinished), request.attributes):
        raise ValueError(
            f"{unfinished} is an unfinished collection with other arguments ({differences}); "
            "call with those to finish it, or delete it"
        )


def _check_finished(path: Path, request: Request) -> None:
    try:
        found = hdf5.read_attributes(path)
    except (FileNotFoundError, ValueError) as error:
        raise FileExistsError(
            f"{path} exists and is no episodes file ({error}); choose another name"
        ) from error
    wanted = {name: value for name, value in request.attributes.items() if name != "fastwm_version"}
    if differences := _differences(found, wanted):
        raise FileExistsError(
            f"{path} exists and is something else ({differences}); delete it or choose another name"
        )


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Which of `wanted` are not so in `found`, in words."""
    return ", ".join(
        f"{name} {found[name]!r}, not {value!r}" if name in found else f"no {name}"
        for name, value in wanted.items()
        if found.get(name) != value
    )
