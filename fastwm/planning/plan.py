"""What a planner returns."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from fastwm.planning.warm_start import WarmStart


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a search found. Actions are in environment units.

    stats: "end", how the search ended: "complete", "converged", "deadline" (the next iteration would not have ended in time),
    "cut" (an iteration was cut short; its candidates count, its refit does not) or "fallback" (not one iteration fitted);
    "non_finite" int64 [B], candidates of non-finite cost over all iterations; "iteration_p50", "iteration_p99", seconds;
    "seed", which repeats the search as `generator=`; "best_cost" float32 [B], of the best candidate seen; "violation" float32
    [B] of the actions, where the cost has constraints; "graph", what of it was a captured CUDA graph: the "search", each
    "iteration" or "none". Iterations inside a graph are not timed.
    """

    actions: Tensor  # [B, T, A]
    cost: Tensor  # [B] mean cost of the last iteration's elites; infinite after a fallback
    mean: Tensor  # [B, T, A] of the final distribution
    std: Tensor  # [B, T, A]
    iterations: int  # that ran
    elapsed: float  # seconds, encoding included
    deadline_hit: bool  # the deadline ended the search early, or passed
    stats: dict[str, Any]
    kept: Tensor | None = (
        None  # [B, n, T, A] the last iteration's best candidates, of a search that keeps some
    )

    def rest(self, executed: int) -> WarmStart:
        """What is left of the plan once `executed` of its blocks have been: the warm start of the next plan."""
        kept = None if self.kept is None else self.kept[:, :, executed:]
        return WarmStart(self.actions[:, executed:], self.std[:, executed:], kept)
