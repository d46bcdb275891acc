"""Constraints: what each mode ranks first, and where searches with them end, against closed forms."""

from __future__ import annotations

import dataclasses
import math
import threading

import pytest
import tiny_engine
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_engine import TinyEngine
from torch import Tensor

from fastwm import (
    CEM,
    ICEM,
    ActionPenalty,
    CategoricalCEM,
    Constraint,
    Goal,
    GoalDistance,
    Plan,
    Planner,
    RandomShooting,
)
from fastwm.planning import Cost, Function
from fastwm.planning.costs.lagrangian import AugmentedLagrangian

B, T, A, E = 4, 4, 2, 5
NORMAL = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])
LIMIT = -0.5
CEM_60 = CEM(samples=300, elites=30, iterations=60, std=1.5)


def beyond(latents: Tensor, actions: Tensor) -> Tensor:
    """First number of the last latent at most LIMIT: [B, S]."""
    return latents[:, :, -1, 0] - LIMIT


def problem() -> tuple[dict[str, Tensor], Tensor]:
    return tiny_engine.problem(B, frames=1, A=A, E=E)


def planned(constraint: Cost, search=CEM_60, rows: slice = slice(None), **options) -> Plan:
    obs, goal = problem()
    cost = GoalDistance() + 1.0 * ActionPenalty() + constraint
    row = {"latents": obs["latents"][rows]}
    return Planner(TinyEngine(A, E), search, T, cost=cost).plan(row, goal[rows], generator=1, **options)


def optimum() -> tuple[Tensor, Tensor]:
    """Actions [B, T, A] that make |z_T - g|^2 + |a|^2 least where beyond(z) <= 0, and the constraint's multiplier [B]: a
    ridge regression, moved along H^-1 n to the plane that it is beyond."""
    tiny, (obs, goal) = TinyEngine(A, E), problem()
    free = tiny.optimum(obs, goal, T, penalty=1.0)[0].flatten(1).double()
    stacked = tiny.matrix.double().repeat(T, 1)  # [T A, E]
    hessian = stacked @ stacked.T + torch.eye(T * A, dtype=torch.float64)
    normal = stacked @ NORMAL.double()
    away = torch.linalg.solve(hessian, normal)
    excess = free @ normal + obs["latents"][:, -1, 0] - LIMIT
    multiplier = (excess / (normal @ away)).clamp(min=0.0)
    return (free - multiplier[:, None] * away).view(B, T, A).float(), 2 * multiplier.float()


# ---- an augmented Lagrangian ----


@pytest.mark.parametrize("weight", [0.1, 1.0])
def test_it_ends_at_the_constrained_optimum(weight: float) -> None:
    """In some environments of the batch the constraint binds, in others it does not."""
    exact, multiplier = optimum()
    assert (multiplier > 1).any()
    assert (multiplier == 0).any()
    plan = planned(Constraint(beyond, "augmented", weight))
    assert (plan.actions - exact).abs().max() < 0.03
    assert (plan.stats["violation"] <= 1e-3).all()
    hard = planned(Constraint(beyond))
    assert (hard.actions - exact).abs().max() > 0.1  # a search stops at the edge


def test_the_multipliers_become_those_of_the_optimum() -> None:
    made: list[AugmentedLagrangian] = []

    class Seen(Constraint):
        def begin(self, B: int) -> Cost:
            made.append(super().begin(B))  # type: ignore[arg-type]
            return made[-1]

    planned(Seen(beyond, "augmented"))
    assert torch.allclose(made[0].multipliers[:, 0], optimum()[1], atol=0.1)


def test_many_iterations_of_a_search_that_does_not_narrow() -> None:
    plan = planned(Constraint(beyond, "augmented"), ICEM(samples=100, iterations=100, min_std=0.05))
    assert (plan.stats["violation"] <= 1e-2).all()
    assert (plan.actions - optimum()[0]).abs().max() < 0.3


