"""Random shooting: the best of candidates that are all drawn from the first distribution."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from fastwm.planning.sampling import Sampling, State


@dataclasses.dataclass(frozen=True)
class RandomShooting(Sampling):
    """Mean and std stay as they were; the plan is the best candidate seen.

    samples: S, candidates per iteration. The other options are those of `Sampling`.
    """

    samples: int = 1000
    iterations: int = 1
    return_best: bool = dataclasses.field(default=True, kw_only=True)

    def update(
        self, state: State | tuple[Tensor, Tensor], actions: Tensor, cost: Tensor, *, threads: int = 1
    ) -> State:
        """See the class."""
        mean, std = state[:2]
        return self.ranked(state, actions, cost, 1, threads=threads)._replace(mean=mean, std=std)
