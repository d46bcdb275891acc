"""A point that has to get past a disc in the middle of its way: there are two ways round, and between them a wall."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from fastwm.planning import Function, Planner, Sampling

START, GOAL, RADIUS = (-1.0, 0.0), (1.0, 0.0), 0.5


class Point:
    """A point of the plane, z' = z + a."""

    embed_dim = action_dim = 2
    window = threads = observation_dims = 1
    action_mean = torch.zeros(2)
    action_std = torch.full((2,), 0.5)

    def encode(self, obs: Tensor) -> Tensor:
        return torch.as_tensor(obs).float().view(-1, 1, 2)

    def rollout(self, context, actions, past_actions=None, *, keep="last", seconds=None) -> Tensor:
        latents = context[:, None] + actions.cumsum(2)
        return latents if keep == "all" else latents[:, :, -1]


def depths(latents: Tensor, actions: Tensor) -> Tensor:
    """How deep in the disc the point is, at ten points of every step: [B, S, T, 10]"""
    back = torch.linspace(0.9, 0.0, 10)[:, None]
    points = latents[:, :, :, None] - back * actions[:, :, :, None]  # [B, S, T, 10, 2]
    return (RADIUS - points.norm(dim=-1)).clamp_min(0.0)


def cost(latents: Tensor, actions: Tensor) -> Tensor:
    """Squared distance from the goal in the end, a little for long steps, and every point inside the disc: [B, S]"""
    far = (latents[:, :, -1] - torch.tensor(GOAL)).square().sum(-1)
    return far + 0.1 * actions.square().sum((2, 3)) + depths(latents, actions).sum((2, 3))


@dataclasses.dataclass
class Outcome:
    """Of plans from START, each [B]: what they cost, whether they run into the disc, whether they reach the goal past it."""

    cost: Tensor
    collides: Tensor
    succeeds: Tensor


def outcome(search: Sampling, plans: int, *, horizon: int = 8, seed: int = 3) -> Outcome:
    """Of as many plans, each with random numbers of its own."""
    start = torch.tensor(START).expand(plans, 1, 2).contiguous()
    found = Planner(Point(), search, horizon, cost=Function(cost)).plan({"latents": start}, generator=seed)
    actions = found.actions[:, None]
    latents = Point().rollout(start, actions, keep="all")
    collides = depths(latents, actions).flatten(1).amax(1) > 0.02
    near = (latents[:, 0, -1] - torch.tensor(GOAL)).norm(dim=-1) < 0.25
    return Outcome(cost(latents, actions)[:, 0], collides, near & ~collides)
