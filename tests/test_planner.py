"""The planner: it finds known optima, is the plain CEM, and a plan depends on nothing but its own inputs."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
import pytest
import tiny_engine
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_engine import TinyEngine

import fastwm
from fastwm import CEM, ActionPenalty, Goal, GoalDistance, Plan, Planner

B, K, T, A, E = 3, 2, 4, 2, 5


def engine(**options) -> TinyEngine:
    return TinyEngine(A, E, **options)


def problem(batch: int = B, seed: int = 0) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    return tiny_engine.problem(batch, frames=K, A=A, E=E, seed=seed)


# ---- it finds what is best ----


def test_the_plan_reaches_the_optimum_of_a_linear_world() -> None:
    """Minimum over the actions of |z_T - g|^2 + |a|^2, known in closed form."""
    tiny, (obs, goal) = engine(), problem()
    cem = CEM(samples=400, elites=40, iterations=60, std=2.0)
    plan = Planner(tiny, cem, T, cost=GoalDistance() + 1.0 * ActionPenalty()).plan(obs, goal, generator=1)
    optimum, cost = tiny.optimum(obs, goal, T, penalty=1.0)
    assert (plan.actions - optimum).abs().max() < 0.02
    assert ((plan.cost - cost).abs() < 1e-3 * cost).all()


def test_a_bounded_plan_ends_at_the_bound() -> None:
    tiny, (obs, goal) = engine(), problem()
    plan = Planner(tiny, CEM(iterations=20, low=-0.25, high=0.25), T).plan(obs, goal + 100, generator=1)
    assert plan.actions.abs().min() > 0.249
    assert plan.actions.abs().max() <= 0.25
    free = Planner(tiny, CEM(iterations=20), T).plan(obs, goal + 100, generator=1)
    assert free.actions.abs().max() > 1
    assert (free.cost < plan.cost).all()


def test_return_best_gives_the_best_candidate_seen() -> None:
    tiny, (obs, goal) = engine(), problem()
    planner = Planner(tiny, CEM(samples=20, elites=10, iterations=3, std=3.0, return_best=True), T)
    plan = planner.plan(obs, goal, generator=1)
    latents = tiny.rollout(obs["latents"], plan.actions[:, None], obs["past_actions"])
    assert torch.allclose((latents[:, 0] - goal).square().sum(-1), plan.stats["best_cost"], rtol=1e-4)
    assert (plan.stats["best_cost"] <= plan.cost).all()
    assert (plan.actions != plan.mean).any()
    final = Planner(tiny, CEM(samples=20, elites=10, iterations=3, std=3.0), T).plan(obs, goal, generator=1)
    assert torch.equal(final.actions, plan.mean)


# ---- it is the plain CEM ----


def plain_cem(tiny: TinyEngine, obs, goal, noise: torch.Tensor, elites: int, mean: torch.Tensor):
    """stable-worldmodel's CEMSolver.solve, transcribed, with given draws."""
    std = torch.ones_like(mean) * tiny.action_std
    for draws in noise:
        candidates = draws * std.unsqueeze(1) + mean.unsqueeze(1)
        candidates[:, 0] = mean
        latents = tiny.rollout(obs["latents"], candidates, obs["past_actions"])
        costs = (latents - goal[:, None]).pow(2).sum(-1)
        values, indices = torch.topk(costs, k=elites, dim=1, largest=False)
        chosen = candidates[torch.arange(len(costs)).unsqueeze(1), indices]
        mean, std = chosen.mean(dim=1), chosen.std(dim=1)
    return mean, std, values.mean(dim=1)


@pytest.mark.parametrize("blocks", [None, 0, 2, T])
def test_given_noise_the_plan_is_that_of_the_plain_cem(blocks: int | None) -> None:
    tiny, (obs, goal) = engine(mean=0.3, std=1.5), problem()
    noise = torch.randn(6, B, 50, T, A, generator=torch.Generator().manual_seed(2))
    warm = None if blocks is None else torch.randn(B, blocks, A, generator=torch.Generator().manual_seed(3))
    plan = Planner(tiny, CEM(samples=50, elites=8, iterations=6), T).plan(
        obs, goal, warm_start=warm, noise=noise
    )
    start = torch.full((B, T, A), 0.3)
    if warm is not None:
        start[:, :blocks] = warm
    mean, std, cost = plain_cem(tiny, obs, goal, noise, 8, start)
    assert torch.allclose(plan.mean, mean, rtol=1e-4, atol=1e-5)
    assert torch.allclose(plan.std, std, rtol=1e-3, atol=1e-5)
    assert torch.allclose(plan.cost, cost, rtol=1e-4, atol=1e-5)


