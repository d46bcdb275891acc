"""Candidate actions in plain PyTorch, the same bits as the kernels (see csrc/cpu/philox.h).

Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. The polynomials of the
logarithm, sine and cosine are Cephes' logf, sinf and cosf, evaluated with single IEEE operations in the
kernels' order.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORD = 0xFFFFFFFF


def cem_sample(
    mean: Tensor,
    std: Tensor,
    samples: int,
    seed: int,
    iteration: int,
    stream: Tensor | None = None,
    noise: Tensor | None = None,
    low: Tensor | None = None,
    high: Tensor | None = None,
    factor: Tensor | None = None,
    injected: Tensor | None = None,
    counter: Tensor | None = None,
) -> Tensor:
    """mean, std [B, T, A] -> candidate actions [B, S, T, A]; candidate 0 is the mean. See
    `fastwm.ops.cem_sample`."""
    B, T, A = mean.shape
    if noise is None:
        streams = torch.arange(B, device=mean.device) if stream is None else stream
        key, count = (seed, iteration) if counter is None else counter
        noise = normals(streams, samples, T * A, key, count).view(B, samples, T, A)
    if factor is not None:
        noise = colour(noise, factor)
    actions = mean[:, None] + std[:, None] * noise
    actions[:, 0] = mean
    if injected is not None:
        actions[:, 1 : 1 + injected.shape[1]] = injected
    if low is not None:
        actions = torch.where(actions < low, low, actions)
    if high is not None:
        actions = torch.where(actions > high, high, actions)
    return actions


def colour(noise: Tensor, factor: Tensor) -> Tensor:
    """Independent normals [B, S, T, A] -> x_t = sum over s <= t of factor[t, s] noise_s, added in the kernels' order."""
    steps = []
    for t in range(noise.shape[2]):
        total = noise[:, :, 0] * factor[t, 0]
        for s in range(1, t + 1):
            total = total + noise[:, :, s] * factor[t, s]
        steps.append(total)
    return torch.stack(steps, dim=2)


def normals(streams: Tensor, samples: int, count: int, seed: int | Tensor, iteration: int | Tensor) -> Tensor:
    """Standard normals [B, S, count] of counters (number / 4, s, streams[b], iteration) under key `seed`."""
    quads = (count + 3) // 4
    shape = (len(streams), samples, quads)
    counter = [
        torch.arange(quads, device=streams.device).expand(shape),
        torch.arange(samples, device=streams.device)[:, None].expand(shape),
        streams[:, None, None].expand(shape),
        torch.as_tensor(iteration, device=streams.device).expand(shape),
    ]
    bits = philox(counter, seed)
    numbers = torch.stack([*box_muller(bits[0], bits[1]), *box_muller(bits[2], bits[3])], dim=-1)
    return numbers.flatten(2)[..., :count]


def philox(counter: list[Tensor], key: int | Tensor) -> list[Tensor]:
    """Four int64 tensors of 32-bit words -> four of random 32-bit words (Philox4x32-10)."""
    c0, c1, c2, c3 = counter
    key0, key1 = key & WORD, key >> 32 & WORD
    for _ in range(10):
        product0, product1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # 64 bits, modulo their sign
        c0, c1 = (product1 >> 32 & WORD) ^ c1 ^ key0, product1 & WORD
        c2, c3 = (product0 >> 32 & WORD) ^ c3 ^ key1, product0 & WORD
        key0, key1 = key0 + 0x9E3779B9 & WORD, key1 + 0xBB67AE85 & WORD
    return [c0, c1, c2, c3]


def box_muller(radius_bits: Tensor, angle_bits: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent standard normals from two 32-bit words: 31 bits of radius, 32 of angle."""
    uniform = (radius_bits >> 1).float() * 2.0**-31 + 2.0**-32
    radius = (
        (_log(uniform) * -2.0).double().sqrt().float()
    )  # torch.sqrt of float32 is not always rounded to nearest
    quadrant = angle_bits + 0x20000000 >> 30 & 3  # the nearest multiple of a quarter turn
    angle = ((angle_bits + 0x20000000 & 0x3FFFFFFF) - 0x20000000).float() * 1.46291807927e-9  # 2 pi / 2^32
    square = angle * angle
    s = square * -1.9515295891e-4 + 8.3321608736e-3
    s = s * square + -1.6666654611e-1
    s = s * square * angle + angle
    c = square * 2.443315711809948e-5 + -1.388731625493765e-3
    c = c * square + 4.166664568298827e-2
    c = c * square * square + (1.0 - square * 0.5)
    odd = (quadrant & 1) != 0
    cosine, sine = torch.where(odd, s, c), torch.where(odd, c, s)
    first = radius * torch.where((quadrant + 1 & 2) != 0, -cosine, cosine)
    second = radius * torch.where((quadrant & 2) != 0, -sine, sine)
    return first, second


def _log(x: Tensor) -> Tensor:
    shifted = x.view(torch.int32) - 0x3F3504F3  # bits of sqrt(1/2)
    exponent = (shifted >> 23).float()
    f = ((shifted & 0x7FFFFF) + 0x3F3504F3).view(torch.float32) - 1.0
    square = f * f
    p = f * 7.0376836292e-2 + -1.1514610310e-1
    for coefficient in (
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    ):
        p = p * f + coefficient
    p = p * f * square
    p = p + exponent * -2.12194440e-4
    p = p - square * 0.5
    return (f + p) + exponent * 0.693359375
