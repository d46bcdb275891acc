"""What a world is: the vectorised, stateless core of an environment.

A world is pure functions of its state, over n environments at once: states are float32 [n, state_dim] in
pixels (x to the right, y down), actions float32 [n, action_dim] in [-1, 1]. Randomness comes in as a numpy
Generator. gym.py puts gymnasium's interface around a world; behaviour.py turns one into trajectories.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .raster import CHUNK, Array, Frames, scratch_for

Flags = NDArray[np.bool_]

# States are sums of float32 steps, so a state on a boundary may lie this far (pixels) beyond it.
SLACK = 1e-3


@dataclass(frozen=True)
class Behaviour:
    """How a world's training data is made, by `behaviour.trajectories`."""

    expert_share: float  # probability that an episode follows the expert
    noise: float  # standard deviation of the normal noise added to an expert's action
    arrive: float  # pixels from the goal at which an expert's goal is drawn anew
    renew: float  # probability per decision of drawing the goal anew anyway


class World(ABC):
    """The contract of a world; subclasses give the constants and `_step`, `_draw` and the policies."""

    name: ClassVar[str]
    state_names: ClassVar[tuple[str, ...]]
    state_low: ClassVar[Array]  # [state_dim], pixels
    state_high: ClassVar[Array]  # [state_dim], pixels
    tolerance: ClassVar[float]  # pixels from the goal below which an episode succeeds
    behaviour: ClassVar[Behaviour]
    sprite: ClassVar[int]  # side in pixels of the square around the largest thing that moves

    image_size: ClassVar[int] = 64
    budget: ClassVar[int] = 20  # decisions in an evaluation episode
    action_low: ClassVar[Array] = np.array([-1.0, -1.0], np.float32)
    action_high: ClassVar[Array] = np.array([1.0, 1.0], np.float32)

    @property
    def state_dim(self) -> int:
        """Numbers in a state."""
        return len(self.state_names)

    @property
    def action_dim(self) -> int:
        """Numbers in an action."""
        return len(self.action_low)

    def step(self, state: ArrayLike, action: ArrayLike) -> Array:
        """States [n, state_dim] one decision after `state`; `action` [n, action_dim] is clipped to bounds."""
        before, actions = self.check_state(state), self.check_action(action)
        if len(actions) != len(before):
            raise ValueError(f"action: expected one row per state, {len(before)}, got {len(actions)}")
        return self._step(before, actions)

    def render(self, state: ArrayLike, out: Frames | None = None) -> Frames:
        """Pictures uint8 [n, 64, 64, 3] of `state` [n, state_dim], written to `out` where it is given.

        Any finite state between `state_low` and `state_high` can be drawn, also one no episode reaches.
        """
        states = self._check_range(state, "state")
        shape = (len(states), self.image_size, self.image_size, 3)
        if out is None:
            out = np.empty(shape, np.uint8)
        elif (
            out.shape != shape
            or out.dtype != np.uint8
            or not out.flags.c_contiguous
            or not out.flags.writeable
        ):
            raise ValueError(
                f"out: expected writeable contiguous uint8 {list(shape)}, got {out.dtype} {list(out.shape)}"
            )
        scratch = scratch_for(min(len(states), CHUNK), self.sprite)
        for start in range(0, len(states), CHUNK):
            chunk = states[start : start + CHUNK]
            self._draw(out[start : start + CHUNK], chunk, scratch[:, : len(chunk)])
        return out

    def success(self, state: ArrayLike, goal: ArrayLike) -> Flags:
        """Which of `state` [n, state_dim] have reached `goal` [n, state_dim]: bool [n]."""
        return self.distance(state, goal) < self.tolerance

    def contains(self, state: Array) -> Flags:
        """Which rows of `state` [n, state_dim] are states an episode can be in: bool [n]."""
        return np.all((state >= self.state_low - SLACK) & (state <= self.state_high + SLACK), axis=1)

    @abstractmethod
    def distance(self, state: ArrayLike, goal: ArrayLike) -> Array:
        """Pixels [n] from `state` to `goal` [n, state_dim] each, the measure of `success`."""

    @abstractmethod
    def sample_state(self, rng: np.random.Generator, n: int) -> Array:
        """States [n, state_dim] spread over the world."""

    @abstractmethod
    def sample_goal(self, rng: np.random.Generator, n: int) -> Array:
        """Goals [n, state_dim] for an expert that makes training data."""

    @abstractmethod
    def sample_task(self, rng: np.random.Generator, n: int) -> tuple[Array, Array]:
        """Evaluation tasks, starts and goals [n, state_dim], solvable within `budget` decisions."""

    @abstractmethod
    def expert(self, state: ArrayLike, goal: ArrayLike) -> Array:
        """Actions [n, action_dim] from `state` towards `goal` [n, state_dim], scripted."""

    @abstractmethod
    def random(self, rng: np.random.Generator, previous: ArrayLike) -> Array:
        """Random actions [n, action_dim], often the `previous` ones; a row of zeros is never repeated."""

    @abstractmethod
    def _step(self, state: Array, action: Array) -> Array: ...

    @abstractmethod
    def _draw(self, frames: Frames, state: Array, scratch: Array) -> None: ...

    def check_state(self, state: ArrayLike, name: str = "state") -> Array:
        """`state` as float32 [n, state_dim], or a ValueError saying what is wrong with `name`."""
        states = self._check_range(state, name)
        inside = self.contains(states)
        if not inside.all():
            row = int(np.argmin(inside))
            raise ValueError(
                f"{name}: row {row} {_row(states[row])} is no state of {self.name}: {self._rule()}"
            )
        return states

    def check_action(self, action: ArrayLike) -> Array:
        """`action` as float32 [n, action_dim] clipped to the bounds, or a ValueError saying what is wrong."""
        return np.clip(_matrix(action, self.action_dim, "action"), self.action_low, self.action_high)

    def _check_range(self, state: ArrayLike, name: str) -> Array:
        states = _matrix(state, self.state_dim, name)
        inside = World.contains(self, states)
        if not inside.all():
            row = int(np.argmin(inside))
            bounds = f"{_row(self.state_low)} to {_row(self.state_high)}"
            raise ValueError(
                f"{name}: row {row} {_row(states[row])} is outside {self.name}'s bounds {bounds}"
            )
        return states

    @abstractmethod
    def _rule(self) -> str:
        """Why `contains` refuses a state that is within the bounds, for error messages."""

    def _pair(self, state: ArrayLike, goal: ArrayLike) -> tuple[Array, Array]:
        states, goals = _matrix(state, self.state_dim, "state"), _matrix(goal, self.state_dim, "goal")
        if len(states) != len(goals):
            raise ValueError(f"goal: expected one row per state, {len(states)}, got {len(goals)}")
        return states, goals


def _matrix(value: ArrayLike, columns: int, name: str) -> Array:
    """`value` as finite float32 [n, columns]."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name}: expected real numbers, got dtype {array.dtype}")
    if array.ndim != 2 or array.shape[1] != columns:
        raise ValueError(f"{name}: expected shape [n, {columns}], got {list(array.shape)}")
    matrix: Array = array.astype(np.float32, copy=False)
    if not np.isfinite(matrix).all():
        row = int(np.argmin(np.isfinite(matrix).all(axis=1)))
        raise ValueError(f"{name}: row {row} is not finite: {_row(matrix[row])}")
    return matrix


def _row(values: Array) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def norm(vector: Array) -> Array:
    """Lengths [n, 1] of `vector` [n, 2]."""
    return np.sqrt(np.sum(vector * vector, axis=1, keepdims=True))


def direction(vector: Array) -> Array:
    """`vector` [n, 2] scaled to length 1; zeros stay zeros."""
    length: Array = np.maximum(norm(vector), np.float32(1e-6))
    return vector / length