def test_numpy_inputs_give_the_same_plan() -> None:
    planner, (obs, goal) = Planner(engine(), CEM(iterations=3), T), problem()
    arrays = {name: value.double().numpy() for name, value in obs.items()}
    ours = planner.plan(arrays, goal.numpy(), generator=5, environments=np.arange(B))
    assert torch.equal(ours.actions, planner.plan(obs, goal, generator=5).actions)


# ---- random numbers ----


def same(one: Plan, two: Plan, rows: slice = slice(None)) -> bool:
    fields = ("actions", "cost", "mean", "std")
    return all(torch.equal(getattr(one, field), getattr(two, field)[rows]) for field in fields)


def test_a_batch_is_its_environments_one_by_one() -> None:
    obs, goal = problem(8)
    cem = CEM(
        samples=65,
        elites=7,
        iterations=4,
        correlation=0.3,
        momentum=0.1,
        low=-1.0,
        high=2.0,
        return_best=True,
    )
    cost = GoalDistance("absolute", "mean") + 0.1 * ActionPenalty()
    planner = Planner(engine(), cem, T, cost=cost)
    batch = planner.plan(obs, goal, generator=11)
    for b in range(8):
        row = {name: value[b : b + 1] for name, value in obs.items()}
        alone = planner.plan(row, goal[b], generator=11, environments=[b])
        assert same(alone, batch, slice(b, b + 1))


def test_threads_do_not_change_a_bit() -> None:
    obs, goal = problem(8)
    one, two = (
        Planner(engine(threads=n), CEM(iterations=3), 12).plan(obs, goal, generator=1) for n in (1, 2)
    )
    assert same(one, two)


def test_seeds() -> None:
    tiny, (obs, goal) = engine(), problem()
    planner, twin = Planner(tiny, CEM(iterations=2), T, seed=4), Planner(tiny, CEM(iterations=2), T, seed=4)
    first, second = planner.plan(obs, goal), planner.plan(obs, goal)
    assert same(twin.plan(obs, goal), first)
    assert not same(first, second)
    assert same(planner.plan(obs, goal, generator=second.stats["seed"]), second)
    drawn = [planner.plan(obs, goal, generator=torch.Generator().manual_seed(7)) for _ in range(2)]
    assert same(*drawn)
    assert not same(planner.plan(obs, goal, generator=8), drawn[0])
    assert not same(
        planner.plan(obs, goal, generator=8, environments=[5, 6, 7]), planner.plan(obs, goal, generator=8)
    )


def test_a_plan_as_warm_start_is_shifted_by_a_block() -> None:
    planner, (obs, goal) = Planner(engine(mean=0.5), CEM(iterations=2), T), problem()
    plan = planner.plan(obs, goal, generator=1)
    shifted = torch.cat([plan.actions[:, 1:], torch.full((B, 1, A), 0.5)], dim=1)
    one, two = (planner.plan(obs, goal, warm_start=w, generator=2) for w in (plan, shifted))
    assert same(one, two)


# ---- bounds ----


@settings(max_examples=40, deadline=None)
@given(st.floats(-2, 2), st.floats(0, 2), st.floats(0, 0.9), st.booleans(), st.integers(0, 1000))
def test_planned_actions_are_within_bounds(low, width, momentum, return_best, seed) -> None:
    bounds = {"low": (low, -1.0), "high": (low + width, 0.5)}
    cem = CEM(
        samples=20, elites=3, iterations=3, std=3.0, momentum=momentum, return_best=return_best, **bounds
    )
    obs, goal = problem(seed=seed)
    warm = 5 * torch.randn(B, T, 2 * A, generator=torch.Generator().manual_seed(seed))
    tiny = TinyEngine(2 * A, E)  # a block of two actions repeats the bounds
    obs["past_actions"] = obs["past_actions"].repeat(1, 1, 2)
    plan = Planner(tiny, cem, T).plan(obs, goal, warm_start=warm, generator=seed)
    lows, highs = torch.tensor(cem.low).repeat(2), torch.tensor(cem.high).repeat(2)
    for planned in (plan.actions, plan.mean):
        assert ((planned >= lows) & (planned <= highs)).all()


# ---- deadlines ----


