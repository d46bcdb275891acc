"""stable-worldmodel's own LeWM with every weight and statistic random: new weights are zero where it matters most."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from stable_worldmodel.wm.lewm import LeWM
from stable_worldmodel.wm.lewm.module import MLP, Embedder, Predictor
from torch import Tensor, nn

DEFAULT = {
    "E": 192,
    "W": 192,
    "depth": 6,
    "heads": 16,
    "dim_head": 64,
    "mlp": 2048,
    "projector": 2048,
    "A": 10,
    "frames": 3,
}
SIZES = {
    "default": DEFAULT,
    "small": {
        "E": 24,
        "W": 24,
        "depth": 2,
        "heads": 3,
        "dim_head": 8,
        "mlp": 40,
        "projector": 33,
        "A": 2,
        "frames": 3,
    },
    "own width": {
        "E": 20,
        "W": 33,
        "depth": 3,
        "heads": 2,
        "dim_head": 17,
        "mlp": 70,
        "projector": 50,
        "A": 5,
        "frames": 4,
    },
    "one head": {
        "E": 16,
        "W": 16,
        "depth": 1,
        "heads": 1,
        "dim_head": 16,
        "mlp": 16,
        "projector": 16,
        "A": 1,
        "frames": 1,
    },
}


class FlatEncoder(nn.Module):
    """Any module whose output has `last_hidden_state` [N, tokens, E]: here one Linear of the pixels, and a token to ignore."""

    def __init__(self, embed_dim: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * size * size, embed_dim)

    def forward(self, pixels: Tensor, interpolate_pos_encoding: bool = False) -> SimpleNamespace:
        token = self.linear(pixels.flatten(1))
        return SimpleNamespace(last_hidden_state=torch.stack([token, torch.full_like(token, 9.0)], dim=1))


def vit_encoder(embed_dim: int, size: int) -> nn.Module:
    """A Hugging Face ViT with random weights."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=embed_dim,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * embed_dim,
        image_size=size,
        patch_size=size // 2,
    )
    return ViTModel(config, add_pooling_layer=False)


def build(
    *,
    E: int,
    W: int,
    depth: int,
    heads: int,
    dim_head: int,
    mlp: int,
    projector: int,
    A: int,
    frames: int,
    encoder: nn.Module | None = None,
    norm: type[nn.Module] | None = nn.BatchNorm1d,
    seed: int = 0,
) -> LeWM:
    torch.manual_seed(seed)
    model = LeWM(
        encoder=FlatEncoder(E, 8) if encoder is None else encoder,
        predictor=Predictor(
            num_frames=frames,
            depth=depth,
            heads=heads,
            mlp_dim=mlp,
            input_dim=E,
            hidden_dim=W,
            output_dim=E,
            dim_head=dim_head,
            dropout=0.1,
        ),
        action_encoder=Embedder(input_dim=A, emb_dim=E),
        projector=MLP(input_dim=E, hidden_dim=projector, output_dim=E, norm_fn=norm),
        pred_proj=MLP(input_dim=E, hidden_dim=projector, output_dim=E, norm_fn=norm),
    ).eval()
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.LayerNorm)) and module.weight is not None:
                module.weight.copy_(1 + 0.3 * normal(module.weight))
                module.bias.copy_(0.3 * normal(module.bias))
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.copy_(0.3 * normal(module.running_mean))
                module.running_var.copy_(0.5 + normal(module.running_var).abs())
        for layer in model.predictor.transformer.layers:
            modulation = layer.adaLN_modulation[-1]
            modulation.weight.copy_(normal(modulation.weight) / modulation.in_features**0.5)
            modulation.bias.copy_(0.3 * normal(modulation.bias))
    return model
