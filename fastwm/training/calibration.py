"""Calibration contexts of a model: frames of held-out episodes as it encodes them now."""

from __future__ import annotations

import torch

from fastwm.data import Episodes
from fastwm.models import WorldModel
from fastwm.models.calibration import Calibration
from fastwm.training.health import encode_in_chunks
from fastwm.training.sampler import evenly_spaced

CONTEXTS = 32


@torch.no_grad()
def calibration_contexts(model: WorldModel, episodes: Episodes, frames: int) -> Calibration:
    """Up to CONTEXTS contexts of `frames` frames, spread evenly over `episodes`: a function of model and episodes alone."""
    skip = model.config.action_block
    starts = evenly_spaced(episodes.windows(frames, frame_skip=skip), CONTEXTS)
    batch = episodes.batch(starts, frames, frame_skip=skip, columns=("pixels", "action"))
    was_training = model.training
    model.eval()
    latents = encode_in_chunks(model, batch["pixels"]).float().cpu()
    model.train(was_training)
    return Calibration(latents, torch.as_tensor(batch["action"]))
