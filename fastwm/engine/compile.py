"""A model in, an engine out: import, choose backend, dtype and instruction set, pack."""

from __future__ import annotations

import dataclasses
import os
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastwm.engine import backend as backends
from fastwm.engine import ranking
from fastwm.engine.engine import Engine, Imported
from fastwm.engine.importers import import_model
from fastwm.engine.pack import DTYPES, PackedPredictor
from fastwm.models.calibration import check_contexts
from fastwm.ops.rollout import rollout

# What "auto" tries before float32, fastest first. Elsewhere these products are emulated, and slower than float32.
NARROW = {"avx512_bf16": ("int8", "bfloat16")}


def compile(
    model: nn.Module | Imported,
    *,
    backend: Literal["auto", "cpu", "torch"] = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto",
    threads: int | None = None,
    calibration: Tensor | None = None,
    action_block: int | None = None,
) -> Engine:
    """Compile a world model for planning on this machine. The weights are copied: later changes to `model` do not count.

    model: a fastwm WorldModel, or a stable-worldmodel LeWM (PyPI release or main branch).
    backend: "cpu" (C++ kernels), "torch" (the reference in PyTorch), or "auto".
    dtype: of weights and matrix products; sums, norms and residuals are float32 in every dtype. "auto" is the fastest that
        the processor multiplies and that passes the ranking gate (fastwm/engine/ranking.py), else float32.
    threads: of the engine's own pool; None for every processor that this process may use.
    calibration: float32 latents [N, K, E] of real contexts, as `Engine.encode` makes them, for "auto" to judge dtypes on.
        None takes those that training kept with the model, else standard normal ones, as SIGReg trains latents to be.
    action_block: environment steps in one of the model's action blocks (frame skip), for a model that does not say; searches
        draw noise over the steps inside.

    Raises ValueError for a model that cannot be represented, and for a backend or dtype asked for by name that cannot run;
    TypeError or ValueError for a calibration that does not fit the model.
    """
    if dtype not in ("auto", *DTYPES):
        raise ValueError(f"dtype is {dtype!r}, expected one of {('auto', *DTYPES)}")
    if calibration is not None and dtype != "auto":
        raise ValueError(
            f"dtype is {dtype!r}, but calibration is what 'auto' judges dtypes on: give one of both"
        )
    threads = backends.check_threads(threads)
    chosen = backends.backend(backend)
    with torch.device("cpu"), backends.own_precision():  # whatever the caller's defaults are
        imported = model if isinstance(model, Imported) else import_model(model)
        if action_block is not None:
            imported = dataclasses.replace(imported, action_block=_check_block(action_block, imported))
        return _compile(imported, chosen, backend, dtype, threads, calibration)


def _check_block(action_block: int, imported: Imported) -> int:
    A = imported.spec.action_dim
    if (
        isinstance(action_block, bool)
        or not isinstance(action_block, int)
        or action_block < 1
        or A % action_block
    ):
        raise ValueError(
            f"action_block is {action_block!r}, expected a divisor of {A}, the numbers in an action block"
        )
    return action_block


def _compile(
    imported: Imported,
    chosen: str,
    backend: str,
    dtype: str,
    threads: int,
    calibration: Tensor | None,
) -> Engine:
    if calibration is not None:
        check_contexts(
            "calibration", calibration, window=imported.spec.window, embed_dim=imported.spec.embed_dim
        )
    why = {
        "backend": "asked for"
        if backend != "auto"
        else "the fastest here"
        if chosen == "cpu"
        else "no compiled module"
    }
    if chosen == "torch":
        if dtype not in ("auto", "float32"):
            raise ValueError(f"dtype is {dtype!r}, expected 'float32' with backend 'torch', the reference")
        why |= {"isa": "PyTorch chooses", "dtype": "the reference is float32"}
        return Engine(imported, backend=chosen, dtype="float32", threads=threads, isa="none", why=why)
    isa = backends.isa()
    why["isa"] = (
        f"{'chosen by FASTWM_ISA' if os.environ.get('FASTWM_ISA') else 'the best'} of {', '.join(backends.isas())}"
    )
    gate = None
    if dtype != "auto":
        packed, why["dtype"] = PackedPredictor(imported.spec, dtype=dtype, isa=isa), "asked for"
    elif isa not in NARROW:
        packed = PackedPredictor(imported.spec, dtype="float32", isa=isa)
        why["dtype"] = f"no dtype is faster than float32 on {isa}"
    else:
        packed, gate = _fastest_that_passes(imported, isa, threads, calibration)
        why["dtype"] = ", ".join(
            f"{name} {'passed' if figures['passed'] else 'failed'} the ranking gate"
            for name, figures in gate["dtypes"].items()
        )
    return Engine(
        imported,
        backend=chosen,
        dtype=packed.dtype,
        threads=threads,
        isa=isa,
        why=why,
        packed=packed,
        ranking_gate=gate,
    )


def _fastest_that_passes(
    imported: Imported, isa: str, threads: int, calibration: Tensor | None
) -> tuple[PackedPredictor, dict[str, Any]]:
    """The first of NARROW that the ranking gate lets through, else float32; and what the gate found."""
    spec, mean, std = imported.spec, imported.action_mean, imported.action_std
    if calibration is not None:
        source, contexts = "argument", ranking.given(calibration.cpu(), mean, std)
    elif imported.calibration is not None:
        source, contexts = "model", imported.calibration
    else:
        source, contexts = "standard normal", ranking.standard_normal(spec.embed_dim, spec.action_dim)
    exact = PackedPredictor(spec, dtype="float32", isa=isa)
    problems = ranking.pose_problems(partial(rollout, exact, threads=threads), contexts, mean, std)
    found: dict[str, dict[str, Any]] = {}
    for dtype in NARROW[isa]:
        narrow = PackedPredictor(spec, dtype=dtype, isa=isa)
        verdict = problems.rank(partial(rollout, narrow, threads=threads))
        found[dtype] = dataclasses.asdict(verdict) | {"passed": verdict.passed}
        if verdict.passed:
            return narrow, {"calibration": source, "dtypes": found}
    return exact, {"calibration": source, "dtypes": found}
