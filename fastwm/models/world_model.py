"""The world model: pixels to latents, and latents with actions to the latents that follow."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import nn

from fastwm.models import storage
from fastwm.models.calibration import LATENTS, PAST_ACTIONS, Calibration
from fastwm.models.config import WorldModelConfig
from fastwm.models.encoder import PatchConvEncoder, ViTEncoder
from fastwm.models.heads import Projector
from fastwm.models.pixel_model import PixelModel
from fastwm.models.predictor import AdaLNPredictor, MLPPredictor


class WorldModel(PixelModel):
    """A joint-embedding predictive world model (LeWM, arXiv:2603.19312).

    Actions are in environment units; `action_mean` and `action_std`, saved with the model, normalise them.
    `calibration`: contexts of real episodes, which training keeps with the model; None where there are none.
    Letters: B environments, S candidates, T horizon in action blocks, K context frames, E embedding,
    A numbers in one action block.
    """

    config: WorldModelConfig

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.config = config
        self.metadata: dict[str, str] = {}
        self.calibration: Calibration | None = None
        embed_dim = config.embed_dim
        self.encoder: nn.Module
        if config.encoder == "patch_conv":
            self.encoder = PatchConvEncoder(config.image_size, config.encoder_width, out_dim=embed_dim)
        else:
            self.encoder = ViTEncoder(config.image_size, config.patch_size, config.encoder_depth)
        self.projector = Projector(self.encoder.out_dim, config.projector_dim, embed_dim)
        self.action_encoder = nn.Sequential(
            nn.Linear(config.action_dim, config.action_hidden),
            nn.SiLU(),
            nn.Linear(config.action_hidden, embed_dim),
        )
        self.predictor: nn.Module
        self.pred_proj: nn.Module
        if config.predictor == "mlp":
            self.predictor = MLPPredictor(embed_dim=embed_dim, mlp_dim=config.mlp_dim)
            self.pred_proj = nn.Identity()
        else:
            self.predictor = AdaLNPredictor(
                embed_dim=embed_dim,
                width=config.width,
                depth=config.depth,
                heads=config.heads,
                head_dim=config.head_dim,
                mlp_dim=config.mlp_dim,
                window=config.window,
                dropout=config.dropout,
                position_std=0.02 if config.residual else 1.0,  # published: 1.0
            )
            self.pred_proj = Projector(embed_dim, config.projector_dim, embed_dim)
            if config.residual:
                nn.init.zeros_(self.pred_proj.fc2.weight)
                nn.init.zeros_(self.pred_proj.fc2.bias)
        self.register_buffer("action_mean", torch.zeros(config.action_dim))
        self.register_buffer("action_std", torch.ones(config.action_dim))

    def embed_actions(self, actions: torch.Tensor) -> torch.Tensor:
        """actions [..., A] in environment units -> [..., E]"""
        return self.action_encoder(self.normalise(actions))

    def predict(self, latents: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """latents [B, T, E], actions [B, T, A] -> latents one block later [B, T, E]; causal, T <= window"""
        self._check_latents("latents", latents)
        if actions.ndim != 3 or actions.shape[:2] != latents.shape[:2]:
            expected = [*latents.shape[:2], self.config.action_dim]
            raise ValueError(f"actions has shape {list(actions.shape)}; expected {expected} to match latents")
        return self._predict(latents, self.embed_actions(actions))

    def rollout(
        self, context: torch.Tensor, actions: torch.Tensor, past_actions: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Latents after each action block of every candidate, by a plain sliding window.

        context [B, K, E]: latents of the last K frames, K <= window.
        actions [B, S, T, A]: candidates, in environment units.
        past_actions [B, K-1, A]: the blocks executed between the context frames; needed when K > 1.
        Returns [B, S, T, E].
        """
        self._check_latents("context", context)
        batch, frames, embed_dim = context.shape
        if actions.ndim != 4 or actions.shape[0] != batch or actions.shape[2] < 1:
            expected = f"[{batch}, S, T >= 1, {self.config.action_dim}]"
            raise ValueError(f"actions has shape {list(actions.shape)}; expected {expected}")
        if past_actions is None and frames > 1:
            raise ValueError(
                f"past_actions is missing; a context of {frames} frames needs {frames - 1} of them"
            )
        if past_actions is None:
            past_actions = actions.new_empty(batch, 0, self.config.action_dim)
        if past_actions.shape != (batch, frames - 1, self.config.action_dim):
            expected = f"[{batch}, {frames - 1}, {self.config.action_dim}]"
            raise ValueError(f"past_actions has shape {list(past_actions.shape)}; expected {expected}")

        candidates, horizon = actions.shape[1:3]
        rows = batch * candidates
        future = self.embed_actions(actions).reshape(rows, horizon, embed_dim)
        past = self.embed_actions(past_actions)[:, None].expand(-1, candidates, -1, -1)
        conditions = torch.cat([past.reshape(rows, frames - 1, embed_dim), future], dim=1)  # [B*S, K-1+T, E]
        seen = context[:, None].expand(-1, candidates, -1, -1).reshape(rows, frames, embed_dim)
        latents = list(seen.unbind(1))
        for _ in range(horizon):
            last = len(latents)
            first = max(0, last - self.config.window)
            predicted = self._predict(torch.stack(latents[first:], dim=1), conditions[:, first:last])
            latents.append(predicted[:, -1])
        return torch.stack(latents[frames:], dim=1).view(batch, candidates, horizon, embed_dim)

    def save(self, directory: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None) -> None:
        """Write `config.json` and `model.safetensors` into `directory`, each atomically.

        metadata: strings to keep beside the configuration (by default those that the model was loaded with).
        """
        kept = self.metadata if metadata is None else metadata
        tensors = self.state_dict()
        if self.calibration is not None:
            tensors |= {LATENTS: self.calibration.latents, PAST_ACTIONS: self.calibration.past_actions}
        storage.save(directory, self.config, tensors, kept)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> WorldModel:
        """The model saved in `directory`, in evaluation mode. Nothing is unpickled.

        Raises ValueError when a file is missing, damaged, of another version or of another model.
        """
        config, tensors, metadata = storage.load(directory, WorldModelConfig.from_dict)
        with torch.device("meta"):
            model = cls(config)
        model.calibration = storage.take_calibration(directory, config, tensors)
        storage.check_tensors(directory, expected=model.state_dict(), found=tensors)
        model.load_state_dict(tensors, assign=True)
        model.metadata = metadata
        return model.eval()

    def _predict(self, latents: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
        predicted = self.pred_proj(self.predictor(latents, conditions)).to(latents.dtype)
        if self.config.residual and self.config.predictor == "adaln":
            predicted = latents + predicted
        return predicted

    def _check_latents(self, name: str, latents: torch.Tensor) -> None:
        self.check_type(name, latents)
        window, embed_dim = self.config.window, self.config.embed_dim
        if latents.ndim != 3 or latents.shape[2] != embed_dim or not 1 <= latents.shape[1] <= window:
            expected = f"[B, 1..{window} frames, {embed_dim}]"
            raise ValueError(f"{name} has shape {list(latents.shape)}; expected {expected}")
