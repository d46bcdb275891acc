"""World models small enough to be built in a millisecond, for tests of any part."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastwm.models import WorldModel, WorldModelConfig


def small_config(**changes) -> WorldModelConfig:
    fields = {
        "action_dim": 2,
        "image_size": 16,
        "encoder_width": 4,
        "embed_dim": 12,
        "width": 10,
        "depth": 2,
        "heads": 3,
        "head_dim": 5,
        "mlp_dim": 7,
        "projector_dim": 9,
        "action_hidden": 6,
    }
    return WorldModelConfig(**{**fields, **changes})


def random_model(seed: int = 0, **changes) -> WorldModel:
    """A model in evaluation mode whose every tensor is random: nothing hides behind a zero or one."""
    model = WorldModel(small_config(**changes)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(0.4 * torch.randn(tensor.shape, generator=generator))
            if name.endswith("running_var") or name == "action_std":
                tensor.abs_().add_(0.5)
    return model


MODELS = {
    "adaln": {},
    "adaln, paper form": {"residual": False, "width": 12},
    "mlp": {"predictor": "mlp"},
    "window 1": {"window": 1},
    "window 5": {"window": 5},
}
every_model = pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS.keys())


def save_untrained(directory: Path) -> str:
    """A small untrained model for the worlds' pictures, saved in `directory`."""
    changes = {"encoder_width": 4, "embed_dim": 16, "width": 16, "projector_dim": 16, "mlp_dim": 16}
    WorldModel(WorldModelConfig(action_dim=2, **changes)).save(directory)
    return str(directory)
