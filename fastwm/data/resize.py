"""Frames of another size: Pillow's bilinear filter, which averages over all pixels that become one (as antialiased
bilinear resizing does in torchvision and OpenCV's INTER_AREA nearly does), where OpenCV's default takes four.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Size: TypeAlias = tuple[int, int]
FILTER = "bilinear, antialiased"  # part of a cache's key


def check_size(image_size: int | tuple[int, int] | None) -> int | Size | None:
    """`image_size` as an integer, a pair or None; a ValueError where it is none of them."""
    if image_size is None:
        return None
    numbers = image_size if isinstance(image_size, tuple | list) else (image_size,)
    whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= 1 for n in numbers)
    if not whole or len(numbers) > 2:
        raise ValueError(f"image_size: expected pixels, or (height, width) in pixels, got {image_size!r}")
    return int(numbers[0]) if len(numbers) == 1 else (int(numbers[0]), int(numbers[1]))


def resize(frame: NDArray[np.uint8], size: Size | None) -> NDArray[np.uint8]:
    """`frame` uint8 [height, width, 3] as [*size, 3], or as it is where `size` is None or already its own.

    To a square a picture's central square is scaled, so that nothing is squeezed; to any other size all of it.
    """
    height, width = frame.shape[:2]
    if size is None or size == (height, width):
        return frame
    if size[0] == size[1] and height != width:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        frame = frame[top : top + side, left : left + side]
    scaled = Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(scaled)


def resize_all(frames: NDArray[np.uint8], size: Size | None) -> NDArray[np.uint8]:
    """`frames` uint8 [n, height, width, 3] as [n, *size, 3]."""
    if size is None or size == frames.shape[1:3]:
        return frames
    out = np.empty((len(frames), *size, 3), np.uint8)
    for place, frame in enumerate(frames):
        out[place] = resize(frame, size)
    return out
