"""What the engine refuses, and what it says: the argument, what came, what was expected, before any work."""

from __future__ import annotations

import numpy as np
import pytest
import specs
import torch
from tiny_models import random_model
from torch import Tensor, nn

import fastwm
from fastwm.engine.backend import isas
from fastwm.engine.pack import PackedPredictor
from fastwm.ops.rollout import rollout

SPEC = specs.transformer(0, E=8, A=3, window=3)
GOOD = dict(
    zip(("context", "actions", "past_actions"), specs.inputs(SPEC, 0, B=2, S=4, T=5, K=2), strict=True)
)


def holding(name: str, value: float) -> Tensor:
    tensor = GOOD[name].clone()
    tensor.view(-1)[-1] = value
    return tensor


BAD_INPUTS = {
    "context of another width": (
        {"context": torch.zeros(2, 2, 9)},
        ValueError,
        r"context has shape \(2, 2, 9\), expected \[B, K, 8\]",
    ),
    "context without frames axis": (
        {"context": torch.zeros(2, 8)},
        ValueError,
        r"context has shape \(2, 8\), expected \[B, K, 8\]",
    ),
    "context without environments": (
        {"context": torch.zeros(0, 2, 8)},
        ValueError,
        r"context has shape \(0, 2, 8\)",
    ),
    "context without frames": (
        {"context": torch.zeros(2, 0, 8)},
        ValueError,
        "context has 0 frames, expected 1 to 3",
    ),
    "context longer than the window": (
        {"context": torch.zeros(2, 4, 8)},
        ValueError,
        "context has 4 frames, expected 1 to 3",
    ),
    "context of another dtype": (
        {"context": GOOD["context"].double()},
        TypeError,
        "context is torch.float64, expected torch.float32",
    ),
    "context that is a list": (
        {"context": [[0.0] * 8]},
        TypeError,
        "context is list, expected a torch.Tensor",
    ),
    "context with NaN": (
        {"context": holding("context", float("nan"))},
        ValueError,
        "context holds numbers that are not finite",
    ),
    "actions of another batch": (
        {"actions": torch.zeros(3, 4, 5, 3)},
        ValueError,
        r"actions has shape \(3, 4, 5, 3\), expected \[2, S, T, 3\]",
    ),
    "actions of another size": (
        {"actions": torch.zeros(2, 4, 5, 2)},
        ValueError,
        r"actions has shape \(2, 4, 5, 2\), expected \[2, S, T, 3\]",
    ),
    "actions without candidates": (
        {"actions": torch.zeros(2, 0, 5, 3)},
        ValueError,
        r"actions has shape \(2, 0, 5, 3\)",
    ),
    "actions without steps": (
        {"actions": torch.zeros(2, 4, 0, 3)},
        ValueError,
        r"actions has shape \(2, 4, 0, 3\)",
    ),
    "actions without candidates axis": (
        {"actions": torch.zeros(2, 5, 3)},
        ValueError,
        r"actions has shape \(2, 5, 3\), expected \[B, S, T, 3\]",
    ),
    "actions with infinity": (
        {"actions": holding("actions", float("inf"))},
        ValueError,
        "actions holds numbers that are not finite",
    ),
    "integer actions": (
        {"actions": torch.zeros(2, 4, 5, 3, dtype=torch.int64)},
        TypeError,
        "actions is torch.int64, expected torch.float32",
    ),
    "no past actions": ({"past_actions": None}, ValueError, r"past_actions is None, expected \[2, 1, 3\]"),
    "too many past actions": (
        {"past_actions": torch.zeros(2, 2, 3)},
        ValueError,
        r"past_actions has shape \(2, 2, 3\), expected \[2, 1, 3\]",
    ),
    "past actions with NaN": (
        {"past_actions": holding("past_actions", float("nan"))},
        ValueError,
        "past_actions holds numbers that are not finite",
    ),
    "no threads": ({"threads": 0}, ValueError, "threads is 0, expected 1 <= threads"),
    "half a thread": ({"threads": 0.5}, TypeError, "threads is 0.5, expected an integer"),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD_INPUTS.values(), ids=BAD_INPUTS.keys())
