"""What a LatentWAM's optional heads learn from: the columns `reward` and `terminated` of episodes that have them.

Action t leads from frame t to frame t + 1; what it earned, and whether the episode ended with it, stands in row t or in row
t + 1, which data does not say of itself (`Rows`). A block of several steps earns their sum and ends with any of them. NaN is
not known, and teaches nothing.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fastwm.data import Episodes
from fastwm.models.wam import LatentWAM, LatentWAMConfig
from fastwm.objectives.processes import total
from fastwm.training.sampler import evenly_spaced

COLUMNS = {"reward": "reward", "termination": "terminated"}  # head: column
Rows = Literal["action", "frame"]  # that outcomes stand in: of the action, or of the frame that it led to
JUDGED = 2048  # windows that the rewards' statistics are of


def heads(config: LatentWAMConfig) -> tuple[str, ...]:
    """The heads that there are."""
    return tuple(name for name in COLUMNS if getattr(config, f"{name}_head"))


def columns(config: LatentWAMConfig) -> tuple[str, ...]:
    """The columns that they learn from."""
    return tuple(COLUMNS[name] for name in heads(config))


def check(config: LatentWAMConfig, episodes: Episodes) -> None:
    """ValueError unless the data has the columns, with one number in each row."""
    for name in heads(config):
        column = COLUMNS[name]
        if column not in episodes.columns:
            raise ValueError(
                f"{name}_head is True, but {episodes.path} has no column {column!r}; it has {list(episodes.columns)}"
            )
        shape = episodes.shapes[column].shape
        if np.prod(shape, dtype=int) != 1:
            raise ValueError(f"column {column!r} has {list(shape)} in each row; expected one number")


def read(
    config: LatentWAMConfig,
    episodes: Episodes,
    starts: NDArray[np.int64],
    length: int,
    rows_of: Rows = "action",
) -> dict[str, NDArray[np.float32]]:
    """Of windows of `length` frames, what each block earned and whether it ended the episode: float32 [b, length - 1]."""
    names, skip = columns(config), config.action_block
    if not names:
        return {}
    rows = episodes.batch(starts + (rows_of == "frame"), (length - 1) * skip, columns=names)
    blocks = {name: np.float32(values).reshape(-1, length - 1, skip) for name, values in rows.items()}
    return {name: each.sum(2) if name == "reward" else each.max(2) for name, each in blocks.items()}


def prepare(
    model: LatentWAM, training: Episodes, windows: NDArray[np.int64], length: int, rows_of: Rows = "action"
) -> None:
    """Give a reward head the mean and standard deviation of the blocks' rewards; ValueError where none is known."""
    if not model.config.reward_head:
        return
    rewards = read(model.config, training, evenly_spaced(windows, JUDGED), length, rows_of)["reward"]
    known = rewards[np.isfinite(rewards)].astype(np.float64)
    if not known.size:
        raise ValueError(
            f"{training.path}: column 'reward' holds no finite number that reward_head could learn"
        )
    std = float(known.std())
    model.reward_mean.fill_(float(known.mean()))
    model.reward_std.fill_(std if std > 1e-6 else 1.0)


def losses(
    model: LatentWAM, latents: Tensor, rolled: Tensor, actions: Tensor, now: int, batch: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Of the heads that there are, the mean over all that is known, on all processes: the squared error in the variance of the
    rewards, the cross-entropy of an end.

    latents [b, F+1, E]: frames, then the goal's, the only one that an episode's end is often among; rolled [b, n, E]: predicted
    from frame `now` on, as a head that has seen frames alone fails on predictions; actions [b, L-1, A], clean; batch: of
    the recipe.
    """
    found: dict[str, Tensor] = {}
    if not heads(model.config):
        return found
    rows, device = torch.arange(len(rolled), device=rolled.device), rolled.device
    frames, steps = latents.shape[1] - 1, rolled.shape[1]
    places = (  # of the blocks that led there
        torch.arange(frames - 1, device=device).expand(len(rows), -1),
        now + batch["goal"][:, None] - 1,
        now + torch.arange(steps, device=device).expand(len(rows), -1),
    )
    place = torch.cat(places, dim=1)  # [b, F + n]
    reached, blocks = torch.cat([latents[:, 1:], rolled], dim=1), actions[rows[:, None], place]
    known = batch["action"].isfinite().flatten(1).all(1)  # [b]
    for name in heads(model.config):
        target = batch[COLUMNS[name]][rows[:, None], place]
        counts = target.isfinite() & known[:, None]
        target = torch.where(counts, target, 0.0)
        said = getattr(model, f"{name}_head")(reached, model.normalise(blocks))
        with torch.autocast(device.type, enabled=False):
            if name == "reward":
                each = (said - (target - model.reward_mean) / model.reward_std).square()
            else:
                each = F.binary_cross_entropy_with_logits(said, target, reduction="none")
            summed = total(torch.where(counts, each, 0.0).sum())
            found[name] = summed / total(counts.sum().float()).clamp(min=1)
    return found


@torch.no_grad()
def errors(
    model: LatentWAM, latents: Tensor, actions: Tensor, batch: dict[str, Tensor]
) -> dict[str, float | None]:
    """Mean squared errors: of rewards in their training variance, of probabilities of an end. None where nothing is known."""
    found: dict[str, float | None] = {}
    for name in heads(model.config):
        target = batch[COLUMNS[name]].to(latents.device)
        if name == "reward":
            error = (model.reward(latents, actions) - target) / model.reward_std
        else:
            error = 1 - model.survival(latents, actions) - target
        known = error[error.isfinite()]
        found[f"{name}_error"] = known.square().mean().item() if len(known) else None
    return found
