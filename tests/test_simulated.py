"""Worlds over others' simulators: pure functions of the state, equal to the simulator itself, collected and evaluated."""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from fastwm import cli
from fastwm.data import Episodes, collect
from fastwm.envs import SIMULATED, SimulatedWorld, World, trajectories, world
from fastwm.envs.pusht_expert import NORMALS, POINTS, SHIFT, TURN, middle
from fastwm.envs.simulated import wrapped
from fastwm.evaluation import ExpertPolicy, RandomPolicy, evaluate

PACKAGES = {"pusht": "gym_pusht", "reacher": "dm_control", "pendulum": "pygame"}


@pytest.fixture(params=sorted(SIMULATED))
def space(request: pytest.FixtureRequest) -> SimulatedWorld:
    """Each world whose simulator is installed."""
    pytest.importorskip(PACKAGES[request.param])
    return SIMULATED[request.param]  # type: ignore[return-value]


@pytest.fixture
def drawn(space: SimulatedWorld) -> SimulatedWorld:
    """Those that can be drawn here."""
    if space.name == "reacher" and os.environ.get("MUJOCO_GL") not in ("egl", "osmesa"):
        pytest.skip("MUJOCO_GL is not set: no OpenGL without a display")
    return space


def test_a_step_depends_on_state_and_action_alone(space: World) -> None:
    rng = np.random.default_rng(0)
    states, actions = trajectories(space, rng, 6, 9)
    assert np.isfinite(states).all()
    assert (states >= space.state_low).all()
    assert (states <= space.state_high).all()
    flat, taken = states[:, :-1].reshape(-1, space.state_dim), actions[:, :-1].reshape(-1, space.action_dim)
    order = rng.permutation(len(flat))
    after = np.empty_like(flat)
    after[order] = space.step(flat[order], taken[order])
    assert np.array_equal(after, states[:, 1:].reshape(-1, space.state_dim))


def test_pictures_depend_on_the_state_alone(drawn: World) -> None:
    states = drawn.sample_state(np.random.default_rng(1), 5)
    pictures = drawn.render(states)
    assert pictures.shape == (5, 64, 64, 3)
    drawn.step(states, np.ones((5, drawn.action_dim)))
    assert np.array_equal(drawn.render(states[::-1])[::-1], pictures)
    assert len(np.unique(pictures.reshape(5, -1), axis=0)) == 5
    elsewhere: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: elsewhere.append(drawn.render(states)))
    thread.start()
    thread.join()
    assert np.array_equal(elsewhere[0], pictures)
    with pytest.raises(ValueError, match="out: expected writeable uint8"):
        drawn.render(states, np.empty((4, 64, 64, 3), np.uint8))


def test_pusht_moves_as_its_environment() -> None:
    pusht = pytest.importorskip("gym_pusht.envs.pusht")
    env = pusht.PushTEnv(obs_type="state")
    env.reset(options={"reset_to_state": [120.0, 300.0, 256.0, 256.0, 0.7]})
    env.agent.velocity = (0, 0)
    agent, block = env.agent, env.block

    def state() -> list[float]:
        places = [*agent.position, *block.position, block.angle % (2 * np.pi)]
        return [*places, *agent.velocity, *block.velocity, block.angular_velocity]

    for step in range(12):
        action = np.array([[0.9, 0.1 * step - 0.5]], np.float32)
        after = world("pusht").step(np.array([state()], np.float32), action)[0]
        env.step(np.clip(np.array(agent.position) + 100 * action[0], 15, 497))
        apart = np.abs(after - state())  # they remember contacts from step to step
        assert apart[:4].max() < 0.2, step
        assert apart[4] < 0.01, step
        assert apart[5:7].max() < 0.1, step
    assert np.linalg.norm(after[2:4] - [285, 267]) > 20  # it was pushed


def test_pusht_is_set_exactly() -> None:
    pytest.importorskip("gym_pusht")
    space = world("pusht")
    state = np.array([[400, 400, 256, 256, 1.0, *5 * [0]]], np.float32)
    after = space.step(state, np.zeros((1, 2)))
    np.testing.assert_allclose(after[0, :5], state[0, :5], atol=1e-3)  # gym-pusht's own is 41 pixels off
    near, far = state.copy(), state.copy()
    near[0, 2:5] += (10, 10, 0.3)
    far[0, 4] += 0.4
    assert space.success(near, state)[0]
    assert not space.success(far, state)[0]
    turn = state.copy()
    state[0, 4], turn[0, 4] = 0.1, 2 * np.pi - 0.1
    assert space.success(turn, state)[0]


