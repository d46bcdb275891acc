"""Agents in gymnasium's environments: what they are shown, what they do, and what is counted."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import gymnasium
import numpy as np
import pendulum
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from PIL import Image
from tiny_models import random_model

import fastwm
from fastwm.envs.gym import TwoRoom, TwoRoomVector
from fastwm.integrations.gymnasium import ActionBlock, run, run_vector
from fastwm.integrations.gymnasium.actions import Actions

LIMIT = 5


class Walk(gymnasium.Env):
    """A number that the action moves; the goal is another. Ends at the goal, or after a number of steps of its own."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    enough = 3.9  # for success

    def __init__(self, limit: int = LIMIT, render_mode: str | None = None, with_goal: bool = True) -> None:
        self.observation_space = Box(-np.inf, np.inf, (1,), np.float64)
        self.action_space = Box(-1.0, 1.0, (1,), np.float64)
        self.limit, self.render_mode, self.with_goal = limit, render_mode, with_goal
        self.actions: list[float] = []
        self.starts: list[float] = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.goal = self.np_random.uniform(-1, 1), self.np_random.uniform(5, 6)
        self.steps = 0
        self.starts.append(self.position)
        return self._seen(), self._info()

    def step(self, action):
        assert self.steps < self.limit, "stepped after its end"
        assert action in self.action_space
        self.actions.append(float(action[0]))
        self.position, self.steps = self.position + action[0], self.steps + 1
        return self._seen(), 1.0, False, self.steps == self.limit, self._info()

    def render(self):
        return np.full((8, 12, 3), 40 * self.steps, np.uint8)

    def _seen(self):
        return np.array([self.position])

    def _info(self):
        info = {"success": bool(self.position > self.enough), "start": self.starts[-1]}
        return info | {"goal": np.array([self.goal])} if self.with_goal else info


class Recorder(fastwm.Agent):
    """An agent that remembers what it was asked, and what it was made to forget."""

    def __init__(self, planner: fastwm.Planner) -> None:
        super().__init__(planner)
        self.seen: list = []
        self.resets: list = []
        self.after: list[int] = []  # how many actions each reset came

    def act(self, obs, goal=None, deadline=None):
        action = super().act(obs, goal, deadline)
        self.seen.append((obs, goal, deadline, action))
        return action

    def reset(self, environments=None) -> None:
        super().reset(environments)
        self.resets.append(None if environments is None else np.asarray(environments).tolist())
        self.after.append(len(self.seen))


def walker(blocks: int = 1, cost=None, high: float | None = 1.0) -> Recorder:
    """Walks by the sum of its action block."""
    search = fastwm.CEM(samples=40, elites=5, iterations=3, low=None if high is None else -high, high=high)
    return Recorder(
        fastwm.Planner.from_function(
            lambda states, actions: states + actions.sum(-1, keepdim=True),
            cost,
            search,
            3,
            state_dim=1,
            action_dim=blocks,
            action_std=2.0,
        )
    )


def test_a_run_counts_what_happened() -> None:
    env, agent = Walk(), walker()
    found = run(env, agent, episodes=3, seed=7, deadline=5.0)
    assert found.returns.tolist() == [5.0] * 3
    assert found.lengths.tolist() == [5] * 3
    moves = np.array(env.actions).reshape(3, 5).sum(1)
    assert found.success is not None
    assert found.success.tolist() == (np.array(env.starts) + moves > 3.9).tolist()
    assert set(found.success.tolist()) == {True}, "full steps ahead: 5 - 1 at least"
    assert len(found.action_seconds) == 15
    assert found.p50 <= found.p99 <= found.worst == found.action_seconds.max()
    assert agent.resets == [None] * 3
    assert "3 episodes: return 5.00, success 100%, 5.0 steps" in str(found)
    assert {deadline for *_, deadline, _ in agent.seen} == {5.0}


def test_episodes_follow_from_the_seed() -> None:
    first, again, next_one = Walk(), Walk(), Walk()
    run(first, walker(), episodes=2, seed=3)
    run(again, walker(), episodes=2, seed=3)
    run(next_one, walker(), seed=4)
    assert first.starts == again.starts
    assert first.actions == again.actions
    assert next_one.starts == first.starts[1:]


def test_where_goals_come_from() -> None:
    env, agent = Walk(), walker()
    run(env, agent, seed=0)
    assert all(goal == [env.goal] for _, goal, *_ in agent.seen), "info's"
    agent, given = walker(), np.array([0.25])
    run(env, agent, goal=given)
    assert all(goal is given for _, goal, *_ in agent.seen)
    agent = walker()
    run(env, agent, goal=lambda obs, info: obs + info["start"])
    assert [goal for _, goal, *_ in agent.seen] == [obs + env.starts[-1] for obs, *_ in agent.seen]
    agent = walker(cost=lambda states, actions: -states[..., -1, 0])
    run(env, agent)
    assert {goal for _, goal, *_ in agent.seen} == {None}, "the cost needs none"
    with pytest.raises(ValueError, match=r"goal is None and info has \['start', 'success'\]"):
        run(Walk(with_goal=False), walker())


