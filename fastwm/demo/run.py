"""The demo, stage by stage, in a directory where a second run goes on from what the first one finished."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import platform
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

import fastwm
from fastwm.data import Episodes, collect
from fastwm.demo.compare import Comparison, compare
from fastwm.demo.film import write_film
from fastwm.demo.ledger import Ledger
from fastwm.demo.playback import choose_episodes, fit_probe, playback
from fastwm.demo.report import write_report
from fastwm.demo.settings import DemoSettings
from fastwm.engine.backend import default_threads
from fastwm.envs import world
from fastwm.evaluation import Evaluation, ExpertPolicy, PlannerPolicy, RandomPolicy, evaluate, sample_tasks
from fastwm.models.storage import write_atomically
from fastwm.training import TrainResult, train
from fastwm.training.recipes.world_model import measures_of

DATA, MODEL, LEDGER = "episodes.h5", "model", "ledger.json"
SUMMARY, REPORT, FILM = "summary.json", "report.html", "episodes.gif"

logger = logging.getLogger(__name__)


def run_demo(
    settings: DemoSettings, out: str | os.PathLike[str], *, fresh: bool = False, progress: bool = True
) -> dict[str, Any]:
    """Collect, train, compile, evaluate, compare, report; returns what it writes to `out`/summary.json.

    Finished work of an earlier run in `out` is kept: episodes, and the training up to its last checkpoint.
    fresh: remove it first. ValueError where it was made with other settings.
    """
    out = Path(out)
    here = world(settings.world)
    if fresh:
        _remove(out)
    out.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(out / LEDGER, settings.recipe())

    with ledger.stage(
        "collect", f"{settings.episodes} episodes of {settings.length} frames in world {here.name}"
    ):
        data = _collect(settings, out, ledger, progress)
    with ledger.stage("train", f"a world model for {settings.steps} steps, from pixels and actions alone"):
        trained = _train(settings, out, data, ledger, progress)
    with ledger.stage("compile", "its predictor for this machine"):
        engine = fastwm.compile(trained.model, threads=settings.threads)
    logger.info("%s", engine)
    with ledger.stage(
        "evaluate", f"{settings.evaluation_episodes} episodes each of planner, expert and random"
    ):
        planner_of = partial(settings.search.planner, world=here)
        policy = PlannerPolicy(planner_of(engine))
        run = partial(
            evaluate, here, episodes=settings.evaluation_episodes, seed=settings.seed, progress=progress
        )
        evaluations = [run(policy), run(ExpertPolicy(here)), run(RandomPolicy(here))]
    with ledger.stage("compare", "one plan with the engine and with plain PyTorch"):
        start, goal = (here.render(states[:1])[0] for states in sample_tasks(here, 1, settings.seed))
        comparison = compare(trained.model, engine, planner_of, start, goal, repeats=settings.timed_plans)
    summary = _summary(settings, trained, engine.info(), evaluations, comparison, ledger)
    with ledger.stage("report", "what was found"):
        training, _ = Episodes(data).split(settings.train_config().validation_fraction, seed=settings.seed)
        probe = fit_probe(trained.model, training)
        shown = playback(here, engine, probe, policy, evaluations[0], choose_episodes(evaluations[0]))
        write_atomically(out / SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())
        write_film(out / FILM, shown)
        write_report(out / REPORT, summary, shown, out / MODEL)
    return summary


def _collect(settings: DemoSettings, out: Path, ledger: Ledger, progress: bool) -> Path:
    path = out / DATA
    there = path.exists()
    began = time.perf_counter()
    collect(
        settings.world,
        path,
        episodes=settings.episodes,
        length=settings.length,
        seed=settings.seed,
        workers=settings.threads or default_threads(),
        progress=progress,
    )
    if there:
        ledger.reuse("collect", path)
    else:
        ledger.made("collect", time.perf_counter() - began)
    return path


def _train(settings: DemoSettings, out: Path, data: Path, ledger: Ledger, progress: bool) -> TrainResult:
    config = settings.train_config()
    model_config = settings.model_config(world(settings.world).action_dim)
    trained = train(data, out / MODEL, model_config, config, resume=True, progress=progress)
    if trained.frames_per_second > 0:
        # After an interruption, the whole run at the pace of the steps that were left.
        ledger.made("train", config.steps * config.batch_size * config.frames / trained.frames_per_second)
    else:
        ledger.reuse("train", out / MODEL)
    return trained


def _summary(
    settings: DemoSettings,
    trained: TrainResult,
    engine: dict[str, Any],
    evaluations: list[Evaluation],
    comparison: Comparison,
    ledger: Ledger,
) -> dict[str, Any]:
    """summary.json: rates are shares with 95 % intervals, times milliseconds or seconds, as the names say.

    plan_ms_*: medians; their first and third quartiles are in plan_ms_quartiles. load: while plans were timed; processors
    that others kept busy, and the system's load average of that minute, which holds the demo's own work.
    """
    summary: dict[str, Any] = {"world": settings.world, "episodes": settings.evaluation_episodes}
    for found in evaluations:
        summary[f"success_{found.policy}"] = found.rate
    for found in evaluations:
        summary[f"interval_{found.policy}"] = list(found.interval)
        summary[f"decisions_{found.policy}"] = found.mean_decisions
    summary["decision_ms_planner"] = evaluations[0].mean_decision_ms
    summary |= {"plan_ms_engine": None, "plan_ms_torch": None}
    for (way, dtype), milliseconds in comparison.milliseconds.items():
        summary[f"plan_ms_{way}" if dtype == "float32" else f"plan_ms_{way}_{dtype}"] = milliseconds
    summary["plan_ms_quartiles"] = {
        f"{way} {dtype}": [first, third] for (way, dtype), (first, _, third) in comparison.quartiles.items()
    }
    summary["load"] = {
        "busy_with_others": comparison.busy,
        "average": comparison.load_average,
        "processors": default_threads(),
    }
    summary["parity_error"], summary["parity_tolerance"] = comparison.parity_error, comparison.tolerance
    summary["train_seconds"] = ledger.seconds["train"]
    summary["stage_seconds"] = dict(ledger.seconds)
    summary["data_frames"] = settings.episodes * settings.length
    summary["parameters"] = sum(p.numel() for p in trained.model.parameters())
    summary["health"] = {"step": settings.steps, **measures_of(trained.health)}
    summary["settings"] = dataclasses.asdict(settings)
    summary["settings"]["search"]["elites"] = settings.search.elite_count
    summary["training"] = dataclasses.asdict(settings.train_config())
    summary["model"] = trained.model.config.to_dict()
    summary["engine"] = engine
    summary["machine"] = {
        "processor": fastwm.info()["processor"],
        "threads": engine["threads"],
        "isa": engine["isa"],
        "system": f"{platform.system()} {platform.machine()}",
    }
    summary["versions"] = {
        "fastwm": fastwm.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "h5py": h5py.__version__,
    }
    return summary


def _remove(out: Path) -> None:
    """What a demo wrote to `out`, and nothing else."""
    for name in (DATA, f"{DATA}.partial", f"{DATA}.parts", LEDGER, SUMMARY, REPORT, FILM):
        (out / name).unlink(missing_ok=True)
    if (out / MODEL / "config.json").is_file() or (out / MODEL / "metrics.csv").is_file():
        shutil.rmtree(out / MODEL)
