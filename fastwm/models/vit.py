"""One vision transformer for pictures and for clips: patches or tubelets to tokens, all of them or those that a mask keeps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from fastwm.models.fields import check_sizes, from_fields
from fastwm.models.positions import Grid, rotary_angles, rotate, sincos_table

Position = Literal["sincos", "learned", "rope"]
POSITIONS = ("sincos", "learned", "rope")

_PRESETS: dict[str, dict[str, Any]] = {
    # Our worlds' pictures, minutes on two CPU cores.
    "tiny": {"width": 96, "depth": 4, "heads": 3, "mlp_dim": 384},
    "tiny-video": {"width": 96, "depth": 4, "heads": 3, "mlp_dim": 384, "frames": 8, "tubelet": 2},
    # I-JEPA (arXiv:2301.08243, table 1).
    "ijepa-h14": {
        "image_size": 224, "patch_size": 14, "width": 1280, "depth": 32, "heads": 16, "mlp_dim": 5120,
    },
    # V-JEPA (arXiv:2404.08471) and V-JEPA 2 (arXiv:2506.09985).
    "vjepa-l16": {
        "image_size": 224, "patch_size": 16, "frames": 16, "tubelet": 2,
        "width": 1024, "depth": 24, "heads": 16, "mlp_dim": 4096,
    },
    "vjepa2-l16": {
        "image_size": 256, "patch_size": 16, "frames": 16, "tubelet": 2, "position": "rope",
        "width": 1024, "depth": 24, "heads": 16, "mlp_dim": 4096,
    },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Sizes of a trunk. `frames` of `image_size` squared become tokens of `tubelet` frames times `patch_size` squared."""

    image_size: int = 64
    patch_size: int = 8
    frames: int = 1
    tubelet: int = 1
    width: int = 192  # E
    depth: int = 12
    heads: int = 3
    mlp_dim: int = 768
    position: Position = "sincos"
    qkv_bias: bool = True
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        check_sizes(self)
        for name, divisor in (("image_size", "patch_size"), ("frames", "tubelet"), ("width", "heads")):
            value, by = getattr(self, name), getattr(self, divisor)
            if value % by:
                raise ValueError(f"{name} is {value}; expected a multiple of {divisor}, {by}")
        if self.position not in POSITIONS:
            raise ValueError(f"position is {self.position!r}; expected one of {list(POSITIONS)}")
        if self.position == "rope" and self.width // self.heads < 6:
            came = self.width // self.heads
            raise ValueError(
                f"width / heads is {came}; position 'rope' needs at least 6, a pair for each axis"
            )
        if not isinstance(self.qkv_bias, bool):
            raise ValueError(f"qkv_bias is {self.qkv_bias!r}; expected true or false")
        if not isinstance(self.norm_eps, float) or not self.norm_eps > 0:
            raise ValueError(f"norm_eps is {self.norm_eps!r}; expected a number above 0")

    @property
    def grid(self) -> Grid:
        """Tokens in time, rows and columns."""
        side = self.image_size // self.patch_size
        return self.frames // self.tubelet, side, side

    @property
    def tokens(self) -> int:
        return math.prod(self.grid)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> ViTConfig:
        """A named configuration, with any field changed."""
        if name not in _PRESETS:
            raise ValueError(f"name is {name!r}; expected one of {sorted(_PRESETS)}")
        return cls.from_dict({**_PRESETS[name], **changes})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ViTConfig:
        """The inverse of `dataclasses.asdict`; ValueError for unknown fields."""
        return from_fields(cls, values)


