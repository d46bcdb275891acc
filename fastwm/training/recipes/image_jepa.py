"""I-JEPA (arXiv:2301.08243): from one large block of a picture, the latents of four others."""

from __future__ import annotations

from typing import Any

from fastwm.models.vit import ViTConfig
from fastwm.objectives.masks import ImageMasks
from fastwm.training.recipes.masked import MaskedConfig, MaskedRecipe, checked_preset, of_minutes

# What a run of each preset changes in `RunConfig`. The published weight decay rises from 0.04 to 0.4; here it is constant.
RUN: dict[str, dict[str, Any]] = {
    "small": {"batch_size": 64, "learning_rate": 1e-3, "weight_decay": 0.04},
    "paper": {"batch_size": 2048, "learning_rate": 1e-3, "weight_decay": 0.04, "warmup_steps": 25_000},
}


def image_jepa(preset: str = "small", *, image_size: int | None = None, **trunk: Any) -> MaskedConfig:
    """I-JEPA as published ("paper", ViT-H/14 at 224), or for pictures of 64 and two CPU cores ("small").

    image_size and trunk: fields of `ViTConfig` to change.
    """
    checked_preset(preset, list(RUN))
    if image_size is not None:
        trunk["image_size"] = image_size
    sizes = ViTConfig.preset("ijepa-h14" if preset == "paper" else "tiny", **trunk)
    _, rows, columns = sizes.grid
    config = MaskedConfig(sizes, (ImageMasks(rows, columns),), "smooth_l1", momentum=(0.996, 1.0))
    return of_minutes(config) if preset == "small" else config


class ImageJEPARecipe(MaskedRecipe):
    """I-JEPA on single frames of episodes."""

    def __init__(self, config: MaskedConfig) -> None:
        if config.trunk.frames != 1:
            raise ValueError(f"frames is {config.trunk.frames}; I-JEPA sees pictures, expected 1")
        super().__init__(config)
