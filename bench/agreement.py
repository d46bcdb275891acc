"""Whether two ways compute the same: the condition under which a speed is printed.

float32: relative cost error at most 1e-4. bfloat16: fastwm's at most twice that of PyTorch's autocast on the same problem, a
peer's at most 0.02. int8, whoever computes it: what planning reads, the elites, by the limits of the ranking gate
(fastwm/engine/ranking.py) on many searches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastwm.demo.compare import candidates, engine_costs, model_costs
from fastwm.engine.ranking import compare
from fastwm.engine.spec import PredictorSpec
from fastwm.models import WorldModel
from fastwm.planning import Planner
from fastwm.reference.rollout import rollout as reference_rollout

FLOAT32, PEER_BFLOAT16, AUTOCAST_ERRORS = 1e-4, 0.02, 2.0
CHECKED = 64  # candidates of a rollout
ELITES = 60  # at least, over several searches: one of few elites that changes is no verdict

Costs = Sequence[tuple[Tensor, Tensor]]  # exact and found, [B, S] each


@dataclass(frozen=True)
class Agreement:
    """error: the largest relative error of a cost, None where all bits were compared. overlap, regret: of the elites."""

    passed: bool
    error: float | None = None
    overlap: float | None = None
    regret: float | None = None

    def line(self) -> dict:
        """For a line of results."""
        found: dict = {"passed": self.passed, "relative_cost_error": self.error}
        if self.overlap is not None and self.regret is not None:
            found |= {"elite_overlap": round(self.overlap, 4), "elite_regret": round(self.regret, 6)}
        return found


def judge(costs: Costs, dtype: str, *, elites: int, autocast: float = 0.0, peer: bool = False) -> Agreement:
    """autocast: the relative error of PyTorch's on the same problem. peer: not fastwm."""
    error = max(relative_error(found, exact) for exact, found in costs)
    ranking = compare(costs, elites)
    if dtype == "int8":
        passed = error < math.inf and ranking.passed
    elif dtype == "float32":
        passed = error <= FLOAT32
    else:
        passed = error <= (PEER_BFLOAT16 if peer else max(FLOAT32, AUTOCAST_ERRORS * autocast))
    return Agreement(passed, error, ranking.overlap, ranking.regret)


def relative_error(found: Tensor, exact: Tensor) -> float:
    """The largest; infinite where one is not a number."""
    error = float(((found.double() - exact.double()) / exact.double()).abs().max())
    return math.inf if math.isnan(error) else error


@torch.inference_mode()
def plan_agreements(
    planners: Mapping[str, Planner], model: WorldModel, start: Tensor, goal: Tensor
) -> dict[str, Agreement]:
    """Of each planner, which differ in their engines alone, on candidates between two pictures."""
    some = next(iter(planners.values()))
    elites = some.optimizer.elites
    searches = [candidates(some, seed) for seed in range(math.ceil(ELITES / elites))]
    exact = [model_costs(model, start, goal, actions) for actions in searches]
    with torch.autocast("cpu", torch.bfloat16):
        narrow = [model_costs(model, start, goal, actions).float() for actions in searches]
    autocast = max(map(relative_error, narrow, exact))
    agreements = {}
    for name, planner in planners.items():
        found = [engine_costs(planner, start.numpy(), goal.numpy(), actions) for actions in searches]
        pairs = list(zip(exact, found, strict=True))
        agreements[name] = judge(pairs, planner.engine.dtype, elites=elites, autocast=autocast)
    return agreements


def rollout_agreements(
    spec: PredictorSpec, context: Tensor, actions: Tensor, rollouts: Mapping[str, Callable[[Tensor], Tensor]]
) -> dict[str, Agreement]:
    """Of each dtype's rollout, actions [1, S, T, A] -> last latents [1, S, E], by the costs of candidates for many goals.

    context [1, 1, E]. A candidate's latents do not depend on the others (tests/test_rollout.py): a few of the first and of the
    last of `actions` stand for all, and where those are few, others are rolled out besides.
    """
    S = actions.shape[1]
    chosen = sorted({*range(min(CHECKED // 2, S)), *range(max(0, S - CHECKED // 2), S)})
    elites = CHECKED // 10
    random = torch.Generator().manual_seed(2)
    goals = torch.randn(math.ceil(ELITES / elites), 1, context.shape[-1], generator=random)
    more = torch.randn(1, CHECKED - len(chosen), *actions.shape[2:], generator=random)

    def costs(latents: Tensor) -> Tensor:
        return (latents.float() - goals).square().sum(-1)  # [goals, candidates]

    @torch.inference_mode()
    def reference(*, autocast: bool) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            past = context.new_empty(1, 0, actions.shape[-1])
            every = torch.cat([actions[:, chosen], more], dim=1)
            return costs(reference_rollout(spec, context, every, past)[:, :, -1])

    exact = reference(autocast=False)
    autocast = relative_error(reference(autocast=True), exact)
    agreements = {}
    for dtype, rollout in rollouts.items():
        latents = rollout(actions)[:, chosen]
        if more.shape[1]:
            latents = torch.cat([latents, rollout(more)], dim=1)
        agreements[dtype] = judge([(exact, costs(latents))], dtype, elites=elites, autocast=autocast)
    return agreements
