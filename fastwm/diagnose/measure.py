"""The measurements: of predictions along held-out episodes, and of the ranking of candidates in the world itself.

Errors are squared distances of latents as a share of the latents' variance: 1 is what their mean would get. A low error alone
says nothing, since a model that never moves has one, too: hence the errors of copying, of others' actions, of the mean action.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastwm.data import Episodes
from fastwm.diagnose.ranking import Ranking, measure_ranking
from fastwm.engine.engine import Engine
from fastwm.envs import World
from fastwm.training.health import effective_rank, linear_probe_r2
from fastwm.training.sampler import evenly_spaced

LONGEST = 15  # blocks ahead
SEQUENCES = 128
FRAMES = 512  # for rank and probe
RIVALS = 31  # of other sequences, among which the actions taken have to be found


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Everything `fastwm diagnose` tells.

    Of each of `horizons` (blocks ahead): error of the prediction, and with the actions of other sequences (`others`), with the
    mean action (`idle`), of copying the first latent (`copy`); `direction`: the cosine of the predicted to the true change.
    found: share of sequences whose own actions explain their last latent best, among 1 + RIVALS; `found_chance` by chance.
    rank: effective rank of the latents, of `embed_dim`; `spectrum` [E]: shares of their variance, largest first; `std` [E].
    probe: R^2 of a linear probe per number of the state; empty without states. ranking: None without a world.
    """

    horizons: tuple[int, ...]
    error: tuple[float, ...]
    others: tuple[float, ...]
    idle: tuple[float, ...]
    copy: tuple[float, ...]
    direction: tuple[float, ...]
    found: float
    found_chance: float
    rank: float
    embed_dim: int
    spectrum: tuple[float, ...]
    std: tuple[float, ...]
    probe: tuple[float, ...]
    ranking: Ranking | None
    sequences: int
    frames: int

    @property
    def action_dependence(self) -> tuple[float, ...]:
        """Of each horizon: 1 - error / error with others' actions. 0: actions do not matter to the predictions."""
        pairs = zip(self.error, self.others, strict=True)
        return tuple(1 - mine / theirs if theirs > 0 else 0.0 for mine, theirs in pairs)

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "action_dependence": self.action_dependence}


def diagnose(
    engine: Engine, training: Episodes, validation: Episodes, world: World | None = None, *, seed: int = 0
) -> Diagnosis:
    """Measure `engine` on episodes that it was not trained on, and in `world` where there is one.

    training: fits the linear probe, nothing else. Raises ValueError where no held-out episode holds a block of actions.
    """
    skip = engine.action_block
    numbers = validation.action_dim * skip
    if numbers != engine.action_dim:
        raise ValueError(
            f"action blocks of the data hold {numbers} numbers; the model takes {engine.action_dim}"
        )
    windows = {h: validation.windows(h + 1, frame_skip=skip) for h in range(1, LONGEST + 1)}
    horizon = max((h for h, rows in windows.items() if len(rows)), default=0)
    if horizon == 0:
        raise ValueError(f"{validation.path} has no held-out episode of more than {skip} frames")
    starts = evenly_spaced(windows[horizon], SEQUENCES)
    batch = validation.batch(starts, horizon + 1, frame_skip=skip, columns=("pixels", "action"))
    latents = encode(engine, batch["pixels"])  # [n, T+1, E]
    actions = torch.as_tensor(batch["action"])  # [n, T, A]
    frames = validation.batch(evenly_spaced(validation.windows(1), FRAMES), 1)
    seen = encode(engine, frames["pixels"])[:, 0]
    probe: tuple[float, ...] = ()
    if "state" in frames:
        fitted = training.batch(evenly_spaced(training.windows(1), FRAMES), 1)
        probe = linear_probe_r2(
            encode(engine, fitted["pixels"])[:, 0], fitted["state"][:, 0], seen, frames["state"][:, 0]
        )
    variance = seen.var(dim=0, unbiased=False).sum().item()
    centred = seen.double() - seen.double().mean(dim=0)
    power = torch.linalg.svdvals(centred).square()
    return Diagnosis(
        horizons=tuple(range(1, horizon + 1)),
        **_errors(engine, latents, actions, variance),
        **_found(engine, latents, actions, seed),
        rank=effective_rank(seen),
        embed_dim=seen.shape[1],
        spectrum=tuple((power / power.sum().clamp_min(1e-300)).tolist()),
        std=tuple(seen.std(dim=0).tolist()),
        probe=probe,
        ranking=None if world is None else measure_ranking(engine, world, seed=seed),
        sequences=len(starts),
        frames=len(seen),
    )


def encode(engine: Engine, pixels: np.ndarray) -> Tensor:
    """pixels [n, T, ...] -> latents [n, T, E]"""
    flat = pixels.reshape(-1, 1, *pixels.shape[2:])
    return engine.encode(flat)[:, 0].view(*pixels.shape[:2], -1)


def _errors(engine: Engine, latents: Tensor, actions: Tensor, variance: float) -> dict[str, Any]:
    start, truth = latents[:, :1], latents[:, 1:]
    idle = engine.action_mean.expand_as(actions)
    others = actions.roll(1, dims=0)
    candidates = torch.stack([actions, others, idle], dim=1)  # [n, 3, T, A]
    rolled = engine.rollout(start, candidates, keep="all")  # [n, 3, T, E]
    scale = max(variance, 1e-300)

    def share(found: Tensor) -> tuple[float, ...]:
        return tuple(((found - truth).square().sum(-1).mean(0) / scale).tolist())

    change, true_change = rolled[:, 0] - start, truth - start
    direction = torch.nn.functional.cosine_similarity(change, true_change, dim=-1).mean(0)
    return {
        "error": share(rolled[:, 0]),
        "others": share(rolled[:, 1]),
        "idle": share(rolled[:, 2]),
        "copy": share(start.expand_as(truth)),
        "direction": tuple(direction.tolist()),
    }


def _found(engine: Engine, latents: Tensor, actions: Tensor, seed: int) -> dict[str, Any]:
    """How often the actions that were taken explain where they led better than those of other sequences."""
    count = len(actions)
    rivals = min(RIVALS, count - 1)
    rng = np.random.default_rng(seed)
    others = torch.as_tensor(
        np.stack([(i + 1 + rng.permutation(count - 1)[:rivals]) % count for i in range(count)])
    )
    candidates = torch.cat([actions[:, None], actions[others]], dim=1)  # [n, 1 + rivals, T, A]
    ends = engine.rollout(latents[:, :1], candidates)  # [n, 1 + rivals, E]
    distance = (ends - latents[:, -1:]).square().sum(-1)
    best = (distance[:, :1] < distance[:, 1:]).all(dim=1)
    return {"found": best.float().mean().item(), "found_chance": 1 / (1 + rivals)}
