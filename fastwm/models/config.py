"""The description of a world model: everything needed to build its modules, as plain JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from fastwm.models.fields import check_sizes, from_fields

CONFIG_VERSION = 1

_PRESETS: dict[str, dict[str, Any]] = {
    # Learns to push within minutes on two CPU cores.
    "small": {},
    # No attention at all: enough for two rooms, and the fastest to train.
    "mlp": {"predictor": "mlp", "mlp_dim": 256},
    # LeWM as published (arXiv:2603.19312).
    "paper": {
        "encoder": "vit_tiny",
        "image_size": 224,
        "patch_size": 14,
        "projector_dim": 2048,
        "action_hidden": 768,
        "residual": False,
        "width": 192,
        "depth": 6,
        "heads": 16,
        "head_dim": 64,
        "mlp_dim": 2048,
        "dropout": 0.1,
    },
}


@dataclasses.dataclass(frozen=True)
class WorldModelConfig:
    """Sizes of a world model. Letters: E embedding, A numbers in one action block.

    `residual=True` predicts `z + head(...)` with a zero-initialised head, which learns far faster than the
    published form (`residual=False`), where the head gives the next latent itself.
    """

    action_dim: int  # A, of a whole block: action_block x the environment's action dimension
    action_block: int = 1  # environment decisions per block (frame skip)
    action_hidden: int = 128

    encoder: Literal["patch_conv", "vit_tiny"] = "patch_conv"
    image_size: int = 64
    encoder_width: int = 32  # patch_conv: channels of the first layer
    patch_size: int = 8  # vit_tiny
    encoder_depth: int = 12  # vit_tiny
    projector_dim: int = 256
    embed_dim: int = 192  # E

    predictor: Literal["adaln", "mlp"] = "adaln"
    residual: bool = True
    window: int = 3  # (latent, action) pairs the predictor sees
    width: int = 96  # adaln
    depth: int = 1  # adaln
    heads: int = 4  # adaln
    head_dim: int = 32  # adaln
    mlp_dim: int = 384
    dropout: float = 0.0  # adaln, training only

    version: int = CONFIG_VERSION

    def __post_init__(self) -> None:
        if self.version != CONFIG_VERSION:
            raise ValueError(f"version is {self.version!r}; this fastwm reads version {CONFIG_VERSION}")
        check_sizes(self)
        if not isinstance(self.residual, bool):
            raise ValueError(f"residual is {self.residual!r}; expected true or false")
        if not isinstance(self.dropout, (int, float)) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout!r}; expected a number in [0, 1)")
        if self.encoder not in ("patch_conv", "vit_tiny"):
            raise ValueError(f"encoder is {self.encoder!r}; expected 'patch_conv' or 'vit_tiny'")
        if self.predictor not in ("adaln", "mlp"):
            raise ValueError(f"predictor is {self.predictor!r}; expected 'adaln' or 'mlp'")
        if self.predictor == "mlp" and not self.residual:
            raise ValueError("residual is False; the mlp predictor is always residual")
        multiple = 16 if self.encoder == "patch_conv" else self.patch_size
        if self.image_size % multiple:
            raise ValueError(f"image_size is {self.image_size}; expected a multiple of {multiple}")
        if self.action_dim % self.action_block:
            raise ValueError(f"action_dim is {self.action_dim}; expected a multiple of {self.action_block}")

    @classmethod
    def preset(cls, name: str, *, action_dim: int, **changes: Any) -> WorldModelConfig:
        """A named configuration ("small", "mlp" or "paper"), with any field changed."""
        if name not in _PRESETS:
            raise ValueError(f"name is {name!r}; expected one of {sorted(_PRESETS)}")
        return cls.from_dict({**_PRESETS[name], "action_dim": action_dim, **changes})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WorldModelConfig:
        """The inverse of `to_dict`; ValueError for unknown or missing fields and for another version."""
        version = values.get("version", CONFIG_VERSION)
        if version != CONFIG_VERSION:
            raise ValueError(f"version is {version!r}; this fastwm reads version {CONFIG_VERSION}")
        return from_fields(cls, values)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