def test_no_iteration_starts_that_cannot_end_before_the_deadline() -> None:
    slow, (obs, goal) = engine(delay=0.02), problem()
    planner = Planner(slow, CEM(iterations=1000), T)
    plan = planner.plan(obs, goal, deadline=0.3, generator=0)
    assert plan.deadline_hit
    assert 1 <= plan.iterations < 15
    assert plan.elapsed + plan.stats["iteration_p50"] >= 0.2  # it did not stop long before
    part = Planner(engine(), CEM(iterations=plan.iterations), T).plan(obs, goal, generator=0)
    assert torch.equal(part.actions, plan.actions)


@pytest.mark.parametrize("deadline", [1e-6, 0.0, -1.0])
def test_a_deadline_that_cannot_be_met_gives_the_warm_start(deadline: float) -> None:
    planner = Planner(engine(delay=0.01), CEM(iterations=10), T)
    start = torch.full((B, T - 1, A), 0.5)
    plan = planner.plan(*problem(), deadline=deadline, warm_start=start)
    assert plan.iterations == 0
    assert plan.stats["end"] == "fallback"
    assert torch.equal(plan.actions[:, :-1], start)
    assert plan.cost.isinf().all()
    assert plan.deadline_hit


def test_a_deadline_far_away_changes_nothing() -> None:
    planner = Planner(engine(), CEM(iterations=4), T)
    plan = planner.plan(*problem(), deadline=1e6, generator=3)
    assert not plan.deadline_hit
    assert plan.iterations == 4
    assert same(plan, planner.plan(*problem(), generator=3))


def test_times_are_those_of_this_plan() -> None:
    started = time.perf_counter()
    plan = Planner(engine(delay=0.005), CEM(iterations=3), T).plan(*problem())
    assert 0.015 <= plan.elapsed <= time.perf_counter() - started
    assert 0.005 <= plan.stats["iteration_p50"] <= plan.stats["iteration_p99"] <= plan.elapsed


# ---- inputs ----


def test_a_goal_in_another_precision_is_taken_as_float32() -> None:
    obs, goal = problem()
    planner = Planner(engine(), CEM(samples=30, elites=5, iterations=3), T)
    expected = planner.plan(obs, goal, generator=1)
    plan = planner.plan(obs, Goal(latents=goal[:, None].double()), generator=1)
    assert torch.equal(plan.actions, expected.actions)


@pytest.mark.filterwarnings("error")
def test_arrays_may_be_read_only_and_byte_swapped() -> None:
    obs, goal = problem()
    planner = Planner(engine(), CEM(samples=30, elites=5, iterations=3), T)
    expected = planner.plan(obs, goal, generator=1, environments=[3, 1, 2])
    arrays = {name: value.numpy().astype(">f4") for name, value in obs.items()}
    given = goal.numpy().copy()
    given.flags.writeable = False
    plan = planner.plan(arrays, given, generator=1, environments=np.array([3, 1, 2], np.uint32))
    assert torch.equal(plan.actions, expected.actions)


def test_a_deadline_of_years_is_none() -> None:
    model = tiny_models.random_model()
    planner = Planner(fastwm.compile(model, dtype="float32"), CEM(samples=30, elites=5, iterations=1), T)
    latents = torch.zeros(1, 1, model.config.embed_dim)
    plan = planner.plan({"latents": latents}, latents[0], deadline=1e12)
    assert plan.stats["end"] == "complete"
    assert not plan.deadline_hit


# ---- bad inputs ----


