"""A cost's model on the engine: compiled, compared with the cost's own numbers, and compiled again when weights change."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import fastwm
from fastwm.engine import backend as backends
from fastwm.engine.engine import Engine
from fastwm.engine.pack import DTYPES
from fastwm.integrations.stable_worldmodel.costs import EngineCost
from fastwm.integrations.stable_worldmodel.recognise import Known, NotOnEngine, recognise

logger = logging.getLogger(__name__)


class Compiled:
    """backend, dtype, threads: of `fastwm.compile`. Raises ValueError for one that is not known or cannot run."""

    def __init__(self, backend: str, dtype: str, threads: int | None) -> None:
        if dtype not in ("auto", *DTYPES):
            raise ValueError(f"dtype is {dtype!r}, expected one of {('auto', *DTYPES)}")
        if backends.backend(backend) == "torch" and dtype not in ("auto", "float32"):
            raise ValueError(f"dtype is {dtype!r}, expected 'float32' with backend 'torch', the reference")
        self.backend, self.dtype, self.threads = backend, dtype, backends.check_threads(threads)
        self.engine: Engine | None = None  # of the last `find`
        self._result: tuple[object, Engine | NotOnEngine] | None = (
            None  # for which weights, what came of them
        )
        self._checked = False  # whether the engine's costs were compared with get_cost's
        self._said: set[str] = set()

    def forget(self) -> None:
        """The next `find` compiles."""
        self._result, self._checked = None, False

    def find(self, cost: Any, device: str | torch.device) -> tuple[Engine, Known] | NotOnEngine:
        """The engine of the cost's model, with the weights as they are; or why there is none, for a solver on `device`."""
        self.engine = None
        try:
            known = recognise(cost)
            if torch.device(device).type != "cpu":
                raise NotOnEngine(f"the solver is on {device}, the engine runs on the CPU")
        except NotOnEngine as why:
            return why
        version = _version(known.model)
        if self._result is None or self._result[0] != version:
            if self._result is not None:
                logger.info("The model's weights have changed: it is compiled again")
            self._result, self._checked = (version, self._compile(known)), False
        found = self._result[1]
        if isinstance(found, NotOnEngine):
            return found
        self.engine = found
        return found, known

    def check(
        self,
        costs: EngineCost,
        cost: Any,
        info: Mapping[str, Any],
        mean: Tensor,
        std: Tensor,
        dtype: torch.dtype,
    ) -> None:
        """NotOnEngine, until weights change, unless the engine's costs are get_cost's."""
        if self._checked:
            return
        try:
            costs.check(cost, info, mean, std, dtype)
        except NotOnEngine as why:
            assert self._result is not None
            self._result, self.engine = (self._result[0], why), None
            raise
        self._checked = True

    def give_up(self, why: NotOnEngine, solver: str) -> None:
        """Say once why get_cost is called. ValueError if the engine was asked for by name."""
        if self.backend != "auto" or self.dtype not in ("auto", "float32"):
            asked = f"backend {self.backend!r} and dtype {self.dtype!r}"
            raise ValueError(f"{asked} were asked for, but the cost cannot run on the engine: {why}") from why
        if str(why) not in self._said:
            self._said.add(str(why))
            logger.warning("%s calls get_cost instead of the engine: %s", solver, why)

    def _compile(self, known: Known) -> Engine | NotOnEngine:
        try:
            return fastwm.compile(
                known.model,
                backend=self.backend,  # type: ignore[arg-type]
                dtype=self.dtype,  # type: ignore[arg-type]
                threads=self.threads,
            )
        except (
            TypeError,
            ValueError,
        ) as error:  # the importer's refusal: backend, dtype and threads were checked
            return NotOnEngine(str(error))


def _version(model: nn.Module) -> object:
    """Changes with every weight that is replaced, or written in place (but for writes through `.data`)."""
    tensors = (*model.parameters(), *model.buffers())
    return id(model), tuple((t.data_ptr(), None if t.is_inference() else t._version) for t in tensors)
