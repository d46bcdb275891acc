"""Gradient descent: Adam's own steps, the known optimum, limits that hold, and restarts that fail alone."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import tiny_engine
import torch
from tiny_engine import TinyEngine
from tiny_models import random_model

import fastwm
from fastwm import ActionPenalty, GoalDistance, GradientDescent, Planner
from fastwm.planning import Iteration

B, K, T, A, E = 3, 2, 4, 2, 5


def problem() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    return tiny_engine.problem(B, frames=K, A=A, E=E)


def planner(search: GradientDescent) -> Planner:
    return Planner(TinyEngine(A, E), search, T, cost=GoalDistance() + 1.0 * ActionPenalty())


def test_it_finds_the_optimum_of_a_linear_world() -> None:
    obs, goal = problem()
    plan = planner(GradientDescent(samples=4, iterations=300)).plan(obs, goal, generator=1)
    optimum, cost = TinyEngine(A, E).optimum(obs, goal, T, penalty=1.0)
    assert (plan.actions - optimum).abs().max() < 1e-3
    torch.testing.assert_close(plan.stats["best_cost"], cost, rtol=1e-4, atol=0)


def test_its_steps_are_those_of_adam_in_units_of_the_std() -> None:
    seen: list[Iteration] = []
    obs, goal = problem()
    engine = TinyEngine(A, E)
    engine.action_std = torch.tensor([0.3, 2.0])
    search = GradientDescent(samples=6, iterations=12, learning_rate=0.05, std=1.5, return_best=False)
    plan = Planner(engine, search, T).plan(obs, goal, generator=1, callback=seen.append)
    assert torch.equal(seen[0].actions[:, 0], torch.zeros(B, T, A))
    unit = 1.5 * engine.action_std
    scaled = torch.nn.Parameter(seen[0].actions.double() / unit)
    adam = torch.optim.Adam([scaled], lr=0.05)
    for it in seen:
        assert (it.actions - scaled * unit).abs().max() < 1e-5
        adam.zero_grad()
        latents = engine.rollout(obs["latents"], scaled * unit, obs["past_actions"])
        cost = (latents - goal[:, None]).square().sum(-1)  # [B, S]
        cost.sum().backward()
        adam.step()
    best = (scaled * unit)[torch.arange(B), cost.argmin(1)]
    assert (plan.actions - best).abs().max() < 1e-5
    assert torch.equal(plan.std, unit.expand(B, T, A))


def test_restarts_stay_in_their_trust_region_and_within_bounds() -> None:
    seen: list[Iteration] = []
    obs, goal = problem()
    search = GradientDescent(samples=5, iterations=30, trust_region=0.4, std=0.5, low=-0.7, high=0.7)
    planner(search).plan(obs, goal + 100, generator=1, callback=seen.append)
    first, last = seen[0].actions, seen[-1].actions
    limits = (first - 0.2).clamp_min(-0.7), (first + 0.2).clamp_max(0.7)
    for it in seen:
        assert (it.actions >= limits[0] - 1e-6).all()
        assert (it.actions <= limits[1] + 1e-6).all()
    at_an_edge = (last - limits[0]).abs().minimum((last - limits[1]).abs()) < 1e-6
    assert at_an_edge.all(), "a goal this far away pulls every action to a limit"
    assert (last.abs() < 0.69).any()
    assert (last.abs() == 0.7).any()


def test_a_restart_that_fails_leaves_the_others_as_they_are() -> None:
    """Restart 1 has no cost, restart 2 no gradient: those do not move, and all others move as they would have."""

    class Broken(GoalDistance):
        def __call__(self, latents, actions, goal, *, threads=1):  # type: ignore[no-untyped-def]
            cost = super().__call__(latents, actions, goal, threads=threads)
            scale = torch.ones(cost.shape[1])
            scale[1] = math.nan
            costs = (cost * scale).unbind(1)
            bad = (actions[:, 2, 0, 0] * 0).sqrt()  # 0, and its gradient is NaN
            return torch.stack([*costs[:2], costs[2] + bad, *costs[3:]], dim=1)

    def run(cost: GoalDistance) -> tuple[fastwm.Plan, list[Iteration]]:
        seen: list[Iteration] = []
        search = GradientDescent(samples=5, iterations=10, return_best=False)
        plan = Planner(TinyEngine(A, E), search, T, cost=cost).plan(
            *problem(), generator=1, callback=seen.append
        )
        return plan, seen

    (plan, broken), (_, whole) = run(Broken()), run(GoalDistance())
    others = [0, 3, 4]
    for one, two in zip(broken, whole, strict=True):
        assert torch.equal(one.actions[:, [1, 2]], broken[0].actions[:, [1, 2]])
        assert torch.equal(one.actions[:, others], two.actions[:, others])
    assert plan.actions.isfinite().all()
    assert (plan.stats["non_finite"] == 10).all()


def test_a_restart_comes_back_from_where_there_is_no_cost() -> None:
    """The least cost lies at the edge of what has one; a single restart, which oversteps it, finds it all the same."""

    def cost(latents: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        total = actions.sum((2, 3))
        return torch.where((actions < -0.5).flatten(2).any(2), math.nan, total)

    obs, goal = problem()
    search = GradientDescent(samples=1, iterations=60, learning_rate=0.2)
    plan = Planner(TinyEngine(A, E), search, T, cost=cost).plan(obs, goal, generator=1)
    assert (plan.stats["non_finite"] > 0).all()
    assert (plan.actions >= -0.5).all()
    assert (plan.actions < -0.49).all()


def test_restarts_begin_at_proposals() -> None:
    seen: list[Iteration] = []
    obs, goal = problem()
    proposals = torch.randn(B, 2, T, A, generator=torch.Generator().manual_seed(0))
    search = GradientDescent(samples=4, iterations=3)
    planner(search).plan(obs, goal, generator=1, proposals=proposals, callback=seen.append)
    assert torch.equal(seen[0].actions[:, 1:3], proposals)
    assert ((seen[1].actions[:, 1:3] - proposals).abs() - 0.1).abs().max() < 1e-4, "Adam's first step"


def test_it_has_converged_when_no_restart_moves() -> None:
    seen: list[Iteration] = []
    obs, goal = problem()
    search = GradientDescent(samples=3, iterations=2000, tolerance=1e-4)
    plan = planner(search).plan(obs, goal, generator=1, callback=seen.append)
    assert plan.stats["end"] == "converged"
    assert 20 < plan.iterations < 2000
    optimum, _ = TinyEngine(A, E).optimum(obs, goal, T, penalty=1.0)
    assert (plan.actions - optimum).abs().max() < 1e-2


def test_a_cost_without_gradient_is_refused() -> None:
    obs, goal = problem()
    blind = Planner(TinyEngine(A, E), GradientDescent(), T, cost=lambda z, a: (z.detach() ** 2).sum((2, 3)))
    with pytest.raises(ValueError, match="the cost carries no gradient"):
        blind.plan(obs, goal)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0, expected a positive number"),
        ({"learning_rate": None}, "learning_rate is None"),
        ({"trust_region": -1.0}, "trust_region is -1.0, expected a positive number"),
        ({"keep": 1}, "keep is 1, expected none: GradientDescent has no use for it"),
        ({"decay": 1.5}, "decay is 1.5"),
    ],
)
def test_options_that_make_no_search_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradientDescent(**options)


def test_an_iteration_without_time_leaves_the_best_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second rollout starts too late: nothing is evaluated, and nothing has a gradient."""
    now, seen = [0.0], []
    monkeypatch.setattr("fastwm.planning.clock.time", SimpleNamespace(perf_counter=lambda: now[0]))

    class Late(TinyEngine):
        def rollout(self, context, actions, *arguments, **options):  # type: ignore[no-untyped-def]
            if not seen:
                return super().rollout(context, actions, *arguments, **options)
            now[0] = 100.0
            return torch.full((*actions.shape[:2], E), math.nan)

    obs, goal = problem()
    late = Planner(Late(A, E), GradientDescent(samples=4, iterations=5), T)
    plan = late.plan(obs, goal, generator=1, deadline=10.0, callback=seen.append)
    assert plan.stats["end"] == "cut"
    assert plan.iterations == len(seen) == 1
    assert torch.equal(plan.actions, seen[0].actions[torch.arange(B), seen[0].cost.argmin(1)])


