"""The ranking gate: is a narrower dtype good enough to plan with?

Planning reads nothing of a rollout but the order of its costs. So a dtype is judged by the elites it chooses, not by how near
its latents are: on calibration problems whose goal is reached by one of the candidates, how many of float32's elites does it
find, and how much worse, in float32, are those it takes instead?
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from fastwm.engine.pack import PackedPredictor
from fastwm.ops.goal_cost import goal_cost
from fastwm.ops.rollout import rollout

ENVIRONMENTS, CANDIDATES, HORIZON, ELITES = 8, 128, 5, 13
MIN_OVERLAP = 0.9
MAX_REGRET = 0.01


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Means over the calibration problems.

    overlap: share of float32's elites that were found. regret: by how much the mean float32 cost of the chosen elites
    exceeds that of the true ones, in standard deviations of all candidates' costs.
    """

    overlap: float
    regret: float

    @property
    def passed(self) -> bool:
        return self.overlap >= MIN_OVERLAP and self.regret <= MAX_REGRET


def measure(
    exact: PackedPredictor, narrow: PackedPredictor, mean: Tensor, std: Tensor, threads: int
) -> Ranking:
    """Compare two packings of one predictor on the same problems. mean, std: [A] of the actions, in environment units.

    Contexts are standard normal, the distribution that SIGReg trains latents to have.
    """
    generator = torch.Generator().manual_seed(0)
    spec = exact.spec
    context = torch.randn(ENVIRONMENTS, 1, spec.embed_dim, generator=generator)
    noise = torch.randn(ENVIRONMENTS, CANDIDATES + 1, HORIZON, spec.action_dim, generator=generator)
    actions = mean + std * noise
    with torch.no_grad():
        latents = rollout(exact, context, actions, threads=threads)
        goal = latents[:, -1].contiguous()  # where the last candidate leads; it does not take part
        true = goal_cost(latents[:, :-1].contiguous(), goal)
        found = goal_cost(rollout(narrow, context, actions[:, :-1], threads=threads), goal)
    best, chosen = (cost.topk(ELITES, largest=False).indices for cost in (true, found))
    overlap = (best[:, :, None] == chosen[:, None, :]).any(-1).double().mean()
    regret = (true.gather(1, chosen).mean(1) - true.gather(1, best).mean(1)) / true.std(1).clamp_min(1e-12)
    return Ranking(overlap.item(), regret.mean().item())
