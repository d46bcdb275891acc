"""The trunk of a LatentWAM: two streams of tokens with weights of their own that share attention.

A mixture of transformers (LeWAM, arXiv:2610.12818): states and actions each have norms, projections and MLPs; keys and values
are common. The one masked sequence of LeWAM is evaluated group by group: a group attends to itself and to the `Memory` (keys
and values of every layer) of the groups that it may see, which is the same numbers as one masked attention, without the
masked products, and makes a leak impossible where there is no memory to read. Times enter as rotations alone (RoPE,
arXiv:2104.09864): keys and values hold no place in a window, so those of the history are computed once and used again,
exactly.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastwm.models.predictor import AdaLNBlock

Memory = list[tuple[Tensor, Tensor]]  # of each layer: keys and values [B, H, N, D], rotated


class Stream(nn.Module):
    """AdaLN-zero blocks over one kind of tokens, and the LayerNorm after them."""

    def __init__(self, width: int, depth: int, heads: int, head_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            AdaLNBlock(width, heads, head_dim, mlp_dim, dropout=0.0) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        times: Tensor,
        *,
        mask: Tensor | None = None,
        memory: Memory | None = None,
    ) -> tuple[Tensor, Memory]:
        """Tokens x [B, N, W] -> what they are after the last layer [B, N, W], and their own keys and values.

        condition: [B, N, W], or [1, 1, W] of all tokens. times [N]: of the tokens, in action blocks. memory: of M tokens that
        all of these may see. mask bool [N, N] or [B, 1, N, M + N]: who sees whom; None is everyone.
        """
        own: Memory = []
        blocks: Any = self.blocks
        for layer, block in enumerate(blocks):
            shift1, scale1, gate1, shift2, scale2, gate2 = block.modulation(condition).chunk(6, dim=-1)
            attention = block.attention
            rows = attention.norm(block.norm1(x) * (1 + scale1) + shift1)
            qkv = attention.qkv(rows).unflatten(-1, (3, attention.heads, -1)).permute(2, 0, 3, 1, 4)
            query, key, value = rotate(qkv[0], times), rotate(qkv[1], times), qkv[2]
            own.append((key, value))
            if memory is not None:
                key = torch.cat([memory[layer][0].to(key.dtype), key], dim=2)
                value = torch.cat([memory[layer][1].to(value.dtype), value], dim=2)
            seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            x = x + gate1 * attention.out(seen.transpose(1, 2).flatten(2))
            x = x + gate2 * block.mlp(block.norm2(x) * (1 + scale2) + shift2)
        return self.norm(x), own


def rotate(x: Tensor, times: Tensor) -> Tensor:
    """Queries or keys [B, H, N, D] turned by their times [N]: products depend on differences of times alone."""
    half = x.shape[-1] // 2
    frequency = 100.0 ** -(
        torch.arange(half, device=x.device) / half
    )  # windows are short: wavelengths to 600 blocks
    angle = times.to(frequency.dtype)[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def join(*memories: Memory) -> Memory:
    """The memory of all tokens of several."""
    return [
        (torch.cat([k for k, _ in layers], dim=2), torch.cat([v for _, v in layers], dim=2))
        for layers in zip(*memories, strict=True)
    ]


def share(memory: Memory, count: int) -> Memory:
    """[B, ...] for `count` candidates of each environment: [B * count, ...]."""
    return [
        (key.repeat_interleave(count, dim=0), value.repeat_interleave(count, dim=0)) for key, value in memory
    ]


def latest(memory: Memory, count: int) -> Memory:
    """The last `count` tokens of it."""
    return [(k[:, :, max(0, k.shape[2] - count) :], v[:, :, max(0, v.shape[2] - count) :]) for k, v in memory]


def banded(count: int, window: int, device: torch.device | None = None) -> Tensor:
    """bool [count, count]: token i sees the `window` tokens up to itself."""
    behind = torch.arange(count, device=device)[:, None] - torch.arange(count, device=device)
    return (behind >= 0) & (behind < window)
