"""The planners' page: worlds that are what they say, an agent's loop, and verdicts that the episodes bear out."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import gymnasium
import numpy as np
import pytest
import tiny_models
import torch
from bench_lines import MACHINE

from bench import planner_page, planner_tasks, planners
from bench.planner_page import better, cheapest, difference, equal, page, write_page
from bench.planner_tasks import METHODS, Loop, budgets, known, searches
from bench.planner_worlds import MOVES, Grid, Pendulum
from fastwm import CEM, Agent, Planner
from fastwm.evaluation import evaluate

# ---- the worlds ----


def test_the_pendulum_is_gymnasiums() -> None:
    pendulum, env = Pendulum(), gymnasium.make("Pendulum-v1")
    rng = np.random.default_rng(0)
    state, _ = pendulum.sample_task(rng, 1)
    env.reset()
    env.unwrapped.state = np.array([np.arctan2(state[0, 1], state[0, 0]), state[0, 2]])
    states, rewards = [state], []
    for torque in rng.uniform(-3, 3, 60).astype(np.float32):
        seen, reward, *_ = env.step(np.array([torque]))
        state = pendulum.step(state, np.array([[torque]]))
        np.testing.assert_allclose(state[0, :3], seen, atol=2e-3)
        states.append(state)
        rewards.append(reward)
    assert pendulum.returned(np.stack(states, axis=1))[0] == pytest.approx(sum(rewards), rel=1e-3)


def test_the_grid_has_walls_and_tasks_that_the_horizon_reaches() -> None:
    grid = Grid()
    moves = np.eye(len(MOVES), dtype=np.float32)
    for here, move, there in (
        ((3, 2), 4, (3, 2)),  # into the wall
        ((0, 2), 4, (0, 3)),  # through the gap
        ((0, 0), 1, (0, 0)),  # off the map
        ((6, 6), 1, (5, 6)),
    ):
        assert tuple(grid.step(np.float32([here]), moves[[move]])[0]) == there
    start, goal = grid.sample_task(np.random.default_rng(0), 500)
    assert ((start[:, 1] < grid.wall) != (goal[:, 1] < grid.wall)).all()
    steps = start[:, 0] + goal[:, 0] + np.abs(start[:, 1] - goal[:, 1])  # by way of the top row
    assert steps.max() <= grid.budget
    assert (steps <= grid.horizon).mean() > 0.9


# ---- the loop ----


def test_the_loop_goes_on_from_what_is_left_of_its_own_plans() -> None:
    task = known("grid")
    planner = task.ways[-1].make()
    asked = []
    plan = planner.plan

    def remember(*arguments, **options):
        found = plan(*arguments, **options)
        asked.append((options["warm_start"], found))
        return found

    planner.plan = remember
    loop = Loop(planner, "loop")
    states, goals = task.world.sample_task(np.random.default_rng(0), 4)
    loop.begin(goals, 0)
    loop.act(0, np.arange(4), states)
    loop.act(1, np.array([0, 2, 3]), states[[0, 2, 3]])
    loop.act(2, np.array([2]), states[[2]])
    (none, first), (rest, second), (last, _) = asked
    assert none is None
    torch.testing.assert_close(rest.mean, first.actions[[0, 2, 3], 1:])
    torch.testing.assert_close(rest.std, first.std[[0, 2, 3], 1:])
    torch.testing.assert_close(last.mean, second.actions[[1], 1:])
    search = planner.optimizer
    assert loop.candidates == [search.samples * search.iterations] * 3


def test_a_loop_acts_as_an_agent_does() -> None:
    """With a search that has no chance in it, as its noise is given."""
    task = known("pendulum")
    search = dataclasses.replace(task.ways[1].make().optimizer, samples=6, elites=2, iterations=2)

    def planner() -> Planner:
        made = task.ways[1].make()
        noise = torch.randn(2, 1, 6, 25, 1, generator=torch.Generator().manual_seed(0))
        fixed = Planner(made.engine, search, made.horizon, cost=made.cost)
        plan = fixed.plan
        fixed.plan = lambda *a, **o: plan(*a, **{**o, "noise": noise})
        return fixed

    found = evaluate(task.world, Loop(planner(), "loop"), episodes=1, seed=3, budget=6)
    agent, state = Agent(planner()), found.states[:, 0]
    for expected in found.states[0, 1:]:
        state = task.world.step(state, agent.act(state, found.goals))
        np.testing.assert_array_equal(state[0], expected)


def test_mixtures_get_round_the_disc_where_cem_does_not() -> None:
    task = known("disc")
    rates = {
        way.method: planners.outcome(task, way.name, way.make(), 40)["value"]
        for way in task.ways
        if (way.samples, way.iterations) == (300, 5) and way.method in ("CEM", "mixture CEM")
    }
    assert rates["CEM"] < 0.4
    assert rates["mixture CEM"] > 0.7


def test_the_rooms_are_planned_from_pictures() -> None:
    task = planner_tasks.rooms(
        tiny_models.random_model(action_dim=10, action_block=5, image_size=64), threads=1, quick=True
    )
    assert task.baseline in [way.name for way in task.ways]
    way = next(way for way in task.ways if way.method == "CEM")
    found = planners.outcome(task, way.name, way.make(), 2)
    assert found["candidates"] == way.samples * way.iterations
    assert set(found["each"]) <= {"0", "1"}
    planners.one_plan(task, way.make())()


def test_every_method_has_a_line_over_its_budgets() -> None:
    for wide in (False, True):
        for method in METHODS:
            pairs = budgets(method, wide=wide)
            assert len(set(pairs)) == len(pairs) > 1
            for samples, iterations in pairs:
                search = searches(method, samples, max(2, samples // 16), iterations)
                assert (search.samples, search.iterations) == (samples, iterations)
    with pytest.raises(ValueError, match="method is 'none', expected one of CEM, iCEM"):
        searches("none", 1, 1, 1)


# ---- verdicts ----


def line(way: str, each: str | list[float], ms: float, **more) -> dict:
    """A line with the interval given by hand."""
    value = float(np.mean([float(x) for x in each]))
    found = {"task": "grid", "about": "A grid.", "measure": "success" if isinstance(each, str) else "return"}
    found |= {"way": way, "method": "CEM", "samples": 8, "iterations": 1, "engine": "", "baseline": False}
    found |= {"threads": 1, "repeats": 3, "candidates": 8.0, "episodes": len(each)}
    found |= {"milliseconds": {"median": ms, "q1": ms, "q3": ms}, "each": each, "value": value}
    return {**found, "low": value - 0.05, "high": min(1.0, value + 0.05), **more}


def test_equal_is_judged_episode_by_episode_and_better_by_the_interval() -> None:
    base = line("base", "10" * 100, 100.0, baseline=True)
    same, other = line("same", "10" * 100, 3.0), line("other", "01" * 100, 2.0)
    assert equal(same, base)
    assert not equal(other, base), "as many, but other episodes: the difference is not known well enough"
    assert not better(same, base)
    best = line("best", "1" * 200, 20.0)
    assert better(best, base)
    assert cheapest([base, same, other, best], base, equal) is same
    assert cheapest([base, same, other, best], base, better) is best
    assert cheapest([base, other], base, equal) is None
    low, high = difference(best, base)
    assert low < 0.5 < high
    with pytest.raises(ValueError, match="had other episodes"):
        difference(best, line("few", "11", 1.0))


def test_returns_are_equal_within_a_twentieth() -> None:
    base = line("base", [-100.0, -200.0, -300.0], 9.0)
    assert difference(line("more", [-90.0, -190.0, -290.0], 1.0), base) == pytest.approx((10, 10))
    assert equal(line("nearly", [-109.0, -209.0, -309.0], 1.0), base)
    assert not equal(line("less", [-111.0, -211.0, -311.0], 1.0), base)


def test_a_page_divides_what_was_gained_into_engine_and_search() -> None:
    timed = line("CEM, torch", "0", 1000.0, task="rooms")
    del timed["value"], timed["each"], timed["low"], timed["high"], timed["episodes"], timed["candidates"]
    base = line("CEM, ours", "10" * 50, 200.0, task="rooms", baseline=True, samples=300)
    text = page({"machine": MACHINE, "results": [timed, base, line("new", "1" * 100, 4.0, task="rooms")]})
    assert "250 times less time per plan" in text
    assert "5.0 times by the engine, 50 times by the search" in text
    assert "| rooms | CEM, ours | 50 % (45 to 55) | 200 | better | new | 100 % (95 to 100) | 4 | 50 |" in text
    assert "| CEM, torch | – | – | 1e+03 | – |" in text


# ---- from end to end ----


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(planner_tasks, "BASELINE", (40, 4))
    monkeypatch.setattr(planners, "header", lambda: MACHINE)
    monkeypatch.setattr(sys, "argv", ["planners", *arguments])
    planners.main()


def test_a_run_writes_results_a_page_and_a_picture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    saves = []
    save = planners.save
    monkeypatch.setattr(planners, "save", lambda path, content: (saves.append(path), save(path, content)))
    run(monkeypatch, "--quick", "--threads", "1", "--tasks", "disc", "pendulum", "--out", str(tmp_path))
    content = json.loads((tmp_path / "planners.json").read_text())
    assert "partial" not in content
    lines = content["results"]
    assert [(x["task"], x["baseline"]) for x in lines] == [
        ("disc", True),
        ("disc", False),
        ("pendulum", True),
        ("pendulum", False),
    ]
    assert len(saves) == len(lines) + 1, "after every planner, and in the end"
    for found in lines:
        assert found["low"] <= found["value"] <= found["high"]
        assert found["milliseconds"]["median"] > 0
        assert found["candidates"] == found["samples"] * found["iterations"]
    disc, pendulum = lines[0], lines[2]
    assert (len(disc["each"]), len(pendulum["each"])) == (10, 2)
    assert disc["value"] == disc["each"].count("1") / 10
    assert pendulum["value"] == pytest.approx(np.mean(pendulum["each"]))
    text = (tmp_path / "planners.md").read_text()
    assert text == page(content)
    assert all(f"| {x['way']} | {planner_page.value(x)} |" in text for x in lines)
    picture = ElementTree.parse(tmp_path / "planners.svg").getroot()
    titles = [mark.text for mark in picture.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == len(lines)
    assert not [name for name in tmp_path.iterdir() if name.suffix not in (".json", ".md", ".svg")]


def test_an_interruption_keeps_what_was_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    outcome, calls = planners.outcome, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return outcome(*arguments)

    monkeypatch.setattr(planners, "outcome", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, "--quick", "--threads", "1", "--tasks", "disc", "--out", str(tmp_path))
    content = json.loads((tmp_path / "planners.json").read_text())
    assert content["partial"]
    assert [x["way"] for x in content["results"]] == ["plain CEM, 40 × 4"]
    assert "The run was interrupted" in (tmp_path / "planners.md").read_text()

    run(
        monkeypatch, "--quick", "--threads", "1", "--tasks", "disc", "--out", str(tmp_path), "--resume"
    )  # the other one
    whole = json.loads((tmp_path / "planners.json").read_text())
    assert "partial" not in whole
    assert whole["results"][0] == content["results"][0]
    assert len(calls) == 3
    assert [x["way"] for x in whole["results"]] == ["plain CEM, 40 × 4", "CEM, 128 × 5"]
    with pytest.raises(ValueError, match="was measured with other options than"):
        run(monkeypatch, "--episodes", "7", "--tasks", "disc", "--out", str(tmp_path), "--resume")


def test_rooms_need_a_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "--tasks", "rooms", "--out", str(tmp_path))
    assert "--model is missing" in capsys.readouterr().err


def test_a_page_without_successes_has_no_picture(tmp_path: Path) -> None:
    timed = {k: v for k, v in line("CEM", "1", 5.0).items() if k not in ("value", "each", "low", "high")}
    assert write_page({"machine": MACHINE, "results": [timed]}, tmp_path) == [tmp_path / "planners.md"]


def test_plain_cem_is_the_published_one() -> None:
    search = known("disc").ways[0].make().optimizer
    assert search == CEM(samples=300, elites=30, iterations=30)
