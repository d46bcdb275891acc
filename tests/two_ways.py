"""A point that has to get past a disc in the middle of its way: there are two ways round, and between them a wall."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from bench.planner_worlds import GOAL, GRAZED, NEAR, START, depths
from bench.planner_worlds import disc_cost as cost
from fastwm.planning import Function, Planner, Sampling


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
    collides = depths(latents, actions).flatten(1).amax(1) > GRAZED
    near = (latents[:, 0, -1] - torch.tensor(GOAL)).norm(dim=-1) < NEAR
    return Outcome(cost(latents, actions)[:, 0], collides, near & ~collides)
