"""Distance from predicted latents to the goal in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def goal_cost(latents: Tensor, goal: Tensor, metric: str = "squared", reduce: str = "last") -> Tensor:
    """latents [B, S, T, E], goal [B, E] -> cost [B, S]. See `fastwm.ops.goal_cost`."""
    if reduce == "last":
        latents = latents[:, :, -1:]
    distance = _distance(latents, goal[:, None, None], metric)  # [B, S, T]
    return distance.amin(-1) if reduce == "min" else distance.mean(-1)


def _distance(latents: Tensor, goal: Tensor, metric: str) -> Tensor:
    if metric == "squared":
        return (latents - goal).square().sum(-1)
    if metric == "absolute":
        return (latents - goal).abs().sum(-1)
    return 1.0 - torch.cosine_similarity(latents, goal, dim=-1)
