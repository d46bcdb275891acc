"""Distances to goals: every metric and reduction, several goals, states read by a probe; against plain formulas."""

from __future__ import annotations

import itertools

import pytest
import tiny_engine
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_engine import TinyEngine
from torch import Tensor

import fastwm
from fastwm import CEM, Goal, GoalDistance, Planner
from fastwm.planning.costs.goal_distance import in_order
from fastwm.planning.goal import make_goal

B, S, T, G, A, E, P = 3, 7, 4, 2, 2, 5, 3
METRICS = {
    "squared": lambda z, g: (z - g).square().sum(-1),
    "absolute": lambda z, g: (z - g).abs().sum(-1),
    "cosine": lambda z, g: 1 - (z * g).sum(-1) / (z.norm(dim=-1) * g.norm(dim=-1)),
    "euclidean": lambda z, g: (z - g).norm(dim=-1),
}
REDUCTIONS = {"last": lambda d: d[..., -1], "min": lambda d: d.amin(-1), "mean": lambda d: d.mean(-1)}
WEIGHTS = (1.0, 2.0, 4.0, 8.0)
PROBE = torch.randn(E, P, generator=torch.Generator().manual_seed(9))


def problem(goals: int = G, size: int = E) -> tuple[Tensor, Tensor, Tensor]:
    """latents [B, S, T, E], actions, goals [B, goals, size]"""
    random = torch.Generator().manual_seed(0)
    return tuple(torch.randn(*n, generator=random) for n in ((B, S, T, E), (B, S, T, A), (B, goals, size)))  # type: ignore[return-value]


def brute_force(distance: Tensor) -> Tensor:
    """[B, G, S, T] -> [B, S], over every t_1 <= ... <= t_G."""
    G, T = distance.shape[1], distance.shape[3]
    each = [
        sum(distance[:, g, :, t] for g, t in enumerate(times))
        for times in itertools.combinations_with_replacement(range(T), G)
    ]
    return torch.stack(each).amin(0)


# name -> (cost, the same of latents and goals [B, G, n] in plain PyTorch)
VARIANTS = {
    f"{metric} {reduce}": (
        GoalDistance(metric, reduce),  # type: ignore[arg-type]
        lambda z, g, m=METRICS[metric], r=REDUCTIONS[reduce]: r(m(z[:, None], g[:, :, None, None])).amin(1),
    )
    for metric in METRICS
    for reduce in REDUCTIONS
}
VARIANTS |= {
    "weighted": (
        GoalDistance("absolute", weights=WEIGHTS),
        lambda z, g: (
            (METRICS["absolute"](z[:, None], g[:, :, None, None]) * torch.tensor(WEIGHTS)).sum(-1).amin(1)
        ),
    ),
    "in order": (
        GoalDistance("euclidean", reach="all"),
        lambda z, g: brute_force(METRICS["euclidean"](z[:, None], g[:, :, None, None])),
    ),
    "probe": (
        GoalDistance(reduce="min", probe=lambda z: z @ PROBE),
        lambda z, g: METRICS["squared"]((z @ PROBE)[:, None], g[:, :, None, None]).amin((1, 3)),
    ),
}


def goal_of(cost: GoalDistance, goals: Tensor) -> Goal:
    return Goal(latents=goals) if cost.probe is None else Goal(state=goals)


@pytest.mark.parametrize("goals", [1, G])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_cost_and_its_gradient_are_those_of_the_formula(name: str, goals: int) -> None:
    cost, formula = VARIANTS[name]
    latents, actions, targets = problem(goals, P if name == "probe" else E)
    seen = latents if cost.keep == "all" else latents[:, :, -1]
    found = cost(seen, actions, goal_of(cost, targets))
    assert torch.allclose(found, formula(latents, targets), rtol=1e-5, atol=1e-6)
    ours, theirs = (latents.clone().requires_grad_() for _ in range(2))
    (
        (cost(ours if cost.keep == "all" else ours[:, :, -1], actions, goal_of(cost, targets))) ** 2
    ).sum().backward()
    (formula(theirs, targets) ** 2).sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    assert ours.grad.abs().max() > 0


