"""Rows of Parquet files, row group by row group, so that what is whole in a damaged file is still read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastwm.data.hdf5 import Column
from fastwm.data.resize import Size, resize

from .pictures import decoded
from .reader import needs

INDEX = "index"  # LeRobot's column of the rows' numbers in the whole data set


def read_table(file: Path, names: Sequence[str]) -> tuple[dict[str, list[Any]], int]:
    """Those of the columns `names` that `file` has, and its number of rows; ValueError where it is damaged."""
    arrow, parquet = needs("pyarrow", "lerobot", file), needs("pyarrow.parquet", "lerobot", file)
    try:
        with parquet.ParquetFile(file) as opened:
            there = [name for name in names if name in opened.schema_arrow.names]
            columns: dict[str, list[Any]] = opened.read(columns=there).to_pydict()
            rows = int(opened.metadata.num_rows)
    except (arrow.ArrowException, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{file}: damaged, or not a Parquet file ({error})") from error
    return columns, rows


def read_rows(
    file: Path, types: Mapping[str, Column]
) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]], str | None]:
    """The rows of `file` that are whole: their numbers [n] in the data set, columns `types` [n, …] of the type and shape
    asked for, and what is wrong with the first of the others, None where nothing is.
    """
    arrow, parquet = needs("pyarrow", "lerobot", file), needs("pyarrow.parquet", "lerobot", file)
    index, found, problem = [np.zeros(0, np.int64)], [], None
    wanted = {INDEX: Column(np.dtype(np.int64), ()), **types}
    try:
        with parquet.ParquetFile(file) as opened:
            if missing := [name for name in wanted if name not in opened.schema_arrow.names]:
                return index[0], {}, f"columns {missing} are missing"
            for group in range(opened.num_row_groups):
                try:
                    table = opened.read_row_group(group, columns=list(wanted))
                    read = {
                        name: _values(table.column(name).combine_chunks(), wanted[name]) for name in wanted
                    }
                except (arrow.ArrowException, OSError, KeyError) as error:
                    problem = problem or f"row group {group} is damaged: {error}"
                    continue
                whole = np.logical_and.reduce([fits for _, fits, _ in read.values()])
                for name, (_, _, reason) in read.items():
                    problem = problem or (f"column {name!r}: {reason}" if reason else None)
                index.append(read.pop(INDEX)[0][whole])
                found.append({name: values[whole] for name, (values, _, _) in read.items()})
    except (arrow.ArrowException, OSError) as error:
        problem = f"damaged, or not a Parquet file: {error}"
    columns = {name: np.concatenate([part[name] for part in found]) for name in types} if found else {}
    return np.concatenate(index), columns, problem


def read_pictures(file: Path, name: str, rows: NDArray[np.int64], size: Size | None) -> NDArray[np.uint8]:
    """The pictures of `rows` [n] (numbers in the data set) in column `name`: uint8 [n, height, width, 3].

    ValueError naming the first row that has no whole picture.
    """
    arrow, parquet = needs("pyarrow", "lerobot", file), needs("pyarrow.parquet", "lerobot", file)
    blobs: dict[int, Any] = {}
    wanted = set(rows.tolist())
    try:
        with parquet.ParquetFile(file) as opened:
            for group in range(opened.num_row_groups):
                index = opened.read_row_group(group, columns=[INDEX]).column(INDEX).to_pylist()
                if wanted.isdisjoint(index):
                    continue
                values = opened.read_row_group(group, columns=[name]).column(name)
                blobs |= {n: values[i].as_py() for i, n in enumerate(index) if n in wanted}
    except (arrow.ArrowException, OSError, KeyError) as error:
        raise ValueError(f"{file}: column {name!r} is damaged, or missing: {error}") from error
    pictures = []
    for row in rows.tolist():
        blob = blobs.get(row)
        try:
            pictures.append(resize(decoded(blob.get("bytes") if isinstance(blob, dict) else blob), size))
        except ValueError as error:
            raise ValueError(f"{file}: column {name!r}: row {row} is no whole picture: {error}") from error
    return np.stack(pictures)


def _values(column: Any, kind: Column) -> tuple[NDArray[Any], NDArray[np.bool_], str | None]:
    """`column` as [rows, *kind.shape] of its type, which rows [rows] are, and what the first that is not is instead.

    A number that is missing is NaN where the type has one. Lists are told apart row by row only where some differ.
    """
    rows, size = len(column), int(np.prod(kind.shape, dtype=np.int64))
    flat, regular = column, True
    while hasattr(flat.type, "value_type"):
        sizes = np.diff(flat.offsets.to_numpy()) if hasattr(flat, "offsets") else np.zeros(0)
        regular &= flat.null_count == 0 and len(np.unique(sizes)) < 2
        flat = flat.flatten()
    regular &= len(flat) == rows * size and (flat.null_count == 0 or kind.dtype.kind == "f")
    if regular:
        numbers = np.asarray(flat.to_numpy(zero_copy_only=False))
        if _fits(numbers, kind.dtype):
            return numbers.reshape(rows, *kind.shape).astype(kind.dtype), np.ones(rows, bool), None
        return _none(rows, kind, f"expected {kind.dtype}, got {flat.type}")
    out, whole, reason = _none(rows, kind, None)
    for row, given in enumerate(column.to_pylist()):
        try:
            numbers = np.array(given)
        except ValueError:  # lists of several lengths in one row
            numbers = np.array(given, object)
        if _fits(numbers, kind.dtype) and numbers.size == size:
            out[row], whole[row] = numbers.reshape(kind.shape), True
        else:
            reason = (
                reason
                or f"row {row} of its row group: expected {kind.dtype} {list(kind.shape)}, got {given!r}"
            )
    return out, whole, reason


def _none(rows: int, kind: Column, reason: str | None) -> tuple[NDArray[Any], NDArray[np.bool_], str | None]:
    return np.zeros((rows, *kind.shape), kind.dtype), np.zeros(rows, bool), reason


def _fits(given: NDArray[Any], wanted: np.dtype[Any]) -> bool:
    """Whether a column of type `wanted` can hold the numbers `given`: no words, and counts as they are."""
    if wanted.kind == "f":
        return given.dtype.kind in "biuf"
    return given.dtype.kind in "biu" and bool((given.astype(wanted) == given).all())
