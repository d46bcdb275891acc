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

PROBE_CLIPS = 1024  # of each side; fewer where they and their features would not fit into PROBE_NUMBERS
PROBE_NUMBERS = 2**27
FEW = (
    64  # labelled clips of the small probe, as self-supervised encoders are judged: most know enough of 1024
)
RIDGES = (1e-6, 1e-4, 1e-2, 1.0, 100.0)
PROBES = ("probe_r2", "probe_r2_few")
COLUMNS = ("effective_rank", "latent_std", "latent_std_least", *PROBES, "probe_r2_worst")
BASELINES = tuple(f"{probe}_{baseline}" for probe in PROBES for baseline in ("pixels", "untrained"))

Pixels = torch.Tensor  # uint8 [n, frames, size, size, 3]
Row = dict[str, float | None]


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


@dataclasses.dataclass(frozen=True)
class Judged:
    """What an encoder is measured on.

    frames, frame_skip: of a clip; what is probed is the state at its last frame. pooled: the probe sees the mean of a clip's
    tokens, else all of them side by side, as world models on frozen features do: a mean forgets where things are.
    """

    training: Episodes
    validation: Episodes
    frames: int = 1
    frame_skip: int = 1
    pooled: bool = True


def clips(
    episodes: Episodes, frames: int = 1, frame_skip: int = 1, most: int = PROBE_CLIPS
) -> tuple[Pixels, np.ndarray | None]:
    """At most `most` clips, spread over `episodes`, and states [n, D] of their last frames."""
    starts = evenly_spaced(episodes.windows(frames, frame_skip=frame_skip), most)
    found = episodes.batch(starts, frames, frame_skip=frame_skip)
    return torch.as_tensor(found["pixels"]), found["state"][:, -1] if "state" in found else None


def measure(encoder: VisionEncoder, judged: Judged) -> Row:
    """Each of COLUMNS for `encoder` on held-out clips; probes, fitted on training clips, are None without states."""

    def encode(pixels: Pixels) -> torch.Tensor:
        return encoder.tokens(pixels.to(encoder.colour_mean.device)).cpu()

    (fit, fit_states), (tokens, states) = _encoded(encode, judged, _most(encoder))
    spread = measure_spread(tokens.mean(dim=1))
    features = [side.mean(dim=1) if judged.pooled else side.flatten(1) for side in (fit, tokens)]
    probes, scores = _probes(features[0], fit_states, features[1], states)
    return {
        "effective_rank": spread.effective_rank,
        "latent_std": spread.std_mean,
        "latent_std_least": spread.std_least,
        **probes,
        "probe_r2_worst": min((score for score in scores if not math.isnan(score)), default=None),
    }


def measure_baselines(trained: VisionEncoder, judged: Judged) -> Row:
    """Each of BASELINES: the same probes on raw pixels and on an encoder as `trained` with random weights: what to beat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untrained = VisionEncoder(ViT(trained.config)).eval()
    untrained.set_colours(trained.colour_mean.cpu(), trained.colour_std.cpu())
    sides = _encoded(lambda pixels: pixels.flatten(1).float() / 255, judged, _most(trained))
    pixels, _ = _probes(*sides[0], *sides[1])
    random = measure(untrained, judged)
    found = {f"{name}_pixels": pixels[name] for name in PROBES}
    return found | {f"{name}_untrained": random[name] for name in PROBES}


@torch.inference_mode()
def _encoded(
    encode: Callable[[Pixels], torch.Tensor], judged: Judged, most: int, *, chunk: int = 64
) -> list[tuple[torch.Tensor, np.ndarray | None]]:
    """Of the training and the held-out clips: encode(pixels), at most `chunk` at a time, as float32; and the states."""
    found = []
    for episodes in (judged.training, judged.validation):
        pixels, states = clips(episodes, judged.frames, judged.frame_skip, most)
        found.append((torch.cat([encode(part).float() for part in pixels.split(chunk)]), states))
    return found


def _probes(
    fit: torch.Tensor, fit_states: np.ndarray | None, judged: torch.Tensor, states: np.ndarray | None
) -> tuple[Row, tuple[float, ...]]:
    """PROBES of features [n, E], averaged over the state's dimensions, and `probe_r2` of each of these."""
    if fit_states is None or states is None:
        return dict.fromkeys(PROBES), ()
    all_clips = probe_r2(fit, fit_states, judged, states)
    some = evenly_spaced(np.arange(len(fit)), FEW)
    few = probe_r2(fit[some], fit_states[some], judged, states)
    return {"probe_r2": _mean_or_none(all_clips), "probe_r2_few": _mean_or_none(few)}, all_clips


def _most(encoder: VisionEncoder) -> int:
    """How many clips fit, and their tokens."""
    config = encoder.config
    tokens = math.prod(config.grid) * config.width
    return max(2, min(PROBE_CLIPS, PROBE_NUMBERS // max(tokens, config.frames * config.image_size**2 * 3)))


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
