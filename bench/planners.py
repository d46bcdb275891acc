"""Every planner in four tasks, success against milliseconds per plan: python -m bench.planners --model runs/rooms-steps.

Tasks: rooms (a LeWM in its published form, from pixels), and three whose dynamics are known: pendulum, grid, disc. Every
planner meets the same episodes and plans in a closed loop, from what is left of its last plan; --episodes of them, of the
pendulum, whose returns say more than a yes or no, a quarter. Times are of plans for one environment, pictures encoded, a task's
planners in turns.

The model of the rooms is made by
  fastwm collect two-room-steps data/rooms.h5 --episodes 1000 --length 91
  fastwm train data/rooms.h5 runs/rooms-steps --no-residual --width 128 --depth 2 --mlp-dim 512 --action-block 5 --steps 2500

Writes planners.json after every planner (an interruption loses one at most, and --resume goes on from there), a Markdown page
(planners.md) and its picture (planners.svg). 100 episodes of everything take about half an hour on two quiet processors.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

import fastwm
from fastwm.engine import backend
from fastwm.evaluation import CONFIDENCE_95, evaluate, sample_tasks, wilson_interval
from fastwm.models import WorldModel
from fastwm.planning import Planner

from .agreement import plan_agreements
from .machine import describe, doubts, header
from .planner_page import row, write_page
from .planner_tasks import TASKS, Loop, Task, known, rooms
from .record import RESULTS, check_writable, read, save
from .timing import in_turns

SEED = 1  # of episodes and plans
RETURNS = 4  # one episode in as many, where returns are measured


def results(
    tasks: Sequence[Task], *, episodes: int, repeats: int, threads: int, done: Sequence[dict] = ()
) -> Iterator[list[dict]]:
    """One line per way, all lines so far after every one of them; those that are `done` are not measured again."""
    torch.set_num_threads(threads)
    done = list(done)
    known_ways = {(line["task"], line["way"]) for line in done}
    for task in tasks:
        ways = [way for way in (*task.timed, *task.ways) if (task.name, way.name) not in known_ways]
        planners = {way: way.make() for way in ways}
        times = in_turns(
            {way: one_plan(task, planner) for way, planner in planners.items()}, repeats=repeats, warm_up=1
        )
        count = share(task.measure, episodes)
        for way in ways:
            found = {} if way in task.timed else outcome(task, way.name, planners[way], count)
            line = {"task": task.name, "about": task.about, "measure": task.measure, "way": way.name}
            line |= {"method": way.method, "samples": way.samples, "iterations": way.iterations}
            line |= {"engine": way.engine, "baseline": way.name == task.baseline, "threads": threads}
            done = [*done, {**line, "milliseconds": times[way], "repeats": repeats, **found}]
            yield done


def one_plan(task: Task, planner: Planner) -> Callable[[], object]:
    """A plan for the first episode, from what is left of the plan before."""
    state, goal = sample_tasks(task.world, 1, SEED)
    if task.pixels:
        state, goal = task.world.render(state), task.world.render(goal)
    target = planner.engine.encode(goal)[:, 0]
    start = planner.plan(state, target).rest(task.executed)
    return functools.partial(planner.plan, state, target, warm_start=start)


def outcome(task: Task, name: str, planner: Planner, episodes: int) -> dict:
    """What a planner achieves in `episodes` closed loops: the measure's mean, its interval, and that of each episode."""
    loop = Loop(planner, name, executed=task.executed, sees_states=not task.pixels)
    found = evaluate(task.world, loop, episodes=episodes, seed=SEED)
    if task.measure == "return":
        each = [round(float(value), 3) for value in task.world.returned(found.states)]
        low, high = mean_interval(each)
        value = float(np.mean(each))
    else:
        each = "".join(str(int(reached)) for reached in found.success)
        value, (low, high) = found.rate, wilson_interval(int(found.success.sum()), episodes)
    measured = {"value": value, "low": low, "high": high, "each": each, "episodes": episodes}
    return {**measured, "candidates": float(np.mean(loop.candidates))}


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % confidence interval of a mean, by the normal distribution; without end for a single value."""
    if len(values) < 2:
        return -math.inf, math.inf
    half = CONFIDENCE_95 * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def parity(model: WorldModel, threads: int) -> dict[str, dict]:
    """Of each engine of the rooms: whether its costs agree with the model's own, in plain PyTorch."""
    here = fastwm.envs.world("two-room-steps")
    start, goal = (torch.from_numpy(here.render(state)[0]) for state in sample_tasks(here, 1, SEED))
    engines = [
        fastwm.compile(model, backend=name, dtype=dtype, threads=threads)
        for name, dtype in (("torch", "float32"), ("cpu", "float32"), ("cpu", "auto"))
    ]
    planners = {f"{e.info()['backend']} {e.dtype}": Planner.recommended(e) for e in engines}
    return {name: found.line() for name, found in plan_agreements(planners, model, start, goal).items()}


