"""gymnasium's Pendulum-v1 as a function of states (cos, sin, velocity) and torques, in three array libraries."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch

import fastwm

LIBRARIES = ("torch", "numpy", "jax")


def library(name: str) -> ModuleType:
    if name == "jax":
        import jax.numpy

        return jax.numpy
    return {"torch": torch, "numpy": np}[name]


def make_step(name: str):
    xp = library(name)

    def step(states, actions):
        angle, speed = xp.arctan2(states[:, 1], states[:, 0]), states[:, 2]
        torque = xp.clip(actions[:, 0], -2.0, 2.0)
        speed = xp.clip(speed + 0.05 * (15.0 * xp.sin(angle) + 3.0 * torque), -8.0, 8.0)
        angle = angle + 0.05 * speed
        return xp.stack([xp.cos(angle), xp.sin(angle), speed], -1)

    return step


def make_cost(name: str):
    xp = library(name)

    def cost(states, actions):
        angle = xp.arctan2(states[..., 1], states[..., 0])
        return (angle**2 + 0.1 * states[..., 2] ** 2 + 0.001 * actions[..., 0] ** 2).sum(-1)

    return cost


def planner(name: str = "torch", *, seed: int = 0) -> fastwm.Planner:
    return fastwm.Planner.from_function(
        make_step(name),
        make_cost(name),
        fastwm.MPPI(samples=200, iterations=2, temperature=1.0, low=-2.0, high=2.0, correlation=0.5),
        horizon=25,
        state_dim=3,
        action_dim=1,
        arrays=name,  # type: ignore[arg-type]
        seed=seed,
    )
