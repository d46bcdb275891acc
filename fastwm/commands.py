"""What the sub-commands of `fastwm` do. Each takes the parsed command line and prints; all work is done elsewhere."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import functools
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
from fastwm.data.info import check_frames, contact_sheet, describe, open_any_camera, save_sheet
from fastwm.data.info import lines as data_lines
from fastwm.demo import DemoSettings, Search, run_demo
from fastwm.demo.run import MODEL
from fastwm.demo.settings import check_actions
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
from fastwm.evaluation_workers import evaluate_in_workers
from fastwm.models import LatentWAM, WorldModel
from fastwm.models.storage import CONFIG_FILE
from fastwm.training import train_recipe
from fastwm.training.ranks import launch, ranks
from fastwm.training.recipes.world_model import WorldModelRecipe


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
    summary = run_demo(settings, out, fresh=parsed.fresh, progress=_progress(parsed))
    _print(f"\n{summary_table(summary)}\n\n  {out / 'report.html'}")
    return 0 if summary["plan_ms_engine"] is not None else 1


def collect(parsed: argparse.Namespace) -> None:
    """Collect episodes."""
    _refuse_directory(parsed.path, "an HDF5 file to write")
    path = collect_episodes(
        parsed.env,
        parsed.path,
        episodes=parsed.episodes,
        length=parsed.length,
        seed=parsed.seed,
        policy=parsed.policy,
        workers=parsed.workers,
        progress=_progress(parsed),
    )
    frames = parsed.episodes * parsed.length
    _print(f"{path}: {parsed.episodes} episodes, {frames} frames, {path.stat().st_size / 1e6:.0f} MB")


def data(parsed: argparse.Namespace) -> int:
    """What a data set holds; 1 where --check finds damage."""
    episodes = open_any_camera(parsed.path, parsed.camera, parsed.skip_damaged)
    damaged = check_frames(episodes) if parsed.check else []
    episodes.damaged += tuple(damaged)
    found = describe(episodes)
    if parsed.sheet is not None:
        save_sheet(contact_sheet(episodes), Path(parsed.sheet))
    _print(json.dumps(found) if parsed.json else "\n".join(data_lines(found)))
    return 1 if damaged else 0


def train(parsed: argparse.Namespace) -> None:
    """Train a world model, or what --objective names."""
    from fastwm.training.jobs import job

    if not parsed.resume and (Path(parsed.run) / "metrics.csv").exists():
        raise ValueError(f"{parsed.run} already holds a run: go on with it (--resume), or choose another DIR")
    if parsed.devices < 1:
        raise ValueError(f"devices is {parsed.devices}; expected at least 1")
    episodes = Episodes(parsed.data, camera=parsed.camera, skip_damaged=parsed.skip_damaged)
    if parsed.distill is not None:
        _distill(parsed, episodes)
        return
    fields = {
        "model": cli.given(parsed, {name: "" for name in _names(parsed.objective, "model")}),
        "run": cli.given(parsed, {name: "" for name in _names(parsed.objective, "run")}),
    }
    if parsed.devices > 1 and not torch.distributed.is_torchelastic_launched():
        threads = [] if "threads" in parsed else ["--threads", str(-(-check_threads(None) // parsed.devices))]
        launch([*parsed.arguments, *threads], parsed.devices)
        return
    progress = _progress(parsed)
    with ranks() as here:
        found = job(
            parsed.objective,
            parsed.preset,
            episodes,
            Path(parsed.run),
            here,
            **fields,
            encoder_dir=parsed.encoder_dir,
            progress=progress,
        )
        result = train_recipe(
            found.make, episodes, parsed.run, found.run, resume=parsed.resume, progress=progress
        )
    if not here.first:
        return
    _print(f"{parsed.run}: trained in {duration(result.seconds)}, {result.frames_per_second:.0f} frames/s")
    if isinstance(result.recipe, WorldModelRecipe):
        told = _health(result.recipe)
    else:
        shown = {
            name.replace("_", " "): value for name, value in result.measures.items() if value is not None
        }
        width = max(map(len, shown), default=0)
        told = [f"{name:<{width}}  {value:.4g}" for name, value in shown.items()]
    _print("\n".join(f"  {line}" for line in told))


def _health(recipe: WorldModelRecipe) -> list[str]:
    health = recipe.health
    assert health is not None  # measured at the last step, or after it
    probes = [r2 for r2 in health.probe_r2 if r2 == r2]
    told = []
    if probes:
        told.append(f"linear probe R²    {np.mean(probes):.4f} (worst dimension {min(probes):.4f})")
    told.append(f"effective rank     {health.effective_rank:.1f} of {recipe.model.config.embed_dim}")
    for horizon, error in health.open_loop.items():
        ahead = f"{horizon} block" if horizon == 1 else f"{horizon} blocks"
        told.append(
            f"error {ahead:<9} ahead {error:.4f} (copying the last latent: {health.copy_last[horizon]:.4f})"
        )
    return told


def _distill(parsed: argparse.Namespace, episodes: Episodes) -> None:
    """Teach a policy what plans find; the model is written where success does not fall."""
    from fastwm.planning import Planner
    from fastwm.planning.latent_policy import Reactive
    from fastwm.training.distill import DistillConfig, distill

    fields = [field.name for field in dataclasses.fields(DistillConfig)]
    other = {*_names(parsed.objective, "model"), *_names(parsed.objective, "run")} - {*fields, "threads"}
    for flag, given in (
        ("--objective", parsed.objective != "world-model"),
        ("--resume", parsed.resume),
        ("--devices", parsed.devices > 1),
        ("--encoder-dir", parsed.encoder_dir is not None),
        *((f"--{name.replace('_', '-')}", name in parsed) for name in sorted(other)),
    ):
        if given:
            raise ValueError(
                f"{flag} is of a run, and --distill is none: it teaches a policy that was trained"
            )
    if (Path(parsed.run) / CONFIG_FILE).exists():
        raise ValueError(f"{parsed.run} already holds a model: choose another DIR")
    model = _load(parsed.distill)
    if not isinstance(model, LatentWAM):
        raise ValueError(
            f"{parsed.distill} holds a {type(model).__name__}, which has no policy; expected a LatentWAM"
        )
    name = episodes.attributes.get("world")
    if name not in envs.WORLDS:
        raise ValueError(
            f"{episodes.path} does not name its world, in which the policy's success is measured"
        )
    world = envs.world(name)
    check_actions(model.config.action_dim / model.config.action_block, world)
    config = DistillConfig(**cli.given(parsed, {field: "" for field in fields}))
    torch.set_num_threads(check_threads(getattr(parsed, "threads", None)))
    engine = fastwm.compile(model, threads=getattr(parsed, "threads", None))
    planner = Planner.recommended(engine, low=float(world.action_low[0]), high=float(world.action_high[0]))

    def success(taught: LatentWAM) -> float:
        return evaluate(world, Reactive(taught), seed=config.seed, progress=_progress(parsed)).rate

    found = distill(model, planner, episodes, success, config)
    _print(f"the policy alone reached {percent(found.before)} of 100 goals; taught, {percent(found.after)}")
    if found.kept:
        found.model.save(parsed.run)
        _print(f"  {parsed.run}")
    else:
        _print("  not kept: nothing is written")


def _names(objective: str, part: str) -> list[str]:
    """The fields of an objective's configuration of its model, or of its run."""
    from fastwm.training.jobs import OBJECTIVES

    known = OBJECTIVES[objective]
    return known.fields(getattr(known, part))


