"""ONNX Runtime: the rollout exported as one graph of fixed sizes; float32, and its own dynamic int8 quantisation."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.peers.peer import Costs, Peer, RowCosts, rows
from bench.problems import Problem

NAMES = ("context", "actions", "goal")


def export(model: Any, problem: Problem, path: Path) -> None:
    """RowCosts as an ONNX file."""
    example = rows(problem, problem.actions)
    module = RowCosts(model, problem.setting.reduce).eval()
    with torch.no_grad():
        torch.onnx.export(
            module, example, path, input_names=NAMES, dynamo=True, external_data=False, verbose=False
        )


def run(path: Path, threads: int) -> Costs:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def costs(problem: Problem, actions: Tensor) -> Tensor:
        arrays = [tensor.numpy() for tensor in rows(problem, actions)]
        (found,) = session.run(None, dict(zip(NAMES, arrays, strict=True)))
        return torch.from_numpy(found)[None]

    return costs


def plain(model: Any, problem: Problem, threads: int) -> Costs:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rollout.onnx")
        export(model, problem, path)
        return run(path, threads)


def quantised(model: Any, problem: Problem, threads: int) -> Costs:
    """Weights int8 per channel, activations quantised as they come, per tensor."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        path, prepared, narrow = (Path(folder, f"{name}.onnx") for name in ("rollout", "prepared", "int8"))
        export(model, problem, path)
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        quantize_dynamic(prepared, narrow, per_channel=True, weight_type=QuantType.QInt8)
        return run(narrow, threads)


NEEDS = ("onnxruntime", "onnx", "onnxscript")
PEERS = (
    Peer("onnxruntime", "float32", plain, needs=NEEDS, quick=False),
    Peer("onnxruntime", "int8", quantised, needs=NEEDS, quick=False),
)
