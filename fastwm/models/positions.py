"""Where a token stands in a grid of time, row and column: tables that are added, and angles that queries and keys turn by."""

from __future__ import annotations

import torch

Grid = tuple[int, int, int]  # tokens in time, rows, columns
WAVELENGTH = 10_000.0


def coordinates(places: torch.Tensor, grid: Grid) -> torch.Tensor:
    """places int64 [..., n], counted along columns, then rows, then time -> (time, row, column) int64 [..., n, 3]"""
    _, rows, columns = grid
    return torch.stack([places // (rows * columns), places // columns % rows, places % columns], dim=-1)


def sincos_table(grid: Grid, width: int) -> torch.Tensor:
    """Fixed positions [tokens, width]: sines and cosines of each axis, side by side (I-JEPA, arXiv:2301.08243, appendix A).

    An axis of length 1 in time takes no room. Axes share the width equally, rounded up to whole pairs and cut at the end.
    """
    if width < 12:
        raise ValueError(f"width is {width}; positions of sines and cosines need at least 12")
    axes = (0, 1, 2) if grid[0] > 1 else (1, 2)
    places = coordinates(torch.arange(grid[0] * grid[1] * grid[2]), grid)
    pairs = -(-width // (2 * len(axes)))
    frequencies = _frequencies(pairs)
    parts = []
    for axis in axes:
        angles = places[:, axis, None].double() * frequencies
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, dim=-1)[:, :width].float()


def rotary_angles(places: torch.Tensor, grid: Grid, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [..., n, d] for `rotate`, of tokens at `places` [..., n] (V-JEPA 2, arXiv:2506.09985, section 2.1).

    A head of D numbers has three equal, even parts, for time, row and column: d in all; what is left over is not turned. As in
    the published weights a part's frequencies run through twice, while the numbers that turn together are neighbours: the two
    of a pair have angles of their own, so that this is no exact rotation.
    """
    part = head_dim // 3 // 2 * 2
    frequencies = _frequencies(part // 2).to(places.device).repeat(2)
    angles = coordinates(places, grid)[..., None].double() * frequencies  # [..., n, 3, part]
    angles = angles.flatten(-2)
    return angles.cos().float(), angles.sin().float()


def rotate(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """x [..., n, D]: each pair of neighbours (a, b) of the first d becomes (a cos - b sin, b cos + a sin)"""
    turned, rest = x[..., : cosines.shape[-1]], x[..., cosines.shape[-1] :]
    a, b = turned.unflatten(-1, (-1, 2)).unbind(-1)
    turned = turned * cosines.to(x.dtype) + torch.stack([-b, a], dim=-1).flatten(-2) * sines.to(x.dtype)
    return torch.cat([turned, rest], dim=-1)


def _frequencies(count: int) -> torch.Tensor:
    """Radians per step [count], in float64, from 1 down to 1 / WAVELENGTH."""
    return WAVELENGTH ** -(torch.arange(count, dtype=torch.float64) / max(count, 1))
