"""The worlds against scalar references, the properties of their states, and gymnasium's interface."""

from __future__ import annotations

import math
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

import fastwm.envs
from fastwm.envs import POLICIES, WORLDS, TwoRoom, trajectories, two_room, world

NAMES = sorted(WORLDS)
seeds = st.integers(0, 2**32 - 1)
quick = settings(deadline=None, max_examples=40)


def reachable(name: str, seed: int, n: int) -> np.ndarray:
    """States [n, state_dim] from the middle of random and expert episodes."""
    rng = np.random.default_rng(seed)
    states, _ = trajectories(world(name), rng, n, 6)
    return states[np.arange(n), rng.integers(0, 6, n)]


def paint(name: str, state: np.ndarray) -> np.ndarray:
    """The picture of one state drawn whole, pixel by pixel in float64: the oracle of `render`."""
    y, x = np.mgrid[:64, :64].astype(np.float64)
    if name.startswith("two-room"):
        dark = (x < 4) | (x >= 60) | (y < 4) | (y >= 60) | ((np.abs(x - 32) <= 1.5) & (np.abs(y - 20) > 7))
        sprites = [(np.exp(-((x - state[0]) ** 2 + (y - state[1]) ** 2) / (2 * 2.0**2)), (255, 0, 0))]
    else:
        dark = (x < 3) | (x >= 61) | (y < 3) | (y >= 61)
        sprites = [
            (np.clip(radius + 0.5 - np.hypot(x - cx, y - cy), 0, 1), colour)
            for cx, cy, radius, colour in (
                (state[2], state[3], 6.0, (60, 90, 220)),
                (state[0], state[1], 2.5, (230, 40, 40)),
            )
        ]
    picture = np.where(dark, 0.0, 255.0)[..., None].repeat(3, axis=2)
    for opacity, colour in sprites:
        picture += opacity[..., None] * (np.array(colour) - picture)
    return picture