def test_several_constraints_have_a_multiplier_each() -> None:
    """The last latent in a box: as far from the goal as the box demands."""
    low, high = torch.full((E,), -0.3), torch.full((E,), 0.3)

    def outside(latents: Tensor, actions: Tensor) -> Tensor:
        z = latents[:, :, -1]
        return torch.cat([low - z, z - high], dim=-1)  # [B, S, 2 E]

    engine = TinyEngine(E, E)
    engine.matrix = torch.eye(E)
    obs, goal = tiny_engine.problem(B, frames=1, A=E, E=E)
    cost = GoalDistance() + Constraint(outside, "augmented")
    plan = Planner(engine, CEM(300, 30, 60, min_std=0.02), 1, cost=cost).plan(obs, goal, generator=0)
    landed = obs["latents"][:, -1] + plan.actions[:, 0]
    assert torch.allclose(landed, goal.clamp(low, high), atol=0.05)
    assert (plan.stats["violation"] < 1e-2).all()


def test_a_call_is_the_formula_and_then_an_iteration() -> None:
    random = torch.Generator().manual_seed(0)
    limit = AugmentedLagrangian(lambda z, a: z, rho=2.0, growth=3.0)
    multipliers, rho, before = torch.zeros(B, 2), torch.full((B, 2), 2.0), torch.full((B, 2), math.inf)
    for _ in range(6):
        found = torch.randn(B, 7, 2, generator=random)
        pushed = (multipliers[:, None] + rho[:, None] * found).clamp(min=0.0)
        expected = ((pushed**2 - multipliers[:, None] ** 2) / (2 * rho[:, None])).sum(-1)
        cost = limit(found, found, Goal())
        assert torch.allclose(cost, expected, rtol=1e-4, atol=1e-4)
        violation = found[:, 0].clamp(min=0.0)
        multipliers = (multipliers + rho * found[:, 0]).clamp(min=0.0)
        rho = torch.where(violation > 0.9 * before, 3 * rho, rho)
        before = violation
        assert torch.allclose(limit.multipliers, multipliers, rtol=1e-5)
        assert torch.equal(limit.rho, rho)


def test_a_candidate_that_was_not_evaluated_teaches_nothing() -> None:
    limit = AugmentedLagrangian(lambda z, a: z, rho=2.0, growth=3.0)
    limit(torch.ones(1, 3, 1), torch.ones(1, 3, 1), Goal())
    known = limit.multipliers.clone(), limit.rho.clone()
    cost = limit(torch.full((1, 3, 1), math.nan), torch.ones(1, 3, 1), Goal())
    assert cost.isnan().all()
    assert torch.equal(limit.multipliers, known[0])
    assert torch.equal(limit.rho, known[1])


def test_a_large_multiplier_loses_no_digits() -> None:
    limit = AugmentedLagrangian(lambda z, a: z, rho=1e8, growth=1.0)
    limit(torch.full((1, 1, 1), 100.0), torch.ones(1, 1, 1), Goal())  # lambda = 1e10
    cost = limit(torch.tensor([[[0.0], [1e-6], [2e-6]]]), torch.ones(1, 3, 1), Goal())
    assert torch.allclose(cost, torch.tensor([[0.0, 1e4, 2e4]]), rtol=1e-3)


# ---- hard and soft ----


@settings(max_examples=200, deadline=None)
@given(
    costs=st.tuples(*[st.floats(-1e7, 1e7, width=32)] * 2),
    limits=st.tuples(*[st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=2)] * 2),
)
def test_hard_constraints_come_before_every_cost(costs, limits) -> None:
    """Of two candidates the allowed one is cheaper, of two that are forbidden the one of less violation."""
    found = torch.tensor([limits])  # [1, 2, 2]
    worst = found.clamp(min=0.0).amax(-1)[0].double()
    price = torch.tensor([costs]) + Constraint(lambda z, a: found)(
        found[:, :, None], found[:, :, None], Goal()
    )
    assert price.isfinite().all()
    one, two = price[0].tolist()
    if (worst[0] > 0) != (worst[1] > 0):
        assert (one < two) == (worst[0] == 0)
    elif worst[0] > 0 and (worst[0] / (1 + worst[0]) - worst[1] / (1 + worst[1])).abs() > 3e-6:
        assert (one < two) == (worst[0] < worst[1])
    elif worst[0] == 0:
        assert [one, two] == torch.tensor(costs).tolist()


