"""Whole plans on the GPU (emulated where there is none): the plans of the CPU, by graphs that are captured once."""

from __future__ import annotations

import pytest
import specs
import torch

pytest.importorskip("triton", reason="the GPU's rollout needs triton")

from guard import guard

import fastwm
from fastwm import CEM, ICEM, MPPI, CategoricalCEM, GoalDistance, MixtureCEM, Planner, PredictiveSampling
from fastwm.engine.cuda import device as devices

SPEC = specs.transformer(0, E=16, A=2, L=1, H=1, D=16, M=32, window=2)
FRAMES = {"latents": torch.randn(2, 2, 16), "past_actions": torch.randn(2, 1, 2)}
GOAL = torch.randn(2, 16)
SEARCHES = {
    "CEM": CEM(12, 3, 2),
    "CEM with everything": CEM(
        12,
        4,
        2,
        low=-1.0,
        high=1.0,
        noise_exponent=2.0,
        keep=2,
        momentum=0.1,
        min_std=0.05,
        decay=1.2,
        steps=2,
    ),
    "ICEM": ICEM(12, 4, 2, keep=2),
    "MPPI": MPPI(12, 2),
    "PredictiveSampling": PredictiveSampling(12, 2),
    "MixtureCEM": MixtureCEM(12, 4, 2, components=2),
    "CategoricalCEM": CategoricalCEM(12, 4, 2, categories=2),
}


@pytest.fixture
def engines(gpu_device) -> dict[str, fastwm.Engine]:
    imported = specs.imported(SPEC)
    return {name: fastwm.compile(imported, backend=name, dtype="float32") for name in ("cpu", "cuda")}


def plans(engines, search, *calls, **options):  # type: ignore[no-untyped-def]
    """Of each backend, the plans of the calls, one planner for all of them."""
    found = {}
    for name, engine in engines.items():
        planner = Planner(engine, search, 2, **options)
        found[name] = [planner.plan(**call) for call in calls]
    return found["cpu"], found["cuda"]


