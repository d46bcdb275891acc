"""A world model trained here -> their LeWM, with their modules and the same weights."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_worldmodel.data.normalization import ZScoreScaler
from torch import Tensor, nn

from bench.peers.stable_worldmodel import lewm
from fastwm.models import WorldModel


class FirstToken(nn.Module):
    """What `LeWM.encode` expects of an encoder: an output whose `last_hidden_state` has the embedding for its first token."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor, interpolate_pos_encoding: bool = False) -> SimpleNamespace:
        """pixels [N, 3, size, size] in -1..1 -> last_hidden_state [N, 1, width]"""
        return SimpleNamespace(last_hidden_state=self.encoder(pixels)[:, None])


def theirs(model: WorldModel, scaler: ZScoreScaler) -> Any:
    """Their LeWM, which takes pixels as `normalise_pixels` makes them and action blocks as `scaler` does.

    The model normalises blocks by itself, with a mean and a std per place in the block; their action encoder begins with a
    convolution of kernel 1, which takes the one to the other.
    """
    made = lewm(model, FirstToken(model.encoder))
    convolution = made.action_encoder.patch_embed
    repeats = model.config.action_block
    mean, std = (
        torch.from_numpy(np.ravel(value)).float().repeat(repeats) for value in (scaler.mean, scaler.std)
    )
    with torch.no_grad():
        convolution.weight.copy_(torch.diag(std / model.action_std)[..., None])
        convolution.bias.copy_((mean - model.action_mean) / model.action_std)
    return made


def fit_scaler(actions: NDArray[np.floating]) -> ZScoreScaler:
    """Their z-score of the actions [N, 2] of single environment steps."""
    scaler = ZScoreScaler().fit(actions.astype(np.float64))
    return ZScoreScaler(scaler.mean.astype(np.float32), scaler.std.astype(np.float32))


def normalise_pixels(image: Tensor) -> Tensor:
    """uint8 [3, height, width] -> float32 in -1..1, as `WorldModel.encode`."""
    return (image.as_subclass(torch.Tensor).float() - 127.5) / 127.5


TRANSFORM: dict[str, Callable[[Tensor], Tensor]] = {"pixels": normalise_pixels, "goal": normalise_pixels}
