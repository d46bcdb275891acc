"""The policy's density as a cost: against torch.distributions, in every search, and what it does to plans."""

from __future__ import annotations

import pytest
import torch
from test_wam import random_wam

import fastwm
from fastwm import (
    CEM,
    ICEM,
    MPPI,
    BestOfK,
    Constraint,
    GoalDistance,
    GradientDescent,
    LatentPolicy,
    MixtureCEM,
    Planner,
    PredictiveSampling,
    Replicas,
    Risk,
    TrustRegion,
)  # fmt: skip
from fastwm.engine.ensemble import Ensemble
from fastwm.planning import Goal

B, S, T = 2, 5, 4  # the chunk of random_wam is 4


@pytest.fixture(scope="module")
def wam():
    return random_wam(window=1, history=1, action_head="mixture", components=3)


@pytest.fixture(scope="module")
def engine(wam):
    return fastwm.compile(wam, backend="cpu", dtype="float32", threads=1)


def given() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(B, 1, 12, generator=random), torch.randn(B, 12, generator=random)


def region(model, actions: torch.Tensor, **options) -> torch.Tensor:
    """The cost [B, S] of actions [B, S, T, A] from the given context to the given goal."""
    context, goal = given()
    aim = Goal(latents=goal[:, None])
    return TrustRegion(model, **options).at(context, aim)(torch.empty(0), actions, aim)


@torch.no_grad()
@pytest.mark.parametrize("horizon", [1, 3, 4, 6])
def test_a_mixture_costs_its_exact_log_probability(wam, horizon: int) -> None:
    """Of a shorter plan the marginal; of a longer one the first blocks alone."""
    context, goal = given()
    actions = torch.randn(B, S, horizon, 3, generator=torch.Generator().manual_seed(1))
    weights, mean, spread = wam.density(context, goal)
    known = min(horizon, T)
    normal = torch.distributions.Normal(
        mean[:, :, :known].flatten(2).double(), spread[:, :, :known].flatten(2).double().exp()
    )
    policy = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=weights.double()), torch.distributions.Independent(normal, 1)
    )
    expected = -torch.stack(
        [policy.log_prob(actions[:, s, :known].flatten(1).double()) for s in range(S)], dim=1
    )
    found = region(wam, actions)
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-4)
    if horizon <= T:
        torch.testing.assert_close(found[:, 2], -wam.log_prob(context, goal, actions[:, 2]))


@torch.no_grad()
def test_a_flow_costs_the_distance_to_its_proposals_mean() -> None:
    model = random_wam(window=1, history=1, action_head="flow")
    context, goal = given()
    drawn = model.policy(context, goal, 40, torch.Generator().manual_seed(0))
    mean, std = drawn.mean(1, keepdim=True), drawn.std(1, keepdim=True)
    actions = torch.randn(B, S, T, 3, generator=torch.Generator().manual_seed(1))
    half = ((actions - mean) / std).square().sum((2, 3)) / 2
    found = region(model, actions, proposals=40)
    torch.testing.assert_close(found - found[:, :1], half - half[:, :1], rtol=1e-4, atol=1e-3)
    assert torch.equal(found, region(model, actions, proposals=40))


@torch.no_grad()
def test_the_next_goal_counts_and_none_is_a_goal_too(wam) -> None:
    context, goal = given()
    actions = torch.randn(B, S, T, 3, generator=torch.Generator().manual_seed(1))
    both = torch.stack([goal, goal + 1.0], dim=1)
    second = TrustRegion(wam).at(context, Goal(latents=both, reached=torch.tensor([1, 2])))
    alone = TrustRegion(wam).at(context, Goal(latents=both[:, 1:]))
    none = TrustRegion(wam).at(context, Goal())
    price = [cost(torch.empty(0), actions, Goal()) for cost in (second, alone, none)]
    assert torch.equal(price[0], price[1])
    torch.testing.assert_close(price[2][:, 0], -wam.log_prob(context, None, actions[:, 0]))
    assert not torch.equal(price[1], price[2])