def test_rollout(change: dict, error: type[Exception], message: str) -> None:
    packed = PackedPredictor(SPEC, dtype="float32", isa=isas()[0])
    arguments = {**GOOD, **change}
    with pytest.raises(error, match=message):
        rollout(packed, arguments.pop("context"), arguments.pop("actions"), **arguments)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_every_backend_refuses_alike(backend: str) -> None:
    engine = fastwm.compile(specs.imported(SPEC), backend=backend, dtype="float32", threads=1)
    for change, error, message in BAD_INPUTS.values():
        if "threads" in change:
            continue
        with pytest.raises(error, match=message):
            engine.rollout(**{**GOOD, **change})
    with pytest.raises(ValueError, match="keep is 'first', expected 'last' or 'all'"):
        engine.rollout(**GOOD, keep="first")


class Unknown(nn.Module):
    pass


BAD_COMPILE = {
    "no module": ({"model": object()}, TypeError, r"model is object, expected a torch.nn.Module"),
    "a module of no family": (
        {"model": Unknown()},
        TypeError,
        r"Unknown, which no importer knows; known are fastwm",
    ),
    "a backend unknown": (
        {"backend": "tpu"},
        ValueError,
        r"backend is 'tpu', expected one of \('cpu', 'cuda', 'torch'\) or 'auto'",
    ),
    "a dtype unknown": ({"dtype": "float16"}, ValueError, "dtype is 'float16', expected one of"),
    "a dtype that the backend lacks": (
        {"backend": "torch", "dtype": "bfloat16"},
        ValueError,
        "dtype is 'bfloat16', expected 'float32' with backend 'torch'",
    ),
    "no threads": ({"threads": 0}, ValueError, "threads is 0, expected an integer from 1 to 1024"),
    "threads that are no number": ({"threads": "2"}, ValueError, "threads is '2', expected an integer"),
    "threads that are true": ({"threads": True}, ValueError, "threads is True, expected an integer"),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD_COMPILE.values(), ids=BAD_COMPILE.keys())
def test_compile(change: dict, error: type[Exception], message: str) -> None:
    arguments = {"model": random_model(), **change}
    with pytest.raises(error, match=message):
        fastwm.compile(arguments.pop("model"), **arguments)


def test_compile_refuses_weights_that_are_not_finite() -> None:
    model = random_model()
    with torch.no_grad():
        model.predictor.blocks[1].mlp.fc1.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"blocks.1.mlp.fc1.weight holds numbers"):
        fastwm.compile(model)


FRAME = np.zeros((16, 16, 3), np.uint8)
BAD_FRAMES = {
    "a list": (
        FRAME.tolist(),
        TypeError,
        r"obs is list, expected a tensor or array uint8 \[B, K, 16, 16, 3\]",
    ),
    "another dtype": (FRAME.astype(np.float32), TypeError, r"obs is float32, expected uint8"),
    "another size": (
        np.zeros((17, 16, 3), np.uint8),
        ValueError,
        r"obs has shape \(17, 16, 3\), expected uint8",
    ),
    "no colours": (FRAME[:, :, 0], ValueError, r"obs has shape \(16, 16\), expected uint8"),
    "too many axes": (
        FRAME[None, None, None],
        ValueError,
        r"obs has shape \(1, 1, 1, 16, 16, 3\), expected uint8",
    ),
    "no frames": (
        FRAME[None][:0],
        ValueError,
        r"obs has shape \(1, 0, 16, 16, 3\)|obs has shape \(0, 1, 16, 16, 3\)",
    ),
}


@pytest.mark.parametrize(("frame", "error", "message"), BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
def test_encode(frame: object, error: type[Exception], message: str) -> None:
    engine = fastwm.compile(random_model(), dtype="float32", threads=1)
    with pytest.raises(error, match=message):
        engine.encode(frame)  # type: ignore[arg-type]


def test_encode_refuses_observations_that_are_not_finite() -> None:
    engine = fastwm.compile(specs.imported(SPEC), dtype="float32", threads=1)
    with pytest.raises(ValueError, match="obs holds numbers that are not finite"):
        engine.encode(torch.full((8,), float("nan")))