@pytest.mark.parametrize("name", VARIANTS)
def test_a_batch_is_its_environments_one_by_one(name: str) -> None:
    cost, _ = VARIANTS[name]
    obs, _ = tiny_engine.problem(B, frames=1, A=A, E=E)
    _, _, targets = problem(G, P if name == "probe" else E)
    planner = Planner(TinyEngine(A, E), CEM(samples=33, elites=5, iterations=2), T, cost=cost)
    batch = planner.plan(obs, goal_of(cost, targets), generator=1)
    for b in range(B):
        alone = planner.plan(
            {"latents": obs["latents"][b : b + 1]},
            goal_of(cost, targets[b : b + 1]),
            generator=1,
            environments=[b],
        )
        if name != "probe":  # a matrix product is another one for another number of rows
            assert torch.equal(alone.mean[0], batch.mean[b])
            assert torch.equal(alone.cost[0], batch.cost[b])
        assert torch.allclose(alone.mean[0], batch.mean[b], atol=1e-5)


def test_the_gradient_is_finite_at_the_goal() -> None:
    latents = torch.ones(1, 1, 1, E, requires_grad=True)
    cost = GoalDistance("euclidean")(latents, torch.zeros(1, 1, 1, A), Goal(torch.ones(1, 1, E)))
    cost.backward()
    assert cost.item() < 1e-6
    assert latents.grad.isfinite().all()


# ---- all goals, in order ----


@settings(max_examples=60, deadline=None)
@given(goals=st.integers(1, 4), steps=st.integers(1, 5), seed=st.integers(0, 2**31), data=st.data())
def test_the_order_costs_what_the_best_assignment_costs(goals: int, steps: int, seed: int, data) -> None:
    random = torch.Generator().manual_seed(seed)
    distance = torch.rand(2, goals, 3, steps, generator=random)
    found = in_order(distance)
    assert torch.allclose(found, brute_force(distance), atol=1e-6)
    times = sorted(data.draw(st.lists(st.integers(0, steps - 1), min_size=goals, max_size=goals)))
    some = sum(distance[:, g, :, t] for g, t in enumerate(times))
    assert (found <= some + 1e-6).all()
    reached = torch.tensor(data.draw(st.lists(st.integers(0, goals), min_size=2, max_size=2)))
    behind = in_order(distance, reached)
    assert (behind <= found + 1e-6).all()
    for b in range(2):
        ahead = distance[b : b + 1, min(int(reached[b]), goals - 1) :]
        assert torch.allclose(behind[b], brute_force(ahead)[0], atol=1e-6)


def test_an_order_that_needs_going_back_costs() -> None:
    """The path passes b, then a: 'any order' would cost nothing."""
    a, b = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    path = torch.stack([b, a])[None, None]  # [1, 1, 2, 2]
    cost = GoalDistance(reach="all")
    forth, back = (cost(path, path, Goal(torch.stack(order)[None])).item() for order in ((b, a), (a, b)))
    assert forth == 0.0
    assert back == 2.0


def test_a_plan_visits_the_goals_in_their_order_and_skips_those_behind() -> None:
    """One number, one action of at most 1 a block: from 0 to 2, then to -1, in five blocks."""
    line = TinyEngine(1, 1)
    line.matrix = torch.ones(1, 1)
    obs = {"latents": torch.zeros(2, 1, 1)}
    goals = torch.tensor([[2.0], [-1.0]]).expand(2, 2, 1)
    planner = Planner(line, CEM(300, 30, 40, low=-1.0, high=1.0), 5, cost=GoalDistance(reach="all"))
    plan = planner.plan(obs, Goal(goals, reached=torch.tensor([0, 1])), generator=0)
    path = plan.actions.cumsum(1)[..., 0]
    assert (path[0, 1] - 2).abs() < 0.02
    assert (path[0, 4] + 1).abs() < 0.02
    assert (path[1] + 1).abs().amin() < 0.02
    assert path[1].amax() < 1.9
    nearest = Planner(line, CEM(300, 30, 40, low=-1.0, high=1.0), 5).plan(obs, Goal(goals), generator=0)
    assert (nearest.actions.sum(1)[:, 0] + 1).abs().amax() < 0.02


# ---- a state as a goal ----


def test_a_probe_makes_the_goal_a_state() -> None:
    tiny = TinyEngine(A, E)
    obs, _ = tiny_engine.problem(B, frames=1, A=A, E=E)
    torch.manual_seed(0)
    probe = torch.nn.utils.parametrizations.orthogonal(torch.nn.Linear(E, 2))
    planner = Planner(tiny, CEM(iterations=40), T, cost=GoalDistance(probe=probe))
    state = torch.tensor([1.0, -2.0])
    plan = planner.plan(obs, {"state": state}, generator=0)
    latents = tiny.rollout(obs["latents"], plan.actions[:, None])[:, 0]
    assert (probe(latents) - state).abs().max() < 0.02
    with pytest.raises(ValueError, match="goal has no state, which the cost needs"):
        planner.plan(obs, torch.zeros(E))


