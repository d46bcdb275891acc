"""The training loop: pixels and actions to a world model, in a run directory that survives being killed.

A run directory holds `config.json` and `model.safetensors` (the model so far, as `WorldModel.load` reads it),
`checkpoint.safetensors`, `metrics.csv`, `validation.csv` and `tensorboard/`.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from fastwm.data import Episodes
from fastwm.models import WorldModel, WorldModelConfig
from fastwm.objectives import PredictionLoss, SIGReg, VICReg
from fastwm.training.calibration import calibration_contexts
from fastwm.training.checkpoint import Identity, restore_checkpoint, save_checkpoint
from fastwm.training.config import TrainConfig
from fastwm.training.health import HORIZONS, Health, measure_health
from fastwm.training.logs import RunLogs
from fastwm.training.precision import use_bfloat16
from fastwm.training.sampler import batch_starts, step_seed

CHECKPOINT_FILE = "checkpoint.safetensors"
VALIDATION_COLUMNS = (
    "step",
    "prediction",
    "probe_r2",
    "probe_r2_worst",
    "effective_rank",
    "latent_std",
    "latent_std_least",
    *(f"open_loop_{h}" for h in HORIZONS),
    *(f"copy_last_{h}" for h in HORIZONS),
)


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """A finished run. `seconds` and `frames_per_second` count the steps of this call alone."""

    model: WorldModel
    health: Health
    seconds: float
    frames_per_second: float


def train(
    data_path: str | os.PathLike[str],
    run_dir: str | os.PathLike[str],
    model_config: WorldModelConfig,
    train_config: TrainConfig,
    *,
    resume: bool = False,
    progress: bool = True,
) -> TrainResult:
    """Train a world model on the episodes of `data_path` and write it to `run_dir`.

    resume: continue from the last checkpoint in `run_dir`, or start where there is none yet; on one thread
        the result equals that of a run never stopped, bit for bit.
    Raises ValueError when data, configurations and run directory do not fit together, and FloatingPointError
    when the loss stops being finite.
    """
    run_path = Path(run_dir)
    if not resume and (run_path / "metrics.csv").exists():
        raise ValueError(f"{run_path} already holds a run; resume it, or choose another run_dir")
    episodes = Episodes(data_path)
    training, validation = episodes.split(train_config.validation_fraction, seed=train_config.seed)
    _check_data(episodes, training, validation, model_config, train_config)
    run_path.mkdir(parents=True, exist_ok=True)
    with _alone(run_path), _threads(train_config.threads), torch.random.fork_rng(devices=[]):
        return _run(training, validation, run_path, model_config, train_config, resume, progress)


@contextmanager
def _alone(run_path: Path) -> Iterator[None]:
    """Hold the run directory: two runs in one would overwrite each other's checkpoints."""
    descriptor = os.open(run_path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f"another process is training in {run_path}") from error
        yield
    finally:
        os.close(descriptor)


def _run(
    training: Episodes,
    validation: Episodes,
    run_path: Path,
    model_config: WorldModelConfig,
    config: TrainConfig,
    resume: bool,
    progress: bool,
) -> TrainResult:
    torch.manual_seed(config.seed)
    model = WorldModel(model_config)
    model.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean, std = training.action_statistics(model_config.action_block)
    model.set_action_statistics(torch.as_tensor(mean), torch.as_tensor(std))
    objective = Objective(config)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    identity = Identity.of(model, config, _fingerprint(training, mean, std))
    checkpoint = run_path / CHECKPOINT_FILE
    done = restore_checkpoint(checkpoint, model, optimizer, identity) if resume and checkpoint.exists() else 0

    windows = training.windows(config.frames, frame_skip=model_config.action_block)
    bfloat16 = use_bfloat16(config.precision)
    context_frames = min(config.frames, model_config.window)
    health = None
    began = time.perf_counter()
    with (
        RunLogs(run_path, VALIDATION_COLUMNS, tensorboard=config.tensorboard, last_step=done) as logs,
        tqdm(total=config.steps, initial=done, unit="step", disable=not progress) as bar,
    ):
        for step in range(done + 1, config.steps + 1):
            starts = batch_starts(windows, config.batch_size, seed=config.seed, step=step)
            batch = training.batch(starts, config.frames, frame_skip=model_config.action_block)
            torch.manual_seed(step_seed(seed=config.seed, step=step))
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate_at(step)
            model.train()
            values = train_step(model, objective, optimizer, batch, config.gradient_clip, bfloat16)
            values = {"step": step, **values, "learning_rate": config.learning_rate_at(step)}
            _check_finite(values)
            rate = config.batch_size * config.frames * (step - done) / (time.perf_counter() - began)
            bar.set_postfix(loss=f"{values['loss']:.4f}", frames_per_s=f"{rate:.0f}", refresh=False)
            bar.update()
            if step % config.log_every == 0 or step == config.steps:
                logs.metrics.write(values)
                logs.tensorboard.write("train", step, {**values, "frames_per_second": rate})
            if step % config.validate_every == 0 or step == config.steps:
                health = measure_health(model, training, validation)
                logs.validation.write(validation_row(step, health))
                logs.tensorboard.write("validation", step, validation_row(step, health))
            if step % config.checkpoint_every == 0 or step == config.steps:
                model.calibration = calibration_contexts(model, validation, context_frames)
                model.save(run_path)  # first: a checkpoint says that all before it is on disk
                save_checkpoint(checkpoint, step, model, optimizer, identity)
    seconds = time.perf_counter() - began
    frames = config.batch_size * config.frames * (config.steps - done)
    if model.calibration is None:  # no step was left to run
        model.calibration = calibration_contexts(model, validation, context_frames)
    model.eval()
    return TrainResult(
        model, health or measure_health(model, training, validation), seconds, frames / seconds
    )


