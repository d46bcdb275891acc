"""Episodes shared out among processes: the serial result, whoever runs them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from tiny_engine import TinyEngine

import fastwm
from fastwm.envs import world
from fastwm.evaluation import Evaluation, ExpertPolicy, PlannerPolicy, Policy, RandomPolicy, evaluate
from fastwm.evaluation_workers import evaluate_in_workers


def planner_policy() -> PlannerPolicy:
    cem = fastwm.CEM(samples=9, elites=3, iterations=2, low=-1.0, high=1.0)
    return PlannerPolicy(fastwm.Planner(TinyEngine(2, 5, threads=1), cem, 4))


def broken() -> Policy:
    raise ValueError("no such model")


def assert_same(found: Evaluation, expected: Evaluation) -> None:
    assert found.policy == expected.policy
    for name in ("success", "decisions", "states", "goals"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    assert found.decision_ms.shape == expected.decision_ms.shape


@pytest.mark.parametrize("parts", [[(0, 4), (4, 7)], [(0, 1), (1, 7)]])
@pytest.mark.parametrize("name", ["push", "two-room"])
def test_parts_are_the_whole(name: str, parts: list[tuple[int, int]]) -> None:
    here = world(name)
    policies = (RandomPolicy(here), ExpertPolicy(here), planner_policy())
    for policy in policies:
        whole = evaluate(here, policy, episodes=7, seed=3, budget=4)
        for first, end in parts:
            found = evaluate(here, policy, episodes=7, seed=3, budget=4, part=(first, end))
            assert np.array_equal(found.states, whole.states[first:end])
            assert np.array_equal(found.decisions, whole.decisions[first:end])


def test_processes_give_the_serial_result() -> None:
    here = world("push")
    options = {"episodes": 11, "seed": 5, "budget": 5}
    expected = evaluate(here, planner_policy(), **options)
    assert_same(evaluate_in_workers(here, planner_policy, workers=2, **options), expected)


@pytest.mark.slow
def test_ray_gives_the_serial_result() -> None:
    pytest.importorskip("ray.util")
    here = world("two-room")
    options = {"episodes": 9, "seed": 1, "budget": 6}
    expected = evaluate(here, RandomPolicy(here), **options)
    found = evaluate_in_workers(here, partial(RandomPolicy, here), workers=2, ray=True, **options)
    assert_same(found, expected)


def test_a_policy_that_cannot_be_made_is_said() -> None:
    with pytest.raises(ValueError, match="no such model"):
        evaluate_in_workers(world("push"), broken, workers=1, episodes=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"workers": 0}, "workers is 0"), ({"workers": 2, "episodes": 0}, "episodes: expected at least 1")],
)
def test_bad_arguments_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_in_workers(world("push"), planner_policy, **options)


@pytest.mark.parametrize("part", [(0, 0), (3, 2), (-1, 2), (0, 6)])
def test_bad_parts_are_refused(part: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="part is"):
        evaluate(world("push"), planner_policy(), episodes=5, part=part)
