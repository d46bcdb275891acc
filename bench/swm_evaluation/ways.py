"""The ways to plan: their CEMSolver, ours in its place, and the recommended search; all through their WorldModelPolicy."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_worldmodel.data.normalization import ZScoreScaler
from stable_worldmodel.policy import PlanConfig, RandomPolicy, WorldModelPolicy
from stable_worldmodel.solver import CEMSolver
from torch import Tensor

from fastwm.integrations import stable_worldmodel as integration

from .model import TRANSFORM
from .settings import BLOCK, Settings

THEIRS, DROP_IN, OFTEN, RECOMMENDED, RANDOM = (
    "stable-worldmodel",
    "drop-in",
    "drop-in, a new plan every block",
    "recommended",
    "random",
)
OURS = (DROP_IN, OFTEN, RECOMMENDED)
WAYS = (THEIRS, *OURS, RANDOM)


@dataclass
class Solved:
    """What the solves of an evaluation took and found."""

    seconds: float = 0.0
    solves: int = 0  # calls
    plans: int = 0  # of all calls, one for each environment that needs a new one
    first: Tensor | None = None  # [n, T, A] actions of the first plan


def watch(solver: Any) -> Solved:
    """Notes what every `solve` from now on takes."""
    seen, solve = Solved(), solver.solve

    def timed(*arguments: Any, **options: Any) -> dict:
        began = time.perf_counter()
        found = solve(*arguments, **options)
        seen.seconds += time.perf_counter() - began
        seen.solves += 1
        seen.plans += len(found["actions"])
        if seen.first is None:
            seen.first = found["actions"].clone()
        return found

    solver.solve = timed
    return seen


def policy(way: str, model: Any, scaler: ZScoreScaler, settings: Settings, seed: int) -> tuple[Any, Solved]:
    """A policy of theirs that plans in one of the WAYS, and what its solver will have taken."""
    if way == RANDOM:
        return RandomPolicy(seed=seed), Solved()
    receding = 1 if way == OFTEN else settings.receding
    config = PlanConfig(horizon=settings.horizon, receding_horizon=receding, action_block=BLOCK)
    if way == RECOMMENDED:
        low, high = (scaler.transform(np.full(2, bound, np.float32)).ravel().tolist() for bound in (-1, 1))
        solver: Any = integration.RecommendedSolver(
            model, low=low, high=high, seed=seed, dtype="float32", threads=settings.threads
        )
        config = PlanConfig(horizon=16, receding_horizon=1, action_block=BLOCK)
    else:
        make: Callable[..., Any] = (
            CEMSolver if way == THEIRS else integration.CEMSolver
        )  # the line that changes
        solver = make(
            model=model,
            num_samples=settings.samples,
            n_steps=settings.steps,
            topk=settings.topk,
            seed=seed,
            **({"threads": settings.threads} if way != THEIRS else {}),
        )
    return (
        WorldModelPolicy(solver, config, process={"action": scaler}, transform=TRANSFORM),
        watch(solver),
    )
