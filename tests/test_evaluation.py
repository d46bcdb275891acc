"""Closed-loop evaluation: intervals, who is asked to act, and that nobody's result depends on the others."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_engine import TinyEngine

import fastwm
from fastwm.envs import WORLDS, world
from fastwm.evaluation import (
    Difference,
    Evaluation,
    ExpertPolicy,
    PlannerPolicy,
    Policy,
    RandomPolicy,
    evaluate,
    paired_difference,
    sample_tasks,
    wilson_interval,
)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 4))
def test_the_interval_ends_where_the_score_test_rejects(counts: tuple[int, int], z: float) -> None:
    """Wilson's interval holds the shares p with |k/n - p| <= z sqrt(p (1 - p) / n)."""
    k, n = counts
    low, high = wilson_interval(k, n, z)
    assert 0 <= low <= k / n <= high <= 1
    for end in (low, high):
        assert abs(k / n - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n), abs=1e-9)


@given(st.integers(0, 100))
def test_the_interval_of_failures_mirrors_that_of_successes(k: int) -> None:
    low, high = wilson_interval(k, 100)
    assert wilson_interval(100 - k, 100) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(("k", "n"), [(-1, 3), (4, 3), (0, 0)])
def test_impossible_counts_are_refused(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="trials"):
        wilson_interval(k, n)


