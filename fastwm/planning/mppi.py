"""Model predictive path integral control: the mean of all candidates, weighted by how cheap they are.

Williams et al., "Information theoretic MPC for model-based reinforcement learning", ICRA 2017; with `elites`, and the std
refitted, the form of TD-MPC2 (arXiv:2310.16828).
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from fastwm.planning.sampling import Sampling, State, best


@dataclasses.dataclass(frozen=True)
class MPPI(Sampling):
    """New mean = sum of w_s candidate_s, w = softmax(-cost / temperature) over the elites.

    samples: S, candidates per iteration. temperature: in units of the cost; or of the standard deviation of the elites' costs
    where `relative`. elites: how many of lowest cost take part, None for all. refit_std: the std becomes the weighted one;
    else it stays as it was. The other options are those of `Sampling`.
    """

    samples: int = 300
    iterations: int = 6
    temperature: float = dataclasses.field(default=0.5, kw_only=True)
    relative: bool = dataclasses.field(default=False, kw_only=True)
    elites: int | None = dataclasses.field(default=None, kw_only=True)
    refit_std: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.temperature, (int, float)) or not 0.0 < self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature!r}, expected a positive number")
        if self.elites is not None:
            self._integers("elites")
            if self.elites > self.samples:
                raise ValueError(f"elites is {self.elites}, expected at most samples = {self.samples}")
            if self.keep > self.elites:
                raise ValueError(f"keep is {self.keep}, expected at most elites = {self.elites}")

    def update(
        self,
        state: State,
        actions: Tensor,
        cost: Tensor,
        *,
        gradient: Tensor | None = None,
        threads: int = 1,
    ) -> State:
        """See the class. A cost that is not finite has no weight."""
        mean, std = state.mean, state.std
        elites = min(self.elites or actions.shape[1], actions.shape[1])
        found = self.ranked(state, actions, cost, elites, threads=threads)
        chosen = best(actions, found.elites)  # [B, k, T, A]
        costs = cost.gather(1, found.elites).double()
        finite = costs.isfinite()
        scale = torch.full_like(costs[:, :1], self.temperature)
        if self.relative:
            scale = scale * _deviation(costs, finite).clamp_min(torch.finfo(torch.float32).tiny)
        # The cheapest comes first: its weight is 1, and no exponential overflows.
        weights = torch.where(finite, (-(costs - costs[:, :1]) / scale).exp(), 0.0)
        weights = (weights / weights.sum(1, keepdim=True))[:, :, None, None]
        some = finite.any(1)[:, None, None]  # where nothing has a weight, all stays as it was
        middle = torch.where(some, (weights * chosen).sum(1).float(), mean)
        if self.refit_std:
            variance = (weights * (chosen - middle[:, None]).double().square()).sum(1)
            spread = torch.where(some, variance.sqrt().float(), std)
            std = self._carried(std, spread).clamp(self.min_std, self.max_std)
        return found._replace(mean=self._carried(self.clip(mean), middle), std=std)

    def _carried(self, old: Tensor, new: Tensor) -> Tensor:
        return self.momentum * old + (1 - self.momentum) * new if self.momentum else new


def _deviation(costs: Tensor, finite: Tensor) -> Tensor:
    """costs [B, k] -> [B, 1]"""
    count = finite.sum(1, keepdim=True)
    mean = torch.where(finite, costs, 0.0).sum(1, keepdim=True) / count
    return (torch.where(finite, (costs - mean).square(), 0.0).sum(1, keepdim=True) / count).sqrt()
