"""The cross-entropy method with a mixture of Gaussians: several ways of doing it at once, and no average of two of them.

The first iteration is plain; its elites are then split into components by farthest-first traversal (Gonzalez, "Clustering to
minimize the maximum intercluster distance", 1985): the best elite is the first seed, each next one is the elite farthest from
all seeds, and a component is fitted to the elites nearest to its seed. From then on every component draws its own candidates
and is refitted to its own elites, so that no component is fitted to two ways; better components draw more.

Found by experiment, on a point with two ways round a disc (tests/two_ways.py; 300 candidates, 60 elites, 5 iterations; of 100
plans, how many run into the disc, and how many reach the goal past it): this 2 and 88; as many candidates for each component 2
and 79; expectation-maximisation over common elites 10 and 51; elites split without regard to where they are 19 and 56; CEM 72
and 15. A mixture is for plans that have to be found in few iterations: CEM chooses a way too, later (16 and 61 after 10) or,
with fewer elites, sooner (13 and 87 with 15).
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from fastwm import ops
from fastwm.planning.cem import CEM
from fastwm.planning.draws import Draws
from fastwm.planning.sampling import State, best


@dataclasses.dataclass(frozen=True)
class MixtureCEM(CEM):
    """`CEM` of several components; the plan's mean, std and cost are those of the component whose elites cost least.

    samples, elites: of all components together; each is refitted to elites // components. components: how many.
    `proposals` take part in the first iteration, which forms the components. A component none of whose candidates has a finite
    cost stays as it was. State.memory holds the means and stds of all, [B, components, T, A] each, best first.
    """

    components: int = dataclasses.field(default=4, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._integers("components")
        self._unused("keep")
        if self.elites < 2 * self.components:
            raise ValueError(
                f"elites is {self.elites}, expected at least {2 * self.components}, two for each component"
            )

    def sample(
        self,
        state: State,
        draws: Draws,
        iteration: int,
        *,
        proposals: Tensor | None = None,
        threads: int = 1,
    ) -> Tensor:
        """Candidates [B, S, T, A], those of the best component first; the first of every component is its mean."""
        if not state.memory:
            return super().sample(state, draws, iteration, proposals=proposals, threads=threads)
        means, stds = state.memory
        deviates = self.deviates(state.mean, self.population(iteration), draws, iteration, threads=threads)
        parts = []
        for m, own in enumerate(deviates.split(self._shares(deviates.shape[1]), dim=1)):
            own = torch.cat([torch.zeros_like(own[:, :1]), own[:, 1:]], dim=1)
            parts.append(means[:, m, None] + stds[:, m, None] * own)
        return self.clip(torch.cat(parts, dim=1))

    def update(
        self,
        state: State,
        actions: Tensor,
        cost: Tensor,
        *,
        gradient: Tensor | None = None,
        threads: int = 1,
    ) -> State:
        """See the class."""
        found = self.ranked(state, actions, cost, self.elites, threads=threads)
        if state.memory:
            means, stds, costs = self._refitted(state, actions, cost, threads)
        else:
            means, stds, costs = self._split(state, found, actions, cost, threads)
        order = costs.argsort(dim=1, stable=True)  # [B, M]
        means, stds = best(means, order), best(stds, order).clamp(max=self.max_std)
        return found._replace(
            mean=means[:, 0], std=stds[:, 0], elite_cost=costs.amin(1), memory=(means, stds)
        )

    def _split(
        self, state: State, found: State, actions: Tensor, cost: Tensor, threads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Components of the elites: means and stds [B, M, T, A], costs [B, M]."""
        elites, costs = best(actions, found.elites), cost.gather(1, found.elites)  # [B, k, T, A], [B, k]
        finite = costs.isfinite()
        places = (elites / state.std[:, None].clamp_min(1e-12)).flatten(2).double()
        nearest, seed = costs.new_full(costs.shape, math.inf, dtype=torch.float64), found.elites[:, 0] * 0
        components = []
        for _ in range(self.components):
            far = (
                (places - places.gather(1, seed[:, None, None].expand(-1, 1, places.shape[2])))
                .square()
                .sum(2)
            )
            nearest = torch.minimum(nearest, far)
            seed = torch.where(finite, nearest, -1.0).argmax(1)
            far = torch.where(finite, far, math.inf).float()  # the refit's cost: it takes the nearest
            mean, std, chosen, *_ = self._fit(elites, far, state.mean, state.std, 0.0, threads)
            components.append((mean, std, costs.gather(1, chosen)))
        means, stds, costs = (torch.stack(each, dim=1) for each in zip(*components, strict=True))
        fine = costs.isfinite()  # [B, M, elites of one]
        total = torch.where(fine, costs, 0.0).double().sum(2) / fine.sum(2)
        return means, stds, torch.where(fine.any(2), total, math.inf).float()

    def _refitted(
        self, state: State, actions: Tensor, cost: Tensor, threads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Every component fitted to its own elites: means and stds [B, M, T, A], costs [B, M]."""
        shares = self._shares(actions.shape[1])
        components = []
        for m, (own, price) in enumerate(zip(actions.split(shares, 1), cost.split(shares, 1), strict=True)):
            before = [memory[:, m] for memory in state.memory]
            mean, std, _, elite_cost, _ = self._fit(own, price, before[0], before[1], self.momentum, threads)
            lost = elite_cost.isinf()[:, None, None]
            mean, std = torch.where(lost, before[0], mean), torch.where(lost, before[1], std)
            components.append((mean, std, elite_cost))
        means, stds, costs = (torch.stack(each, dim=1) for each in zip(*components, strict=True))
        return means, stds, costs

    def _fit(
        self, actions: Tensor, cost: Tensor, mean: Tensor, std: Tensor, momentum: float, threads: int
    ) -> tuple[Tensor, ...]:
        return ops.cem_update(
            actions.contiguous(),
            cost.contiguous(),
            mean.contiguous(),
            std.contiguous(),
            self.elites // self.components,
            momentum=momentum,
            min_std=self.min_std,
            threads=threads,
        )

    def _shares(self, samples: int) -> list[int]:
        """Candidates of each component, best first: twice its elites, and of the rest half as many as the one before."""
        least = min(2 * (self.elites // self.components), samples // self.components)
        rest = samples - least * self.components
        weights = [0.5**m for m in range(self.components)]
        shares = [least + int(rest * weight / sum(weights)) for weight in weights]
        shares[0] += samples - sum(shares)
        return shares
