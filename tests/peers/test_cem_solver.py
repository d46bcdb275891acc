"""The planner against stable-worldmodel's own CEMSolver: the same noise, the same plan."""

from __future__ import annotations

import pytest

pytest.importorskip(
    "stable_worldmodel", reason="needs the `peers` extra: make test-peers", exc_type=ImportError
)

import gymnasium
import numpy as np
import torch
from real_lewm import SIZES, build
from stable_worldmodel.policy import PlanConfig
from stable_worldmodel.solver import CEMSolver

import fastwm

pytestmark = pytest.mark.peers


@pytest.mark.parametrize("B", [1, 3])
def test_the_same_noise_gives_the_same_plan(isa: str, monkeypatch: pytest.MonkeyPatch, B: int) -> None:
    monkeypatch.setenv("FASTWM_ISA", isa)
    samples, elites, iterations, horizon, block, seed = 64, 9, 5, 4, 1, 7
    sizes = SIZES["small"]
    A = sizes["A"]
    model = build(**sizes)
    random = torch.Generator().manual_seed(0)
    pixels = torch.randn(B, 1, 3, 8, 8, generator=random)
    goal = torch.randn(B, 1, 3, 8, 8, generator=random)

    # One environment at a time: LeWM.get_cost broadcasts the goal wrongly for more.
    solver = CEMSolver(model, batch_size=1, num_samples=samples, n_steps=iterations, topk=elites, seed=seed)
    space = gymnasium.spaces.Box(-1, 1, (B, A), np.float32)
    solver.configure(
        action_space=space,
        n_envs=B,
        config=PlanConfig(horizon=horizon, receding_horizon=horizon, action_block=block),
    )
    theirs = solver.solve({"pixels": pixels, "goal": goal, "action": torch.zeros(B, 1, A)})

    engine = fastwm.compile(model, backend="cpu", dtype="float32", threads=1)
    generator = torch.Generator().manual_seed(seed)
    shape = (samples, horizon, A)
    noise = torch.empty(iterations, B, *shape)
    for b in range(B):
        for iteration in range(iterations):
            noise[iteration, b] = torch.randn(1, *shape, generator=generator)[0]
    planner = fastwm.Planner(engine, fastwm.CEM(samples, elites, iterations), horizon)
    plan = planner.plan({"pixels": pixels}, goal, noise=noise)
    torch.testing.assert_close(plan.actions, theirs["actions"], rtol=0, atol=1e-4)
    torch.testing.assert_close(plan.mean, theirs["mean"][0], rtol=0, atol=1e-4)
    torch.testing.assert_close(plan.std, theirs["var"][0], rtol=0, atol=1e-4)
    torch.testing.assert_close(plan.cost, torch.tensor(theirs["costs"]), rtol=1e-4, atol=0)
