"""What a kernel reads, writes and computes, counted from what its launcher was given; nothing here is measured.

Bytes: every input read once and every output written once, as far as the sizes say; what a kernel reads again (weights for
each tile of rows) is L2's to serve. Operations: multiplications and additions of matrix products and of attention. Random
numbers, norms, softmax and activations are not counted.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from fastwm.engine.cuda import device as devices

Kernel = Callable[[], object]
FLOAT = 4  # bytes


class Work(NamedTuple):
    """Of one launch, or of several together."""

    bytes: int
    operations: int
    launches: int = 1

    def __add__(self, other: object) -> Work:
        assert isinstance(other, Work)
        return Work(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Started(NamedTuple):
    """A kernel that was started: what starts it again, and the sizes and tensors that its launcher had by name."""

    name: str
    kernel: Kernel
    given: dict[str, Any]

    @property
    def work(self) -> Work:
        if self.name not in FORMULAS:
            raise ValueError(f"kernel {self.name!r} has no count, expected one of {', '.join(FORMULAS)}")
        return Work(*FORMULAS[self.name](self.given))


def everything(name: str) -> bool:
    return True


def starts(work: Callable[[], object], *, run: Callable[[str], bool] = everything) -> list[Started]:
    """The kernels that `work` starts, in order. run: whether one of this name does anything, or the host's part alone."""
    found: list[Started] = []

    def watch(name: str, kernel: Kernel) -> Kernel:
        launcher = (
            kernel.args[0] if isinstance(kernel, functools.partial) else kernel
        )  # emulated, it waits for its turn
        given = dict(inspect.getclosurevars(launcher).nonlocals)
        found.append(Started(name, kernel, given))
        return kernel if run(name) else lambda: None

    devices.watchers.append(watch)
    try:
        work()
    finally:
        devices.watchers.remove(watch)
    return found


def total(started: list[Started]) -> dict[str, Work]:
    """By kernel, in order of first use."""
    found: dict[str, Work] = {}
    for one in started:
        found[one.name] = found[one.name] + one.work if one.name in found else one.work
    return found


def counted(work: Callable[[], object]) -> Work:
    """All that `work` starts, together."""
    found = total(starts(work)).values()
    return functools.reduce(Work.__add__, found)


def _size(*tensors: Tensor | None) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


def _tokens(g: dict[str, Any]) -> tuple[int, int]:
    return 2 * _size(g["out"]) + len(g["out"]) * g["E"] * FLOAT, 0


def _dense(g: dict[str, Any]) -> tuple[int, int]:
    moved = _size(g["x"], g["weight"], g["bias"], g["out"], g["last"])
    return moved, 2 * g["rows"] * g["N"] * g["K"]


def _qkv(g: dict[str, Any]) -> tuple[int, int]:
    """Of the rows before `asking_from` no query is made."""
    asking, inner = g["rows"] - g["asking_from"], g["first"].shape[-1]
    second = 0 if g["second"] is g["first"] else g["N"] - inner
    modulation = 2 * g["rows"] * g["W"] * g["modulation"].element_size() if g["affine"] is None else 0
    wide = g["first"].element_size()
    moved = _size(g["x"], g["weight"], g["bias"]) + modulation + wide * (asking * inner + g["rows"] * second)
    return moved, 2 * g["W"] * (asking * inner + g["rows"] * second)


def _attend(g: dict[str, Any]) -> tuple[int, int]:
    """Rows are asking tokens of all candidates; the i-th of them sees shared tokens and first + i + 1 of its own."""
    asking = g["rows"] // g["candidates"]
    shared = 0 if g["shared"] is None else len(g["shared"])
    own = _size(g["own"][: g["first"] + asking])
    moved = _size(g["query"], g["shared"], g["weight"], g["bias"], g["gate"], g["x"], g["x"]) + own
    seen = sum(shared + g["first"] + i + 1 for i in range(asking)) * g["candidates"]
    inner = g["query"].shape[1]
    return moved, 4 * inner * seen + 2 * g["rows"] * inner * g["W"]


def _mlp(g: dict[str, Any]) -> tuple[int, int]:
    weights = _size(*g["fc1"], *g["fc2"])
    modulation = 3 * g["rows"] * g["W"] * g["modulation"].element_size() if g["affine"] is None else 0
    moved = _size(g["x"], g["last"], g["out"]) + modulation + weights
    return moved, 2 * g["rows"] * g["M"] * (g["W"] + g["N"])


def _normalise(g: dict[str, Any]) -> tuple[int, int]:
    return _size(g["x"], g["out"]), 0


def _cem_sample(g: dict[str, Any]) -> tuple[int, int]:
    """The scalars after the ten addresses are B, S, T, A, I."""
    B, S, T, A, injected = g["arguments"][10:15]
    noise = B * S * T * A if g["arguments"][2] else 0
    return FLOAT * (B * (S + 2 + injected) * T * A + noise), 0


def _goal_cost(g: dict[str, Any]) -> tuple[int, int]:
    """B, S, T, E after three addresses, then metric and reduce, of which 0 reads the last step alone."""
    B, S, T, E = g["arguments"][3:7]
    steps = 1 if g["arguments"][8] == 0 else T
    return FLOAT * (B * S * steps * E + B * E + B * S), 3 * B * S * steps * E


def _attention(g: dict[str, Any]) -> tuple[int, int]:
    """R, n, H, D after four addresses; frame_tokens and, last, dtype (0 is float32). A frame sees itself and those before."""
    R, n, H, D = g["arguments"][4:8]
    frame, dtype = g["arguments"][20] or n, g["arguments"][22]
    seen = sum(min(n, (i // frame + 1) * frame) for i in range(n))
    return 4 * R * n * H * D * (FLOAT if dtype == 0 else FLOAT // 2), 4 * R * H * D * seen


def _cem_update(g: dict[str, Any]) -> tuple[int, int]:
    """B, S, T, A and the number of elites after thirteen addresses. Of the candidates, elites alone are read."""
    B, S, T, A, elites = g["arguments"][13:18]
    kept = 2 if g["arguments"][4] else 0
    return FLOAT * B * (S + 1 + (elites + 4 + kept) * T * A) + 8 * B * (elites + 1), 4 * B * elites * T * A


def _moves(*names: str) -> Callable[[dict[str, Any]], tuple[int, int]]:
    """Of a kernel that passes over its tensors once and computes no products: the launcher's names of them, or of lists."""

    def count(g: dict[str, Any]) -> tuple[int, int]:
        given = [g[name] if isinstance(g[name], list) else [g[name]] for name in names]
        return _size(*(tensor for tensors in given for tensor in tensors)), 0

    return count


FORMULAS: dict[str, Callable[[dict[str, Any]], tuple[int, int]]] = {
    "cem_sample": _cem_sample,
    "tokens": _tokens,
    "dense": _dense,
    "qkv": _qkv,
    "norm_dense": _qkv,
    "attend": _attend,
    "mlp": _mlp,
    "head": _mlp,
    "normalise": _normalise,
    "attention": _attention,
    "adaln_forward": _moves("x_rows", "shift_rows", "scale_rows", "gain", "bias", "y", "statistics"),
    "adaln_backward": _moves("inputs", "gain", "statistics", "dx", "dshift", "dscale", "parts"),
    "adaln_add": _moves("parts", "total"),
    "gated_forward": _moves("inputs", "out"),
    "gated_backward": _moves("inputs", "dgate", "dy"),
    "goal_cost": _goal_cost,
    "cem_update": _cem_update,
}
