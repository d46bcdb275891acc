"""Writing what an environment draws as a .gif or .mp4."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastwm.models.storage import write_atomically

SHORTEST = 20  # milliseconds of a GIF's frame: what is shorter, browsers play slowly


class Film(Protocol):
    """A video that grows."""

    def add(self) -> None:
        """Draw the environment's next frame."""


@contextlib.contextmanager
def filming(path: str | os.PathLike[str] | None, env: gymnasium.Env[Any, Any]) -> Iterator[Film]:
    """A film of `env` at `path`, which is there once all is well; none where the path is None.

    Raises ValueError for another ending than .gif and .mp4, a folder that is not there or a render mode other than "rgb_array",
    and ImportError if nothing can write an .mp4.
    """
    if path is None:
        yield _NoFilm()
        return
    path = Path(path)
    if path.suffix not in (".gif", ".mp4"):
        raise ValueError(f"video is '{path}', expected a name that ends in .gif or .mp4")
    if not path.parent.is_dir():
        raise ValueError(f"video is '{path}', but there is no folder '{path.parent}'")
    if env.render_mode != "rgb_array":
        raise ValueError(
            f"video needs an environment made with render_mode='rgb_array', this one has {env.render_mode!r}"
        )
    fps = float(env.metadata.get("render_fps") or 30)
    with (_gif if path.suffix == ".gif" else _mp4)(path, env, fps) as film:
        yield film


class _NoFilm:
    def add(self) -> None:
        pass


class _Gif:
    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        self._env, self.frames = env, list[Image.Image]()

    def add(self) -> None:
        self.frames.append(Image.fromarray(_frame(self._env)).quantize(128, dither=Image.Dither.NONE))


class _Mp4:
    def __init__(self, env: gymnasium.Env[Any, Any], writer: Any) -> None:
        self._env, self._writer = env, writer

    def add(self) -> None:
        self._writer.append_data(_frame(self._env))


@contextlib.contextmanager
def _gif(path: Path, env: gymnasium.Env[Any, Any], fps: float) -> Iterator[Film]:
    film = _Gif(env)
    yield film
    file, (first, *rest) = io.BytesIO(), film.frames
    duration = max(SHORTEST, round(1000 / fps))
    first.save(file, "GIF", save_all=True, append_images=rest, duration=duration, loop=0)
    write_atomically(path, file.getvalue())


@contextlib.contextmanager
def _mp4(path: Path, env: gymnasium.Env[Any, Any], fps: float) -> Iterator[Film]:
    if not all(importlib.util.find_spec(name) for name in ("imageio", "imageio_ffmpeg")):
        raise ImportError(
            f"video is '{path}', and .mp4 needs ffmpeg: pip install 'imageio[ffmpeg]', or name a .gif"
        )
    imageio = importlib.import_module("imageio.v2")
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.tmp.mp4")
    try:
        with imageio.get_writer(unfinished, format="FFMPEG", mode="I", fps=fps, macro_block_size=2) as writer:
            yield _Mp4(env, writer)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _frame(env: gymnasium.Env[Any, Any]) -> NDArray[np.uint8]:
    frame = env.render()
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        found = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise TypeError(f"env.render() returned {found}, expected an array uint8 [height, width, 3]")
    return frame
