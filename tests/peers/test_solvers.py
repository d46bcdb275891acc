"""The planner against stable-worldmodel's own solvers: the same noise, the same plan."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip(
    "stable_worldmodel", reason="needs the `peers` extra: make test-peers", exc_type=ImportError
)

import gymnasium
import numpy as np
import torch
from real_lewm import SIZES, build
from stable_worldmodel.policy import PlanConfig
from stable_worldmodel.solver import (
    CategoricalCEMSolver,
    CEMSolver,
    GradientSolver,
    ICEMSolver,
    MPPISolver,
    PredictiveSamplingSolver,
)
from torch import Tensor

import fastwm
from fastwm.planning import Sampling

pytestmark = pytest.mark.peers

S, T, SEED = 64, 4, 7


def white(count: int, A: int, generator: torch.Generator) -> Tensor:
    """[count, S, T, A] standard normal draws, in the solvers' order."""
    return torch.stack([torch.randn(1, S, T, A, generator=generator)[0] for _ in range(count)])


def red(count: int, A: int, generator: torch.Generator) -> Tensor:
    """ICEMSolver's: each candidate's noise is scaled to unit deviation over its own horizon."""
    scale = torch.fft.rfftfreq(T)
    scale[0] = 1.0
    scale = scale.pow(-1.0)
    scale[0] = scale[1]
    draws = []
    for _ in range(count):
        spectrum = torch.fft.rfft(torch.randn(1, S, A, T, generator=generator), dim=-1)
        noise = torch.fft.irfft(spectrum * scale, n=T, dim=-1)
        draws.append((noise / noise.std(dim=-1, keepdim=True)).transpose(-1, -2)[0])
    return torch.stack(draws)


Noise = Callable[[int, int, torch.Generator], Tensor]
CASES: dict[str, tuple[type, dict, Sampling, Noise]] = {
    "cem": (CEMSolver, {"n_steps": 5, "topk": 9}, fastwm.CEM(S, 9, 5), white),
    "icem": (
        ICEMSolver,
        {"n_steps": 5, "topk": 9, "n_elite_keep": 3, "alpha": 0.1, "noise_beta": 2.0},
        fastwm.ICEM(S, 9, 5, keep=3, decay=1.0, noise_exponent=0.0, low=-1.0, high=1.0),
        red,
    ),
    "mppi": (
        MPPISolver,
        {"n_steps": 5, "topk": 20, "temperature": 3.0},
        fastwm.MPPI(S, 5, elites=20, temperature=3.0),
        white,
    ),
    "predictive": (PredictiveSamplingSolver, {"noise_scale": 1.0}, fastwm.PredictiveSampling(S, 1), white),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("B", [1, 3])
def test_the_same_noise_gives_the_same_plan(
    isa: str, monkeypatch: pytest.MonkeyPatch, name: str, B: int
) -> None:
    monkeypatch.setenv("FASTWM_ISA", isa)
    make, options, search, noise = CASES[name]
    model = build(**SIZES["small"])
    A = SIZES["small"]["A"]
    random = torch.Generator().manual_seed(0)
    pixels, goal = (torch.randn(B, 1, 3, 8, 8, generator=random) for _ in range(2))

    # One environment at a time: LeWM.get_cost broadcasts the goal wrongly for more.
    solver = make(model, batch_size=1, num_samples=S, seed=SEED, **options)
    config = PlanConfig(horizon=T, receding_horizon=T, action_block=1)
    solver.configure(action_space=gymnasium.spaces.Box(-1, 1, (B, A), np.float32), n_envs=B, config=config)
    theirs = solver.solve({"pixels": pixels, "goal": goal, "action": torch.zeros(B, 1, A)})

    generator = torch.Generator().manual_seed(SEED)
    draws = torch.stack([noise(search.iterations, A, generator) for _ in range(B)], dim=1)
    engine = fastwm.compile(model, backend="cpu", dtype="float32", threads=1)
    plan = fastwm.Planner(engine, search, T).plan({"pixels": pixels}, goal, noise=draws)
    torch.testing.assert_close(plan.actions, theirs["actions"], rtol=0, atol=1e-4)
    torch.testing.assert_close(plan.cost, torch.tensor(theirs["costs"]), rtol=1e-4, atol=0)
    if name in ("cem", "icem"):
        torch.testing.assert_close(plan.mean, theirs["mean"][0], rtol=0, atol=1e-4)
        torch.testing.assert_close(plan.std, theirs["var"][0], rtol=0, atol=1e-4)


def problem(A: int, B: int) -> tuple[torch.nn.Module, Tensor, Tensor]:
    """A LeWM of action blocks of A numbers, observations and goals [B, 1, 3, 8, 8]."""
    random = torch.Generator().manual_seed(0)
    pixels, goal = (torch.randn(B, 1, 3, 8, 8, generator=random) for _ in range(2))
    return build(**SIZES["small"] | {"A": A}), pixels, goal


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_gradient_descent_from_the_same_starts_gives_the_same_plan(backend: str) -> None:
    """GradientSolver with Adam: the restart that was cheapest, after ten steps."""
    B, A, restarts, steps = 2, 2, 6, 10
    model, pixels, goal = problem(A, B)
    model.requires_grad_(False)
    solver = GradientSolver(
        model,
        n_steps=steps,
        batch_size=1,
        num_samples=restarts,
        seed=SEED,
        optimizer_cls=torch.optim.Adam,
        optimizer_kwargs={"lr": 0.05},
    )
    config = PlanConfig(horizon=T, receding_horizon=T, action_block=1)
    solver.configure(action_space=gymnasium.spaces.Box(-1, 1, (B, A), np.float32), n_envs=B, config=config)
    theirs = solver.solve({"pixels": pixels, "goal": goal, "action": torch.zeros(B, 1, A)})

    noise = torch.zeros(steps, B, restarts, T, A)
    noise[0, :, 1:] = torch.randn(B, restarts - 1, T, A, generator=torch.Generator().manual_seed(SEED))
    engine = fastwm.compile(model, backend=backend, dtype="float32", threads=1)
    search = fastwm.GradientDescent(restarts, steps, learning_rate=0.05, return_best=False)
    plan = fastwm.Planner(engine, search, T).plan({"pixels": pixels}, goal, noise=noise)
    assert (plan.actions - noise[0, torch.arange(B), 0]).abs().max() > 0.1
    torch.testing.assert_close(plan.actions, theirs["actions"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"smoothing": 0.05, "alpha": 0.2}], ids=["plain", "smoothed"])
