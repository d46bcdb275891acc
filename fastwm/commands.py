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
import torch
from numpy.typing import NDArray
from PIL import Image

import fastwm
from fastwm import cli, envs
from fastwm.data import Episodes
from fastwm.data import collect as collect_episodes
from fastwm.demo import DemoSettings, Search, run_demo
from fastwm.demo.table import duration, percent, summary_table
from fastwm.engine.backend import check_threads
from fastwm.engine.engine import Engine
from fastwm.evaluation import (
    Evaluation,
    ExpertPolicy,
    PlannerPolicy,
    Policy,
    RandomPolicy,
    evaluate,
    paired_difference,
    sample_tasks,
)
from fastwm.models import WorldModel, WorldModelConfig
from fastwm.training import TrainConfig
from fastwm.training import train as train_model


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
    summary = run_demo(settings, out, fresh=parsed.fresh, progress=not parsed.quiet)
    print(f"\n{summary_table(summary)}\n\n  {out / 'report.html'}")
    return 0 if summary["plan_ms_engine"] is not None else 1


def collect(parsed: argparse.Namespace) -> None:
    """Collect episodes."""
    path = collect_episodes(
        parsed.env,
        parsed.path,
        episodes=parsed.episodes,
        length=parsed.length,
        seed=parsed.seed,
        policy=parsed.policy,
        workers=parsed.workers,
        progress=not parsed.quiet,
    )
    frames = parsed.episodes * parsed.length
    print(f"{path}: {parsed.episodes} episodes, {frames} frames, {path.stat().st_size / 1e6:.0f} MB")


def train(parsed: argparse.Namespace) -> None:
    """Train a world model."""
    changes = cli.given(parsed, cli.MODEL_HELP)
    action_dim = Episodes(parsed.data).action_dim * changes.get("action_block", 1)
    model_config = WorldModelConfig.preset(parsed.preset, action_dim=action_dim, **changes)
    preset = "paper" if parsed.preset == "paper" else "small"
    train_config = TrainConfig.preset(preset, **{"steps": 3000, **cli.given(parsed, cli.TRAIN_HELP)})
    result = train_model(
        parsed.data, parsed.run, model_config, train_config, resume=parsed.resume, progress=not parsed.quiet
    )
    health = result.health
    probes = [r2 for r2 in health.probe_r2 if r2 == r2]
    print(f"{parsed.run}: trained in {duration(result.seconds)}, {result.frames_per_second:.0f} frames/s")
    if probes:
        print(f"  linear probe R²    {np.mean(probes):.4f} (worst dimension {min(probes):.4f})")
    print(f"  effective rank     {health.effective_rank:.1f} of {model_config.embed_dim}")
    for horizon, error in health.open_loop.items():
        print(
            f"  error {horizon:>2} ahead     {error:.4f} (copying the last latent: {health.copy_last[horizon]:.4f})"
        )


def plan(parsed: argparse.Namespace) -> None:
    """Plan from a start to a goal picture."""
    model = WorldModel.load(parsed.model)
    start, goal = _pictures(parsed, model.config.image_size)
    engine = _compile(model, parsed, parsed.dtype)
    planner = _search(parsed).planner(engine, envs.world(parsed.env) if parsed.env else None)
    found = planner.plan(start, goal, deadline=parsed.deadline, generator=parsed.seed)
    actions = found.actions[0].tolist()
    if parsed.json:
        result = {"actions": actions, "cost": float(found.cost[0]), "seconds": found.elapsed}
        print(json.dumps({**result, "iterations": found.iterations, "deadline_hit": found.deadline_hit}))
        return
    print(
        f"cost {float(found.cost[0]):.4g} after {found.iterations} iterations in {1e3 * found.elapsed:.1f} ms"
    )
    for block, action in enumerate(actions):
        print(f"  {block:>3}  " + "  ".join(f"{number:+.3f}" for number in action))


def eval(parsed: argparse.Namespace) -> None:
    """Closed-loop success."""
    world = envs.world(parsed.env)
    names = parsed.policy or ["planner"]
    policies: list[Policy] = []
    for name in names:
        if name == "planner":
            if parsed.model is None:
                raise ValueError("the planner needs a model: fastwm eval DIR --env …")
            model = WorldModel.load(parsed.model)
            for dtype in parsed.dtype:
                engine = _compile(model, parsed, dtype)
                name = "planner" if len(parsed.dtype) == 1 else f"planner {dtype}"
                policies.append(PlannerPolicy(_search(parsed).planner(engine, world), name=name))
        else:
            policies.append(ExpertPolicy(world) if name == "expert" else RandomPolicy(world))
    results = [
        evaluate(
            world,
            policy,
            episodes=parsed.episodes,
            seed=parsed.seed,
            budget=parsed.budget,
            progress=not parsed.quiet,
        )
        for policy in policies
    ]
    first, others = results[0], results[1:]
    if parsed.json:
        print(json.dumps([_evaluation(first), *(_evaluation(r) | _difference(r, first) for r in others)]))
        return
    width = max(len(result.policy) for result in results)
    for result in results:
        low, high = result.interval
        decisions = (
            "" if result.mean_decisions is None else f", {result.mean_decisions:.1f} decisions to the goal"
        )
        print(
            f"{result.policy:<{width}} {percent(result.rate)} of {parsed.episodes} episodes (95 % interval {100 * low:.0f} to "
            f"{100 * high:.0f} %){decisions}, {result.mean_decision_ms:.2f} ms per decision"
        )
    for result in others:
        difference = paired_difference(result, first)
        low, high = difference.interval
        print(
            f"{result.policy} less {first.policy}: {100 * difference.rate:+.1f} % of episodes (95 % interval {100 * low:+.1f} "
            f"to {100 * high:+.1f} %), {difference.won} won, {difference.lost} lost"
        )


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
        found["engine"] = _compile(WorldModel.load(parsed.model), parsed, parsed.dtype).info()
    print(json.dumps(found) if parsed.json else "\n".join(_lines(found)))


def _compile(model: WorldModel, parsed: argparse.Namespace, dtype: Any) -> Engine:
    torch.set_num_threads(check_threads(parsed.threads))
    return fastwm.compile(model, backend=parsed.backend, dtype=dtype, threads=parsed.threads)


def _search(parsed: argparse.Namespace) -> Search:
    return Search(
        samples=parsed.samples,
        elites=parsed.elites,
        iterations=parsed.iterations,
        horizon=parsed.horizon,
        std=parsed.std,
        min_std=parsed.min_std,
        correlation=parsed.correlation,
    )


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


def _evaluation(result: Evaluation) -> dict[str, Any]:
    return {
        "policy": result.policy,
        "success": result.rate,
        "interval": list(result.interval),
        "episodes": len(result.success),
        "decisions": result.mean_decisions,
        "decision_ms": result.mean_decision_ms,
    }


def _difference(result: Evaluation, first: Evaluation) -> dict[str, Any]:
    found = paired_difference(result, first)
    numbers = {"success": found.rate, "interval": list(found.interval), "won": found.won, "lost": found.lost}
    return {"difference": {"from": first.policy, **numbers}}


def _lines(found: dict[str, Any], indent: str = "") -> list[str]:
    """Nested values, one a line."""
    lines = []
    for name, value in found.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}", *_lines(value, indent + "  ")]
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            lines.append(f"{indent}{name:<{16 - len(indent)}} {shown}")
    return lines


def _log_to_stderr(name: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger(name)
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
