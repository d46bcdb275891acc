"""What a search keeps of its iterations: the best candidate, and candidates whose cost was not finite."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastwm.planning.sampling import Best, State, best, choose


class Record:
    """Starts from the actions [B, T, A] to take if nothing is found.

    recovers: the search finds back by itself from an iteration of no finite cost, if there was one before.
    Holds no number of the host: adding to it never waits for a device.
    """

    def __init__(self, mean: Tensor, *, recovers: bool = False) -> None:
        self._recovers = recovers
        self.best = Best(mean.new_full((len(mean),), math.inf), mean)
        self.iterations = 0  # that were whole
        self._non_finite = torch.zeros(len(mean), dtype=torch.int64, device=mean.device)  # [B]
        self._hopeless = self._non_finite > 0  # [B]

    def map(self, change: Callable[..., Tensor], *others: Record) -> Record:
        """The same with other tensors, made of this one's and those of other records."""
        made, all_ = copy.copy(self), (self, *others)
        made.best = Best(*map(change, *(one.best for one in all_)))
        made.iterations = min(one.iterations for one in all_)
        made._non_finite = change(*(one._non_finite for one in all_))
        made._hopeless = change(*(one._hopeless for one in all_))
        return made

    @property
    def best_actions(self) -> Tensor:
        """[B, T, A]"""
        return self.best.actions

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
        if state.best is None:  # the search has not kept it
            self.glance(actions, cost if judged is None else judged, active)
        elif active is None:
            self.best = state.best
        else:
            self.best = Best(*map(functools.partial(choose, active), state.best, self.best))
        non_finite = state.non_finite if active is None else state.non_finite * active
        self._non_finite = self._non_finite + non_finite
        self.iterations += 1
        none = non_finite == cost.shape[1]
        self._hopeless = self._hopeless | (none & self.best.cost.isinf() if self._recovers else none)

    def glance(self, actions: Tensor, cost: Tensor, active: Tensor | None = None) -> None:
        """Candidates of an iteration that was cut short: the best of those that were evaluated counts, nothing else."""
        lowest, first = torch.where(cost.isfinite(), cost, math.inf).min(dim=1)  # [B]
        better = lowest < self.best.cost
        if active is not None:
            better = better & active
        found = Best(lowest, best(actions, first[:, None])[:, 0])
        self.best = Best(*map(functools.partial(choose, better), found, self.best))

    def refuse_hopeless(self) -> None:
        """Raise RuntimeError if an iteration found no candidate of finite cost for an environment."""
        if self._hopeless.any():
            environments = self._hopeless.nonzero()[:, 0].tolist()
            raise RuntimeError(
                f"the cost of every candidate is NaN or infinite for environment(s) {environments} of the batch"
            )

    def stats(self) -> dict[str, Any]:
        """best_cost float32 [B], non_finite int64 [B]."""
        return {"best_cost": self.best.cost, "non_finite": self._non_finite}
