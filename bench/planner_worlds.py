"""Three small worlds whose dynamics are known: a pendulum, a grid with walls, a disc in the way.

Each has what `fastwm.evaluation.evaluate` asks of a world; what is seen is the state. `predict` and `cost` are what
`Planner.from_function` takes, and `step` is the same function: a planner's model is exact here, so that only the search counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastwm import GoalDistance
from fastwm.planning import Cost

Array = NDArray[np.float32]


class FunctionWorld(ABC):
    """States [n, state_dim], actions [n, action_dim]; episodes of `budget` decisions, planned `horizon` ahead."""

    name: str
    state_dim: int
    action_dim: int
    budget: int
    horizon: int
    cost: Any  # of `Planner.from_function`: a Cost, or a function (states [B, S, T, D], actions [B, S, T, A]) -> [B, S]

    @abstractmethod
    def predict(self, states: Tensor, actions: Tensor) -> Tensor:
        """states [N, D], actions [N, A] -> next states [N, D]"""

    @abstractmethod
    def sample_task(self, rng: np.random.Generator, n: int) -> tuple[Array, Array]:
        """Starts and goals [n, D]."""

    @abstractmethod
    def success(self, state: Array, goal: Array) -> NDArray[np.bool_]:
        """Which of `state` [n, D] have reached `goal` [n, D]."""

    def step(self, state: Array, action: Array) -> Array:
        """States [n, D] after `action` [n, A]."""
        return self.predict(torch.from_numpy(state), torch.from_numpy(action)).numpy()

    def returned(self, states: Array) -> Array:
        """Return [n] of episodes [n, budget + 1, D], for a world where nothing is to be reached."""
        raise NotImplementedError


# ---- a pendulum --------------------------------------------------------------------------------------------------------------


class Pendulum(FunctionWorld):
    """gymnasium's Pendulum-v1, hanging down at first: its torque is too weak to lift it without swinging.

    State (cos, sin, velocity, torque of the last decision); the return is gymnasium's, over 100 decisions.
    """

    name, state_dim, action_dim = "pendulum", 4, 1
    budget, horizon = 100, 25

    def predict(self, states: Tensor, actions: Tensor) -> Tensor:
        angle, speed = torch.atan2(states[:, 1], states[:, 0]), states[:, 2]
        torque = actions[:, 0].clamp(-2.0, 2.0)
        speed = (speed + 0.05 * (15.0 * angle.sin() + 3.0 * torque)).clamp(-8.0, 8.0)
        angle = angle + 0.05 * speed
        return torch.stack([angle.cos(), angle.sin(), speed, torque], dim=-1)

    def cost(self, states: Tensor, actions: Tensor) -> Tensor:
        """gymnasium's cost of each state and torque, summed: [B, S, T, 4] -> [B, S]"""
        angle = torch.atan2(states[..., 1], states[..., 0])
        return (angle.square() + 0.1 * states[..., 2].square() + 0.001 * states[..., 3].square()).sum(-1)

    def sample_task(self, rng: np.random.Generator, n: int) -> tuple[Array, Array]:
        angle, speed = rng.uniform(np.pi - 0.5, np.pi + 0.5, n), rng.uniform(-0.5, 0.5, n)
        start = np.stack([np.cos(angle), np.sin(angle), speed, np.zeros(n)], axis=1).astype(np.float32)
        return start, np.tile(np.float32([1, 0, 0, 0]), (n, 1))

    def success(self, state: Array, goal: Array) -> NDArray[np.bool_]:
        return np.zeros(len(state), bool)  # an episode is as long as its budget

    def returned(self, states: Array) -> Array:
        after = states[:, 1:]  # gymnasium's reward is of the state before a decision and of its torque
        before = np.concatenate([states[:, :-1, :3], after[:, :, 3:]], axis=2)
        found: Array = -self.cost(torch.from_numpy(before)[:, None], torch.empty(0)).numpy()[:, 0]
        return found


# ---- a grid ------------------------------------------------------------------------------------------------------------------

