"""stable-worldmodel's own evaluation, with its solver and with ours, of its LeWM, on its TwoRoom.

  python -m bench.swm_evaluation              everything; what is there from a run before is not made again
  python -m bench.swm_evaluation collect      one step of: collect, train, evaluate, report

Needs the `peers` extra. `--run DIR` holds the data, the model and a line for every group of episodes that was evaluated;
results go to bench/results/swm_evaluation.json and .md.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # before their environments are imported

import h5py
import torch

from bench.machine import header
from bench.record import RESULTS, check_writable, save, write
from fastwm.models import WorldModel
from fastwm.training import train

from .collect import collect, mixed_policy, script_policy
from .evaluate import evaluate, identity, read
from .model import fit_scaler, theirs
from .report import PARITY, doubts, results, table
from .settings import Settings

STEPS = ("collect", "train", "evaluate", "report")
TRAIN, TASKS, MODEL, LINES = "train.h5", "tasks.h5", "model", "lines.jsonl"


def main(arguments: list[str] | None = None) -> int:
    """Run the steps that the command line asks for; 1 if plans that should be the same are not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", nargs="*", metavar="STEP", help=f"of {', '.join(STEPS)} (default: all)")
    parser.add_argument("--run", type=Path, default=Path("runs/swm-evaluation"), metavar="DIR")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of PyTorch and the engine")
    parser.add_argument("--episodes", type=int, nargs=2, metavar="N", help="at 1 and at 8 environments")
    parser.add_argument("--again", action="store_true", help="evaluate what is evaluated already, too")
    parsed = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", module="gymnasium")  # about their environment, many times
    if unknown := sorted(set(parsed.step) - set(STEPS)):
        parser.error(f"unknown step {', '.join(unknown)}; known are {', '.join(STEPS)}")
    settings = Settings(threads=parsed.threads)
    if parsed.episodes is not None:
        settings = dataclasses.replace(settings, episodes=dict(zip((1, 8), parsed.episodes, strict=True)))
    if parsed.again:
        (parsed.run / LINES).unlink(missing_ok=True)
    code = 0
    for step in parsed.step or STEPS:
        code = run_step(step, parsed.run, parsed.out, settings) or code
    return code


def run_step(step: str, run: Path, out: Path, settings: Settings) -> int:
    """One of STEPS, in the directory `run`; 1 if plans that should be the same are not."""
    if step == "collect":
        torch.set_num_threads(1)  # their environment draws with small tensors
        collect(
            run / TASKS, script_policy(settings.seed + 1000), settings.task_episodes, settings.seed + 2000
        )
        collect(run / TRAIN, mixed_policy(settings.seed), settings.train_episodes, settings.seed)
    elif step == "train":
        if not (run / MODEL / "done").exists():
            train(run / TRAIN, run / MODEL, settings.model(), settings.training(), resume=True)
            (run / MODEL / "done").touch()
    elif step == "evaluate":
        if not (run / MODEL / "done").exists():
            raise ValueError(f"{run / MODEL} holds no trained model: run the steps collect and train first")
        model, scaler = load(run)
        evaluate(run / TASKS, run / LINES, model, scaler, settings, _name(run, settings))
    else:
        return report(run, out, settings)
    return 0


def load(run: Path) -> tuple[Any, Any]:
    """Their LeWM with the weights trained in `run`, and their scaler of the actions it was trained on."""
    with h5py.File(run / TRAIN) as file:
        scaler = fit_scaler(file["action"][:])
    return theirs(WorldModel.load(run / MODEL), scaler), scaler


def report(run: Path, out: Path, settings: Settings) -> int:
    """Write and print what was found; 1 if plans that should be the same are not."""
    check_writable(out / "swm_evaluation.json")
    entries = results(read(run / LINES, _name(run, settings)))
    machine = header()
    text = table(entries, machine)
    content = {"machine": machine, "settings": dataclasses.asdict(settings), "results": entries}
    save(out / "swm_evaluation.json", content | {"doubts": doubts(entries)})
    write(out / "swm_evaluation.md", text)
    print(text)
    compared = [entry["difference"] for entry in entries if entry["difference"] is not None]
    return 0 if compared and max(compared) <= PARITY else 1


def _name(run: Path, settings: Settings) -> str:
    return identity(run / MODEL / "model.safetensors", run / TASKS, settings)


if __name__ == "__main__":
    sys.exit(main())
