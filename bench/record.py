"""Results on disk: {"machine": header(), "results": [line, …]} in bench/results/<stem>.json."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fastwm.models.storage import write_atomically

RESULTS = Path(__file__).parent / "results"


def save(path: str | os.PathLike[str], content: dict) -> None:
    """Write under a temporary name, then rename."""
    write(path, json.dumps(content, indent=1) + "\n")


def write(path: str | os.PathLike[str], text: str) -> None:
    """The same of any text. Raises OSError that names `path`."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with _named(path):
        write_atomically(path, text.encode())


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise ValueError or OSError, which name `path`, where a file cannot be written; makes its directory.

    What is there must be a regular file: the rename would put one in the place of a device or a link.
    """
    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        raise ValueError(f"{os.fspath(path)} is not a regular file: results would take its place")
    folder = Path(path).parent
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, expected a directory")
    with _named(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _named(path), tempfile.TemporaryFile(dir=folder):
        pass


@contextlib.contextmanager
def _named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Errors that name what the user asked for, not a temporary file or a part of the way there."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def read(path: str | os.PathLike[str]) -> dict:
    """The content of one file of results; ValueError where it is damaged or holds something else."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        machine, results = content["machine"], content["results"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no results ({error}); run the benchmark again") from error
    if not isinstance(machine, dict) or not isinstance(results, list):
        raise ValueError(f"{path} holds no results; run the benchmark again")
    return content
