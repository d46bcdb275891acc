"""Gymnasium's interface around a world: one environment, many at once, and their registration.

Observations are pixels uint8 [64, 64, 3], actions float32 [A] in [-1, 1]. The reward is 1 where the goal is
reached, which ends the episode, and 0 before. `info` holds `state` and `goal_state` [state_dim] (pixels),
`goal` (the goal's picture, uint8 [64, 64, 3]) and `success`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from .pendulum import PendulumWorld
from .push import PushWorld
from .pusht import PushTWorld
from .raster import Array, Frames
from .reacher import ReacherWorld
from .two_room import TwoRoomStepsWorld, TwoRoomWorld
from .world import Flags, World

METADATA: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}


class WorldEnv(gymnasium.Env[Frames, Array]):
    """One environment over `world`; subclasses name it."""

    metadata = METADATA
    world: ClassVar[World]

    def __init__(self, render_mode: str | None = None) -> None:
        _check_render_mode(render_mode)
        self.render_mode = render_mode
        self.observation_space, self.action_space = _spaces(self.world)
        self._state: Array | None = None
        self._goal: Array
        self._goal_picture: Frames

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Frames, dict[str, Any]]:
        """Start a task of the evaluation protocol; `options` may fix its "state" and "goal" [state_dim]."""
        super().reset(seed=seed)
        given = {name: np.asarray(value)[None] for name, value in (options or {}).items()}
        self._state, self._goal = _task(self.world, self.np_random, 1, given)
        self._goal_picture = self.world.render(self._goal)
        return self.world.render(self._state)[0], self._info(self._state)

    def step(self, action: Array) -> tuple[Frames, float, bool, bool, dict[str, Any]]:
        """One decision: `action` [A], held for the world's substeps. `gymnasium.make` adds the time limit."""
        if self._state is None:
            raise RuntimeError("step: call reset first")
        self._state = self.world.step(self._state, np.asarray(action)[None])
        info = self._info(self._state)
        return self.world.render(self._state)[0], float(info["success"]), info["success"], False, info

    def render(self) -> Frames | None:
        """The picture uint8 [64, 64, 3] of the current state with `render_mode="rgb_array"`, else None."""
        if self._state is None:
            raise RuntimeError("render: call reset first")
        return None if self.render_mode is None else self.world.render(self._state)[0]

    def _info(self, state: Array) -> dict[str, Any]:
        return {
            "state": state[0].copy(),
            "goal_state": self._goal[0].copy(),
            "goal": self._goal_picture[0].copy(),
            "success": bool(self.world.success(state, self._goal)[0]),
        }


class TwoRoom(WorldEnv):
    """Walk to the goal in the other room, `fastwm/TwoRoom-v0`."""

    world = TwoRoomWorld()


class TwoRoomSteps(WorldEnv):
    """The same with a decision at every substep, `fastwm/TwoRoomSteps-v0`."""

    world = TwoRoomStepsWorld()


class Push(WorldEnv):
    """Push the puck to where the goal picture shows it, `fastwm/Push-v0`."""

    world = PushWorld()


class Pendulum(WorldEnv):
    """Swing up to the angle of the goal picture, `fastwm/Pendulum-v0` (extra: pendulum)."""

    world = PendulumWorld()


class PushT(WorldEnv):
    """Push the T to where the goal picture shows it, `fastwm/PushT-v0` (extra: pusht)."""

    world = PushTWorld()


class Reacher(WorldEnv):
    """Bring the arm to where the goal picture shows it, `fastwm/Reacher-v0` (extra: dm-control)."""

    world = ReacherWorld()


