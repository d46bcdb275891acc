"""A model in, an engine out: import, choose backend, dtype and instruction set, pack."""

from __future__ import annotations

from typing import Literal

from torch import nn

from fastwm.engine import backend as backends
from fastwm.engine.engine import Engine, Imported
from fastwm.engine.importers import import_model
from fastwm.engine.pack import DTYPES


def compile(
    model: nn.Module | Imported,
    *,
    backend: Literal["auto", "cpu", "torch"] = "auto",
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    threads: int | None = None,
) -> Engine:
    """Compile a world model for planning on this machine. The weights are copied: later changes to `model` do not count.

    model: a fastwm WorldModel, or a stable-worldmodel LeWM (PyPI release or main branch).
    backend: "cpu" (C++ kernels), "torch" (the reference in PyTorch), or "auto".
    dtype: of weights and matrix products; sums, norms and residuals are float32 in every dtype. "auto" is float32.
    threads: of the engine's own pool; None for every processor that this process may use.

    Raises ValueError for a model that cannot be represented, and for a backend or dtype asked for by name that cannot run.
    """
    if dtype not in ("auto", *DTYPES):
        raise ValueError(f"dtype is {dtype!r}, expected one of {('auto', *DTYPES)}")
    threads = backends.check_threads(threads)
    chosen = backends.backend(backend)
    why = {"backend": "asked for" if backend != "auto" else "the fastest here" if chosen == "cpu" else "no compiled module"}
    isa = backends.isa() if chosen == "cpu" else "none"
    why["isa"] = "the best of " + ", ".join(backends.isas()) if chosen == "cpu" else "PyTorch chooses"
    if dtype == "auto":
        why["dtype"] = "float32: a narrower dtype is not chosen unasked before its ranking of candidates is measured"
        dtype = "float32"
    else:
        why["dtype"] = "asked for"
    if chosen == "torch" and dtype != "float32":
        raise ValueError(f"dtype is {dtype!r}, expected 'float32' with backend 'torch', the reference")
    imported = model if isinstance(model, Imported) else import_model(model)
    return Engine(imported, backend=chosen, dtype=dtype, threads=threads, isa=isa, why=why)