@pytest.mark.parametrize(("mode", "min_std"), [("hard", 0.0), ("augmented", 0.2)])
def test_where_nothing_is_allowed_the_violation_is_made_least(mode: str, min_std: float) -> None:
    """A number that no action brings below 1, at best where all actions are 2."""

    def impossible(latents: Tensor, actions: Tensor) -> Tensor:
        return 1 + (actions - 2).square().mean((2, 3))

    search = CEM(samples=300, elites=30, iterations=60, std=1.5, min_std=min_std)
    plan = planned(Constraint(impossible, mode), search)  # type: ignore[arg-type]
    assert plan.stats["non_finite"].tolist() == [0] * B
    assert ((plan.stats["violation"] >= 1) & (plan.stats["violation"] < 1.1)).all()
    assert (plan.actions - 2).square().mean((1, 2)).max() < 0.1


def test_the_way_round_a_forbidden_place() -> None:
    """From (-1, 0) to (1, 0) with an obstacle between; every step of the plan stays out of it."""
    plane = TinyEngine(2, 2)
    plane.matrix = torch.eye(2)

    def inside(latents: Tensor, actions: Tensor) -> Tensor:
        return (0.5 - latents.norm(dim=-1)).amax(-1)  # [B, S]

    obs, goal = {"latents": torch.tensor([[[-1.0, 0.0]]])}, torch.tensor([1.0, 0.0])
    cost = GoalDistance() + 0.05 * ActionPenalty()
    free = Planner(plane, CEM(500, 25, 30), 4, cost=cost).plan(obs, goal, generator=0)
    path = obs["latents"][:, 0] + free.actions[0].cumsum(0)
    assert path.norm(dim=-1).min() < 0.2
    for mode in ("hard", "augmented"):
        plan = Planner(plane, CEM(500, 25, 30), 4, cost=cost + Constraint(inside, mode)).plan(
            obs, goal, generator=0
        )
        path = obs["latents"][:, 0] + plan.actions[0].cumsum(0)
        assert path.norm(dim=-1).min() > 0.49
        assert (path[-1] - goal).norm() < 0.3
        assert torch.allclose(plan.stats["violation"], (0.5 - path.norm(dim=-1)).amax().clamp(min=0.0)[None])


def test_soft_penalties_are_weighted_violations() -> None:
    random = torch.Generator().manual_seed(0)
    latents, actions = torch.randn(2, 3, T, E, generator=random), torch.randn(2, 3, T, A, generator=random)

    def two(latents: Tensor, actions: Tensor) -> Tensor:
        return torch.stack([latents[:, :, -1, 0], actions[:, :, 0, 0] - 0.1], dim=-1)

    over = two(latents, actions).clamp(min=0.0)
    for penalty, each in (("squared", over**2), ("absolute", over)):
        soft = Constraint(two, "soft", 3.0, penalty=penalty)  # type: ignore[arg-type]
        assert torch.allclose((2.0 * soft)(latents, actions, Goal()), 6 * each.sum(-1))
        assert torch.equal(soft.violation(latents, actions), over.amax(-1))
    one = Constraint(lambda z, a: two(z, a)[..., 0], "soft")
    assert torch.allclose(one(latents, actions, Goal()), over[..., 0] ** 2)


def test_a_heavier_penalty_violates_less() -> None:
    light, heavy = (planned(Constraint(beyond, "soft", w)).stats["violation"] for w in (1.0, 30.0))
    assert (heavy <= light).all()
    assert heavy.max() < 0.3 * light.max()


