"""What the solvers share: settings, the random stream, the batches of environments, callbacks and outputs.

stable-worldmodel's solvers search for one batch of environments after another. Draws are made here in that order, batch by
batch and step by step, and given to fastwm's search as noise; on the engine several batches are then searched at once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

import torch
from gymnasium.spaces import Box, Space
from torch import Tensor

from fastwm.engine.engine import Engine
from fastwm.integrations.stable_worldmodel.compiled import Compiled
from fastwm.integrations.stable_worldmodel.costs import EngineCost, OwnCost, engine_cost
from fastwm.integrations.stable_worldmodel.recognise import Known, NotOnEngine
from fastwm.planning.clock import Clock
from fastwm.planning.draws import Draws
from fastwm.planning.sampling import Sampling
from fastwm.planning.search import Found, Iteration, search

logger = logging.getLogger(__name__)

ENVIRONMENTS_AT_ONCE = 64  # on the engine; bounds the memory of draws and candidates


class Solver:
    """Settings and `solve` of stable-worldmodel's solvers; satisfies its `Solver` protocol.

    cost or model: what to plan with, under either of its names. A known one (`recognise.py`) runs on the engine, anything else
    that has `get_cost` through it, which is logged once.
    backend, threads: as in `fastwm.compile`. dtype: of the engine; "float32" gives the actions of their solver, "auto" the
    fastest that passes fastwm's ranking gate. With a backend or a narrow dtype asked for by name, a cost that the engine does
    not know is a ValueError.
    The other arguments are those of the solver that is replaced. Not for several threads at once, as theirs are not.
    """

    def __init__(
        self,
        cost: Any,
        model: Any,
        *,
        batch_size: int,
        num_samples: int,
        n_steps: int,
        topk: int | None,
        device: str | torch.device,
        seed: int,
        callbacks: list[Any] | None,
        backend: str,
        dtype: str,
        threads: int | None,
    ) -> None:
        if (cost is None) == (model is None):
            raise TypeError("give the cost as `cost` (main branch) or `model` (release), and not both")
        self.cost = model if cost is None else cost
        self._compiled = Compiled(backend, dtype, threads)
        self.release = cost is None  # where the generations differ, the release's ways
        self.batch_size, self.num_samples, self.n_steps, self.topk = batch_size, num_samples, n_steps, topk
        self.device = device
        self.torch_gen = torch.Generator(device=device).manual_seed(seed)
        self.callbacks = list(callbacks) if callbacks else []
        try:
            self._dtype = next(self.cost.parameters()).dtype
        except (AttributeError, StopIteration):
            self._dtype = torch.float32
        self._configured = False

    # ---- their protocol ------------------------------------------------------------------------------------------------

    def configure(self, *, action_space: Space, n_envs: int, config: Any) -> None:
        """The environments' actions [n_envs, ...], their number, and a PlanConfig. Compiles the model as it is now."""
        self._action_space, self._n_envs, self._config = action_space, n_envs, config
        self._configure(action_space)
        self._configured = True
        self._compiled.forget()
        found = self._compiled.find(self.cost, self.device)
        if isinstance(found, NotOnEngine):
            self._compiled.give_up(found, type(self).__name__)

    def _configure(self, action_space: Space) -> None:
        self._action_dim = math.prod(action_space.shape[1:])  # type: ignore[index]
        if not isinstance(action_space, Box):
            logger.warning(
                "The action space is discrete (%s), %s expects numbers", action_space, type(self).__name__
            )

    @property
    def model(self) -> Any:
        """The cost, under the release's name."""
        return self.cost

    @model.setter
    def model(self, model: Any) -> None:
        self.cost = model

    @property
    def n_envs(self) -> int:
        """Environments that were configured; `solve` takes any number."""
        return self._n_envs

    @property
    def action_dim(self) -> int:
        """Numbers in an action block."""
        return self._action_dim * int(self._config.action_block)

    @property
    def horizon(self) -> int:
        """Action blocks to plan."""
        return int(self._config.horizon)

    @property
    def dtype(self) -> torch.dtype:
        """Of the candidates that `get_cost` takes: the model's."""
        return self._dtype

    @property
    def engine(self) -> Engine | None:
        """The engine that the model was compiled to, None where `get_cost` is called."""
        return self._compiled.engine

    def __call__(self, *args: Any, **kwargs: Any) -> dict:
        """`solve`"""
        return self.solve(*args, **kwargs)

    def solve(self, info_dict: dict, init_action: Tensor | None = None) -> dict:
        """Plan for every environment of `info_dict`, which may be fewer than were configured.

        info_dict: tensors, arrays and lists, one entry per environment. init_action: [n, t, A], t <= horizon, where to begin.
        Returns what their solver returns. Raises RuntimeError if it was not configured, or if no candidate's cost is finite;
        TypeError or ValueError naming what does not fit.
        """
        if not self._configured:
            raise RuntimeError(
                "the solver is not configured: call configure(action_space=, n_envs=, config=)"
            )
        self._check_settings()
        n = len(next(iter(info_dict.values()), ()))
        if not n:
            raise ValueError("info_dict has no environment")
        method = self._method()
        compiled = self._compiled.find(
            self.cost, self.device
        )  # outside of inference mode, which it would inherit
        with torch.inference_mode():
            mean, std = self._begin(info_dict, init_action, n)
            given = mean.dtype
            mean, std = mean.to("cpu", torch.float32), std.to("cpu", torch.float32)
            costs = self._costs(compiled, info_dict, mean, std)
            for callback in self.callbacks:
                callback.reset()
            found = [
                self._search(method, costs, mean[rows], std[rows], rows) for rows in self._groups(n, costs)
            ]
            outputs = self._outputs([f for f, _ in found], [last for _, last in found], given)
        if self.callbacks:
            for callback in self.callbacks:
                callback.end_solve()
            outputs["callbacks"] = {callback.output_key: callback.history for callback in self.callbacks}
        return outputs

    # ---- what a solver of one kind says ----------------------------------------------------------------------------------

    def _method(self) -> Sampling:
        """The search."""
        raise NotImplementedError

    def _begin(self, info: dict, init_action: Tensor | None, n: int) -> tuple[Tensor, Tensor]:
        """The first mean and std [n, T, A]."""
        raise NotImplementedError

    def _draw(self, environments: int) -> Tensor:
        """One step's noise [environments, S, T, A] from the generator, as their solver draws it."""
        raise NotImplementedError

    def _state(self, iteration: Iteration) -> dict[str, Tensor | None]:
        """What callbacks are told beyond what all are."""
        raise NotImplementedError

    def _outputs(self, found: list[Found], last: list[Iteration], dtype: torch.dtype) -> dict:
        """What `solve` returns, of each group of environments; dtype: the first mean's, which theirs keeps."""
        raise NotImplementedError

    # ---- the search ------------------------------------------------------------------------------------------------------

    def _groups(self, n: int, costs: EngineCost | OwnCost) -> Iterator[slice]:
        """Environments that are searched together: whole batches. One batch where callbacks see it or get_cost takes it."""
        size = self.batch_size
        if costs.together and not self.callbacks:
            size *= max(1, ENVIRONMENTS_AT_ONCE // size)
        for start in range(0, n, size):
            yield slice(start, min(start + size, n))

    def _search(
        self, method: Sampling, costs: EngineCost | OwnCost, mean: Tensor, std: Tensor, rows: slice
    ) -> tuple[Found, Iteration]:
        for callback in self.callbacks:
            callback.start_batch()
        last: list[Iteration] = []

        def seen(iteration: Iteration) -> None:
            last[:] = [iteration]
            if self.callbacks:
                state = self._tell(iteration)
                for callback in self.callbacks:
                    callback(**state)

        found = search(
            method,
            costs.of(rows),
            mean,
            std,
            Draws(0, torch.arange(len(mean)), self._noise(rows)),
            Clock(None),
            callback=seen,
            threads=self._compiled.threads,
        )
        found.record.refuse_hopeless()
        return found, last[0]

    def _noise(self, rows: slice) -> Tensor:
        """[n_steps, rows, S, T, A], drawn batch by batch, and step by step within a batch."""
        batches = []
        for start in range(rows.start, rows.stop, self.batch_size):
            size = min(self.batch_size, rows.stop - start)
            batches.append(
                torch.stack([self._draw(size).to("cpu", torch.float32) for _ in range(self.n_steps)])
            )
        return torch.cat(batches, dim=1)

    def _tell(self, iteration: Iteration) -> dict[str, Any]:
        elites = iteration.state.elites
        state: dict[str, Any] = {
            "candidates": iteration.actions,
            "costs": iteration.cost,
            "topk_vals": iteration.cost.gather(1, elites),
            "topk_inds": elites,
        } | self._state(iteration)
        return {"step": iteration.number} | {name: self._theirs(value) for name, value in state.items()}

    def _theirs(self, value: Tensor | None) -> Tensor | None:
        """On the device and in the dtype of their solver."""
        if value is None:
            return None
        return value.to(self.device, self.dtype if value.is_floating_point() else None)

    # ---- costs and settings ----------------------------------------------------------------------------------------------

    def _costs(
        self, found: tuple[Engine, Known] | NotOnEngine, info: dict, mean: Tensor, std: Tensor
    ) -> EngineCost | OwnCost:
        """On the engine if it computes this cost, from this information."""
        try:
            if isinstance(found, NotOnEngine):
                raise found
            costs = engine_cost(*found, info, *mean.shape[1:])
            self._compiled.check(costs, self.cost, info, mean, std, self.dtype)
            return costs
        except NotOnEngine as why:
            self._compiled.give_up(why, type(self).__name__)
            return OwnCost(self.cost, info, self.num_samples, self.device, self.dtype)

    def _check_settings(self) -> None:
        """Settings are attributes, as theirs are, and may have changed."""
        if not callable(getattr(self.cost, "get_cost", None)):
            raise TypeError(f"cost is {type(self.cost).__name__}, which has no get_cost")
        for name in ("batch_size", "num_samples", "n_steps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}, expected an integer of at least 1")

    def _elites(self) -> int:
        topk = self.topk
        if isinstance(topk, bool) or not isinstance(topk, int) or not 1 <= topk <= self.num_samples:
            raise ValueError(f"topk is {topk!r}, expected 1 <= topk <= num_samples = {self.num_samples}")
        return topk
