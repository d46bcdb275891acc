"""The problems on which every way of the rollout benchmark is judged (agreement.py), and their costs in float64."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.agreement import ELITES, Agreement, judge, relative_error
from bench.peers.peer import RowCosts
from bench.peers.pytorch import eager
from bench.problems import Problem, Setting, make_problem

# Candidates per environment that are compared; a candidate's cost does not depend on the others.
CHECKED = 512


@dataclasses.dataclass(frozen=True)
class Truth:
    """Draws of one setting, each with its float64 costs [B, min(S, CHECKED)], and the error of PyTorch's autocast."""

    draws: list[tuple[Problem, Tensor]]
    elites: int  # of the candidates compared
    autocast: float

    def check(self, costs: Callable[[Problem, Tensor], Tensor], engine: str, dtype: str) -> Agreement:
        """The verdict on one way."""
        pairs = [
            (exact, costs(problem, problem.actions)[:, : exact.shape[1]].double())
            for problem, exact in self.draws
        ]
        return judge(pairs, dtype, elites=self.elites, autocast=self.autocast, peer=engine != "fastwm")


def truth(module: nn.Module, setting: Setting) -> Truth:
    """Problems of one setting and their costs in float64."""
    checked = min(setting.S, CHECKED)
    elites = max(1, setting.elites * checked // setting.S)
    count = math.ceil(ELITES / (elites * setting.B))
    exact = RowCosts(copy.deepcopy(module).double(), setting.reduce)
    draws = [make_problem(module, setting, draw=draw) for draw in range(count)]
    found = [(problem, _exact_costs(exact, problem, checked)) for problem in draws]
    one = dataclasses.replace(setting, B=1)
    narrow = eager("bfloat16", module, make_problem(module, one), 1)
    errors = [
        relative_error(
            narrow(_environment(problem, b), problem.actions[b : b + 1, :checked]), cost[b : b + 1]
        )
        for problem, cost in found
        for b in range(setting.B)
    ]
    return Truth(found, elites, max(errors))


def _environment(problem: Problem, b: int) -> Problem:
    parts = {name: getattr(problem, name)[b : b + 1] for name in ("context", "past", "goal")}
    return dataclasses.replace(problem, **parts)


@torch.inference_mode()
def _exact_costs(costs: RowCosts, problem: Problem, checked: int) -> Tensor:
    found = []
    for b in range(len(problem.context)):
        one = _environment(problem, b)
        actions = problem.actions[b, :checked].double()
        history = torch.cat([one.past.double().expand(len(actions), -1, -1), actions], dim=1)
        found.append(costs(one.context.double().expand(len(actions), -1, -1), history, one.goal.double()))
    return torch.stack(found)
