"""Pictures a second of MuJoCo scenes as they are and with fastwm.envs.mujoco, on one core: MUJOCO_GL=egl python -m bench.render

Without a display MUJOCO_GL has to be set before (egl or osmesa). The first pictures compile shaders and are not counted;
the two ways take turns, and the median of the turns is printed. Needs the extra dm-control.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

from fastwm.envs.mujoco import Pictures

SCENES = (("reacher", "easy"), ("point_mass", "easy"), ("cheetah", "run"))
WARM_UP, TURNS, SECONDS = 20, 5, 0.5


def rate(pictures: Pictures, data: object, seconds: float) -> float:
    """Pictures per second."""
    count, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        pictures.draw(data)  # type: ignore[arg-type]
        count += 1
    return count / passed


def measure(domain: str, task: str, size: int) -> tuple[float, float]:
    """Median pictures per second of a scene: as it is, and fast."""
    from dm_control import suite

    ways = []
    for fast in (False, True):
        physics = suite.load(domain, task).physics
        pictures = Pictures(physics.model.ptr, (size, size), camera=0, fast=fast)
        for _ in range(WARM_UP):
            pictures.draw(physics.data.ptr)
        ways.append((pictures, physics))
    turns = [[rate(pictures, physics.data.ptr, SECONDS) for pictures, physics in ways] for _ in range(TURNS)]
    for pictures, _ in ways:
        pictures.close()
    before, after = (statistics.median(times) for times in zip(*turns, strict=True))
    return before, after


def main() -> None:
    """Print a line per scene."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", type=int, default=64, metavar="N", help="pixels (default: 64)")
    parsed = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(
        f"{'':<12}{'as it is':>10}{'fast':>10}   pictures per second at {parsed.size} x {parsed.size}, one core"
    )
    for domain, task in SCENES:
        before, after = measure(domain, task, parsed.size)
        print(f"{domain:<12}{before:>10.0f}{after:>10.0f}   {after / before:.1f} times")


if __name__ == "__main__":
    main()
