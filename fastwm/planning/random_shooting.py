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

    def __post_init__(self) -> None:
        super().__post_init__()
        self._unused("momentum", "keep")

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
        return found._replace(mean=state.mean, std=state.std)
