"""Costs of actions alone."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from fastwm import ops
from fastwm.planning.costs.cost import Cost
from fastwm.planning.goal import Goal


@dataclasses.dataclass(frozen=True)
class ActionPenalty(Cost):
    """Sum over the horizon of the squared actions, in environment units."""

    def __call__(self, latents: Tensor, actions: Tensor, goal: Goal, *, threads: int = 1) -> Tensor:
        flat = actions.flatten(2)  # [B, S, T * A]
        return ops.goal_cost(flat, torch.zeros_like(flat[:, 0]), "squared", threads=threads)