def test_pendulum_moves_as_gymnasium_does() -> None:
    pytest.importorskip("pygame")
    env = gymnasium.make("Pendulum-v1").unwrapped
    env.reset(seed=0)
    rng = np.random.default_rng(2)
    state = np.array([[2.5, 0.3]], np.float32)
    env.state = state[0].astype(float)
    for _ in range(20):
        action = rng.uniform(-1, 1, (1, 1)).astype(np.float32)
        for _ in range(3):
            env.step(2 * action[0])
        state = world("pendulum").step(state, action)
        apart = (env.state - state[0] + np.pi) % (2 * np.pi) - np.pi
        np.testing.assert_allclose(apart, 0, atol=1e-4)


def test_reacher_moves_as_the_suite_does() -> None:
    suite = pytest.importorskip("dm_control.suite")
    env = suite.load("reacher", "easy")
    env.reset()
    rng = np.random.default_rng(3)
    state = world("reacher").sample_state(rng, 1)
    with env.physics.reset_context():
        env.physics.data.qpos[:], env.physics.data.qvel[:] = state[0, :2], 0
    for _ in range(10):
        action = rng.uniform(-1, 1, (1, 2)).astype(np.float32)
        env.physics.set_control(action[0])
        env.physics.step(4)
        state = world("reacher").step(state, action)
        apart = env.physics.data.qpos - state[0, :2]
        np.testing.assert_allclose((apart + np.pi) % (2 * np.pi) - np.pi, 0, atol=1e-4)
    finger = env.physics.named.data.geom_xpos["finger", :2]
    from fastwm.envs.reacher import _tip

    np.testing.assert_allclose(_tip(state)[0], finger, atol=1e-3)


def test_workers_have_a_simulator_each(drawn: SimulatedWorld) -> None:
    copy = pickle.loads(pickle.dumps(drawn))
    states = drawn.sample_state(np.random.default_rng(8), 2)
    assert copy is not drawn
    assert np.array_equal(copy.render(states), drawn.render(states))


def test_random_actions_are_smooth(space: World) -> None:
    rng, actions = np.random.default_rng(4), [np.zeros((400, space.action_dim), np.float32)]
    for _ in range(12):
        actions.append(space.random(rng, actions[-1]))
    last, before = actions[-1].ravel(), actions[-2].ravel()
    assert 0.6 < np.corrcoef(last, before)[0, 1] < 0.9
    assert np.abs(last).max() <= 1
    assert last.std() > 0.4


