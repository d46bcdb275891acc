"""Episodes of their environment, collected by their `World.collect` into the HDF5 that both sides read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_worldmodel import World
from stable_worldmodel.data.formats.hdf5 import HDF5Writer
from stable_worldmodel.envs.two_room import ExpertPolicy
from stable_worldmodel.policy import RandomPolicy

from .settings import ENV, LENGTH, SIZE

KEEP = 0.8  # chance that a held action goes on for another step


class Held:
    """A policy whose actions last: each environment goes on with its last one with probability KEEP.

    Plans move an agent by actions that last; of such the model has to have seen some.
    """

    def __init__(self, policy: Any, seed: int) -> None:
        self.policy, self.random = policy, np.random.default_rng(seed)
        self._last: NDArray[np.float32] | None = None

    def set_env(self, env: Any) -> None:
        """Of the policy's, whose random numbers begin."""
        self.policy.set_env(env)
        self.policy.set_seed(self.policy.seed)

    def get_action(self, info: dict, **options: Any) -> NDArray[np.float32]:
        """[n, 2]"""
        action = np.asarray(self.policy.get_action(info, **options))
        if self._last is not None:
            action = np.where(self.random.random((len(action), 1)) < KEEP, self._last, action)
        self._last = action
        return action


class InTurn:
    """The environments of a pool have these policies in turn."""

    def __init__(self, *policies: Any) -> None:
        self.policies = policies

    def set_env(self, env: Any) -> None:
        """Of all policies."""
        for policy in self.policies:
            policy.set_env(env)

    def get_action(self, info: dict, **options: Any) -> NDArray[np.float32]:
        """[n, 2]"""
        actions = [np.asarray(policy.get_action(info, **options)) for policy in self.policies]
        return np.stack([actions[i % len(actions)][i] for i in range(len(actions[0]))])


def script_policy(seed: int) -> Any:
    """The policy of their scripts/data/collect_tworooms.py."""
    return ExpertPolicy(action_noise=2.0, action_repeat_prob=0.05, seed=seed)


def mixed_policy(seed: int) -> Any:
    """A third each: their script's policy, their expert with actions that last, and random actions that last."""
    return InTurn(
        script_policy(seed),
        Held(ExpertPolicy(action_noise=1.0, seed=seed + 1), seed + 2),
        Held(RandomPolicy(seed=seed + 3), seed + 4),
    )


def collect(
    path: Path, policy: Any, episodes: int, seed: int, *, length: int = LENGTH, environments: int = 9
) -> Path:
    """Write episodes of at most `length` steps to `path`, which appears when all are there; what is there stays."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".partial")
    unfinished.unlink(missing_ok=True)
    world = World(ENV, num_envs=environments, image_shape=(SIZE, SIZE), max_episode_steps=length)
    world.set_policy(policy)
    world.collect(writer=HDF5Writer(unfinished, mode="overwrite"), episodes=episodes, seed=seed)
    world.close()
    os.replace(unfinished, path)
    return path
