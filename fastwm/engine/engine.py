"""The engine: a model's encoder, and its predictor compiled for this machine."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np
import torch
from torch import Tensor

from fastwm.engine.backend import own_precision
from fastwm.engine.pack import PackedPredictor
from fastwm.engine.spec import PredictorSpec
from fastwm.models.calibration import Calibration
from fastwm.ops._check import from_array
from fastwm.ops.rollout import check_rollout, one_by_one
from fastwm.ops.rollout import rollout as packed_rollout

if TYPE_CHECKING:
    from fastwm.engine.cuda.predictor import DevicePredictor


@dataclasses.dataclass
class Imported:
    """What an importer makes of a model.

    encode: one observation -> one latent [E], in the model's own dtype and device; called frame by frame, so that a latent
    does not depend on what else is encoded with it. observation: shape and dtype that encode takes, for messages.
    calibration: contexts of real episodes that came with the model. action_block: environment steps in an action block.
    """

    spec: PredictorSpec
    encode: Callable[[Tensor], Tensor]
    observation: tuple[tuple[int | None, ...], torch.dtype]
    action_mean: Tensor  # [A] environment units
    action_std: Tensor  # [A]
    family: str
    calibration: Calibration | None = None
    action_block: int = 1


class Engine:
    """Made by `fastwm.compile`. Safe to use from several threads at once; results are the same bits for every number of
    threads, every B and, but for the torch backend, every place of a candidate in the batch.

    After a fork a child may call `rollout` with contiguous arguments; PyTorch's own threads, and so `encode`, need a child
    that was spawned and compiles its own engine, or `OMP_NUM_THREADS=1`.

    Letters: B environments, S candidates, T horizon in action blocks, K context frames, E embedding, A numbers in one block.
    embed_dim is E, action_dim A, window the most K, action_block the environment steps in a block; action_mean and action_std
    [A] are those of the training actions, in environment units; backend, dtype and threads are what runs, device where.
    """

    def __init__(
        self,
        imported: Imported,
        *,
        backend: str,
        dtype: str,
        threads: int,
        isa: str,
        why: dict[str, str],
        packed: PackedPredictor | DevicePredictor | None = None,
        ranking_gate: dict[str, Any] | None = None,
    ) -> None:
        self.spec = imported.spec
        self.backend, self.dtype, self.threads = backend, dtype, threads
        self.embed_dim, self.action_dim = imported.spec.embed_dim, imported.spec.action_dim
        self.window, self.action_block = imported.spec.window, imported.action_block
        self.action_mean, self.action_std = imported.action_mean, imported.action_std
        self._imported, self._why, self._isa = imported, why, isa
        self._packed, self._ranking_gate = packed, ranking_gate
        self.device = packed.device if backend == "cuda" else torch.device("cpu")  # type: ignore[union-attr]

    @torch.no_grad()
    def encode(self, obs: Tensor | np.ndarray) -> Tensor:
        """Latents of observations: [...] or [B, ...] or [B, K, ...] -> [B, K, E] float32 (B and K are 1 where left out).

        `...` is one observation of the model: uint8 [size, size, 3] for fastwm's models, float32 [3, height, width],
        normalised as in training, for stable-worldmodel's. Raises TypeError or ValueError for another dtype or shape, or
        numbers that are not finite.
        """
        shape, dtype = self._imported.observation
        expected = f"{str(dtype).removeprefix('torch.')} [B, K, {', '.join('any' if n is None else str(n) for n in shape)}]"
        if isinstance(obs, np.ndarray):
            obs = from_array("obs", obs)
        if not isinstance(obs, Tensor):
            raise TypeError(f"obs is {type(obs).__name__}, expected a tensor or array {expected}")
        if obs.dtype != dtype:
            raise TypeError(f"obs is {str(obs.dtype).removeprefix('torch.')}, expected {expected}")
        leading = obs.ndim - len(shape)
        if not 0 <= leading <= 2 or any(
            n not in (None, m) for n, m in zip(shape, obs.shape[leading:], strict=True)
        ):
            raise ValueError(
                f"obs has shape {tuple(obs.shape)}, expected {expected} (B and K may be left out)"
            )
        if obs.is_floating_point() and not torch.isfinite(obs).all():
            raise ValueError("obs holds numbers that are not finite")
        while obs.ndim < len(shape) + 2:
            obs = obs[None] if obs.ndim == len(shape) else obs[:, None]
        B, K = obs.shape[:2]
        if B == 0 or K == 0:
            raise ValueError(f"obs has shape {tuple(obs.shape)}, expected at least one frame")
        with own_precision():
            latents = [self._imported.encode(frame) for frame in obs.flatten(0, 1)]
        return torch.stack(latents).to("cpu", torch.float32).view(B, K, self.embed_dim)

    @property
    def observation_dims(self) -> int:
        """Dimensions of one observation: 3 for an image."""
        return len(self._imported.observation[0])

    def rollout(
        self,
        context: Tensor,
        actions: Tensor,
        past_actions: Tensor | None = None,
        *,
        keep: Literal["last", "all"] = "last",
        seconds: float | None = None,
    ) -> Tensor:
        """Predicted latents after each candidate's actions: [B, S, E] after the last block, or [B, S, T, E] with keep="all".

        context [B, K, E]: latents of the last K frames, 1 <= K <= window. actions [B, S, T, A] in environment units.
        past_actions [B, K-1, A]: blocks executed between the context frames, needed when K > 1. All float32 on the CPU; or,
        with backend "cuda", on the engine's device, where numbers that are not finite are not looked for: that would wait for
        it. The latents are where the actions are.
        seconds: the time to start work in: latents of candidates that were not started by then are NaN. A GPU starts all of
        them, or none if it is 0 or less.
        Gradients flow to the arguments that ask for them, through the reference in PyTorch, in float32.
        Equal to the model's own sliding-window rollout within the dtype's tolerance.
        Raises TypeError or ValueError, naming the argument, before any work.
        """
        if keep not in ("last", "all"):
            raise ValueError(f"keep is {keep!r}, expected 'last' or 'all'")
        if self.backend == "cuda":
            return self._on_device(context, actions, past_actions, keep=keep, seconds=seconds)
        if self._packed is not None:
            all_steps = keep == "all"
            return packed_rollout(
                self._packed,  # type: ignore[arg-type]
                context,
                actions,
                past_actions,
                keep_all=all_steps,
                seconds=seconds,
                threads=self.threads,
            )
        past_actions = check_rollout(self.spec, context, actions, past_actions)
        latents = one_by_one(self.spec, context, actions, past_actions, seconds)
        return latents if keep == "all" else latents[:, :, -1]

    def _on_device(
        self,
        context: Tensor,
        actions: Tensor,
        past_actions: Tensor | None,
        *,
        keep: Literal["last", "all"],
        seconds: float | None,
    ) -> Tensor:
        from fastwm.engine.cuda.device import on

        given = [x for x in (context, actions, past_actions) if isinstance(x, Tensor)]
        wants = torch.is_grad_enabled() and any(x.requires_grad for x in given)
        past_actions = check_rollout(self.spec, context, actions, past_actions, self.device)
        if wants:
            found = one_by_one(self.spec.to(context.device), context, actions, past_actions, seconds)
            return found if keep == "all" else found[:, :, -1]
        if seconds is not None and seconds <= 0:
            shape = actions.shape[: 3 if keep == "all" else 2]
            return actions.new_full((*shape, self.embed_dim), torch.nan)
        with on(self.device):
            inputs = (x.to(self.device) for x in (context, actions, past_actions))
            latents = self._packed.rollout(*inputs, keep_all=keep == "all")  # type: ignore[union-attr]
        return latents.to(actions.device)

    def info(self) -> dict:
        """What runs and why: backend, instruction set, dtype, threads, sizes, weight bytes, ranking gate.

        "ranking_gate" is None where no dtype was judged; else it says where the "calibration" contexts came from, and for
        every dtype that was judged its overlap, its regret (fastwm/engine/ranking.py) and whether it passed.
        """
        spec = self.spec
        weights = self._packed.weight_bytes if self._packed else 0
        return {
            "model": self._imported.family,
            "backend": self.backend,
            "isa": self._isa,
            "dtype": self.dtype,
            "threads": self.threads,
            "weight_bytes": weights,
            "dynamics": spec.dynamics,
            "embed_dim": spec.embed_dim,
            "action_dim": spec.action_dim,
            "window": spec.window,
            "layers": len(spec.layers),
            "ranking_gate": copy.deepcopy(self._ranking_gate),
            "why": dict(self._why),
        }

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an Engine cannot be pickled or copied: it holds packed weights; compile the model where it is used"
        )

    def __repr__(self) -> str:
        return (
            f"Engine({self._imported.family}, backend={self.backend!r}, isa={self._isa!r}, dtype={self.dtype!r}, "
            f"threads={self.threads})"
        )
