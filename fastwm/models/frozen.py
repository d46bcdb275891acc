"""A world model on top of an encoder that does not learn (DINO-WM, arXiv:2411.04983; V-JEPA 2-AC, arXiv:2506.09985)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fastwm.models import storage
from fastwm.models.config import CONFIG_VERSION, WorldModelConfig
from fastwm.models.vision import VisionEncoder, resize
from fastwm.models.vit import ViT, ViTConfig
from fastwm.models.world_model import WorldModel

FORMAT = "fastwm.frozen_world_model"


class FrozenWorldModel(WorldModel):
    """A `WorldModel` whose latents are a frozen trunk's, pooled, moved to mean 0 and scaled to standard deviation 1 on average.

    One scale for all dimensions: distances between latents keep their proportions. Planners take it as any world model.
    """

    encoder: VisionEncoder
    latent_mean: torch.Tensor  # [E]
    latent_scale: torch.Tensor  # [], what latents are divided by

    def __init__(self, config: WorldModelConfig, encoder: VisionEncoder) -> None:
        if config.embed_dim != encoder.config.width:
            raise ValueError(
                f"embed_dim is {config.embed_dim}; the encoder's latents have {encoder.config.width} numbers"
            )
        super().__init__(config)
        self.encoder = encoder.eval().requires_grad_(False)
        self.projector = nn.Identity()
        self.register_buffer("latent_mean", torch.zeros(config.embed_dim))
        self.register_buffer("latent_scale", torch.ones(()))

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels uint8 [..., size, size, 3] of the data's size, which the trunk's need not be -> latents [..., E]"""
        return self.standardise(
            self.encoder.encode(resize(self.check_pixels(pixels), self.encoder.config.image_size))
        )

    def standardise(self, latents: torch.Tensor) -> torch.Tensor:
        """The encoder's latents [..., E] as this model has them."""
        return (latents - self.latent_mean) / self.latent_scale

    def set_latent_statistics(self, latents: torch.Tensor) -> None:
        """latents [n, E] of the encoder, on the training frames."""
        if latents.ndim != 2 or latents.shape[1] != len(self.latent_mean):
            raise ValueError(
                f"latents has shape {list(latents.shape)}; expected [n, {len(self.latent_mean)}]"
            )
        spread = latents.double().std(dim=0).square().mean().sqrt()
        if not spread > 0:
            raise ValueError("latents are the same for every frame: the encoder has collapsed")
        self.latent_mean.copy_(latents.double().mean(dim=0))
        self.latent_scale.copy_(spread)

    def save(self, directory: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None) -> None:
        """Write `config.json` and `model.safetensors`, the encoder's weights among them, each atomically."""
        kept = self.metadata if metadata is None else metadata
        config = {"world_model": self.config.to_dict(), "encoder": dataclasses.asdict(self.encoder.config)}
        tensors = self.state_dict()
        if self.calibration is not None:
            tensors |= {
                storage.LATENTS: self.calibration.latents,
                storage.PAST_ACTIONS: self.calibration.past_actions,
            }
        storage.write_model(directory, FORMAT, CONFIG_VERSION, config, tensors, kept)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> FrozenWorldModel:
        """The model saved in `directory`, in evaluation mode; ValueError where it is missing, damaged or of another kind."""
        values, tensors, metadata = storage.read_model(directory, FORMAT, CONFIG_VERSION)
        try:
            config = WorldModelConfig.from_dict(_part(values, "world_model"))
            encoder = VisionEncoder(ViT(ViTConfig.from_dict(_part(values, "encoder"))))
            model = cls(config, encoder)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{directory} cannot be read: {error}") from error
        model.calibration = storage.take_calibration(directory, config, tensors)
        storage.check_tensors(directory, expected=model.state_dict(), found=tensors)
        model.load_state_dict(tensors)
        model.metadata = metadata
        return model.eval()


def _part(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if not isinstance(values.get(name), dict):
        raise ValueError(f"configuration field {name!r} is missing")
    return values[name]