NAN = torch.full((B, T, A), math.nan)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"obs": {"latents": torch.full((B, 1, E), math.nan)}},
            ValueError,
            r"obs\['latents'\] holds numbers",
        ),
        ({"obs": {"latents": torch.zeros(B, 2, E)}}, ValueError, "2 frames but no 'past_actions'"),
        (
            {"obs": {"latents": torch.zeros(B, 9, E), "past_actions": torch.zeros(B, 8, A)}},
            ValueError,
            "9 frames",
        ),
        ({"obs": {"latents": torch.zeros(B, E)}}, ValueError, r"obs\['latents'\] has shape"),
        ({"obs": {"latents": torch.zeros(0, 1, E)}}, ValueError, r"obs\['latents'\] has shape"),
        ({"obs": {"image": torch.zeros(B, E)}}, ValueError, r"obs has \['image'\]"),
        (
            {"obs": {"latents": torch.zeros(B, 2, E), "past_actions": torch.zeros(B, 2, A)}},
            ValueError,
            "past_actions",
        ),
        ({"obs": {"latents": torch.zeros(B, 2, E), "past_actions": NAN[:, :1]}}, ValueError, "past_actions"),
        ({"goal": torch.full((B, E), math.inf)}, ValueError, "goal holds numbers"),
        ({"goal": [[0.0] * E] * B}, TypeError, "goal is list"),
        ({"goal": torch.zeros(B, E + 1)}, ValueError, "goal has shape"),
        ({"goal": torch.zeros(B + 1, E)}, ValueError, "goal holds 4 goals"),
        ({"goal": torch.zeros(B, E, dtype=torch.int64)}, TypeError, "goal is torch.int64"),
        ({"goal": Goal(latents=np.zeros((B, 1, E)))}, TypeError, "goal.latents is ndarray"),
        ({"warm_start": np.zeros((B, T, A), object)}, TypeError, "warm_start is an array of object"),
        ({"warm_start": NAN}, ValueError, "warm_start holds numbers"),
        ({"warm_start": torch.zeros(B, T + 1, A)}, ValueError, "warm_start has 5 blocks"),
        ({"warm_start": torch.zeros(B, T, A + 1)}, ValueError, "warm_start has shape"),
        ({"warm_start": [[0.0]]}, TypeError, "warm_start is list"),
        ({"noise": torch.zeros(2, B, 30, T, A)}, ValueError, "noise has shape"),
        ({"noise": torch.full((3, B, 30, T, A), math.nan)}, ValueError, "noise holds numbers"),
        ({"deadline": True}, ValueError, "deadline is True"),
        ({"deadline": math.nan}, ValueError, "deadline is nan"),
        ({"generator": -1}, ValueError, "generator is -1"),
        ({"generator": "0"}, TypeError, "generator is str"),
        ({"environments": [0, 1]}, ValueError, "environments has shape"),
        ({"environments": [0, 1, -1]}, ValueError, "environments is"),
        ({"environments": [0.0, 1.0, 2.0]}, TypeError, "environments holds"),
    ],
)
def test_bad_arguments_are_refused_before_any_rollout(change, error, message) -> None:
    tiny, (obs, goal) = engine(), problem()
    planner = Planner(tiny, CEM(samples=30, elites=5, iterations=3), T)
    with pytest.raises(error, match=message):
        planner.plan(**({"obs": obs, "goal": goal} | change))
    assert tiny.kept is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"elites": 301}, "elites is 301"),
        ({"iterations": 1.5}, "iterations is 1.5"),
        ({"std": -1.0}, "std is -1.0"),
        ({"std": math.inf}, "std is inf"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"min_std": math.nan}, "min_std is nan"),
        ({"correlation": 1}, "correlation is 1"),
        ({"low": 1.0, "high": 0.0}, "expected low <= high"),
        ({"low": (0.0, 0.0), "high": (1.0, 1.0, 1.0)}, "low has 2 numbers and high 3"),
        ({"low": math.nan}, "low is nan"),
        ({"high": ()}, r"high is \(\)"),
    ],
)
def test_a_bad_search_is_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        CEM(**options)


def test_bounds_that_do_not_fit_the_action_are_refused() -> None:
    with pytest.raises(ValueError, match="low has 3 numbers, expected 1 or a divisor of 2"):
        Planner(engine(), CEM(low=(0.0, 0.0, 0.0)), T).plan(*problem())
    with pytest.raises(TypeError, match="high is 'x'"):
        CEM(high="x")


@pytest.mark.parametrize("horizon", [0, -1, 2.0, True])
def test_a_bad_horizon_is_refused(horizon) -> None:
    with pytest.raises(ValueError, match="horizon is"):
        Planner(engine(), CEM(), horizon)


# ---- with a world model ----


@pytest.mark.parametrize("predictor", ["adaln", "mlp"])
def test_plans_of_a_world_model_do_not_depend_on_threads_or_batch(predictor: str) -> None:
    torch.manual_seed(0)
    config = fastwm.WorldModelConfig(
        embed_dim=24, encoder_width=8, predictor=predictor, residual=True, width=32, depth=2, heads=2, head_dim=16, mlp_dim=48,
        action_dim=2, action_hidden=16, projector_dim=32,
    )  # fmt: skip
    model = fastwm.WorldModel(config).eval()
    model.set_action_statistics(torch.tensor([0.2, -0.1]), torch.tensor([0.5, 2.0]))
    for parameter in model.parameters():  # zero-initialised gates would hide the actions
        torch.nn.init.normal_(parameter, std=0.2)
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (8, 2, 64, 64, 3), dtype=np.uint8)
    past = random.standard_normal((8, 1, 2)).astype(np.float32)
    goals = random.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    cem = CEM(samples=40, elites=6, iterations=3, low=-1.0, high=1.0)
    planners = [Planner(fastwm.compile(model, threads=n), cem, 4) for n in (1, 2)]
    one, two = (
        planner.plan({"pixels": frames, "past_actions": past}, goals, generator=9) for planner in planners
    )
    assert same(one, two)
    assert one.mean.std(dim=0).max() > 0
    for b in range(8):
        obs = {"pixels": frames[b : b + 1], "past_actions": past[b : b + 1]}
        assert same(planners[1].plan(obs, goals[b], generator=9, environments=[b]), one, slice(b, b + 1))


