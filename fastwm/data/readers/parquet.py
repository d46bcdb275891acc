"""Rows of Parquet files, row group by row group, so that what is whole in a damaged file is still read."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastwm.data.resize import Size, resize

from .reader import needs

INDEX = "index"  # LeRobot's column of the rows' numbers in the whole data set


def read_table(file: Path, wanted: Callable[[str], bool]) -> dict[str, list[Any]]:
    """The columns of `file` whose names are `wanted`; ValueError where it is damaged."""
    arrow, parquet = needs("pyarrow", "lerobot", file), needs("pyarrow.parquet", "lerobot", file)
    try:
        with parquet.ParquetFile(file) as opened:
            names = [name for name in opened.schema_arrow.names if wanted(name)]
            columns: dict[str, list[Any]] = opened.read(columns=names).to_pydict()
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{file}: damaged, or not a Parquet file ({error})") from error
    return columns


def read_rows(
    file: Path, names: Sequence[str]
) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]], str | None]:
    """The rows of `file` that can be read: their numbers [n] in the data set, columns `names` [n, …], and what is wrong
    with the others, None where nothing is.
    """
    arrow, parquet = needs("pyarrow", "lerobot", file), needs("pyarrow.parquet", "lerobot", file)
    index, found, problem = [np.zeros(0, np.int64)], [], None
    try:
        with parquet.ParquetFile(file) as opened:
            missing = [name for name in (INDEX, *names) if name not in opened.schema_arrow.names]
            if missing:
                raise ValueError(f"{file}: columns {missing} are missing")
            for group in range(opened.num_row_groups):
                try:
                    table = opened.read_row_group(group, columns=[INDEX, *names])
                except (arrow.ArrowException, OSError) as error:
                    problem = problem or f"row group {group} is damaged: {error}"
                    continue
                index.append(table.column(INDEX).to_numpy())
                found.append({name: _values(table.column(name).combine_chunks()) for name in names})
    except (arrow.ArrowException, OSError) as error:
        problem = f"damaged, or not a Parquet file: {error}"
    columns = {name: np.concatenate([part[name] for part in found]) for name in names} if found else {}
    return np.concatenate(index), columns, problem


def read_pictures(file: Path, name: str, rows: NDArray[np.int64], size: Size | None) -> NDArray[np.uint8]:
    """The pictures of `rows` [n] (numbers in the data set) in column `name`: uint8 [n, height, width, 3]."""
    arrow, parquet = needs("pyarrow", "lerobot", file), needs("pyarrow.parquet", "lerobot", file)
    blobs: dict[int, bytes] = {}
    wanted = set(rows.tolist())
    try:
        with parquet.ParquetFile(file) as opened:
            for group in range(opened.num_row_groups):
                index = opened.read_row_group(group, columns=[INDEX]).column(INDEX).to_pylist()
                if wanted.isdisjoint(index):
                    continue
                values = opened.read_row_group(group, columns=[name]).column(name)
                blobs |= {n: values[i].as_py()["bytes"] for i, n in enumerate(index) if n in wanted}
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{file}: column {name!r} is damaged: {error}") from error
    pictures = []
    for row in rows.tolist():
        try:
            with Image.open(io.BytesIO(blobs.get(row) or b"")) as picture:
                pictures.append(resize(np.asarray(picture.convert("RGB")), size))
        except OSError as error:
            raise ValueError(f"{file}: column {name!r}: row {row} is no whole picture: {error}") from error
    return np.stack(pictures)


def _values(column: Any) -> NDArray[Any]:
    """`column` of numbers or lists as [rows, …], missing ones NaN; lists of lists are left flat."""
    rows = len(column)
    while hasattr(column.type, "value_type"):
        column = column.flatten()
    values = np.asarray(column.to_numpy(zero_copy_only=False))
    return values.reshape(rows, -1) if rows and len(values) != rows else values
