"""The time of one plan: the engine beside plain PyTorch, on the same machine, in turns, and only if the costs agree."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import fastwm
from fastwm.demo.load import others, spent
from fastwm.engine.engine import Engine
from fastwm.models import WorldModel
from fastwm.planning import CEM, GoalDistance, Planner, noise

TOLERANCE = 1e-4  # relative cost error allowed of float32
WARM_UP = 2  # plans of each way that do not count


@dataclass(frozen=True)
class Comparison:
    """Milliseconds of `repeats` plans for one environment, by (way, dtype); empty where the float32 costs did not agree.

    Ways are "engine" and "torch". parity_error: the largest relative difference of a candidate's cost between the
    two in float32. Besides float32 the dtype is timed that the engine plans with, which its ranking gate decided, and
    PyTorch in bfloat16. quartiles: first, median, third. busy: processors that other processes kept busy meanwhile, None
    where that is not known; load_average: the system's, of the last minute, this process included.
    """

    parity_error: float
    tolerance: float
    threads: int
    repeats: int
    quartiles: dict[tuple[str, str], tuple[float, float, float]]
    busy: float | None
    load_average: float

    @property
    def parity(self) -> bool:
        """Whether the costs agree, so that the times compare the same work."""
        return self.parity_error <= self.tolerance

    @property
    def milliseconds(self) -> dict[tuple[str, str], float]:
        """The medians."""
        return {name: median for name, (_, median, _) in self.quartiles.items()}


def compare(
    model: WorldModel,
    engine: Engine,
    planner_of: Callable[[Engine], Planner],
    start: NDArray[np.uint8],
    goal: NDArray[np.uint8],
    *,
    repeats: int = 25,
) -> Comparison:
    """Plan from `start` to `goal`, uint8 [size, size, 3] each, with engines of `model` and with plain PyTorch, in turns.

    planner_of: makes the planner around an engine; its search is one that `plain_plan` knows.
    """
    exact = (
        engine
        if engine.dtype == "float32"
        else fastwm.compile(model, dtype="float32", threads=engine.threads)
    )
    planner = planner_of(exact)
    with _torch_threads(engine.threads):
        error = parity_error(planner, model, start, goal)
        if not error <= TOLERANCE:
            return Comparison(error, TOLERANCE, engine.threads, 0, {}, None, os.getloadavg()[0])
        pictures = torch.from_numpy(start), torch.from_numpy(goal)
        ways: dict[tuple[str, str], Callable[[], object]] = {
            ("engine", "float32"): partial(planner.plan, start, goal),
            ("torch", "float32"): partial(plain_plan, planner, model, *pictures),
        }
        if engine is not exact:
            ways["engine", engine.dtype] = partial(planner_of(engine).plan, start, goal)
            ways["torch", "bfloat16"] = partial(plain_plan, planner, model, *pictures, bfloat16=True)
        times: dict[tuple[str, str], list[float]] = {name: [] for name in ways}
        before = spent()
        for _ in range(WARM_UP + repeats):
            for name, way in ways.items():
                began = time.perf_counter()
                way()
                times[name].append(1e3 * (time.perf_counter() - began))
        busy, load_average = others(before, spent()), os.getloadavg()[0]
    quartiles = {name: _quartiles(values[WARM_UP:]) for name, values in times.items()}
    return Comparison(error, TOLERANCE, engine.threads, repeats, quartiles, busy, load_average)


def parity_error(
    planner: Planner, model: WorldModel, start: NDArray[np.uint8], goal: NDArray[np.uint8]
) -> float:
    """Largest relative difference of the costs that engine and model give the same candidates."""
    actions = candidates(planner)
    expected = model_costs(model, torch.from_numpy(start), torch.from_numpy(goal), actions)
    return float(((engine_costs(planner, start, goal, actions) - expected).abs() / expected.abs()).max())


def candidates(planner: Planner, seed: int = 0) -> Tensor:
    """Actions [1, S, T, A] of one search, spread as the training data's."""
    engine, generator = planner.engine, torch.Generator().manual_seed(seed)
    shape = (1, planner.optimizer.samples, planner.horizon, engine.action_dim)
    return engine.action_mean + engine.action_std * torch.randn(shape, generator=generator)


@torch.inference_mode()
def model_costs(model: WorldModel, start: Tensor, goal: Tensor, actions: Tensor) -> Tensor:
    """start, goal: uint8 [size, size, 3]; actions [1, S, T, A] -> costs [1, S] by plain PyTorch"""
    latents = model.rollout(model.encode(start)[None, None], actions)
    return _closest(latents, model.encode(goal)[None])


def engine_costs(
    planner: Planner, start: NDArray[np.uint8], goal: NDArray[np.uint8], actions: Tensor
) -> Tensor:
    """The same by the planner's engine."""
    engine = planner.engine
    latents = engine.rollout(engine.encode(start), actions, keep="all")
    return planner.cost(latents, actions, planner.goal(goal, len(actions)), threads=engine.threads)


@torch.inference_mode()
def plain_plan(
    planner: Planner, model: WorldModel, start: Tensor, goal: Tensor, *, bfloat16: bool = False
) -> Tensor:
    """The planner's search as one would write it in PyTorch: start, goal [size, size, 3] -> mean actions [T, A].

    bfloat16: under autocast.
    """
    cem = planner.optimizer
    names = ("samples", "elites", "iterations", "std", "min_std", "low", "high", "noise_exponent")
    if (
        planner.cost != GoalDistance("squared", "min")
        or not isinstance(cem, CEM)
        or cem != CEM(**{name: getattr(cem, name) for name in names})
    ):
        raise ValueError(
            f"the plain plan knows a CEM with {', '.join(names)} alone that minimises GoalDistance('squared', 'min')"
        )
    factor = noise.power_law(planner.horizon, cem.noise_exponent)
    low, high = (None if bound is None else torch.as_tensor(bound) for bound in (cem.low, cem.high))
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        context, target = model.encode(start)[None, None], model.encode(goal)[None]
        mean = model.action_mean.expand(planner.horizon, -1)
        std = cem.std * model.action_std.expand(planner.horizon, -1)
        for _ in range(cem.iterations):
            actions = mean + std * (factor @ torch.randn(cem.samples, *mean.shape))
            actions[0] = mean
            if low is not None or high is not None:
                actions = actions.clamp(low, high)
            cost = _closest(model.rollout(context, actions[None]), target)[0]
            elites = actions[cost.topk(cem.elites, largest=False).indices]
            mean, std = elites.mean(dim=0), elites.std(dim=0).clamp_min(cem.min_std)
    return mean


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, median, third


def _closest(latents: Tensor, goal: Tensor) -> Tensor:
    """latents [B, S, T, E], goal [B, E] -> smallest squared distance over the horizon [B, S]"""
    return (latents - goal[:, None, None]).square().sum(dim=-1).amin(dim=-1)


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
