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

    foreign = False

    def __call__(self, latents: Tensor, actions: Tensor, goal: Goal, *, threads: int = 1) -> Tensor:
        return _squared(actions, threads)

    def fits(self, ensemble: bool) -> bool:
        """See Cost."""
        return True


@dataclasses.dataclass(frozen=True)
class Smoothness(Cost):
    """Sum over the horizon of the squared differences between successive actions, in environment units.

    steps: environment steps in an action block, each with its own action; differences within blocks count, too.
    The first action is compared with none: what was executed before a plan is not known to a cost.
    """

    steps: int = 1

    foreign = False

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps is {self.steps!r}, expected an integer of at least 1")

    def __call__(self, latents: Tensor, actions: Tensor, goal: Goal, *, threads: int = 1) -> Tensor:
        A = actions.shape[3]
        if A % self.steps:
            raise ValueError(
                f"steps is {self.steps}, expected a divisor of {A}, the numbers in an action block"
            )
        each = actions.unflatten(3, (self.steps, A // self.steps)).flatten(
            2, 3
        )  # [B, S, T * steps, A / steps]
        return _squared(each.diff(dim=2), threads) if each.shape[2] > 1 else 0.0 * each[:, :, 0, 0]

    def fits(self, ensemble: bool) -> bool:
        """See Cost."""
        return True


def _squared(values: Tensor, threads: int) -> Tensor:
    """Sum of squares: [B, S, ...] -> [B, S]"""
    flat = values.flatten(2)
    return ops.goal_cost(flat, torch.zeros_like(flat[:, 0]), "squared", threads=threads)
