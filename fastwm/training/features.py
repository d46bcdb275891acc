"""Latents of a frozen encoder, computed once and kept on disk: what a world model on top of it is trained from.

A cache is a directory named by what it was made from (the encoder's digest and the data's): `latents.npy`, one row per row of
the episodes' file, and `features.json`. Until it is whole it is `latents.partial.npy`, and `features.json` says how far it is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from fastwm.data import Episodes
from fastwm.models.storage import write_atomically
from fastwm.models.vision import VisionEncoder, resize
from fastwm.training.sampler import evenly_spaced

FORMAT = "fastwm.features"
VERSION = 1
DIGEST_FRAMES = 256
SAVE_EVERY = 32  # chunks between two records of how far a cache is

# uint8 pixels [n, size, size, 3] -> latents [n, E] or [n, N, E]
Encode = Callable[[torch.Tensor], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Features:
    """Latents [rows, E] or [rows, N, E] of a file's rows, mapped from disk; rows outside the episodes are zero."""

    latents: NDArray[np.floating]
    key: str  # what they were made from
    data: str  # digest of the data alone

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one frame's latents: (E,) or (N, E)."""
        return self.latents.shape[1:]

    def batch(self, starts: NDArray[np.int64], length: int, frame_skip: int = 1) -> torch.Tensor:
        """float32 [b, length, ...]: the windows that begin at rows `starts` [b], as `Episodes.batch` has them."""
        rows = np.asarray(starts)[:, None] + frame_skip * np.arange(length)
        return torch.as_tensor(np.asarray(self.latents[rows], np.float32))


def frozen(encoder: VisionEncoder, *, tokens: bool = False) -> tuple[Encode, str]:
    """What `cache_features` needs of an encoder: a function of pictures of any size, and a digest.

    Pictures of another size than the trunk's are resized, bilinear with antialiasing. tokens: [N, E] of a picture instead of
    their mean.
    """

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        resized = resize(pixels.to(encoder.colour_mean.device), encoder.config.image_size)
        return encoder.encode_tokens(resized) if tokens else encoder.encode(resized)

    return encode, f"{encoder.digest()}-{'tokens' if tokens else 'mean'}"


def cache_features(
    encode: Encode,
    digest: str,
    episodes: Episodes,
    directory: str | os.PathLike[str],
    *,
    chunk: int = 64,
    dtype: str = "float32",
    progress: bool = True,
) -> Features:
    """The latents of every frame of `episodes`, read from a cache below `directory` or made there, chunk by chunk.

    digest: names what `encode` computes (`frozen` has that of an encoder); another digest is another cache. dtype: "float32" or
    "float16" on disk. A killed call goes on where it was. Raises ValueError for latents that are not finite or do not have the
    shape of the first, and for a cache that is damaged.
    """
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype is {dtype!r}; expected 'float32' or 'float16'")
    if not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"chunk is {chunk!r}; expected an integer of at least 1")
    data = data_digest(episodes)
    key = hashlib.sha256(f"{FORMAT} {VERSION} {digest} {data} {dtype}".encode()).hexdigest()
    path = Path(directory) / key[:16]
    whole, partial, record = path / "latents.npy", path / "latents.partial.npy", path / "features.json"
    path.mkdir(parents=True, exist_ok=True)
    rows = episodes.windows(1)
    done = _recorded(record, key) if whole.exists() or partial.exists() else 0
    if not whole.exists():
        _make(encode, episodes, rows, done, partial, record, key, chunk=chunk, dtype=dtype, progress=progress)
        os.replace(partial, whole)
    elif done != len(rows):
        raise ValueError(
            f"{record} is damaged: it tells of {done} frames, and the cache is one of {len(rows)}"
        )
    return Features(_mapped(whole, rows, dtype), key, data)


