"""Their `World.evaluate`, group by group and way by way; every group that is done is a line on the disk."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_worldmodel import World
from stable_worldmodel.data.formats.hdf5 import HDF5Dataset
from stable_worldmodel.data.normalization import ZScoreScaler

from .settings import ENV, SIZE, Settings, Tasks
from .tasks import Episode, arguments, draw
from .ways import DROP_IN, OFTEN, WAYS, policy


class Group(NamedTuple):
    """Episodes that are evaluated in one call, an environment each."""

    tasks: Tasks
    number: int
    episodes: list[Episode]

    @property
    def environments(self) -> int:
        """As many as episodes."""
        return len(self.episodes)


def groups(data: Path, settings: Settings) -> Iterator[Group]:
    """All groups, the same episodes for every way and, as far as they go, for every number of environments."""
    for tasks in settings.tasks:
        drawn = draw(data, tasks, max(settings.episodes.values()), settings.seed)
        for n, episodes in settings.episodes.items():
            if episodes % n:
                raise ValueError(f"episodes is {episodes} for {n} environments, expected a multiple")
            for number in range(episodes // n):
                yield Group(tasks, number, drawn[number * n : (number + 1) * n])


def identity(model_file: Path, data: Path, settings: Settings) -> str:
    """Of the model, the episodes and the settings but for their number: lines of another one are not this evaluation's."""
    same = dataclasses.replace(settings, episodes={})
    content = model_file.read_bytes() + data.read_bytes() + repr(same).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def evaluate(
    data: Path,
    lines: Path,
    model: Any,
    scaler: ZScoreScaler,
    settings: Settings,
    name: str,
    ways: Sequence[str] = WAYS,
) -> list[dict]:
    """Evaluate what has no line yet in the file `lines`, and return all lines.

    name: of this evaluation, see `identity`. The ways take turns, so that the machine's moods meet all of them; each begins
    with a step that is not timed. Raises ValueError where `lines` are of another evaluation.
    """
    done = read(lines, name)
    there = {_key(line) for line in done}
    dataset = HDF5Dataset(path=data, keys_to_load=["pixels", "state"])
    worlds: dict[int, World] = {}
    warm: set[tuple[str, int]] = set()
    torch.set_num_threads(settings.threads)
    for group in groups(data, settings):
        for way in ways:
            if (group.tasks.name, group.environments, group.number, way) in there:
                continue
            n = group.environments
            if n not in worlds:
                worlds[n] = _world(n, settings)
            if (way, n) not in warm:
                first = group._replace(tasks=dataclasses.replace(group.tasks, budget=1))
                _run(worlds[n], dataset, first, way, model, scaler, settings)
                warm.add((way, n))
            line = {"evaluation": name} | _run(worlds[n], dataset, group, way, model, scaler, settings)
            done.append(line)
            with lines.open("a") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
            print(
                f"{group.tasks.name}, {n} at once, group {group.number}, {way}: {sum(line['success'])}/{n} "
                f"in {line['wall']:.2f} s, solver {line['solver']:.2f} s",
                flush=True,
            )
    for world in worlds.values():
        world.close()
    return done


def read(lines: Path, name: str) -> list[dict]:
    """The lines that are there; one that was cut short by a kill is left out, and overwritten."""
    if not lines.exists():
        return []
    content = lines.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        lines.write_bytes(whole)
    found = [json.loads(line) for line in whole.splitlines()]
    if any(line["evaluation"] != name for line in found):
        raise ValueError(f"{lines} is of another model or other settings: delete it, or choose another --run")
    return found


def _world(n: int, settings: Settings) -> World:
    longest = max(tasks.budget for tasks in settings.tasks)
    return World(ENV, num_envs=n, image_shape=(SIZE, SIZE), max_episode_steps=2 * longest)


def _run(
    world: World,
    dataset: HDF5Dataset,
    group: Group,
    way: str,
    model: Any,
    scaler: ZScoreScaler,
    settings: Settings,
) -> dict:
    """One call of `World.evaluate` with a new policy; compiling is not in its time."""
    made, solved = policy(way, model, scaler, settings, settings.seed + 1000 * group.number)
    began = time.perf_counter()
    world.set_policy(made)
    if way in (DROP_IN, OFTEN) and made.solver.engine is None:
        raise RuntimeError("the model did not compile for the drop-in solver: see its warning")
    ready, others = time.perf_counter(), _others()
    with contextlib.redirect_stdout(io.StringIO()):  # their solver prints
        result = world.evaluate(**arguments(dataset, group.episodes, group.tasks))
    ended, others = time.perf_counter(), _others() - others
    return {
        "tasks": group.tasks.name,
        "environments": group.environments,
        "group": group.number,
        "way": way,
        "success": np.asarray(result["episode_successes"]).astype(bool).tolist(),
        "wall": ended - ready,
        "solver": solved.seconds,
        "solves": solved.solves,
        "plans": solved.plans,
        "configure": ready - began,
        "first": None if solved.first is None else solved.first.tolist(),
        "others": others,
    }


def _others() -> float:
    """Seconds that the machine's processors have worked for other processes than this one, since its start."""
    processors, *_ = Path("/proc/stat").read_text().splitlines()
    user, nice, system, _idle, _wait, irq, soft, steal = map(int, processors.split()[1:9])
    own = os.times()
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK") - own.user - own.system


def _key(line: dict) -> tuple[str, int, int, str]:
    return line["tasks"], line["environments"], line["group"], line["way"]
