"""Trajectories for training data: a mix of noisy experts and random walks.

Experts alone never show what goes wrong, random walks alone rarely pass the door or touch the puck; the
shares and noise that each world names are those that its world model was found to learn from best.
"""

from __future__ import annotations

import numpy as np

from .raster import Array
from .world import World

POLICIES = ("mix", "expert", "random")


def trajectories(
    world: World, rng: np.random.Generator, n: int, length: int, policy: str = "mix"
) -> tuple[Array, Array]:
    """States [n, length, state_dim] and actions [n, length, action_dim] of `n` episodes of `length` frames.

    `action[:, t]` leads from frame t to frame t + 1; the last one of an episode leads nowhere and is zeros.
    `policy` is "mix" (as the world's `behaviour` says), "expert" (without noise) or "random".
    """
    check_policy(policy)
    behaviour = world.behaviour
    state = world.sample_state(rng, n)
    goal = world.sample_goal(rng, n)
    wander = np.zeros((n, world.action_dim), np.float32)
    follows = rng.random((n, 1)) < {"mix": behaviour.expert_share, "expert": 1.0, "random": 0.0}[policy]
    noise = 0.0 if policy == "expert" else behaviour.noise

    states = np.empty((n, length, world.state_dim), np.float32)
    actions = np.zeros((n, length, world.action_dim), np.float32)
    states[:, 0] = state
    for t in range(length - 1):
        anew = (world.distance(state, goal) < behaviour.arrive) | (rng.random(n) < behaviour.renew)
        goal = np.where(anew[:, None], world.sample_goal(rng, n), goal)
        wander = world.random(rng, wander)
        guided = world.expert(state, goal) + noise * rng.standard_normal(wander.shape)
        action = np.clip(np.where(follows, guided, wander), world.action_low, world.action_high).astype(
            np.float32
        )
        state = world.step(state, action)
        states[:, t + 1], actions[:, t] = state, action
    return states, actions


def check_policy(policy: str) -> None:
    """A ValueError where `policy` is none of `POLICIES`."""
    if policy not in POLICIES:
        raise ValueError(f"policy: expected one of {', '.join(POLICIES)}, got {policy!r}")
