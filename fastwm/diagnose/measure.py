"""The measurements: of predictions along held-out episodes, and of the ranking of candidates in the world itself.

Errors are squared distances of latents as a share of the latents' variance: 1 is what their mean would get. A low error alone
says nothing, since a model that never moves has one, too: hence the errors of copying, of others' actions, of the mean action.
"""

from __future__ import annotations

import dataclasses
import math
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
ALIKE = 1e-12  # latents whose variance is a smaller share of their mean square differ by rounding alone
RIVALS = 31  # of other sequences, among which the actions taken have to be found


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Everything `fastwm diagnose` tells.

    Of each of `horizons` (blocks ahead): error of the prediction, and with the actions of other sequences (`others`), with the
    mean action (`idle`), of copying the first latent (`copy`); `direction`: the cosine of the predicted to the true change.
    found: share of sequences whose own actions explain their last latent best, among 1 + RIVALS; `found_chance` by chance.
    rank: effective rank of the latents, of `embed_dim`; `spectrum` [E]: shares of their variance, largest first; `std` [E].
    probe: R^2 of a linear probe per number of the state, None for one that does not vary; empty without states. ranking: None
    without a world. Errors are empty where latents do not vary; others, found and found_chance are empty or None where actions
    do not: `unmeasured` says so.
    """

    horizons: tuple[int, ...]
    error: tuple[float, ...]
    others: tuple[float, ...]
    idle: tuple[float, ...]
    copy: tuple[float, ...]
    direction: tuple[float, ...]
    found: float | None
    found_chance: float | None
    rank: float
    embed_dim: int
    spectrum: tuple[float, ...]
    std: tuple[float, ...]
    probe: tuple[float | None, ...]
    ranking: Ranking | None
    sequences: int
    frames: int
    one_picture: bool  # all those frames
    unmeasured: tuple[str, ...]  # what could not be measured, and why

    @property
    def action_dependence(self) -> tuple[float, ...]:
        """Of each horizon: 1 - error / error with others' actions. 0: actions do not matter to the predictions. Empty where
        that is unmeasured.
        """
        pairs = zip(self.error, self.others, strict=True) if self.others else ()
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
    probe: tuple[float | None, ...] = ()
    if "state" in frames:
        fitted = training.batch(evenly_spaced(training.windows(1), FRAMES), 1)
        r2 = linear_probe_r2(
            encode(engine, fitted["pixels"])[:, 0], fitted["state"][:, 0], seen, frames["state"][:, 0]
        )
        probe = tuple(None if math.isnan(value) else value for value in r2)
    variance = seen.var(dim=0, unbiased=False).sum().item()
    one_picture = bool((frames["pixels"] == frames["pixels"][:1]).all())
    latents_vary = variance > ALIKE * seen.square().sum(dim=1).mean().item()
    actions_vary = bool((batch["action"] != batch["action"][:1]).any())
    centred = seen.double() - seen.double().mean(dim=0)
    power = torch.linalg.svdvals(centred).square()
    return Diagnosis(
        horizons=tuple(range(1, horizon + 1)),
        **_errors(engine, latents, actions, variance, latents_vary, actions_vary),
        **(_found(engine, latents, actions, seed) if actions_vary else {"found": None, "found_chance": None}),
        rank=effective_rank(seen),
        embed_dim=seen.shape[1],
        spectrum=tuple((power / power.sum().clamp_min(1e-300)).tolist()),
        std=tuple(seen.std(dim=0, unbiased=len(seen) > 1).tolist()),
        probe=probe,
        ranking=None if world is None else measure_ranking(engine, world, seed=seed),
        sequences=len(starts),
        frames=len(seen),
        one_picture=one_picture,
        unmeasured=_unmeasured(one_picture, len(starts), latents_vary, actions_vary, probe),
    )


def _unmeasured(
    one_picture: bool,
    sequences: int,
    latents_vary: bool,
    actions_vary: bool,
    probe: tuple[float | None, ...],
) -> tuple[str, ...]:
    """What the held-out episodes do not allow to measure, in words."""
    said = []
    if not latents_vary:
        why = (
            "all held-out frames are the same picture"
            if one_picture
            else "all latents of the held-out frames are the same"
        )
        said.append(f"open-loop errors and their direction: {why}")
    if not actions_vary:
        why = (
            "there is one held-out sequence, and no other to take actions from"
            if sequences == 1
            else "all held-out sequences have the same actions"
        )
        said.append(f"dependence on actions: {why}")
    if constant := [str(place) for place, r2 in enumerate(probe) if r2 is None]:
        said.append(
            f"linear probe of the state's numbers {', '.join(constant)}: they do not vary over the held-out frames"
        )
    return tuple(said)


def encode(engine: Engine, pixels: np.ndarray) -> Tensor:
    """pixels [n, T, ...] -> latents [n, T, E]"""
    flat = pixels.reshape(-1, 1, *pixels.shape[2:])
    return engine.encode(flat)[:, 0].view(*pixels.shape[:2], -1)


def _errors(
    engine: Engine, latents: Tensor, actions: Tensor, variance: float, latents_vary: bool, actions_vary: bool
) -> dict[str, Any]:
    if not latents_vary:
        return dict.fromkeys(("error", "others", "idle", "copy", "direction"), ())
    start, truth = latents[:, :1], latents[:, 1:]
    idle = engine.action_mean.expand_as(actions)
    others = actions.roll(1, dims=0)
    candidates = torch.stack([actions, others, idle], dim=1)  # [n, 3, T, A]
    rolled = engine.rollout(start, candidates, keep="all")  # [n, 3, T, E]

    def share(found: Tensor) -> tuple[float, ...]:
        return tuple(((found - truth).square().sum(-1).mean(0) / variance).tolist())

    change, true_change = rolled[:, 0] - start, truth - start
    direction = torch.nn.functional.cosine_similarity(change, true_change, dim=-1).mean(0)
    return {
        "error": share(rolled[:, 0]),
        "others": share(rolled[:, 1]) if actions_vary else (),
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
