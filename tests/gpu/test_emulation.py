"""The emulation of CUDA finds the faults that it is there to find, and none in correct kernels."""

from __future__ import annotations

from pathlib import Path

import emulation
import pytest
import sanitize
import torch
from torch import Tensor

FAULTS = Path(__file__).parent / "faults"
SOURCES = [FAULTS / "faults.cu", FAULTS / "bind.cpp"]
ORDERS = ["forward", "reverse", 7]


def line(text: str) -> int:
    """The number of the line of faults.cu that holds this text, the only one."""
    lines = (FAULTS / "faults.cu").read_text().splitlines()
    (found,) = [i for i, content in enumerate(lines, 1) if text in content]
    return found


def run(name: str, x: Tensor, n: int, out: int | None = None, order: str | int = "forward") -> Tensor:
    """What the kernel leaves in y [out], by default [n], which held NaN."""
    faults = emulation.import_module(emulation.build(sources=SOURCES))
    faults.set_schedule(order)
    y = torch.full((out or n,), torch.nan)
    faults.run(0, 0, x.data_ptr(), y.data_ptr(), name, n)
    return y


def watched(sanitizer: str, name: str, n: int = 64, out: int | None = None) -> str:
    """What the sanitizer says of a kernel; y starts as zeros."""
    call = sanitize.Call("run", (torch.randn(n), torch.zeros(out or n), name, n))
    return sanitize.report([call], sanitizer, emulation.build(sanitizer, sources=SOURCES))


# ---- values


@pytest.mark.parametrize("order", ORDERS)
def test_correct_kernels_give_their_values_in_every_order(order: str | int) -> None:
    x = torch.randn(100)
    assert torch.equal(run("reversed", x, 100, order=order), x.flip(0))
    assert torch.equal(run("swapped", x, 100, order=order), x.view(-1, 2).flip(1).flatten())


def test_without_a_barrier_values_depend_on_the_order() -> None:
    x = torch.randn(64)
    results = [run("reversed_without_barrier", x, 64, order=order) for order in ORDERS]
    assert not all(torch.equal(result, x.flip(0)) for result in results)
    assert not torch.equal(results[0].nan_to_num(), results[1].nan_to_num())


def test_shared_memory_that_nobody_wrote_is_nan() -> None:
    y = run("unwritten", torch.ones(64), 64)
    assert y.isnan().tolist() == [True] + [False] * 63


