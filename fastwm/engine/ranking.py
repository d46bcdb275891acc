"""The ranking gate: is a narrower dtype good enough to plan with?

Planning reads nothing of a rollout but the order of its costs. So a dtype is judged by the elites that it chooses, not by how
near its latents are. The problems are those of a search: contexts of real episodes; goals that are frames of other episodes,
or that one more candidate reaches; candidates of the first iteration of CEM, and of the next, refitted to float32's elites.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from fastwm.models.calibration import Calibration
from fastwm.ops.goal_cost import goal_cost

# context [B, K, E], actions [B, S, T, A], past_actions [B, K-1, A] -> latents [B, S, E] after the last block
Rollout = Callable[[Tensor, Tensor, Tensor], Tensor]

PROBLEMS, CANDIDATES, ELITES, HORIZON, ITERATIONS = 16, 64, 6, 5, 2

# Measured in closed loop, 300 paired episodes and more, with noise on the weights of two world models or the weights rounded
# to a few bits: up to a regret of 0.017 the difference in goals reached is within chance (2 %), at 0.02 to 0.05 (overlap 0.8
# to 0.7) up to 5 % fewer are reached, above 0.1 (overlap 0.55) 12 to 18 %. Near-ties at the elites' edge swap without harm,
# so overlap is but a floor.
MIN_OVERLAP = 0.8
MAX_REGRET = 0.01
# A search is judged if choosing elites gains more than float32's rounding of a cost, a hundred times over, and most costs
# differ; and a dtype, if half of the searches are.
RESOLUTION, MIN_JUDGED = 1e-5, 0.5


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Means over the searches (problems and iterations) whose candidates float32 itself tells apart; judged: their share.

    overlap: share of float32's elites that were found. regret: share that was lost of what choosing elites gains, the
    float32 cost of all candidates less that of float32's elites: 0 for elites as good, 1 for candidates chosen blindly.
    """

    overlap: float
    regret: float
    judged: float = 1.0

    @property
    def passed(self) -> bool:
        enough = self.judged >= MIN_JUDGED
        return enough and self.overlap >= MIN_OVERLAP and self.regret <= MAX_REGRET


@dataclasses.dataclass(frozen=True)
class Problems:
    """What a dtype is judged on, B of each: context [B, K, E], past_actions [B, K-1, A], goal [B, E].

    searches: for each iteration, candidates [B, S, T, A] and their costs in float32 [B, S].
    """

    context: Tensor
    past_actions: Tensor
    goal: Tensor
    searches: list[tuple[Tensor, Tensor]]

    @torch.no_grad()
    def rank(self, narrow: Rollout) -> Ranking:
        """Judge another way to roll out the same predictor."""
        answers = (
            (cost, goal_cost(narrow(self.context, actions, self.past_actions), self.goal))
            for actions, cost in self.searches
        )
        return compare(answers, ELITES)


def compare(costs: Iterable[tuple[Tensor, Tensor]], elites: int) -> Ranking:
    """Pairs of exact and found costs [B, S] of the same candidates."""
    overlaps, regrets = [], []
    for cost, found in costs:
        best, chosen = (c.topk(elites, largest=False).indices for c in (cost, found))
        overlaps.append((best[:, :, None] == chosen[:, None, :]).any(-1).double().mean(1))
        cost = cost.double()
        average, least = cost.mean(1), cost.gather(1, best).mean(1)
        gain = average - least
        distinct = (cost.sort(1).values.diff() > 0).double().mean(1)
        judged = (gain > RESOLUTION * average.abs()) & gain.isfinite() & (distinct > 0.5)
        regrets.append(((cost.gather(1, chosen).mean(1) - least) / gain).where(judged, torch.nan))
    regret = torch.cat(regrets)
    judged = ~regret.isnan()
    if not judged.any():
        return Ranking(0.0, 1.0, 0.0)
    share = judged.double().mean().item()
    return Ranking(torch.cat(overlaps)[judged].mean().item(), regret[judged].mean().item(), share)


@torch.no_grad()
def pose_problems(exact: Rollout, calibration: Calibration, mean: Tensor, std: Tensor) -> Problems:
    """Problems and their float32 answers. mean, std: [A] of the training actions, in environment units."""
    random = torch.Generator().manual_seed(0)
    contexts = len(calibration.latents)
    which = torch.arange(PROBLEMS) * contexts // PROBLEMS
    context, past_actions = calibration.latents[which], calibration.past_actions[which]

    def draw(mean: Tensor, std: Tensor, count: int) -> Tensor:
        return mean + std * _normal(PROBLEMS, count, HORIZON, mean.shape[-1], generator=random)

    reached = exact(context, draw(mean, std, 1), past_actions)[:, 0]
    seen = calibration.latents[which.roll(PROBLEMS // 2), -1]
    goal = torch.where(torch.arange(PROBLEMS)[:, None] % 2 == 0, seen, reached)
    searches: list[tuple[Tensor, Tensor]] = []
    for _ in range(ITERATIONS):
        actions = draw(mean, std, CANDIDATES)
        cost = goal_cost(exact(context, actions, past_actions), goal)
        searches.append((actions, cost))
        best = cost.topk(ELITES, largest=False).indices[:, :, None, None]
        elites = actions.gather(1, best.expand(-1, -1, *actions.shape[2:]))
        mean, std = elites.mean(1, keepdim=True), elites.std(1, keepdim=True)
    return Problems(context, past_actions, goal, searches)


def standard_normal(embed_dim: int, action_dim: int) -> Calibration:
    """Contexts of one frame as SIGReg trains latents to be distributed."""
    random = torch.Generator().manual_seed(0)
    return Calibration(
        _normal(PROBLEMS, 1, embed_dim, generator=random), _normal(PROBLEMS, 0, action_dim, generator=random)
    )


def given(latents: Tensor, mean: Tensor, std: Tensor) -> Calibration:
    """Contexts [N, K, E] of a user, with blocks drawn like a candidate's between the frames. mean, std: [A]."""
    N, K, _ = latents.shape
    random = torch.Generator().manual_seed(0)
    return Calibration(latents, mean + std * _normal(N, K - 1, len(mean), generator=random))


_normal = functools.partial(torch.randn, dtype=torch.float32)  # whatever the caller's default is
