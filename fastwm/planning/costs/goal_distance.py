"""How far predicted latents are from the goal's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from fastwm import ops
from fastwm.ops.goal_cost import METRICS, REDUCTIONS
from fastwm.planning.costs.cost import Cost, Needs
from fastwm.planning.costs.functions import call
from fastwm.planning.goal import Goal


@dataclasses.dataclass(frozen=True)
class GoalDistance(Cost):
    """Distance from the predicted latents to the goal's.

    metric: "squared" (sum over E), "absolute" (sum over E), "cosine" (1 - cosine) or "euclidean" (root of "squared").
    reduce: over the horizon, the "last" step, the "min" or the "mean". weights: one number per block of the horizon, such as
    1, 2, 4, 8; the cost is then the sum over blocks of weight * distance, whatever `reduce` says.
    reach: of several goals "any", the cost is that of the nearest; or "all", one after another: the least sum over the goals
    of their distances after blocks t1 <= t2 <= ... (`in_order`).
    probe: latents [..., E] -> states [..., P]. The goal is then a state, and distances are those of states. A plan's bits are
    a batch's only if the probe's are.
    """

    metric: Literal["squared", "absolute", "cosine", "euclidean"] = "squared"
    reduce: Literal["last", "min", "mean"] = "last"
    weights: Sequence[float] | None = dataclasses.field(default=None, kw_only=True)
    reach: Literal["any", "all"] = dataclasses.field(default="any", kw_only=True)
    probe: Callable[[Tensor], Tensor] | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        choices = (("metric", (*METRICS, "euclidean")), ("reduce", REDUCTIONS), ("reach", ("any", "all")))
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {allowed}")
        if self.reach == "all" and (self.reduce != "last" or self.weights is not None):
            raise ValueError("reach is 'all', which chooses the steps itself: expected no reduce, no weights")
        if self.probe is not None and not callable(self.probe):
            raise TypeError(f"probe is {type(self.probe).__name__}, expected a function or module")
        if self.weights is not None:
            object.__setattr__(self, "weights", _weights(self.weights))

    @property
    def keep(self) -> Literal["last", "all"]:  # type: ignore[override]
        whole = self.reduce != "last" or self.weights is not None or self.reach == "all"
        return "all" if whole else "last"

    @property
    def foreign(self) -> bool:  # type: ignore[override]
        return self.probe is not None

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return frozenset({"latents"} if self.probe is None else {"state"})

    def __call__(self, latents: Tensor, actions: Tensor, goal: Goal, *, threads: int = 1) -> Tensor:
        goals = goal.latents if self.probe is None else goal.state  # [B, G, E or P]
        if goals is None:
            raise ValueError(f"goal has no {' '.join(self.needs)}, which the cost needs")
        if self.probe is not None:
            shape = (*latents.shape[:-1], goals.shape[-1])
            latents = call("probe", self.probe, latents, shapes=(shape,))
        if self.reach == "all":
            steps = [self._steps(latents, one, threads) for one in goals.unbind(1)]
            return in_order(torch.stack(steps, dim=1), goal.reached)
        each = [self._one(latents, one, threads) for one in goals.unbind(1)]
        return each[0] if len(each) == 1 else torch.stack(each).amin(0)

    def _one(self, latents: Tensor, goal: Tensor, threads: int) -> Tensor:
        """latents [B, S, (T,) E], goal [B, E] -> [B, S]"""
        if self.metric != "euclidean" and self.weights is None:
            return ops.goal_cost(latents, goal, self.metric, self.reduce, threads=threads)
        steps = self._steps(latents, goal, threads)  # [B, S, T]
        T = steps.shape[2]
        if self.weights is None and self.reduce != "mean":
            return steps[..., -1] if self.reduce == "last" else steps.amin(-1)
        weights = [1 / T] * T if self.weights is None else self.weights
        if len(weights) != T:
            raise ValueError(f"weights has {len(weights)} numbers, expected {T}, one for each block")
        total = torch.zeros_like(steps[..., 0])
        for weight, step in zip(weights, steps.unbind(-1), strict=True):
            total = total + weight * step
        return total

    def _steps(self, latents: Tensor, goal: Tensor, threads: int) -> Tensor:
        """Distance after each block: latents [B, S, (T,) E], goal [B, E] -> [B, S, T]"""
        if latents.dim() == 3:
            latents = latents[:, :, None]
        metric = "squared" if self.metric == "euclidean" else self.metric
        distance = ops.goal_cost(latents.flatten(1, 2), goal, metric, threads=threads)
        distance = distance.unflatten(1, latents.shape[1:3])
        if self.metric == "euclidean":  # the root of 0 has no gradient
            return distance.clamp_min(torch.finfo(distance.dtype).tiny).sqrt()
        return distance


def in_order(distance: Tensor, reached: Tensor | None = None) -> Tensor:
    """Least sum over the goals g of distance[g, t_g] with t_1 <= t_2 <= ... <= t_G: [B, G, S, T] -> [B, S].

    reached int64 [B]: the first goals of an environment that do not count any more; the last one always does, so that
    there is something to stay at. By dynamic programming over goals and steps.
    """
    last = distance.shape[1] - 1
    total = torch.zeros_like(distance[:, 0])  # [B, S, T] of the goals so far, the last of them at step t
    for g, one in enumerate(distance.unbind(1)):
        before, total = total, total.cummin(-1).values + one
        if reached is not None and g < last:
            total = torch.where((g < reached)[:, None, None], before, total)
    return total.amin(-1)


def _weights(weights: Sequence[float]) -> tuple[float, ...]:
    if isinstance(weights, str) or not isinstance(weights, Sequence):
        raise TypeError(f"weights is {type(weights).__name__}, expected a sequence of numbers")
    if any(isinstance(x, bool) or not isinstance(x, (int, float)) for x in weights):
        raise TypeError(f"weights is {weights!r}, expected a sequence of numbers")
    if not all(0 <= x < math.inf for x in weights) or not any(weights):
        raise ValueError(f"weights is {weights!r}, expected numbers of at least 0, not all of them 0")
    return tuple(float(x) for x in weights)