@pytest.mark.parametrize(
    ("name", "least", "most"), [("reacher", 0.8, 0.6), ("pendulum", 0.8, 0.4), ("pusht", 0.6, 0.2)]
)
def test_experts_solve_what_random_actions_seldom_do(
    name: str, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(PACKAGES[name])
    space = world(name)
    if name == "pusht" or os.environ.get("MUJOCO_GL") not in ("egl", "osmesa"):
        monkeypatch.setattr(space, "render", lambda states: states)  # which neither looks at
    start, goal = space.sample_task(np.random.default_rng(5), 40)
    assert space.success(start, goal).mean() < 0.1
    assert evaluate(space, ExpertPolicy(space), episodes=40).rate >= least
    assert evaluate(space, RandomPolicy(space), episodes=40).rate <= most


def test_pusht_experts_push() -> None:
    pytest.importorskip("gym_pusht")
    space = world("pusht")
    moved = {}
    for policy in ("expert", "random"):
        states, _ = trajectories(space, np.random.default_rng(6), 12, 25, policy)
        moved[policy] = np.abs(np.diff(states[..., 2:4], axis=1)).sum(axis=-1) > 0.5
    assert moved["expert"].mean() > 0.3
    assert moved["expert"].mean() > 2 * moved["random"].mean()
    start, goal = space.sample_task(np.random.default_rng(7), 6)
    assert not space.success(start, goal).any()


def test_pusht_experts_place_the_t_from_anywhere() -> None:
    """The T alone, within a success's pixels and angle; in one row as in many."""
    pytest.importorskip("gym_pusht")
    space, rng = world("pusht"), np.random.default_rng(8)
    state, goal = space.sample_state(rng, 12), space.sample_goal(rng, 12)
    alone = np.concatenate([space.expert(s[None], g[None]) for s, g in zip(state, goal, strict=True)])
    np.testing.assert_array_equal(alone, space.expert(state, goal))
    placed = np.zeros(12, bool)
    for _ in range(120):
        state = space.step(state, space.expert(state, goal))
        turned = np.abs((state[:, 4] - goal[:, 4] + np.pi) % (2 * np.pi) - np.pi)
        placed |= (np.linalg.norm(state[:, 2:4] - goal[:, 2:4], axis=1) < 20) & (turned < np.pi / 9)
    assert placed.mean() > 0.8


def test_the_t_is_pushed_as_the_expert_thinks() -> None:
    """A short push turns and shifts the T by what its point, normal and radius of gyration say."""
    pytest.importorskip("gym_pusht")
    space = world("pusht")
    for place in range(len(POINTS)):
        state = np.zeros((1, 10), np.float32)
        state[0, 2:4] = 256 - np.array([0, 45.0])
        state[0, :2] = 256 + POINTS[place] - 16 * NORMALS[place]
        for _ in range(3):
            state = space.step(state, 0.15 * NORMALS[place : place + 1])
        moved, turned = middle(state)[0] - 256, wrapped(float(state[0, 4]))
        pushed = (state[0, :2] - 256 - POINTS[place]) @ NORMALS[place] + 15
        assert 4 < pushed < 20
        assert turned == pytest.approx(TURN[place] * pushed, abs=0.03 + 0.25 * abs(TURN[place] * pushed)), (
            place
        )
        np.testing.assert_allclose(moved, SHIFT[place] * pushed * NORMALS[place], atol=3)


def test_gymnasium_makes_them(drawn: SimulatedWorld) -> None:
    names = {"pusht": "PushT", "reacher": "Reacher", "pendulum": "Pendulum"}
    env = gymnasium.make(f"fastwm/{names[drawn.name]}-v0")
    assert env.spec is not None
    assert env.spec.max_episode_steps == drawn.budget
    check_env(env.unwrapped, skip_render_check=True)
    many = gymnasium.make_vec(f"fastwm/{names[drawn.name]}-v0", num_envs=3)
    seen, info = many.reset(seed=1)
    action = np.linspace(-1, 1, 3 * drawn.action_dim, dtype=np.float32).reshape(3, -1)
    expected = drawn.step(info["state"], action)
    seen, _, _, _, info = many.step(action)
    np.testing.assert_array_equal(info["state"], expected)
    np.testing.assert_array_equal(seen, drawn.render(expected))


def test_collection(drawn: World, tmp_path: Path) -> None:
    path = collect(drawn.name, tmp_path / "a.h5", episodes=4, length=6, seed=3, workers=2, progress=False)
    episodes = Episodes(path)
    batch = episodes.batch(episodes.offsets, 6)
    assert np.array_equal(
        batch["pixels"].reshape(-1, 64, 64, 3), drawn.render(batch["state"].reshape(-1, drawn.state_dim))
    )
    assert np.array_equal(batch["state"][:, 1], drawn.step(batch["state"][:, 0], batch["action"][:, 0]))
    again = collect(drawn.name, tmp_path / "b.h5", episodes=4, length=6, seed=3, progress=False)
    assert path.read_bytes() == again.read_bytes()


def test_a_missing_simulator_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "gym_pusht.envs.pymunk_override", None)
    monkeypatch.setattr(SIMULATED["pusht"], "_ready", False)
    assert cli.main(["collect", "pusht", str(tmp_path / "a.h5"), "--episodes", "1", "--quiet"]) == 2
    assert "the world 'pusht' needs " in (said := capsys.readouterr().err)
    assert "pip install 'fastwm[pusht]'" in said


def test_mujoco_without_opengl_says_what_to_set_as_often_as_it_is_asked() -> None:
    pytest.importorskip("dm_control")
    code = """from fastwm import envs
w = envs.world('reacher')
for _ in range(2):  # MuJoCo itself waits for ever the second time
    try:
        w.render([[0, 0, 0, 0]])
    except RuntimeError as error:
        print(error)
w.render([[0, 0, 0, 0]])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MUJOCO_GL": "glfw", "DISPLAY": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stdout.count("MuJoCo cannot draw here") == 2
    assert "RuntimeError: MuJoCo cannot draw here" in done.stderr
    assert "set MUJOCO_GL=egl or osmesa" in done.stderr


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="triton is not installed")
@pytest.mark.parametrize("space", ["reacher"], indirect=True)
def test_triton_can_be_imported_after_a_picture(drawn: SimulatedWorld) -> None:
    code = "from fastwm import envs; envs.world('reacher').render([[0, 0, 0, 0]]); import triton._C.libtriton"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
