"""An agent disc pushes a puck to where the goal picture shows it: a small PushT.

Contact is quasi-static: where the discs would overlap the puck moves out of the way along the line of
centres, and where a wall stops the puck the agent moves back instead.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .raster import Array, Frames, blend, corners, disc, scratch_for
from .world import Behaviour, Flags, World, direction, norm

SUBSTEPS = 3
SPEED = 1.6  # pixels per substep at full action
AGENT_RADIUS, PUCK_RADIUS = 2.5, 6.0
CONTACT = AGENT_RADIUS + PUCK_RADIUS
AGENT_LOW, AGENT_HIGH = 4.0, 59.0
PUCK_LOW, PUCK_HIGH = 10.0, 53.0
BORDER = 3  # pixels
REACH = SPEED * SUBSTEPS  # pixels the agent covers in one decision
OVERLAP = 1.0  # pixels the discs may overlap where walls hold both

TASK_DECISIONS = 10  # from an evaluation task's start to its goal
TASK_PUSHES = 30  # states of the scripted pushes that tasks are cut from
TASK_STRIDE = 3  # decisions between starts considered in one push
TASK_TRAVEL = 8.0  # pixels the puck must move

# The smallest even squares that hold an anti-aliased disc: radius + 1/2 on either side of the centre.
AGENT_SPRITE, PUCK_SPRITE = 6, 14
AGENT_COLOUR, PUCK_COLOUR = (230, 40, 40), (60, 90, 220)


class PushWorld(World):
    """State (agent_x, agent_y, puck_x, puck_y); the action is the agent's velocity."""

    name = "push"
    state_names = ("agent_x", "agent_y", "puck_x", "puck_y")
    state_low = np.array([AGENT_LOW, AGENT_LOW, PUCK_LOW, PUCK_LOW], np.float32)
    state_high = np.array([AGENT_HIGH, AGENT_HIGH, PUCK_HIGH, PUCK_HIGH], np.float32)
    tolerance = 4.0
    behaviour = Behaviour(expert_share=0.75, noise=0.35, arrive=3.0, renew=0.04)
    sprite = PUCK_SPRITE
    _background: ClassVar[Frames]

    def contains(self, state: Array) -> Flags:
        """Which rows of `state` [n, 4] are inside the walls with the discs apart: bool [n]."""
        return super().contains(state) & (norm(state[:, :2] - state[:, 2:])[:, 0] >= CONTACT - OVERLAP)

    def distance(self, state: ArrayLike, goal: ArrayLike) -> Array:
        """Pixels [n] between the pucks of `state` and `goal` [n, 4]; where the agents are does not matter."""
        states, goals = self._pair(state, goal)
        return norm(states[:, 2:] - goals[:, 2:])[:, 0]

    def sample_state(self, rng: np.random.Generator, n: int) -> Array:
        """States [n, 4]: a puck away from the walls, an agent anywhere clear of it."""
        puck = rng.uniform(PUCK_LOW + 4, PUCK_HIGH - 4, (n, 2)).astype(np.float32)
        agent = rng.uniform(AGENT_LOW, AGENT_HIGH, (n, 2)).astype(np.float32)
        while (close := norm(agent - puck)[:, 0] < CONTACT + 1).any():
            agent[close] = rng.uniform(AGENT_LOW, AGENT_HIGH, (int(close.sum()), 2))
        return np.concatenate([agent, puck], axis=1)

    def sample_goal(self, rng: np.random.Generator, n: int) -> Array:
        """Goals [n, 4]: the puck anywhere it can be. The agent means nothing and may overlap the puck."""
        return rng.uniform(self.state_low, self.state_high, (n, 4)).astype(np.float32)

    def sample_task(self, rng: np.random.Generator, n: int) -> tuple[Array, Array]:
        """Starts and goals [n, 4], 10 decisions apart on a scripted push that moves the puck 8 pixels."""
        starts, goals = np.empty((0, 4), np.float32), np.empty((0, 4), np.float32)
        while len(starts) < n:
            states = self._scripted_pushes(rng, max(6 * n, 64))
            start = states[:-TASK_DECISIONS:TASK_STRIDE].reshape(-1, 4)
            goal = states[TASK_DECISIONS::TASK_STRIDE].reshape(-1, 4)
            moved = self.distance(start, goal) >= TASK_TRAVEL
            starts, goals = np.concatenate([starts, start[moved]]), np.concatenate([goals, goal[moved]])
        chosen = rng.permutation(len(starts))[:n]
        return starts[chosen], goals[chosen]

    def expert(self, state: ArrayLike, goal: ArrayLike) -> Array:
        """Actions [n, 2]: get behind the puck as seen from the goal, then push."""
        states, goals = self._pair(state, goal)
        agent, puck = states[:, :2], states[:, 2:]
        to_goal = goals[:, 2:] - puck
        ahead = direction(to_goal)
        from_puck = agent - puck
        gap, outward = norm(from_puck), direction(from_puck)
        aligned = -np.sum(outward * ahead, axis=1, keepdims=True)  # 1: the puck is between agent and goal

        to_behind = puck - ahead * (CONTACT + 1.5) - agent
        approach = direction(to_behind) * np.minimum(1, norm(to_behind) / REACH)
        tangent = np.stack([-outward[:, 1], outward[:, 0]], axis=1)
        turn = np.sign(np.sum(tangent * ahead, axis=1, keepdims=True))
        orbit = outward * np.clip((CONTACT + 3 - gap) / 3, -1, 1) - tangent * turn
        sideways = to_behind - np.sum(to_behind * ahead, axis=1, keepdims=True) * ahead
        push = ahead * np.minimum(1, (norm(to_goal) + 1) / REACH) + 0.5 * sideways / REACH

        behind = aligned > 0.93
        action = np.where(behind & (gap < CONTACT + 2.5), push, approach)
        action = np.where(~behind & (aligned < 0.3) & (gap < CONTACT + 8), orbit, action)
        return np.clip(action, self.action_low, self.action_high).astype(np.float32)

    def random(self, rng: np.random.Generator, previous: ArrayLike) -> Array:
        """Actions [n, 2]: `previous` again with probability 1/2, or uniform between the bounds."""
        held = self.check_action(previous)
        new = rng.uniform(self.action_low, self.action_high, held.shape)
        keep = (rng.random((len(held), 1)) < 0.5) & held.any(axis=1, keepdims=True)
        return np.where(keep, held, new).astype(np.float32)

    def _step(self, state: Array, action: Array) -> Array:
        agent, puck = state[:, :2], state[:, 2:]
        move = action * np.float32(SPEED)
        for _ in range(SUBSTEPS):
            agent = np.clip(agent + move, AGENT_LOW, AGENT_HIGH)
            puck = np.clip(puck + _overlap(agent, puck), PUCK_LOW, PUCK_HIGH)
            agent = np.clip(agent - _overlap(agent, puck), AGENT_LOW, AGENT_HIGH)
        return np.concatenate([agent, puck], axis=1).astype(np.float32)

    def _scripted_pushes(self, rng: np.random.Generator, n: int) -> Array:
        """States [TASK_PUSHES, n, 4] of an expert that pushes the puck to one random place."""
        states, goal = [self.sample_state(rng, n)], self.sample_goal(rng, n)
        for _ in range(TASK_PUSHES - 1):
            states.append(self.step(states[-1], self.expert(states[-1], goal)))
        return np.stack(states)

    def _draw(self, frames: Frames, state: Array, scratch: Array) -> None:
        frames[:] = self._background
        agent, puck = state[:, :2], state[:, 2:]
        corner = corners(puck, PUCK_SPRITE, self.image_size)
        blend(frames, corner, disc(puck, corner, PUCK_RADIUS, scratch[0]), PUCK_COLOUR, scratch[1])
        corner = corners(agent, AGENT_SPRITE, self.image_size)
        small = scratch_for(len(state), AGENT_SPRITE)
        blend(frames, corner, disc(agent, corner, AGENT_RADIUS, small[0]), AGENT_COLOUR, small[1])

    def _rule(self) -> str:
        return f"the discs' centres must be at least {CONTACT - OVERLAP:g} pixels apart"


def _overlap(agent: Array, puck: Array) -> Array:
    """How far the discs overlap, as a vector [n, 2] in pixels from agent to puck; 0 where they do not."""
    apart = puck - agent
    distance = norm(apart)
    return apart * (np.maximum(CONTACT - distance, 0) / np.maximum(distance, 1e-6))


def _paint_background() -> Frames:
    """The empty scene uint8 [64, 64, 3]: a white table with a black border."""
    frame = np.zeros((PushWorld.image_size, PushWorld.image_size, 3), np.uint8)
    frame[BORDER:-BORDER, BORDER:-BORDER] = 255
    return frame


PushWorld._background = _paint_background()
