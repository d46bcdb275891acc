"""Predictors of the next latent: the action-conditioned causal transformer of LeWM, and a residual MLP.

The transformer is modulated by adaptive layer normalisation ("AdaLN-zero", arXiv:2212.09748): the action
embedding gives shift, scale and gate of each half block, all zero at first: a new block is the identity.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class AdaLNPredictor(nn.Module):
    """The predictor of LeWM (arXiv:2603.19312): learned positions relative to the window, AdaLN-zero blocks.

    Letters: T pairs in the window, E embedding, H heads, D head dim; `width` is the transformer's own width.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        width: int,
        depth: int,
        heads: int,
        head_dim: int,
        mlp_dim: int,
        window: int,
        dropout: float = 0.0,
        position_std: float = 1.0,
    ) -> None:
        super().__init__()
        self.position = nn.Parameter(position_std * torch.randn(window, embed_dim))
        self.input_proj = _linear_or_identity(embed_dim, width)
        self.cond_proj = _linear_or_identity(embed_dim, width)
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            self.blocks.append(AdaLNBlock(width, heads, head_dim, mlp_dim, dropout))
        self.norm = nn.LayerNorm(width)
        self.output_proj = _linear_or_identity(width, embed_dim)

    def forward(self, latents: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
        """latents [B, T, E], conditions [B, T, E] (action embeddings) -> [B, T, E], causal, T <= window"""
        x = self.input_proj(latents + self.position[: latents.shape[1]])
        c = self.cond_proj(conditions)
        for block in self.blocks:
            x = block(x, c)
        return self.output_proj(self.norm(x))


class AdaLNBlock(nn.Module):
    """x + gate * attention(modulated x), then x + gate * mlp(modulated x)."""

    def __init__(self, width: int, heads: int, head_dim: int, mlp_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(modulation.weight)
        nn.init.zeros_(modulation.bias)
        self.modulation = nn.Sequential(nn.SiLU(), modulation)
        self.attention = CausalAttention(width, heads, head_dim, dropout)
        self.mlp = FeedForward(width, mlp_dim, dropout)

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """x [B, T, width], c [B, T, width] -> [B, T, width]"""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c).chunk(6, dim=-1)
        x = x + gate1 * self.attention(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class CausalAttention(nn.Module):
    """Layer normalisation, then causal multi-head attention with H heads of D numbers each."""

    def __init__(self, width: int, heads: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, width] -> [B, T, width]"""
        qkv = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [B, H, T, D] each
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return F.dropout(self.out(x.transpose(1, 2).flatten(2)), self.dropout, self.training)


class FeedForward(nn.Module):
    """Layer normalisation, Linear, exact GELU, Linear."""

    def __init__(self, width: int, mlp_dim: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, width] -> [B, T, width]"""
        x = F.dropout(F.gelu(self.fc1(self.norm(x))), self.dropout, self.training)
        return F.dropout(self.fc2(x), self.dropout, self.training)


class MLPPredictor(nn.Module):
    """z + f([z, c]): the next latent from the last latent and action alone; every place is independent."""

    def __init__(self, *, embed_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2 * embed_dim, mlp_dim)
        self.norm1 = nn.LayerNorm(mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, mlp_dim)
        self.norm2 = nn.LayerNorm(mlp_dim)
        self.fc3 = nn.Linear(mlp_dim, embed_dim)

    def forward(self, latents: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
        """latents [B, T, E], conditions [B, T, E] (action embeddings) -> [B, T, E]"""
        x = F.silu(self.norm1(self.fc1(torch.cat([latents, conditions], dim=-1))))
        x = F.silu(self.norm2(self.fc2(x)))
        return latents + self.fc3(x)


def _linear_or_identity(in_dim: int, out_dim: int) -> nn.Module:
    return nn.Identity() if in_dim == out_dim else nn.Linear(in_dim, out_dim)
