"""Whether a way gives the costs that float64 gives: what it must pass before its time is taken.

float32: relative cost error at most 1e-4. bfloat16: fastwm's at most twice that of PyTorch's autocast, a peer's at most 0.02.
int8: by what planning reads, the elites: a mean share of 0.9 of float64's, whoever computes it.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.peers.peer import RowCosts
from bench.peers.pytorch import eager
from bench.problems import Problem, Setting, make_problem

FLOAT32, PEER_BFLOAT16, AUTOCAST_ERRORS = 1e-4, 0.02, 2.0
MIN_OVERLAP = 0.9
CHECKED = (
    512  # candidates per environment that are compared; a candidate's cost does not depend on the others
)
ELITES = 60  # at least, over several draws: one of few elites that changes is no verdict


@dataclasses.dataclass(frozen=True)
class Truth:
    """Draws of one setting, each with its float64 costs [B, min(S, CHECKED)], and the error of PyTorch's autocast."""

    draws: list[tuple[Problem, Tensor]]
    elites: int  # of the candidates compared
    autocast: float

    def check(self, costs: Callable[[Problem, Tensor], Tensor], engine: str, dtype: str) -> dict:
        """relative_cost_error, elite_overlap and passed, of one way."""
        errors, overlaps = [], []
        for problem, exact in self.draws:
            found = costs(problem, problem.actions)[:, : exact.shape[1]].double()
            errors.append(_relative(found, exact))
            overlaps.append(overlap(found, exact, self.elites))
        error, share = max(errors, key=_nan_last), sum(overlaps) / len(overlaps)
        if dtype == "int8":
            passed = share >= MIN_OVERLAP
        elif dtype == "float32":
            passed = error <= FLOAT32
        else:
            passed = error <= (AUTOCAST_ERRORS * self.autocast if engine == "fastwm" else PEER_BFLOAT16)
        return {"relative_cost_error": error, "elite_overlap": round(share, 4), "passed": passed}


def truth(module: nn.Module, setting: Setting) -> Truth:
    """Problems of one setting and their costs in float64."""
    checked = min(setting.S, CHECKED)
    elites = max(1, setting.elites * checked // setting.S)
    count = math.ceil(ELITES / (elites * setting.B))
    exact = RowCosts(copy.deepcopy(module).double(), setting.reduce)
    narrow = eager("bfloat16", module, make_problem(module, setting), 1)
    draws, errors = [], []
    for draw in range(count):
        problem = make_problem(module, setting, draw=draw)
        draws.append((problem, _exact_costs(exact, problem, checked)))
        one = dataclasses.replace(
            problem, context=problem.context[:1], past=problem.past[:1], goal=problem.goal[:1]
        )
        errors.append(_relative(narrow(one, problem.actions[:1, :checked]).double(), draws[-1][1][:1]))
    return Truth(draws, elites, max(errors))


@torch.inference_mode()
def _exact_costs(costs: RowCosts, problem: Problem, checked: int) -> Tensor:
    found = []
    for b in range(len(problem.context)):
        context, past, goal = (
            part[b : b + 1].double() for part in (problem.context, problem.past, problem.goal)
        )
        actions = problem.actions[b, :checked].double()
        history = torch.cat([past.expand(len(actions), -1, -1), actions], dim=1)
        found.append(costs(context.expand(len(actions), -1, -1), history, goal))
    return torch.stack(found)


def overlap(found: Tensor, exact: Tensor, elites: int) -> float:
    """The share of the cheapest candidates of `exact` [B, S] that are the cheapest of `found`, too."""
    best, chosen = (cost.topk(elites, largest=False).indices for cost in (exact, found))
    return float((best[:, :, None] == chosen[:, None, :]).any(-1).double().mean())


def _relative(found: Tensor, exact: Tensor) -> float:
    return float(((found - exact) / exact).abs().max())


def _nan_last(error: float) -> float:
    return math.inf if math.isnan(error) else error
