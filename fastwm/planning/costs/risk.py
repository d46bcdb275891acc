"""What several models say of a candidate becomes one cost."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from fastwm.planning.costs.cost import Cost, Needs
from fastwm.planning.goal import Goal


@dataclasses.dataclass(frozen=True)
class Risk(Cost):
    """A cost over the members of a `fastwm.Ensemble`: computed for each of M members, then the "mean" of them, the "worst", or
    "cvar", the mean of the worst share `alpha` of the members (Rockafellar and Uryasev, 2000; alpha = 1 is the mean, 1 / M or
    less the worst; a share that is no whole number of members counts a part of the last).

    A constraint inside holds for every member; its violation is reduced as the cost is.
    Raises TypeError or ValueError for an argument that does not fit.
    """

    cost: Cost
    measure: Literal["mean", "worst", "cvar"] = "mean"
    alpha: float = 0.2

    def __post_init__(self) -> None:
        if not isinstance(self.cost, Cost):
            raise TypeError(f"cost is {type(self.cost).__name__}, expected a fastwm Cost")
        if not self.cost.fits(ensemble=False):
            raise ValueError(f"cost is {self.cost}, expected one of a single model's latents")
        if self.measure not in ("mean", "worst", "cvar"):
            raise ValueError(f"measure is {self.measure!r}, expected 'mean', 'worst' or 'cvar'")
        if (
            isinstance(self.alpha, bool)
            or not isinstance(self.alpha, (int, float))
            or not 0 < self.alpha <= 1
        ):
            raise ValueError(f"alpha is {self.alpha!r}, expected 0 < alpha <= 1")

    @property
    def keep(self) -> Literal["last", "all"]:  # type: ignore[override]
        return self.cost.keep

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return self.cost.needs

    @property
    def foreign(self) -> bool:  # type: ignore[override]
        return self.cost.foreign

    @property
    def constrained(self) -> bool:  # type: ignore[override]
        return self.cost.constrained

    def __call__(self, latents: Tensor, actions: Tensor, goal: Goal, *, threads: int = 1) -> Tensor:
        """latents [M, B, S, (T,) E], actions [B, S, T, A] -> cost [B, S]"""
        M, B = latents.shape[:2]
        goals = goal.select(torch.arange(B, device=actions.device).repeat(M))
        each = self.cost(
            latents.flatten(0, 1), actions.repeat(M, 1, 1, 1), goals, threads=threads
        )  # [M B, S]
        return self.reduce(each.unflatten(0, (M, B)))

    def at(self, context: Tensor, goal: Goal) -> Cost:
        """See Cost."""
        here = self.cost.at(context, goal)
        return self if here is self.cost else dataclasses.replace(self, cost=here)

    def begin(self, B: int) -> Cost:
        """See Cost."""
        begun = self.cost.begin(B)
        return self if begun is self.cost else dataclasses.replace(self, cost=begun)

    def violation(self, latents: Tensor, actions: Tensor) -> Tensor | None:
        """See Cost; latents as in a call."""
        M, B = latents.shape[:2]
        each = self.cost.violation(latents.flatten(0, 1), actions.repeat(M, 1, 1, 1))
        return None if each is None else self.reduce(each.unflatten(0, (M, B)))

    def fits(self, ensemble: bool) -> bool:
        """See Cost."""
        return ensemble

    def reduce(self, each: Tensor) -> Tensor:
        """Costs of the members [M, ...] -> [...]; NaN where a member's is."""
        if self.measure == "worst":
            return each.amax(0)
        share = len(each) * (1.0 if self.measure == "mean" else self.alpha)
        if self.measure == "cvar":
            each = each.sort(dim=0, descending=True).values
        total = torch.zeros_like(each[0])
        for place, cost in enumerate(each):  # by elements: the same bits for every batch
            total = total + min(max(share - place, 0.0), 1.0) * cost
        return total / share
