"""How long it still takes to the goal, as a model has learned it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

from torch import Tensor

from fastwm.planning.costs.cost import Cost, Needs
from fastwm.planning.costs.functions import call
from fastwm.planning.goal import Goal


@dataclasses.dataclass(frozen=True)
class TemporalDistance(Cost):
    """Action blocks from where a plan leads to its goal, of the last block or of the closest (`reduce`).

    function: latents [B, S, T, E], goal [B, S, T, E] -> distances [B, S, T]; a LatentWAM's `distance`. Latents that are close
    need not be a short way apart (arXiv:2605.07278); this is what tells them apart.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    reduce: Literal["last", "min"] = "last"
    keep = "all"
    needs: Needs = frozenset({"latents"})
    foreign = True

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"function is {type(self.function).__name__}, expected a function")
        if self.reduce not in ("last", "min"):
            raise ValueError(f"reduce is {self.reduce!r}, expected 'last' or 'min'")

    def __call__(self, latents: Tensor, actions: Tensor, goal: Goal, *, threads: int = 1) -> Tensor:
        assert goal.latents is not None
        if goal.several:
            raise ValueError(f"goal holds {goal.latents.shape[1]} goals, expected one of each environment")
        judged = latents[:, :, -1:] if self.reduce == "last" else latents
        target = goal.latents[:, :1, None].expand_as(judged)
        found = call("distance", self.function, judged, target, shapes=(tuple(judged.shape[:3]),))
        return found.amin(-1)