SEARCHES = [
    CEM(40, 8, 3), ICEM(40, 8, 3), MPPI(40, 3), PredictiveSampling(40, 3), MixtureCEM(40, 8, 3), BestOfK(40),
    GradientDescent(4, 10),
]  # fmt: skip


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: type(search).__name__)
def test_in_every_search_a_weight_of_zero_changes_no_bit_and_a_large_one_the_plan(
    wam, engine, search
) -> None:
    context, goal = given()

    def plan(cost):
        return Planner(engine, search, T, cost=cost).plan({"latents": context}, goal, generator=3)

    plain, none = plan(GoalDistance()), plan(GoalDistance() + 0.0 * TrustRegion(wam))
    assert torch.equal(plain.actions, none.actions)
    assert torch.equal(plain.cost, none.cost)
    near = plan(GoalDistance() + 1000.0 * TrustRegion(wam))
    strays = [region(wam, one.actions[:, None])[:, 0] for one in (plain, near)]
    assert (strays[1] < strays[0]).all()


def test_a_large_weight_ends_at_the_policy() -> None:
    model = random_wam(window=1, history=1, action_head="mixture", components=1)
    engine = fastwm.compile(model, backend="cpu", dtype="float32", threads=1)
    context, goal = given()
    cost = GoalDistance() + 1e4 * TrustRegion(model)
    plan = Planner(engine, CEM(200, 20, 30, std=3.0), T, cost=cost).plan(
        {"latents": context}, goal, generator=3
    )
    mode = model.policy(context, goal, 1, temperature=0.0)[:, 0]
    torch.testing.assert_close(plan.actions, mode, rtol=0, atol=0.05)
    assert (GoalDistance() + TrustRegion(model)).keep == "last"


def test_an_ensemble_and_a_constraint(wam, engine) -> None:
    """Beside a Risk and inside of it; the plan that is the cheapest of two knows the region, too."""
    context, goal = given()
    risky = [Risk(GoalDistance()) + 5.0 * TrustRegion(wam), Risk(GoalDistance() + 5.0 * TrustRegion(wam))]
    plans = [
        Planner(Ensemble([engine, engine]), CEM(20, 5, 2), T, cost=cost).plan(
            {"latents": context}, goal, generator=0
        )
        for cost in (*risky,)
    ]
    torch.testing.assert_close(plans[0].actions, plans[1].actions, rtol=1e-4, atol=1e-4)
    limit = Constraint(lambda z, a: a.abs().amax((2, 3)) - 0.5, "augmented")
    planner = Planner(
        engine, CEM(20, 5, 4, min_std=0.05), T, cost=GoalDistance() + limit + 0.1 * TrustRegion(wam)
    )
    assert planner.plan({"latents": context}, goal, generator=0).stats["violation"].isfinite().all()


def test_environments_shared_out_keep_their_own_region(wam, engine) -> None:
    context, goal = given()
    cost = GoalDistance() + 5.0 * TrustRegion(wam)
    plans = [
        Planner(one, CEM(20, 5, 2), T, cost=cost).plan({"latents": context}, goal, generator=0).actions
        for one in (engine, Replicas([engine, engine]))
    ]
    torch.testing.assert_close(plans[0], plans[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("propose_in", ["every", "first"])
def test_proposals_in_every_iteration_or_in_the_first(wam, engine, propose_in: str) -> None:
    context, goal = given()
    planner = Planner(
        engine, CEM(10, 3, 3), T, policy=LatentPolicy(wam), policy_share=0.4, propose_in=propose_in
    )
    tried: list[torch.Tensor] = []
    given_too = torch.full((B, 1, T, 3), 7.0)
    planner.plan(
        {"latents": context}, goal, generator=0, proposals=given_too,
        callback=lambda step: tried.append(step.actions),
    )  # fmt: skip
    first = tried[0][:, 1:6]
    assert torch.equal(first[:, 0], given_too[:, 0])
    for later in tried[1:]:
        again = [torch.equal(later[:, 1 + n], first[:, n]) for n in range(5)]
        assert again == [propose_in == "every"] * 5


def test_refusals(wam, engine) -> None:
    with pytest.raises(TypeError, match="model is Linear, which has no policy"):
        TrustRegion(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="proposals is 1, expected an integer of at least 2"):
        TrustRegion(wam, proposals=1)
    with pytest.raises(ValueError, match="propose_in is 'last', expected 'every' or 'first'"):
        Planner(engine, CEM(8, 2, 1), T, propose_in="last")  # type: ignore[arg-type]
    other = random_wam(window=1, history=1, action_head="mixture", action_dim=2)
    context, goal = given()
    with pytest.raises(ValueError, match="actions hold 3 numbers in a block, expected 2"):
        Planner(engine, CEM(8, 2, 1), T, cost=TrustRegion(other)).plan({"latents": context}, goal)
    with pytest.raises(ValueError, match="context of the TrustRegion is not known"):
        TrustRegion(wam)(torch.empty(0), torch.zeros(B, S, T, 3), Goal())
