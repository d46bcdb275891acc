"""What a search keeps of its iterations: the best candidate, and candidates whose cost was not finite."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastwm.planning.sampling import State


class Record:
    """Starts from the actions [B, T, A] to take if nothing is found.

    recovers: the search finds back by itself from an iteration of no finite cost, if there was one before.
    Holds no number of the host: adding to it never waits for a device.
    """

    def __init__(self, mean: Tensor, *, recovers: bool = False) -> None:
        self._recovers = recovers
        self.best_actions = mean  # [B, T, A]
        self.iterations = 0  # that were whole
        self._best_cost = mean.new_full((len(mean),), math.inf)  # [B]
        self._non_finite = torch.zeros(len(mean), dtype=torch.int64, device=mean.device)  # [B]
        self._hopeless = self._non_finite > 0  # [B]

    def map(self, change: Callable[[Tensor], Tensor]) -> Record:
        """The same with other tensors."""
        other = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(other, name, change(value))
        return other

    def add(
        self,
        actions: Tensor,
        cost: Tensor,
        state: State,
        active: Tensor | None = None,
        *,
        judged: Tensor | None = None,
    ) -> None:
        """One iteration: candidates [B, S, T, A], their cost [B, S], what became of them; of the active environments [B].

        judged: [B, S], by what candidates of different iterations compare, if not by cost.
        """
        if judged is None:
            first = state.elites[:, 0]  # [B]
            self._improve(actions, cost.gather(1, first[:, None])[:, 0], first, active)
        else:
            self.glance(actions, judged, active)
        non_finite = state.non_finite if active is None else state.non_finite * active
        self._non_finite = self._non_finite + non_finite
        self.iterations += 1
        none = non_finite == cost.shape[1]
        self._hopeless = self._hopeless | (none & self._best_cost.isinf() if self._recovers else none)

    def glance(self, actions: Tensor, cost: Tensor, active: Tensor | None = None) -> None:
        """Candidates of an iteration that was cut short: the best of those that were evaluated counts, nothing else."""
        best, first = torch.where(cost.isfinite(), cost, math.inf).min(dim=1)  # [B]
        self._improve(actions, best, first, active)

    def _improve(self, actions: Tensor, best: Tensor, first: Tensor, active: Tensor | None) -> None:
        """Candidate `first` [B] of each environment has cost `best` [B]."""
        better = best.isfinite() & (best < self._best_cost)
        if active is not None:
            better = better & active
        rows = torch.arange(len(first), device=first.device)
        self.best_actions = torch.where(better[:, None, None], actions[rows, first], self.best_actions)
        self._best_cost = torch.where(better, best, self._best_cost)

    def refuse_hopeless(self) -> None:
        """Raise RuntimeError if an iteration found no candidate of finite cost for an environment."""
        if self._hopeless.any():
            environments = self._hopeless.nonzero()[:, 0].tolist()
            raise RuntimeError(
                f"the cost of every candidate is NaN or infinite for environment(s) {environments} of the batch"
            )

    def stats(self) -> dict[str, Any]:
        """best_cost float32 [B], non_finite int64 [B]."""
        return {"best_cost": self._best_cost, "non_finite": self._non_finite}