class WorldVectorEnv(VectorEnv[Frames, Array, NDArray[Any]]):
    """`num_envs` environments over `world`, stepped and drawn together; an ended one starts anew at the next
    step.

    Every entry of `info` has the environments' axis first. `options` of reset: "state" and "goal" [num_envs,
    state_dim].
    """

    metadata = METADATA | {"autoreset_mode": AutoresetMode.NEXT_STEP}
    world: ClassVar[World]

    def __init__(
        self, num_envs: int = 1, max_episode_steps: int | None = None, render_mode: str | None = None
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs: expected at least 1, got {num_envs}")
        _check_render_mode(render_mode)
        self.num_envs = num_envs
        self.max_episode_steps = self.world.budget if max_episode_steps is None else max_episode_steps
        self.render_mode = render_mode
        self.single_observation_space, self.single_action_space = _spaces(self.world)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._state: Array | None = None
        self._goal: Array
        self._goal_pictures: Frames
        self._decisions = np.zeros(num_envs, np.int64)
        self._ended = np.zeros(num_envs, bool)

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Frames, dict[str, Any]]:
        """Start a task of the evaluation protocol in every environment."""
        if isinstance(seed, list):
            raise TypeError("seed: expected one integer for all environments, got a list")
        super().reset(seed=seed)
        self._state, self._goal = _task(self.world, self.np_random, self.num_envs, options or {})
        self._goal_pictures = self.world.render(self._goal)
        self._decisions[:] = 0
        self._ended[:] = False
        return self.world.render(self._state), self._info(self.world.success(self._state, self._goal))

    def step(self, actions: Array) -> tuple[Frames, NDArray[np.float64], Flags, Flags, dict[str, Any]]:
        """One decision everywhere, `actions` [num_envs, A]; environments that had ended start a new task."""
        if self._state is None:
            raise RuntimeError("step: call reset first")
        restarted = self._ended
        self._state = self.world.step(self._state, actions)
        self._decisions += 1
        if restarted.any():
            self._restart(self._state, restarted)
        success = self.world.success(self._state, self._goal)
        terminated = success & ~restarted
        truncated = (self._decisions >= self.max_episode_steps) & ~terminated
        self._ended = terminated | truncated
        return (
            self.world.render(self._state),
            terminated.astype(np.float64),
            terminated,
            truncated,
            self._info(success),
        )

    def render(self) -> tuple[Frames, ...] | None:
        """The picture uint8 [64, 64, 3] of each environment with `render_mode="rgb_array"`, else None."""
        if self._state is None:
            raise RuntimeError("render: call reset first")
        return None if self.render_mode is None else tuple(self.world.render(self._state))

    def _restart(self, state: Array, which: Flags) -> None:
        state[which], self._goal[which] = self.world.sample_task(self.np_random, int(which.sum()))
        self._goal_pictures[which] = self.world.render(self._goal[which])
        self._decisions[which] = 0

    def _info(self, success: Flags) -> dict[str, Any]:
        assert self._state is not None
        values = {
            "state": self._state.copy(),
            "goal_state": self._goal.copy(),
            "goal": self._goal_pictures.copy(),
            "success": success,
        }
        return values | {f"_{name}": np.ones(self.num_envs, bool) for name in values}


class TwoRoomVector(WorldVectorEnv):
    """Many `TwoRoom` at once."""

    world = TwoRoomWorld()


class TwoRoomStepsVector(WorldVectorEnv):
    """Many `TwoRoomSteps` at once."""

    world = TwoRoomStepsWorld()


class PushVector(WorldVectorEnv):
    """Many `Push` at once."""

    world = PushWorld()


class PendulumVector(WorldVectorEnv):
    """Many `Pendulum` at once, one after another in one simulator."""

    world = Pendulum.world


class PushTVector(WorldVectorEnv):
    """Many `PushT` at once, one after another in one simulator."""

    world = PushT.world


class ReacherVector(WorldVectorEnv):
    """Many `Reacher` at once, one after another in one simulator."""

    world = Reacher.world


def register() -> None:
    """Make every world known to `gymnasium.make` and `make_vec`: `fastwm/TwoRoom-v0` and so on."""
    environments: tuple[tuple[type[WorldEnv], type[WorldVectorEnv]], ...] = (
        (TwoRoom, TwoRoomVector),
        (TwoRoomSteps, TwoRoomStepsVector),
        (Push, PushVector),
        (Pendulum, PendulumVector),
        (PushT, PushTVector),
        (Reacher, ReacherVector),
    )
    for env, vector in environments:
        gymnasium.register(
            id=f"fastwm/{env.__name__}-v0",
            entry_point=f"{__name__}:{env.__name__}",
            vector_entry_point=f"{__name__}:{vector.__name__}",
            max_episode_steps=env.world.budget,
        )


def _spaces(world: World) -> tuple[gymnasium.Space[Frames], gymnasium.Space[Array]]:
    picture = (world.image_size, world.image_size, 3)
    return (
        gymnasium.spaces.Box(0, 255, picture, np.uint8),
        gymnasium.spaces.Box(world.action_low, world.action_high, dtype=np.float32),
    )


def _task(world: World, rng: np.random.Generator, n: int, options: dict[str, Any]) -> tuple[Array, Array]:
    """States and goals [n, state_dim]: sampled, but for what `options` fixes."""
    if unknown := set(options) - {"state", "goal"}:
        raise ValueError(f"options: expected 'state' and 'goal', got {sorted(unknown)}")
    task = dict(zip(("state", "goal"), world.sample_task(rng, n), strict=True))
    for name, value in options.items():
        task[name] = world.check_state(value, f"options[{name!r}]").copy()
        if len(task[name]) != n:
            raise ValueError(f"options[{name!r}]: expected {n} rows, got {len(task[name])}")
    return task["state"], task["goal"]


def _check_render_mode(render_mode: str | None) -> None:
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode: expected None or 'rgb_array', got {render_mode!r}")
