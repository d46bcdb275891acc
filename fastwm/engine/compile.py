"""A model in, an engine out: import, choose backend, dtype and instruction set, pack."""

from __future__ import annotations

import os
from typing import Literal

from torch import nn

from fastwm.engine import backend as backends
from fastwm.engine.engine import Engine, Imported
from fastwm.engine.importers import import_model
from fastwm.engine.pack import DTYPES, PackedPredictor
from fastwm.engine.ranking import measure


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
    dtype: of weights and matrix products; sums, norms and residuals are float32 in every dtype. "auto" is bfloat16 where the
        processor multiplies it and the ranking gate (fastwm/engine/ranking.py) passes, else float32.
    threads: of the engine's own pool; None for every processor that this process may use.

    Raises ValueError for a model that cannot be represented, and for a backend or dtype asked for by name that cannot run.
    """
    if dtype not in ("auto", *DTYPES):
        raise ValueError(f"dtype is {dtype!r}, expected one of {('auto', *DTYPES)}")
    threads = backends.check_threads(threads)
    chosen = backends.backend(backend)
    imported = model if isinstance(model, Imported) else import_model(model)
    why = {
        "backend": "asked for"
        if backend != "auto"
        else "the fastest here"
        if chosen == "cpu"
        else "no compiled module"
    }
    if chosen == "torch":
        if dtype == "bfloat16":
            raise ValueError("dtype is 'bfloat16', expected 'float32' with backend 'torch', the reference")
        why |= {"isa": "PyTorch chooses", "dtype": "the reference is float32"}
        return Engine(imported, backend=chosen, dtype="float32", threads=threads, isa="none", why=why)
    isa = backends.isa()
    why["isa"] = (
        f"{'asked for' if 'FASTWM_ISA' in os.environ else 'the best'} of {', '.join(backends.isas())}"
    )
    wanted = "float32" if dtype == "auto" else dtype
    packed, ranking = PackedPredictor(imported.spec, dtype=wanted, isa=isa), None
    if dtype != "auto":
        why["dtype"] = "asked for"
    elif isa != "avx512_bf16":
        why["dtype"] = f"no dtype is faster than float32 on {isa}"
    else:
        narrow = PackedPredictor(imported.spec, dtype="bfloat16", isa=isa)
        ranking = measure(packed, narrow, imported.action_mean, imported.action_std, threads)
        why["dtype"] = f"bfloat16 {'passed' if ranking.passed else 'failed'} the ranking gate"
        packed = narrow if ranking.passed else packed
    return Engine(
        imported,
        backend=chosen,
        dtype=packed.dtype,
        threads=threads,
        isa=isa,
        why=why,
        packed=packed,
        ranking=ranking,
    )
