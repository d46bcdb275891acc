"""The DeepMind Control Suite's reacher: two links, two motors; reach what a goal picture shows.

The suite's model and physics; the ball that its own task has to be reached is hidden, since the goal is a picture. A
decision is held for four of the suite's time steps (0.08 s). Pictures are drawn without shadows (mujoco.py): MUJOCO_GL
has to be set where there is no display.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .mujoco import Pictures, load_triton_first
from .raster import Array, Frames
from .simulated import SimulatedWorld, needs, wrapped
from .world import Behaviour

LINK = 0.12  # metres, both
WRIST = np.deg2rad(160)
FASTEST = 60.0  # radians per second
HOLD = 4  # time steps of a decision
STIFFNESS, DAMPING = 1.2, 0.25  # of the expert, torque per radian and per radian per second


class ReacherWorld(SimulatedWorld):
    """State (shoulder, wrist, their velocities) in radians and radians per second; the action is two torques."""

    name = "reacher"
    state_names = ("shoulder", "wrist", "shoulder_velocity", "wrist_velocity")
    state_low = np.array([-np.pi, -WRIST - 0.2, -FASTEST, -FASTEST], np.float32)
    state_high = -state_low
    tolerance = 0.04  # metres between the finger tips
    behaviour = Behaviour(expert_share=0.5, noise=0.3, arrive=0.02, renew=0.02)
    budget = 50
    task_length = 25

    def distance(self, state: ArrayLike, goal: ArrayLike) -> Array:
        """Metres [n] between the finger tips of `state` and `goal` [n, 4]."""
        states, goals = self._pair(state, goal)
        return np.sqrt(np.sum((_tip(states) - _tip(goals)) ** 2, axis=1)).astype(np.float32)

    def sample_state(self, rng: np.random.Generator, n: int) -> Array:
        """States [n, 4]: any posture, at rest."""
        angles = rng.uniform([-np.pi, -WRIST], [np.pi, WRIST], (n, 2))
        return np.concatenate([angles, np.zeros((n, 2))], axis=1).astype(np.float32)

    def expert(self, state: ArrayLike, goal: ArrayLike) -> Array:
        """Actions [n, 2]: a damped spring towards the goal's posture."""
        states, goals = self._pair(state, goal)
        turn = goals[:, :2] - states[:, :2]
        turn[:, 0] = wrapped(turn[:, 0])
        return np.clip(STIFFNESS * turn - DAMPING * states[:, 2:], -1, 1).astype(np.float32)

    def _make(self) -> None:
        load_triton_first()
        suite: Any = needs("dm_control.suite", "dm-control", self.name)
        self._mujoco = needs("mujoco", "dm-control", self.name)
        physics = suite.load("reacher", "easy").physics
        self._model = physics.model.ptr
        self._model.geom("target").rgba[3] = 0
        self._data = self._mujoco.MjData(self._model)
        self._pictures: Pictures | None = None

    def _set(self, state: np.ndarray) -> None:
        self._mujoco.mj_resetData(self._model, self._data)
        self._data.qpos[:], self._data.qvel[:] = state[:2], state[2:]

    def _advance(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        self._set(state)
        self._data.ctrl[:] = action
        self._mujoco.mj_step(self._model, self._data, HOLD)
        after = np.concatenate([self._data.qpos, self._data.qvel])
        after[0] = wrapped(after[0])
        return after

    def _picture(self, state: np.ndarray) -> Frames:
        if self._pictures is None:
            self._pictures = Pictures(self._model, (self.image_size, self.image_size), camera="fixed")
        self._set(state)
        self._mujoco.mj_forward(self._model, self._data)
        return self._pictures.draw(self._data)


def _tip(state: Array) -> np.ndarray:
    """The finger tip [n, 2], metres."""
    shoulder, both = state[:, 0], state[:, 0] + state[:, 1]
    return LINK * np.stack([np.cos(shoulder) + np.cos(both), np.sin(shoulder) + np.sin(both)], axis=1)
