"""Costs over an ensemble of models: against loops over its members, and against sorting by hand."""

from __future__ import annotations

import dataclasses
import math
import time

import pytest
import tiny_engine
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_engine import TinyEngine
from torch import Tensor

import fastwm
from fastwm import (
    CEM,
    ActionPenalty,
    Constraint,
    Ensemble,
    Goal,
    GoalDistance,
    Planner,
    Reward,
    Risk,
    Smoothness,
    Value,
)

B, S, T, A, E, M = 3, 7, 4, 2, 5, 4


def members(count: int = M, **options) -> list[TinyEngine]:
    engines = [TinyEngine(A, E, **options) for _ in range(count)]
    random = torch.Generator().manual_seed(3)
    for engine in engines[1:]:
        engine.matrix = engine.matrix + 0.3 * torch.randn(A, E, generator=random)
    return engines


def on(device: str) -> TinyEngine:
    engine = TinyEngine(A, E)
    engine.device = torch.device(device)
    return engine


def problem() -> tuple[dict[str, Tensor], Tensor]:
    return tiny_engine.problem(B, frames=2, A=A, E=E)


# ---- the ensemble ----


@pytest.mark.parametrize("keep", ["last", "all"])
def test_an_ensemble_is_its_members_one_by_one(keep) -> None:
    engines, (obs, _) = members(), problem()
    ensemble = Ensemble(engines)
    actions = torch.randn(B, S, T, A, generator=torch.Generator().manual_seed(0))
    found = ensemble.rollout(obs["latents"], actions, obs["past_actions"], keep=keep)
    for engine, latents in zip(engines, found, strict=True):
        assert torch.equal(latents, engine.rollout(obs["latents"], actions, obs["past_actions"], keep=keep))
    assert (ensemble.embed_dim, ensemble.action_dim, ensemble.window) == (E, A, 3)
    frame = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8)
    assert torch.equal(ensemble.encode(frame), engines[0].encode(frame))
    assert ensemble.observation_dims == 3


def test_the_time_is_shared_by_the_members_that_still_have_to_run() -> None:
    given: list[float] = []

    class Timed(TinyEngine):
        def rollout(self, *arguments, seconds=None, **options):
            given.append(seconds)
            return super().rollout(*arguments, **options)

    context, actions = torch.zeros(1, 1, E), torch.zeros(1, 1, 1, A)
    slow = Ensemble([Timed(A, E, delay=0.05), Timed(A, E), Timed(A, E)])
    started = time.perf_counter()
    slow.rollout(context, actions, seconds=60.0)
    taken = time.perf_counter() - started
    assert (60.0 - taken) / 3 <= given[0] <= 20.0
    assert (60.0 - taken) / 2 <= given[1] <= (60.0 - 0.05) / 2
    assert 60.0 - taken <= given[2] <= 60.0 - 0.05
    given.clear()
    slow.rollout(context, actions)
    assert given == [None] * 3


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Ensemble([]), ValueError, "engines is empty"),
        (lambda: Ensemble([TinyEngine(A, E), "x"]), TypeError, r"engines\[1\] is str"),
        (lambda: Ensemble([TinyEngine(A, E), TinyEngine(A, E + 1)]), ValueError, r"engines\[1\] has embed_dim 6, expected 5"),
        (lambda: Ensemble([TinyEngine(A, E), TinyEngine(A + 1, E)]), ValueError, "action_dim 3, expected 2"),
        (lambda: Ensemble([on("cuda:0"), on("cuda:1")]), ValueError, r"\['cuda:0', 'cuda:1'\], expected one device"),
        (lambda: Risk(3), TypeError, "cost is int"),
        (lambda: Risk(Risk(GoalDistance())), ValueError, "a single model's latents"),
        (lambda: Risk(GoalDistance(), "best"), ValueError, "measure is 'best'"),
        (lambda: Risk(GoalDistance(), "cvar", 0.0), ValueError, "alpha is 0.0"),
        (lambda: Risk(GoalDistance(), "cvar", 1.1), ValueError, "alpha is 1.1"),
        (lambda: Risk(GoalDistance(), "cvar", True), ValueError, "alpha is True"),
        (lambda: Planner(Ensemble(members()), CEM(), T), ValueError, "expected a fastwm.Risk of it"),
        (lambda: Planner(Ensemble(members()), CEM(), T, cost=lambda z, a: z), ValueError, "fastwm.Risk"),
        (lambda: Planner(Ensemble(members()), CEM(), T, cost=Risk(GoalDistance()) + GoalDistance()), ValueError, "Ensemble"),
        (lambda: Planner(TinyEngine(A, E), CEM(), T, cost=Risk(GoalDistance())), ValueError, "one of a single model"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()


# ---- the measures ----


def by_hand(costs: list[float], alpha: float) -> float:
    """Mean of the worst alpha of a sample in which every cost stands for 1 / M."""
    left, total = alpha * len(costs), 0.0
    for cost in sorted(costs, reverse=True):
        total += min(1.0, left) * cost
        left -= min(1.0, left)
    return total / (alpha * len(costs))


@settings(max_examples=100, deadline=None)
@given(
    costs=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=7),
    alpha=st.floats(0.01, 1.0),
    more=st.floats(0.0, 0.99),
)
def test_mean_cvar_and_worst(costs: list[float], alpha: float, more: float) -> None:
    each = torch.tensor(costs)[:, None, None]
    mean, worst = (Risk(GoalDistance(), name).reduce(each).item() for name in ("mean", "worst"))
    cvar = Risk(GoalDistance(), "cvar", alpha).reduce(each).item()
    narrower = Risk(GoalDistance(), "cvar", alpha * (1 - more)).reduce(each).item()
    assert mean == pytest.approx(sum(costs) / len(costs), abs=1e-4)
    assert worst == max(costs)
    assert cvar == pytest.approx(by_hand(costs, alpha), abs=1e-3)
    assert mean - 1e-3 <= cvar <= narrower + 1e-3 <= worst + 2e-3
    assert Risk(GoalDistance(), "cvar", 1.0).reduce(each).item() == pytest.approx(mean, abs=1e-4)
    assert Risk(GoalDistance(), "cvar", 1 / len(costs)).reduce(each).item() == pytest.approx(worst, abs=1e-3)


