"""The cross-entropy method: sample around a mean, keep the best, refit.

Rubinstein, "The cross-entropy method for combinatorial and continuous optimization", 1999. With the defaults, the algorithm of
stable-worldmodel's `CEMSolver`.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from fastwm.planning.sampling import Sampling, State


@dataclasses.dataclass(frozen=True)
class CEM(Sampling):
    """New mean and std = those of the elites (std unbiased, 0 for one elite).

    samples: S, candidates per iteration. elites: how many of lowest cost refit the distribution.
    The other options are those of `Sampling`.
    """

    samples: int = 300
    elites: int = 30
    iterations: int = 30

    def __post_init__(self) -> None:
        self._integers("samples", "elites")
        if self.elites > self.samples:
            raise ValueError(f"elites is {self.elites}, expected at most samples = {self.samples}")
        super().__post_init__()
        if self.keep > self.elites:
            raise ValueError(f"keep is {self.keep}, expected at most elites = {self.elites}")

    @property
    def least(self) -> int:
        return min(self.samples, 2 * self.elites)

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
        return self.ranked(state, actions, cost, self.elites, momentum=self.momentum, threads=threads)
