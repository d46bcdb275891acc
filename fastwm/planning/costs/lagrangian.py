"""Constraints by an augmented Lagrangian: multipliers that change while a search goes on.

Of the form for inequalities in Rockafellar, "Augmented Lagrange multiplier functions and duality in nonconvex programming",
1974; Nocedal and Wright, "Numerical optimization", 2006, section 17.4. There the inner problem is solved before the
multipliers change; here both move together, an iteration at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastwm.planning.costs.cost import Cost
from fastwm.planning.goal import Goal

SHRINKS = 0.9  # the share of the violation before that a violation must come down to, or rho grows
# A violation of 1e-3 then costs 50, and squares of costs are finite in float32 for violations up to 1e5.
LARGEST_RHO = 1e8


class AugmentedLagrangian(Cost):
    """The cost of C constraints g <= 0 in one search: sum over C of (max(0, lambda + rho g)^2 - lambda^2) / (2 rho).

    values: latents [B, S, T, E], actions [B, S, T, A] -> g [B, S, C]. rho: of the first iteration, times `growth` after every
    iteration that has not brought a violation down.
    Every call is an iteration, whose candidate 0 is where the search stands: lambda = max(0, lambda + rho g) of that.
    """

    keep = "all"
    constrained = True

    def __init__(self, values: Callable[[Tensor, Tensor], Tensor], *, rho: float, growth: float) -> None:
        self._values, self._first, self._growth = values, rho, growth
        self.multipliers: Tensor | None = None  # [B, C] lambda, of the next iteration
        self.rho: Tensor | None = None  # [B, C]
        self._before: Tensor | None = None  # [B, C] violation

    def __call__(self, latents: Tensor, actions: Tensor, goal: Goal, *, threads: int = 1) -> Tensor:
        found = self._values(latents, actions)  # [B, S, C]
        here = found[:, 0].detach()  # [B, C]
        if self.multipliers is None or self.rho is None or self._before is None:
            self.multipliers = torch.zeros_like(here)
            self.rho = torch.full_like(here, self._first)
            self._before = torch.full_like(here, torch.inf)
        cost = penalty(found, self.multipliers[:, None], self.rho[:, None])
        self._learn(here, self.multipliers, self.rho, self._before)
        return cost

    def violation(self, latents: Tensor, actions: Tensor) -> Tensor:
        """The largest of the constraints': [B, S]."""
        return self._values(latents, actions).clamp(min=0.0).amax(-1)

    def _learn(self, here: Tensor, multipliers: Tensor, rho: Tensor, before: Tensor) -> None:
        known = here.isfinite()  # a candidate that was not evaluated says nothing
        violation = here.clamp(min=0.0)
        self.multipliers = torch.where(known, (multipliers + rho * here).clamp(min=0.0), multipliers)
        stuck = known & (violation > SHRINKS * before)
        self.rho = torch.where(stuck, (self._growth * rho).clamp(max=LARGEST_RHO), rho)
        self._before = torch.where(known, violation, before)


def penalty(found: Tensor, multipliers: Tensor, rho: Tensor) -> Tensor:
    """g [B, S, C], lambda and rho [B, 1, C] -> [B, S], in a form that loses no digits where lambda is large."""
    held = torch.maximum(found, -multipliers / rho)
    return total(held * (multipliers + 0.5 * rho * held))


def total(each: Tensor) -> Tensor:
    """Sum over the last axis, by elements: the same bits for every batch."""
    found = each[..., 0]
    for one in each.unbind(-1)[1:]:
        found = found + one
    return found
