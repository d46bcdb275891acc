"""LeWM's objective: predict the encoder's own next latents, and keep the latents spread out (arXiv:2603.19312)."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fastwm.data import Episodes
from fastwm.models import WorldModel, WorldModelConfig
from fastwm.objectives import PredictionLoss, SIGReg, VICReg
from fastwm.objectives.prediction import RolloutLoss
from fastwm.training.calibration import calibration_contexts
from fastwm.training.config import TrainConfig
from fastwm.training.health import HORIZONS, Health, measure_health
from fastwm.training.recipe import RESIZE, Measures, Recipe, origin

MEASURES = (
    "prediction",
    "probe_r2",
    "probe_r2_worst",
    "effective_rank",
    "latent_std",
    "latent_std_least",
    *(f"open_loop_{h}" for h in HORIZONS),
    *(f"copy_last_{h}" for h in HORIZONS),
)


class WorldModelRecipe(Recipe):
    """A `WorldModel`, learned end to end from pixels [b, T, size, size, 3] and actions [b, T-1, A]."""

    losses: tuple[str, ...] = ("prediction", "regulariser")
    measures = MEASURES

    def __init__(self, model_config: WorldModelConfig, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        self.frames = config.frames
        self.model = WorldModel(model_config)
        self.model.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.prediction = PredictionLoss()
        self.regulariser: nn.Module = VICReg()
        if config.regulariser == "sigreg":
            self.regulariser = SIGReg(config.knots, config.projections)
        self.rollout = RolloutLoss(config.rollout_steps) if config.rollout_steps > 1 else None
        if self.rollout is not None:
            self.losses = (*self.losses, "rollout")
        self.health: Health | None = None  # as measured last

    def description(self) -> dict[str, Any]:
        return self.model.config.to_dict()

    def check(self, episodes: Episodes, training: Episodes, validation: Episodes) -> None:
        _check_data(episodes, training, validation, self.model.config, self.config)

    def prepare(self, training: Episodes) -> None:
        self.model.metadata = origin(training)
        mean, std = training.action_statistics(self.model.config.action_block)
        self.model.set_action_statistics(torch.as_tensor(mean), torch.as_tensor(std))

    def windows(self, episodes: Episodes) -> NDArray[np.int64]:
        return episodes.windows(self.config.frames, frame_skip=self.model.config.action_block)

    def batch(self, episodes: Episodes, starts: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        skip = self.model.config.action_block
        found = episodes.batch(starts, self.config.frames, frame_skip=skip, columns=("pixels", "action"))
        return {name: torch.as_tensor(values) for name, values in found.items()}

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        latents = self.model.encode(batch["pixels"])
        predicted = self.model.predict(latents[:, :-1], batch["action"])
        with torch.autocast(latents.device.type, enabled=False):
            over_time = latents.transpose(0, 1)
            prediction = self.prediction(predicted.transpose(0, 1), over_time)
            regulariser = self.regulariser(over_time)
            loss = prediction + self.config.regulariser_weight * regulariser
        losses = {"loss": loss, "prediction": prediction, "regulariser": regulariser}
        if self.rollout is not None:
            losses["rollout"] = self.rollout(self.model.rollout, latents, batch["action"])
            losses["loss"] = loss + self.config.rollout_weight * losses["rollout"]
        return losses

    def validate(self, training: Episodes, validation: Episodes) -> Measures:
        self.health = measure_health(self.model, training, validation)
        return measures_of(self.health)

    def save(self, directory: Path, validation: Episodes) -> None:
        self.keep_contexts(validation)
        self.model.save(directory)

    def keep_contexts(self, validation: Episodes) -> None:
        """Give the model what `compile(dtype="auto")` judges by: contexts of held-out episodes."""
        frames = min(self.config.frames, self.model.config.window)
        self.model.calibration = calibration_contexts(self.model, validation, frames)


def measures_of(health: Health) -> Measures:
    """Health as a row of `validation.csv`; None where there is nothing to measure."""
    probes = [r2 for r2 in health.probe_r2 if r2 == r2]
    row: Measures = {
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
        raise ValueError(f"images of the data are {image}; image_size is {size}{RESIZE}")
    if numbers != model.action_dim:
        raise ValueError(
            f"action blocks of the data hold {numbers} numbers; action_dim is {model.action_dim}"
        )