def test_blocks_are_executed_step_by_step_until_the_episode_ends() -> None:
    env, agent = Walk(), walker(blocks=3)
    found = run(env, agent, episodes=2)
    assert found.lengths.tolist() == [5, 5]
    assert len(found.action_seconds) == 4
    blocks = np.array([action for *_, action in agent.seen])
    expected = [*blocks[0], *blocks[1, :2], *blocks[2], *blocks[3, :2]]
    assert np.allclose(env.actions, expected, atol=0)
    assert run(env, walker(blocks=3), max_steps=4).lengths.tolist() == [4]


def test_actions_outside_the_space_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"outside of Box\(-1.0, 1.0, \(1,\), float64\): give .* low= and high="
    ):
        run(Walk(), walker(high=None), episodes=9, seed=0)
    free = Walk()
    free.action_space = Box(-1.0, 1.0, (1,), np.float64)
    clipped = gymnasium.wrappers.ClipAction(free)
    assert run(clipped, walker(high=None), seed=0).lengths.tolist() == [5]
    assert max(free.actions) == 1.0


def test_a_bound_in_single_precision_is_the_bound() -> None:
    actions = Actions(Box(-0.1, 0.1, (2,), np.float64), 2)
    edge = np.array([-0.1, 0.1], np.float32)
    assert float(edge[1]) > 0.1
    (action,) = actions.of(edge)
    assert action.dtype == np.float64
    assert action.tolist() == [-0.1, 0.1]
    with pytest.raises(ValueError, match="outside"):
        actions.of(np.array([0.0, np.nan], np.float32))


def test_discrete_actions_are_one_hot() -> None:
    actions = Actions(Discrete(3, start=-1), 6)
    assert [int(a) for a in actions.of(np.array([0.0, 0, 1, 1, 0, 0]))] == [1, -1]
    assert all(a in actions._space for a in actions.of(np.eye(6)[2]))
    several = Actions(MultiDiscrete([2, 3]), 5)
    (action,) = several.of(np.array([0.0, 1, 0, 0, 1]))
    assert action.tolist() == [1, 2]
    assert action in several._space


@pytest.mark.parametrize(
    ("space", "action_dim", "message"),
    [
        (
            Box(0, 255, (2,), np.uint8),
            2,
            "expected a Box of floating-point numbers, Discrete or MultiDiscrete",
        ),
        (Box(-1, 1, (2, 2)), 6, "blocks hold 6 numbers, expected a multiple of 4"),
        (Discrete(4), 2, "blocks hold 2 numbers, expected a multiple of 4"),
        (gymnasium.spaces.MultiBinary(3), 3, "the action space is MultiBinary"),
    ],
)
def test_spaces_that_do_not_fit(space: gymnasium.Space, action_dim: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Actions(space, action_dim)


def test_the_pendulum_swings_up() -> None:
    env = gymnasium.make("Pendulum-v1", max_episode_steps=100)
    found = run(env, fastwm.Agent(pendulum.planner()), episodes=2, seed=0)
    assert (found.returns > -400).all(), "hanging still for 100 steps costs 987"
    assert found.success is None


# ---- video ---------------------------------------------------------------------------------------------------------------


def test_a_gif_holds_every_step(tmp_path: Path) -> None:
    path = tmp_path / "walk.gif"
    assert run(Walk(render_mode="rgb_array"), walker(), video=path).video == path
    with Image.open(path) as film:
        assert film.size == (12, 8)
        assert film.n_frames == 6
        shades = []
        for frame in range(6):
            film.seek(frame)
            assert film.info["duration"] == 50
            shades.append(film.convert("RGB").getpixel((3, 3))[0])
    assert shades == [0, 40, 80, 120, 160, 200]
    assert list(tmp_path.iterdir()) == [path]


def test_an_mp4(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="imageio[ffmpeg] is not installed")
    import imageio.v3 as iio

    path = tmp_path / "walk.mp4"
    run(Walk(render_mode="rgb_array"), walker(), video=path)
    frames = iio.imread(path)
    assert frames.shape == (6, 8, 12, 3)
    assert np.abs(frames.mean((1, 2, 3)) - 40 * np.arange(6)).max() < 8
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_that_fails_leaves_no_video(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="outside"):
        run(Walk(render_mode="rgb_array"), walker(high=None), episodes=9, video=tmp_path / "walk.gif", seed=0)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_filmed_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = Walk(render_mode="rgb_array")
    for name, message in (
        ("walk.avi", "a name that ends in .gif or .mp4"),
        ("no/walk.gif", "there is no folder"),
    ):
        with pytest.raises(ValueError, match=message):
            run(env, walker(), video=tmp_path / name)
    with pytest.raises(ValueError, match="render_mode='rgb_array', this one has None"):
        run(Walk(), walker(), video=tmp_path / "walk.gif")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "ffmpeg" in name else find(name))
    with pytest.raises(ImportError, match=r"pip install 'imageio\[ffmpeg\]', or name a .gif"):
        run(env, walker(), video=tmp_path / "walk.mp4")
    assert env.starts == []