def data_digest(episodes: Episodes) -> str:
    """A digest of where episodes lie and of DIGEST_FRAMES frames spread over them: no reading of the whole file."""
    found = hashlib.sha256()
    for values in (episodes.lengths, episodes.offsets):
        found.update(np.ascontiguousarray(values, np.int64).tobytes())
    starts = evenly_spaced(episodes.windows(1), DIGEST_FRAMES)
    found.update(np.ascontiguousarray(episodes.batch(starts, 1, columns=("pixels",))["pixels"]).tobytes())
    return found.hexdigest()


@torch.inference_mode()
def _make(
    encode: Encode,
    episodes: Episodes,
    rows: NDArray[np.int64],
    done: int,
    partial: Path,
    record: Path,
    key: str,
    *,
    chunk: int,
    dtype: str,
    progress: bool,
) -> None:
    """Fill `partial` from frame `done` of `rows` on."""
    latents: np.memmap | None = None
    if done:
        _mapped(partial, rows, dtype)  # checks it: one that was cut would be filled up with zeros
        latents = np.lib.format.open_memmap(partial, mode="r+")
    with tqdm(total=len(rows), initial=done, unit="frame", desc="encoding", disable=not progress) as bar:
        for number, first in enumerate(range(done, len(rows), chunk), start=1):
            part = rows[first : first + chunk]
            pixels = torch.as_tensor(episodes.batch(part, 1, columns=("pixels",))["pixels"][:, 0])
            found = encode(pixels).float().cpu()
            if latents is None:
                shape = (int(rows.max()) + 1, *found.shape[1:])
                latents = np.lib.format.open_memmap(partial, mode="w+", dtype=np.dtype(dtype), shape=shape)
            _check_latents(found, len(part), latents.shape[1:], part)
            with np.errstate(over="ignore"):  # what float16 cannot hold is looked for below
                latents[part] = found.numpy()
            if not np.isfinite(latents[part]).all():
                raise ValueError(f"latents do not fit {dtype}: they are beyond its largest number")
            bar.update(len(part))
            if number % SAVE_EVERY == 0 or first + chunk >= len(rows):
                latents.flush()
                _record(record, key, first + len(part))


def _mapped(path: Path, rows: NDArray[np.int64], dtype: str) -> NDArray[np.floating]:
    """The latents in `path`, mapped; ValueError unless they are of a file with these `rows`, whole and of type `dtype`."""
    try:
        latents: NDArray[np.floating] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    count = int(rows.max()) + 1
    if latents.dtype != np.dtype(dtype) or latents.ndim not in (2, 3) or len(latents) != count:
        came = f"{latents.dtype} {list(latents.shape)}"
        raise ValueError(f"{path} is damaged: expected {dtype} [{count}, …] latents, got {came}")
    return latents


def _check_latents(found: torch.Tensor, count: int, shape: tuple[int, ...], rows: NDArray[np.int64]) -> None:
    if found.ndim not in (2, 3) or found.shape != (count, *shape):
        expected = f"[{count}, {', '.join(map(str, shape)) if len(shape) in (1, 2) else 'E'}]"
        raise ValueError(f"encode gave latents of shape {list(found.shape)}; expected {expected}")
    if not torch.isfinite(found).all():
        bad = int(rows[(~torch.isfinite(found).flatten(1).all(dim=1)).nonzero()[0]].item())
        raise ValueError(f"encode gave latents that are not finite for row {bad}")


def _record(path: Path, key: str, done: int) -> None:
    content = {"format": FORMAT, "version": VERSION, "key": key, "frames_done": done}
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def _recorded(path: Path, key: str) -> int:
    """How many frames a cache holds; 0 where the first record was never written."""
    if not path.is_file():
        return 0
    try:
        content = json.loads(path.read_bytes())
        done, found = int(content["frames_done"]), content["key"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    if done < 0:
        raise ValueError(f"{path} is damaged: it tells of {done} frames")
    if found != key:
        raise ValueError(f"{path} belongs to another cache: its key is {found!r}")
    return done