# ---- through a compiled engine ----


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("changes", [{}, {"predictor": "mlp"}], ids=["adaln", "mlp"])
def test_through_an_engine_a_batch_is_its_environments_one_by_one(backend: str, changes: dict) -> None:
    engine = fastwm.compile(random_model(**changes), backend=backend, dtype="float32", threads=2)
    obs, goal = tiny_engine.problem(B, frames=K, A=2, E=engine.embed_dim)
    search = Planner(engine, GradientDescent(samples=3, iterations=4), T)
    plan = search.plan(obs, goal, generator=1)
    for b in range(B):
        one = {name: value[b : b + 1] for name, value in obs.items()}
        alone = search.plan(one, goal[b : b + 1], generator=1, environments=[b])
        assert torch.equal(alone.actions[0], plan.actions[b])
        assert torch.equal(alone.mean[0], plan.mean[b])
    start = engine.action_mean.expand(B, 1, T, -1)
    latents = engine.rollout(
        obs["latents"], torch.cat([start, plan.actions[:, None]], 1), obs["past_actions"]
    )
    before, after = (latents - goal[:, None]).square().sum(-1).unbind(1)
    assert (after < before).all()
    torch.testing.assert_close(after, plan.stats["best_cost"], rtol=1e-3, atol=0)


def test_both_backends_descend_alike() -> None:
    obs, goal = tiny_engine.problem(B, frames=K, A=2, E=12)
    plans = [
        Planner(
            fastwm.compile(random_model(), backend=backend, dtype="float32"), GradientDescent(3, 4), T
        ).plan(obs, goal, generator=1)
        for backend in ("cpu", "torch")
    ]
    torch.testing.assert_close(plans[0].mean, plans[1].mean, rtol=0, atol=1e-4)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_without_time_nothing_is_rolled_out(backend: str) -> None:
    engine = fastwm.compile(random_model(), backend=backend, dtype="float32", threads=1)
    obs, goal = tiny_engine.problem(B, frames=1, A=2, E=12)
    actions = torch.zeros(B, 3, T, 2, requires_grad=True)
    assert engine.rollout(obs["latents"], actions, seconds=-1.0).isnan().all()
    assert engine.rollout(obs["latents"], actions, seconds=60.0).isfinite().all()
    plan = Planner(engine, GradientDescent(3, 1000), T).plan(obs, goal, deadline=0.05)
    assert plan.actions.isfinite().all()
    assert plan.iterations < 1000


def test_autocast_changes_neither_forward_nor_backward() -> None:
    model = random_model()
    made = Planner(fastwm.compile(model, dtype="float32"), GradientDescent(3, 4), 3)
    obs = {"latents": torch.randn(2, 1, model.config.embed_dim)}
    goal = torch.randn(2, model.config.embed_dim)
    expected = made.plan(obs, goal, generator=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made.plan(obs, goal, generator=1).actions, expected.actions)
