"""Best of K: the policy proposes, the world model judges, nothing is refined (LeWAM, arXiv:2610.12818)."""

from __future__ import annotations

import dataclasses

from fastwm.planning.random_shooting import RandomShooting


@dataclasses.dataclass(frozen=True)
class BestOfK(RandomShooting):
    """One iteration over K candidates, all of them the policy's: the first mean, which continues a warm start, and K - 1 more.

    samples: K. What proposals do not fill is drawn as `RandomShooting` draws it, so give `Planner(policy_share=BestOfK.share)`.
    """

    samples: int = 32
    share = 1.0 - 2.0**-20  # of the candidates: all, as the planner's share is below 1
