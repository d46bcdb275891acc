"""What each objective learns in minutes: python -m bench.learning.

Collects a world, trains every objective with the commands that the page prints, and measures what came of it beside baselines:
of a world model and of a policy how many goals of two-room are reached, beside random actions; of an encoder how well a ridge
regression reads the state off held-out clips, beside one on raw pixels and on the encoder before training.

What is done is not done again: a run that was ended goes on. Writes learning.json after every objective, learning.md and
learning.svg, the curves of all. On two cores about an hour; --steps-share 0.02 is a look.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import fastwm
from fastwm.evaluation import PlannerPolicy, RandomPolicy, evaluate
from fastwm.planning.latent_policy import Reactive

from .learning_page import curves, page
from .machine import header
from .record import RESULTS, check_writable, read, save, write

SEED, CURVE_POINTS = 1, 8
DATA = {
    "two-room": ("--episodes", "2000", "--length", "32"),
    "pendulum": ("--episodes", "400", "--length", "40"),
    "reacher": ("--episodes", "400", "--length", "40"),
}


@dataclass(frozen=True)
class Training:
    """One line of the page; an encoder's `planner` is None."""

    world: str
    steps: int
    flags: tuple[str, ...] = ()
    planner: str | None = None


TRAININGS = {
    "world-model": Training("two-room", 900, planner="plans"),
    "wam": Training("two-room", 900, planner="acts"),
    "lejepa": Training("two-room", 1200),
    "frozen": Training("two-room", 1500, planner="plans"),  # on what lejepa has learned
    "vjepa": Training("pendulum", 1000, ("--batch-size", "16", "--learning-rate", "5e-4")),
    "ijepa": Training("reacher", 1000, ("--learning-rate", "3e-4")),
}


def said(words: Sequence[str]) -> str:
    """A command of fastwm as one types it."""
    return shlex.join(["fastwm", *words])


def run(words: Sequence[str]) -> float:
    """Seconds that the command of fastwm took. Raises CalledProcessError where it fails."""
    print("$", said(words), flush=True)
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "fastwm.cli", *words], check=True)
    return time.perf_counter() - began


def train(objective: str, runs: Path, share: float) -> dict:
    """The run's line: its command, seconds (None where it went on from before) and curves."""
    training = TRAININGS[objective]
    steps = max(2, round(share * training.steps))
    data, directory = runs / f"{training.world}.h5", runs / objective
    every = max(1, steps // CURVE_POINTS)
    words = ["train", str(data), str(directory), "--objective", objective, "--steps", str(steps)]
    words += [*training.flags, *(["--encoder-dir", str(runs / "lejepa")] if objective == "frozen" else [])]
    words += ["--validate-every", str(every)]
    known = (directory / "checkpoint.safetensors").exists()
    seconds = run([*words, "--resume"] if known else words)
    line = {"objective": objective, "world": training.world, "steps": steps, "command": said(words)}
    line |= {"seconds": None if known else seconds, "threads": torch.get_num_threads()}
    return line | {name: columns(directory / f"{name}.csv") for name in ("metrics", "validation")}


def columns(path: Path) -> dict[str, list[float | None]]:
    """A run's log by column; None where nothing was measured."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) if row[name] else None for row in rows] for name in rows[0]}


def goals_reached(objective: str, runs: Path, episodes: int) -> dict:
    """Success with its 95 % interval in the same episodes: the trained model's and random actions'."""
    training = TRAININGS[objective]
    here = fastwm.envs.world(training.world)
    model = fastwm.load(runs / objective)
    if training.planner == "acts":
        policy = Reactive(model)
    else:
        engine = fastwm.compile(model, dtype="float32")
        policy = PlannerPolicy(fastwm.Planner.recommended(engine, low=-1, high=1))
    found = {}
    for name, one in (("trained", policy), ("random actions", RandomPolicy(here))):
        result = evaluate(here, one, episodes=episodes, seed=SEED)
        found[name] = {"rate": result.rate, "interval": result.interval}
    return {"episodes": episodes, "goals": found}


def main(arguments: list[str] | None = None) -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/learning"), help="where data and models are kept"
    )
    parser.add_argument("--objectives", nargs="+", choices=TRAININGS, default=list(TRAININGS))
    parser.add_argument("--steps-share", type=float, default=1.0, help="of each run's steps (default: 1.0)")
    parser.add_argument("--episodes", type=int, default=100, help="of each evaluation (default: 100)")
    parser.add_argument("--output", type=Path, default=RESULTS / "learning.json")
    options = parser.parse_args(arguments)
    if "frozen" in options.objectives and not {"lejepa"} & {*options.objectives, *_made(options.runs)}:
        parser.error("frozen needs the encoder of lejepa: name both")
    check_writable(options.output)
    options.runs.mkdir(parents=True, exist_ok=True)
    before = read(options.output)["results"] if options.output.exists() else []
    lines = {line["objective"]: line for line in before}
    for objective in options.objectives:
        training = TRAININGS[objective]
        data = options.runs / f"{training.world}.h5"
        if not data.exists():  # one that was killed goes on
            run(["collect", training.world, str(data), *DATA[training.world]])
        line = train(objective, options.runs, options.steps_share)
        if training.planner:
            line |= goals_reached(objective, options.runs, options.episodes)
        lines[objective] = line
        ordered = [lines[name] for name in TRAININGS if name in lines]
        content = {"machine": header(), "results": ordered}
        save(options.output, content)
        write(options.output.with_suffix(".md"), page(content))
        curves(content, options.output.with_suffix(".svg"))
    print(page(content))


def _made(runs: Path) -> set[str]:
    return {name for name in TRAININGS if (runs / name / "checkpoint.safetensors").exists()}


if __name__ == "__main__":
    main()
