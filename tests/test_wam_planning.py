"""A LatentWAM in the planner: proposals, best of K, its distance as a cost, and what is done when time runs out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_wam import random_wam

import fastwm
from fastwm import CEM, GoalDistance, GradientDescent, Planner
from fastwm.planning import Goal
from fastwm.planning.best_of_k import BestOfK
from fastwm.planning.costs.temporal_distance import TemporalDistance
from fastwm.planning.latent_policy import LatentPolicy, Reactive

HORIZON = 7  # the model's chunk is 4


@pytest.fixture(scope="module")
def wam():
    return random_wam(window=1, history=1)


@pytest.fixture(scope="module")
def engine(wam):
    return fastwm.compile(wam, backend="cpu", dtype="float32", threads=1)


def given(B: int = 2) -> tuple[dict, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return {"latents": torch.randn(B, 1, 12, generator=random)}, torch.randn(B, 12, generator=random)


def test_a_long_horizon_goes_on_where_the_chunk_leads(wam) -> None:
    obs, goal = given()
    found = LatentPolicy(wam)(
        obs["latents"],
        None,
        Goal(latents=goal[:, None]),
        count=3,
        horizon=HORIZON,
        generator=torch.Generator().manual_seed(1),
    )
    random = torch.Generator().manual_seed(1)
    first = wam.policy(obs["latents"], goal, 3, random)
    led = wam.rollout(obs["latents"], first)[:, :, -1].flatten(0, 1)
    more = wam.policy(led[:, None], goal.repeat_interleave(3, 0), 1, random, horizon=3).view(2, 3, 3, 3)
    torch.testing.assert_close(found, torch.cat([first, more], dim=2))


def test_the_goal_that_comes_next_counts(wam) -> None:
    obs, goal = given()
    goals = torch.stack([goal, goal + 1.0], dim=1)
    ask = {"count": 1, "horizon": 2}

    def say(goal: Goal) -> torch.Tensor:
        return LatentPolicy(wam)(
            obs["latents"], None, goal, **ask, generator=torch.Generator().manual_seed(0)
        )

    assert torch.equal(say(Goal(latents=goals)), say(Goal(latents=goals[:, :1])))
    assert torch.equal(
        say(Goal(latents=goals, reached=torch.tensor([1, 1]))), say(Goal(latents=goals[:, 1:]))
    )
    assert not torch.equal(say(Goal()), say(Goal(latents=goals)))


def test_best_of_k_is_the_cheapest_proposal(wam, engine) -> None:
    obs, goal = given()
    policy = LatentPolicy(wam)
    planner = Planner(engine, BestOfK(9), HORIZON, policy=policy, policy_share=BestOfK.share)
    plan = planner.plan(obs, goal, generator=5)
    tried: list[torch.Tensor] = []
    planner.plan(obs, goal, generator=5, callback=lambda step: tried.append(step.actions))
    latents = wam.rollout(obs["latents"], tried[0])[:, :, -1]
    cost = (latents - goal[:, None]).square().sum(-1)
    best = tried[0][torch.arange(2), cost.argmin(1)]
    assert plan.iterations == 1
    assert tried[0].shape == (2, 9, HORIZON, 3)
    torch.testing.assert_close(plan.actions, best)


def test_temporal_distance(wam, engine) -> None:
    obs, goal = given()
    actions = torch.randn(2, 4, HORIZON, 3)
    latents = wam.rollout(obs["latents"], actions)
    target = Goal(latents=goal[:, None])
    each = wam.distance(latents, goal[:, None, None].expand_as(latents)).detach()
    torch.testing.assert_close(
        TemporalDistance(wam.distance)(latents, actions, target).detach(), each[..., -1]
    )
    closest = TemporalDistance(wam.distance, reduce="min")(latents, actions, target).detach()
    torch.testing.assert_close(closest, each.amin(-1))
    planner = Planner(
        engine, CEM(8, 2, 1), HORIZON, cost=GoalDistance() + 0.5 * TemporalDistance(wam.distance)
    )
    assert planner.plan(obs, goal, generator=0).cost.isfinite().all()
    with pytest.raises(ValueError, match="reduce is 'x'"):
        TemporalDistance(wam.distance, reduce="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="goal has no latents"):
        planner.plan(obs, None)


def test_the_gradient_starts_at_proposals_and_stays_near(wam, engine) -> None:
    obs, goal = given()
    search = GradientDescent(4, 5, trust_region=0.5, learning_rate=0.3)
    planner = Planner(engine, search, 3, policy=LatentPolicy(wam), policy_share=BestOfK.share)
    tried: list[torch.Tensor] = []
    costs: list[torch.Tensor] = []
    planner.plan(
        obs, goal, generator=5, callback=lambda step: (tried.append(step.actions), costs.append(step.cost))
    )
    assert (costs[-1].amin(1) < costs[0].amin(1)).all()
    assert ((tried[-1] - tried[0]).abs() <= 0.5 * engine.action_std + 1e-5).all()
    assert not torch.equal(tried[-1], tried[0])


def test_without_time_the_policy_acts(wam, engine) -> None:
    obs, goal = given()
    planner = Planner(engine, CEM(8, 2, 1), 3, policy=LatentPolicy(wam), fallback="policy")
    plan = planner.plan(obs, goal, generator=5, deadline=0.0)
    assert plan.iterations == 0
    random = torch.Generator().manual_seed(5)
    torch.testing.assert_close(plan.actions, wam.policy(obs["latents"], goal, 1, random, horizon=3)[:, 0])


def test_the_reactive_policy_answers_for_each_episode_alone(wam) -> None:
    random = np.random.default_rng(0)
    goal, seen = (random.integers(0, 256, (3, 16, 16, 3), np.uint8) for _ in range(2))
    policy = Reactive(wam)
    policy.begin(goal, 0)
    together = policy.act(0, np.arange(3), seen)
    alone = policy.act(4, np.array([2]), seen[2:])
    np.testing.assert_allclose(together[2:], alone, rtol=1e-5, atol=1e-5)
    assert together.shape == (3, 3)


@torch.no_grad()
def test_the_reactive_policy_remembers_its_history() -> None:
    """Of every episode its own frames, also where others have ended; fewer at first."""
    model = random_wam(window=1, history=3, action_head="mixture")
    random = np.random.default_rng(0)
    goal = random.integers(0, 256, (3, 16, 16, 3), np.uint8)
    frames = random.integers(0, 256, (5, 3, 16, 16, 3), np.uint8)
    policy = Reactive(model)
    for _ in range(2):  # begin forgets
        policy.begin(goal, 0)
        for decision, active in enumerate(([0, 1, 2], [0, 1, 2], [0, 2], [0, 2], [2])):
            found = policy.act(decision, np.array(active), frames[decision, active])
            seen = torch.as_tensor(frames[max(0, decision - 2) : decision + 1, active]).transpose(0, 1)
            aim = model.encode(torch.as_tensor(goal[active]))
            expected = model.policy(model.encode(seen), aim, 1, horizon=1, temperature=0.0)[:, 0, 0]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_refusals(wam) -> None:
    with pytest.raises(ValueError, match="keep is 5, expected None or an integer from 1 to 4"):
        LatentPolicy(wam, keep=5)


def test_what_a_policy_cannot_do_is_named(wam) -> None:
    obs, goal = given()
    for options, words in (
        ({"n": 0}, "n is 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": -1.0}, "temperature is -1.0"),
    ):
        with pytest.raises(ValueError, match=words):
            wam.policy(obs["latents"], goal, **options)
    with pytest.raises(TypeError, match="model is Linear, expected a LatentWAM"):
        LatentPolicy(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
