"""How far predicted latents are from the goal's."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from fastwm import ops
from fastwm.ops.goal_cost import METRICS, REDUCTIONS
from fastwm.planning.costs.cost import Cost, Needs
from fastwm.planning.goal import Goal


@dataclasses.dataclass(frozen=True)
class GoalDistance(Cost):
    """Distance from the predicted latents to the goal's; of several goals, to the nearest.

    metric: "squared" (sum over E), "absolute" (sum over E) or "cosine" (1 - cosine).
    reduce: over the horizon, the "last" step, the "min" or the "mean".
    """

    metric: Literal["squared", "absolute", "cosine"] = "squared"
    reduce: Literal["last", "min", "mean"] = "last"
    needs: Needs = dataclasses.field(default=frozenset({"latents"}), init=False, repr=False)

    def __post_init__(self) -> None:
        for name, allowed in (("metric", METRICS), ("reduce", REDUCTIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {allowed}")

    @property
    def keep(self) -> Literal["last", "all"]:  # type: ignore[override]
        return "last" if self.reduce == "last" else "all"

    def __call__(self, latents: Tensor, actions: Tensor, goal: Goal, *, threads: int = 1) -> Tensor:
        assert goal.latents is not None
        each = [
            ops.goal_cost(latents, one, self.metric, self.reduce, threads=threads)
            for one in goal.latents.unbind(1)
        ]
        return each[0] if len(each) == 1 else torch.stack(each).amin(0)
