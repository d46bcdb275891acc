"""Predictive sampling: the best candidate is the next mean.

Howell et al., "Predictive sampling: real-time behaviour synthesis with MuJoCo", arXiv:2212.00541. With one iteration per plan
and a warm start, their controller; from a std of its own and no mean to go back to, random shooting.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from fastwm.planning.sampling import Sampling, State


@dataclasses.dataclass(frozen=True)
class PredictiveSampling(Sampling):
    """New mean = the cheapest candidate, the mean itself included; the std stays as it was.

    samples: S, candidates per iteration. The other options are those of `Sampling`.
    """

    samples: int = 100
    iterations: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._unused("momentum", "keep")  # the best one is the mean

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
        found = self.ranked(state, actions, cost, 1, threads=threads)
        return found._replace(std=state.std.clamp(self.min_std, self.max_std))