@pytest.mark.parametrize("name", NAMES)
@quick
@given(seed=seeds, n=st.sampled_from([1, 3, 64, 65, 131]))
def test_render_equals_a_whole_frame_drawing(name: str, seed: int, n: int) -> None:
    space = world(name)
    states = np.random.default_rng(seed).uniform(space.state_low, space.state_high, (n, space.state_dim))
    states[0] = np.where(np.arange(space.state_dim) % 2, space.state_low, space.state_high)
    states[-1] = np.round(states[-1])
    states = states.astype(np.float32)
    out = np.full((n, 64, 64, 3), 137, np.uint8)
    assert space.render(states, out) is out
    for row in {0, n - 1, n // 2}:
        assert np.abs(out[row] - paint(name, states[row])).max() <= 1
        assert np.array_equal(out[row], space.render(states[row : row + 1])[0])


@pytest.mark.parametrize("name", NAMES)
def test_render_of_no_state_is_no_picture(name: str) -> None:
    assert world(name).render(np.empty((0, world(name).state_dim))).shape == (0, 64, 64, 3)


def walk(x: float, y: float, ax: float, ay: float) -> tuple[float, float]:
    """One decision in the two rooms, one number at a time: the oracle of `step`."""
    for _ in range(5):
        nx, ny = (min(max(p + 1.43 * a, 5.0), 58.0) for p, a in ((x, ax), (y, ay)))
        if 28.5 < nx < 35.5:
            if 28.5 < x < 35.5:
                ny = min(max(ny, 14.0), 26.0)
            elif not 14.0 <= ny <= 26.0:
                nx = 28.5 if x <= 28.5 else 35.5
        x, y = nx, ny
    return x, y


def shove(
    ax: float, ay: float, px: float, py: float, ux: float, uy: float
) -> tuple[float, float, float, float]:
    """One decision on the table, one number at a time: the oracle of `step`."""
    for _ in range(3):
        ax, ay = (min(max(p + 1.6 * u, 4.0), 59.0) for p, u in ((ax, ux), (ay, uy)))
        gap = math.hypot(px - ax, py - ay)
        depth = max(8.5 - gap, 0) / gap
        px, py = (min(max(p + (p - a) * depth, 10.0), 53.0) for p, a in ((px, ax), (py, ay)))
        gap = math.hypot(px - ax, py - ay)
        depth = max(8.5 - gap, 0) / gap
        ax, ay = (min(max(a - (p - a) * depth, 4.0), 59.0) for p, a in ((px, ax), (py, ay)))
    return ax, ay, px, py


@pytest.mark.parametrize(("name", "oracle"), [("two-room", walk), ("push", shove)])
def test_step_follows_the_rules(name: str, oracle) -> None:
    states = reachable(name, 5, 400)
    actions = np.random.default_rng(6).uniform(-1, 1, (400, 2)).astype(np.float32)
    after = world(name).step(states, actions)
    expected = np.array([oracle(*map(float, (*s, *a))) for s, a in zip(states, actions, strict=True)])
    # A float32 state next to a boundary may fall on its other side: such rows may differ, but only few.
    close = np.abs(after - expected).max(axis=1) < 1e-3
    assert close.mean() > 0.99
    assert np.abs(after - states).max() > 1


@pytest.mark.parametrize("name", NAMES)
@quick
@given(seed=seeds, actions=st.lists(st.tuples(*[st.floats(-3, 3, width=32)] * 2), min_size=1, max_size=30))
def test_states_stay_in_the_world(name: str, seed: int, actions: list[tuple[float, float]]) -> None:
    space = world(name)
    state = reachable(name, seed, 33)
    for action in actions:
        state = space.step(state, np.tile(np.float32(action), (33, 1)))
        assert state.dtype == np.float32
        assert (state >= space.state_low).all()
        assert (state <= space.state_high).all()
        assert space.contains(state).all()


@quick
@given(seed=seeds, actions=st.lists(st.tuples(*[st.floats(-1, 1, width=32)] * 2), min_size=1, max_size=60))
def test_the_only_way_between_the_rooms_is_the_door(seed: int, actions: list[tuple[float, float]]) -> None:
    rooms = world("two-room")
    before = rooms.sample_state(np.random.default_rng(seed), 50)
    for action in actions:
        after = two_room._substep(before, np.tile(np.float32(action), (50, 1)))
        assert rooms.contains(after).all()
        crossed = (before[:, 0] < 32) != (after[:, 0] < 32)
        assert (np.abs(after[crossed, 1] - 20) <= 6).all()
        before = after


@quick
@given(seed=seeds)
def test_the_puck_moves_only_when_it_is_touched(seed: int) -> None:
    table = world("push")
    state = table.sample_state(np.random.default_rng(seed), 200)
    action = np.random.default_rng(seed).uniform(-1, 1, (200, 2))
    after = table.step(state, action)
    gap = np.hypot(*(state[:, :2] - state[:, 2:]).T)
    far = gap > 8.5 + math.sqrt(2) * 1.6 * 3
    assert np.array_equal(after[far, 2:], state[far, 2:])
    assert (np.hypot(*(after[:, :2] - after[:, 2:]).T) >= 8.5 - 1).all()


@pytest.mark.parametrize("name", NAMES)
@quick
@given(seed=seeds, n=st.integers(1, 40))
def test_samples_are_states_of_the_world(name: str, seed: int, n: int) -> None:
    space, rng = world(name), np.random.default_rng(seed)
    for states in (space.sample_state(rng, n), *space.sample_task(rng, n)):
        assert states.shape == (n, space.state_dim)
        assert states.dtype == np.float32
        assert space.contains(states).all()
    start, goal = space.sample_task(np.random.default_rng(seed), n)
    again, _ = space.sample_task(np.random.default_rng(seed), n)
    assert np.array_equal(start, again)
    assert not space.success(start, goal).any()
    if name.startswith("two-room"):
        assert ((start[:, 0] < 32) != (goal[:, 0] < 32)).all()
    else:
        assert (np.hypot(*(start[:, 2:] - goal[:, 2:]).T) >= 8).all()


@pytest.mark.parametrize("name", NAMES)
def test_experts_succeed_and_random_actions_do_not(name: str) -> None:
    space, rates = world(name), {}
    for policy in ("expert", "random"):
        rng = np.random.default_rng(11)
        state, goal = space.sample_task(rng, 500)
        action, done = np.zeros((500, 2), np.float32), np.zeros(500, bool)
        for _ in range(space.budget):
            action = space.expert(state, goal) if policy == "expert" else space.random(rng, action)
            assert (np.abs(action) <= 1).all()
            state = space.step(state, action)
            done |= space.success(state, goal)
        rates[policy] = done.mean()
    assert rates["expert"] >= 0.99
    assert rates["random"] <= 0.05


@pytest.mark.parametrize("name", NAMES)
def test_random_actions_are_held_half_of_the_time(name: str) -> None:
    rng, space = np.random.default_rng(0), world(name)
    first = space.random(rng, np.zeros((4000, 2), np.float32))
    assert first.any(axis=1).all()
    held = (space.random(rng, first) == first).all(axis=1).mean()
    assert 0.45 < held < 0.55


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("policy", POLICIES)
def test_trajectories_are_what_the_world_does(name: str, policy: str) -> None:
    space = world(name)
    states, actions = trajectories(space, np.random.default_rng(3), 20, 7, policy)
    again, _ = trajectories(space, np.random.default_rng(3), 20, 7, policy)
    assert np.array_equal(states, again)
    assert not actions[:, -1].any()
    for t in range(6):
        assert np.array_equal(states[:, t + 1], space.step(states[:, t], actions[:, t]))


def test_training_data_shows_what_there_is_to_learn() -> None:
    states, _ = trajectories(world("two-room"), np.random.default_rng(0), 500, 20)
    right = states[..., 0] > 32
    assert (right[:, 1:] != right[:, :-1]).any(axis=1).mean() > 0.3
    states, _ = trajectories(world("push"), np.random.default_rng(0), 500, 30)
    assert (np.abs(np.diff(states[..., 2:], axis=1)).max(axis=2) > 0.2).mean() > 0.15


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_refused_by_name(name: str) -> None:
    space = world(name)
    state = space.sample_state(np.random.default_rng(0), 3)
    action = np.zeros((3, 2), np.float32)
    nan, outside = state.copy(), state.copy()
    nan[1, 0], outside[2, 1] = np.nan, 63
    for call, error, message in (
        (lambda: space.step(nan, action), ValueError, "state: row 1 is not finite"),
        (lambda: space.step(outside, action), ValueError, "state: row 2 .* is outside"),
        (lambda: space.step(state[0], action), ValueError, r"state: expected shape \[n, \d\], got \[\d\]"),
        (lambda: space.step(state, action[:2]), ValueError, "action: expected one row per state, 3, got 2"),
        (lambda: space.step(state, action * np.nan), ValueError, "action: row 0 is not finite"),
        (
            lambda: space.step(state, np.zeros((3, 3))),
            ValueError,
            r"action: expected shape \[n, 2\], got \[3, 3\]",
        ),
        (lambda: space.step(state, [["a", "b"]] * 3), TypeError, "action: expected real numbers"),
        (lambda: space.render(nan), ValueError, "state: row 1 is not finite"),
        (lambda: space.render(outside), ValueError, "state: row 2 .* is outside"),
        (lambda: space.render(state, np.empty((2, 64, 64, 3), np.uint8)), ValueError, "out: expected"),
        (lambda: space.render(state, np.empty((3, 64, 64, 3), np.float32)), ValueError, "out: expected"),
        (
            lambda: space.render(state, np.empty((3, 64, 64, 6), np.uint8)[..., ::2]),
            ValueError,
            "out: expected",
        ),
        (lambda: space.success(state, state[:2]), ValueError, "goal: expected one row per state, 3, got 2"),
        (lambda: space.random(np.random.default_rng(0), 0.0), ValueError, "action: expected shape"),
        (
            lambda: trajectories(space, np.random.default_rng(0), 1, 2, "best"),
            ValueError,
            "policy: expected one of mix",
        ),
        (
            lambda: world("three-room"),
            ValueError,
            "world: expected one of two-room, two-room-steps, push, pendulum, pusht, reacher, got 'three-room'",
        ),
    ):
        with pytest.raises(error, match=message):
            call()


def test_states_no_episode_reaches_are_refused() -> None:
    with pytest.raises(ValueError, match="the agent is in the wall"):
        world("two-room").step([[32.0, 40.0]], [[0.0, 0.0]])
    with pytest.raises(ValueError, match=r"at least 7\.5 pixels apart"):
        world("push").step([[30.0, 30.0, 31.0, 30.0]], [[0.0, 0.0]])


@pytest.mark.parametrize("env_id", ["fastwm/TwoRoom-v0", "fastwm/Push-v0"])
@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_gymnasium_finds_no_fault(env_id: str, render_mode: str | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(env_id, render_mode=render_mode).unwrapped)


@pytest.mark.parametrize("env_id", ["fastwm/TwoRoom-v0", "fastwm/Push-v0"])
def test_one_environment_many_environments_and_the_world_agree(env_id: str) -> None:
    env = gymnasium.make(env_id)
    many = gymnasium.make_vec(env_id, num_envs=3)
    assert isinstance(many.unwrapped, (fastwm.envs.TwoRoomVector, fastwm.envs.PushVector))
    space = env.unwrapped.world
    start, goal = space.sample_task(np.random.default_rng(2), 3)
    pixels, infos = many.reset(seed=1, options={"state": start, "goal": goal})
    picture, info = env.reset(seed=1, options={"state": start[1], "goal": goal[1]})
    assert np.array_equal(info["goal"], space.render(goal[1:2])[0])
    for t in range(space.budget + 1):
        assert np.array_equal(picture, pixels[1])
        assert all(np.array_equal(info[name], infos[name][1]) for name in info)
        assert np.array_equal(picture, space.render(info["state"][None])[0])
        if t == space.budget:
            break
        action = np.random.default_rng(t).uniform(-0.01, 0.01, (3, 2)).astype(np.float32)
        picture, reward, terminated, truncated, info = env.step(action[1])
        pixels, rewards, terminateds, truncateds, infos = many.step(action)
        assert (reward, terminated, truncated) == (rewards[1], terminateds[1], truncateds[1])
        assert many.observation_space.contains(pixels)
    assert truncated


def test_experts_earn_the_reward_and_ended_environments_start_anew() -> None:
    many = gymnasium.make_vec("fastwm/Push-v0", num_envs=5)
    space = many.unwrapped.world
    _, info = many.reset(seed=4)
    finished, ended = np.zeros(5), np.zeros(5, bool)
    for _ in range(60):
        before = info
        _, reward, terminated, truncated, info = many.step(space.expert(info["state"], info["goal_state"]))
        assert np.array_equal(reward, terminated)
        assert np.array_equal(info["goal"], space.render(info["goal_state"]))
        changed = (before["goal_state"] != info["goal_state"]).any(axis=1)
        assert np.array_equal(changed, ended)
        assert not (terminated | truncated)[ended].any()
        finished += terminated
        ended = terminated | truncated
    assert (finished >= 3).all()


def test_environments_refuse_what_they_cannot_do() -> None:
    for call, error, message in (
        (
            lambda: TwoRoom(render_mode="human"),
            ValueError,
            "render_mode: expected None or 'rgb_array', got 'human'",
        ),
        (lambda: TwoRoom().step(np.zeros(2)), RuntimeError, "step: call reset first"),
        (lambda: TwoRoom().render(), RuntimeError, "render: call reset first"),
        (
            lambda: TwoRoom().reset(options={"start": 1}),
            ValueError,
            r"options: expected 'state' and 'goal', got \['start'\]",
        ),
        (
            lambda: TwoRoom().reset(options={"state": [32, 40]}),
            ValueError,
            r"options\['state'\]: row 0 .* in the wall",
        ),
        (lambda: TwoRoom().reset(options={"goal": [1.0]}), ValueError, r"options\['goal'\]: expected shape"),
        (lambda: fastwm.envs.PushVector(0), ValueError, "num_envs: expected at least 1, got 0"),
        (lambda: fastwm.envs.PushVector(2).reset(seed=[1, 2]), TypeError, "seed: expected one integer"),
        (
            lambda: fastwm.envs.TwoRoomVector(2).reset(options={"goal": [[9, 9]] * 3}),
            ValueError,
            r"options\['goal'\]: expected 2 rows, got 3",
        ),
    ):
        with pytest.raises(error, match=message):
            call()
