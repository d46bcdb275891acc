"""V-JEPA (arXiv:2404.08471) and V-JEPA 2 (arXiv:2506.09985): the latents of blocks of a clip that last all of it."""

from __future__ import annotations

from typing import Any

from fastwm.models.vit import ViTConfig
from fastwm.objectives.masks import ClipMasks
from fastwm.training.recipes.masked import MaskedConfig, MaskedRecipe, checked_preset, of_minutes

# What a run of each preset changes in `RunConfig`. V-JEPA's published weight decay rises to 0.4; here it is constant.
RUN: dict[str, dict[str, Any]] = {
    "small": {"batch_size": 32, "learning_rate": 1e-3, "weight_decay": 0.04},
    "paper": {"batch_size": 3072, "learning_rate": 6.25e-4, "weight_decay": 0.04, "warmup_steps": 12_000},
    "paper-2": {"batch_size": 3072, "learning_rate": 5.25e-4, "weight_decay": 0.04, "warmup_steps": 12_000},
}
_TRUNKS = {"small": "tiny-video", "paper": "vjepa-l16", "paper-2": "vjepa2-l16"}


def video_jepa(
    preset: str = "small", *, image_size: int | None = None, frame_skip: int = 1, **trunk: Any
) -> MaskedConfig:
    """V-JEPA ("paper", ViT-L/16 at 224), V-JEPA 2 ("paper-2": rotary positions, 256, a constant momentum), or "small".

    image_size and trunk: fields of `ViTConfig` to change.
    """
    checked_preset(preset, list(RUN))
    if image_size is not None:
        trunk["image_size"] = image_size
    sizes = ViTConfig.preset(_TRUNKS[preset], **trunk)
    momentum = (0.99925, 0.99925) if preset == "paper-2" else (0.998, 1.0)
    config = MaskedConfig(sizes, ClipMasks.published(*sizes.grid), "l1", momentum, frame_skip)
    return of_minutes(config) if preset == "small" else config


class VideoJEPARecipe(MaskedRecipe):
    """V-JEPA on clips of episodes."""
