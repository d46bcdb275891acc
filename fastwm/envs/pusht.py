"""PushT, the field's standard task, as gym-pusht simulates it: a disc pushes a T to where a goal picture shows it.

What differs from its environment, and why: actions are relative (as stable-worldmodel's and DINO-WM's): [-1, 1] moves
the disc's target at most 100 pixels of 512. The state is set exactly, angle before position: their `reset_to_state`
leaves the T elsewhere (asked for (256, 256), it is at (285, 267)). The green outline of their fixed goal and the red
cross of the action are not drawn: the goal is a picture here, and a picture a function of the state. Frames are drawn at
512 pixels and scaled down; their `render` at 64 fails with OpenCV 4.14.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .pusht_expert import PIXELS, RADIANS, middle, pusher
from .raster import Array, Frames
from .simulated import SimulatedWorld, needs, scaled, wrapped
from .world import Behaviour

WINDOW = 512  # pixels
RADIUS = 15.0  # of the disc; its target stays as far inside, since walls do not stop it
REACH = 100.0  # pixels of a full action
# Of a success: pixels, all positions together, and radians (DINO-WM, section 4).
CLOSE, ALIGNED = PIXELS, RADIANS
APART = 95.0  # pixels at least from the disc to the T's centre of gravity at the start
FASTEST = 5000.0  # pixels per second


class PushTWorld(SimulatedWorld):
    """State (disc x, y; T's x, y, angle; disc's velocity x, y; T's velocity x, y and spin) in pixels of 512, radians and
    seconds. The first seven are stable-worldmodel's; the T, which friction stops in a hundredth of a second, moves on for
    that long after a decision.
    """

    name = "pusht"
    state_names = (
        *("agent_x", "agent_y", "block_x", "block_y", "block_angle", "agent_velocity_x", "agent_velocity_y"),
        *("block_velocity_x", "block_velocity_y", "block_spin"),
    )
    state_low = np.array([-100, -100, -100, -100, 0, *5 * [-FASTEST]], np.float32)
    state_high = np.array([612, 612, 612, 612, 2 * np.pi, *5 * [FASTEST]], np.float32)
    tolerance = 1.0
    behaviour = Behaviour(expert_share=0.75, noise=0.2, arrive=0.5, renew=0.02)
    budget = 50
    task_length = 25

    def distance(self, state: ArrayLike, goal: ArrayLike) -> Array:
        """How far [n] `state` is from `goal` [n, 10]; less than 1 is a success: disc and T together within 20 pixels,
        the T within 20 degrees.
        """
        states, goals = self._pair(state, goal)
        far = np.sqrt(np.sum((states[:, :4] - goals[:, :4]) ** 2, axis=1)) / CLOSE
        turned = np.abs(wrapped(states[:, 4] - goals[:, 4])) / ALIGNED
        return np.maximum(far, turned).astype(np.float32)

    def sample_state(self, rng: np.random.Generator, n: int) -> Array:
        """States [n, 10]: disc and T anywhere, as gym-pusht draws them, the disc off the T and at rest."""
        state = np.zeros((n, 10), np.float32)
        state[:, 2:4] = rng.uniform(100, 400, (n, 2))
        state[:, 4] = rng.uniform(0, 2 * np.pi, n)
        open_ = np.arange(n)
        while len(open_):
            state[open_, :2] = rng.uniform(50, 450, (len(open_), 2))
            apart = np.linalg.norm(state[open_, :2] - middle(state[open_]), axis=1)
            open_ = open_[apart < APART]
        return state

    def expert(self, state: ArrayLike, goal: ArrayLike) -> Array:
        """Actions [n, 2]: push the T where that helps most, then bring the disc to its own place (pusht_expert.py)."""
        states, goals = self._pair(state, goal)
        action = pusher(states, goals) / REACH
        return (action / np.maximum(np.abs(action).max(axis=1, keepdims=True), 1)).astype(np.float32)

    def _make(self) -> None:
        pygame = needs("pygame", "pusht", self.name)
        self._options = needs("gym_pusht.envs.pymunk_override", "pusht", self.name).DrawOptions
        self._env: Any = needs("gym_pusht.envs.pusht", "pusht", self.name).PushTEnv(obs_type="state")
        self._surface = pygame.Surface((WINDOW, WINDOW))
        self._pixels = pygame.surfarray.array3d

    def _set(self, state: np.ndarray) -> None:
        """A new simulation at `state`: contacts of an old one would be remembered."""
        self._env._setup()
        agent, block = self._env.agent, self._env.block
        agent.position, agent.velocity = tuple(state[:2]), tuple(state[5:7])
        block.angle = float(state[4])  # before the position: it turns around the centre of gravity
        block.position = tuple(state[2:4])
        block.velocity, block.angular_velocity = tuple(state[7:9]), float(state[9])
        self._env.space.reindex_shapes_for_body(agent)
        self._env.space.reindex_shapes_for_body(block)

    def _advance(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        self._set(state)
        self._env.step(np.clip(state[:2] + REACH * action, RADIUS, WINDOW - RADIUS))
        agent, block = self._env.agent, self._env.block
        places = (*agent.position, *block.position, block.angle % (2 * np.pi))
        return np.array([*places, *agent.velocity, *block.velocity, block.angular_velocity])

    def _picture(self, state: np.ndarray) -> Frames:
        self._set(state)
        self._surface.fill((255, 255, 255))
        self._env.space.debug_draw(self._options(self._surface))
        return scaled(self._pixels(self._surface).transpose(1, 0, 2).copy(), self.image_size)
