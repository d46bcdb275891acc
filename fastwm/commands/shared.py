"""What several commands do with their command line."""

from __future__ import annotations

import argparse
import errno
import sys
from pathlib import Path
from typing import Any

import torch

import fastwm
from fastwm.demo import Search
from fastwm.demo.run import MODEL
from fastwm.engine.backend import check_threads
from fastwm.engine.engine import Engine
from fastwm.models import LatentWAM, WorldModel
from fastwm.models.storage import CONFIG_FILE


def progress(parsed: argparse.Namespace) -> bool:
    """Whether to draw progress bars: for someone who looks at them."""
    return not parsed.quiet and sys.stderr.isatty()


def say(text: str) -> None:
    """Print at once; an OSError then names standard output."""
    try:
        print(text, flush=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from error


def warn(text: str) -> None:
    """Say on standard error what may not be meant."""
    print(f"fastwm: {text}", file=sys.stderr, flush=True)


def refuse_directory(path: str, expected: str) -> None:
    if Path(path).is_dir():
        raise IsADirectoryError(errno.EISDIR, f"is a directory; FILE is {expected}", path)


def load(directory: str) -> WorldModel | LatentWAM:
    """The model in DIR; where it holds none, the error says where one is nearby."""
    path = Path(directory)
    if path.is_file() or (path.is_dir() and not (path / CONFIG_FILE).is_file()):
        holds = "is a file" if path.is_file() else f"holds no world model: {CONFIG_FILE} is missing"
        near = path.parent if path.is_file() else path / MODEL
        hint = f"; {near} holds one" if (near / CONFIG_FILE).is_file() else ""
        expected = "; DIR is the directory of a saved world model" if path.is_file() and not hint else ""
        raise ValueError(f"{directory} {holds}{expected}{hint}")
    return fastwm.load(path)


def load_wam(directory: str) -> LatentWAM:
    """The model in DIR, which has to have a policy."""
    model = load(directory)
    if not isinstance(model, LatentWAM):
        raise ValueError(
            f"{directory} holds a {type(model).__name__}, which has no policy; expected a LatentWAM"
        )
    return model


def compile_for(model: WorldModel | LatentWAM, parsed: argparse.Namespace, dtype: Any) -> Engine:
    torch.set_num_threads(check_threads(parsed.threads))
    return fastwm.compile(model, backend=parsed.backend, dtype=dtype, threads=parsed.threads)


def search_of(parsed: argparse.Namespace) -> Search:
    return Search(
        samples=parsed.samples,
        elites=parsed.elites,
        iterations=parsed.iterations,
        horizon=parsed.horizon,
        std=parsed.std,
        min_std=parsed.min_std,
        noise_exponent=parsed.noise_exponent,
    )