@given(
    st.integers(2, 1000).flatmap(
        lambda n: st.tuples(st.integers(0, n // 2), st.integers(0, n // 2), st.just(n))
    )
)
def test_the_interval_of_a_difference_holds_it_and_mirrors(counts: tuple[int, int, int]) -> None:
    won, lost, n = counts
    low, high = Difference(won, lost, n).interval
    assert -1 <= low < high <= 1
    assert low <= Difference(won, lost, n).rate * n / (n + 2) <= high
    assert Difference(lost, won, n).interval == pytest.approx((-high, -low))


def test_the_interval_of_a_difference_covers_it() -> None:
    """In 95 % of experiments, give or take, of 100 pairs each."""
    random = np.random.default_rng(0)
    outcomes = random.choice(3, size=(2000, 100), p=[0.06, 0.02, 0.92])  # won, lost, alike
    covered = 0
    for outcome in outcomes:
        low, high = Difference(int((outcome == 0).sum()), int((outcome == 1).sum()), 100).interval
        covered += low <= 0.04 <= high
    assert 0.93 <= covered / len(outcomes) <= 0.985


def outcomes(success: list[bool], goal: float = 0.0) -> Evaluation:
    n = len(success)
    states = np.zeros((n, 2, 1), np.float32)
    return Evaluation(
        "any", np.array(success), np.ones(n, np.int64), states, np.full((n, 1), goal, np.float32), np.ones(n)
    )


def test_pairs_are_counted_episode_by_episode() -> None:
    one, other = outcomes([True, True, True, False, False]), outcomes([True, False, False, True, False])
    assert paired_difference(one, other) == Difference(won=2, lost=1, episodes=5)
    assert paired_difference(one, one) == Difference(won=0, lost=0, episodes=5)


@pytest.mark.parametrize("other", [outcomes([True, False]), outcomes([True] * 3, goal=1.0)])
def test_other_tasks_are_no_pairs(other: Evaluation) -> None:
    with pytest.raises(ValueError, match="had other tasks"):
        paired_difference(outcomes([True, True, False]), other)


@pytest.mark.parametrize("name", WORLDS)
def test_the_expert_reaches_its_goals_and_the_random_walk_does_not(name: str) -> None:
    here = world(name)
    expert = evaluate(here, ExpertPolicy(here), episodes=60, seed=3)
    random = evaluate(here, RandomPolicy(here), episodes=60, seed=3)
    assert expert.rate >= 0.95
    assert random.interval[1] < expert.interval[0]
    assert np.array_equal(expert.goals, random.goals)
    assert np.array_equal(expert.states[:, 0], random.states[:, 0])


@pytest.mark.parametrize("name", WORLDS)
def test_what_is_reported_is_what_happened(name: str) -> None:
    here = world(name)
    found = evaluate(here, ExpertPolicy(here), episodes=23, seed=1)
    for i in range(23):
        reached = here.success(found.states[i], np.repeat(found.goals[i][None], here.budget + 1, axis=0))
        assert found.success[i] == reached.any()
        if found.success[i]:
            assert found.decisions[i] == np.argmax(reached)
            assert (found.states[i, found.decisions[i] :] == found.states[i, found.decisions[i]]).all()
        else:
            assert found.decisions[i] == here.budget
    assert found.mean_decisions == pytest.approx(
        np.mean([d for d, s in zip(found.decisions, found.success, strict=True) if s])
    )


class Recording(Policy):
    """An expert that remembers whom it was asked about, and what it was shown."""

    name = "recording"

    def __init__(self, sees_states: bool) -> None:
        self.sees_states = sees_states
        self.asked: list[np.ndarray] = []
        self.shown: list[np.ndarray] = []

    def begin(self, goal: np.ndarray, seed: int, first: int = 0) -> None:
        self.goal = goal

    def act(self, decision: int, episodes: np.ndarray, seen: np.ndarray) -> np.ndarray:
        self.asked.append(episodes)
        self.shown.append(seen)
        if self.sees_states:
            return world("two-room").expert(seen, self.goal[episodes])
        return np.zeros((len(episodes), 2), np.float32)


class Blocks(Recording):
    """Five copies of the expert's action at once."""

    def act(self, decision: int, episodes: np.ndarray, seen: np.ndarray) -> np.ndarray:
        self.decisions = [*getattr(self, "decisions", []), decision]
        return np.tile(super().act(decision, episodes, seen), 5)


def test_a_block_of_actions_is_taken_one_by_one() -> None:
    policy, fine = Blocks(sees_states=True), world("two-room-steps")
    found = evaluate(fine, policy, episodes=9, seed=2, budget=33)
    assert policy.decisions == [0, 5, 10, 15, 20, 25, 30]
    state = held = found.states[:, 0]
    goal = found.goals
    for step in range(33):
        held = state if step % 5 == 0 else held
        going = np.flatnonzero(~fine.success(state, goal))
        after = state.copy()
        after[going] = fine.step(state[going], world("two-room").expert(held[going], goal[going]))
        state = after
        assert np.array_equal(found.states[:, step + 1], state)
    assert found.success.any()
    assert set(found.decisions[found.success] % 5) != {0}  # an episode may end inside a block


def test_only_active_episodes_are_asked_about() -> None:
    policy = Recording(sees_states=True)
    found = evaluate(world("two-room"), policy, episodes=31, seed=2)
    for decision, asked in enumerate(policy.asked):
        assert asked.tolist() == np.flatnonzero(found.decisions > decision).tolist()
    assert len(policy.asked) == found.decisions.max() < world("two-room").budget


def test_a_policy_that_does_not_see_states_is_shown_pixels_alone() -> None:
    here, policy = world("two-room"), Recording(sees_states=False)
    found = evaluate(here, policy, episodes=5, seed=2, budget=3)
    start, goal = sample_tasks(here, 5, 2)
    assert np.array_equal(policy.goal, here.render(goal))
    assert np.array_equal(policy.shown[0], here.render(start))
    assert found.decisions.tolist() == [3] * 5
    assert found.mean_decisions is None


def test_the_random_walk_of_an_episode_is_its_own() -> None:
    """One policy object asked about fewer episodes gives those the same actions."""
    here = world("push")
    start, goal = sample_tasks(here, 6, 0)
    together, apart = RandomPolicy(here), RandomPolicy(here)
    together.begin(goal, 7)
    apart.begin(goal, 7)
    both = [together.act(t, np.arange(6), start) for t in range(5)]
    alone = [apart.act(t, np.array([4]), start[[4]]) for t in range(5)]
    assert np.array_equal(np.stack(both)[:, [4]], np.stack(alone))


def planner_policy(threads: int = 1) -> PlannerPolicy:
    engine = TinyEngine(2, 5, threads=threads)
    cem = fastwm.CEM(samples=9, elites=3, iterations=2, low=-1.0, high=1.0, correlation=0.5)
    return PlannerPolicy(fastwm.Planner(engine, cem, 4))


def test_a_plan_does_not_depend_on_who_else_is_active() -> None:
    here, policy = world("push"), planner_policy()
    start, goal = sample_tasks(here, 5, 0)
    policy.begin(here.render(goal), 11)
    together = [policy.act(t, np.arange(5), here.render(start)) for t in range(3)]
    policy.begin(here.render(goal), 11)
    alone = [policy.act(t, np.array([3]), here.render(start[[3]])) for t in range(3)]
    assert np.array_equal(np.stack(together)[:, [3]], np.stack(alone))
    assert not np.array_equal(alone[0], alone[1])  # each decision draws anew


def test_plans_are_warm_started_from_the_last_one_shifted() -> None:
    here, policy = world("push"), planner_policy()
    start, goal = sample_tasks(here, 2, 0)
    pictures = here.render(start)
    policy.begin(here.render(goal), 0)
    given: list[torch.Tensor] = []
    plan = policy.planner.plan

    def remember(*arguments, warm_start, **options):
        given.append(warm_start.clone())
        return plan(*arguments, warm_start=warm_start, **options)

    policy.planner.plan = remember  # type: ignore[method-assign]
    for decision in range(2):
        policy.act(decision, np.arange(2), pictures)
    first = policy.plans[0][1].mean
    assert torch.equal(given[0], policy.planner.engine.action_mean.expand(2, 4, 2))
    assert torch.equal(given[1], torch.cat([first[:, 1:], given[0][:, -1:]], dim=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"episodes": 0}, "episodes"), ({"seed": -1}, "seed"), ({"budget": 0}, "budget")],
)
def test_bad_arguments_are_refused(options: dict[str, int], message: str) -> None:
    here = world("two-room")
    with pytest.raises(ValueError, match=message):
        evaluate(here, ExpertPolicy(here), **options)
