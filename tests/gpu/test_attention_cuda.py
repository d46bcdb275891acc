"""Attention over a window of a few tokens on a GPU (csrc/cuda/attention.cu): against float64, for every mask and layout."""

from __future__ import annotations

import pytest
import sanitize
import torch
import torch.nn.functional as F
from close import assert_close
from torch import Tensor

from fastwm.engine.cuda import device
from fastwm.ops import _check

DTYPES = (torch.float32, torch.bfloat16)
# (R, n, H, D, frame_tokens; 0: all see all, 1: causal): LeWM's window; one token; a warp of the last block alone; heads
# narrower and wider than what a lane loads; queries of two tiles and a rest; frames that do not divide the window.
SHAPES = [
    (2, 3, 16, 64, 1),
    (3, 1, 1, 8, 0),
    (5, 2, 3, 24, 1),
    (1, 7, 2, 128, 0),
    (2, 9, 1, 72, 4),
    (1, 16, 2, 64, 8),
    (1, 17, 3, 40, 1),
    (2, 32, 1, 128, 5),
    (1, 31, 1, 64, 0),
]


def example(R: int, n: int, H: int, D: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, ...]:
    """q, k, v [R, n, H, D], parts of one tensor [R, n, 3, H, D]."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(R, n, 3, H, D, generator=random).mul_(1.5).to(dtype).unbind(2)


def attend(
    gpu: torch.device, q: Tensor, k: Tensor, v: Tensor, frame_tokens: int, out: Tensor | None = None
) -> Tensor:
    """What the kernel gives, on the CPU; in tensors on `gpu` with the strides of q, k, v."""
    q, k, v = (x.to(gpu) for x in (q, k, v))
    if out is None:
        out = torch.empty(q.shape, dtype=q.dtype, device=gpu).fill_(torch.nan)
    launch = device.launch(gpu)
    assert launch is not None
    strides = [stride for x in (q, k, v, out) for stride in x.stride()[:3]]
    R, n, H, D = q.shape
    # In the order of AttentionArgs, strides as (row, token, head).
    addresses = [_check.address(x) for x in (q, k, v, out)]
    launch("attention", *addresses, R, n, H, D, *strides, frame_tokens, D**-0.5, DTYPES.index(q.dtype))
    return out.cpu()


def sees(n: int, frame_tokens: int) -> Tensor:
    """[n, n]: which token a query sees."""
    frame = torch.arange(n) // frame_tokens if frame_tokens else torch.zeros(n)
    return frame[:, None] >= frame[None]


def pytorch(q: Tensor, k: Tensor, v: Tensor, frame_tokens: int) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=sees(q.shape[2], frame_tokens)).transpose(1, 2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_close_to_float64(
    gpu: torch.device, schedule: object, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    q, k, v = example(*shape[:4], dtype)
    truth = pytorch(q.double(), k.double(), v.double(), shape[4])
    assert_close("attention", attend(gpu, q, k, v, shape[4]), pytorch(q, k, v, shape[4]), truth)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_window_and_mask(gpu: torch.device, dtype: torch.dtype) -> None:
    for n in [*range(1, 10), 12, 15, 16, 17, 23, 24, 25, 31, 32]:
        q, k, v = example(1, n, 1, 16, dtype, seed=n)
        for frame_tokens in {0, 1, 3, min(n, 7), n}:
            truth = pytorch(q.double(), k.double(), v.double(), frame_tokens)
            found = attend(gpu, q, k, v, frame_tokens)
            assert_close(f"n {n}, {frame_tokens}", found, pytorch(q, k, v, frame_tokens), truth)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_width_of_a_head(gpu: torch.device, dtype: torch.dtype) -> None:
    for D in range(8, 129, 8):
        q, k, v = example(1, 5, 2, D, dtype, seed=D)
        truth = pytorch(q.double(), k.double(), v.double(), 1)
        assert_close(f"D {D}", attend(gpu, q, k, v, 1), pytorch(q, k, v, 1), truth)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_strides_and_nothing_else_is_written(gpu: torch.device, dtype: torch.dtype) -> None:
    """Heads before tokens, keys in a longer buffer, an output between other numbers: the bits of dense tensors."""
    R, n, H, D = 3, 11, 2, 40
    q, k, v = (x.contiguous() for x in example(R, n, H, D, dtype))
    dense = attend(gpu, q, k, v, 4)
    heads_first = q.transpose(1, 2).contiguous().transpose(1, 2)
    longer = torch.full((R, n + 5, H, D), torch.nan, dtype=dtype)
    longer[:, 2 : n + 2] = k
    room = torch.full((R, n, H, D + 16), 7.0, dtype=dtype, device=gpu)
    found = attend(gpu, heads_first, longer.to(gpu)[:, 2 : n + 2], v, 4, out=room[..., 8 : D + 8])
    assert torch.equal(found, dense)
    assert (room[..., :8] == 7).all()
    assert (room[..., D + 8 :] == 7).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [3, 21])
def test_what_is_not_finite_stays_in_its_row_and_head(gpu: torch.device, dtype: torch.dtype, n: int) -> None:
    """And is not finite where PyTorch's is; large scores, and those that overflow, are as PyTorch's."""
    q, k, v = (x.clone() for x in example(4, n, 3, 32, dtype))
    clean = attend(gpu, q, k, v, 1)
    q[0, 1, 0], k[1, 0, 1], v[2, 0, 2] = torch.nan, torch.nan, torch.nan
    q[3, :, 0] *= 1000
    low = slice(
        0, min(4, n - 1)
    )  # the last query's scores of these keys, all that float32 takes at once, are -infinity
    q[3, n - 1, 1], k[3, low, 1] = 0, 0
    q[3, n - 1, 1, 0], k[3, low, 1, 0] = 1e30, -1e30
    found, expected = attend(gpu, q, k, v, 1), pytorch(q.float(), k.float(), v.float(), 1)
    touched = torch.zeros(4, 3, dtype=torch.bool)
    touched[[0, 1, 2, 3, 3], [0, 1, 2, 0, 1]] = True
    assert torch.equal(found.isnan(), expected.isnan())
    untouched = ~touched[:, None].expand(4, n, 3)
    assert torch.equal(found[untouched], clean[untouched])
    truth = pytorch(q.double(), k.double(), v.double(), 1)[3, :, 0]
    assert_close("large scores", found[3, :, 0], pytorch(q, k, v, 1)[3, :, 0], truth)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_alone_is_what_it_is_in_a_batch(gpu: torch.device, dtype: torch.dtype) -> None:
    q, k, v = example(7, 6, 3, 48, dtype)
    batch = attend(gpu, q, k, v, 2)
    for r in (0, 4, 6):
        assert torch.equal(attend(gpu, q[r : r + 1], k[r : r + 1], v[r : r + 1], 2)[0], batch[r])


def test_what_it_has_no_room_for_is_refused(gpu: torch.device) -> None:
    for shape, words in (
        ((1, 33, 1, 8), "n is 33"),
        ((1, 2, 1, 136), "D is 136"),
        ((1, 2, 1, 12), "D is 12"),
    ):
        with pytest.raises(ValueError, match=f"attention: {words}, expected"):
            attend(gpu, *example(*shape, torch.float32), 0)
    q, k, v = example(1, 2, 1, 16, torch.float32)
    with pytest.raises(
        ValueError, match="k is 12, expected an address and strides that are multiples of 16 bytes"
    ):
        attend(gpu, q, torch.randn(1, 2, 1, 17)[..., 1:], v, 0)
    with pytest.raises(ValueError, match="frame_tokens is 33, expected 0 to 32"):
        attend(gpu, q, k, v, 33)


@pytest.mark.parametrize("sanitizer", sanitize.SANITIZERS)
def test_no_stray_access_and_no_race(gpu: torch.device, sanitizer: str) -> None:
    """Memory ends where the last token of q, k or v does; warps without work, a window of one tile and of two."""
    with sanitize.recorded() as calls:
        for dtype in DTYPES:
            for shape in ((2, 3, 3, 64, 1), (1, 13, 1, 40, 5), (1, 18, 1, 128, 0)):
                q, k, v = (x.contiguous() for x in example(*shape[:4], dtype))
                attend(gpu, q, k, v, shape[4])
    sanitize.check(calls, sanitizer)
