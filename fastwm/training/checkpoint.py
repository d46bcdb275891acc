"""Checkpoints: one safetensors file with weights, optimizer moments and, as JSON in its header, the rest.

One file, so that the rename which replaces the last checkpoint by the next is atomic. There is no random
state to keep: every draw of a step is a function of (seed, step).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from fastwm.models.storage import check_tensors, serialise, write_atomically
from fastwm.training.config import RunConfig

FORMAT = "fastwm.checkpoint"
VERSION = 3
MOMENTS = ("exp_avg", "exp_avg_sq")
UNLEARNED = (
    "threads",
    "tensorboard",
    "device",
    "checkpoint_every",
)  # settings that do not change what is learned


@dataclasses.dataclass(frozen=True)
class Identity:
    """What must be equal for a run to be continued: configurations and a digest of the data."""

    model: dict[str, Any]
    train: dict[str, Any]
    data: str
    recipe: str = ""  # the name of what is trained

    @classmethod
    def of(cls, description: dict[str, Any], config: RunConfig, data: str, recipe: str = "") -> Identity:
        train = dataclasses.asdict(config)
        for name in UNLEARNED:
            del train[name]
        return cls(json.loads(json.dumps(description)), train, data, recipe)


def save_checkpoint(
    path: Path, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, identity: Identity
) -> None:
    """Write the state after `step` steps, atomically."""
    tensors = dict(module.state_dict())
    taken: dict[str, int] = {}  # steps of each parameter: one that had no gradient yet has taken none
    for name, parameter in _optimised(module):
        state = optimizer.state.get(parameter)
        if state:
            taken[name] = int(state["step"])
            for moment in MOMENTS:
                tensors[f"{moment}.{name}"] = state[moment]
    header = {"format": FORMAT, "version": VERSION, "step": step, **dataclasses.asdict(identity)}
    header["sha256"] = _digest(tensors)
    header["behind"] = {name: taken.get(name, 0) for name, _ in _optimised(module) if taken.get(name) != step}
    write_atomically(path, serialise(tensors, {"fastwm": json.dumps(header)}))


def restore_checkpoint(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, identity: Identity
) -> int:
    """Load the checkpoint into `module` and `optimizer`; returns the number of steps done.

    Raises ValueError when it is damaged, of another version, or of a run with another identity.
    """
    header, tensors = _read(path)
    if missing := {"step", "model", "train", "data", "behind"} - header.keys():
        raise ValueError(f"{path} is damaged: its header lacks {sorted(missing)}")
    if header.get("sha256") != _digest(tensors):
        raise ValueError(f"{path} is damaged: its weights are not those that were written")
    if header.get("recipe", identity.recipe) != identity.recipe:
        raise ValueError(
            f"{path} was made with another objective ({header['recipe']} -> {identity.recipe}); resume needs the same"
        )
    for part in ("model", "train"):
        _check_equal(path, part, header[part], getattr(identity, part))
    if header["data"] != identity.data:
        raise ValueError(f"{path} was trained on other data; resume needs the same episodes")
    taken = {name: header["behind"].get(name, header["step"]) for name, _ in _optimised(module)}
    expected = dict(module.state_dict())
    for name, parameter in _optimised(module):
        if taken[name]:
            expected.update({f"{moment}.{name}": parameter for moment in MOMENTS})
    check_tensors(path, expected=expected, found=tensors)

    module.load_state_dict({name: tensors[name] for name in module.state_dict()})
    for name, parameter in _optimised(module):
        if not taken[name]:
            continue
        state: dict[str, torch.Tensor] = {"step": torch.tensor(float(taken[name]))}
        for moment in MOMENTS:  # in the parameter's memory format: the fused step walks both side by side
            state[moment] = torch.empty_like(parameter).detach().copy_(tensors[f"{moment}.{name}"])
        optimizer.state[parameter] = state
    return header["step"]


def _optimised(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(serialise(dict(sorted(tensors.items())), {})).hexdigest()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("fastwm", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (ValueError, OSError, safetensors.SafetensorError) as error:
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
