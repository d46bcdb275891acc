"""Calls of GPU kernels, made where AddressSanitizer and UBSan, or ThreadSanitizer, watch the emulation.

    @pytest.mark.parametrize("sanitizer", sanitize.SANITIZERS)
    def test_...(gpu, sanitizer):
        with sanitize.recorded() as calls:
            ops.goal_cost(latents, goal)
        sanitize.check(calls, sanitizer)

A sanitizer must be in a process from its start, and does not bear PyTorch: what the kernels were given is written to files, and
tests/gpu/sanitized.py, which needs Python alone, calls them with it. Every tensor's memory is an allocation of its own there.
The race detector has 7000 threads for a launch and takes a millisecond to make each: choose small sizes.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import emulation
import pytest
import torch
from torch import Tensor

from fastwm.engine.cuda import device
from fastwm.ops import _check

SANITIZERS = ("address", "thread")
LIBRARIES = {"address": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",)}
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}
ADDRESSES = range(1 << 40, 1 << 47)  # what a size or a seed of a test is not


class Call(NamedTuple):
    """A kernel and what it is given: tensors, of which it gets the address, and numbers."""

    name: str
    arguments: tuple[Any, ...]


@contextlib.contextmanager
def recorded() -> Iterator[list[Call]]:
    """Inside, what is asked of `fastwm._cuda` is noted, with the tensors as they are, and not done: results are not written."""
    from fastwm import _cuda

    if not _cuda.emulated:
        pytest.skip("sanitizers watch the emulation, not a GPU")
    calls: list[Call] = []
    tensors: dict[int, Tensor] = {}
    address = _check.address

    def noted_address(value: Tensor | None) -> int:
        if value is not None and value.numel():  # an empty one is at 0, as nothing is
            tensors[value.data_ptr()] = value
        return address(value)

    def noted_start(_: device.Launch, name: str, *arguments: Any) -> None:
        known = [tensors.get(a, a) if isinstance(a, int) else a for a in arguments]
        for a in known:
            assert not (isinstance(a, int) and a in ADDRESSES), (
                f"{name}: {a:#x} is no tensor's _check.address"
            )
        calls.append(copied(Call(name, tuple(known))))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_check, "address", noted_address)
        patch.setattr(device.Launch, "__call__", noted_start)
        yield calls


def copied(call: Call) -> Call:
    """The same call with tensors in memory of their own; those that share memory still do."""
    copies: dict[int, torch.UntypedStorage] = {}

    def copy(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        storage = value.untyped_storage()
        if storage.data_ptr() not in copies:
            copies[storage.data_ptr()] = storage.clone()
        same = value.new_empty(0)
        return same.set_(copies[storage.data_ptr()], value.storage_offset(), value.shape, value.stride())

    return Call(call.name, tuple(map(copy, call.arguments)))


def check(calls: list[Call], sanitizer: str) -> None:
    """Fail with the sanitizer's words if it has any to say of these calls of `fastwm._cuda`."""
    assert calls, "no kernel was called"
    words = report(calls, sanitizer, emulation.build(sanitizer))
    assert not words, words


def report(calls: list[Call], sanitizer: str, module: Path, schedule: str | int = 7) -> str:
    """What the sanitizer, or the emulation, says of these calls of the functions in a module; empty if all is well."""
    with tempfile.TemporaryDirectory() as folder:
        _write(calls, Path(folder))
        script = Path(__file__).parent / "sanitized.py"
        command = [sys.executable, "-S", "-E", str(script), str(module), folder, json.dumps(schedule)]
        environment = {**os.environ, **OPTIONS, "LD_PRELOAD": " ".join(map(_library, LIBRARIES[sanitizer]))}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if (
            "unexpected memory mapping" in done.stderr
        ):  # ThreadSanitizer, where addresses are more random than it knows
            command = ["setarch", "--addr-no-randomize", *command]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0 and done.stdout.split() == [str(len(calls)), "calls"]:
        return ""
    return f"{sanitizer} sanitizer, exit status {done.returncode}:\n{done.stdout}{done.stderr}"


def _write(calls: list[Call], folder: Path) -> None:
    lines = []
    for c, call in enumerate(calls):
        files: dict[int, str] = {}
        arguments = []
        for a in call.arguments:
            if not isinstance(a, Tensor):
                arguments.append(a)
                continue
            storage = a.untyped_storage()
            name = files.setdefault(storage.data_ptr(), f"{c}-{len(files)}")
            whole = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (len(storage),))
            (folder / name).write_bytes(whole.numpy().tobytes())
            arguments.append({"file": name, "offset": a.data_ptr() - storage.data_ptr()})
        lines.append({"name": call.name, "arguments": arguments})
    (folder / "calls.json").write_text(json.dumps(lines))


def _library(name: str) -> str:
    asked = [emulation.COMPILER, f"-print-file-name={name}"]
    path = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    if path == name:
        raise RuntimeError(f"{emulation.COMPILER} has no {name}: the sanitizers' rungs need it")
    return path
