"""LeJEPA (arXiv:2511.08544): views of one thing agree, and latents are Gaussian. No masks, no target, no stopped gradient."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from fastwm.models.heads import Projector
from fastwm.models.vision import VisionEncoder
from fastwm.models.vit import ViT, ViTConfig
from fastwm.objectives.sigreg import SIGReg
from fastwm.training.recipes.masked import checked_preset
from fastwm.training.recipes.vision import VisionRecipe

# What a run of each preset changes in `RunConfig`.
RUN: dict[str, dict[str, Any]] = {
    "small": {"batch_size": 64, "learning_rate": 1e-3, "weight_decay": 0.04},
    "paper": {"batch_size": 256, "learning_rate": 5e-4, "weight_decay": 0.05},
}


@dataclasses.dataclass(frozen=True)
class LeJEPAConfig:
    """views: frames of a clip, frame_skip decisions apart, that are to agree. weight: SIGReg's share of the loss."""

    trunk: ViTConfig
    views: int = 2
    frame_skip: int = 1
    weight: float = 0.05
    projector_hidden: int = 2048
    projector_dim: int = 64
    projections: int = 1024
    knots: int = 17

    def __post_init__(self) -> None:
        for name, least in (("views", 2), ("projector_hidden", 1), ("projector_dim", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} is {value!r}; expected an integer of at least {least}")
        if not 0 < self.weight < 1:
            raise ValueError(f"weight is {self.weight!r}; expected between 0 and 1")
        if self.trunk.frames != 1:
            raise ValueError(f"frames is {self.trunk.frames}; LeJEPA's views are pictures, expected 1")


def lejepa(
    preset: str = "small", *, image_size: int | None = None, frame_skip: int = 1, **trunk: Any
) -> LeJEPAConfig:
    """LeJEPA with a ViT-L/14 at 224 ("paper"), or for pictures of 64 and two CPU cores ("small").

    image_size and trunk: fields of `ViTConfig` to change.
    """
    checked_preset(preset, list(RUN))
    if image_size is not None:
        trunk["image_size"] = image_size
    if preset == "paper":
        large = {"width": 1024, "depth": 24, "heads": 16, "mlp_dim": 4096}
        return LeJEPAConfig(ViTConfig.preset("ijepa-h14", **{**large, **trunk}), frame_skip=frame_skip)
    return LeJEPAConfig(
        ViTConfig.preset("tiny", **trunk), frame_skip=frame_skip, projector_hidden=256, projections=256
    )


class LeJEPARecipe(VisionRecipe):
    """Views are neighbouring frames: what stays the same in them is where things are, which crops would hide.

    The published views are crops and colours of one picture; agreement is with the mean over views, as there (section 5).
    """

    losses = ("agreement", "regulariser")

    def __init__(self, config: LeJEPAConfig) -> None:
        super().__init__(config.trunk, frames=config.views, frame_skip=config.frame_skip)
        self.config = config
        self.encoder = VisionEncoder(ViT(config.trunk))
        self.projector = Projector(config.trunk.width, config.projector_hidden, config.projector_dim)
        self.sigreg = SIGReg(config.knots, config.projections)

    def trained(self) -> VisionEncoder:
        return self.encoder

    def description(self) -> dict[str, Any]:
        return dataclasses.asdict(self.config)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """pixels [b, views, size, size, 3]"""
        latents = (
            self.projector(self.encoder.encode(batch["pixels"])).float().transpose(0, 1)
        )  # [views, b, P]
        with torch.autocast(latents.device.type, enabled=False):
            agreement = (latents - latents.mean(dim=0)).square().mean()
            regulariser = self.sigreg(latents)
        loss = (1 - self.config.weight) * agreement + self.config.weight * regulariser
        return {"loss": loss, "agreement": agreement, "regulariser": regulariser}
