"""Bringing a data set's columns into memory, and checking them, when it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .hdf5 import Column
from .readers import Damage, Reader
from .readers.reader import WITHOUT_IT

# "auto" reads columns into memory that together take less than this share of the memory now free.
MEMORY_SHARE = 0.5


def check_columns(path: Path, shapes: dict[str, Column]) -> None:
    """A ValueError where a column that training knows is not of its type."""
    for name, kinds, ndim, expected in (
        ("pixels", "u", 3, "uint8 [steps, height, width, 3]"),
        ("action", "f", 1, "floats [steps, action_dim]"),
        ("state", "f", 1, "floats [steps, state_dim]"),
    ):
        if name not in shapes:
            continue
        dtype, shape = shapes[name].dtype, shapes[name].shape
        wrong_pixels = name == "pixels" and (dtype != np.uint8 or shape[-1:] != (3,))
        if dtype.kind not in kinds or len(shape) != ndim or wrong_pixels or 0 in shape:
            sizes = ", ".join(map(str, ("steps", *shape)))
            raise ValueError(f"{path}: column {name!r}: expected {expected}, got {dtype} [{sizes}]")


def check_finite(
    reader: Reader, numbers: Mapping[str, NDArray[Any]], skip_damaged: bool
) -> tuple[NDArray[np.bool_], tuple[Damage, ...]]:
    """Which episodes [episodes] of `reader` have finite `numbers` (columns [rows, n]) where a batch could contain them.

    What an episode's last action is does not matter: it leads nowhere. ValueError for the first number that is not
    finite, or with `skip_damaged` where no episode is left.
    """
    lengths, offsets = reader.lengths, reader.offsets
    usable, damaged = np.ones(len(lengths), bool), []
    inside = np.zeros(int((offsets + lengths).max()), bool)
    for offset, length in zip(offsets, lengths, strict=True):
        inside[offset : offset + length] = True
    leads_on = inside.copy()
    leads_on[offsets + lengths - 1] = False
    for name, values in numbers.items():
        rows = leads_on if name == "action" else inside
        with np.errstate(over="ignore"):  # as batches have them
            bad = np.flatnonzero(rows & ~np.isfinite(values.astype(np.float32, copy=False)).all(axis=1))
        episodes, first = np.unique(np.searchsorted(offsets, bad, side="right") - 1, return_index=True)
        for episode, row in zip(episodes, bad[first], strict=True):
            label = reader.label(int(episode))
            problem = "is beyond float32" if np.isfinite(values[row]).all() else "is not finite"
            if not skip_damaged:
                step = row - offsets[episode]
                raise ValueError(
                    f"{reader.path}: column {name!r}: row {row} {problem} ({label}, step {step}){WITHOUT_IT}"
                )
            if usable[episode]:
                reason = f"{name!r} {problem} at its step {row - offsets[episode]}"
                damaged.append(Damage(reader.path, label, reason))
                usable[episode] = False
    if not usable.any():
        raise ValueError(f"{reader.path}: no episode can be used: {damaged[0]}")
    return usable, tuple(damaged)


def load(reader: Reader, names: dict[str, str], end: int, in_memory: bool | str) -> dict[str, NDArray[Any]]:
    """Those columns that are in memory, or mapped; the others are read from `reader` when they are asked for."""
    columns: dict[str, NDArray[Any]] = {}
    for name, column in names.items():
        if in_memory is not True or reader.decodes:
            whole = reader.whole(column)
            if whole is not None:
                columns[name] = whole
    rest = [name for name in names if name not in columns]
    if in_memory == "auto":
        kinds = [reader.columns[names[name]] for name in rest]
        in_memory = (
            not reader.decodes and sum(k.row_bytes * end for k in kinds) < MEMORY_SHARE * _free_memory()
        )
    if in_memory:
        columns.update({name: reader.read(names[name], np.arange(end)) for name in rest})
    return columns


def _free_memory() -> int:
    """Bytes of memory that can be taken without swapping, or 0 where the system does not say."""
    try:
        with open("/proc/meminfo") as info:
            fields = dict(line.split(":", 1) for line in info)
        return 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return 0
