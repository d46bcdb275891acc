"""What a plan should make small. Costs compose: `GoalDistance() + 0.01 * ActionPenalty()`."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from fastwm import ops
from fastwm.ops.goal_cost import METRICS, REDUCTIONS


class Cost:
    """One number per candidate. A cost of your own is a subclass with `keep` and `__call__`.

    keep: the latents that are read: "last", those after the last block, or "all".
    """

    keep: Literal["last", "all"] = "last"

    def __call__(self, latents: Tensor, actions: Tensor, goal: Tensor, *, threads: int = 1) -> Tensor:
        """latents [B, S, E] (keep "last") or [B, S, T, E] ("all"), actions [B, S, T, A], goal [B, E] -> cost
        [B, S]"""
        raise NotImplementedError

    def __add__(self, other: Cost) -> Sum:
        if not isinstance(other, Cost):
            return NotImplemented
        return Sum(_terms(self) + _terms(other))

    def __mul__(self, weight: float) -> Sum:
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            return NotImplemented
        return Sum(tuple((weight * own, cost) for own, cost in _terms(self)))

    __rmul__ = __mul__


@dataclasses.dataclass(frozen=True)
class GoalDistance(Cost):
    """Distance from the predicted latents to the goal's.

    metric: "squared" (sum over E), "absolute" (sum over E) or "cosine" (1 - cosine).
    reduce: over the horizon, the "last" step, the "min" or the "mean".
    """

    metric: Literal["squared", "absolute", "cosine"] = "squared"
    reduce: Literal["last", "min", "mean"] = "last"

    def __post_init__(self) -> None:
        for name, allowed in (("metric", METRICS), ("reduce", REDUCTIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {allowed}")

    @property
    def keep(self) -> Literal["last", "all"]:  # type: ignore[override]
        return "last" if self.reduce == "last" else "all"

    def __call__(self, latents: Tensor, actions: Tensor, goal: Tensor, *, threads: int = 1) -> Tensor:
        return ops.goal_cost(latents, goal, self.metric, self.reduce, threads=threads)


@dataclasses.dataclass(frozen=True)
class ActionPenalty(Cost):
    """Sum over the horizon of the squared actions, in environment units."""

    def __call__(self, latents: Tensor, actions: Tensor, goal: Tensor, *, threads: int = 1) -> Tensor:
        flat = actions.flatten(2)  # [B, S, T * A]
        return ops.goal_cost(flat, torch.zeros_like(flat[:, 0]), "squared", threads=threads)


@dataclasses.dataclass(frozen=True)
class Sum(Cost):
    """A weighted sum of costs; what `+` and `*` make."""

    terms: tuple[tuple[float, Cost], ...]  # (weight, cost)

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("terms is empty, expected at least one (weight, cost)")
        for weight, cost in self.terms:
            if not isinstance(cost, Cost):
                raise TypeError(f"terms holds {type(cost).__name__}, expected a Cost")
            if not math.isfinite(weight):
                raise ValueError(f"the weight of {cost} is {weight}, expected a finite number")

    @property
    def keep(self) -> Literal["last", "all"]:  # type: ignore[override]
        return "all" if any(cost.keep == "all" for _, cost in self.terms) else "last"

    def __call__(self, latents: Tensor, actions: Tensor, goal: Tensor, *, threads: int = 1) -> Tensor:
        total = torch.zeros_like(actions[:, :, 0, 0])
        for weight, cost in self.terms:
            read = latents[:, :, -1] if self.keep == "all" and cost.keep == "last" else latents
            total = total + weight * cost(read, actions, goal, threads=threads)
        return total


def _terms(cost: Cost) -> tuple[tuple[float, Cost], ...]:
    return cost.terms if isinstance(cost, Sum) else ((1.0, cost),)
