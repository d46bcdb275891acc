"""What a plan must keep to."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

from torch import Tensor

from fastwm.planning.costs.cost import Cost
from fastwm.planning.costs.functions import call
from fastwm.planning.costs.lagrangian import AugmentedLagrangian, total
from fastwm.planning.goal import Goal

Limit = Callable[[Tensor, Tensor], Tensor]

# Costs of candidates that a hard constraint forbids lie in (FORBIDDEN, 2 * FORBIDDEN]: so large that other costs up to 3e7,
# half a unit in the last place, are lost in them, and so small that sums and squares over a population are finite in float32.
FORBIDDEN = 1e15


@dataclasses.dataclass(frozen=True)
class Constraint(Cost):
    """Keeps `function` at 0 or below.

    function: latents [B, S, T, E], actions [B, S, T, A] in environment units -> [B, S], or [B, S, C] for C constraints; what is
    <= 0 is allowed, and what is above is the violation. A plan's bits are a batch's only if the function's are.
    mode: "hard": every candidate that violates costs more than every one that does not, and of those that violate the one
    whose largest violation is less is better, whatever else it costs (up to 3e7; violations v differ if v / (1 + v) does, by
    1e-7). It needs no tuning, and works where no candidate is allowed.
    "soft": costs weight * sum over C of the violation, "squared" or "absolute" by `penalty`; a plan may violate a little.
    "augmented": multipliers for each environment and constraint change during the search until the plan is allowed
    (lagrangian.py), which finds the best plan on the edge of what is allowed, where "hard" stops a search early. weight: the
    first rho; growth: of rho after an iteration that did not help. The search must be able to follow: one whose std vanishes
    before the multipliers have settled stays where it is, perhaps not allowed, so set `min_std`. Candidates of different
    iterations, and the mean with the best one, compare as in "hard".

    In a sum, a positive weight scales "soft" penalties; it does not change what "hard" ranks first (it scales the 3e7), nor
    where "augmented" ends. `Planner` says which plan is returned.
    Raises TypeError or ValueError for an argument that does not fit.
    """

    function: Limit
    mode: Literal["hard", "soft", "augmented"] = "hard"
    weight: float = 1.0
    penalty: Literal["squared", "absolute"] = dataclasses.field(default="squared", kw_only=True)
    growth: float = dataclasses.field(default=1.5, kw_only=True)
    keep = "all"
    constrained = True
    foreign = True

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"function is {type(self.function).__name__}, expected a function")
        for name, allowed in (
            ("mode", ("hard", "soft", "augmented")),
            ("penalty", ("squared", "absolute")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {allowed}")
        for name, least in (("weight", 0.0), ("growth", 1.0)):
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not least <= value < math.inf
            ):
                raise ValueError(f"{name} is {value!r}, expected {least} <= {name} < inf")
        if not self.weight:
            raise ValueError("weight is 0, expected more")

    def __call__(self, latents: Tensor, actions: Tensor, goal: Goal, *, threads: int = 1) -> Tensor:
        violation = self.values(latents, actions).clamp(min=0.0)
        if self.mode == "soft":
            return self.weight * total(violation.square() if self.penalty == "squared" else violation)
        largest = violation.amax(-1)
        return FORBIDDEN * ((largest > 0).float() + largest / (1 + largest))

    def begin(self, B: int) -> Cost:
        """See Cost."""
        if self.mode != "augmented":
            return self
        return AugmentedLagrangian(self.values, rho=self.weight, growth=self.growth)

    def violation(self, latents: Tensor, actions: Tensor) -> Tensor:
        """The largest of the constraints': [B, S]."""
        return self.values(latents, actions).clamp(min=0.0).amax(-1)

    def values(self, latents: Tensor, actions: Tensor) -> Tensor:
        """What the function says: [B, S, C]."""
        shape = tuple(actions.shape[:2])
        found = call("constraint", self.function, latents, actions, shapes=(shape, (*shape, None)))
        return found if found.dim() == 3 else found[..., None]
