"""Has the encoder collapsed, and does it know the world? Measured on held-out episodes, for every objective alike.

A low loss says neither: an encoder that gives every picture the same latent predicts itself perfectly.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable

import numpy as np
import torch

from fastwm.data import Episodes
from fastwm.models.vision import VisionEncoder
from fastwm.models.vit import ViT
from fastwm.training.health import effective_rank, r2
from fastwm.training.sampler import evenly_spaced

PROBE_FRAMES = 1024
RIDGES = (1e-6, 1e-4, 1e-2, 1.0, 100.0)
COLUMNS = ("effective_rank", "latent_std", "latent_std_least", "probe_r2", "probe_r2_worst")

# uint8 pixels [n, size, size, 3] -> one vector for each [n, E]
Encode = Callable[[torch.Tensor], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Spread:
    """How far latents fill their space.

    effective_rank: exp of the entropy of the normalised singular values, 1..E. std_mean, std_least: of the standard deviation
    of each dimension.
    """

    effective_rank: float
    std_mean: float
    std_least: float


def measure_spread(latents: torch.Tensor) -> Spread:
    """latents [n >= 2, E]"""
    if latents.ndim != 2 or len(latents) < 2:
        raise ValueError(f"latents has shape {list(latents.shape)}; expected [n >= 2, E]")
    deviations = latents.double().std(dim=0)
    return Spread(effective_rank(latents), deviations.mean().item(), deviations.min().item())


def probe_r2(
    fit: torch.Tensor, fit_states: np.ndarray, judged: torch.Tensor, states: np.ndarray
) -> tuple[float, ...]:
    """R^2 of a ridge regression from features to each dimension of the state; nan for one that does not vary.

    fit [n, E], fit_states [n, D] fit it: four fifths of them for each of RIDGES, judged on the last fifth, then all with the
    ridge that was best. judged [m, E], states [m, D] give the result. Thousands of pixels and a hundred numbers of a latent are
    so given the same chances.
    """
    if fit.shape[1] > len(fit):  # a ridge's weights lie in the span of what it is fitted on
        fit, judged = _in_span(fit, judged)
    part = len(fit) * 4 // 5
    tried = _ridges(fit[:part], fit_states[:part])
    scores = [_mean(r2(predict(fit[part:]), fit_states[part:])) for predict in tried]
    return r2(_ridges(fit, fit_states)[int(np.argmax(scores))](judged), states)


@torch.inference_mode()
def probe(encode: Encode, training: Episodes, validation: Episodes) -> tuple[float, ...]:
    """`probe_r2` of single frames' latents, fitted on `training` and judged on `validation`; empty without states."""
    frames, states = probe_frames(validation)
    fitted, fitted_states = probe_frames(training)
    if states is None or fitted_states is None:
        return ()
    return probe_r2(in_chunks(encode, fitted), fitted_states, in_chunks(encode, frames), states)


@torch.inference_mode()
def measure(encode: Encode, training: Episodes, validation: Episodes) -> dict[str, float | None]:
    """Each of COLUMNS for latents of single held-out frames; the probe, fitted on `training`, is None without states."""
    frames, _ = probe_frames(validation)
    spread = measure_spread(in_chunks(encode, frames))
    scores = probe(encode, training, validation)
    return {
        "effective_rank": spread.effective_rank,
        "latent_std": spread.std_mean,
        "latent_std_least": spread.std_least,
        "probe_r2": _mean_or_none(scores),
        "probe_r2_worst": min((score for score in scores if not math.isnan(score)), default=None),
    }


def measure_baselines(
    trained: VisionEncoder, training: Episodes, validation: Episodes
) -> dict[str, float | None]:
    """The same probe on raw pixels, and on an encoder as `trained` with random weights: what training has to beat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untrained = VisionEncoder(ViT(trained.config)).eval()
    untrained.set_colours(trained.colour_mean.cpu(), trained.colour_std.cpu())
    return {
        "probe_r2_pixels": _mean_or_none(probe(raw_pixels, training, validation)),
        "probe_r2_untrained": _mean_or_none(probe(untrained.encode, training, validation)),
    }


def raw_pixels(pixels: torch.Tensor) -> torch.Tensor:
    """pixels uint8 [n, size, size, 3] -> [n, size * size * 3] in 0..1"""
    return pixels.flatten(1).float() / 255


def probe_frames(episodes: Episodes) -> tuple[torch.Tensor, np.ndarray | None]:
    """At most PROBE_FRAMES frames uint8 [n, size, size, 3], spread over `episodes`, and their states [n, D]."""
    frames = episodes.batch(evenly_spaced(episodes.windows(1), PROBE_FRAMES), 1)
    states = frames["state"][:, 0] if "state" in frames else None
    return torch.as_tensor(frames["pixels"][:, 0]), states


def in_chunks(encode: Encode, pixels: torch.Tensor, *, chunk: int = 128) -> torch.Tensor:
    """encode(pixels), at most `chunk` at a time, as float32."""
    return torch.cat([encode(part).float() for part in pixels.split(chunk)])


def _in_span(fit: torch.Tensor, judged: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both [., E] in the orthogonal axes [., n] of centred `fit` [n, E], n < E, by its Gram matrix."""
    mean = fit.mean(dim=0)
    centred = (fit - mean).double()
    values, vectors = torch.linalg.eigh(centred @ centred.T)
    kept = values > values.max() * 1e-12
    roots = values[kept].sqrt()
    axes = centred.T @ (vectors[:, kept] / roots)  # [E, n]
    return vectors[:, kept] * roots, (judged - mean).double() @ axes


def _ridges(x: torch.Tensor, y: np.ndarray) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    """For each of RIDGES, relative to the features' mean variance, the regression from x [n, E] to y [n, D]."""
    x_mean, y_mean = x.double().mean(dim=0), torch.as_tensor(y).double().mean(dim=0)
    centred, targets = x.double() - x_mean, torch.as_tensor(y).double() - y_mean
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    values = values.clamp(min=0)
    moments = vectors.T @ (centred.T @ targets)
    least = torch.finfo(torch.float64).tiny

    def predictor(ridge: float) -> Callable[[torch.Tensor], torch.Tensor]:
        weights = vectors @ (moments / (values + ridge * values.mean() + least)[:, None])
        return lambda features: (features.double() - x_mean) @ weights + y_mean

    return [predictor(ridge) for ridge in RIDGES]


def _mean_or_none(scores: tuple[float, ...]) -> float | None:
    varying = [score for score in scores if not math.isnan(score)]
    return statistics.fmean(varying) if varying else None


def _mean(scores: tuple[float, ...]) -> float:
    mean = _mean_or_none(scores)
    return -math.inf if mean is None else mean
