"""What a LatentWAM reads from tokens and latents: the next latent, actions, how far a goal is, what a block earned."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LatentHead(nn.Module):
    """z + f(token) with a last layer of zeros: at first the next latent is the last one, which learns far faster."""

    def __init__(self, width: int, hidden: int, embed_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, embed_dim)
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """latents [..., E], tokens [..., W] -> [..., E]"""
        return latents + self.fc2(F.gelu(self.fc1(tokens))).to(latents.dtype)


class DistanceHead(nn.Module):
    """Action blocks from a latent to a goal's, 0 .. about `reach`: reachability, or minus a value."""

    def __init__(self, embed_dim: int, hidden: int, reach: int) -> None:
        super().__init__()
        self.reach = reach
        self.fc1 = nn.Linear(2 * embed_dim, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, 1)

    def forward(self, latents: Tensor, goal: Tensor) -> Tensor:
        """latents [..., E], goal [..., E] -> [...], at least 0"""
        x = torch.cat([latents, goal - latents], dim=-1)
        return self.reach * F.softplus(self.fc3(F.silu(self.fc2(F.silu(self.fc1(x)))))[..., 0]).float()


class OutcomeHead(nn.Module):
    """One number of a block of actions and the latent that it led to: a reward, the log-odds of an end."""

    def __init__(self, embed_dim: int, action_dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim + action_dim, hidden)
        self.fc2 = nn.Linear(hidden, 1)

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        """latents [..., E], normalised actions [..., A] -> [...]"""
        x = torch.cat([latents, actions.to(latents.dtype)], dim=-1)
        return self.fc2(F.silu(self.fc1(x)))[..., 0].float()


class MixtureHead(nn.Module):
    """A Gaussian mixture over a whole chunk: one choice of component for all its blocks, so that plans are of one mind."""

    def __init__(self, width: int, action_dim: int, components: int) -> None:
        super().__init__()
        self.components = components
        self.weights = nn.Linear(width, components)
        self.moments = nn.Linear(width, 2 * components * action_dim)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """tokens [B, T, W] -> log weights [B, M], means [B, M, T, A], log standard deviations [B, M, T, A]"""
        weights = self.weights(tokens[:, 0]).float().log_softmax(-1)
        moments = self.moments(tokens).float().unflatten(-1, (2, self.components, -1))
        mean, spread = moments.permute(2, 0, 3, 1, 4)
        return weights, mean, -2.5 + 3.0 * torch.sigmoid(spread)  # std 0.08 .. 1.6 of the training actions'


def mixture_log_prob(mixture: tuple[Tensor, Tensor, Tensor], actions: Tensor) -> Tensor:
    """Exact log-probability [...] of chunks [..., T, A] in the mixture's units: weights [..., M], moments [..., M, T, A]."""
    weights, mean, spread = mixture
    error = (actions[..., None, :, :] - mean) * torch.exp(-spread)
    each = -0.5 * error.square() - spread - 0.5 * math.log(2 * math.pi)
    return torch.logsumexp(weights + each.sum(dim=(-2, -1)), dim=-1)


def mixture_sample(
    mixture: tuple[Tensor, Tensor, Tensor],
    n: int,
    generator: torch.Generator | None,
    temperature: float = 1.0,
) -> Tensor:
    """n chunks of each: [B, n, T, A], normalised. temperature: of the noise; with 0 the likeliest component's mean."""
    weights, mean, spread = mixture
    if temperature == 0.0:
        chosen = weights.argmax(1, keepdim=True).expand(-1, n)
    else:
        chosen = torch.multinomial(weights.exp().cpu(), n, replacement=True, generator=generator)
    index = chosen.to(mean.device)[:, :, None, None].expand(-1, -1, *mean.shape[2:])
    noise = torch.randn(index.shape, generator=generator).to(mean)
    return mean.gather(1, index) + temperature * spread.gather(1, index).exp() * noise


class TimeEmbedding(nn.Module):
    """Flow time 0..1 as the condition of action slots: sines and cosines, then an MLP."""

    def __init__(self, width: int, frequencies: int = 32) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.fc1 = nn.Linear(2 * frequencies, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, time: Tensor) -> Tensor:
        """[B] -> [B, 1, W]"""
        frequency = torch.exp(torch.linspace(0.0, math.log(100.0), self.frequencies, device=time.device))
        angle = 2 * math.pi * time[:, None] * frequency / 10.0
        wave = torch.cat([angle.cos(), angle.sin()], dim=-1)
        return self.fc2(F.silu(self.fc1(wave)))[:, None]
