"""Is this world model any good? Measured on held-out episodes, not read off the loss.

A low loss alone says nothing: a collapsed encoder predicts its own latents perfectly.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch

from fastwm.data import Episodes
from fastwm.models import WorldModel
from fastwm.training.sampler import evenly_spaced

HORIZONS = (1, 5, 10)
PROBE_FRAMES = 1024
SEQUENCES = 64


@dataclasses.dataclass(frozen=True)
class Health:
    """Measurements of a model on held-out episodes.

    probe_r2: R^2 of a linear probe from latent to each dimension of the true state; empty without states.
    effective_rank: exp of the entropy of the latents' normalised singular values, 1..E.
    latent_std: standard deviation of each latent dimension [E].
    open_loop, copy_last: horizon in blocks -> mean squared error of the latent rolled out from the first
        frame alone, and of the first latent itself taken as the prediction.
    """

    prediction_loss: float
    probe_r2: tuple[float, ...]
    effective_rank: float
    latent_std: tuple[float, ...]
    open_loop: dict[int, float]
    copy_last: dict[int, float]


def measure_health(model: WorldModel, training: Episodes, validation: Episodes) -> Health:
    """The probe is fitted on episodes of `training`; everything is judged on `validation`."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return _measure(model, training, validation)
    finally:
        model.train(was_training)


def _measure(model: WorldModel, training: Episodes, validation: Episodes) -> Health:
    skip = model.config.action_block
    frames = validation.batch(evenly_spaced(validation.windows(1), PROBE_FRAMES), 1)
    latents = encode_in_chunks(model, frames["pixels"][:, 0])
    probe_r2: tuple[float, ...] = ()
    if "state" in frames:
        fitted = training.batch(evenly_spaced(training.windows(1), PROBE_FRAMES), 1)
        fitted_latents = encode_in_chunks(model, fitted["pixels"][:, 0])
        probe_r2 = linear_probe_r2(fitted_latents, fitted["state"][:, 0], latents, frames["state"][:, 0])

    horizons = [h for h in HORIZONS if len(validation.windows(h + 1, frame_skip=skip))]
    length = max(horizons) + 1
    starts = evenly_spaced(validation.windows(length, frame_skip=skip), SEQUENCES)
    sequences = validation.batch(starts, length, frame_skip=skip)
    targets = encode_in_chunks(model, sequences["pixels"])
    actions = torch.as_tensor(sequences["action"], device=targets.device)
    open_loop, copy_last = open_loop_error(model, targets, actions, horizons)
    taught = min(length - 1, model.config.window)
    predicted = model.predict(targets[:, :taught], actions[:, :taught])
    return Health(
        prediction_loss=(predicted - targets[:, 1 : taught + 1]).square().mean().item(),
        probe_r2=probe_r2,
        effective_rank=effective_rank(latents),
        latent_std=tuple(latents.std(dim=0).tolist()),
        open_loop=open_loop,
        copy_last=copy_last,
    )


def open_loop_error(
    model: WorldModel, latents: torch.Tensor, actions: torch.Tensor, horizons: Sequence[int]
) -> tuple[dict[int, float], dict[int, float]]:
    """Mean squared error after each horizon: rolled out from the first frame alone, and copying that frame.

    latents [B, T+1, E], actions [B, T, A], horizons in 1..T.
    """
    rolled = model.rollout(latents[:, :1], actions[:, None])[:, 0]  # [B, T, E]
    open_loop = {h: (rolled[:, h - 1] - latents[:, h]).square().mean().item() for h in horizons}
    copy_last = {h: (latents[:, 0] - latents[:, h]).square().mean().item() for h in horizons}
    return open_loop, copy_last


def linear_probe_r2(
    fit_latents: torch.Tensor,
    fit_states: np.ndarray | torch.Tensor,
    latents: torch.Tensor,
    states: np.ndarray | torch.Tensor,
    *,
    ridge: float = 1e-4,
) -> tuple[float, ...]:
    """R^2 of a ridge regression per state dimension; nan for a dimension that does not vary.

    fit_latents [N, E], fit_states [N, D] fit the probe; latents [M, E], states [M, D] judge it.
    ridge: relative to the latents' mean variance.
    """
    fit_latents, latents = fit_latents.cpu(), latents.cpu()
    x, y = fit_latents.double(), torch.as_tensor(fit_states).double()
    x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
    x, y = x - x_mean, y - y_mean
    gram = x.T @ x
    gram.diagonal().add_(ridge * gram.diagonal().mean() + torch.finfo(torch.float64).tiny)
    weights = torch.linalg.lstsq(gram, x.T @ y, driver="gelsd").solution
    return r2(y_mean + (latents.double() - x_mean) @ weights, states)


def r2(predicted: torch.Tensor, states: np.ndarray | torch.Tensor) -> tuple[float, ...]:
    """predicted [M, D], states [M, D] -> R^2 of each dimension; nan for one that does not vary."""
    truth = torch.as_tensor(states).double()
    residual = (truth - predicted).square().sum(dim=0)
    total = (truth - truth.mean(dim=0)).square().sum(dim=0)
    return tuple(
        1 - r / t if t > 0 else math.nan for r, t in zip(residual.tolist(), total.tolist(), strict=True)
    )


def effective_rank(latents: torch.Tensor) -> float:
    """exp of the entropy of the normalised singular values of centred latents [N, E]; 1 at the least."""
    singular = torch.linalg.svdvals(latents.double() - latents.double().mean(dim=0))
    if singular.sum() == 0:
        return 1.0
    share = singular / singular.sum()
    return torch.exp(-torch.xlogy(share, share).sum()).item()


def encode_in_chunks(model: WorldModel, pixels: np.ndarray, *, chunk: int = 256) -> torch.Tensor:
    """pixels uint8 [..., size, size, 3] -> latents [..., E] where the model is, at most `chunk` images at a time"""
    images = torch.as_tensor(pixels, device=model.action_mean.device)
    flat = images.reshape(-1, *images.shape[-3:])
    return torch.cat([model.encode(part) for part in flat.split(chunk)]).view(*images.shape[:-3], -1)
