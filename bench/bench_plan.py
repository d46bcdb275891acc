"""A whole plan of LeWM from pixels, CEM with 300 candidates, 30 elites and 5 blocks, but 3 iterations instead of 30.

stable-worldmodel's LeWM (ViT-tiny, 224 pixels) and its CEMSolver, and the same module compiled by fastwm, with the same draws.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import fastwm
from bench import models
from bench.options import Options
from bench.timing import affordable, in_turns
from fastwm.engine.pack import DTYPES

SAMPLES, ELITES, ITERATIONS, HORIZON, SEED = 300, 30, 3, 5, 7
FLOAT32, NARROW = (
    1e-4,
    0.02,
)  # relative, of the last elites' mean cost; a narrow dtype finds others, nearly as good
SETTING = {"model": "lewm", "B": 1, "S": SAMPLES, "T": HORIZON, "K": 1, "iterations": ITERATIONS}

Solve = Callable[[], tuple[Tensor, float]]  # -> the plan [T, A], the mean cost of its last elites


def results(options: Options) -> Iterator[dict]:
    """One line per number of threads and way; a way whose plan costs something else gets no time."""
    from bench.peers import stable_worldmodel

    if missing := [name for peer in stable_worldmodel.PEERS for name in peer.missing]:
        print(f"plan: left out, {missing[0]} not installed (make bench installs all)")
        return
    published = models.lewm_model()
    model = stable_worldmodel.lewm(published, vit(published.config.embed_dim))
    random = torch.Generator().manual_seed(0)
    start, goal = torch.randn(2, 1, 1, 3, 224, 224, generator=random)
    for threads in options.threads:
        torch.set_num_threads(threads)
        ways: dict[str, tuple[str, str, Solve]] = {}
        for dtype in ("float32", "bfloat16"):
            solve = functools.partial(solve_theirs, model, start, goal, dtype)
            ways[f"stable-worldmodel CEMSolver {dtype}"] = ("stable-worldmodel", dtype, solve)
        for dtype in DTYPES:
            engine = fastwm.compile(model, backend="cpu", dtype=dtype, threads=threads)  # type: ignore[arg-type]
            solve = functools.partial(solve_ours, engine, start, goal)
            ways[f"fastwm {engine.info()['isa']} {dtype}"] = ("fastwm", dtype, solve)
        expected = solve_theirs(model, start, goal, "float32")[1]
        errors = {name: abs(solve()[1] - expected) / expected for name, (_, _, solve) in ways.items()}
        passed = {
            name: solve
            for name, (_, dtype, solve) in ways.items()
            if errors[name] <= (FLOAT32 if dtype == "float32" else NARROW)
        }
        repeats = affordable(passed, repeats=options.repeats, seconds=options.seconds)
        times = in_turns(passed, repeats=repeats, warm_up=1)
        for name, (engine_name, dtype, _) in ways.items():
            line = {**SETTING, "threads": threads, "way": name, "engine": engine_name, "dtype": dtype}
            line |= {"passed": name in passed, "relative_cost_error": errors[name], "repeats": repeats}
            yield line | ({"milliseconds": times[name]} if name in times else {})


def vit(embed_dim: int) -> nn.Module:
    """The encoder that LeWM is published with, random weights."""
    from transformers import ViTConfig, ViTModel

    sizes = {"num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 4 * embed_dim}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ViTModel(
            ViTConfig(hidden_size=embed_dim, image_size=224, patch_size=14, **sizes), add_pooling_layer=False
        )


def solve_theirs(model: Any, start: Tensor, goal: Tensor, dtype: str) -> tuple[Tensor, float]:
    """start, goal [1, 1, 3, 224, 224]"""
    import gymnasium
    import numpy as np
    from stable_worldmodel.policy import PlanConfig
    from stable_worldmodel.solver import CEMSolver

    A = models.LEWM_ACTIONS
    solver = CEMSolver(model, num_samples=SAMPLES, n_steps=ITERATIONS, topk=ELITES, seed=SEED)
    config = PlanConfig(horizon=HORIZON, receding_horizon=HORIZON, action_block=1)
    solver.configure(action_space=gymnasium.spaces.Box(-1, 1, (1, A), np.float32), n_envs=1, config=config)
    silent = contextlib.redirect_stdout(io.StringIO())  # it prints its time
    with silent, torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        found = solver.solve({"pixels": start, "goal": goal, "action": torch.zeros(1, 1, A)})
    return found["actions"][0], float(found["costs"][0])


def solve_ours(engine: Any, start: Tensor, goal: Tensor) -> tuple[Tensor, float]:
    """start, goal [1, 1, 3, 224, 224]; the draws are the solver's."""
    planner = fastwm.Planner(engine, fastwm.CEM(SAMPLES, ELITES, ITERATIONS), HORIZON)
    generator = torch.Generator().manual_seed(SEED)
    shape = 1, SAMPLES, HORIZON, models.LEWM_ACTIONS
    noise = torch.stack([torch.randn(shape, generator=generator) for _ in range(ITERATIONS)])
    plan = planner.plan(start, goal, noise=noise)
    return plan.actions[0], float(plan.cost[0])