def plan(parsed: argparse.Namespace) -> None:
    """Plan from a start to a goal picture."""
    model = _load(parsed.model)
    start, goal = _pictures(parsed, model.config.image_size)
    engine = _compile(model, parsed, parsed.dtype)
    planner = _search(parsed).planner(engine, envs.world(parsed.env) if parsed.env else None)
    found = planner.plan(start, goal, deadline=parsed.deadline, generator=parsed.seed)
    actions = found.actions[0].tolist()
    if parsed.json:
        cost = float(found.cost[0]) if found.iterations else None
        result = {"actions": actions, "cost": cost, "seconds": found.elapsed}
        _print(json.dumps({**result, "iterations": found.iterations, "deadline_hit": found.deadline_hit}))
        return
    if found.iterations:
        done = f"cost {float(found.cost[0]):.4g} after {found.iterations} iterations"
    else:
        done = "no iteration fitted the deadline: the mean of the training actions,"
    _print(f"{done} in {1e3 * found.elapsed:.1f} ms")
    for block, action in enumerate(actions):
        _print(f"  {block:>3}  " + "  ".join(f"{number:+.3f}" for number in action))


def eval(parsed: argparse.Namespace) -> None:
    """Closed-loop success."""
    world = envs.world(parsed.env)
    policies: list[tuple[str, str]] = []  # names, and the dtypes of planners
    for name in parsed.policy or ["planner"]:
        if name == "planner" and parsed.model is None:
            raise ValueError("the planner needs a model: fastwm eval DIR --env …, DIR first")
        policies += [(name, dtype) for dtype in (parsed.dtype if name == "planner" else ("",))]
    options = {
        "episodes": parsed.episodes,
        "seed": parsed.seed,
        "budget": parsed.budget,
        "progress": _progress(parsed),
    }
    if parsed.workers < 1:
        raise ValueError(f"workers is {parsed.workers}; expected at least 1")
    if parsed.workers > 1 and parsed.threads is None:
        parsed.threads = max(1, check_threads(None) // parsed.workers)
    results = []
    for name, dtype in policies:
        make = functools.partial(_policy, parsed, name, dtype)
        if parsed.workers > 1 or parsed.ray:
            if name == "planner":
                _load(parsed.model)  # what is wrong with it is said before any worker starts
            results.append(
                evaluate_in_workers(world, make, workers=parsed.workers, ray=parsed.ray, **options)
            )
        else:
            results.append(evaluate(world, make(), **options))
    first, others = results[0], results[1:]
    if parsed.json:
        _print(json.dumps([_evaluation(first), *(_evaluation(r) | _difference(r, first) for r in others)]))
        return
    budget = parsed.budget or world.budget
    _print(f"{parsed.episodes} episodes of {parsed.env}, at most {budget} decisions each\n")
    _print(
        _table(
            results, {r.policy for r, (name, _) in zip(results, policies, strict=True) if name == "planner"}
        )
    )
    for result in others:
        _print(_compared(result, first))


def _policy(parsed: argparse.Namespace, name: str, dtype: str) -> Policy:
    """The policy called `name` of a command line of `eval`; each worker makes its own."""
    world = envs.world(parsed.env)
    if name != "planner":
        return ExpertPolicy(world) if name == "expert" else RandomPolicy(world)
    engine = _compile(_load(parsed.model), parsed, dtype)
    name = "planner" if len(parsed.dtype) == 1 else f"planner {dtype}"
    return PlannerPolicy(_search(parsed).planner(engine, world), name=name)


def diagnose(parsed: argparse.Namespace) -> None:
    """What a model is good for."""
    from fastwm.diagnose import diagnose, write_page
    from fastwm.diagnose.page import findings, lines

    model = _load(parsed.model)
    episodes = Episodes(parsed.data)
    training, validation = episodes.split(parsed.validation_fraction, seed=parsed.seed)
    world = parsed.env or episodes.attributes.get("world")
    engine = _compile(model, parsed, parsed.dtype)
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
        _print(json.dumps(found.to_dict()))
        return
    _print("\n".join(lines(found)))
    for finding in findings(found):
        _print(f"! {finding}")
    if parsed.out is not None:
        _print(f"\n  {parsed.out}")


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
        found["engine"] = _compile(_load(parsed.model), parsed, parsed.dtype).info()
    elif (parsed.dtype, parsed.backend) != ("auto", "auto"):
        raise ValueError("--dtype and --backend are what a model is compiled for: give its DIR, too")
    _print(json.dumps(found) if parsed.json else "\n".join(_lines(found)))


def _progress(parsed: argparse.Namespace) -> bool:
    """Whether to draw progress bars: for someone who looks at them."""
    return not parsed.quiet and sys.stderr.isatty()


def _print(text: str) -> None:
    """Print at once; an OSError then names standard output."""
    try:
        print(text, flush=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from error


def _refuse_directory(path: str, expected: str) -> None:
    if Path(path).is_dir():
        raise IsADirectoryError(errno.EISDIR, f"is a directory; FILE is {expected}", path)


def _load(directory: str) -> WorldModel | LatentWAM:
    """The model in DIR; where it holds none, the error says where one is nearby."""
    path = Path(directory)
    if path.is_file() or (path.is_dir() and not (path / CONFIG_FILE).is_file()):
        holds = "is a file" if path.is_file() else f"holds no world model: {CONFIG_FILE} is missing"
        near = path.parent if path.is_file() else path / MODEL
        hint = f"; {near} holds one" if (near / CONFIG_FILE).is_file() else ""
        expected = "; DIR is the directory of a saved world model" if path.is_file() and not hint else ""
        raise ValueError(f"{directory} {holds}{expected}{hint}")
    return fastwm.load(path)


def _compile(model: WorldModel | LatentWAM, parsed: argparse.Namespace, dtype: Any) -> Engine:
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
        noise_exponent=parsed.noise_exponent,
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


def _table(results: list[Evaluation], planners: set[str]) -> str:
    """One evaluation a line. The time of a decision is that of a plan: others' decisions cost nothing."""
    rows: list[tuple[str, ...]] = [
        ("", "reached", "95 % interval", "decisions to the goal", "ms per decision")
    ]
    for result in results:
        low, high = result.interval
        rows.append(
            (
                result.policy,
                percent(result.rate),
                f"{100 * low:.0f} to {100 * high:.0f} %",
                "–" if result.mean_decisions is None else f"{result.mean_decisions:.1f}",
                f"{result.mean_decision_ms:.2f}" if result.policy in planners else "",
            )
        )
    rows = rows if planners else [row[:-1] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        f"{name:<{widths[0]}}  "
        + "  ".join(f"{x:>{width}}" for x, width in zip(rest, widths[1:], strict=True))
        for name, *rest in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _compared(result: Evaluation, first: Evaluation) -> str:
    """int8 − float32: +0.0 percentage points …"""
    found = paired_difference(result, first)
    low, high = found.interval
    names = (r.policy.removeprefix("planner ") for r in (result, first))
    return (
        f"{' − '.join(names)}: {100 * found.rate:+.1f} percentage points (95 %: {100 * low:+.1f} to {100 * high:+.1f}); "
        f"{found.won} won, {found.lost} lost"
    )


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
