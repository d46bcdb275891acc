"""What the guard knows of the memory that one launch touches: whose it is, who used it last, in what order.

Each tensor argument has a tag, carried in the upper 16 bits of its pointers (addresses need 47), so a lane is judged against
the tensor that its pointer came from, not against whatever else lies there. A cell is one element of the storage.

Races are found as in "FastTrack" (Flanagan and Freund, PLDI 2009): program p counts its releases in a clock; it knows of
program q what q had done up to clock `seen[q]`. Two accesses to a cell, one of them a plain store, race unless the later
program has seen the earlier one's clock. Programs run one after another here, so who came later is known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

TAG_SHIFT = np.uint64(48)
ADDRESS = np.uint64((1 << 48) - 1)
MANY = -1  # more than one program


class Fault(AssertionError):
    """A kernel did what no kernel may do. The text says where and to which argument."""


class OutOfBounds(Fault):
    """A lane reads or writes outside of the tensor that its pointer came from."""


class Race(Fault):
    """Two programs, or two lanes, use the same memory and nothing orders them."""


class Unwritten(Fault):
    """A kernel reads memory that nobody has written."""


@dataclass
class Argument:
    """A tensor argument. Element i from its start, in steps of `itemsize`, is its own where `own[i]`."""

    name: str
    shape: tuple[int, ...]
    start: int
    itemsize: int
    own: np.ndarray
    cell: int = 0  # bytes
    first_cell: int = 0

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor) -> Argument:
        offsets = np.zeros((), np.int64)
        for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
            offsets = np.add.outer(offsets, np.arange(length) * stride)
        own = np.zeros(int(offsets.max()) + 1 if offsets.size else 0, bool)
        own[offsets.ravel()] = True
        return cls(name, tuple(tensor.shape), tensor.data_ptr(), tensor.element_size(), own)


@dataclass
class Accesses:
    """Accesses of one kind: for each cell the program + 1 that made the last one (0: nobody, MANY) and its clock then."""

    how: str
    program: np.ndarray
    clock: np.ndarray
    log: list[tuple[int, int, np.ndarray]]

    @classmethod
    def none(cls, how: str, cells: int) -> Accesses:
        return cls(how, np.zeros(cells, np.int32), np.zeros(cells, np.int32), [])


class Memory:
    """Every cell of the storages that one launch's arguments lie in.

    unwritten: storages' addresses -> [bytes] that nobody has written; a store makes them written.
    """

    def __init__(
        self,
        arguments: Iterable[tuple[str, torch.Tensor]],
        programs: int,
        unwritten: dict[int, np.ndarray] | None = None,
    ):
        self.read = self.written = 0
        self.arguments: list[Argument] = []
        self._unwritten: list[tuple[int, int, np.ndarray]] = []
        storages: dict[int, list[tuple[Argument, torch.UntypedStorage]]] = {}
        for name, tensor in arguments:
            self.arguments.append(Argument.of(name, tensor))
            storage = tensor.untyped_storage()
            storages.setdefault(storage.data_ptr(), []).append((self.arguments[-1], storage))
        cells = 0
        for address, members in storages.items():
            size = min(member.itemsize for member, _ in members)
            for member, _ in members:
                member.cell, member.first_cell = size, cells + (member.start - address) // size
            if unwritten and address in unwritten:
                self._unwritten.append((cells, size, unwritten[address]))
            cells += -(-members[0][1].nbytes() // size)
        self._stores, self._loads, self._updates = (
            Accesses.none(f"{x} by", cells) for x in ("written", "read", "updated")
        )
        self._own_store = np.full(
            cells, -1, np.int32
        )  # the barrier before which this program stored the cell
        self._scratch = np.zeros(cells, np.int32)
        self._seen = np.zeros((programs, programs), np.int32)
        self._released: dict[int, np.ndarray] = {}
        self._program = self._barrier = 0

    def enter(self, program: int) -> None:
        """From now on `program` runs."""
        self._program = program
        self._seen[program, program] = 1
        self.barrier()

    def barrier(self) -> None:
        """All threads of the program wait for each other."""
        self._barrier += 1

    def load(self, pointers: np.ndarray, mask: np.ndarray, size: int) -> None:
        """Lanes of `size` bytes are read."""
        cells, counted = self._cells("load", pointers[mask], size)
        self.read += counted
        self._written_before("load", cells)
        self._ordered("load", cells, self._stores)
        self._ordered("load", cells, self._updates)
        own = cells[self._own_store[cells] == self._barrier]
        if own.size:
            raise Race(
                f"load of {self._name(own)}, stored by this program: other threads' stores need tl.debug_barrier() first"
            )
        self._mark(cells, self._loads)

    def store(self, pointers: np.ndarray, mask: np.ndarray, size: int) -> None:
        """Lanes of `size` bytes are written."""
        cells, counted = self._cells("store", pointers[mask], size)
        self.written += counted
        for accesses in (self._stores, self._loads, self._updates):
            self._ordered("store", cells, accesses)
        self._stores.program[cells] = self._program + 1
        self._stores.clock[cells] = self._clock
        self._own_store[cells] = self._barrier
        for first, bytes_, unwritten in self._unwritten:
            inside = cells[(cells >= first) & (cells < first + unwritten.size // bytes_)] - first
            unwritten[: unwritten.size // bytes_ * bytes_].reshape(-1, bytes_)[inside] = False

    def update(
        self, pointers: np.ndarray, mask: np.ndarray, size: int, *, acquire: bool, release: bool
    ) -> None:
        """Lanes of `size` bytes are read and written by an atomic."""
        cells, counted = self._cells("atomic", pointers[mask], size)
        self.read, self.written = self.read + counted, self.written + counted
        self._written_before("atomic", cells)
        distinct = np.unique(cells).tolist()
        seen = self._seen[self._program]
        for cell in distinct if acquire else ():
            if cell in self._released:
                np.maximum(seen, self._released[cell], out=seen)
        self._ordered("atomic", cells, self._stores)
        self._ordered("atomic", cells, self._loads)
        self._mark(cells, self._updates)
        if release:
            for cell in distinct:
                self._released[cell] = np.maximum(seen, self._released.get(cell, 0))
            seen[self._program] += 1
        if acquire or release:
            self.barrier()  # Triton 3.9 puts one before and one after

    @property
    def _clock(self) -> int:
        return int(self._seen[self._program, self._program])

    def _cells(self, what: str, lanes: np.ndarray, size: int) -> tuple[np.ndarray, int]:
        """Cells under the lanes, and how many bytes these are, each counted once. Raises OutOfBounds."""
        if not lanes.size:
            return np.empty(0, np.int64), 0
        tags = lanes >> TAG_SHIFT
        if (tags != tags[0]).any():
            parts = [self._cells(what, lanes[tags == tag], size) for tag in np.unique(tags)]
            return np.concatenate([cells for cells, _ in parts]), sum(counted for _, counted in parts)
        if not 1 <= tags[0] <= len(self.arguments):
            raise OutOfBounds(f"{what}: the pointer comes from no tensor argument")
        a = self.arguments[int(tags[0]) - 1]
        if size % a.cell:
            raise Fault(
                f"{what}: {a.name} has elements of {a.cell} bytes, used as {size}: the guard cannot judge it"
            )
        offset = (lanes & ADDRESS).astype(np.int64) - a.start
        index = offset // a.itemsize
        bad = (offset < 0) | (offset + size > a.own.size * a.itemsize) | (offset % size != 0)
        if size == a.itemsize and a.own.size:
            bad |= ~a.own.take(index, mode="clip")
        if bad.any():
            first = int(index[bad][0])
            place = (
                f"{-first} before its start" if first < 0 else f"at element {first} of a span of {a.own.size}"
            )
            raise OutOfBounds(
                f"{what}: {int(bad.sum())} of {bad.size} lanes outside of {a.name} {list(a.shape)}, {place}"
            )
        cells = a.first_cell + offset // a.cell
        if size > a.cell:
            cells = (cells[:, None] + np.arange(size // a.cell)).ravel()
        lane = np.arange(cells.size, dtype=np.int32)
        self._scratch[cells] = lane
        return cells, int((self._scratch[cells] == lane).sum()) * a.cell

    def _written_before(self, what: str, cells: np.ndarray) -> None:
        for first, bytes_, unwritten in self._unwritten:
            inside = cells[(cells >= first) & (cells < first + unwritten.size // bytes_)]
            never = inside[unwritten[(inside - first) * bytes_]]
            if never.size:
                raise Unwritten(f"{what} of {self._name(never)}, which nobody has written")

    def _ordered(self, what: str, cells: np.ndarray, earlier: Accesses) -> None:
        """Raise Race unless this program has seen these accesses of others."""
        who = earlier.program[cells]
        other = (who != 0) & (who != self._program + 1)
        if not other.any():
            return
        seen = self._seen[self._program]
        unseen = other & (who != MANY) & (seen[who - 1] < earlier.clock[cells])
        if unseen.any():
            self._race(what, earlier.how, cells[unseen], int(who[unseen][0]) - 1)
        many = cells[who == MANY]
        for program, clock, then in earlier.log if many.size else ():
            if program != self._program and seen[program] < clock:
                both = many[np.isin(many, then)]
                if both.size:
                    self._race(what, earlier.how, both, program)

    def _race(self, what: str, how: str, cells: np.ndarray, program: int) -> None:
        raise Race(
            f"{what} of {self._name(cells)}, {how} program {program} (counted in grid order): nothing orders the two"
        )

    def _mark(self, cells: np.ndarray, accesses: Accesses) -> None:
        who = accesses.program[cells]
        accesses.program[cells] = np.where((who == 0) | (who == self._program + 1), self._program + 1, MANY)
        accesses.clock[cells] = self._clock
        accesses.log.append((self._program, self._clock, cells.astype(np.int32)))

    def _name(self, cells: np.ndarray) -> str:
        """The first cell's argument and place in it."""
        for a in self.arguments:
            offset, rest = divmod((int(cells[0]) - a.first_cell) * a.cell, a.itemsize)
            if rest == 0 and 0 <= offset < a.own.size and a.own[offset]:
                return f"element {offset} of {a.name} {list(a.shape)}"
        return f"cell {cells[0]}"
