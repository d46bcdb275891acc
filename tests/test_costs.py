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


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda z, a: z, ValueError, r"cost returned a tensor of shape .* expected \[3, 300\]"),
        (lambda z, a: 1.0, TypeError, "cost returned float, expected a tensor"),
        (lambda z, a: torch.zeros(3, 300, dtype=torch.complex64), TypeError, "cost returned torch.complex64"),
        (lambda z, a: z @ a, RuntimeError, r"cost failed on tensors of shape \(3, 300, 4, 5\) and \(3, 300, 4, 2\)"),
    ],
)  # fmt: skip
def test_what_a_function_gets_wrong_is_said(function, error, message) -> None:
    with pytest.raises(error, match=message):
        Planner(engine(), CEM(), T, cost=function).plan(*problem())


def test_a_function_may_return_whole_numbers() -> None:
    plan = Planner(engine(), CEM(), T, cost=lambda z, a: (a[:, :, 0, 0] < 1).long()).plan(problem()[0])
    assert plan.stats["best_cost"].tolist() == [0.0] * B


def test_a_cost_that_changes_is_begun_for_every_plan_and_others_are_not() -> None:
    class Counting(Cost):
        def __init__(self) -> None:
            self.begun = 0

        def begin(self, B: int) -> Cost:
            self.begun += B
            return Counting()

        def __call__(self, latents, actions, goal, *, threads=1):
            return torch.zeros(actions.shape[:2])

    plain, changing = GoalDistance() + ActionPenalty(), Counting()
    assert plain.begin(3) is plain
    total = plain + changing
    assert total.begin(3) is not total
    Planner(engine(), CEM(iterations=2), T, cost=total).plan(*problem())
    assert changing.begun == 3 + B


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
