"""The door of attention on a GPU: which kernel serves which call, with the same result."""

from __future__ import annotations

import pytest
import torch
from close import assert_close

pytest.importorskip("triton", reason="the GPU's attention needs triton")

from guard import guard

from fastwm import ops, reference
from fastwm.engine.cuda import device


@pytest.mark.parametrize(
    ("n", "D", "gradient", "kernel"),
    [
        (3, 16, False, "attention"),
        (3, 16, True, "attention_forward"),
        (3, 20, False, "attention_forward"),  # no rows of whole 16 bytes in bfloat16
        (33, 16, False, "attention_forward"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_which_kernel(gpu, monkeypatch, n: int, D: int, gradient: bool, kernel: str, dtype) -> None:
    started: list[str] = []

    def watch(name, kernel):  # type: ignore[no-untyped-def]
        started.append(name)
        return kernel

    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, n, 2, D, generator=random).to(dtype) for _ in range(3))
    monkeypatch.setattr(device, "watchers", [watch])
    with guard():
        found = ops.attention(*(x.to(gpu).requires_grad_(gradient) for x in (q, k, v))).cpu().detach()
    assert started == [kernel]
    q, k, v = (x.detach() for x in (q, k, v))
    expected = reference.attention(q, k, v, 1, D**-0.5)
    assert_close(
        "result", found, expected, reference.attention(q.double(), k.double(), v.double(), 1, D**-0.5)
    )