@pytest.mark.parametrize("measure", ["mean", "worst", "cvar"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_cost_that_is_not_finite_is_not_hidden(measure, bad: float) -> None:
    each = torch.tensor([[1.0], [bad], [2.0], [3.0]])
    assert not Risk(GoalDistance(), measure, 0.5).reduce(each).isfinite().any()


INNER = {
    "last": GoalDistance("absolute"),
    "all": GoalDistance("cosine", "mean") + 0.5 * ActionPenalty() + Smoothness(2),
    "goals": GoalDistance(reach="all"),
    "promised": Reward(lambda z, a: z[..., 0] * a[..., 0], 0.5) + Value(lambda z: z[..., 1]),
}


@pytest.mark.parametrize("name", INNER)
@pytest.mark.parametrize("measure", ["mean", "worst", "cvar"])
def test_the_cost_and_its_gradient_are_those_of_a_loop_over_members(name: str, measure) -> None:
    inner = INNER[name]
    random = torch.Generator().manual_seed(0)
    latents = torch.randn(M, B, S, T, E, generator=random)
    goal = Goal(torch.randn(B, 2, E, generator=random), reached=torch.tensor([0, 1, 2]))
    actions = torch.randn(B, S, T, A, generator=random)
    ours, theirs = ([x.clone().requires_grad_() for x in (latents, actions)] for _ in range(2))

    def seen(z: Tensor) -> Tensor:
        return z if inner.keep == "all" else z[..., -1, :]

    found = Risk(inner, measure, 0.4)(seen(ours[0]), ours[1], goal)
    each = torch.stack([inner(seen(z), theirs[1], goal) for z in theirs[0].unbind(0)])
    if measure == "mean":
        expected = each.mean(0)
    elif measure == "worst":
        expected = each.amax(0)
    else:  # 0.4 of 4: one whole member, and 0.6 of the next
        first, second = each.topk(2, dim=0).values
        expected = (first + 0.6 * second) / 1.6
    assert torch.allclose(found, expected, atol=1e-4)
    one = torch.autograd.grad((found**2).sum(), ours, materialize_grads=True, allow_unused=True)
    other = torch.autograd.grad((expected**2).sum(), theirs, materialize_grads=True, allow_unused=True)
    for x, y in zip(one, other, strict=True):
        assert torch.allclose(x, y, rtol=1e-3, atol=1e-3)
    assert one[0].abs().max() > 0


# ---- in a plan ----


@pytest.mark.parametrize(
    "cost",
    [
        Risk(GoalDistance() + 0.1 * ActionPenalty(), "cvar", 0.3),
        Risk(GoalDistance(), "worst") + 0.1 * ActionPenalty(),
        Risk(GoalDistance() + Constraint(lambda z, a: z[:, :, -1, 0] - 0.1, "augmented")),
    ],
)
def test_a_batch_is_its_environments_one_by_one(cost) -> None:
    obs, goal = problem()
    planner = Planner(Ensemble(members(threads=2)), CEM(samples=65, elites=7, iterations=5), T, cost=cost)
    batch = planner.plan(obs, goal, generator=1)
    for b in range(B):
        row = {name: value[b : b + 1] for name, value in obs.items()}
        alone = planner.plan(row, goal[b], generator=1, environments=[b])
        for field in ("actions", "cost", "mean", "std"):
            assert torch.equal(getattr(alone, field)[0], getattr(batch, field)[b]), field


def test_an_ensemble_of_one_model_plans_as_the_model() -> None:
    obs, goal = problem()
    one = TinyEngine(A, E)
    cem = CEM(samples=50, elites=5, iterations=5)
    expected = Planner(one, cem, T).plan(obs, goal, generator=1)
    for measure in ("mean", "worst", "cvar"):
        cost = Risk(GoalDistance(), measure)  # type: ignore[arg-type]
        for engines in ([one], [one, one]):
            found = Planner(Ensemble(engines), cem, T, cost=cost).plan(obs, goal, generator=1)
            assert torch.equal(found.actions, expected.actions)


class Plane(TinyEngine):
    """z' = z + a; on `ice`, between start and goal, one sticks."""

    def __init__(self, ice: bool) -> None:
        super().__init__(2, 2)
        self.matrix, self.ice = torch.eye(2), ice

    def rollout(self, context, actions, past_actions=None, *, keep="last", seconds=None):
        z, latents = context[:, None, -1], []
        for t in range(actions.shape[2]):
            stuck = self.ice & (z[..., 0].abs() < 0.7) & (z[..., 1].abs() < 0.5)
            z = torch.where(stuck[..., None], z, z + actions[:, :, t])
            latents.append(z)
        return z if keep == "last" else torch.stack(latents, dim=2)


def test_what_one_member_fears_decides_between_mean_and_worst() -> None:
    """Straight ahead, in steps of at most 0.7, is short; one model of five says that one sticks there."""
    models = Ensemble([Plane(ice=i == 3) for i in range(5)])
    obs, goal = {"latents": torch.tensor([[[-1.0, 0.0]]])}, torch.tensor([1.0, 0.0])
    search = CEM(1000, 50, 40, low=-0.7, high=0.7, return_best=True, min_std=0.02)
    straight = torch.tensor([0.5, 0.0]).expand(4, 2)
    round_it = torch.tensor([[0.35, 0.6], [0.65, 0.0], [0.65, 0.0], [0.35, -0.6]])
    ways = torch.stack([straight, round_it])[None]
    aside = {}
    for measure in ("mean", "worst", "cvar"):
        cost = Risk(GoalDistance() + 0.5 * ActionPenalty(), measure, 0.2)  # type: ignore[arg-type]
        plan = Planner(models, search, 4, cost=cost).plan(obs, goal, generator=0, proposals=ways)
        path = obs["latents"][:, 0] + plan.actions[0].cumsum(0)
        aside[measure] = path[:, 1].abs().amax().item()
    assert aside["mean"] < 0.2
    assert aside["worst"] >= 0.5
    assert aside["cvar"] >= 0.5  # the worst fifth of five


def test_a_constraint_holds_for_every_member() -> None:
    obs, goal = problem()
    ensemble = Ensemble(members())
    for mode in ("hard", "augmented"):
        limit = Constraint(lambda z, a: z[:, :, -1, 0] - 0.1, mode)  # type: ignore[arg-type]
        cost = Risk(GoalDistance() + ActionPenalty() + limit, "mean")
        search = CEM(samples=200, elites=20, iterations=60, min_std=0.02)
        plan = Planner(ensemble, search, T, cost=cost).plan(obs, goal, generator=0)
        latents = ensemble.rollout(obs["latents"], plan.actions[:, None], obs["past_actions"])[:, :, 0]
        over = (latents[..., 0] - 0.1).clamp(min=0.0)
        assert (over < 0.02).all()
        assert torch.allclose(plan.stats["violation"], over.mean(0), atol=1e-5)


def test_a_policy_goes_on_from_what_the_first_member_predicts() -> None:
    seen: list[Tensor] = []

    def policy(context, past_actions, goal, *, count, horizon, generator):
        seen.append(context)
        return torch.zeros(len(context), count, horizon, A)

    obs, goal = problem()
    engines = members()
    planner = Planner(Ensemble(engines), CEM(iterations=1), T, cost=Risk(GoalDistance()), policy=policy)
    planner.plan(obs, goal, warm_start=torch.ones(B, 1, A))
    expected = engines[0].rollout(obs["latents"], torch.ones(B, 1, 1, A), obs["past_actions"])
    assert torch.equal(seen[0][:, -1], expected[:, 0])


def test_compiled_engines_make_an_ensemble() -> None:
    """Two predictors of one encoder: plans are the same bits for every batch, with a deadline far away, too."""
    config = fastwm.WorldModelConfig(
        embed_dim=16, encoder_width=8, predictor="mlp", residual=True, width=32, depth=2, action_dim=2, projector_dim=32
    )  # fmt: skip
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        models.append(fastwm.WorldModel(config).eval())
    ensemble = Ensemble([fastwm.compile(model, threads=1) for model in models])
    assert ensemble.info()["members"] == 2
    random = torch.Generator().manual_seed(0)
    obs = {"latents": torch.randn(B, 1, 16, generator=random)}
    goal = torch.randn(B, 16, generator=random)
    planner = Planner(
        ensemble, CEM(samples=40, elites=4, iterations=3), 3, cost=Risk(GoalDistance(), "worst")
    )
    batch = planner.plan(obs, goal, generator=1)
    latents = ensemble.rollout(obs["latents"], batch.actions[:, None])[:, :, 0]
    assert (latents[0] - latents[1]).abs().max() > 1e-3
    assert torch.equal(planner.plan(obs, goal, generator=1, deadline=1000.0).actions, batch.actions)
    for b in range(B):
        alone = planner.plan({"latents": obs["latents"][b : b + 1]}, goal[b], generator=1, environments=[b])
        assert torch.equal(alone.mean[0], batch.mean[b])
    late = ensemble.rollout(obs["latents"], batch.actions[:, None], seconds=-1.0)
    assert late.isnan().all()


def test_risks_are_equal_by_what_they_measure() -> None:
    risk = Risk(GoalDistance(), "cvar", 0.3)
    assert risk == Risk(GoalDistance(), "cvar", 0.3)
    assert risk != dataclasses.replace(risk, alpha=0.4)
    assert (risk.keep, risk.needs, risk.constrained) == ("last", {"latents"}, False)


def test_a_member_that_needs_more_than_its_share_goes_on_where_the_others_were_quicker() -> None:
    """Else candidates are missing though time is left, which a search takes for costs that are NaN."""

    class Patient(TinyEngine):
        need = 0.0

        def rollout(self, context, actions, past_actions=None, *, keep="last", seconds=None):  # type: ignore[no-untyped-def]
            latents = super().rollout(context, actions, past_actions, keep=keep)
            if seconds is None or seconds >= self.need:
                return latents
            time.sleep(max(0.0, seconds))
            return torch.full_like(latents, math.nan)

    engines = [Patient(2, 4) for _ in range(3)]
    engines[0].need = 0.15
    planner = Planner(Ensemble(engines), CEM(10, 3, 1), 2, cost=Risk(GoalDistance()))
    obs, goal = {"latents": torch.zeros(2, 1, 4)}, torch.ones(4)
    plan = planner.plan(obs, goal, deadline=0.3, generator=1)
    assert plan.stats["end"] == "complete"
    assert torch.equal(plan.actions, planner.plan(obs, goal, generator=1).actions)
