"""OpenVINO: the rollout exported as one graph of fixed sizes, float32, bfloat16 by its hint, int8 by NNCF.

One graph is as fast as one per window length called in turn. From torch.export: tracing takes twice as long and is deprecated.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.peers.peer import Costs, Peer, RowCosts, rows
from bench.problems import Problem, make_problem

CALIBRATION = 8  # problems, each of all candidates and steps: 12,000 tokens of LeWM's default plan


def converted(model: Any, problem: Problem) -> Any:
    """An openvino.Model of RowCosts."""
    import openvino

    example = rows(problem, problem.actions)
    with torch.no_grad():
        exported = torch.export.export(RowCosts(model, problem.setting.reduce).eval(), example)
    return openvino.convert_model(exported, example_input=example)


def run(graph: Any, precision: str, threads: int) -> Costs:
    """One stream of `threads` threads, tuned for the latency of one inference."""
    import openvino

    options = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(graph, "CPU", {**options, "INFERENCE_PRECISION_HINT": precision})
    request = compiled.create_infer_request()

    def costs(problem: Problem, actions: Tensor) -> Tensor:
        arrays = [tensor.numpy() for tensor in rows(problem, actions)]
        found = request.infer(arrays, share_inputs=True, share_outputs=True)[0]
        return torch.from_numpy(np.array(found))[None]

    return costs


def plain(precision: str, model: Any, problem: Problem, threads: int) -> Costs:
    return run(converted(model, problem), precision, threads)


def quantised(model: Any, problem: Problem, threads: int) -> Costs:
    """NNCF's post-training quantisation: int8 weights per channel, calibrated activations; what stays wide is bfloat16.

    What else it offers, on LeWM: preset PERFORMANCE is no faster and less exact; without SmoothQuant the same; without the
    transformer type ten times the error; weights alone with dynamic quantisation of activations half the speed.
    """
    import nncf

    def inputs(draw: int) -> list[np.ndarray]:
        other = make_problem(model, problem.setting, draw=draw)
        return [tensor.numpy() for tensor in rows(other, other.actions)]

    quantised = nncf.quantize(
        converted(model, problem),
        nncf.Dataset(range(100, 100 + CALIBRATION), inputs),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=CALIBRATION,
        fast_bias_correction=True,
    )
    return run(quantised, "bf16", threads)


PEERS = (
    Peer("openvino", "float32", functools.partial(plain, "f32"), needs=("openvino",)),
    Peer("openvino", "bfloat16", functools.partial(plain, "bf16"), needs=("openvino",)),
    Peer("openvino", "int8", quantised, needs=("openvino", "nncf"), quick=False),
)
