"""A model in, an engine out: import, choose backend, dtype and instruction set, pack."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fastwm.engine import backend as backends
from fastwm.engine import ranking
from fastwm.engine.engine import Engine, Imported
from fastwm.engine.importers import import_model
from fastwm.engine.pack import DTYPES, PackedPredictor
from fastwm.engine.spec import PredictorSpec
from fastwm.models.calibration import check_contexts
from fastwm.ops.rollout import rollout

if TYPE_CHECKING:
    from fastwm.engine.cuda.predictor import DevicePredictor

# What "auto" tries before float32, fastest first. Elsewhere these products are emulated, and slower than float32.
NARROW = {"avx512_bf16": ("int8", "bfloat16")}


def compile(
    model: nn.Module | Imported,
    *,
    backend: Literal["auto", "cpu", "cuda", "torch"] = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto",
    threads: int | None = None,
    calibration: Tensor | None = None,
    action_block: int | None = None,
) -> Engine:
    """Compile a world model for planning on this machine. The weights are copied: later changes to `model` do not count.

    model: a fastwm WorldModel, or a stable-worldmodel LeWM (PyPI release or main branch).
    backend: "cpu" (C++ kernels), "cuda" (CUDA and Triton kernels, on the device that PyTorch uses), "torch" (the reference in
        PyTorch), or "auto".
    dtype: of weights and matrix products ("int8" on the CPU alone); sums, norms and residuals are float32 in every dtype.
        "auto" is the fastest that the processor multiplies and that passes the ranking gate (engine/ranking.py), else float32.
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
    why = {"backend": _why(chosen, backend)}
    if chosen == "torch":
        if dtype not in ("auto", "float32"):
            raise ValueError(f"dtype is {dtype!r}, expected 'float32' with backend 'torch', the reference")
        why |= {"isa": "PyTorch chooses", "dtype": "the reference is float32"}
        return Engine(imported, backend=chosen, dtype="float32", threads=threads, isa="none", why=why)
    way = _gpu(imported.spec) if chosen == "cuda" else _processor(imported.spec, threads)
    why["isa"], gate = way.why, None
    if dtype != "auto":
        if dtype not in way.dtypes:
            raise ValueError(f"dtype is {dtype!r}, expected one of {way.dtypes} with backend {chosen!r}")
        packed, why["dtype"] = way.pack(dtype), "asked for"
    elif not way.narrow:
        packed, why["dtype"] = way.pack("float32"), f"no dtype is faster than float32 on {way.isa}"
    else:
        packed, gate = _fastest_that_passes(imported, way, calibration)
        why["dtype"] = ", ".join(
            f"{name} {'passed' if figures['passed'] else 'failed'} the ranking gate"
            for name, figures in gate["dtypes"].items()
        )
    return Engine(
        imported,
        backend=chosen,
        dtype=packed.dtype,
        threads=threads,
        isa=way.isa,
        why=why,
        packed=packed,
        ranking_gate=gate,
    )


def _why(chosen: str, asked: str) -> str:
    if asked != "auto":
        return "asked for"
    if chosen == "torch":
        return "no compiled module"
    unused = backends.why_not_gpu() if torch.cuda.is_available() and chosen != "cuda" else None
    return f"there is a GPU, but {unused}" if unused else "the fastest here"


class _Way(NamedTuple):
    """How a backend runs a predictor. narrow: what "auto" tries before float32, fastest first."""

    isa: str
    why: str
    dtypes: tuple[str, ...]
    narrow: tuple[str, ...]
    pack: Callable[[str], Any]
    rollout: Callable[[Any], ranking.Rollout]


def _processor(spec: PredictorSpec, threads: int) -> _Way:
    isa = backends.isa()
    chosen = "chosen by FASTWM_ISA" if os.environ.get("FASTWM_ISA") else "the best"
    return _Way(
        isa,
        f"{chosen} of {', '.join(backends.isas())}",
        tuple(DTYPES),
        NARROW.get(isa, ()),
        lambda dtype: PackedPredictor(spec, dtype=dtype, isa=isa),
        lambda packed: partial(rollout, packed, threads=threads),
    )


def _gpu(spec: PredictorSpec) -> _Way:
    from fastwm.engine.cuda import (
        device as gpu,
    )  # a GPU's modules, and Triton, are imported where there is one
    from fastwm.engine.cuda.predictor import DTYPES as KINDS
    from fastwm.engine.cuda.predictor import DevicePredictor

    device = gpu.default_device()
    name = gpu.describe(device)

    def pack(dtype: str) -> DevicePredictor:
        with gpu.on(device):
            return DevicePredictor(spec, dtype=dtype, device=device)

    def run(packed: DevicePredictor) -> ranking.Rollout:
        def rolled(context: Tensor, actions: Tensor, past_actions: Tensor) -> Tensor:
            with gpu.on(device):
                inputs = (tensor.to(device) for tensor in (context, actions, past_actions))
                return packed.rollout(*inputs, keep_all=False).cpu()

        return rolled

    return _Way(name, "the device that PyTorch uses", tuple(KINDS), ("bfloat16",), pack, run)


def _fastest_that_passes(
    imported: Imported, way: _Way, calibration: Tensor | None
) -> tuple[Any, dict[str, Any]]:
    """The first narrow dtype that the ranking gate lets through, else float32; and what the gate found."""
    spec, mean, std = imported.spec, imported.action_mean, imported.action_std
    if calibration is not None:
        source, contexts = "argument", ranking.given(calibration.cpu(), mean, std)
    elif imported.calibration is not None:
        source, contexts = "model", imported.calibration
    else:
        source, contexts = "standard normal", ranking.standard_normal(spec.embed_dim, spec.action_dim)
    exact = way.pack("float32")
    problems = ranking.pose_problems(way.rollout(exact), contexts, mean, std)
    found: dict[str, dict[str, Any]] = {}
    for dtype in way.narrow:
        narrow = way.pack(dtype)
        verdict = problems.rank(way.rollout(narrow))
        found[dtype] = dataclasses.asdict(verdict) | {"passed": verdict.passed}
        if verdict.passed:
            return narrow, {"calibration": source, "dtypes": found}
    return exact, {"calibration": source, "dtypes": found}
