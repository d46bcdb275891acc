"""What a deadline costs: python -m bench.deadline --model runs/demo/model --env push.

An agent acts in a world under a deadline for each call, for one episode after another, as a robot would: the search goes on as
long as there is time (up to --iterations). For every deadline: the time that calls took, encoding included (p50, p99, worst),
how many were late, how the searches ended, and how many episodes reached their goal. Deadlines take turns, episode by episode.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import fastwm
from fastwm import envs
from fastwm.evaluation import sample_tasks, wilson_interval
from fastwm.planning import Agent, Planner

from .machine import describe, doubts, header
from .record import RESULTS, check_writable, save

DEADLINES = (5.0, 10.0, 20.0, 50.0, 100.0)  # milliseconds


def episode(
    world: envs.World, agent: Agent, start: np.ndarray, goal: np.ndarray, deadline: float
) -> tuple[bool, list[float], list[str]]:
    """Whether the goal [state_dim] was reached from the start, and the seconds and the end of each search."""
    state, picture = start[None], world.render(goal[None])[0]
    seconds: list[float] = []
    ends: list[str] = []
    agent.reset()
    for _ in range(world.budget):
        frame = world.render(state)[0]
        began = time.perf_counter()
        block = agent.act(frame, picture, deadline)
        seconds.append(time.perf_counter() - began)
        assert agent.plan is not None
        ends.append(agent.plan.stats["end"])
        for action in np.asarray(block).reshape(-1, world.action_dim):
            state = world.step(state, action[None])
            if world.success(state, goal[None])[0]:
                return True, seconds, ends
    return False, seconds, ends


def measure(
    model: str,
    env: str,
    *,
    deadlines: Sequence[float],
    episodes: int,
    iterations: int,
    threads: int,
    seed: int = 0,
    progress: bool = True,
) -> list[dict]:
    """A line for each deadline (milliseconds)."""
    world, engine = envs.world(env), fastwm.compile(fastwm.load(model), threads=threads)
    starts, goals = sample_tasks(world, episodes, seed)
    low, high = world.action_low.tolist(), world.action_high.tolist()
    agents = {
        ms: Agent(Planner.recommended(engine, low=low, high=high, iterations=iterations)) for ms in deadlines
    }
    for agent in agents.values():  # what happens once: the threads and the search's first allocations
        episode(world, agent, starts[0], goals[0], 1.0)
    reached, taken = Counter[float](), {ms: [] for ms in deadlines}  # type: ignore[var-annotated]
    ends = {ms: Counter[str]() for ms in deadlines}
    for start, goal in tqdm(
        zip(starts, goals, strict=True), total=episodes, unit="episode", disable=not progress
    ):
        for ms, agent in agents.items():
            success, seconds, how = episode(world, agent, start, goal, ms / 1e3)
            reached[ms] += success
            taken[ms] += seconds
            ends[ms].update(how)
    lines = []
    for ms in deadlines:
        p50, p99, worst = 1e3 * np.percentile(taken[ms], [50, 99, 100])
        low_end, high_end = wilson_interval(reached[ms], episodes)
        lines.append(
            {
                "env": env,
                "dtype": engine.dtype,
                "threads": threads,
                "deadline": ms,
                "milliseconds": {
                    "p50": round(float(p50), 2),
                    "p99": round(float(p99), 2),
                    "worst": round(float(worst), 2),
                },
                "calls": len(taken[ms]),
                "late": int((np.array(taken[ms]) * 1e3 > ms).sum()),
                "ends": dict(ends[ms]),
                "success": reached[ms] / episodes,
                "interval": [low_end, high_end],
                "episodes": episodes,
            }
        )
    return lines


def table(lines: Sequence[dict]) -> str:
    """Markdown."""
    rows = [
        "| asked | p50 | p99 | worst | late | success | searches ended |",
        "|--:|--:|--:|--:|--:|--:|---|",
    ]
    for line in lines:
        ms, (low, high) = line["milliseconds"], line["interval"]
        success = f"{100 * line['success']:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
        ended = ", ".join(f"{end} {100 * n / line['calls']:.0f} %" for end, n in line["ends"].items())
        rows.append(
            f"| {line['deadline']:g} ms | {ms['p50']:.1f} | {ms['p99']:.1f} | {ms['worst']:.1f} | "
            f"{line['late']} of {line['calls']:,} | {success} | {ended} |"
        )
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write bench/results/deadline.json."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.deadline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="a trained world model")
    parser.add_argument("--env", required=True, choices=envs.WORLDS, help="its world")
    parser.add_argument(
        "--deadlines", type=float, nargs="+", default=DEADLINES, metavar="MS", help="(default: 5 to 100)"
    )
    parser.add_argument("--episodes", type=int, default=100, metavar="N", help="(default: 100)")
    parser.add_argument(
        "--iterations", type=int, default=50, metavar="N", help="of a search at most (default: 50)"
    )
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of the engine (default: 2)")
    parser.add_argument("--out", type=Path, default=RESULTS / "deadline.json", metavar="FILE")
    parsed = parser.parse_args(arguments)
    check_writable(parsed.out)
    machine = header()
    for doubt in doubts(machine):
        print(doubt, file=sys.stderr)
    torch.set_num_threads(1)  # PyTorch's threads only encode one frame, and wait for each other
    lines = measure(
        parsed.model,
        parsed.env,
        deadlines=parsed.deadlines,
        episodes=parsed.episodes,
        iterations=parsed.iterations,
        threads=parsed.threads,
    )
    save(parsed.out, {"machine": machine, "results": lines})
    print(describe(machine, parsed.threads))
    print(table(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
