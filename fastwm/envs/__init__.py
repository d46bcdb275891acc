"""Worlds, and gymnasium environments over them. Importing this registers `fastwm/TwoRoom-v0`,
`fastwm/TwoRoomSteps-v0` and `fastwm/Push-v0`.
"""

from .behaviour import POLICIES, trajectories
from .gym import Push, PushVector, TwoRoom, TwoRoomSteps, TwoRoomStepsVector, TwoRoomVector, register
from .world import Behaviour, World

__all__ = [
    "POLICIES",
    "WORLDS",
    "Behaviour",
    "Push",
    "PushVector",
    "TwoRoom",
    "TwoRoomSteps",
    "TwoRoomStepsVector",
    "TwoRoomVector",
    "World",
    "trajectories",
    "world",
]

WORLDS: dict[str, World] = {env.world.name: env.world for env in (TwoRoom, TwoRoomSteps, Push)}


def world(name: str) -> World:
    """The world called `name`, "two-room", "two-room-steps" or "push"; a ValueError lists the names where there is none."""
    if name not in WORLDS:
        raise ValueError(f"world: expected one of {', '.join(WORLDS)}, got {name!r}")
    return WORLDS[name]


register()
