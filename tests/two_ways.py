"""A point that has to get past a disc in the middle of its way: there are two ways round, and between them a wall."""

from __future__ import annotations

import torch
from torch import Tensor

from fastwm.planning import Function

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


def depth(latents: Tensor, actions: Tensor) -> Tensor:
    """How deep in the disc the point is, summed over ten points of every step: [B, S]"""
    back = torch.linspace(0.9, 0.0, 10)[:, None]
    points = latents[:, :, :, None] - back * actions[:, :, :, None]  # [B, S, T, 10, 2]
    return (RADIUS - points.norm(dim=-1)).clamp_min(0.0).sum((2, 3))


def cost(latents: Tensor, actions: Tensor) -> Tensor:
    """Squared distance from the goal in the end, a little for long steps, and the way inside the disc: [B, S]"""
    far = (latents[:, :, -1] - torch.tensor(GOAL)).square().sum(-1)
    return far + 0.1 * actions.square().sum((2, 3)) + WALL * depth(latents, actions)


WALL = 1.0
COST = Function(cost)


def outcome(plan) -> tuple[Tensor, Tensor]:
    """Of plans from START: their cost [B], and whether they reach the goal past the disc."""
    latents = Point().rollout(
        torch.tensor(START).expand(len(plan.actions), 1, 2), plan.actions[:, None], keep="all"
    )
    own = cost(latents, plan.actions[:, None])[:, 0]
    clear = depth(latents, plan.actions[:, None])[:, 0] < 0.05
    near = (latents[:, 0, -1] - torch.tensor(GOAL)).norm(dim=-1) < 0.2
    return own, clear & near
