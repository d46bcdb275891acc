"""`fastwm train`: a run of an objective, or the distillation of a policy."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch

import fastwm
from fastwm import envs
from fastwm.commands.shared import load_wam, progress, say
from fastwm.data import Episodes, cached
from fastwm.demo.settings import check_actions
from fastwm.demo.table import duration, percent
from fastwm.engine.backend import check_threads
from fastwm.evaluation import evaluate
from fastwm.models import LatentWAM
from fastwm.models.storage import CONFIG_FILE
from fastwm.train_flags import given
from fastwm.training import train_recipe
from fastwm.training.loop import CHECKPOINT_FILE
from fastwm.training.ranks import launch, ranks
from fastwm.training.recipes.world_model import WorldModelRecipe


def train(parsed: argparse.Namespace) -> None:
    """Train a world model, or what --objective names."""
    from fastwm.training.jobs import job

    if not parsed.resume and (Path(parsed.run) / "metrics.csv").exists():
        raise ValueError(f"{parsed.run} already holds a run: go on with it (--resume), or choose another DIR")
    if parsed.devices < 1:
        raise ValueError(f"devices is {parsed.devices}; expected at least 1")
    if parsed.distill is not None:
        _distill(parsed)
        return
    episodes = _open(parsed, getattr(parsed, "image_size", None))
    fields = {
        "model": given(parsed, {name: "" for name in _names(parsed.objective, "model")}),
        "run": given(parsed, {name: "" for name in _names(parsed.objective, "run")}),
    }
    if parsed.devices > 1 and not torch.distributed.is_torchelastic_launched():
        threads = [] if "threads" in parsed else ["--threads", str(-(-check_threads(None) // parsed.devices))]
        launch([*parsed.arguments, *threads], parsed.devices)
        return
    if parsed.resume and not (Path(parsed.run) / CHECKPOINT_FILE).exists():
        say(f"{parsed.run} holds no checkpoint yet: from the first step")
    shown = not parsed.quiet
    with ranks() as here, here.one_voice():
        found = job(
            parsed.objective,
            parsed.preset,
            episodes,
            Path(parsed.run),
            here,
            **fields,
            encoder_dir=parsed.encoder_dir,
            progress=shown,
        )
        result = train_recipe(
            found.make, episodes, parsed.run, found.run, resume=parsed.resume, progress=shown
        )
    if not here.first:
        return
    say(f"{parsed.run}: trained in {duration(result.seconds)}, {result.frames_per_second:.0f} frames/s")
    if isinstance(result.recipe, WorldModelRecipe):
        told = _health(result.recipe)
    else:
        measures = {
            name.replace("_", " "): value for name, value in result.measures.items() if value is not None
        }
        width = max(map(len, measures), default=0)
        told = [f"{name:<{width}}  {value:.4g}" for name, value in measures.items()]
    say("\n".join(f"  {line}" for line in told))


def _open(parsed: argparse.Namespace, image_size: int | None) -> Episodes:
    """The episodes of the command line, resized where an `image_size` was asked for."""
    chosen = {"camera": parsed.camera, "image_size": image_size, "skip_damaged": parsed.skip_damaged}
    if parsed.cache is None:
        return Episodes(parsed.data, **chosen)
    workers = check_threads(getattr(parsed, "threads", None))
    return cached(parsed.data, parsed.cache, **chosen, workers=workers, progress=progress(parsed))


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


def _distill(parsed: argparse.Namespace) -> None:
    """Teach a policy what plans find; the model is written where success does not fall."""
    from fastwm.planning import Planner
    from fastwm.planning.latent_policy import Reactive
    from fastwm.training.distill import DistillConfig, distill

    fields = [field.name for field in dataclasses.fields(DistillConfig)]
    other = {*_names(parsed.objective, "model"), *_names(parsed.objective, "run")} - {*fields, "threads"}
    for flag, refused in (
        ("--objective", parsed.objective != "world-model"),
        ("--resume", parsed.resume),
        ("--devices", parsed.devices > 1),
        ("--encoder-dir", parsed.encoder_dir is not None),
        *((f"--{name.replace('_', '-')}", name in parsed) for name in sorted(other)),
    ):
        if refused:
            raise ValueError(
                f"{flag} is of a run, and --distill is none: it teaches a policy that was trained"
            )
    if (Path(parsed.run) / CONFIG_FILE).exists():
        raise ValueError(f"{parsed.run} already holds a model: choose another DIR")
    model = load_wam(parsed.distill)
    episodes = _open(parsed, model.config.image_size)
    name = episodes.attributes.get("world")
    if name not in envs.WORLDS:
        raise ValueError(
            f"{episodes.path} does not name its world, in which the policy's success is measured"
        )
    world = envs.world(name)
    check_actions(model.config.action_dim / model.config.action_block, world)
    config = DistillConfig(**given(parsed, {field: "" for field in fields}))
    torch.set_num_threads(check_threads(getattr(parsed, "threads", None)))
    engine = fastwm.compile(model, threads=getattr(parsed, "threads", None))
    planner = Planner.recommended(engine, low=float(world.action_low[0]), high=float(world.action_high[0]))

    def success(taught: LatentWAM) -> float:
        return evaluate(world, Reactive(taught), seed=config.seed, progress=progress(parsed)).rate

    found = distill(model, planner, episodes, success, config, progress=progress(parsed))
    say(f"the policy alone reached {percent(found.before)} of 100 goals; taught, {percent(found.after)}")
    if found.kept:
        found.model.save(parsed.run)
        say(f"  {parsed.run}")
    else:
        say("  not kept: nothing is written")


def _names(objective: str, part: str) -> list[str]:
    """The fields of an objective's configuration of its model, or of its run."""
    from fastwm.training.jobs import OBJECTIVES

    known = OBJECTIVES[objective]
    return known.fields(getattr(known, part))
