"""Which starts and goals: drawn from collected episodes, as their scripts/plan/eval_wm.py draws them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from .settings import Tasks

WALL = 112.0  # x of the wall between the rooms, in pixels of 224


class Episode(NamedTuple):
    """Start at step `start` of episode `number` of the data; the goal is `Tasks.offset` steps later."""

    number: int
    start: int


def draw(path: Path, tasks: Tasks, n: int, seed: int) -> list[Episode]:
    """n tasks, of which fewer are the first of more. Raises ValueError where the data has not so many."""
    with h5py.File(path) as file:
        lengths, offsets, state = file["ep_len"][:], file["ep_offset"][:], file["state"][:]
    fitting = [
        Episode(number, start)
        for number, (length, first) in enumerate(zip(lengths, offsets, strict=True))
        for start in range(length - tasks.offset)
        if not tasks.crossing or _crosses(state[first + start], state[first + start + tasks.offset])
    ]
    if len(fitting) < n:
        raise ValueError(f"{path} has {len(fitting)} starts for '{tasks.name}', expected at least {n}")
    return [fitting[i] for i in np.random.default_rng(seed).permutation(len(fitting))[:n]]


def _crosses(start: NDArray[np.floating], goal: NDArray[np.floating]) -> bool:
    return bool((start[0] < WALL) != (goal[0] < WALL))


def arguments(dataset: Any, episodes: list[Episode], tasks: Tasks) -> dict[str, Any]:
    """What `World.evaluate` is called with, an environment for each episode."""
    return {
        "dataset": dataset,
        "episodes_idx": [episode.number for episode in episodes],
        "start_steps": [episode.start for episode in episodes],
        "goal_offset": tasks.offset,
        "eval_budget": tasks.budget,
        "callables": [
            {"method": "_set_state", "args": {"state": {"value": "state"}}},
            {"method": "_set_goal_state", "args": {"goal_state": {"value": "goal_state"}}},
        ],
    }
