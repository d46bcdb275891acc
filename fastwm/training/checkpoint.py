"""Checkpoints: one safetensors file with weights, optimizer moments and, as JSON in its header, the rest.

One file, so that the rename which replaces the last checkpoint by the next is atomic. There is no random
state to keep: every draw of a step is a function of (seed, step).
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from fastwm.models import WorldModel
from fastwm.models.storage import check_tensors, serialise, write_atomically
from fastwm.training.config import TrainConfig

FORMAT = "fastwm.checkpoint"
VERSION = 1
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclasses.dataclass(frozen=True)
class Identity:
    """What must be equal for a run to be continued: configurations and a digest of the data."""

    model: dict[str, Any]
    train: dict[str, Any]
    data: str

    @classmethod
    def of(cls, model: WorldModel, config: TrainConfig, data: str) -> Identity:
        train = dataclasses.asdict(config)
        for name in ("threads", "tensorboard"):  # these do not change what is learned
            del train[name]
        return cls(model.config.to_dict(), train, data)


def save_checkpoint(
    path: Path, step: int, model: WorldModel, optimizer: torch.optim.Optimizer, identity: Identity
) -> None:
    """Write the state after `step` steps, atomically."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for moment in MOMENTS:
            tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    header = {"format": FORMAT, "version": VERSION, "step": step, **dataclasses.asdict(identity)}
    write_atomically(path, serialise(tensors, {"fastwm": json.dumps(header)}))


def restore_checkpoint(
    path: Path, model: WorldModel, optimizer: torch.optim.Optimizer, identity: Identity
) -> int:
    """Load the checkpoint into `model` and `optimizer`; returns the number of steps done.

    Raises ValueError when it is damaged, of another version, or of a run with another identity.
    """
    header, tensors = _read(path)
    for part in ("model", "train"):
        _check_equal(path, part, header[part], getattr(identity, part))
    if header["data"] != identity.data:
        raise ValueError(f"{path} was trained on other data; resume needs the same episodes")
    expected = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        expected.update({f"{moment}.{name}": parameter for moment in MOMENTS})
    check_tensors(path, expected=expected, found=tensors)

    model.load_state_dict({name: tensors[f"model.{name}"] for name in model.state_dict()})
    for name, parameter in model.named_parameters():
        state: dict[str, torch.Tensor] = {"step": torch.tensor(float(header["step"]))}
        for moment in MOMENTS:  # in the parameter's memory format: the fused step walks both side by side
            state[moment] = torch.empty_like(parameter).detach().copy_(tensors[f"{moment}.{name}"])
        optimizer.state[parameter] = state
    return header["step"]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("fastwm", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (ValueError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of fastwm")
    if header.get("version") != VERSION:
        raise ValueError(
            f"{path} is of version {header.get('version')!r}; this fastwm reads version {VERSION}"
        )
    return header, tensors


def _check_equal(path: Path, part: str, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    differing = sorted(name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name))
    if differing:
        changes = ", ".join(f"{name} {saved.get(name)!r} -> {wanted.get(name)!r}" for name in differing)
        raise ValueError(
            f"{path} was made with another {part} configuration ({changes}); resume needs the same"
        )
