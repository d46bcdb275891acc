"""Damaged data sets: what is expected of all readers."""

from __future__ import annotations

from pathlib import Path

import pytest
from recordings import LENGTHS

from fastwm.data import Episodes


def check(path: Path, message: str, kept: list[int], **options: object) -> Episodes:
    """`path` is refused with `message`; without its damaged episodes `kept` are there, each with its own frames."""
    with pytest.raises(ValueError, match=message):
        Episodes(path, **options)  # type: ignore[arg-type]
    episodes = Episodes(path, skip_damaged=True, **options)  # type: ignore[arg-type]
    assert episodes.lengths.tolist() == [LENGTHS[number] for number in kept]
    assert len(episodes.damaged) == len(LENGTHS) - len(kept)
    first = episodes.batch(episodes.offsets, 1)["pixels"][:, 0]
    for number, picture in zip(kept, first, strict=True):
        assert abs(int(picture[20, 20, 1]) - 40 * number) < 20
    return episodes


def cut(path: Path, share: float) -> None:
    """Keep the first `share` of the file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
