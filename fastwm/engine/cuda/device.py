"""Where GPU work is started: the only file that knows whether the GPU is emulated.

`fastwm._cuda` says of itself what it is. Built by nvcc, its kernels run on CUDA tensors. Built by a C++ compiler
(csrc/emulation), the same sources run on CPU tensors, for those who have no GPU and want to know whether they are right; then
CPU tensors belong to it inside `on`, and Triton's kernels run in its interpreter.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from fastwm.engine.backend import cuda_module

_emulating = contextvars.ContextVar("emulating", default=False)
Kernel = Callable[[], object]
LEAST = (8, 0)  # compute capability of the oldest GPU that there is machine code for
_TURN = threading.Lock()  # Triton's interpreter runs one kernel at a time in a process
# Called with the name of every kernel that is started and with what starts it; gives back what is to be called instead.
# Counts launches, records graphs.
watchers: list[Callable[[str, Kernel], Kernel]] = []


def start(name: str, kernel: Kernel) -> None:
    """Start a kernel, a Triton one for instance, where `watchers` see it."""
    if _emulating.get():
        kernel = functools.partial(_alone, kernel)
    for watch in tuple(watchers):  # other threads come and go
        kernel = watch(name, kernel)
    kernel()


def _alone(kernel: Kernel) -> None:
    with _TURN:
        kernel()


class Launch(NamedTuple):
    """Starts kernels of `fastwm._cuda` on one device and stream, which are the first arguments of all of them."""

    module: Any
    device: int
    stream: int

    def __call__(self, name: str, *arguments: Any) -> None:
        """`arguments`: addresses, then sizes, then scalars, as csrc/ops.h orders them."""
        kernel = getattr(self.module, name)
        start(name, lambda: kernel(self.device, self.stream, *arguments))


def launch(device: torch.device) -> Launch | None:
    """What starts `fastwm._cuda`'s kernels on tensors of this device, on its current stream; None if they are not its own."""
    if device.type == "cuda":
        return Launch(cuda_module(), device.index, torch.cuda.current_stream(device).cuda_stream)
    return Launch(cuda_module(), 0, 0) if _emulating.get() else None


def is_gpu(device: torch.device) -> bool:
    """Whether tensors of this device go to a GPU's kernels, real or emulated."""
    return device.type == "cuda" or _emulating.get()


def default_device() -> torch.device:
    """The GPU that PyTorch uses now; where the GPU is emulated, the CPU.

    Raises what is hardest to mend first: RuntimeError without a driver or a GPU, with a driver too old for the module's
    runtime, a PyTorch without CUDA or a GPU before sm_80; then ImportError without `fastwm._cuda`; then RuntimeError for a GPU
    that it has no machine code for.
    """
    try:
        module = cuda_module()
    except ImportError:
        _torch_device()  # which may have the harder reason
        raise
    if module.emulated:
        return torch.device("cpu")
    error, built = _described(module)
    if error:
        raise _refusal(error)
    device = _torch_device()
    if not covers(built, torch.cuda.get_device_capability(device)):
        raise _refusal(f"{describe(device)}; fastwm._cuda was built for {architectures(built)}")
    return device


@functools.cache
def _described(module: Any) -> tuple[str, str]:
    """Why `fastwm._cuda` can run on no device here, or "", and what it was built for.

    Asked once: ops ask for their backend at every call.
    """
    described = module.describe()
    return described["error"], described["architectures"]


def _torch_device() -> torch.device:
    if torch.version.cuda is None:
        raise _refusal(f"PyTorch {torch.__version__} is built without CUDA")
    if not torch.cuda.is_available():
        raise _refusal(f"PyTorch {torch.__version__} finds no GPU")
    device = torch.device("cuda", torch.cuda.current_device())
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < LEAST:
        name = torch.cuda.get_device_name(device)
        raise _refusal(f"{name} is sm_{major}{minor}, expected sm_80 or newer")
    return device


def _refusal(reason: str) -> RuntimeError:
    return RuntimeError(f"backend 'cuda' cannot run here: {reason}")


@functools.cache
def covers(built: str, capability: tuple[int, int]) -> bool:
    """Whether there is code for GPUs of this capability. built: as CMake names architectures, "80-real 90a-real 120".

    Machine code runs on its own major version from its minor one on, that of "90a" on 9.0 alone; what is not "-real" is there
    as PTX, too, which a driver compiles for all that is newer.
    """
    for name in built.split():
        number, _, kind = name.partition("-")
        least = divmod(int(number.rstrip("af")), 10)
        if number.endswith("a"):
            if capability == least:
                return True
        elif capability >= least and (kind != "real" or capability[0] == least[0]):
            return True
    return False


def architectures(built: str) -> str:
    """For people: "80-real 120" -> "sm_80, sm_120 and newer"."""
    names = [f"sm_{name.removesuffix('-real')}" for name in built.split()]
    return ", ".join(names) + ("" if built.endswith("-real") else " and newer")


def describe(device: torch.device) -> str:
    """For people: the GPU and its architecture."""
    if device.type != "cuda":
        return "emulated"
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)} (sm_{major}{minor})"


def synchronise(device: torch.device) -> None:
    """Wait until everything that was started on the device has ended."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def on(device: torch.device) -> Iterator[None]:
    """Inside, `device` is the current one."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            yield
        return
    token = _emulating.set(True)
    try:
        yield
    finally:
        _emulating.reset(token)