@pytest.mark.parametrize("mode", ["hard", "soft", "augmented"])
def test_gradients_reach_latents_and_actions(mode: str) -> None:
    """Downhill is less violation, in a search or not."""
    random = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 3, T, E, generator=random).abs().requires_grad_()
    actions = torch.rand(2, 3, T, A, generator=random).requires_grad_()
    constraint = Constraint(lambda z, a: z[:, :, -1, 0] + a[:, :, -1, 0], mode)  # type: ignore[arg-type]
    for cost in (constraint, constraint.begin(2)):
        for gradient in torch.autograd.grad(cost(latents, actions, Goal()).sum(), (latents, actions)):
            assert (gradient[:, :, -1, 0] > 0).all()
            assert not gradient[:, :, :-1].any()


# ---- in a plan ----


@pytest.mark.parametrize("mode", ["hard", "soft", "augmented"])
def test_a_batch_is_its_environments_one_by_one(mode: str) -> None:
    constraint = 0.5 * Constraint(beyond, mode)  # type: ignore[arg-type]
    batch = planned(constraint, CEM(samples=65, elites=7, iterations=12))
    for b in range(B):
        alone = planned(
            constraint, CEM(samples=65, elites=7, iterations=12), slice(b, b + 1), environments=[b]
        )
        for field in ("actions", "cost", "mean", "std"):
            assert torch.equal(getattr(alone, field)[0], getattr(batch, field)[b]), field
        assert alone.stats["violation"][0] == batch.stats["violation"][b]


def test_plans_in_several_threads_share_no_multipliers() -> None:
    obs, goal = problem()
    cost = GoalDistance() + Constraint(beyond, "augmented")
    planner = Planner(TinyEngine(A, E), CEM(samples=50, elites=5, iterations=20), T, cost=cost)
    expected = [planner.plan(obs, goal + i, generator=i).actions for i in range(4)]
    found: dict[int, Tensor] = {}

    def plan(i: int) -> None:
        found[i] = planner.plan(obs, goal + i, generator=i).actions

    threads = [threading.Thread(target=plan, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[i], expected[i]) for i in range(4))


@pytest.mark.parametrize("return_best", [False, True])
@pytest.mark.parametrize("mode", ["hard", "augmented"])
def test_an_allowed_plan_is_preferred(mode: str, return_best: bool) -> None:
    """Allowed is outside of a ring that the mean of a search lies in at first, and early candidates of low cost with it."""

    def near(latents: Tensor, actions: Tensor) -> Tensor:
        return 1.0 - actions.abs().amax((2, 3))

    search = CEM(samples=40, elites=20, iterations=2, std=1.0, return_best=return_best)
    plan = planned(Constraint(near, mode), search)  # type: ignore[arg-type]
    assert (near(plan.mean, plan.mean[:, None]) > 0).any()
    assert (near(plan.actions, plan.actions[:, None]) <= 0).all()
    assert not plan.stats["violation"].any()


def test_of_two_allowed_plans_the_cheaper_is_returned() -> None:
    obs, goal = problem()
    search = CEM(samples=30, elites=15, iterations=3, std=2.0)
    cost = GoalDistance() + Constraint(lambda z, a: a[:, :, 0, 0] - 100)
    plan = Planner(TinyEngine(A, E), search, T, cost=cost).plan(obs, goal, generator=0)
    latents = TinyEngine(A, E).rollout(obs["latents"], torch.stack([plan.mean, plan.actions], 1))
    mean, taken = (latents - goal[:, None]).square().sum(-1).unbind(1)
    assert not plan.stats["violation"].any()
    assert torch.allclose(taken, torch.minimum(mean, plan.stats["best_cost"]), rtol=1e-5)
    assert (taken < mean).any()


