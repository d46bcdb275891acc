"""The cross-entropy method for discrete actions: draw categories, keep the best candidates, count.

Rubinstein, "The cross-entropy method for combinatorial and continuous optimization", 1999. With `smoothing` 0, the update of
stable-worldmodel's `CategoricalCEMSolver`.

A category is drawn by an exponential race: category c arrives at time -log(U_c) / p_c, and the first wins. It is the Gumbel-max
draw without its second logarithm. U = Phi(n) of the counters' standard normals n: draws depend on neither batch nor threads,
may be given as `noise`, and may be correlated over the horizon (a Gaussian copula: the probabilities stay exact).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastwm.planning.draws import Draws
from fastwm.planning.sampling import Sampling, State


@dataclasses.dataclass(frozen=True)
class CategoricalCEM(Sampling):
    """New probabilities = how often the elites chose each category.

    An action block is, for each of its `steps`, one one-hot vector per discrete variable, one after another; Plan.actions are
    one-hot, Plan.mean are probabilities p and Plan.std sqrt(p (1 - p)).

    samples: S, candidates per iteration, the first the most likely one. elites: how many of lowest cost are counted.
    categories: of each discrete variable of one environment step; a number for a single variable.
    smoothing: is added to every frequency before they are normalised again: of n categories none is less likely than
    smoothing / (1 + n smoothing), so that none dies out.
    momentum: new = momentum * old + (1 - momentum) * elites'.
    spread: the first probabilities are this share of uniform, the rest of the warm start (or of the actions' mean in training).
    return_best: plan the best candidate seen; else every variable's most likely category in the end.
    """

    samples: int = 300
    elites: int = 30
    iterations: int = 30
    categories: int | Sequence[int] = dataclasses.field(kw_only=True)
    smoothing: float = dataclasses.field(default=0.01, kw_only=True)
    spread: float = dataclasses.field(default=0.5, kw_only=True)

    def __post_init__(self) -> None:
        self._integers("samples", "elites")
        if self.elites > self.samples:
            raise ValueError(f"elites is {self.elites}, expected at most samples = {self.samples}")
        given = tuple(self.categories) if isinstance(self.categories, Sequence) else (self.categories,)
        if not given or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in given):
            raise ValueError(
                f"categories is {self.categories!r}, expected a positive integer or several: one for each variable"
            )
        object.__setattr__(self, "categories", given)
        self._ranges(smoothing=math.inf)
        if (
            isinstance(self.spread, bool)
            or not isinstance(self.spread, (int, float))
            or not 0 <= self.spread <= 1
        ):
            raise ValueError(f"spread is {self.spread!r}, expected 0 <= spread <= 1")
        super().__post_init__()
        self._unused("std", "min_std", "max_std", "low", "high", "warm_std")
        if self.keep > self.elites:
            raise ValueError(f"keep is {self.keep}, expected at most elites = {self.elites}")

    @property
    def least(self) -> int:
        return min(self.samples, 2 * self.elites)

    def numbers(self, actions: Tensor) -> Tensor:
        """Which category each variable has: one-hot blocks [..., A] -> int64 [..., steps, variables]"""
        chosen = torch.stack([part.argmax(-1) for part in self._variables(actions)], dim=-1)
        return chosen.unflatten(-1, (self.steps, -1))

    def one_hot(self, numbers: Tensor) -> Tensor:
        """The blocks of given categories: int64 [..., steps, variables] -> float32 [..., A]"""
        sizes = self._sizes()
        parts = zip(numbers.flatten(-2).unbind(-1), sizes, strict=True)
        return torch.cat([_one_hot(chosen, size) for chosen, size in parts], dim=-1)

    def start(self, mean: Tensor, std: Tensor) -> State:
        """The state before the first iteration: probabilities of the mean [B, T, A] given, uniform where it is all zero."""
        parts = []
        for part in self._variables(mean.clamp_min(0.0)):
            total = part.double().sum(-1, keepdim=True)
            given = torch.where(total > 0, part / total, 1 / part.shape[-1]).float()
            parts.append((1 - self.spread) * given + self.spread / part.shape[-1])
        likely = self._smooth(torch.cat(parts, dim=-1))
        return super().start(likely, _deviation(likely))

    def draw(
        self,
        mean: Tensor,
        std: Tensor,
        samples: int,
        draws: Draws,
        iteration: int,
        *,
        injected: Tensor | None = None,
        threads: int = 1,
    ) -> Tensor:
        """One-hot candidates [B, samples, T, A] of probabilities `mean` [B, T, A]; the first is the likeliest, the next are
        those injected [B, I, T, A]."""
        self._variables(mean)  # checks A
        normal = self.deviates(mean, samples, draws, iteration, threads=threads)
        # log_ndtr and division give a number the same bits at every place of a tensor, which torch.log does not promise.
        wait = (-torch.special.log_ndtr(normal.double())).clamp_min(1e-300) / mean[:, None]
        drawn = self._winners(-wait)
        if injected is not None:
            drawn[:, 1 : 1 + injected.shape[1]] = self.clip(injected)
        return drawn

    def clip(self, actions: Tensor) -> Tensor:
        """[..., A] as one-hot vectors: the largest number of each variable."""
        return self._winners(actions)

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
        found = self.ranked(
            state, actions, cost, self.elites, threads=threads
        )  # their mean counts one-hot vectors
        likely = self.momentum * state.mean + (1 - self.momentum) * self._smooth(found.mean)
        return found._replace(mean=likely, std=_deviation(likely))

    def _sizes(self) -> tuple[int, ...]:
        """Categories of every variable of an action block."""
        assert isinstance(self.categories, tuple)
        return self.categories * self.steps

    def _variables(self, actions: Tensor) -> tuple[Tensor, ...]:
        """[..., A] -> [..., n] for each variable of n categories."""
        sizes = self._sizes()
        if actions.shape[-1] != sum(sizes):
            raise ValueError(
                f"categories are {self.categories} and steps is {self.steps}: {sum(sizes)} numbers in an action block, "
                f"expected {actions.shape[-1]}, the engine's"
            )
        return actions.split(sizes, dim=-1)

    def _winners(self, scores: Tensor) -> Tensor:
        """[..., A] -> one-hot float32 [..., A]; of equal scores the first."""
        return torch.cat([_one_hot(x.argmax(-1), x.shape[-1]) for x in self._variables(scores)], dim=-1)

    def _smooth(self, likely: Tensor) -> Tensor:
        return torch.cat(
            [(x + self.smoothing) / (1 + x.shape[-1] * self.smoothing) for x in self._variables(likely)],
            dim=-1,
        )


def _one_hot(chosen: Tensor, size: int) -> Tensor:
    """int64 [...] -> float32 [..., size]; torch's own waits for the numbers."""
    return (chosen[..., None] == torch.arange(size, device=chosen.device)).float()


def _deviation(likely: Tensor) -> Tensor:
    likely = likely.double()
    return (likely * (1 - likely)).clamp_min(0.0).sqrt().float()
