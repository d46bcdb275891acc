"""Worlds, and gymnasium environments over them. Importing this registers `fastwm/TwoRoom-v0`, `fastwm/TwoRoomSteps-v0`,
`fastwm/Push-v0`, and those of others' simulators: `fastwm/Pendulum-v0`, `fastwm/PushT-v0` and `fastwm/Reacher-v0`.
"""

from .behaviour import POLICIES, trajectories
from .gym import (
    Pendulum,
    PendulumVector,
    Push,
    PushT,
    PushTVector,
    PushVector,
    Reacher,
    ReacherVector,
    TwoRoom,
    TwoRoomSteps,
    TwoRoomStepsVector,
    TwoRoomVector,
    register,
)
from .simulated import SimulatedWorld
from .world import Behaviour, World

__all__ = [
    "POLICIES",
    "SIMULATED",
    "WORLDS",
    "Behaviour",
    "Pendulum",
    "PendulumVector",
    "Push",
    "PushT",
    "PushTVector",
    "PushVector",
    "Reacher",
    "ReacherVector",
    "SimulatedWorld",
    "TwoRoom",
    "TwoRoomSteps",
    "TwoRoomStepsVector",
    "TwoRoomVector",
    "World",
    "trajectories",
    "world",
]

WORLDS: dict[str, World] = {env.world.name: env.world for env in (TwoRoom, TwoRoomSteps, Push)}


# Worlds of others' simulators, which are imported when they are first used: each has its extra.
SIMULATED: dict[str, World] = {env.world.name: env.world for env in (Pendulum, PushT, Reacher)}


def world(name: str) -> World:
    """The world called `name`, one of `WORLDS` or `SIMULATED`; a ValueError lists the names where there is none."""
    found = WORLDS.get(name) or SIMULATED.get(name)
    if found is None:
        raise ValueError(f"world: expected one of {', '.join([*WORLDS, *SIMULATED])}, got {name!r}")
    return found


register()
