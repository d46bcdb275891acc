"""Real contexts that are kept with a model: what `fastwm.compile(dtype="auto")` judges narrower dtypes on.

Nothing else reads them: they change no weight and no prediction, and a dtype asked for by name is not judged. `fastwm train`
saves them with its models; for others they are the argument `calibration`, latents made by an engine's `encode`. How dtypes are
judged: fastwm/engine/ranking.py.
"""

from __future__ import annotations

import dataclasses

import torch

from fastwm.ops._check import readable

LATENTS, PAST_ACTIONS = "calibration.latents", "calibration.past_actions"  # in model.safetensors


@dataclasses.dataclass(frozen=True)
class Calibration:
    """latents [N, K, E] of K frames in a row; past_actions [N, K-1, A], the blocks between them, in environment units."""

    latents: torch.Tensor
    past_actions: torch.Tensor

    def check(self, *, window: int, embed_dim: int, action_dim: int) -> Calibration:
        """Raise TypeError or ValueError, naming the tensor, unless both fit a predictor and each other."""
        check_contexts(LATENTS, self.latents, window=window, embed_dim=embed_dim)
        expected = [len(self.latents), self.latents.shape[1] - 1, action_dim]
        if list(self.past_actions.shape) != expected:
            raise ValueError(f"{PAST_ACTIONS} has shape {list(self.past_actions.shape)}, expected {expected}")
        _check_values(PAST_ACTIONS, self.past_actions)
        return self


def check_contexts(name: str, latents: torch.Tensor, *, window: int, embed_dim: int) -> None:
    """Raise TypeError or ValueError unless these are contexts [N, K, E] that a predictor can take."""
    expected = f"float32 latents [N, K, {embed_dim}], N >= 1, 1 <= K <= {window}"
    if not isinstance(latents, torch.Tensor):
        raise TypeError(f"{name} is {type(latents).__name__}, expected {expected}")
    readable(name, latents, expected)
    if (
        latents.ndim != 3
        or latents.shape[2] != embed_dim
        or not 1 <= latents.shape[1] <= window
        or not len(latents)
    ):
        raise ValueError(f"{name} has shape {list(latents.shape)}, expected {expected}")
    _check_values(name, latents)


def _check_values(name: str, tensor: torch.Tensor) -> None:
    if tensor.dtype != torch.float32:
        raise TypeError(f"{name} is {tensor.dtype}, expected torch.float32")
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{name} holds numbers that are not finite")
