"""The training loop: a recipe and episodes to what is learned, in a run directory that survives being killed.

A run directory holds what the recipe saves (a world model: `config.json` and `model.safetensors`), `checkpoint.safetensors`,
`metrics.csv`, `validation.csv` and `tensorboard/`.
"""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from fastwm.data import Episodes, prefetch
from fastwm.objectives import processes
from fastwm.training.accelerate import use_kernels
from fastwm.training.checkpoint import Identity, restore_checkpoint, save_checkpoint
from fastwm.training.config import RunConfig
from fastwm.training.features import data_digest
from fastwm.training.interruption import Interruption
from fastwm.training.logs import RunLogs
from fastwm.training.precision import choose_device, use_bfloat16
from fastwm.training.ranks import Ranks, ranks
from fastwm.training.recipe import Measures, Recipe
from fastwm.training.sampler import batch_starts, draws_generator, step_seed

CHECKPOINT_FILE = "checkpoint.safetensors"

Trained = TypeVar("Trained", bound=Recipe)


@dataclasses.dataclass(frozen=True)
class RunResult(Generic[Trained]):
    """A finished run. `seconds` and `frames_per_second` count the steps of this call alone."""

    recipe: Trained
    measures: Measures
    seconds: float
    frames_per_second: float


def train_recipe(
    make: Callable[[], Trained],
    data: Episodes | str | os.PathLike[str],
    run_dir: str | os.PathLike[str],
    config: RunConfig,
    *,
    resume: bool = False,
    progress: bool = True,
) -> RunResult[Trained]:
    """Train the recipe that `make` builds, on episodes or the file that holds them, and write what it learns to `run_dir`.

    make: called once, with torch's generator seeded by the run.
    resume: continue from the last checkpoint in `run_dir`, or start where there is none yet; on one thread
        the result equals that of a run never stopped, bit for bit.
    A run that is interrupted (SIGINT, SIGTERM) finishes its step, writes a checkpoint and raises KeyboardInterrupt; of several
    processes each ends at once.
    Raises ValueError when data, recipe, configuration and run directory do not fit together, and FloatingPointError
    when the loss stops being finite.
    """
    run_path = Path(run_dir)
    if not resume and (run_path / "metrics.csv").exists():
        raise ValueError(f"{run_path} already holds a run; resume it, or choose another run_dir")
    device = choose_device(config.device)
    episodes = data if isinstance(data, Episodes) else Episodes(data)
    training, validation = episodes.split(config.validation_fraction, seed=config.seed)
    gpus = [device] if device.type == "cuda" else []
    with ranks() as here, _threads(config.threads), torch.random.fork_rng(devices=gpus):
        parts = here.count * config.accumulate
        if config.batch_size % parts:
            raise ValueError(
                f"batch_size is {config.batch_size}; expected a multiple of {parts}: {here.count} processes, "
                f"{config.accumulate} parts each"
            )
        if config.batch_size < 2 * parts:
            raise ValueError(
                f"batch_size is {config.batch_size}; expected at least 2 samples in each of {parts} parts"
            )
        torch.manual_seed(config.seed)
        recipe = make().to(device)
        if device.type == "cpu":
            use_kernels(recipe)  # PyTorch's numbers within rounding
        recipe.check(episodes, training, validation)
        run_path.mkdir(parents=True, exist_ok=True)
        with _held(run_path) if here.first else nullcontext():
            return _run(recipe, training, validation, run_path, config, here, resume, progress and here.first)


@contextmanager
def _held(run_path: Path) -> Iterator[None]:
    """Hold the run directory: two runs in one would overwrite each other's checkpoints."""
    descriptor = os.open(run_path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f"another process is training in {run_path}") from error
        for left in run_path.glob(".*.tmp"):  # by a run that was killed while it wrote
            left.unlink()
        yield
    finally:
        os.close(descriptor)