def resumed(path: Path, content: dict, *, episodes: int, repeats: int, threads: int) -> list[dict]:
    """The lines of an earlier run; ValueError where this one would measure something else."""
    if not path.exists():
        return []
    earlier = read(path)
    for name in ("processor", "isa", "torch", "commit"):
        if earlier["machine"].get(name) != content["machine"].get(name):
            raise ValueError(
                f"{path} was measured with {name} {earlier['machine'].get(name)}, expected "
                f"{content['machine'].get(name)} to go on: leave --resume out"
            )
    for line in earlier["results"]:
        count = share(line["measure"], episodes)
        asked = {"episodes": count, "repeats": repeats, "threads": threads}
        if any(line.get(name, value) != value for name, value in asked.items()):
            raise ValueError(f"{path} was measured with other options than {asked}: leave --resume out")
    return earlier["results"]


def share(measure: str, episodes: int) -> int:
    """How many of the episodes asked for a task of this measure has."""
    return max(1, episodes // RETURNS) if measure == "return" else episodes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, help="(default: all)")
    parser.add_argument("--model", type=Path, metavar="DIR", help="of the rooms")
    parser.add_argument("--episodes", type=int, default=200, help="of each planner (default: 200)")
    parser.add_argument("--repeats", type=int, default=7, help="timed plans (default: 7)")
    parser.add_argument("--threads", type=int, help="(default: every processor)")
    parser.add_argument("--quick", action="store_true", help="few planners, 10 episodes, 3 timed plans")
    parser.add_argument("--resume", action="store_true", help="go on from the results in --out")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, metavar="DIR", help="for JSON, Markdown page and SVG picture"
    )
    arguments = parser.parse_args()
    threads = backend.check_threads(arguments.threads)
    episodes, repeats = (10, 3) if arguments.quick else (arguments.episodes, arguments.repeats)
    for name, value in (("--episodes", episodes), ("--repeats", repeats)):
        if value < 1:
            parser.error(f"{name} is {value}, expected at least 1")
    if "rooms" in arguments.tasks and arguments.model is None:
        parser.error("--model is missing, which the rooms need (see --help for how to make it)")
    for suffix in ("json", "md", "svg"):
        check_writable(arguments.out / f"planners.{suffix}")
    machine = header()
    print("\n".join([describe(machine, threads), *doubts(machine)]))
    content: dict = {"machine": machine, "partial": True, "results": []}
    sizes = {"episodes": episodes, "repeats": repeats, "threads": threads}
    if arguments.resume:
        content["results"] = resumed(arguments.out / "planners.json", content, **sizes)
    tasks = []
    if "rooms" in arguments.tasks:
        model = fastwm.load(arguments.model)
        content["parity"] = parity(model, threads)
        failed = [name for name, found in content["parity"].items() if not found["passed"]]
        if failed:
            raise SystemExit(f"{', '.join(failed)}: costs do not agree with PyTorch's, nothing is measured")
        tasks.append(rooms(model, threads=threads, quick=arguments.quick))
    tasks += [known(name, quick=arguments.quick) for name in arguments.tasks if name != "rooms"]
    try:
        for lines in results(tasks, **sizes, done=content["results"]):
            content["results"] = lines
            save(arguments.out / "planners.json", content)
            print(row(lines[-1]), flush=True)
        del content["partial"]
    finally:  # an interrupted run, too, shows what it has found
        if content["results"]:
            content["doubts"] = doubts(machine, content["results"])
            save(arguments.out / "planners.json", content)
            written = write_page(content, arguments.out)
            print(f"wrote {', '.join(map(str, written))}")


if __name__ == "__main__":
    main()