class Objective(nn.Module):
    """Prediction loss plus a weighted regulariser against collapse."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.prediction = PredictionLoss()
        self.regulariser: nn.Module = VICReg()
        if config.regulariser == "sigreg":
            self.regulariser = SIGReg(config.knots, config.projections)
        self.weight = config.regulariser_weight

    def forward(
        self, predicted: torch.Tensor, latents: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """predicted [T-1, B, E], latents [T, B, E] -> loss, prediction, regulariser"""
        prediction, regulariser = self.prediction(predicted, latents), self.regulariser(latents)
        return prediction + self.weight * regulariser, prediction, regulariser


def train_step(
    model: WorldModel,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    batch: dict[str, Any],
    gradient_clip: float,
    bfloat16: bool,
) -> dict[str, float]:
    """One optimizer step on a batch: pixels uint8 [b, T, size, size, 3], action [b, T-1, A]."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        latents = model.encode(torch.as_tensor(batch["pixels"]))
        predicted = model.predict(latents[:, :-1], torch.as_tensor(batch["action"]))
    loss, prediction, regulariser = objective(predicted.transpose(0, 1), latents.transpose(0, 1))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), gradient_clip)
    optimizer.step()
    return {
        "loss": loss.item(),
        "prediction": prediction.item(),
        "regulariser": regulariser.item(),
        "gradient_norm": norm.item(),
    }


def validation_row(step: int, health: Health) -> dict[str, float | None]:
    """Health as one row of `validation.csv`; None where there is nothing to measure."""
    probes = [r2 for r2 in health.probe_r2 if r2 == r2]
    row: dict[str, float | None] = {
        "step": step,
        "prediction": health.prediction_loss,
        "probe_r2": statistics.fmean(probes) if probes else None,
        "probe_r2_worst": min(probes, default=None),
        "effective_rank": health.effective_rank,
        "latent_std": statistics.fmean(health.latent_std),
        "latent_std_least": min(health.latent_std),
    }
    for h in HORIZONS:
        row[f"open_loop_{h}"] = health.open_loop.get(h)
        row[f"copy_last_{h}"] = health.copy_last.get(h)
    return row


def _check_finite(values: dict[str, float]) -> None:
    if not np.isfinite(list(values.values())).all():
        parts = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if name != "step")
        raise FloatingPointError(
            f"training stopped being finite at step {values['step']} ({parts}); "
            "try a lower learning_rate or precision='float32'"
        )


def _check_data(
    episodes: Episodes, training: Episodes, validation: Episodes, model: WorldModelConfig, config: TrainConfig
) -> None:
    if config.frames - 1 > model.window:
        raise ValueError(
            f"frames is {config.frames}; the model's window of {model.window} allows {model.window + 1}"
        )
    apart = f"{model.action_block} decisions apart" if model.action_block > 1 else "in a row"
    longest = max(episodes.lengths, default=0)
    for name, part in (("training", training), ("validation", validation)):
        if len(part.windows(config.frames, frame_skip=model.action_block)) == 0:
            raise ValueError(
                f"the data has no {name} sequence of {config.frames} frames {apart}: "
                f"it has {len(episodes.lengths)} episodes, the longest of {longest} frames"
            )
    first = training.batch(
        training.windows(2, frame_skip=model.action_block)[:1], 2, frame_skip=model.action_block
    )
    size = model.image_size
    image, numbers = list(first["pixels"].shape[2:]), first["action"].shape[2]
    if image != [size, size, 3]:
        raise ValueError(f"images of the data are {image}; image_size is {size}")
    if numbers != model.action_dim:
        raise ValueError(
            f"action blocks of the data hold {numbers} numbers; action_dim is {model.action_dim}"
        )


def _fingerprint(training: Episodes, mean: np.ndarray, std: np.ndarray) -> str:
    digest = hashlib.sha256()
    for values in (training.lengths, mean, std):
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
