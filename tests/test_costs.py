"""Costs: what they read, how they compose, and what becomes of numbers that are not finite."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_engine import TinyEngine

import fastwm
from fastwm import CEM, ActionPenalty, GoalDistance, Planner
from fastwm.planning import Cost, Goal

B, K, T, A, E = 3, 2, 4, 2, 5


def engine() -> TinyEngine:
    return TinyEngine(A, E)


def problem() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    obs = {
        "latents": torch.randn(B, K, E, generator=random),
        "past_actions": torch.randn(B, K - 1, A, generator=random),
    }
    return obs, torch.randn(B, E, generator=random)


def test_the_rollout_keeps_what_the_cost_reads() -> None:
    tiny, (obs, goal) = engine(), problem()
    for cost, keep in (
        (GoalDistance(), "last"),
        (GoalDistance(reduce="min"), "all"),
        (GoalDistance() + 0.5 * ActionPenalty(), "last"),
        (GoalDistance("cosine") * 2 + GoalDistance(reduce="mean"), "all"),
    ):
        Planner(tiny, CEM(samples=5, elites=2, iterations=1), T, cost=cost).plan(obs, goal)
        assert tiny.kept == keep


def test_costs_compose() -> None:
    random = torch.Generator().manual_seed(0)
    latents, goal = torch.randn(2, 7, 3, E, generator=random), torch.randn(2, E, generator=random)
    actions = torch.randn(2, 7, 3, A, generator=random)
    last, mean, penalty = GoalDistance("absolute"), GoalDistance(reduce="mean"), ActionPenalty()
    total = 2 * (last + 3 * mean) + penalty * 0.5
    expected = (
        2 * (latents[:, :, -1] - goal[:, None]).abs().sum(-1)
        + 6 * (latents - goal[:, None, None]).square().sum(-1).mean(-1)
        + 0.5 * actions.square().sum((2, 3))
    )
    assert torch.allclose(total(latents, actions, Goal(goal[:, None])), expected, rtol=1e-5)


def test_a_cost_of_ones_own() -> None:
    class Above(Cost):
        keep = "all"

        def __call__(self, latents, actions, goal, *, threads=1):
            return latents[..., 0].amax(-1)

    tiny, (obs, goal) = engine(), problem()
    plan = Planner(tiny, CEM(iterations=5), T, cost=Above()).plan(obs, goal, generator=0)
    start = tiny.rollout(obs["latents"], torch.zeros(B, 1, T, A), obs["past_actions"], keep="all")
    assert (plan.cost < start[:, 0, :, 0].amax(-1)).all()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: GoalDistance("l2"), ValueError),
        (lambda: GoalDistance(reduce="sum"), ValueError),
        (lambda: GoalDistance() * math.nan, ValueError),
        (lambda: GoalDistance() * "2", TypeError),
        (lambda: GoalDistance() + 1, TypeError),
        (lambda: fastwm.Sum(()), ValueError),
        (lambda: fastwm.Sum(((1.0, "x"),)), TypeError),
        (lambda: Planner(engine(), CEM(), T, cost="x"), TypeError),
    ],
)
def test_bad_costs_are_refused(make, error) -> None:
    with pytest.raises(error):
        make()


# ---- costs that are not finite ----


class Holes(Cost):
    """Infinite or NaN for the candidates `bad` of environment 1."""

    def __init__(self, bad: slice, value: float) -> None:
        self.bad, self.value = bad, value

    def __call__(self, latents, actions, goal, *, threads=1):
        cost = GoalDistance()(latents, actions, goal)
        cost[1, self.bad] = self.value
        return cost


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_cost_that_is_not_finite_counts_as_worst(value: float) -> None:
    planner = Planner(engine(), CEM(samples=30, elites=5, iterations=4), T, cost=Holes(slice(5, 25), value))
    obs, goal = problem()
    plan = planner.plan(obs, goal, generator=0)
    assert plan.stats["non_finite"].tolist() == [0, 80, 0]
    assert plan.cost.isfinite().all()
    assert plan.actions.isfinite().all()


def test_no_finite_candidate_is_an_error_that_names_the_environment() -> None:
    planner = Planner(engine(), CEM(samples=30, elites=5, iterations=2), T, cost=Holes(slice(None), math.nan))
    with pytest.raises(RuntimeError, match=r"every candidate .* environment\(s\) \[1\]"):
        planner.plan(*problem())