@pytest.mark.parametrize("order", ORDERS)
def test_collectives(order: str | int) -> None:
    """n = 48: the second warp has half of its lanes, which are all that a mask means there."""
    n, x = 48, torch.randn(48)
    y = run("collectives", x, n, 8 * n, order=order).view(n, 8)
    full = torch.arange(32)
    for i in full.tolist():
        assert y[i, 0] == x[i - 3 if i >= 3 else i]
        assert y[i, 1] == x[i + 5 if i % 16 + 5 < 16 else i]
        assert y[i, 2] == x[i ^ 9 if (i ^ 9) < i // 8 * 8 + 8 else i]
        assert y[i, 3] == x[i // 4 * 4 + (i + 1) % 4]
        assert y[i, 4] == (x[:32] > 0).sum()
        assert y[i, 5] == (full % 5 == i % 5).sum()
        assert y[i, 6] == (x > 0).sum()
        assert y[i, 7] == (x[2] if i < 16 else bool((x[16:32] > 2).any()))
    assert (y[32:, 4] == (x[32:] > 0).sum()).all()


def test_the_tensor_core_s_layout() -> None:
    """Against a plain product, for every number of A and B alone and for all together."""
    a, b = (
        torch.randn(16, 16).bfloat16().float(),
        torch.randn(8, 16).bfloat16().float(),
    )
    d = run("product", torch.cat([a, b]), 32, 128).view(16, 8)
    torch.testing.assert_close(d, a @ b.T, rtol=1e-5, atol=1e-5)
    marks = torch.arange(1, 17.0)
    for k in range(16):
        one_a, one_b = torch.zeros(16, 16), torch.zeros(8, 16)
        one_a[:, k], one_b[:, k] = marks, marks[:8] + 20
        d = run("product", torch.cat([one_a, one_b]), 32, 128).view(16, 8)
        assert torch.equal(d, one_a @ one_b.T)


# ---- faults that the emulation itself names


@pytest.mark.parametrize(
    ("name", "n", "words"),
    [
        ("barrier_of_some", 32, r"16 threads returned, 16 threads wait for __syncthreads at .*faults.cu:\d+"),
        (
            "two_barriers",
            64,
            r"different barriers meet: __syncthreads at \S+ and __syncthreads at \S+faults.cu",
        ),
        ("barrier_or_shuffle", 32, r"different collectives meet: __syncwarp at \S+ and __shfl_sync at "),
        ("shuffle_without_half", 32, r"16 threads returned, 16 threads wait for __shfl_xor_sync at "),
        ("shuffle_of_absent_lane", 32, "reads lane 20, which takes no part"),
        ("outside_of_its_mask", 32, "lane 16 is not in its own mask"),
        ("product", 31, "the warp has not all its lanes"),
        ("dynamic_of_too_many", 32, "132 bytes of dynamic shared memory, launched with 128"),
        ("too_much_shared", 32, "106496 bytes, at most 101376"),
        ("reversed", 1025, r"invalid configuration: block \(1025, 1, 1\)"),
    ],
)
def test_a_fault_is_named(name: str, n: int, words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        run(name, torch.zeros(max(n, 400)), n, 8 * n)


def test_the_kernel_runs_again_after_a_fault() -> None:
    with pytest.raises(RuntimeError, match="is stuck"):
        run("barrier_of_some", torch.zeros(32), 32)
    assert torch.equal(run("reversed", torch.arange(5.0), 5), torch.arange(5.0).flip(0))


# ---- faults that sanitizers see, at the line


@pytest.mark.parametrize(
    ("sanitizer", "name", "words", "where"),
    [
        ("thread", "reversed_without_barrier", "data race", "y[i] = s[n - 1 - i];"),
        ("thread", "swapped_without_barrier", "data race", "y[i] = s[i ^ 1];"),
        ("thread", "added_unordered", "data race", "y[0] += x[4 * blockIdx.x + i];"),
        ("thread", "added_by_the_last_unordered", "data race", "sum += y[1 + b];"),
        ("address", "past_the_end", "heap-buffer-overflow", "y[threadIdx.x] = x[threadIdx.x + n / 2];"),
        ("address", "past_shared", "heap-buffer-overflow|index 64 out of bounds", "s[threadIdx.x + (n > 32"),
        ("address", "past_dynamic", "heap-buffer-overflow", "y[threadIdx.x] = s[threadIdx.x + 1];"),
        ("address", "past_registers", "index 4 out of bounds", "mine[threadIdx.x % (n > 4 ? 5 : 4)]"),
        ("address", "misaligned", "misaligned address", "reinterpret_cast<const float4*>(x + 1)"),
    ],
)
def test_a_sanitizer_sees(sanitizer: str, name: str, words: str, where: str) -> None:
    said = watched(sanitizer, name)
    assert any(word in said for word in words.split("|")), said
    assert f"faults.cu:{line(where)}" in said, said


@pytest.mark.parametrize("sanitizer", sanitize.SANITIZERS)
def test_a_sanitizer_says_nothing_of_correct_kernels(sanitizer: str) -> None:
    names = ["reversed", "swapped", "added_atomically", "added_by_the_last", "collectives", "product"]
    calls = []
    for name in 2 * names:
        n = 32 if name == "product" else 64
        calls.append(sanitize.Call("run", (torch.randn(400), torch.zeros(8 * n), name, n)))
    assert sanitize.report(calls, sanitizer, emulation.build(sanitizer, sources=SOURCES)) == ""


def test_a_call_that_fails_is_no_silence() -> None:
    assert "is stuck" in watched("address", "barrier_of_some", 32)
    assert "IndexError" in watched("thread", "no such kernel")
