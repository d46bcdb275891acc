"""Triton's interpreter as a checker.

    with guard("reverse") as counted:
        kernel[grid](...)
    counted.read, counted.written   # bytes

Each launch inside: every lane must stay inside the tensor that its pointer came from; two programs must not use the same
memory unless atomics order them (shadow.py); two lanes of a store must not write different values to one place; programs
run in the order asked for, so that results which depend on it show; bfloat16 and TF32 are what they are on a GPU
(bfloat16_repair.py). Bytes are counted once per instruction and program: what perfect coalescing would move, with no cache.

Where kernels are not interpreted (ttsem, a real GPU) the context does nothing, so the same tests run there.
It uses private names of Triton 3.9; tests/gpu/test_guard.py notices when they change.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import bfloat16_repair as bfloat16
import numpy as np
import torch
import triton
from shadow import ADDRESS, TAG_SHIFT, Fault, Memory, OutOfBounds, Race, Unwritten
from triton._C.libtriton import ir
from triton.runtime import interpreter
from triton.runtime.errors import InterpreterError
from triton.tools.tensor_descriptor import TensorDescriptor

__all__ = ["Counted", "Fault", "OutOfBounds", "Race", "Unwritten", "guard", "interpreting"]

Builder = interpreter.InterpreterBuilder
TRITON = str(Path(triton.__file__).parent)
LOAD, STORE = Builder.create_masked_load, Builder.create_masked_store


def interpreting() -> bool:
    """Whether `@triton.jit` makes interpreted kernels in this process."""
    return bool(triton.knobs.runtime.interpret)


@dataclass
class Counted:
    """Bytes that the launches inside a guard read and wrote; an atomic does both."""

    read: int = 0
    written: int = 0
    launches: int = 0


@contextlib.contextmanager
def guard(order: str | int = "forward", unwritten: Sequence[torch.Tensor] = ()) -> Iterator[Counted]:
    """Check every launch of an interpreted Triton kernel inside.

    order: of the programs: "forward", "reverse" or a seed to shuffle them with.
    unwritten: tensors that hold nothing yet; reading what no kernel has stored there raises Unwritten.
    Raises OutOfBounds, Race, Unwritten (all of them Fault) or TypeError, naming the kernel's line and the program.
    """
    if order not in ("forward", "reverse") and not isinstance(order, int):
        raise ValueError(f"order: {order!r}, expected 'forward', 'reverse' or a seed")
    counted = Counted()
    if not interpreting():
        yield counted
        return
    watch = _Watch(order, unwritten, counted)
    with contextlib.ExitStack() as patches:
        for owner, name, wrap in (
            (interpreter.GridExecutor, "__call__", watch.launch),
            (interpreter.GridExecutor, "_init_args_hst", watch.arguments),
            (interpreter, "_implicit_cvt", watch.convert),
            (Builder, "set_grid_dim", watch.grid),
            (Builder, "set_grid_idx", watch.program),
            (Builder, "create_masked_load", watch.load),
            (Builder, "create_masked_store", watch.store),
            (Builder, "create_atomic_load", watch.atomic_load),
            (Builder, "create_atomic_store", watch.atomic_store),
            (Builder, "create_atomic_rmw", watch.atomic_rmw),
            (Builder, "create_atomic_cas", watch.atomic_cas),
            (Builder, "create_atomic_poll", watch.atomic_poll),
            (Builder, "create_barrier", watch.barrier),
            (Builder, "cast_impl", bfloat16.cast),
            (Builder, "create_fp_to_fp", bfloat16.cast),
            (Builder, "create_dot", bfloat16.dot),
            (Builder, "unary_op", bfloat16.refuse),
            (Builder, "binary_op", bfloat16.refuse),
            (Builder, "create_fma", bfloat16.refuse),
            (Builder, "create_clampf", bfloat16.refuse),
            (interpreter.ReduceScanOpInterface, "check_tensor", bfloat16.refuse_reduction),
        ):
            patches.enter_context(mock.patch.object(owner, name, wrap(getattr(owner, name))))
        yield counted


class _Watch:
    """What runs instead of the interpreter's own functions, around them."""

    def __init__(self, order: str | int, unwritten: Sequence[torch.Tensor], counted: Counted):
        self.order, self.counted = order, counted
        self.unwritten = {}
        for tensor in unwritten:
            storage = tensor.untyped_storage()
            self.unwritten[storage.data_ptr()] = np.ones(storage.nbytes(), bool)
        self.tensors: list[tuple[str, torch.Tensor]] = []
        self.tags: dict[int, int] = {}  # of the objects that are the arguments
        self.order_of_programs: list[int] = []
        self.memory = Memory([], 0)

    # ---- the launch ----

    def launch(self, call: Callable) -> Callable:
        def run(executor: Any, *arguments: Any, **options: Any) -> None:
            self.tensors, self.tags = [], {}
            try:
                call(executor, *arguments, **options)
            except InterpreterError as error:
                cause: BaseException = error
                while isinstance(cause, InterpreterError) and cause.__cause__ is not None:
                    cause = cause.__cause__
                raise cause from None
            self.counted.read += self.memory.read
            self.counted.written += self.memory.written
            self.counted.launches += 1

        return run

    def arguments(self, take: Callable) -> Callable:
        def run(executor: Any, positional: Any, named: Any) -> Any:
            hosts, named_hosts = take(executor, positional, named)
            for name, value in [*zip(executor.arg_names, hosts, strict=False), *named_hosts.items()]:
                self.tag(name, value)
            return hosts, named_hosts

        return run

    def tag(self, name: str, value: Any) -> None:
        if isinstance(value, TensorDescriptor):
            self.tag(f"{name}.base", value.base)
        elif isinstance(value, tuple):
            for i, part in enumerate(value):
                self.tag(f"{name}[{i}]", part)
        elif hasattr(value, "data_ptr"):
            self.tensors.append((name, getattr(value, "base", value)))
            self.tags[id(value)] = len(self.tensors)

    def convert(self, convert: Callable) -> Callable:
        def run(value: Any) -> Any:
            result = convert(value)
            if id(value) in self.tags:
                result.handle.data = result.handle.data | (np.uint64(self.tags[id(value)]) << TAG_SHIFT)
            return result

        return run

    def grid(self, resize: Callable) -> Callable:
        def run(builder: Any, *size: int) -> None:
            resize(builder, *size)
            programs = list(range(int(np.prod(size))))
            if self.order == "reverse":
                programs.reverse()
            elif self.order != "forward":
                random.Random(self.order).shuffle(programs)
            self.order_of_programs = programs
            self.memory = Memory(self.tensors, len(programs), self.unwritten)

        return run

    def program(self, enter: Callable) -> Callable:
        def run(builder: Any, x: int, y: int, z: int) -> None:
            _, ny, nz = builder.grid_dim
            program = self.order_of_programs[(x * ny + y) * nz + z]
            enter(builder, program // (ny * nz), program // nz % ny, program % nz)
            self.memory.enter(program)

        return run

    # ---- memory ----

    def judge(self, access: Callable, pointers: Any, mask: Any, **options: Any) -> np.ndarray:
        """Let `access` judge the lanes; returns which of them are active."""
        active = np.broadcast_to(True if mask is None else mask.data, pointers.data.shape)
        size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        try:
            access(pointers.data, active, size, **options)
        except Fault as fault:
            raise type(fault)(f"{_place()}: {fault}") from None
        return active

    def load(self, load: Callable) -> Callable:
        def run(builder: Any, pointers: Any, mask: Any, *rest: Any, **options: Any) -> Any:
            self.judge(self.memory.load, pointers, mask)
            return load(builder, _untagged(pointers), mask, *rest, **options)

        return run

    def store(self, store: Callable) -> Callable:
        def run(builder: Any, pointers: Any, value: Any, mask: Any, *rest: Any, **options: Any) -> None:
            active = self.judge(self.memory.store, pointers, mask)
            store(builder, _untagged(pointers), value, mask, *rest, **options)
            kept = LOAD(
                builder, _untagged(pointers), interpreter.TensorHandle(active, mask.dtype), None, None, False
            ).data
            if kept[active].tobytes() != np.broadcast_to(value.data, kept.shape)[active].tobytes():
                raise Race(f"{_place()}: two lanes of one store write different values to the same place")

        return run

    def atomic_load(self, _: Callable) -> Callable:
        def run(builder: Any, pointers: Any, mask: Any, order: Any, scope: Any) -> Any:
            self.atomic(pointers, mask, order, scope)
            return LOAD(builder, _untagged(pointers), mask, None, None, True)

        return run

    def atomic_store(self, _: Callable) -> Callable:
        def run(builder: Any, pointers: Any, value: Any, mask: Any, order: Any, scope: Any) -> None:
            self.atomic(pointers, mask, order, scope)
            STORE(builder, _untagged(pointers), value, mask, None)

        return run

    def atomic_rmw(self, update: Callable) -> Callable:
        def run(builder: Any, kind: Any, pointers: Any, value: Any, mask: Any, order: Any, scope: Any) -> Any:
            bfloat16.reject(value)
            self.atomic(pointers, mask, order, scope)
            return update(builder, kind, _untagged(pointers), value, mask, order, scope)

        return run

    def atomic_cas(self, update: Callable) -> Callable:
        def run(builder: Any, pointers: Any, expected: Any, value: Any, order: Any, scope: Any) -> Any:
            self.atomic(pointers, None, order, scope)
            return update(builder, _untagged(pointers), expected, value, order, scope)

        return run

    def atomic(self, pointers: Any, mask: Any, order: Any, scope: Any) -> None:
        if scope == ir.MEM_SYNC_SCOPE.CTA:
            raise Race(f"{_place()}: an atomic of scope 'cta' orders nothing between programs")
        both = order == ir.MEM_SEMANTIC.ACQUIRE_RELEASE
        acquire, release = both or order == ir.MEM_SEMANTIC.ACQUIRE, both or order == ir.MEM_SEMANTIC.RELEASE
        self.judge(self.memory.update, pointers, mask, acquire=acquire, release=release)

    def atomic_poll(self, _: Callable) -> Callable:
        def run(*_: Any, **__: Any) -> None:
            raise TypeError(
                "atomic_poll: programs run one after another here, waiting for another one would not end"
            )

        return run

    def barrier(self, wait: Callable) -> Callable:
        def run(builder: Any) -> None:
            wait(builder)
            self.memory.barrier()

        return run


def _untagged(pointers: Any) -> Any:
    return interpreter.TensorHandle(pointers.data & ADDRESS, pointers.dtype)


def _place() -> str:
    """The kernel's line that runs, and the program."""
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_code.co_filename == __file__ or frame.f_code.co_filename.startswith(TRITON)
    ):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}, program {interpreter.interpreter_builder.grid_idx}"