def assert_same(cpu: fastwm.Plan, cuda: fastwm.Plan) -> None:
    for name in ("actions", "mean", "std", "cost"):
        ours, theirs = getattr(cuda, name), getattr(cpu, name)
        assert ours.device.type == "cpu"
        torch.testing.assert_close(
            ours, theirs, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    torch.testing.assert_close(cuda.stats["best_cost"], cpu.stats["best_cost"], rtol=1e-4, atol=1e-5)
    assert torch.equal(cuda.stats["non_finite"], cpu.stats["non_finite"])
    assert cuda.stats["end"] == cpu.stats["end"]
    assert cuda.iterations == cpu.iterations


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_finds_what_the_cpu_finds(engines, name: str) -> None:
    calls = [{"obs": FRAMES, "goal": GOAL, "generator": seed} for seed in (1, 2)]
    cpu, cuda = plans(engines, SEARCHES[name], *calls)
    for ours, theirs in zip(cuda, cpu, strict=True):
        assert_same(theirs, ours)
        assert ours.stats["graph"] == "search"
    if name != "CategoricalCEM":  # which has few plans to choose from
        assert not torch.equal(cuda[0].cost, cuda[1].cost)  # the second is a replay, with another seed


def test_a_replay_reads_new_numbers_of_every_kind(engines) -> None:
    """Observation, goal, warm start, proposals, noise and random streams are a graph's inputs."""
    first = {
        "obs": FRAMES,
        "goal": GOAL,
        "generator": 1,
        "warm_start": torch.randn(2, 1, 2),
        "proposals": torch.randn(2, 3, 2, 2),
        "environments": [0, 1],
    }
    second = {
        "obs": {name: tensor + 0.5 for name, tensor in FRAMES.items()},
        "goal": GOAL.flip(0),
        "generator": 2**62 + 3,
        "warm_start": torch.randn(2, 1, 2),
        "proposals": torch.randn(2, 3, 2, 2),
        "environments": [7, 2**32 - 1],
    }
    cost = GoalDistance(reduce="min") + 0.1 * fastwm.ActionPenalty()
    search = CEM(12, 4, 2, keep=2, return_best=True)
    cpu, cuda = plans(engines, search, first, second, first, cost=cost)
    for ours, theirs in zip(cuda, cpu, strict=True):
        assert_same(theirs, ours)


def test_given_noise_is_an_input(engines) -> None:
    calls = [{"obs": FRAMES, "goal": GOAL, "noise": torch.randn(2, 2, 12, 2, 2)} for _ in range(2)]
    cpu, cuda = plans(engines, CEM(12, 3, 2), *calls)
    for ours, theirs in zip(cuda, cpu, strict=True):
        assert_same(theirs, ours)


def test_one_graph_serves_all_plans_of_a_shape(engines) -> None:
    planner = Planner(engines["cuda"], CEM(12, 3, 2), 2)
    for call in range(3):
        planner.plan(FRAMES, GOAL, generator=call)
    assert len(planner._solver._graphs) == 1
    planner.plan({"latents": FRAMES["latents"][:1, :1]}, GOAL[:1])
    assert len(planner._solver._graphs) == 2


def test_a_plan_keeps_its_numbers_when_the_graph_runs_again(engines) -> None:
    planner = Planner(engines["cuda"], CEM(12, 3, 2, keep=1), 2)
    plan = planner.plan(FRAMES, GOAL, generator=1)
    before = [tensor.clone() for tensor in (plan.actions, plan.mean, plan.kept, plan.stats["best_cost"])]
    planner.plan(FRAMES, GOAL, generator=2)
    for tensor, old in zip(
        (plan.actions, plan.mean, plan.kept, plan.stats["best_cost"]), before, strict=True
    ):
        assert torch.equal(tensor, old)


def test_three_kernels_a_layer_and_step(engines) -> None:
    """What a solve starts: the layers' kernels, and a few for everything else."""
    started: list[str] = []

    def watch(name, kernel):  # type: ignore[no-untyped-def]
        started.append(name)
        return kernel

    L, T, K = 2, 4, 1
    spec = specs.transformer(3, E=16, A=2, L=L, H=1, D=16, M=32)
    engine = fastwm.compile(specs.imported(spec), backend="cuda", dtype="float32")
    context, actions, _ = specs.inputs(spec, 0, B=1, S=2, T=T, K=K)
    devices.watchers.append(watch)
    try:
        engine.rollout(context, actions)
    finally:
        devices.watchers.remove(watch)
    assert [started.count(name) for name in ("qkv", "attend", "mlp")] == [L * T] * 3
    assert started.count("tokens") == started.count("head") == T
    assert len(started) == 3 * L * T + 2 * T + len(spec.action) + 1  # and the conditioning, once


@pytest.mark.parametrize(
    ("search", "cost", "graph"),
    [
        (CEM(12, 3, 2, tolerance=0.5), None, "iteration"),
        (CEM(12, 3, 2), lambda latents, actions: latents[..., -1, :].square().sum(-1), "none"),
        (fastwm.GradientDescent(4, 2), None, "none"),
        (CEM(12, 3, 2), fastwm.Constraint(lambda z, a: a[..., 0, 0] - 0.2, mode="augmented"), "none"),
    ],
    ids=["tolerance", "function", "gradient", "augmented"],
)
def test_what_a_graph_cannot_hold_is_planned_all_the_same(engines, search, cost, graph: str) -> None:
    if isinstance(cost, fastwm.Constraint):
        cost = GoalDistance() + cost
    cpu, cuda = plans(engines, search, {"obs": FRAMES, "goal": GOAL, "generator": 3}, cost=cost)
    assert_same(cpu[0], cuda[0])
    assert cuda[0].stats["graph"] == graph


def test_a_deadline_is_a_graph_an_iteration(engines) -> None:
    cpu, cuda = plans(
        engines, CEM(12, 3, 2), {"obs": FRAMES, "goal": GOAL, "generator": 3, "deadline": 1000.0}
    )
    assert_same(cpu[0], cuda[0])
    assert cuda[0].stats["graph"] == "iteration"
    late = Planner(engines["cuda"], CEM(12, 3, 2), 2).plan(FRAMES, GOAL, deadline=0.0)
    assert late.stats["end"] == "fallback"
    assert late.deadline_hit


def test_a_callback_sees_every_iteration(engines) -> None:
    seen: list[torch.Tensor] = []
    planner = Planner(engines["cuda"], CEM(12, 3, 2), 2)
    planner.plan(FRAMES, GOAL, callback=lambda iteration: seen.append(iteration.cost))
    assert len(seen) == 2


def test_a_batch_is_its_environments_one_by_one(engines) -> None:
    planner = Planner(engines["cuda"], CEM(12, 3, 2), 2)
    batch = planner.plan(FRAMES, GOAL, generator=5)
    for b in range(2):
        alone = planner.plan(
            {name: tensor[b : b + 1] for name, tensor in FRAMES.items()},
            GOAL[b : b + 1],
            generator=5,
            environments=[b],
        )
        # In the interpreter a tile's product is numpy's, whose rounding depends on the row.
        torch.testing.assert_close(alone.actions[0], batch.actions[b], rtol=1e-5, atol=1e-6)


def test_candidates_without_a_finite_cost_are_refused(engines) -> None:
    planner = Planner(engines["cuda"], CEM(12, 3, 2), 2)
    with pytest.raises(RuntimeError, match=r"environment\(s\) \[1\] of the batch"):
        planner.plan({"latents": torch.zeros(2, 1, 16)}, torch.tensor([[0.0] * 16, [3e38] * 16]))


def test_the_agent_acts(engines) -> None:
    agents = {name: fastwm.Agent(Planner(engine, CEM(12, 3, 2), 2)) for name, engine in engines.items()}
    for step in range(3):
        frame = FRAMES["latents"][0, 0] + 0.1 * step
        found = {name: agent.act(frame, GOAL[0]) for name, agent in agents.items()}
        torch.testing.assert_close(found["cuda"], found["cpu"], rtol=1e-4, atol=1e-5)


def test_bfloat16_plans_what_the_cpu_plans(gpu_device) -> None:
    imported = specs.imported(SPEC)
    found = {}
    for backend in ("cpu", "cuda"):
        engine = fastwm.compile(imported, backend=backend, dtype="bfloat16")
        with guard():  # without which the interpreter has no bfloat16
            found[backend] = Planner(engine, CEM(12, 3, 2), 2).plan(FRAMES, GOAL, generator=1)
    torch.testing.assert_close(found["cuda"].cost, found["cpu"].cost, rtol=0.05, atol=0.05)


def test_the_dtype_is_judged_on_the_gpu(gpu_device) -> None:
    with pytest.raises(ValueError, match="dtype is 'int8', expected one of"):
        fastwm.compile(specs.imported(SPEC), backend="cuda", dtype="int8")
