"""Attention of new frames to shared context frames and to a candidate's own earlier ones; candidates in parts of a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fastwm import reference
from fastwm.engine.cuda import device
from fastwm.ops import _check
from fastwm.ops._register import op
from fastwm.ops.attention import WIDEST


def frame_attention(
    query: Tensor,
    own_keys: Tensor,
    own_values: Tensor,
    shared_keys: Tensor | None = None,
    shared_values: Tensor | None = None,
    *,
    frame_tokens: int,
    scale: float | None = None,
) -> Tensor:
    """Attention of each candidate's m newest frames: [R, m N, H, D].

    query [R, m N, H, D]; own_keys, own_values [R, (earlier + m) N, H, D]: of the candidate's own frames, kept from step to
    step, the newest last; shared_keys, shared_values [B, s N, H, D]: of context frames, which the R / B candidates of an
    environment share. frame_tokens: N; a token sees its own frame, its candidate's earlier ones, and the whole context.
    float32 or bfloat16 (any floating dtype where the PyTorch reference runs), one for all; the last stride is 1, or copies
    are made. Where gradients are asked for, the reference runs. Raises TypeError or ValueError naming the argument.
    """
    if scale is None and isinstance(query, Tensor) and query.dim() == 4:
        scale = max(query.shape[3], 1) ** -0.5
    given = (query, own_keys, own_values, shared_keys, shared_values)
    if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in given):
        _check_arguments(*given, frame_tokens, scale)  # type: ignore[arg-type]
        return reference.frame_attention(*given, frame_tokens, scale)  # type: ignore[arg-type]
    return _frame_attention(*given, frame_tokens, scale)  # type: ignore[arg-type]


def _check_arguments(
    query: Tensor,
    own_keys: Tensor,
    own_values: Tensor,
    shared_keys: Tensor | None,
    shared_values: Tensor | None,
    frame_tokens: int,
    scale: float,
) -> Tensor:
    gpu = _check.floating("query", _check.rank("query", query, "R n H D"), "R n H D")
    R, new, H, D = query.shape
    if gpu and D > WIDEST:
        raise ValueError(f"query has heads of {D} numbers, expected at most {WIDEST}")
    own = _check.rank("own_keys", own_keys, "R n H D").shape[1]
    _check.tensor("own_keys", own_keys, (R, own, H, D), query, query.dtype)
    _check.tensor("own_values", own_values, (R, own, H, D), query, query.dtype)
    _check.integer("frame_tokens", frame_tokens, 1, 2**31)
    for name, tokens in (("query", new), ("own_keys", own)):
        if tokens % frame_tokens:
            raise ValueError(f"{name} has {tokens} tokens, expected whole frames of {frame_tokens}")
    if own < new:
        raise ValueError(f"own_keys has {own} tokens, expected at least {new}, those of the query's frames")
    if (shared_keys is None) != (shared_values is None):
        raise ValueError("shared_keys and shared_values come together, expected both or none")
    if shared_keys is not None:
        B, shared = _check.rank("shared_keys", shared_keys, "B n H D").shape[:2]
        _check.tensor("shared_keys", shared_keys, (B, shared, H, D), query, query.dtype)
        _check.tensor("shared_values", shared_values, (B, shared, H, D), query, query.dtype)
        if R % B:
            raise ValueError(f"shared_keys has {B} environments, expected a divisor of {R}, the candidates")
    _check.number("scale", scale, 0.0)
    return torch.empty(query.shape, dtype=query.dtype, device=query.device)


@op(
    "frame_attention(Tensor query, Tensor own_keys, Tensor own_values, Tensor? shared_keys, Tensor? shared_values, "
    "int frame_tokens, float scale) -> Tensor",
    fake=_check_arguments,
)
def _frame_attention(
    query: Tensor,
    own_keys: Tensor,
    own_values: Tensor,
    shared_keys: Tensor | None,
    shared_values: Tensor | None,
    frame_tokens: int,
    scale: float,
) -> Tensor:
    given = (query, own_keys, own_values, shared_keys, shared_values)
    _check_arguments(*given, frame_tokens, scale)
    if not device.is_gpu(query.device):
        return reference.frame_attention(*given, frame_tokens, scale).contiguous()
    from fastwm.triton.frame_attention import frame_attention as kernel

    dense = [x if x is None or x.stride(-1) == 1 else x.contiguous() for x in given]
    return kernel(*dense, frame_tokens, scale)  # type: ignore[arg-type,call-arg]


def chunk_candidates(candidates: int, bytes_each: int, budget: int) -> int:
    """How many candidates at a time need no more than `budget` bytes; 1 at least. Raises ValueError unless all are positive."""
    for name, value in (("candidates", candidates), ("bytes_each", bytes_each), ("budget", budget)):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    return max(1, min(candidates, budget // bytes_each))


def in_chunks(function: Callable[..., Tensor], *tensors: Tensor, chunk: int) -> Tensor:
    """function(*tensors) [R, ...], made of at most `chunk` of the R candidates at a time.

    tensors [R, ...], or [B, ...] of what the R / B candidates of an environment share, one environment's after another's: a
    part is some candidates of one environment or all of several. Whatever differs between environments must be among
    `tensors`: what `function` takes from elsewhere stays whole. Raises ValueError naming the argument.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}, expected at least 1")
    rows = [len(tensor) for tensor in tensors]
    R, B = max(rows, default=0), min(rows, default=0)
    if B < 1 or R % B or not set(rows) <= {R, B}:
        raise ValueError(
            f"tensors have {rows} rows, expected R candidates or B environments each, R a multiple of B"
        )
    each = R // B
    results = []
    for first, end in _parts(R, each, chunk):
        environments = slice(first // each, (end - 1) // each + 1)
        part = (x[first:end] if len(x) == R else x[environments] for x in tensors)
        results.append(function(*part))
    return torch.cat(results)


def _parts(R: int, each: int, chunk: int) -> Iterator[tuple[int, int]]:
    """Parts [first, end) of at most `chunk` of R candidates, `each` an environment: whole environments, or within one."""
    whole = chunk >= each
    step, group = (chunk // each * each, R) if whole else (chunk, each)
    for begun in range(0, R, group):
        for first in range(begun, begun + group, step):
            yield first, min(first + step, begun + group)
