"""A world model on cached latents of a frozen encoder (DINO-WM, arXiv:2411.04983): only the predictor learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastwm.data import Episodes
from fastwm.models.config import WorldModelConfig
from fastwm.models.frozen import FrozenWorldModel
from fastwm.models.vision import VisionEncoder
from fastwm.objectives.prediction import PredictionLoss, RolloutLoss
from fastwm.training.calibration import calibration_contexts
from fastwm.training.features import Features, data_digest
from fastwm.training.health import measure_health
from fastwm.training.recipe import RESIZE, Measures, Recipe, origin
from fastwm.training.recipes.world_model import MEASURES, measures_of


class FrozenRecipe(Recipe):
    """A `FrozenWorldModel` from latents [b, T, E] and actions [b, T-1, A].

    features: the encoder's latents of the data, as `cache_features(*frozen(encoder), …)` gives them. frames: T. rollout_steps:
    how many steps the model is also taught on its own predictions (1: none).
    """

    losses = ("prediction", "rollout")
    measures = MEASURES

    def __init__(
        self,
        model_config: WorldModelConfig,
        encoder: VisionEncoder,
        features: Features,
        *,
        frames: int = 4,
        rollout_steps: int = 2,
        rollout_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if features.shape != (model_config.embed_dim,):
            raise ValueError(
                f"features have {list(features.shape)} numbers a frame; expected embed_dim, [{model_config.embed_dim}]"
            )
        _check_frames(model_config, frames)
        if not 1 <= rollout_steps < frames:
            raise ValueError(f"rollout_steps is {rollout_steps}; frames of {frames} allow 1..{frames - 1}")
        self.model = FrozenWorldModel(model_config, encoder)
        self.features = features
        self.frames = frames
        self.prediction = PredictionLoss()
        self.rollout = RolloutLoss(rollout_steps)
        self.rollout_weight = rollout_weight

    def description(self) -> dict[str, Any]:
        return {
            "model": self.model.config.to_dict(),
            "features": self.features.key,
            "frames": self.frames,
            "rollout_steps": self.rollout.steps,
            "rollout_weight": self.rollout_weight,
        }

    def check(self, episodes: Episodes, training: Episodes, validation: Episodes) -> None:
        if data_digest(episodes) != self.features.data:
            raise ValueError(f"features were made from other episodes than {episodes.path}")
        check_fit(self.model.config, self.frames, training, validation)

    def prepare(self, training: Episodes) -> None:
        self.model.metadata = origin(training)
        mean, std = training.action_statistics(self.model.config.action_block)
        self.model.set_action_statistics(torch.as_tensor(mean), torch.as_tensor(std))
        self.model.set_latent_statistics(self.features.batch(training.windows(1), 1)[:, 0])

    def windows(self, episodes: Episodes) -> NDArray[np.int64]:
        return episodes.windows(self.frames, frame_skip=self.model.config.action_block)

    def batch(self, episodes: Episodes, starts: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        skip = self.model.config.action_block
        actions = episodes.batch(starts, self.frames, frame_skip=skip, columns=("action",))["action"]
        return {
            "latents": self.features.batch(starts, self.frames, skip),
            "action": torch.as_tensor(actions),
        }

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """latents [b, T, E] of the encoder, action [b, T-1, A]"""
        latents, actions = self.model.standardise(batch["latents"]), batch["action"]
        predicted = self.model.predict(latents[:, :-1], actions)
        prediction = self.prediction(predicted.transpose(0, 1).float(), latents.transpose(0, 1))
        rollout = self.rollout(self.model.rollout, latents, actions)
        loss = prediction + self.rollout_weight * rollout
        return {"loss": loss, "prediction": prediction, "rollout": rollout}

    def train(self, mode: bool = True) -> FrozenRecipe:
        super().train(mode)
        self.model.encoder.eval()
        return self

    def validate(self, training: Episodes, validation: Episodes) -> Measures:
        return measures_of(measure_health(self.model, training, validation))

    def save(self, directory: Path, validation: Episodes) -> None:
        context = min(self.frames, self.model.config.window)
        self.model.calibration = calibration_contexts(self.model, validation, context)
        self.model.save(directory)


def check_fit(config: WorldModelConfig, frames: int, training: Episodes, validation: Episodes) -> None:
    """Raise ValueError where a model on sequences of `frames` frames does not fit the data: known before a frame is encoded."""
    _check_frames(config, frames)
    for name, part in (("training", training), ("validation", validation)):
        if len(part.windows(frames, frame_skip=config.action_block)) == 0:
            raise ValueError(
                f"the data has no {name} sequence of {frames} frames, {config.action_block} decisions apart"
            )
    numbers = training.action_dim * config.action_block
    if numbers != config.action_dim:
        raise ValueError(
            f"action blocks of the data hold {numbers} numbers; action_dim is {config.action_dim}"
        )
    image = list(training.batch(training.windows(1)[:1], 1, columns=("pixels",))["pixels"].shape[2:])
    if image != [config.image_size, config.image_size, 3]:
        raise ValueError(f"images of the data are {image}; image_size is {config.image_size}{RESIZE}")


def _check_frames(config: WorldModelConfig, frames: int) -> None:
    if not 2 <= frames <= config.window + 1:
        raise ValueError(f"frames is {frames}; the model's window allows 2..{config.window + 1}")
