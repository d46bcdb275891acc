"""Environments shared out among engines: the plans of one engine."""

from __future__ import annotations

import copy

import pytest
import specs
import torch

import fastwm
from fastwm import CEM, Planner, Replicas

SPEC = specs.transformer(0, E=16, A=2, L=1, H=1, D=16, M=32)
FRAMES = {"latents": torch.randn(5, 2, 16), "past_actions": torch.randn(5, 1, 2)}
GOAL = torch.randn(5, 16)


@pytest.fixture(scope="module")
def engine() -> fastwm.Engine:
    return fastwm.compile(specs.imported(SPEC), backend="cpu", dtype="float32", threads=1)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_plans_are_those_of_one_engine(engine, count: int) -> None:
    search = CEM(24, 4, 3, keep=2)
    one, several = Planner(engine, search, 3), Planner(Replicas([engine] * count), search, 3)
    call = {
        "warm_start": torch.randn(5, 2, 2),
        "proposals": torch.randn(5, 2, 3, 2),
        "noise": torch.randn(3, 5, 24, 3, 2),
    }
    for options in ({}, {"generator": 7, "environments": [3, 1, 4, 1, 5]}, call):
        expected, found = one.plan(FRAMES, GOAL, **options), several.plan(FRAMES, GOAL, **options)
        for name in ("actions", "cost", "mean", "std", "kept"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), name
        for name in ("best_cost", "non_finite"):
            assert torch.equal(found.stats[name], expected.stats[name])
        assert (found.iterations, found.stats["end"]) == (3, "complete")


def test_a_deadline_is_that_of_all(engine) -> None:
    planner = Planner(Replicas([engine, engine]), CEM(24, 4, 1000), 3)
    plan = planner.plan(FRAMES, GOAL, deadline=0.05)
    assert plan.deadline_hit
    assert plan.stats["end"] in ("deadline", "cut")
    assert 0 < plan.iterations < 1000
    assert planner.plan(FRAMES, GOAL, deadline=0.0).stats["end"] == "fallback"


def test_an_error_in_one_part_is_raised(engine) -> None:
    goal = GOAL.clone()
    goal[4] = 3e38
    with pytest.raises(RuntimeError, match=r"environment\(s\) \[4\] of the batch"):
        Planner(Replicas([engine, engine]), CEM(24, 4, 2), 3).plan(FRAMES, goal)


def test_what_does_not_fit_is_refused(engine) -> None:
    other = fastwm.compile(specs.imported(specs.transformer(0, E=20)), backend="cpu", dtype="float32")
    sizes = {"E": 16, "A": 2, "H": 1, "D": 16, "M": 32}
    weights, deeper = (
        fastwm.compile(specs.imported(specs.transformer(seed, L=L, **sizes)), backend="cpu", dtype="float32")
        for seed, L in ((1, 1), (0, 2))
    )
    again = fastwm.compile(specs.imported(copy.deepcopy(SPEC)), backend="cpu", dtype="float32")
    assert len(Replicas([engine, again]).engines) == 2
    for engines, message in (
        ([], "engines is empty"),
        ([engine, object()], r"engines\[1\] is object, expected a fastwm.Engine"),
        ([engine, other], r"engines\[1\] has embed_dim 20, expected 16"),
        (
            [engine, engine, weights],
            r"engines\[2\] has another predictor or other weights, expected those of",
        ),
        ([engine, deeper], r"engines\[1\] has another predictor or other weights"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            Replicas(engines)
    planner = Planner(Replicas([engine, engine]), CEM(24, 4, 2), 3)
    with pytest.raises(ValueError, match="callback is given"):
        planner.plan(FRAMES, GOAL, callback=print)


def test_an_agent_acts_with_replicas(engine) -> None:
    agents = [fastwm.Agent(Planner(model, CEM(24, 4, 2), 3)) for model in (engine, Replicas([engine] * 2))]
    for step in range(3):
        one, several = (agent.act(FRAMES["latents"][:, 0] + 0.1 * step, GOAL) for agent in agents)
        assert torch.equal(one, several)