def test_a_sum_may_need_latents_and_a_state() -> None:
    cost = GoalDistance() + GoalDistance(probe=lambda z: z @ PROBE)
    latents, actions, goals = problem(1)
    state = torch.randn(B, 1, P, generator=torch.Generator().manual_seed(1))
    assert cost.needs == {"latents", "state"}
    found = cost(latents[:, :, -1], actions, Goal(goals, state))
    expected = VARIANTS["squared last"][1](latents, goals) + METRICS["squared"](
        latents[:, :, -1] @ PROBE, state
    )
    assert torch.allclose(found, expected, rtol=1e-5)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metric": "l2"}, ValueError, "metric is 'l2'"),
        ({"reduce": "sum"}, ValueError, "reduce is 'sum'"),
        ({"reach": "both"}, ValueError, "reach is 'both'"),
        ({"reach": "all", "reduce": "min"}, ValueError, "reach is 'all'"),
        ({"reach": "all", "weights": (1.0,)}, ValueError, "reach is 'all'"),
        ({"weights": ()}, ValueError, r"weights is \(\)"),
        ({"weights": (0, 0)}, ValueError, "weights is"),
        ({"weights": (1, float("nan"))}, ValueError, "weights is"),
        ({"weights": (1, -1)}, ValueError, "weights is"),
        ({"weights": 2.0}, TypeError, "weights is float"),
        ({"weights": ("1",)}, TypeError, "weights is"),
        ({"probe": 1}, TypeError, "probe is int"),
    ],
)
def test_bad_options_are_refused(options, error, message) -> None:
    with pytest.raises(error, match=message):
        GoalDistance(**options)


def broken(latents: Tensor) -> Tensor:
    return latents @ torch.zeros(E + 1, P)


@pytest.mark.parametrize(
    ("cost", "error", "message"),
    [
        (GoalDistance(weights=(1.0, 2.0)), ValueError, "weights has 2 numbers, expected 4"),
        (GoalDistance(probe=lambda z: z[..., 0]), ValueError, r"probe returned .* \(3, 7\), expected \[3, 7, 3\]"),
        (GoalDistance(probe=lambda z: z), ValueError, "probe returned a tensor of shape"),
        (GoalDistance(probe=lambda z: z.numpy()), TypeError, "probe returned ndarray"),
        (GoalDistance(probe=broken), RuntimeError, r"probe failed on tensors of shape \(3, 7, 5\): mat1"),
    ],
)  # fmt: skip
def test_what_a_probe_or_weights_get_wrong_is_said(cost, error, message) -> None:
    latents, actions, goals = problem(1, E if cost.probe is None else P)
    seen = latents if cost.keep == "all" else latents[:, :, -1]
    with pytest.raises(error, match=message):
        cost(seen, actions, goal_of(cost, goals))


def test_a_cost_that_finds_no_goal_says_so() -> None:
    latents, actions, goals = problem()
    with pytest.raises(ValueError, match="goal has no latents"):
        GoalDistance()(latents, actions, Goal(state=goals))


@pytest.mark.parametrize(
    ("goal", "error", "message"),
    [
        (Goal(torch.zeros(2, 1, E)), ValueError, r"goal holds \[2\] environments, expected 3"),
        (Goal(torch.zeros(B, E)), ValueError, r"goal.latents has shape \(3, 5\)"),
        (Goal(torch.zeros(B, 1, E + 1)), ValueError, "goal.latents has shape"),
        (Goal(torch.full((B, 1, E), torch.nan)), ValueError, "goal.latents holds numbers"),
        (Goal(torch.zeros(B, 0, E)), ValueError, "expected at least one goal"),
        (Goal(state=torch.zeros(B, 1)), ValueError, "goal.state has shape"),
        (Goal(torch.zeros(B, 2, E), reached=torch.zeros(B)), ValueError, "goal.reached is torch.float32"),
        (Goal(torch.zeros(B, 2, E), reached=torch.tensor([0, 1, 3])), ValueError, "numbers from 0 to 2"),
    ],
)
def test_a_goal_that_does_not_fit_is_refused(goal, error, message) -> None:
    with pytest.raises(error, match=message):
        make_goal(TinyEngine(A, E), goal, B)


def test_it_is_public() -> None:
    assert fastwm.GoalDistance("squared", "min") == GoalDistance("squared", "min")
    assert GoalDistance(weights=[1, 2]) == GoalDistance(weights=(1.0, 2.0))
