"""stable-worldmodel in either generation: where its solvers live, and what they take for a cost."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from stable_worldmodel.policy import PlanConfig
from torch import Tensor

import fastwm.integrations.stable_worldmodel

try:
    from stable_worldmodel.planning import GoalMSE, ShootingCostEvaluator
    from stable_worldmodel.planning import solver as solvers
    from stable_worldmodel.planning.solver import callbacks

    MAIN = True
except ImportError:
    from stable_worldmodel import solver as solvers
    from stable_worldmodel.solver import callbacks

    MAIN = False

__all__ = ["MAIN", "callbacks", "cost_of", "info_of", "keyword", "one_by_one", "ready", "solvers", "space"]

SETTINGS: dict[str, Any] = {"num_samples": 48, "n_steps": 5, "topk": 9, "seed": 7}
OPTIONS: dict[str, dict[str, Any]] = {
    "CEMSolver": {"var_scale": 0.7},
    "ICEMSolver": {"alpha": 0.2, "n_elite_keep": 3, "noise_beta": 1.5},
    "MPPISolver": {"temperature": 3.0},
    "CategoricalCEMSolver": {"smoothing": 0.01, "alpha": 0.1},
}


def keyword() -> str:
    """What their solvers call the cost."""
    return "cost" if MAIN else "model"


def cost_of(model: Any) -> Any:
    """What their solvers plan with for a LeWM."""
    return ShootingCostEvaluator(model, GoalMSE()) if MAIN else model


class OneByOne:
    """The release's `LeWM.get_cost`, one environment at a time: it broadcasts the goal wrongly for more."""

    def __init__(self, cost: Any) -> None:
        self.cost = cost

    def get_cost(self, info: dict[str, Tensor], actions: Tensor) -> Tensor:
        rows = [slice(b, b + 1) for b in range(len(actions))]
        given = {name: info[name] for name in ("pixels", "goal", "action")}
        return torch.cat(
            [self.cost.get_cost({k: v[row] for k, v in given.items()}, actions[row]) for row in rows]
        )


def one_by_one(cost: Any) -> Any:
    """The cost whose numbers ours are compared with, for several environments in a batch."""
    return cost if MAIN else OneByOne(cost)


def space(name: str, n: int, A: int) -> gymnasium.Space:
    """The action space of n environments, for a solver of that name and a model of A numbers."""
    if name != "CategoricalCEMSolver":
        return gymnasium.spaces.Box(-0.8, 1.2, (n, A), np.float32)
    return gymnasium.spaces.MultiDiscrete([A] * n) if MAIN else gymnasium.spaces.Discrete(A)


def ready(
    module: Any, name: str, cost: Any, n: int, A: int, *, T: int = 4, block: int = 1, **options: Any
) -> Any:
    """A solver of theirs or ours, configured for n environments and action blocks of A numbers."""
    if module is fastwm.integrations.stable_worldmodel:
        options = {"threads": 1} | options
    solver = getattr(module, name)(**{keyword(): cost}, **{**SETTINGS, **OPTIONS[name], **options})
    config = PlanConfig(horizon=T, receding_horizon=1, action_block=block)
    solver.configure(action_space=space(name, n, A // block), n_envs=n, config=config)
    return solver


def info_of(n: int, A: int, *, K: int = 1, size: int = 8, seed: int = 0) -> dict[str, Any]:
    """Random observations and goals; with K > 1 frames on the main branch, the blocks between them."""
    random = torch.Generator().manual_seed(seed)
    info = {
        "pixels": torch.randn(n, K, 3, size, size, generator=random),
        "goal": torch.randn(n, 1, 3, size, size, generator=random),
        "action": torch.zeros(n, 1, A),
        "id": np.arange(n),
        "name": [f"environment {i}" for i in range(n)],
    }
    return info | ({"action_history": torch.randn(n, K - 1, A, generator=random)} if MAIN and K > 1 else {})
