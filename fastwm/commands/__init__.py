"""What the sub-commands of `fastwm` do. Each takes the parsed command line and prints; all work is done elsewhere."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import fastwm
from fastwm import envs
from fastwm.commands.evaluate import eval
from fastwm.commands.shared import compile_for, load, progress, refuse_directory, say, search_of
from fastwm.commands.train import train
from fastwm.data import Episodes
from fastwm.data import collect as collect_episodes
from fastwm.data.info import check_frames, contact_sheet, describe, open_any_camera, save_sheet
from fastwm.data.info import lines as data_lines
from fastwm.demo import DemoSettings, run_demo
from fastwm.demo.table import summary_table
from fastwm.engine.backend import check_threads
from fastwm.evaluation import sample_tasks

__all__ = ["bench", "collect", "data", "demo", "diagnose", "eval", "info", "plan", "train"]


def demo(parsed: argparse.Namespace) -> int:
    """From pixels to plans; 1 if engine and PyTorch disagree about costs."""
    settings = DemoSettings.of(
        parsed.env,
        steps=parsed.steps,
        episodes=parsed.collect,
        evaluation_episodes=parsed.episodes,
        seed=parsed.seed,
        threads=parsed.threads,
    )
    if not parsed.quiet:
        _log_to_stderr("fastwm.demo")
    out = Path(parsed.out or ("runs/demo" if parsed.env == "push" else f"runs/{parsed.env}"))
    summary = run_demo(settings, out, fresh=parsed.fresh, progress=progress(parsed))
    say(f"\n{summary_table(summary)}\n\n  {out / 'report.html'}")
    return 0 if summary["plan_ms_engine"] is not None else 1


def collect(parsed: argparse.Namespace) -> None:
    """Collect episodes."""
    refuse_directory(parsed.path, "an HDF5 file to write")
    path = collect_episodes(
        parsed.env,
        parsed.path,
        episodes=parsed.episodes,
        length=parsed.length,
        seed=parsed.seed,
        policy=parsed.policy,
        workers=parsed.workers,
        progress=progress(parsed),
    )
    frames = parsed.episodes * parsed.length
    say(f"{path}: {parsed.episodes} episodes, {frames} frames, {path.stat().st_size / 1e6:.0f} MB")


def data(parsed: argparse.Namespace) -> int:
    """What a data set holds; 1 where --check finds damage."""
    episodes = open_any_camera(parsed.path, parsed.camera, parsed.skip_damaged, parsed.image_size)
    damaged = check_frames(episodes) if parsed.check else []
    episodes.damaged += tuple(damaged)
    found = describe(episodes)
    if parsed.sheet is not None:
        save_sheet(contact_sheet(episodes), Path(parsed.sheet))
    say(json.dumps(found) if parsed.json else "\n".join(data_lines(found)))
    return 1 if damaged else 0


def plan(parsed: argparse.Namespace) -> None:
    """Plan from a start to a goal picture."""
    model = load(parsed.model)
    start, goal = _pictures(parsed, model.config.image_size)
    engine = compile_for(model, parsed, parsed.dtype)
    planner = search_of(parsed).planner(engine, envs.world(parsed.env) if parsed.env else None)
    found = planner.plan(start, goal, deadline=parsed.deadline, generator=parsed.seed)
    actions = found.actions[0].tolist()
    if parsed.json:
        cost = float(found.cost[0]) if found.iterations else None
        result = {"actions": actions, "cost": cost, "seconds": found.elapsed}
        say(json.dumps({**result, "iterations": found.iterations, "deadline_hit": found.deadline_hit}))
        return
    if found.iterations:
        done = f"cost {float(found.cost[0]):.4g} after {found.iterations} iterations"
    else:
        done = "no iteration fitted the deadline: the mean of the training actions,"
    say(f"{done} in {1e3 * found.elapsed:.1f} ms")
    for block, action in enumerate(actions):
        say(f"  {block:>3}  " + "  ".join(f"{number:+.3f}" for number in action))


def diagnose(parsed: argparse.Namespace) -> None:
    """What a model is good for."""
    from fastwm.diagnose import diagnose, write_page
    from fastwm.diagnose.page import findings, lines

    model = load(parsed.model)
    episodes = Episodes(
        parsed.data,
        camera=parsed.camera,
        image_size=model.config.image_size,
        skip_damaged=parsed.skip_damaged,
    )
    training, validation = episodes.split(parsed.validation_fraction, seed=parsed.seed)
    world = parsed.env or episodes.attributes.get("world")
    engine = compile_for(model, parsed, parsed.dtype)
    found = diagnose(
        engine,
        training,
        validation,
        envs.world(world) if world in envs.WORLDS else None,
        seed=parsed.seed,
    )
    if parsed.out is not None:
        write_page(parsed.out, found, parsed.model, engine.info())
    if parsed.json:
        say(json.dumps(found.to_dict()))
        return
    say("\n".join(lines(found)))
    for finding in findings(found):
        say(f"! {finding}")
    if parsed.out is not None:
        say(f"\n  {parsed.out}")


def bench(parsed: argparse.Namespace) -> int:
    """How fast it runs here; 1 if something did not agree with PyTorch."""
    try:
        from fastwm.bench.command import run
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("fastwm.bench"):
            raise
        raise ImportError(
            "the benchmarks are part of an installed fastwm: pip install . (or make install)"
        ) from error
    return run(parsed)


def info(parsed: argparse.Namespace) -> None:
    """What runs here."""
    found: dict[str, Any] = {**fastwm.info(), "threads": check_threads(parsed.threads)}
    if parsed.model is not None:
        found["engine"] = compile_for(load(parsed.model), parsed, parsed.dtype).info()
    elif (parsed.dtype, parsed.backend) != ("auto", "auto"):
        raise ValueError("--dtype and --backend are what a model is compiled for: give its DIR, too")
    say(json.dumps(found) if parsed.json else "\n".join(_lines(found)))


def _pictures(parsed: argparse.Namespace, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Start and goal, uint8 [size, size, 3] each: from files, or a task of the world."""
    if (parsed.start is None) != (parsed.goal is None):
        raise ValueError("--start and --goal belong together: give both, or neither and --env")
    if parsed.start is not None:
        pictures = _read_picture(parsed.start, size), _read_picture(parsed.goal, size)
    elif parsed.env is not None:
        world = envs.world(parsed.env)
        start, goal = (world.render(states)[0] for states in sample_tasks(world, 1, parsed.seed))
        pictures = start, goal
    else:
        raise ValueError("nothing to plan: give --start and --goal, or --env and --seed")
    if parsed.save_images:
        directory = Path(parsed.save_images)
        directory.mkdir(parents=True, exist_ok=True)
        for name, picture in zip(("start.png", "goal.png"), pictures, strict=True):
            Image.fromarray(picture).save(directory / name)
    return pictures


def _read_picture(path: str | os.PathLike[str], size: int) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        if picture.size != (size, size):
            raise ValueError(
                f"{path} is {picture.width} × {picture.height} pixels; the model sees {size} × {size}"
            )
        return np.array(picture.convert("RGB"))


def _lines(found: dict[str, Any], indent: str = "") -> list[str]:
    """Nested values, one a line."""
    lines = []
    for name, value in found.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name:<{16 - len(indent)}} {_shown(name, value)}")
    return lines


def _shown(name: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if name.endswith("_bytes"):
        return f"{value / 1e6:.1f} MB" if value >= 1e6 else f"{value / 1e3:.1f} kB"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _log_to_stderr(name: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger(name)
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