def test_categorical_cem_of_the_same_draws_gives_the_same_plan(options: dict[str, float]) -> None:
    """CategoricalCEMSolver: its uniform numbers as normal ones, for blocks of two steps; actions, costs and probabilities."""
    B, n, block, iterations = 2, 3, 2, 5
    model, pixels, goal = problem(n * block, B)
    solver = CategoricalCEMSolver(model, num_samples=S, n_steps=iterations, topk=9, seed=SEED, **options)
    config = PlanConfig(horizon=T, receding_horizon=T, action_block=block)
    solver.configure(action_space=gymnasium.spaces.Discrete(n), n_envs=B, config=config)
    theirs = solver.solve({"pixels": pixels, "goal": goal, "action": torch.zeros(B, 1, n * block)})

    generator = torch.Generator().manual_seed(SEED)
    uniform = [
        torch.stack([torch.rand(1, S, T, block, n, generator=generator)[0] for _ in range(iterations)])
        for _ in range(B)
    ]
    noise = torch.special.ndtri(torch.stack(uniform, dim=1).double()).float().flatten(-2)
    search = fastwm.CategoricalCEM(
        S,
        9,
        iterations,
        categories=n,
        steps=block,
        smoothing=options.get("smoothing", 0.0),
        momentum=options.get("alpha", 0.0),
        spread=1.0,
    )
    engine = fastwm.compile(model, backend="cpu", dtype="float32", threads=1)
    plan = fastwm.Planner(engine, search, T).plan({"pixels": pixels}, goal, noise=noise)
    assert torch.equal(search.numbers(plan.actions)[..., 0], theirs["actions"])
    torch.testing.assert_close(plan.mean, theirs["probs"][0].flatten(-2), rtol=0, atol=1e-5)
    torch.testing.assert_close(plan.cost, torch.tensor(theirs["costs"]), rtol=1e-4, atol=0)
