"""Drawing anti-aliased sprites on batches of small RGB frames.

A frame of these worlds is a fixed background and one or two sprites a few pixels wide, so drawing is copying
the background and mixing one small square of pixels per sprite. A row of a square is contiguous in memory: a
batch of frames is viewed as the rows of `3 * size` bytes of the square at every corner, and one indexed copy
moves the squares of all frames. Between those copies everything is elementwise on `[n, size, 3 * size]` with
the channels interleaved, because numpy vectorises long inner loops and not loops over 3 channels.

Frames are uint8 [n, height, width, 3]; positions are (x, y) in pixels, with the pixels' centres at integers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Corners = NDArray[np.intp]
Frames = NDArray[np.uint8]

# Frames drawn together: they (786 kB) and the squares' floats (2 x 197 kB) stay in the second-level cache.
CHUNK = 128


def corners(centre: Array, size: int, image_size: int) -> Corners:
    """Top-left pixels [n, 2] (x, y) of the squares of `size` pixels around `centre` [n, 2], moved inside the
    frame.

    `size` is even. Along each axis a square covers every pixel of the frame closer than `size / 2` to its
    centre.
    """
    corner = np.floor(centre).astype(np.intp) - (size // 2 - 1)
    return np.clip(corner, 0, image_size - size)


def gaussian(centre: Array, corner: Corners, sigma: float, out: Array) -> Array:
    """Opacity exp(-d^2 / (2 sigma^2)), d pixels from `centre` [n, 2], as `out` [n, size, 3 * size]."""
    across, down = _offsets(centre, corner, out.shape[1])
    scale = np.float32(-0.5 / sigma**2)
    return np.multiply(np.exp(scale * down**2)[:, :, None], np.exp(scale * across**2)[:, None, :], out=out)


def disc(centre: Array, corner: Corners, radius: float, out: Array) -> Array:
    """Opacity clip(radius + 1/2 - d, 0, 1), d pixels from `centre` [n, 2], as `out` [n, size, 3 * size]."""
    across, down = _offsets(centre, corner, out.shape[1])
    np.add((down**2)[:, :, None], (across**2)[:, None, :], out=out)
    np.sqrt(out, out=out)
    np.subtract(np.float32(radius + 0.5), out, out=out)
    return np.clip(out, 0.0, 1.0, out=out)


def blend(
    frames: Frames, corner: Corners, opacity: Array, colour: tuple[int, int, int], scratch: Array
) -> None:
    """Mix `colour` by `opacity` into the squares at `corner` [n, 2] of C-contiguous `frames`, in place.

    `scratch` is overwritten; like `opacity` it is [n, size, 3 * size].
    """
    n, size, _ = opacity.shape
    rows = _square_rows(frames, size)
    place = (np.arange(n), corner[:, 1], corner[:, 0])
    under = rows[place].view(np.uint8).reshape(n, size, 3 * size)
    np.subtract(np.tile(np.asarray(colour, np.float32), size), under, out=scratch)
    scratch *= opacity
    scratch += under
    scratch += np.float32(0.5)
    rows[place] = scratch.astype(np.uint8).view(rows.dtype)[..., 0]


def scratch_for(n: int, size: int) -> Array:
    """Uninitialised [2, n, size, 3 * size]: an opacity and a scratch.

    Made once per call of a renderer: allocating these anew for every chunk costs up to half of its speed.
    """
    return np.empty((2, n, size, 3 * size), np.float32)


def _offsets(centre: Array, corner: Corners, size: int) -> tuple[Array, Array]:
    """Pixels from `centre` to the square's columns, each three times [n, 3 * size], and rows [n, size]."""
    step = np.arange(size, dtype=np.float32)
    first = corner.astype(np.float32) - centre
    return first[:, :1] + np.repeat(step, 3), first[:, 1:] + step


def _square_rows(frames: Frames, size: int) -> NDArray[np.void]:
    """View [n, height - size + 1, width - size + 1, size]: the rows of the square at each (y, x)."""
    n, height, width, _ = frames.shape
    return np.ndarray(
        (n, height - size + 1, width - size + 1, size),
        dtype=np.dtype((np.void, 3 * size)),
        buffer=frames,
        strides=(3 * width * height, 3 * width, 3, 3 * width),
    )
