"""Where a plan should lead: what the user gives -> latents or states that costs compare with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fastwm.planning.inputs import numbers

if TYPE_CHECKING:
    from fastwm.planning.inputs import Dynamics

GivenGoal = Tensor | np.ndarray | Mapping[str, Tensor | np.ndarray]


@dataclasses.dataclass(frozen=True)
class Goal:
    """One goal or several, G, of each of B environments, as `Planner.goal` makes it; what is not given is None.

    latents [B, G, E]; state [B, G, P], numbers that a probe reads from latents; reached int64 [B], how many of the first
    goals are behind an environment that has to reach all in order.
    """

    latents: Tensor | None = None
    state: Tensor | None = None
    reached: Tensor | None = None

    @property
    def several(self) -> bool:
        """Whether there is more than one goal by latents."""
        return self.latents is not None and self.latents.shape[1] > 1

    @property
    def next(self) -> Tensor | None:
        """Latents [B, E] of the first goal that is not reached, the last one's if all are."""
        if self.latents is None or self.reached is None:
            return None if self.latents is None else self.latents[:, 0]
        place = self.reached.clamp(max=self.latents.shape[1] - 1)
        return self.latents[torch.arange(len(place), device=place.device), place]

    def equals(self, other: Goal) -> bool:
        """Whether every number is the same."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("latents", "state", "reached"))
        return all(
            mine is theirs or (mine is not None and theirs is not None and torch.equal(mine, theirs))
            for mine, theirs in pairs
        )

    def copy(self) -> Goal:
        """The same numbers, in memory of its own."""
        return Goal(*(None if x is None else x.clone() for x in (self.latents, self.state, self.reached)))

    def select(self, environments: Tensor) -> Goal:
        """The goals of the environments int64 [b], in their order."""
        return Goal(
            *(None if x is None else x[environments] for x in (self.latents, self.state, self.reached))
        )


def make_goal(engine: Dynamics, goal: GivenGoal | Goal | None, B: int) -> Goal:
    """The Goal of B environments.

    goal: image(s) that `engine.encode` takes, one, [B, ...] or [B, G, ...]; or latents [E] or [B, E]; or a mapping with any of
    "pixels", "latents" and "state", the last two as [n], [B, n] or [B, G, n]. One goal serves every environment. None: none.
    Raises TypeError or ValueError naming the goal.
    """
    if goal is None:
        return Goal()
    if isinstance(goal, Goal):
        return _checked(goal, engine.embed_dim, B)
    if not isinstance(goal, Mapping):
        if not isinstance(goal, (Tensor, np.ndarray)):
            raise TypeError(
                f"goal is {type(goal).__name__}, expected a tensor or array of images or latents, or a mapping"
            )
        goal = {"pixels" if goal.ndim > 2 else "latents": goal}
        name = "goal"
    else:
        name = "goal['{}']"
        if not goal or set(goal) - {"pixels", "latents", "state"} or {"pixels", "latents"} <= set(goal):
            raise ValueError(f"goal has {sorted(goal)}, expected 'pixels' or 'latents', or 'state', or both")
    latents = state = None
    if "pixels" in goal:
        given = goal["pixels"]
        try:
            latents = engine.encode(given)
        except (TypeError, ValueError) as error:  # it was the goal that did not fit
            raise type(error)(f"goal, taken for images as it has {given.ndim} dimensions: {error}") from error
    elif "latents" in goal:
        latents = _several(name.format("latents"), goal["latents"], engine.embed_dim)
    if "state" in goal:
        state = _several(name.format("state"), goal["state"], None)
    return Goal(*(None if x is None else _for_each(name, x, B) for x in (latents, state)))


def _checked(goal: Goal, E: int, B: int) -> Goal:
    """The goal with numbers in float32. Raises TypeError or ValueError unless it is one of B environments."""
    given = {"latents": goal.latents, "state": goal.state, "reached": goal.reached}
    for name, x in given.items():
        if x is not None and not isinstance(x, Tensor):
            raise TypeError(f"goal.{name} is {type(x).__name__}, expected a tensor")
    sizes = {len(x) for x in given.values() if x is not None and x.dim()}
    if sizes - {B}:
        raise ValueError(f"goal holds {sorted(sizes)} environments, expected {B}")
    G, found = 0, {}
    for name, size in (("latents", E), ("state", None)):
        x = given[name]
        if x is not None:
            found[name] = numbers(f"goal.{name}", x, (B, None, size))
            G = max(G, found[name].shape[1])
            if 0 in x.shape:
                raise ValueError(f"goal.{name} has shape {tuple(x.shape)}, expected at least one goal")
    reached = goal.reached
    if reached is not None:
        if reached.dtype != torch.int64 or reached.dim() != 1:
            raise ValueError(
                f"goal.reached is {reached.dtype} {list(reached.shape)}, expected torch.int64 [{B}]"
            )
        if not ((reached >= 0) & (reached <= G)).all():
            raise ValueError(f"goal.reached is {reached.tolist()}, expected numbers from 0 to {G}, the goals")
    return dataclasses.replace(goal, **found)


def _several(name: str, value: Tensor | np.ndarray, size: int | None) -> Tensor:
    """[n], [B, n] or [B, G, n] -> [B, G, n]"""
    ndim = getattr(value, "ndim", 0)
    found = numbers(name, value, (*[None] * (min(max(ndim, 1), 3) - 1), size))
    return found.view(1, 1, -1) if ndim == 1 else found[:, None] if ndim == 2 else found


def _for_each(name: str, goals: Tensor, B: int) -> Tensor:
    if len(goals) not in (1, B) or 0 in goals.shape:
        raise ValueError(
            f"{name.split('[')[0]} holds {len(goals)} goals, expected {'1' if B == 1 else f'1 or {B}'}, one for each "
            "environment (several of each are [B, G, ...])"
        )
    return goals.expand(B, *goals.shape[1:])
