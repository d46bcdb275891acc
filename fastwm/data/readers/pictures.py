"""Pictures that are kept as the bytes of a file: PNG, JPEG and what else Pillow knows."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def decoded(blob: Any) -> NDArray[np.uint8]:
    """The picture in the bytes `blob`, uint8 [height, width, 3]; ValueError where it is none, or not whole."""
    if not isinstance(blob, bytes):
        raise ValueError(f"expected the bytes of a picture, got {type(blob).__name__}")
    try:
        with Image.open(io.BytesIO(blob)) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error
