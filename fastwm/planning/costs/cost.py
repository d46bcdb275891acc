"""What every cost is, and how costs compose."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from fastwm.planning.costs.functions import call
from fastwm.planning.goal import Goal

Needs = frozenset[Literal["latents", "state"]]


class Cost:
    """One number per candidate. A cost of your own is a subclass with `__call__`, or a function (see `Function`).

    foreign: a graph does only what it did on the GPU when it was captured: no waiting, no numbers of the host that change.
    A cost of your own may say False where that is all that it does.
    keep: the latents that are read: "last", those after the last block, or "all". needs: what the goal has to have.
    """

    keep: Literal["last", "all"] = "last"
    needs: Needs = frozenset()
    constrained: bool = False  # whether `violation` says something
    foreign: bool = True  # whether it runs code of the user's, which a CUDA graph may not be able to hold

    def __call__(self, latents: Tensor, actions: Tensor, goal: Goal, *, threads: int = 1) -> Tensor:
        """latents [B, S, E] (keep "last") or [B, S, T, E] ("all"), actions [B, S, T, A] in environment units -> cost [B, S]"""
        raise NotImplementedError

    def at(self, context: Tensor, goal: Goal) -> Cost:
        """The cost of plans from context frames [B, K, E] to a goal: itself, unless it has to know where a plan starts."""
        return self

    def begin(self, B: int) -> Cost:
        """The cost of one plan for B environments: itself, or one of its own where a cost changes during a search.

        Candidates of different iterations, and so the best one seen, are compared by the cost that was not begun.
        """
        return self

    def violation(self, latents: Tensor, actions: Tensor) -> Tensor | None:
        """How far each candidate is from what is allowed: [B, S] >= 0, or None where everything is."""
        return None

    def fits(self, ensemble: bool) -> bool:
        """Whether it reads the latents of an ensemble, which have an axis of members in front, or else of one model."""
        return not ensemble

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
class Function(Cost):
    """A function of your own: latents [B, S, T, E], actions [B, S, T, A] in environment units -> cost [B, S]."""

    function: Callable[[Tensor, Tensor], Tensor]
    keep = "all"
    foreign = True

    def __call__(self, latents: Tensor, actions: Tensor, goal: Goal, *, threads: int = 1) -> Tensor:
        given = actions.clone()  # the function may write to it
        return call("cost", self.function, latents, given, shapes=(tuple(actions.shape[:2]),))


@dataclasses.dataclass(frozen=True)
class Sum(Cost):
    """A weighted sum of costs; what `+` and `*` make. Constraints take positive weights (see `Constraint` for what they do)."""

    terms: tuple[tuple[float, Cost], ...]  # (weight, cost)

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("terms is empty, expected at least one (weight, cost)")
        for weight, cost in self.terms:
            if not isinstance(cost, Cost):
                raise TypeError(f"terms holds {type(cost).__name__}, expected a Cost")
            if not math.isfinite(weight):
                raise ValueError(f"the weight of {cost} is {weight}, expected a finite number")
            if cost.constrained and weight <= 0:
                raise ValueError(f"the weight of {cost}, a constraint, is {weight}, expected more than 0")

    @property
    def keep(self) -> Literal["last", "all"]:  # type: ignore[override]
        return "all" if any(cost.keep == "all" for _, cost in self.terms) else "last"

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return frozenset().union(*(cost.needs for _, cost in self.terms))

    @property
    def foreign(self) -> bool:  # type: ignore[override]
        return any(cost.foreign for _, cost in self.terms)

    @property
    def constrained(self) -> bool:  # type: ignore[override]
        return any(cost.constrained for _, cost in self.terms)

    def __call__(self, latents: Tensor, actions: Tensor, goal: Goal, *, threads: int = 1) -> Tensor:
        total = torch.zeros_like(actions[:, :, 0, 0])
        for weight, cost in self.terms:
            total = total + weight * cost(self._read(cost, latents), actions, goal, threads=threads)
        return total

    def at(self, context: Tensor, goal: Goal) -> Cost:
        """See Cost."""
        return self._of([cost.at(context, goal) for _, cost in self.terms])

    def begin(self, B: int) -> Cost:
        """See Cost."""
        return self._of([cost.begin(B) for _, cost in self.terms])

    def violation(self, latents: Tensor, actions: Tensor) -> Tensor | None:
        """The largest of its costs'."""
        each = [cost.violation(self._read(cost, latents), actions) for _, cost in self.terms]
        found = [violation for violation in each if violation is not None]
        return torch.stack(found).amax(0) if found else None

    def fits(self, ensemble: bool) -> bool:
        """See Cost."""
        return all(cost.fits(ensemble) for _, cost in self.terms)

    def _of(self, costs: list[Cost]) -> Sum:
        """The same weights of other costs; itself if they are its own."""
        if all(one is other for one, (_, other) in zip(costs, self.terms, strict=True)):
            return self
        return Sum(tuple((weight, cost) for (weight, _), cost in zip(self.terms, costs, strict=True)))

    def _read(self, cost: Cost, latents: Tensor) -> Tensor:
        return latents[..., -1, :] if self.keep == "all" and cost.keep == "last" else latents


def _terms(cost: Cost) -> tuple[tuple[float, Cost], ...]:
    return cost.terms if isinstance(cost, Sum) else ((1.0, cost),)
