"""A module with the parts and names of stable-worldmodel's LeWM, written out as its paper has it (arXiv:2603.19312).

It lets the importer be tested where the real one is not installed; tests/peers has the real one.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
        alone = heads == 1 and head_dim == dim
        self.to_out = nn.Identity() if alone else nn.Sequential(nn.Linear(inner, dim), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        n, steps, _ = x.shape
        q, k, v = (part.view(n, steps, self.heads, -1) for part in self.to_qkv(self.norm(x)).chunk(3, dim=-1))
        scores = torch.einsum("nthd,nshd->nhts", q, k) / q.shape[-1] ** 0.5
        future = torch.ones(steps, steps, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, -torch.inf).softmax(-1)
        return self.to_out(torch.einsum("nhts,nshd->nthd", weights, v).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Dropout(0.1),
            nn.Linear(hidden, dim),
            nn.Dropout(0.1),
        )


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, head_dim: int, hidden: int) -> None:
        super().__init__()
        self.attn = Attention(dim, heads, head_dim)
        self.mlp = FeedForward(dim, hidden)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.adaLN_modulation(c).chunk(6, dim=-1)
        x = x + gate * self.attn(self.norm1(x) * (1 + scale) + shift)
        return x + mlp_gate * self.mlp.net(self.norm2(x) * (1 + mlp_scale) + mlp_shift)


class Predictor(nn.Module):
    def __init__(
        self, frames: int, dim: int, width: int, depth: int, heads: int, head_dim: int, hidden: int
    ) -> None:
        super().__init__()
        self.num_frames = frames
        self.pos_embedding = nn.Parameter(torch.randn(1, frames, dim))

        def linear(inputs: int, outputs: int) -> nn.Module:
            return nn.Identity() if inputs == outputs else nn.Linear(inputs, outputs)

        self.transformer = nn.Module()
        self.transformer.input_proj, self.transformer.cond_proj = linear(dim, width), linear(dim, width)
        self.transformer.output_proj, self.transformer.norm = linear(width, dim), nn.LayerNorm(width)
        self.transformer.layers = nn.ModuleList(Block(width, heads, head_dim, hidden) for _ in range(depth))

    def forward(self, latents: Tensor, conditions: Tensor) -> Tensor:
        t = self.transformer
        x, c = t.input_proj(latents + self.pos_embedding[:, : latents.shape[1]]), t.cond_proj(conditions)
        for block in t.layers:
            x = block(x, c)
        return t.output_proj(t.norm(x))


class Embedder(nn.Module):
    def __init__(self, action_dim: int, dim: int) -> None:
        super().__init__()
        self.patch_embed = nn.Conv1d(action_dim, 7, kernel_size=1)
        self.embed = nn.Sequential(nn.Linear(7, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim))

    def forward(self, actions: Tensor) -> Tensor:
        return self.embed(self.patch_embed(actions.transpose(1, 2)).transpose(1, 2))


class Head(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), nn.GELU(), nn.Linear(hidden, dim)
        )

    def forward(self, rows: Tensor) -> Tensor:
        return self.net(rows)


class Encoder(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, dim)

    def forward(self, pixels: Tensor, interpolate_pos_encoding: bool = False) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.linear(pixels.flatten(1))[:, None])


class LeWMLike(nn.Module):
    """With every weight and statistic random, in evaluation mode."""

    def __init__(
        self,
        *,
        dim: int = 20,
        width: int = 20,
        depth: int = 2,
        heads: int = 3,
        head_dim: int = 8,
        hidden: int = 30,
        action_dim: int = 5,
        frames: int = 3,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = Encoder(dim)
        self.predictor = Predictor(frames, dim, width, depth, heads, head_dim, hidden)
        self.action_encoder = Embedder(action_dim, dim)
        self.projector, self.pred_proj = Head(dim, 33), Head(dim, 33)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
            if isinstance(module, (nn.BatchNorm1d, nn.LayerNorm)) and module.weight is not None:
                nn.init.normal_(module.weight, 1.0, 0.3)
                nn.init.normal_(module.bias, 0.0, 0.3)
        self.eval()

    def encode(self, info: dict) -> dict:
        pixels = info["pixels"]
        tokens = self.encoder(pixels.flatten(0, 1), interpolate_pos_encoding=True).last_hidden_state
        return {**info, "emb": self.projector(tokens[:, 0]).unflatten(0, pixels.shape[:2])}

    def rollout(self, context: Tensor, action_history: Tensor, actions: Tensor) -> Tensor:
        """context [N, K, E], action_history [N, K-1, A], actions [N, T, A] -> [N, T, E]: block k of history and actions
        together leaves frame k, and the last `num_frames` pairs predict the next frame."""
        blocks = self.action_encoder(torch.cat([action_history, actions], dim=1))
        frames = context
        for _ in range(actions.shape[1]):
            pairs = min(frames.shape[1], self.predictor.num_frames)
            seen = frames[:, -pairs:], blocks[:, : frames.shape[1]][:, -pairs:]
            frames = torch.cat([frames, self.pred_proj(self.predictor(*seen)[:, -1])[:, None]], dim=1)
        return F.pad(frames, (0, 0, -context.shape[1], 0))
