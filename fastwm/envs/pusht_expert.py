"""Who pushes the T of PushT: a script that chooses where on its outline to push, goes there, and pushes.

The T stops as soon as it is not pushed, so a push is kinematics: at point r from the centre of gravity, along the inward
normal n, by a distance d, it moves the T by n w d and turns it by (r x n) / g^2 w d, with w = 1 / (1 + (r x n)^2 / g^2) and g
the radius of gyration. Of the pushes at 26 points the one is taken that lowers the squared error (in units of a success)
most for the time that going there and pushing take. Off the T, the disc goes round it on a circle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

MIDDLE = 45.0  # pixels from the T's origin, along its stem, to its centre of gravity
GYRATION = 3000.0  # square pixels: the moment of gym-pusht's T for its mass
RADIUS = 15.0  # of the disc
CLEAR = RADIUS + 3.0  # from the T's outline, on the way
GAP = RADIUS + 8.0  # from the outline, where a push begins
ORBIT = 108.0  # pixels from the centre of gravity: clear of the T everywhere
SPEED = 20.0  # pixels that the disc makes in a decision, about
SETUP = 2.0  # decisions that any new push costs
FARTHEST = 60.0  # of a push, before it is thought over
PIXELS, RADIANS = 20.0, np.pi / 9  # of a success
PLACED = 0.65  # of a success: the T is where it shall be, and the disc goes to its own place
# The disc follows its target like a critically damped spring of 10 per second, for the 0.1 s of a decision.
FOLLOWS, COASTS = 1 - 2 * np.exp(-1.0), 0.1 * np.exp(-1.0)


def _outline() -> tuple[Floats, Floats]:
    """Points [26, 2] on the T, from its centre of gravity, and inward normals [26, 2]; x across, y along the stem."""
    rows = [((x, 0.0), (0.0, 1.0)) for x in (-54.0, -36.0, -18.0, 0.0, 18.0, 36.0, 54.0)]
    for side in (-1.0, 1.0):
        rows += [((60 * side, 15.0), (-side, 0.0))]
        rows += [((x * side, 30.0), (0.0, -1.0)) for x in (34.0, 44.0, 54.0)]
        rows += [((15 * side, y), (-side, 0.0)) for y in (52.0, 68.0, 84.0, 100.0, 114.0)]
    rows += [((0.0, 120.0), (0.0, -1.0))]
    points, normals = (np.array(part, np.float64) for part in zip(*rows, strict=True))
    return points - [0.0, MIDDLE], normals


POINTS, NORMALS = _outline()
LEVER = POINTS[:, 0] * NORMALS[:, 1] - POINTS[:, 1] * NORMALS[:, 0]
SHIFT = 1 / (1 + LEVER**2 / GYRATION)  # of the T along the normal, for one pixel of a push
TURN = LEVER / GYRATION * SHIFT


def pusher(state: Floats, goal: Floats) -> Floats:
    """The disc's target [n, 2], from where it is, for the next decision. state, goal: [n, 10], see pusht.py."""
    angle = state[:, 4].astype(np.float64)
    centre = middle(state)
    disc = _turned(state[:, :2] - centre, -angle)  # [n, 2], all in the frame of the T
    error = _turned(middle(goal) - centre, -angle)
    turn = np.mod(goal[:, 4] - angle + np.pi, 2 * np.pi) - np.pi
    point, normal, length, gain = _choose(disc, error, turn)
    off = disc - point
    along = np.sum(off * normal, axis=1)
    aside = off - along[:, None] * normal
    pushing = (np.hypot(*aside.T) < 9) & (along < 0) & (along > -2 * GAP)
    ahead = point + (length - RADIUS)[:, None] * normal
    place = _way(disc, point - GAP * normal)
    home = _way(disc, _turned(goal[:, :2] - centre, -angle))
    placed = np.maximum(np.hypot(*error.T) / PIXELS, np.abs(turn) / RADIANS) < PLACED
    placed |= gain < 0.01
    wanted = np.where(placed[:, None], home, np.where(pushing[:, None], ahead, place))
    moving = _turned(state[:, 5:7].astype(np.float64), -angle)
    return _turned((wanted - disc - COASTS * moving) / FOLLOWS, angle)


def _choose(disc: Floats, error: Floats, turn: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """The best push of each row: its point and normal [n, 2], its length and what it gains [n]."""
    toward = (error @ NORMALS.T) * SHIFT / PIXELS**2 + turn[:, None] * TURN / RADIANS**2  # [n, 26]
    bend = SHIFT**2 / PIXELS**2 + TURN**2 / RADIANS**2
    length = np.clip(toward / bend, 0, FARTHEST)
    gain = 2 * toward * length - bend * length**2
    off = disc[:, None] - POINTS
    along = np.sum(off * NORMALS, axis=2)
    aside = np.linalg.norm(off - along[..., None] * NORMALS, axis=2)
    there = (aside < 9) & (along < 0) & (along > -2 * GAP)
    start = POINTS - GAP * NORMALS
    travel = np.linalg.norm(disc[:, None] - start, axis=2)
    travel = np.where(_blocked(disc[:, None], start), np.maximum(1.5 * travel, 120), travel)
    time = length / SPEED + np.where(there, 0, travel / SPEED + SETUP) + 1
    best = np.argmax(gain / time, axis=1)
    rows = np.arange(len(disc))
    return POINTS[best], NORMALS[best], length[rows, best], gain[rows, best]


def _way(disc: Floats, place: Floats) -> Floats:
    """Where to go next [n, 2] on the way to `place`: straight, or round the T."""
    blocked = _blocked(disc, place)
    radius = np.hypot(*disc.T)
    bearing, wanted = np.arctan2(disc[:, 1], disc[:, 0]), np.arctan2(place[:, 1], place[:, 0])
    step = np.clip(np.mod(wanted - bearing + np.pi, 2 * np.pi) - np.pi, -0.5, 0.5)
    bearing = bearing + np.where(radius > ORBIT - 15, step, 0)
    round_ = ORBIT * np.stack([np.cos(bearing), np.sin(bearing)], axis=1)
    return np.where(blocked[:, None], round_, place)


def _blocked(start: Floats, end: Floats) -> NDArray[np.bool_]:
    """Whether the T is in the way from `start` to `end` [..., 2]; either may touch it."""
    share = np.linspace(0.15, 1.0, 12)
    way = start[..., None, :] + share[:, None] * (end - start)[..., None, :]
    x, y = np.abs(way[..., 0]), way[..., 1] + MIDDLE
    bar = (x < 60 + CLEAR) & (y > -CLEAR) & (y < 30 + CLEAR)
    stem = (x < 15 + CLEAR) & (y >= 0) & (y < 120 + CLEAR)
    near = (1 - share) * np.linalg.norm(end - start, axis=-1)[..., None] < RADIUS
    return np.any((bar | stem) & ~near, axis=-1)


def middle(state: Floats) -> Floats:
    """The T's centre of gravity [n, 2]."""
    angle = state[:, 4].astype(np.float64)
    return state[:, 2:4] + MIDDLE * np.stack([-np.sin(angle), np.cos(angle)], axis=1)


def _turned(vector: Floats, angle: Floats) -> Floats:
    """`vector` [n, 2] turned by `angle` [n]."""
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([c * vector[:, 0] - s * vector[:, 1], s * vector[:, 0] + c * vector[:, 1]], axis=1)
