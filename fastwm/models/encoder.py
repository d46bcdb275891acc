"""Encoders of one image: a patch convolution for the CPU, and ViT-Tiny as in LeWM."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from fastwm.models.vit import Block


class PatchConvEncoder(nn.Module):
    """4x4 patches, then two strided convolutions: the cheapest encoder that reads positions to a pixel.

    A ViT costs ten times as much per image and needs far more steps before its latents can be planned in.
    """

    def __init__(self, image_size: int, width: int, out_dim: int) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.patches = nn.Conv2d(3, width, kernel_size=4, stride=4)
        self.conv1 = nn.Conv2d(width, 2 * width, kernel_size=3, stride=2, padding=1)
        self.norm1 = nn.BatchNorm2d(2 * width)
        self.conv2 = nn.Conv2d(2 * width, 4 * width, kernel_size=3, stride=2, padding=1)
        self.norm2 = nn.BatchNorm2d(4 * width)
        self.head = nn.Linear(4 * width * (image_size // 16) ** 2, out_dim)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images [N, 3, size, size] in -1..1 -> [N, out_dim]"""
        x = F.gelu(self.patches(images))
        x = F.gelu(self.norm1(self.conv1(x)))
        x = F.gelu(self.norm2(self.conv2(x)))
        return self.head(x.permute(0, 2, 3, 1).flatten(1))  # a view: images come channels-last


class ViTEncoder(nn.Module):
    """ViT-Tiny: width 192, 3 heads, MLP 768, pre-norm, learned positions; the CLS token is the latent."""

    width = 192
    heads = 3

    def __init__(self, image_size: int, patch_size: int, depth: int) -> None:
        super().__init__()
        self.out_dim = self.width
        self.patches = nn.Conv2d(3, self.width, kernel_size=patch_size, stride=patch_size)
        self.cls = nn.Parameter(torch.empty(1, 1, self.width))
        self.position = nn.Parameter(torch.empty(1, (image_size // patch_size) ** 2 + 1, self.width))
        self.blocks = nn.ModuleList(
            Block(self.width, self.heads, 4 * self.width, norm_eps=1e-12) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(self.width, eps=1e-12)
        nn.init.trunc_normal_(self.cls, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images [N, 3, size, size] in -1..1 -> [N, 192]"""
        tokens = self.patches(images).flatten(2).transpose(1, 2)  # [N, patches, 192]
        x = torch.cat([self.cls.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], dim=1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0])
