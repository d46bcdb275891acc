"""The narrow predictor of masked JEPAs: from the tokens that were seen to those that were not, by their places alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fastwm.models.fields import check_sizes, from_fields
from fastwm.models.positions import Grid, rotary_angles
from fastwm.models.vit import POSITIONS, Block, Position, add_positions, check_places, initialise


@dataclasses.dataclass(frozen=True)
class MaskPredictorConfig:
    """Sizes of a predictor for a trunk of width `embed_dim` on `grid`. Published: width 384, depth 12."""

    embed_dim: int  # E, of the trunk
    grid: Grid  # of the trunk
    width: int = 384
    depth: int = 12
    heads: int = 12
    mlp_dim: int = 1536
    mask_tokens: int = 1  # one per kind of mask (V-JEPA has two)
    position: Position = "sincos"
    qkv_bias: bool = True
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        check_sizes(self)
        object.__setattr__(self, "grid", tuple(self.grid))  # a list, where it comes from JSON
        if len(self.grid) != 3 or not all(isinstance(n, int) and n >= 1 for n in self.grid):
            raise ValueError(f"grid is {self.grid!r}; expected tokens in time, rows and columns")
        if self.width % self.heads:
            raise ValueError(f"width is {self.width}; expected a multiple of heads, {self.heads}")
        if self.position not in POSITIONS:
            raise ValueError(f"position is {self.position!r}; expected one of {list(POSITIONS)}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MaskPredictorConfig:
        """The inverse of `dataclasses.asdict`; ValueError for unknown fields."""
        return from_fields(cls, values)


class MaskPredictor(nn.Module):
    """Context tokens and mask tokens, each at its place, through a narrow transformer; the mask tokens come out as latents.

    I-JEPA (arXiv:2301.08243, section 3): every target block is predicted by itself. V-JEPA (arXiv:2404.08471, section 3): one
    union of blocks per kind of mask, each kind with a mask token of its own.
    """

    position: torch.Tensor  # [N, width], where positions are not rotary

    def __init__(self, config: MaskPredictorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.project_in = nn.Linear(config.embed_dim, width)
        self.mask_tokens = nn.Parameter(torch.empty(config.mask_tokens, width))
        add_positions(self, config.position, config.grid, width)
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.mlp_dim, config.norm_eps, qkv_bias=config.qkv_bias)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.project_out = nn.Linear(width, config.embed_dim)
        initialise(self)
        nn.init.trunc_normal_(self.mask_tokens, std=0.02)

    def forward(
        self,
        context: torch.Tensor,
        context_places: torch.Tensor,
        target_places: torch.Tensor,
        mask_token: int = 0,
    ) -> torch.Tensor:
        """context [B, n, E] at context_places [B, n]; target_places [B, M, m], M targets, each by itself -> [B, M, m, E]"""
        self._check(context, context_places, target_places, mask_token)
        batch, targets, count = target_places.shape
        places = torch.cat([context_places[:, None].expand(-1, targets, -1), target_places], dim=-1).flatten(
            0, 1
        )  # [B*M, n + m]
        seen = self.project_in(context).to(self.norm.weight.dtype)
        seen = seen[:, None].expand(-1, targets, -1, -1).flatten(0, 1)
        masked = self.mask_tokens[mask_token].expand(batch * targets, count, -1)
        x = torch.cat([seen, masked], dim=1)
        turn = None
        if self.config.position == "rope":
            turn = rotary_angles(places[:, None], self.config.grid, self.config.width // self.config.heads)
        else:
            x = x + self.position[places]
        for block in self.blocks:
            x = block(x, turn)
        x = self.project_out(self.norm(x[:, -count:]))
        return x.view(batch, targets, count, -1)

    def _check(
        self,
        context: torch.Tensor,
        context_places: torch.Tensor,
        target_places: torch.Tensor,
        mask_token: int,
    ) -> None:
        config = self.config
        if context.ndim != 3 or context.shape[-1] != config.embed_dim:
            raise ValueError(f"context has shape {list(context.shape)}; expected [B, n, {config.embed_dim}]")
        time, rows, columns = config.grid
        # Rotary positions go on after the last frame that the predictor was made for.
        most = 2**31 if config.position == "rope" else time * rows * columns
        check_places("context_places", context_places, len(context), most)
        check_places("target_places", target_places, len(context), most)
        if context_places.shape != context.shape[:2]:
            came = list(context_places.shape)
            raise ValueError(f"context_places has shape {came}; expected {list(context.shape[:2])}")
        if target_places.ndim != 3:
            raise ValueError(
                f"target_places has shape {list(target_places.shape)}; expected [B, targets, tokens]"
            )
        if not 0 <= mask_token < config.mask_tokens:
            raise ValueError(f"mask_token is {mask_token}; expected 0..{config.mask_tokens - 1}")
