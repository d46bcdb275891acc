"""Models on disk: `model.safetensors`, and `config.json` with configuration, metadata and a digest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import safetensors
import safetensors.torch
import torch

from fastwm.models.calibration import LATENTS, PAST_ACTIONS, Calibration
from fastwm.models.config import CONFIG_VERSION, WorldModelConfig

FORMAT = "fastwm.world_model"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


class Described(Protocol):
    """A configuration that can be kept as JSON."""

    @property
    def version(self) -> int: ...

    def to_dict(self) -> dict[str, Any]: ...


Config = TypeVar("Config", bound=Described)


def save(
    directory: str | os.PathLike[str],
    config: Described,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    *,
    form: str = FORMAT,
) -> None:
    """Write both files of a model of kind `form`."""
    values = {name: value for name, value in config.to_dict().items() if name != "version"}
    write_model(directory, form, config.version, values, tensors, metadata)


def load(
    directory: str | os.PathLike[str],
    read: Callable[[Mapping[str, Any]], Config],
    *,
    form: str = FORMAT,
) -> tuple[Config, dict[str, torch.Tensor], dict[str, str]]:
    """Configuration, tensors and metadata of the model in `directory`; ValueError when anything is wrong.

    form: the kind of model that its `config.json` has to name; read: how that describes itself.
    """
    values, tensors, metadata = read_model(directory, form, CONFIG_VERSION)
    try:
        config = read(values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{directory} cannot be read: {error}") from error
    return config, tensors, metadata


def write_model(
    directory: str | os.PathLike[str],
    kind: str,
    version: int,
    config: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
) -> None:
    """Write a model of any kind ("fastwm.world_model", say): its configuration as JSON, its tensors, and their digest.

    A reader that comes between the two renames is told that they do not match.
    """
    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    weights = serialise(tensors)
    description = {
        "format": kind,
        "version": version,
        "config": dict(config),
        "metadata": dict(metadata),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    write_atomically(path / WEIGHTS_FILE, weights)
    write_atomically(path / CONFIG_FILE, (json.dumps(description, indent=2) + "\n").encode())


def read_model(
    directory: str | os.PathLike[str], kind: str, version: int
) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, str]]:
    """Configuration, tensors and metadata that `write_model` wrote; ValueError when anything is wrong."""
    path = Path(directory)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (path / name).is_file():
            raise ValueError(f"{path} holds no {_words(kind)}: {name} is missing")
    description = _read_description(path / CONFIG_FILE, kind, version)
    weights = (path / WEIGHTS_FILE).read_bytes()
    if hashlib.sha256(weights).hexdigest() != description["weights_sha256"]:
        raise ValueError(f"{path / WEIGHTS_FILE} is damaged, or is not the one that {CONFIG_FILE} describes")
    try:
        tensors = safetensors.torch.load(weights)
    except (ValueError, TypeError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return description["config"], tensors, description["metadata"]


def take_calibration(
    directory: str | os.PathLike[str], config: WorldModelConfig, tensors: dict[str, torch.Tensor]
) -> Calibration | None:
    """Remove the calibration contexts from `tensors`; None where there are none, ValueError where they do not fit."""
    latents, past_actions = tensors.pop(LATENTS, None), tensors.pop(PAST_ACTIONS, None)
    if latents is None and past_actions is None:
        return None
    if latents is None or past_actions is None:
        missing = LATENTS if latents is None else PAST_ACTIONS
        raise ValueError(f"{directory}: tensors are missing: {missing}")
    try:
        return Calibration(latents, past_actions).check(
            window=config.window, embed_dim=config.embed_dim, action_dim=config.action_dim
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"{directory}: {error}") from error


def check_tensors(
    directory: str | os.PathLike[str],
    *,
    expected: Mapping[str, torch.Tensor],
    found: Mapping[str, torch.Tensor],
) -> None:
    """ValueError unless `found` has exactly the names, shapes and dtypes of `expected`, and finite values."""
    if missing := sorted(set(expected) - set(found)):
        raise ValueError(f"{directory}: tensors are missing: {', '.join(missing)}")
    if unknown := sorted(set(found) - set(expected)):
        raise ValueError(f"{directory}: tensors are not part of this model: {', '.join(unknown)}")
    for name, tensor in found.items():
        want = expected[name]
        if tensor.shape != want.shape or tensor.dtype != want.dtype:
            came, wanted = f"{tensor.dtype} {list(tensor.shape)}", f"{want.dtype} {list(want.shape)}"
            raise ValueError(f"{directory}: tensor {name} is {came}; expected {wanted}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{directory}: tensor {name} holds values that are not finite")
        if name == "action_std" and not (tensor > 0).all():
            raise ValueError(f"{directory}: tensor action_std is {tensor.tolist()}; expected values above 0")
        if name.endswith("running_var") and not (tensor >= 0).all():
            raise ValueError(f"{directory}: tensor {name} holds negative variances")


def serialise(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file as bytes, of tensors on any device and in any memory format."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(plain, None if metadata is None else dict(metadata))


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write beside `path`, flush to the disk, rename: `path` is the old file or the new one, never a part."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:  # a full disk does not say of which file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _words(kind: str) -> str:
    """The name of a kind of model in errors: "world model"."""
    return kind.removeprefix("fastwm.").replace("_", " ")


def _read_description(path: Path, kind: str, version: int) -> dict[str, Any]:
    try:
        description = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(description, dict) or description.get("format") != kind:
        raise ValueError(f"{path} does not describe a fastwm {_words(kind)} (its format is not {kind})")
    if description.get("version") != version:
        came = description.get("version")
        raise ValueError(f"{path} is of version {came!r}; this fastwm reads version {version}")
    for name, expected in (("config", dict), ("metadata", dict), ("weights_sha256", str)):
        if not isinstance(description.get(name), expected):
            raise ValueError(f"{path} is damaged: {name} is missing or not a {expected.__name__}")
    return description
