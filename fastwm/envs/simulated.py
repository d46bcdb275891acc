"""Worlds whose dynamics are somebody else's simulator: still pure functions of the state, one row at a time.

A simulator is told the whole state before every step and every picture, so that what it remembers besides does not
matter: the same state and action give the same next state, as `World` promises, in float32. It exists once per world,
made when it is first needed; threads take turns at it, so collecting with several of them is no faster.
"""

from __future__ import annotations

import importlib
import threading
from abc import abstractmethod
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from .raster import Array, Frames
from .world import World

TRIES = 20  # draws of a task that is not solved before it begins


class SimulatedWorld(World):
    """What such worlds share: loops over rows, smooth random actions, and tasks that some trajectory solves."""

    sprite = 0  # nothing is drawn by raster.py
    task_length: ClassVar[
        int
    ]  # decisions from a task's start to its goal, along a trajectory of training data
    smoothness: ClassVar[float] = 0.8  # correlation of random actions with the previous ones
    strength: ClassVar[float] = 0.7  # their standard deviation, before they are clipped to [-1, 1]

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._ready = False

    def __reduce__(self) -> tuple[type[SimulatedWorld], tuple[()]]:
        """Another process makes a simulator of its own."""
        return type(self), ()

    def render(self, state: ArrayLike, out: Frames | None = None) -> Frames:
        """Pictures uint8 [n, 64, 64, 3] of `state` [n, state_dim], written to `out` where it is given."""
        states = self._check_range(state, "state")
        shape = (len(states), self.image_size, self.image_size, 3)
        frames = np.empty(shape, np.uint8) if out is None else out
        if frames.shape != shape or frames.dtype != np.uint8 or not frames.flags.writeable:
            raise ValueError(
                f"out: expected writeable uint8 {list(shape)}, got {frames.dtype} {list(frames.shape)}"
            )
        with self._simulator():
            for row, one in enumerate(states):
                frames[row] = self._picture(one.astype(np.float64))
        return frames

    def sample_goal(self, rng: np.random.Generator, n: int) -> Array:
        """Goals [n, state_dim] for the expert, as `sample_state`."""
        return self.sample_state(rng, n)

    def sample_task(self, rng: np.random.Generator, n: int) -> tuple[Array, Array]:
        """Starts and goals [n, state_dim]: `task_length` decisions apart along a noisy expert's or a random trajectory,
        and drawn anew (a few times) where the start is a success already.
        """
        from .behaviour import trajectories

        start = np.empty((n, self.state_dim), np.float32)
        goal = np.empty_like(start)
        open_ = np.arange(n)
        for _ in range(TRIES):
            states, _ = trajectories(self, rng, len(open_), self.task_length + 1)
            start[open_], goal[open_] = states[:, 0], states[:, -1]
            open_ = open_[self.success(start[open_], goal[open_])]
            if len(open_) == 0:
                break
        return start, goal

    def random(self, rng: np.random.Generator, previous: ArrayLike) -> Array:
        """Smooth random actions [n, action_dim]: an autoregressive process, clipped; after zeros it begins anew."""
        held = self.check_action(previous)
        noise = self.strength * rng.standard_normal(held.shape)
        fresh = ~held.any(axis=1, keepdims=True)
        follow = self.smoothness * held + np.sqrt(1 - self.smoothness**2) * noise
        return np.clip(np.where(fresh, noise, follow), -1, 1).astype(np.float32)

    def _simulator(self) -> threading.RLock:
        """The lock to hold while the simulator is used, which is there then."""
        with self._lock:
            if not self._ready:
                self._make()
                self._ready = True
        return self._lock

    def _step(self, state: Array, action: Array) -> Array:
        after = np.empty_like(state)
        with self._simulator():
            for row in range(len(state)):
                after[row] = self._advance(state[row].astype(np.float64), action[row].astype(np.float64))
        return np.clip(after, self.state_low, self.state_high)

    def _draw(self, frames: Frames, state: Array, scratch: Array) -> None:
        raise NotImplementedError("render does it")

    def _rule(self) -> str:
        return "it is outside the bounds"

    @abstractmethod
    def _make(self) -> None:
        """Make the simulator."""

    @abstractmethod
    def _advance(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """The state [state_dim] one decision after `state`."""

    @abstractmethod
    def _picture(self, state: np.ndarray) -> Frames:
        """The picture uint8 [64, 64, 3] of `state` [state_dim]."""


def needs(module: str, extra: str, world: str) -> ModuleType:
    """The optional package `module`; an ImportError says how it is installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"the world {world!r} needs {module} ({error}): pip install 'fastwm[{extra}]'"
        ) from error


def wrapped(angle: Any) -> Any:
    """`angle`, a number or an array, brought to [-pi, pi)."""
    return np.mod(angle + np.pi, 2 * np.pi) - np.pi


def scaled(picture: np.ndarray, size: int) -> Frames:
    """`picture` uint8 [height, width, 3] as [size, size, 3], antialiased."""
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))