@pytest.mark.parametrize("argument", ["episodes", "max_steps"])
def test_counts_that_are_none(argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} is 0, expected an integer of at least 1"):
        run(Walk(), walker(), **{argument: 0})


# ---- many environments ---------------------------------------------------------------------------------------------------


class Generous(SyncVectorEnv):
    """Rewards the step that only resets, too."""

    def step(self, actions):
        obs, rewards, *rest = super().step(actions)
        return (obs, np.ones_like(rewards), *rest)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_each_environment_has_its_own_episodes(mode: AutoresetMode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths 2, 3 and 5: whatever the autoreset mode, an environment's steps are its own and so are its goals."""
    monkeypatch.setattr(Walk, "enough", 2.2)
    walks = [Walk(2), Walk(3), Walk(5)]
    envs = Generous([lambda w=w: w for w in walks], autoreset_mode=mode)
    agent = walker()
    found = run_vector(envs, agent, episodes=5, seed=1)
    assert found.lengths.tolist() == [2, 2, 3, 3, 5]
    assert found.returns.tolist() == [2, 2, 3, 3, 5]
    assert found.success is not None
    ends = [
        walks[0].starts[0] + sum(walks[0].actions[:2]),
        walks[0].starts[1] + sum(walks[0].actions[2:4]),
        walks[1].starts[0] + sum(walks[1].actions[:3]),
        walks[1].starts[1] + sum(walks[1].actions[3:6]),
        walks[2].starts[0] + sum(walks[2].actions[:5]),
    ]
    assert found.success.tolist() == [end > 2.2 for end in ends]
    assert set(found.success.tolist()) == {True, False}
    first = [Walk().reset(seed=1 + i)[1]["goal"] for i in range(3)]
    for obs, goal, *_ in agent.seen[:2]:
        assert obs.shape == (3, 1)
        assert np.array_equal(goal, first)
    # The first environment ends with its second step, the second one with its third.
    restart = 3 if mode == AutoresetMode.NEXT_STEP else 2
    assert agent.seen[restart][0][0] == walks[0].starts[1]
    assert agent.seen[restart][1][0] != first[0]
    assert agent.seen[restart][1][2] == first[2]
    assert agent.resets[:3] == [None, [True, False, False], [False, True, False]]
    assert agent.after[:3] == [0, restart, restart + 1], "with the first observation, not with the last one"


def test_environments_do_what_they_do_alone() -> None:
    """One of two environments restarts; the other one's actions are those without the restart."""
    both, alone = [Walk(2), Walk(5)], [Walk(5), Walk(5)]
    for walks in (both, alone):
        run_vector(SyncVectorEnv([lambda w=w: w for w in walks]), walker(), seed=1, episodes=2)
    assert both[1].actions == alone[1].actions


def test_blocks_in_many_environments() -> None:
    walks = [Walk(5), Walk(6)]
    plain = SyncVectorEnv([lambda w=w: w for w in walks])
    with pytest.raises(ValueError, match=r"blocks hold 3 actions, .* ActionBlock\(env, 3\)"):
        run_vector(plain, walker(blocks=3))
    agent = walker(blocks=3)
    found = run_vector(SyncVectorEnv([lambda w=w: ActionBlock(w, 3) for w in walks]), agent, seed=0)
    assert found.returns.tolist() == [5, 6]
    assert found.lengths.tolist() == [2, 2], "blocks"
    blocks = np.array([action for *_, action in agent.seen])
    assert np.array_equal(walks[0].actions[:5], blocks[:2, 0].ravel()[:5])
    assert np.array_equal(walks[1].actions[:6], blocks[:2, 1].ravel())


def test_our_own_environments() -> None:
    engine = fastwm.compile(random_model(image_size=64), dtype="float32", threads=1)
    planner = fastwm.Planner(engine, fastwm.CEM(8, 2, 2, low=-1.0, high=1.0), 2)
    env = gymnasium.wrappers.TimeLimit(TwoRoom(), 4)
    found = run(env, fastwm.Agent(planner, history=2), episodes=2, seed=0)
    assert found.success is not None
    assert (found.lengths[~found.success] == 4).all()
    assert (found.returns == found.success).all()
    agent = Recorder(planner)
    many = run_vector(TwoRoomVector(3, max_episode_steps=4), agent, episodes=4, seed=0)
    assert many.lengths.max() == 4
    assert agent.seen[0][1].shape == (3, 64, 64, 3)
    assert not np.array_equal(agent.seen[-1][1], agent.seen[0][1]), "new episodes have new goals"


def test_a_mode_that_is_not_known() -> None:
    envs = TwoRoomVector(2)
    envs.metadata = {}
    with pytest.raises(ValueError, match=r"metadata\['autoreset_mode'\] is None"):
        run_vector(envs, walker())


def test_tensors_are_accepted_from_an_agent() -> None:
    class Tensors(Recorder):
        def act(self, obs, goal=None, deadline=None):
            return torch.from_numpy(super().act(obs, goal, deadline))

    agent = Tensors(walker().planner)
    assert run(Walk(), agent).lengths.tolist() == [5]
