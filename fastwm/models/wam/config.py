"""The description of a LatentWAM: everything needed to build its modules, as plain JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from fastwm.models.fields import check_sizes, from_fields

WAM_VERSION = 1
OPTIONAL = ("reward_head", "termination_head")


@dataclasses.dataclass(frozen=True)
class LatentWAMConfig:
    """Sizes of a LatentWAM. Letters: E embedding, A numbers in one action block.

    window: state tokens that a dynamics step sees, itself included. With 1 the forward mode is a predictor that every engine
    of `fastwm.compile` runs; with more, rollouts are PyTorch's.
    history: frames that the policy sees, the present one included. chunk: action blocks that it says at once.
    """

    action_dim: int  # A, of a whole block: action_block x the environment's action dimension
    action_block: int = 1  # environment decisions per block (frame skip)
    action_hidden: int = 128

    image_size: int = 64
    encoder_width: int = 32  # channels of the first layer
    projector_dim: int = 256
    embed_dim: int = 192  # E

    window: int = 1
    history: int = 1
    chunk: int = 8
    width: int = 128
    depth: int = 2
    heads: int = 4
    head_dim: int = 32
    mlp_dim: int = 384

    action_head: Literal["flow", "mixture"] = "mixture"  # as good here, and one pass instead of flow_steps
    flow_steps: int = 8
    components: int = 4  # mixture
    reach: int = 16  # action blocks: the farthest goal that distances are learned for
    reward_head: bool = False  # from the data's `reward`
    termination_head: bool = False  # from the data's `terminated`

    version: int = WAM_VERSION

    def __post_init__(self) -> None:
        if self.version != WAM_VERSION:
            raise ValueError(f"version is {self.version!r}; this fastwm reads version {WAM_VERSION}")
        check_sizes(self)
        if self.action_head not in ("flow", "mixture"):
            raise ValueError(f"action_head is {self.action_head!r}; expected 'flow' or 'mixture'")
        for name in OPTIONAL:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected True or False")
        if self.image_size % 16:
            raise ValueError(f"image_size is {self.image_size}; expected a multiple of 16")
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}; expected an even number, which rotations pair")
        if self.action_dim % self.action_block:
            raise ValueError(f"action_dim is {self.action_dim}; expected a multiple of {self.action_block}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LatentWAMConfig:
        """The inverse of `to_dict`; ValueError for unknown or missing fields and for another version."""
        return from_fields(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Heads that there are not are not mentioned: a file is what it was before there were any."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value or name not in OPTIONAL}