# ---- policies and fallbacks ----


class Steady:
    """Proposes the same action for ever, from where it is asked: the first two numbers of the last latent."""

    def __init__(self) -> None:
        self.asked = []

    def __call__(self, context, past_actions, goal, *, count, horizon, generator):
        self.asked.append((context, past_actions, count, horizon))
        return context[:, -1, None, None, :A].expand(-1, count, horizon, -1)


def test_a_policy_proposes_candidates_and_continues_a_warm_start() -> None:
    policy, seen = Steady(), []
    planner = Planner(engine(), CEM(samples=40, elites=4, iterations=2), T, policy=policy, policy_share=0.1)
    obs, goal = problem()
    start = torch.full((B, T - 1, A), 0.5)
    planner.plan(obs, goal, warm_start=start, callback=seen.append)
    proposal = obs["latents"][:, -1, :A][:, None].expand(-1, T, -1)
    for iteration in seen:
        assert torch.equal(iteration.actions[:, 1:5], proposal[:, None].expand(-1, 4, -1, -1))
    then = planner.engine.rollout(obs["latents"], start[:, None], obs["past_actions"])[:, 0]
    assert torch.equal(seen[0].actions[:, 0, : T - 1], start)
    assert torch.equal(seen[0].actions[:, 0, -1], then[:, :A])
    (context, past, *rest), (_, _, *all_of_it) = policy.asked
    assert rest == [1, 1]
    assert all_of_it == [4, T]
    assert past.shape[1] == context.shape[1] - 1
    assert torch.equal(past, start[:, -past.shape[1] :])


def test_a_policy_is_asked_for_as_much_as_there_is_time_for() -> None:
    class Slow(Steady):
        def __call__(self, *given, **options):
            time.sleep(0.02)
            return super().__call__(*given, **options)

    policy = Slow()
    planner = Planner(engine(), CEM(samples=40), T, policy=policy, policy_share=0.5, fallback="policy")
    everything = [1, 20]
    for deadline, expected in ((0.0, [1]), (None, everything), (0.03, [1]), (60.0, everything)):
        policy.asked.clear()
        planner.plan(*problem(), deadline=deadline)
        assert [count for *_, count, _ in policy.asked] == expected, deadline


@pytest.mark.parametrize("fallback", ["warm_start", "policy", "zero"])
def test_what_is_done_when_there_is_no_time(fallback: str) -> None:
    planner = Planner(engine(), CEM(low=-0.4), T, policy=Steady(), fallback=fallback)
    obs, goal = problem()
    start = torch.full((B, T, A), -0.5)
    plan = planner.plan(obs, goal, warm_start=start, deadline=0.0)
    expected = {
        "warm_start": torch.full((B, T, A), -0.4),
        "policy": obs["latents"][:, -1, :A][:, None].expand(-1, T, -1).clamp(min=-0.4),
        "zero": torch.zeros(B, T, A),
    }
    assert torch.equal(plan.actions, expected[fallback])
    assert plan.stats["end"] == "fallback"


