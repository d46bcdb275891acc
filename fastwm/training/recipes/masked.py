"""Masked prediction in latent space, of which I-JEPA and V-JEPA are two settings."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from fastwm.data import Episodes
from fastwm.models.mask_predictor import MaskPredictor, MaskPredictorConfig
from fastwm.models.vision import VisionEncoder
from fastwm.models.vit import ViT, ViTConfig
from fastwm.objectives.ema import follow, momentum_at
from fastwm.objectives.masked_prediction import MaskedPredictionLoss
from fastwm.objectives.masks import ClipMasks, ImageMasks
from fastwm.training.recipes.vision import VisionRecipe


@dataclasses.dataclass(frozen=True)
class MaskedConfig:
    """A masked JEPA. momentum: of the target, at the first step and at the last."""

    trunk: ViTConfig
    masks: tuple[ImageMasks | ClipMasks, ...]
    distance: Literal["smooth_l1", "l1"]
    momentum: tuple[float, float]
    frame_skip: int = 1
    predictor_width: int = 384
    predictor_depth: int = 12
    predictor_heads: int = 12

    def __post_init__(self) -> None:
        first, last = self.momentum
        if not 0 <= first <= last <= 1:
            raise ValueError(f"momentum is {self.momentum!r}; expected 0 <= first <= last <= 1")


class MaskedRecipe(VisionRecipe):
    """A context encoder sees what a mask leaves; a predictor tells a target encoder's tokens where the mask is.

    The target, a moving average of the context encoder, sees everything, and is what is measured and kept (I-JEPA,
    arXiv:2301.08243, section 3; V-JEPA, arXiv:2404.08471, section 3).
    """

    pooled = False  # tokens are what is predicted; nothing makes their mean say much

    def __init__(self, config: MaskedConfig) -> None:
        super().__init__(config.trunk, frames=config.trunk.frames, frame_skip=config.frame_skip)
        self.config = config
        trunk = config.trunk
        self.encoder = VisionEncoder(ViT(trunk))
        self.target = copy.deepcopy(self.encoder).requires_grad_(False)
        self.predictor = MaskPredictor(
            MaskPredictorConfig(
                embed_dim=trunk.width,
                grid=trunk.grid,
                width=config.predictor_width,
                depth=config.predictor_depth,
                heads=config.predictor_heads,
                mlp_dim=4 * config.predictor_width,
                mask_tokens=len(config.masks),
                position=trunk.position,
            )
        )
        self.distance = MaskedPredictionLoss(config.distance)
        if len(config.masks) > 1:
            self.losses: tuple[str, ...] = tuple(f"masks_{kind}" for kind in range(len(config.masks)))
        else:
            self.losses = ()

    def trained(self) -> VisionEncoder:
        return self.target

    def description(self) -> dict[str, Any]:
        return dataclasses.asdict(self.config)

    def check(self, episodes: Episodes, training: Episodes, validation: Episodes) -> None:
        super().check(episodes, training, validation)
        self.draws(np.random.default_rng(0), 64)  # a grid too small for its masks is known before a step

    def draws(self, rng: np.random.Generator, count: int) -> dict[str, torch.Tensor]:
        found = {}
        for kind, masks in enumerate(self.config.masks):
            drawn = masks.draw(rng, count)
            found[f"context_{kind}"], found[f"targets_{kind}"] = drawn.context, drawn.targets
        return found

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """pixels [b, frames, size, size, 3]; of each kind of mask context [b, n] and targets [b, M, m], places of tokens"""
        pixels = batch["pixels"]
        with torch.no_grad():
            wanted = self.target.tokens(pixels)
        errors = []
        for kind in range(len(self.config.masks)):
            context, targets = batch[f"context_{kind}"], batch[f"targets_{kind}"]
            predicted = self.predictor(self.encoder.tokens(pixels, context), context, targets, kind)
            errors.append(self.distance(predicted, wanted, targets))
        loss = torch.stack(errors).mean()
        return {"loss": loss, **dict(zip(self.losses, errors, strict=False))}

    def after_step(self, step: int, steps: int) -> None:
        follow(self.target, self.encoder, momentum_at(step, steps, *self.config.momentum))


def of_minutes(config: MaskedConfig) -> MaskedConfig:
    """`config` with a predictor for two cores, and a target for a thousand steps instead of hundreds of thousands: with the
    published momentum it would stay near its random weights until the end.
    """
    return dataclasses.replace(
        config, momentum=(0.97, 1.0), predictor_width=48, predictor_depth=2, predictor_heads=3
    )


def checked_preset(name: str, known: Sequence[str]) -> str:
    """`name`, if it is one of `known`."""
    if name not in known:
        raise ValueError(f"preset is {name!r}; expected one of {sorted(known)}")
    return name
