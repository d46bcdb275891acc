"""gymnasium's Pendulum-v1 from pixels: swing up to the angle that a goal picture shows, and be slow there.

A decision is held for three of its time steps (0.15 s); the arrow that shows the torque is not drawn. A picture does not
show how fast the pendulum is: a model needs two frames to know its state.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .raster import Array, Frames
from .simulated import SimulatedWorld, needs, scaled, wrapped
from .world import Behaviour

TORQUE = 2.0  # of a full action
FASTEST = 8.0  # radians per second
CLOSE, SLOW = 0.2, 1.5  # radians and radians per second of a success
HOLD = 3  # time steps of a decision
WEIGHT = 15.0  # radians per second squared that gravity adds where the pendulum is level
PUSH = 3.0  # and a torque of 1


class PendulumWorld(SimulatedWorld):
    """State (angle, velocity) in radians, 0 upright, and radians per second; the action is a torque."""

    name = "pendulum"
    state_names = ("angle", "velocity")
    state_low = np.array([-np.pi, -FASTEST], np.float32)
    state_high = -state_low
    action_low = np.array([-1.0], np.float32)
    action_high = np.array([1.0], np.float32)
    tolerance = 1.0
    behaviour = Behaviour(expert_share=0.5, noise=0.3, arrive=0.5, renew=0.02)
    budget = 50
    task_length = budget  # not used: tasks are swing-ups

    def distance(self, state: ArrayLike, goal: ArrayLike) -> Array:
        """How far [n] `state` is from `goal` [n, 2]; less than 1 is a success: within 0.2 radians, and slow, whatever
        the goal's own velocity, which no picture shows.
        """
        states, goals = self._pair(state, goal)
        turned = np.abs(wrapped(states[:, 0] - goals[:, 0])) / CLOSE
        return np.maximum(turned, np.abs(states[:, 1]) / SLOW).astype(np.float32)

    def sample_task(self, rng: np.random.Generator, n: int) -> tuple[Array, Array]:
        """Starts [n, 2] near the bottom and goals in the upper half, both at rest: a swing-up."""
        start, goal = np.zeros((n, 2), np.float32), np.zeros((n, 2), np.float32)
        start[:, 0] = wrapped(np.pi + rng.uniform(-0.5, 0.5, n))
        goal[:, 0] = rng.uniform(-np.pi / 2, np.pi / 2, n)
        return start, goal

    def sample_state(self, rng: np.random.Generator, n: int) -> Array:
        """States [n, 2]: any angle, slow, as gymnasium draws them."""
        return rng.uniform([-np.pi, -1], [np.pi, 1], (n, 2)).astype(np.float32)

    def expert(self, state: ArrayLike, goal: ArrayLike) -> Array:
        """Actions [n, 1]: swing until there is energy enough for the goal's height, then steer to its angle."""
        states, goals = self._pair(state, goal)
        angle, velocity = states[:, 0], states[:, 1]
        energy = velocity**2 / 2 + WEIGHT * np.cos(angle)
        needed = WEIGHT * np.cos(goals[:, 0])
        pump = np.where(velocity == 0, 1, np.sign(velocity)) * np.sign(needed - energy)
        turn = wrapped(goals[:, 0] - angle)
        steer = (8 * turn - 3 * velocity - WEIGHT * np.sin(angle)) / PUSH / TORQUE
        action = np.where(np.abs(turn) < 0.6, steer, pump)
        return np.clip(action, -1, 1)[:, None].astype(np.float32)

    def _make(self) -> None:
        import gymnasium

        needs("pygame", "pendulum", self.name)
        self._env: Any = gymnasium.make("Pendulum-v1", render_mode="rgb_array").unwrapped
        self._env.reset(seed=0)

    def _advance(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        self._env.state = state
        for _ in range(HOLD):
            self._env.step(TORQUE * action)
        angle, velocity = self._env.state
        return np.array([wrapped(angle), velocity])

    def _picture(self, state: np.ndarray) -> Frames:
        self._env.state, self._env.last_u = state, None
        return scaled(self._env.render(), self.image_size)
