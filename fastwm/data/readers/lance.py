"""stable-worldmodel's Lance tables: a row is a step, `episode_idx` and `step_idx` say of what; pictures are JPEG (or
PNG) in binary columns, numbers float32 lists of fixed size. Read with pylance alone, without lancedb.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastwm.data.hdf5 import Column
from fastwm.data.resize import Size, check_size, resize

from .pictures import decoded
from .reader import WITHOUT_IT, Damage, Reader, keep, needs

if TYPE_CHECKING:
    import pyarrow as pa

EPISODE, STEP = "episode_idx", "step_idx"


class LanceReader(Reader):
    """The table `path` (`….lance`), or the only one in that folder. Numbers are read at once, pictures when asked for."""

    format = "Lance"

    def __init__(
        self, path: Path, *, image_size: int | Size | None = None, skip_damaged: bool = False
    ) -> None:
        lance = needs("lance", "lance", path)
        self.path = _table(path)
        try:
            self._table = lance.dataset(str(self.path))
            schema = self._table.schema
            missing = {EPISODE, STEP} - set(schema.names)
            if missing:
                raise ValueError(f"columns {sorted(missing)} are missing; there are {sorted(schema.names)}")
            pictures = [field.name for field in schema if _is_binary(field.type)]
            numbers = [
                field.name
                for field in schema
                if _is_numeric(field.type) and field.name not in (EPISODE, STEP)
            ]
            table = self._table.to_table(columns=[EPISODE, STEP, *numbers])
        except (ValueError, OSError, RuntimeError) as error:
            raise ValueError(f"{self.path}: damaged, or not a Lance table of episodes: {error}") from error
        self._numbers = {name: _rows(table.column(name).combine_chunks()) for name in numbers}
        self._find_episodes(table.column(EPISODE).to_numpy(), table.column(STEP).to_numpy(), skip_damaged)
        self.cameras = tuple(pictures)
        size = check_size(image_size)
        self._sizes = {
            name: (size, size) if isinstance(size, int) else size or self._size(name) for name in pictures
        }
        self.columns = {name: Column(np.dtype(np.uint8), (*self._sizes[name], 3)) for name in pictures}
        self.columns |= {
            name: Column(values.dtype, values.shape[1:]) for name, values in self._numbers.items()
        }
        self.attributes = {}

    def read(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """`rows` [n] of column `name`; each different picture is decoded once."""
        if name in self._numbers:
            return self._numbers[name][rows]
        different, places = np.unique(rows, return_inverse=True)
        pictures = np.empty((len(different), *self.columns[name].shape), np.uint8)
        for place, blob in enumerate(self._blobs(name, different)):
            picture = self._decode(name, int(different[place]), blob)
            pictures[place] = resize(picture, self._sizes[name])
        return pictures[places]

    def whole(self, name: str) -> NDArray[Any] | None:
        """All rows of a column that is not pictures."""
        return self._numbers.get(name)

    def label(self, episode: int) -> str:
        """The episode by its number in the table."""
        return f"episode {self._indices[self.offsets[episode]]}"

    def _find_episodes(self, indices: NDArray[Any], steps: NDArray[Any], skip_damaged: bool) -> None:
        """Episodes are runs of rows of one `episode_idx`, whose steps count from 0."""
        if len(indices) == 0:
            raise ValueError(f"{self.path}: holds no rows")
        self._indices = indices
        self.offsets = np.flatnonzero(np.diff(indices, prepend=indices[0] - 1)).astype(np.int64)
        self.lengths = np.diff(np.append(self.offsets, len(indices))).astype(np.int64)
        usable = np.ones(len(self.lengths), bool)
        seen: set[int] = set()
        for place, (offset, length) in enumerate(zip(self.offsets, self.lengths, strict=True)):
            reason = None
            if int(indices[offset]) in seen:
                reason = "its rows do not lie one after another"
            elif not np.array_equal(steps[offset : offset + length], np.arange(length)):
                reason = f"its steps are not 0 to {length - 1}, in order"
            seen.add(int(indices[offset]))
            if reason and not skip_damaged:
                raise ValueError(f"{self.path}: {self.label(place)}: {reason}{WITHOUT_IT}")
            if reason:
                self.damaged += (Damage(self.path, self.label(place), reason),)
                usable[place] = False
        keep(self, usable)

    def _size(self, name: str) -> Size:
        first = int(self.offsets[0])
        height, width, _ = self._decode(name, first, self._blobs(name, np.array([first]))[0]).shape
        return height, width

    def _blobs(self, name: str, rows: NDArray[np.int64]) -> list[bytes | None]:
        try:
            blobs: list[bytes | None] = (
                self._table.take(rows.tolist(), columns=[name]).column(name).to_pylist()
            )
        except (ValueError, OSError, RuntimeError) as error:
            raise ValueError(f"{self.path}: column {name!r} is damaged: {error}") from error
        return blobs

    def _decode(self, name: str, row: int, blob: bytes | None) -> NDArray[np.uint8]:
        try:
            return decoded(blob)
        except ValueError as error:
            where = f"column {name!r}: row {row} (episode {self._indices[row]})"
            raise ValueError(f"{self.path}: {where} is no whole picture: {error}") from error


def _table(path: Path) -> Path:
    """`path`, or the only table in it."""
    if path.suffix == ".lance":
        return path
    tables = sorted(path.glob("*.lance"))
    if len(tables) > 1:
        raise ValueError(
            f"{path}: expected one table, got {', '.join(table.name for table in tables)}; name one"
        )
    return tables[0]


def _is_binary(kind: pa.DataType) -> bool:
    types = needs("pyarrow", "lance", Path()).types
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_numeric(kind: pa.DataType) -> bool:
    types = needs("pyarrow", "lance", Path()).types
    if types.is_fixed_size_list(kind):
        kind = kind.value_type
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _rows(column: pa.Array) -> NDArray[Any]:
    """`column` as [rows] or, of lists, [rows, list]; a value that is missing is NaN."""
    size = getattr(column.type, "list_size", None)
    if size is None:
        return np.asarray(column.to_numpy(zero_copy_only=False))
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False)).reshape(len(column), size)