def _run(
    recipe: Trained,
    training: Episodes,
    validation: Episodes,
    run_path: Path,
    config: RunConfig,
    here: Ranks,
    resume: bool,
    progress: bool,
) -> RunResult[Trained]:
    recipe.prepare(training)
    optimizer = torch.optim.AdamW(
        [parameter for parameter in recipe.parameters() if parameter.requires_grad],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=True,
    )
    identity = Identity.of(recipe.description(), config, _fingerprint(training), type(recipe).__name__)
    checkpoint = run_path / CHECKPOINT_FILE
    done = (
        restore_checkpoint(checkpoint, recipe, optimizer, identity) if resume and checkpoint.exists() else 0
    )

    windows = recipe.windows(training)
    device = choose_device(config.device)
    bfloat16 = use_bfloat16(config.precision, device)
    measures: Measures | None = None
    began = time.perf_counter()
    with ExitStack() as stack:
        module = stack.enter_context(here.joined(recipe))
        logs = stack.enter_context(_logs(run_path, recipe, config, done)) if here.first else None
        often = 0.1 if sys.stderr.isatty() else 30.0  # seconds: a log is not a screen
        bar = stack.enter_context(
            tqdm(total=config.steps, initial=done, unit="step", disable=not progress, mininterval=often)
        )
        interruption = stack.enter_context(
            Interruption(*((signal.SIGINT, signal.SIGTERM) if here.count == 1 else ()))
        )
        steps = range(done + 1, config.steps + 1)
        load = functools.partial(_batches, recipe, training, windows, config, here)
        # Where frames are decoded, the next batches are while this one trains.
        loaded = stack.enter_context(closing(prefetch(load, steps, workers=1 if training.decodes else 0)))
        for step, made in zip(steps, loaded, strict=True):
            torch.manual_seed(step_seed(seed=config.seed, step=step, rank=here.rank))
            batches = [{name: value.to(device) for name, value in batch.items()} for batch in made]
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate_at(step)
            recipe.train()
            values = train_step(module, optimizer, batches, config.gradient_clip, bfloat16)
            recipe.after_step(step, config.steps)
            values = {"step": step, **here.mean(values), "learning_rate": config.learning_rate_at(step)}
            _check_finite(values)
            rate = config.batch_size * recipe.frames * (step - done) / (time.perf_counter() - began)
            bar.set_postfix(loss=f"{values['loss']:.4f}", frames_per_s=f"{rate:.0f}", refresh=False)
            bar.update()
            if logs is None:
                continue
            if step % config.log_every == 0 or step == config.steps:
                logs.metrics.write(values)
                logs.tensorboard.write("train", step, {**values, "frames_per_second": rate})
            if step % config.validate_every == 0 or step == config.steps:
                with processes.alone():  # the others do not measure
                    measures = recipe.validate(training, validation)
                logs.validation.write({"step": step, **measures})
                logs.tensorboard.write("validation", step, measures)
            if step % config.checkpoint_every == 0 or step == config.steps or interruption.asked:
                with processes.alone():  # before the checkpoint, which says that all before it is on disk
                    recipe.save(run_path, validation)
                save_checkpoint(checkpoint, step, recipe, optimizer, identity)
            if interruption.asked and step < config.steps:
                raise KeyboardInterrupt
        here.wait()
    seconds = time.perf_counter() - began
    frames = config.batch_size * recipe.frames * (config.steps - done)
    if measures is None:  # no step was left to run, or another process measured
        with processes.alone():
            measures = recipe.validate(training, validation)
    recipe.eval()
    return RunResult(recipe, measures, seconds, frames / seconds)


def _logs(run_path: Path, recipe: Recipe, config: RunConfig, done: int) -> RunLogs:
    return RunLogs(run_path, recipe.losses, recipe.measures, tensorboard=config.tensorboard, last_step=done)


def _batches(
    recipe: Recipe,
    training: Episodes,
    windows: NDArray[np.int64],
    config: RunConfig,
    here: Ranks,
    step: int,
) -> list[dict[str, torch.Tensor]]:
    """This process's samples of a step's batch, in as many parts as are accumulated."""
    starts = batch_starts(windows, config.batch_size, seed=config.seed, step=step)
    draws = recipe.draws(draws_generator(seed=config.seed, step=step), config.batch_size)
    shares = [here.share(config.batch_size, part, config.accumulate) for part in range(config.accumulate)]
    return [
        recipe.batch(training, starts[own]) | {name: drawn[own] for name, drawn in draws.items()}
        for own in shares
    ]


def train_step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[dict[str, torch.Tensor]],
    gradient_clip: float,
    bfloat16: bool,
) -> dict[str, float]:
    """One optimizer step of a recipe, whose gradient is the mean over `batches`; its losses and the norm of the gradient."""
    optimizer.zero_grad(set_to_none=True)
    totals: dict[str, float] = {}
    for place, batch in enumerate(batches):
        kind = next(iter(batch.values())).device.type
        last = place == len(batches) - 1
        with nullcontext() if last or not isinstance(module, DistributedDataParallel) else module.no_sync():
            with torch.autocast(kind, torch.bfloat16, enabled=bfloat16):
                losses = module(batch)
            (losses["loss"] / len(batches)).backward()
        for name, value in losses.items():
            totals[name] = totals.get(name, 0.0) + value.item() / len(batches)
    norm = nn.utils.clip_grad_norm_(module.parameters(), gradient_clip)
    optimizer.step()
    return {**totals, "gradient_norm": norm.item()}


def _check_finite(values: dict[str, float]) -> None:
    if not np.isfinite(list(values.values())).all():
        parts = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if name != "step")
        raise FloatingPointError(
            f"training stopped being finite at step {values['step']} ({parts}); "
            "try a lower learning_rate or precision='float32'"
        )


def _fingerprint(training: Episodes) -> str:
    """A digest of the data: of its actions or, where none leads from a frame to the next, of some of its pictures."""
    if "action" not in training.columns or len(training.windows(2)) == 0:
        return data_digest(training)
    digest = hashlib.sha256(np.ascontiguousarray(training.lengths).tobytes())
    for values in training.action_statistics():
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