def test_an_iteration_that_was_cut_short_counts_for_the_best_seen_alone() -> None:
    class Cut(TinyEngine):
        """Of the second rollout half of the candidates are not started in time."""

        calls = 0

        def rollout(self, context, actions, past_actions=None, *, keep="last", seconds=None):
            latents = super().rollout(context, actions, past_actions, keep=keep)
            self.calls += 1
            if self.calls == 2:
                latents[:, actions.shape[1] // 2 :] = math.nan
                time.sleep(max(0.0, seconds) + 0.001)
            return latents

    obs, goal = problem()
    for best in (False, True):
        seen = []
        cem = CEM(samples=40, elites=4, iterations=5, return_best=best)
        plan = Planner(Cut(A, E), cem, T).plan(obs, goal, deadline=0.3, generator=1, callback=seen.append)
        assert plan.stats["end"] == "cut"
        assert plan.stats["non_finite"].tolist() == [0] * B
        assert plan.iterations == len(seen) == 1
        whole = Planner(TinyEngine(A, E), dataclasses.replace(cem, iterations=1), T).plan(
            obs, goal, generator=1
        )
        assert torch.equal(plan.mean, whole.mean)
        if best:
            assert (plan.stats["best_cost"] <= whole.stats["best_cost"]).all()
            assert (plan.stats["best_cost"] < whole.stats["best_cost"]).any()
        else:
            assert torch.equal(plan.actions, whole.actions)


def test_an_iteration_known_to_be_too_long_is_not_started_and_tried_again_later() -> None:
    planner = Planner(engine(delay=0.02), CEM(iterations=2), T)
    planner.plan(*problem())
    ends = [planner.plan(*problem(), deadline=0.015).stats["end"]]
    while ends[-1] == "fallback" and len(ends) < 200:
        ends.append(planner.plan(*problem(), deadline=0.015).stats["end"])
    assert ends[0] == "fallback"
    assert ends[-1] == "cut"  # the expectation shrinks until one is started


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fallback": "policy"}, ValueError, "there is no policy"),
        ({"fallback": "stop"}, ValueError, "fallback is 'stop'"),
        ({"policy_share": 1.0}, ValueError, "policy_share is 1.0"),
        ({"cost": 3}, TypeError, "cost is int"),
    ],
)
def test_bad_options_are_refused(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Planner(engine(), CEM(), T, **options)


def test_a_policy_that_proposes_the_wrong_shape_is_named() -> None:
    planner = Planner(engine(), CEM(), T, policy=lambda context, *_, **__: torch.zeros(B, 1, 1, A))
    with pytest.raises(ValueError, match="what the policy proposed has shape"):
        planner.plan(*problem())


def test_a_function_may_write_to_what_it_is_given() -> None:
    obs, _ = problem()
    plans = [
        Planner(engine(), CEM(60, 6, 4), T, cost=cost).plan(obs, generator=1)
        for cost in (
            lambda z, a: a.sub_(0.3).square_().sum((2, 3)),
            lambda z, a: (a - 0.3).square().sum((2, 3)),
        )
    ]
    assert same(*plans)


def test_a_function_is_a_cost() -> None:
    obs, _ = problem()
    planner = Planner(
        engine(),
        CEM(samples=200, elites=20, iterations=20),
        T,
        cost=lambda z, a: (a - 0.3).square().sum((2, 3)),
    )
    assert (planner.plan(obs).actions - 0.3).abs().max() < 0.02
    with pytest.raises(ValueError, match=r"cost returned a tensor of shape \(3, 300, 4\)"):
        Planner(engine(), CEM(), T, cost=lambda z, a: a[..., 0]).plan(obs)
    with pytest.raises(ValueError, match="goal has no latents"):
        Planner(engine(), CEM(), T).plan(obs)


def test_recommended_takes_options_of_the_search_and_of_the_planner() -> None:
    tiny = engine(std=2.0)
    tiny.action_block = 2
    plain = Planner.recommended(tiny, low=-1.0, high=1.0)
    expected = CEM(128, 8, 2, std=1.5, min_std=0.3, low=-1.0, high=1.0, steps=2, noise_exponent=2.0)
    assert plain.optimizer == expected
    assert (plain.horizon, plain.cost) == (16, GoalDistance(reduce="min"))
    changed = Planner.recommended(
        tiny, samples=64, keep=3, correlation=0.5, horizon=4, fallback="zero", cost=GoalDistance()
    )
    assert changed.optimizer == CEM(64, 8, 2, std=1.5, min_std=0.3, steps=2, correlation=0.5, keep=3)
    assert (changed.horizon, changed.cost, changed.fallback) == (4, GoalDistance(), "zero")
    with pytest.raises(TypeError, match="modes"):
        Planner.recommended(tiny, modes=3)


@pytest.mark.parametrize("name", ["engine", "optimizer", "cost"])
def test_what_a_planner_was_made_for_cannot_be_changed(name: str) -> None:
    planner = Planner(engine(), CEM(iterations=2), T)
    with pytest.raises(AttributeError, match=f"{name} of a Planner cannot be changed"):
        setattr(planner, name, getattr(planner, name))