MAP = (
    ".......",
    "...#...",
    "...#...",
    "...#...",
    "...#...",
    "...#...",
    "...#...",
)
MOVES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))  # stay, up, down, left, right


class Grid(FunctionWorld):
    """From one side of a wall to the other, through the only gap: the straight way ends at the wall.

    State (row, column); an action's largest number says which of MOVES, so that one-hot actions are moves and any search can
    plan. Cost: the least sum of absolute differences from the goal on the way.
    """

    name, state_dim, action_dim = "grid", 2, len(MOVES)
    budget, horizon = 30, 16
    cost: Cost = GoalDistance(metric="absolute", reduce="min")

    def __init__(self) -> None:
        self.free = torch.tensor([[cell == "." for cell in row] for row in MAP])
        self.moves = torch.tensor(MOVES)
        self.wall = MAP[-1].index("#")

    def predict(self, states: Tensor, actions: Tensor) -> Tensor:
        here = states.round().long()
        there = here + self.moves[actions.argmax(-1)]
        size = torch.tensor(self.free.shape)
        inside = ((there >= 0) & (there < size)).all(-1)
        row, column = there.clamp(min=torch.zeros_like(size), max=size - 1).unbind(-1)
        return torch.where((inside & self.free[row, column])[:, None], there, here).float()

    def sample_task(self, rng: np.random.Generator, n: int) -> tuple[Array, Array]:
        rows, columns = self.free.shape
        row = rng.integers(2, rows, (2, n))  # not beside the gap, where the way is straight
        column = np.stack([rng.integers(0, self.wall, n), rng.integers(self.wall + 1, columns, n)])
        swapped = rng.random(n) < 0.5
        column = np.where(swapped, column[::-1], column)
        start, goal = np.stack([row, column], axis=2).astype(np.float32)
        return start, goal

    def success(self, state: Array, goal: Array) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = (state == goal).all(axis=1)
        return found


# ---- two ways round a disc --------------------------------------------------------------------------------------------------

START, GOAL, RADIUS = (-1.0, 0.0), (1.0, 0.0), 0.5
NEAR, GRAZED = 0.25, 0.02  # of the goal, of the disc


def depths(places: Tensor, actions: Tensor) -> Tensor:
    """How deep in the disc a point is that moved by actions [..., 2] to places [..., 2], ten times in every step: [..., 10]"""
    back = torch.linspace(0.9, 0.0, 10)[:, None]
    points = places[..., None, :] - back * actions[..., None, :]
    return (RADIUS - points.norm(dim=-1)).clamp_min(0.0)


def disc_cost(states: Tensor, actions: Tensor) -> Tensor:
    """Squared distance from the goal in the end, a little for long steps, and every point inside the disc: [B, S]"""
    places = states[..., :2]
    far = (places[:, :, -1] - torch.tensor(GOAL)).square().sum(-1)
    return far + 0.1 * actions.square().sum((2, 3)) + depths(places, actions).sum((2, 3))


class Disc(FunctionWorld):
    """A point that has to get past a disc in the middle of its way: there are two ways round, and between them a wall.

    State (x, y, how deep in the disc it ever was); an action is a step. One plan is made and executed as it is: a plan of which
    only the first step counts would not show that it averages the two ways.
    """

    name, state_dim, action_dim = "disc", 3, 2
    budget, horizon = 8, 8
    cost = staticmethod(disc_cost)

    def predict(self, states: Tensor, actions: Tensor) -> Tensor:
        place = states[:, :2] + actions
        deepest = torch.maximum(states[:, 2], depths(place, actions).amax(-1))
        return torch.cat([place, deepest[:, None]], dim=1)

    def sample_task(self, rng: np.random.Generator, n: int) -> tuple[Array, Array]:
        return np.tile(np.float32([*START, 0]), (n, 1)), np.tile(np.float32([*GOAL, 0]), (n, 1))

    def success(self, state: Array, goal: Array) -> NDArray[np.bool_]:
        near = np.linalg.norm(state[:, :2] - goal[:, :2], axis=1) < NEAR
        found: NDArray[np.bool_] = near & (state[:, 2] <= GRAZED)
        return found