class ViT(nn.Module):
    """Pre-norm transformer over patches of a picture, or tubelets of a clip, with a layer norm at the end.

    No class token: a mean over tokens stands for the whole (I-JEPA, arXiv:2301.08243; V-JEPA, arXiv:2404.08471).
    """

    position: torch.Tensor  # [N, E], where positions are not rotary

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patches = nn.Linear(3 * config.tubelet * config.patch_size**2, width)
        add_positions(self, config.position, config.grid, width)
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.mlp_dim, config.norm_eps, qkv_bias=config.qkv_bias)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        initialise(self)
        nn.init.xavier_uniform_(
            self.patches.weight
        )  # what a patch shows counts beside where it is from the first step on

    def forward(self, images: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """images [B, frames, size, size, 3], normalised -> [B, N, E]; with keep [B, n], places of tokens, -> [B, n, E].

        Fewer frames than the trunk was made for are the first of a clip; more are allowed where positions are rotary.
        """
        tokens = self.split(images)
        places = torch.arange(tokens.shape[1], device=tokens.device)[None]
        if keep is not None:
            check_places("keep", keep, len(tokens), tokens.shape[1])
            places, tokens = keep, gather(tokens, keep)
        x = self.patches(tokens).to(
            self.norm.weight.dtype
        )  # under autocast, too, sums of blocks keep their precision
        turn = None
        if self.config.position == "rope":
            turn = rotary_angles(places[:, None], self.config.grid, self.config.width // self.config.heads)
        else:
            x = x + self.position[places]
        for block in self.blocks:
            x = block(x, turn)
        return self.norm(x)

    def split(self, images: torch.Tensor) -> torch.Tensor:
        """images [B, frames, size, size, 3] -> the numbers of each token [B, N, tubelet * patch * patch * 3]"""
        config, size = self.config, self.config.image_size
        longest = None if config.position == "rope" else config.frames
        frames = images.shape[1] if images.ndim == 5 else 0
        fits = frames > 0 and frames % config.tubelet == 0 and (longest is None or frames <= longest)
        if not fits or images.shape[2:] != (size, size, 3):
            most = "" if longest is None else f", at most {longest}"
            expected = f"[B, a multiple of {config.tubelet} frames{most}, {size}, {size}, 3]"
            raise ValueError(f"images has shape {list(images.shape)}; expected {expected}")
        t, p, side = config.tubelet, config.patch_size, size // config.patch_size
        parts = images.view(len(images), frames // t, t, side, p, side, p, 3)
        return parts.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(len(images), -1, t * p * p * 3)


class Block(nn.Module):
    """Pre-norm attention without a mask, then an MLP with exact GELU; both are added to what came in."""

    def __init__(
        self, width: int, heads: int, mlp_dim: int, norm_eps: float, *, qkv_bias: bool = True
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.fc1 = nn.Linear(width, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, width)

    def forward(self, x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor] | None = None) -> torch.Tensor:
        """x [B, n, width] -> the same shape; turn: cosines and sines [B or 1, 1, n, D] of rotary positions"""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if turn is not None:
            q, k = rotate(q, *turn), rotate(k, *turn)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


def add_positions(module: nn.Module, position: Position, grid: Grid, width: int) -> None:
    """Give `module` its table `position` [tokens, width]; rotary positions have none."""
    if position == "sincos":
        module.register_buffer("position", sincos_table(grid, width))
    elif position == "learned":
        module.register_parameter(
            "position", nn.Parameter(nn.init.trunc_normal_(torch.empty(math.prod(grid), width), std=0.02))
        )


def initialise(module: nn.Module) -> None:
    """Weights from a cut normal of 0.02; what the l-th block adds is divided by sqrt(2 l), so that variance does not grow."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    blocks = [part for part in module.modules() if isinstance(part, Block)]
    with torch.no_grad():
        for number, block in enumerate(blocks, start=1):
            block.out.weight.div_(math.sqrt(2 * number))
            block.fc2.weight.div_(math.sqrt(2 * number))


def gather(tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """tokens [B, N, E], places [B, n] -> [B, n, E]"""
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[-1]))


def check_places(name: str, places: torch.Tensor, batch: int, tokens: int) -> None:
    """ValueError or TypeError unless `places` is int64 [batch, n >= 1], each of 0..tokens-1."""
    if places.dtype != torch.int64:
        raise TypeError(f"{name} has dtype {places.dtype}; expected torch.int64")
    if places.ndim < 2 or places.shape[0] != batch or places.shape[-1] < 1:
        raise ValueError(f"{name} has shape {list(places.shape)}; expected [{batch}, n >= 1]")
    least, most = int(places.min()), int(places.max())
    if least < 0 or most >= tokens:
        raise ValueError(f"{name} holds places {least}..{most}; expected 0..{tokens - 1}")
