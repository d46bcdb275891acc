"""One model on several devices: environments are planned side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from fastwm.engine.engine import Engine


class Replicas:
    """Engines of the same model, each on a device of its own; a `Planner` shares its environments out among them.

    An environment's plan is the one that its engine alone would make with the same generator and stream. Observations are
    encoded by the first engine.

        engines = []
        for number in range(torch.cuda.device_count()):
            with torch.cuda.device(number):
                engines.append(fastwm.compile(model, backend="cuda"))
        planner = fastwm.Planner(fastwm.Replicas(engines), fastwm.CEM(), 5)

    Raises TypeError or ValueError for engines that are not of one backend, dtype and predictor, weights and all. Encoders are
    not compared, as the first one's alone is used.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = tuple(engines)
        if not self.engines:
            raise ValueError("engines is empty, expected at least one")
        first = self.engines[0]
        for place, engine in enumerate(self.engines):
            if not hasattr(engine, "spec"):
                raise TypeError(f"engines[{place}] is {type(engine).__name__}, expected a fastwm.Engine")
            for name in ("backend", "dtype", "embed_dim", "action_dim", "window"):
                found, expected = getattr(engine, name), getattr(first, name)
                if found != expected:
                    raise ValueError(
                        f"engines[{place}] has {name} {found}, expected {expected} as engines[0]"
                    )
            if not _same(engine.spec, first.spec):
                raise ValueError(
                    f"engines[{place}] has another predictor or other weights, expected those of engines[0]"
                )
        self.embed_dim, self.action_dim, self.window = first.embed_dim, first.action_dim, first.window
        self.action_mean, self.action_std = first.action_mean, first.action_std
        self.threads, self.action_block = first.threads, first.action_block

    @property
    def observation_dims(self) -> int:
        """Dimensions of one observation: 3 for an image."""
        return self.engines[0].observation_dims

    def encode(self, obs: Tensor | np.ndarray) -> Tensor:
        """Latents by the first engine: see `Engine.encode`."""
        return self.engines[0].encode(obs)

    def rollout(
        self,
        context: Tensor,
        actions: Tensor,
        past_actions: Tensor | None = None,
        *,
        keep: Literal["last", "all"] = "last",
        seconds: float | None = None,
    ) -> Tensor:
        """By the first engine: see `Engine.rollout`. A search's rollouts are those of all."""
        return self.engines[0].rollout(context, actions, past_actions, keep=keep, seconds=seconds)

    def info(self) -> dict[str, Any]:
        """The first engine's, with "replicas", where each one runs."""
        return self.engines[0].info() | {"replicas": [str(engine.device) for engine in self.engines]}

    def __repr__(self) -> str:
        return f"Replicas({list(self.engines)})"


def _same(one: Any, other: Any) -> bool:
    """Whether two values, of dataclasses, sequences and tensors, are equal to the bit."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one.cpu(), other.cpu())
    if dataclasses.is_dataclass(one):
        return all(
            _same(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one)
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