def test_the_mean_may_be_better_than_the_best_candidate() -> None:
    """So with constraints a search that would return the best returns the same plan as one that would return the mean."""
    search = CEM(samples=30, elites=15, iterations=4, std=1.5)
    limit = Constraint(beyond, "augmented")
    mean, best = (planned(limit, dataclasses.replace(search, return_best=x)) for x in (False, True))
    assert torch.equal(mean.actions, best.actions)
    taken = (mean.actions == mean.mean).flatten(1).all(1)
    assert taken.any()
    assert not taken.all()


def test_without_time_for_a_search_the_fallback_is_judged_too() -> None:
    warm = torch.ones(B, T, A)
    limit = Constraint(lambda z, a: a[:, :, 0, 0] - 0.25)
    plan = planned(limit, deadline=0.0, warm_start=warm)
    assert torch.equal(plan.actions, warm)
    assert plan.stats["violation"].tolist() == [0.75] * B
    obs, goal = problem()
    zero = Planner(
        TinyEngine(A, E), CEM_60, T, cost=Function(lambda z, a: a.sum((2, 3))) + limit, fallback="zero"
    )
    plan = zero.plan(
        obs, goal, deadline=0.0, warm_start=-warm
    )  # allowed and cheaper, but not what was asked for
    assert not plan.actions.any()
    assert not plan.stats["violation"].any()


def test_a_plan_without_constraints_says_nothing_of_violations() -> None:
    assert "violation" not in planned(Smoothless()).stats


class Smoothless(Cost):
    def __call__(self, latents, actions, goal, *, threads=1):
        return torch.zeros(actions.shape[:2])


# ---- what is refused ----


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Constraint(1), TypeError, "function is int"),
        (lambda: Constraint(beyond, "firm"), ValueError, "mode is 'firm'"),
        (lambda: Constraint(beyond, penalty="cubic"), ValueError, "penalty is 'cubic'"),
        (lambda: Constraint(beyond, weight=0), ValueError, "weight is 0"),
        (lambda: Constraint(beyond, weight=math.inf), ValueError, "weight is inf"),
        (lambda: Constraint(beyond, weight=True), ValueError, "weight is True"),
        (lambda: Constraint(beyond, growth=0.9), ValueError, "growth is 0.9"),
        (lambda: -1 * Constraint(beyond), ValueError, "a constraint, is -1"),
        (lambda: GoalDistance() + 0 * Constraint(beyond), ValueError, "expected more than 0"),
        (lambda: -1 * (GoalDistance() + Constraint(beyond)), ValueError, "expected more than 0"),
    ],
)
def test_bad_arguments_are_refused(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda z, a: z, ValueError, r"constraint returned .* expected \[4, 300\] or \[4, 300, any\]"),
        (lambda z, a: z[:, :, 0, :0], ValueError, "constraint returned"),
        (lambda z, a: 0.0, TypeError, "constraint returned float"),
        (lambda z: z, RuntimeError, "constraint failed on tensors of shape"),
    ],
)
@pytest.mark.parametrize("mode", ["hard", "augmented"])
def test_what_a_function_gets_wrong_is_said(mode, function, error, message) -> None:
    with pytest.raises(error, match=message):
        planned(Constraint(function, mode))


@pytest.mark.parametrize(
    ("search", "mean"),
    [(CategoricalCEM(30, 6, 1, categories=3), 1 / 3), (RandomShooting(30, low=-1.0, high=1.0), 30.0)],
    ids=["one-hot", "bounds"],
)
def test_the_final_mean_is_an_action_before_it_is_chosen(search, mean: float) -> None:
    """Probabilities, and a warm start from outside the bounds, are none, and the goal is where they lead."""
    engine, obs = TinyEngine(3, 4), {"latents": torch.zeros(2, 1, 4)}
    start = torch.full((2, 2, 3), mean)
    goal = engine.rollout(obs["latents"], start[:, None])[:, 0]
    allowed = Constraint(lambda latents, actions: -actions.square().sum((-1, -2)))
    planner = Planner(engine, search, 2, cost=GoalDistance() + allowed)
    plan = planner.plan(obs, goal, warm_start=start, generator=1)
    assert torch.equal(plan.actions, search.clip(plan.actions))
