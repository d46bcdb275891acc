"""Two rooms, a wall between them, a door in the wall; an agent walks to where the goal picture shows it.

The layout is stable-worldmodel's TwoRoom (224 pixels) divided by 3.5, with the door higher up and wider, and
an action held for 5 substeps so that 20 decisions cross both rooms. Straight-line distance to the goal has a
local minimum at the wall: a planner that succeeds has learned where the door is.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .raster import Array, Frames, blend, corners, gaussian
from .world import SLACK, Behaviour, Flags, World, direction, norm

SPEED = 1.43  # pixels per substep at full action
RADIUS = 2.0  # of the agent, pixels; also the standard deviation of its blurred picture
BORDER = 4  # pixels
LOW, HIGH = 5.0, 58.0  # where the agent's centre can be, both axes
WALL_X, WALL_HALF = 32.0, 1.5
DOOR_Y, DOOR_HALF = 20.0, 7.0
LEFT, RIGHT = (
    WALL_X - WALL_HALF - RADIUS,
    WALL_X + WALL_HALF + RADIUS,
)  # between them the agent is in the doorway
GAP = DOOR_HALF - RADIUS / 2  # how far from DOOR_Y the agent fits into the doorway

# Outside a square of 16 the blurred agent changes a pixel by less than 255 * exp(-8 * 8 / 8) < 0.1: nothing
# to draw.
SPRITE = 16
AGENT_COLOUR = (255, 0, 0)


class TwoRoomWorld(World):
    """State (agent_x, agent_y); the action is a velocity."""

    name = "two-room"
    state_names = ("agent_x", "agent_y")
    state_low = np.array([LOW, LOW], np.float32)
    state_high = np.array([HIGH, HIGH], np.float32)
    tolerance = 16 / 3.5
    behaviour = Behaviour(expert_share=0.5, noise=0.4, arrive=4.0, renew=0.0)
    sprite = SPRITE
    substeps: ClassVar[int] = 5  # that an action is held for
    _background: ClassVar[Frames]

    def contains(self, state: Array) -> Flags:
        """Which rows of `state` [n, 2] are inside the rooms or the doorway: bool [n]."""
        x, y = state[:, 0], state[:, 1]
        in_wall = (x > LEFT + SLACK) & (x < RIGHT - SLACK) & (np.abs(y - DOOR_Y) > GAP + SLACK)
        return super().contains(state) & ~in_wall

    def distance(self, state: ArrayLike, goal: ArrayLike) -> Array:
        """Pixels [n] between the agents of `state` and `goal` [n, 2]."""
        states, goals = self._pair(state, goal)
        return norm(states - goals)[:, 0]

    def sample_state(self, rng: np.random.Generator, n: int) -> Array:
        """States [n, 2], uniform over the two rooms and never in the doorway."""
        return _sample_in_room(rng, rng.integers(0, 2, n))

    def sample_goal(self, rng: np.random.Generator, n: int) -> Array:
        """Goals [n, 2], uniform over the two rooms."""
        return self.sample_state(rng, n)

    def sample_task(self, rng: np.random.Generator, n: int) -> tuple[Array, Array]:
        """Starts and goals [n, 2] each, always in different rooms."""
        room = rng.integers(0, 2, n)
        return _sample_in_room(rng, room), _sample_in_room(rng, 1 - room)

    def expert(self, state: ArrayLike, goal: ArrayLike) -> Array:
        """Actions [n, 2]: straight to the goal, through the door where it is in the other room."""
        position, target = self._pair(state, goal)
        right, goal_right = position[:, 0] > WALL_X, target[:, 0] > WALL_X
        crossing = right != goal_right
        in_doorway = (np.abs(position[:, 0] - WALL_X) < RIGHT - WALL_X + 1.5) & (
            np.abs(position[:, 1] - DOOR_Y) < GAP
        )
        before = np.where(right, RIGHT + 1, LEFT - 1)
        behind = np.where(goal_right, RIGHT + 2, LEFT - 2)
        through = np.stack([np.where(in_doorway, behind, before), np.full(len(position), DOOR_Y)], axis=1)
        # In the doorway on the goal's side: leave the doorway first, a straight line could hit its edge.
        waypoint = np.where((crossing | in_doorway)[:, None], through, target).astype(np.float32)
        to_waypoint = waypoint - position
        speed = np.minimum(1, norm(to_waypoint) / SPEED)
        arriving = np.minimum(1, norm(target - position) / (self.substeps * SPEED))
        return (direction(to_waypoint) * speed * np.where(crossing[:, None], 1, arriving)).astype(np.float32)

    def random(self, rng: np.random.Generator, previous: ArrayLike) -> Array:
        """Actions [n, 2]: `previous` with probability 1/2, or a new direction at 0.3 to 1 of full speed."""
        held = self.check_action(previous)
        new = direction(rng.standard_normal(held.shape, np.float32)) * rng.uniform(0.3, 1.0, (len(held), 1))
        keep = (rng.random((len(held), 1)) < 0.5) & held.any(axis=1, keepdims=True)
        return np.where(keep, held, new).astype(np.float32)

    def _rule(self) -> str:
        return "the agent is in the wall"

    def _step(self, state: Array, action: Array) -> Array:
        for _ in range(self.substeps):
            state = _substep(state, action)
        return state

    def _draw(self, frames: Frames, state: Array, scratch: Array) -> None:
        frames[:] = self._background
        corner = corners(state, SPRITE, self.image_size)
        blend(frames, corner, gaussian(state, corner, RADIUS, scratch[0]), AGENT_COLOUR, scratch[1])


class TwoRoomStepsWorld(TwoRoomWorld):
    """The same rooms with a decision at every substep, as stable-worldmodel has them: models take five at a time."""

    name = "two-room-steps"
    substeps = 1
    budget = 5 * TwoRoomWorld.budget


def _sample_in_room(rng: np.random.Generator, room: np.ndarray) -> Array:
    """States [n, 2] uniform in the left (0) or right (1) room."""
    n = len(room)
    x = np.where(room == 0, rng.uniform(LOW, LEFT - 0.5, n), rng.uniform(RIGHT + 0.5, HIGH, n))
    return np.stack([x, rng.uniform(LOW, HIGH, n)], axis=1).astype(np.float32)


def _substep(position: Array, action: Array) -> Array:
    moved = np.clip(position + action * np.float32(SPEED), LOW, HIGH)
    x, y = moved[:, 0], moved[:, 1]
    entering = (x > LEFT) & (x < RIGHT)
    inside = (position[:, 0] > LEFT) & (position[:, 0] < RIGHT)
    y = np.where(entering & inside, np.clip(y, DOOR_Y - GAP, DOOR_Y + GAP), y)
    blocked = entering & ~inside & (np.abs(y - DOOR_Y) > GAP)
    x = np.where(blocked, np.where(position[:, 0] <= LEFT, LEFT, RIGHT), x)
    return np.stack([x, y], axis=1).astype(np.float32)


def _paint_background() -> Frames:
    """The empty scene uint8 [64, 64, 3]: white rooms, black border and wall."""
    size = TwoRoomWorld.image_size
    y, x = np.mgrid[:size, :size]
    border = (np.minimum(x, y) < BORDER) | (np.maximum(x, y) >= size - BORDER)
    wall = (np.abs(x - WALL_X) <= WALL_HALF) & (np.abs(y - DOOR_Y) > DOOR_HALF)
    return np.repeat(np.where(border | wall, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


TwoRoomWorld._background = _paint_background()
