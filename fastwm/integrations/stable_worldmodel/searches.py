"""How stable-worldmodel's solvers search, over fastwm's loop: what differs from fastwm's own searches is said here."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from fastwm import planning
from fastwm.planning.draws import Draws
from fastwm.planning.sampling import Sampling, State, best


class Theirs(Sampling):
    """Elites as `torch.topk` picks them, whose choice among equal costs is its own; momentum without clipping the mean."""

    def ranked(
        self,
        state: State,
        actions: Tensor,
        cost: Tensor,
        elites: int,
        *,
        momentum: float = 0.0,
        threads: int = 1,
    ) -> State:
        """See the class. The std is unbiased, and 0 of one elite."""
        costs, chosen = torch.topk(cost, elites, dim=1, largest=False)
        top = best(actions, chosen)  # [B, k, T, A]
        mean = top.mean(dim=1)
        std = top.std(dim=1) if elites > 1 else torch.zeros_like(mean)
        return State(
            mean=momentum * state.mean + (1 - momentum) * mean if momentum else mean,
            std=momentum * state.std + (1 - momentum) * std if momentum else std,
            elites=chosen,
            elite_cost=costs.mean(dim=1),
            non_finite=(~cost.isfinite()).sum(dim=1),
            kept=top[:, : self.keep] if self.keep else None,
        )


class CEM(Theirs, planning.CEM):
    """`fastwm.CEM` with their elites."""


class ICEM(Theirs, planning.ICEM):
    """`fastwm.ICEM` with their elites."""


class MPPI(Theirs, planning.MPPI):
    """`fastwm.MPPI` with their elites."""


@dataclasses.dataclass(frozen=True)
class CategoricalCEM(CEM):
    """Candidates are one-hot; the mean holds the probability of each category, and there is no std.

    The noise is uniform, 0 .. 1, and a category is drawn by the Gumbel-max rule: the largest log p - log(-log u).
    Probabilities become the elites' frequencies, with `smoothing` added to each, then `momentum`.
    """

    categories: int = dataclasses.field(default=2, kw_only=True)
    smoothing: float = dataclasses.field(default=0.0, kw_only=True)

    def sample(
        self,
        state: State,
        draws: Draws,
        iteration: int,
        *,
        proposals: Tensor | None = None,
        threads: int = 1,
    ) -> Tensor:
        """One-hot [B, S, T, A], A = draws per block * categories; the first candidate is the likeliest."""
        assert draws.noise is not None
        probabilities = self.split(state.mean)[:, None]  # [B, 1, T, n, categories]
        uniform = self.split(draws.noise[iteration]).clamp_min(1e-10)
        drawn = (probabilities.clamp_min(1e-10).log() - (-uniform.log()).log()).argmax(dim=-1)
        drawn[:, 0] = probabilities[:, 0].argmax(dim=-1)
        return torch.nn.functional.one_hot(drawn, self.categories).float().flatten(-2)

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
        found = self.ranked(state, actions, cost, self.elites)
        mean = found.mean
        if self.smoothing:
            smooth = self.split(mean) + self.smoothing
            mean = (smooth / smooth.sum(dim=-1, keepdim=True)).flatten(-2)
        if self.momentum:
            mean = self.momentum * state.mean + (1 - self.momentum) * mean
        return found._replace(mean=mean, std=state.std)

    def split(self, numbers: Tensor) -> Tensor:
        """[..., A] -> [..., n, categories]"""
        return numbers.unflatten(-1, (-1, self.categories))
