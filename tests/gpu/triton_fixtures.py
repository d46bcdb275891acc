"""Where Triton's kernels run in tests, without a word of it in the tests: interpreted, under ttsem, or on a GPU.

TRITON_INTERPRET=1 pytest ...             the interpreter, on CPU tensors; `guard` watches
python -m ttsem.sanitize pytest ...       the compiler's IR, executed on the CPU; tensors say that they are on "cuda"
pytest ...                                the GPU, if there is one; else skipped
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fastwm.engine.cuda import device

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def ttsem() -> dict[str, Any] | None:
    """The names of the module of ttsem that executes this process's launches; None if none does."""
    jit = sys.modules.get("triton.runtime.jit")
    names = jit.JITFunction.run.__globals__ if jit is not None else {}
    return names if "KernelFault" in names else None


def not_under_ttsem(reason: str) -> pytest.MarkDecorator:
    """Marks a test that ttsem cannot judge."""
    return pytest.mark.skipif(ttsem() is not None, reason=f"ttsem: {reason}")


@pytest.fixture
def triton_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The device of tensors that Triton's kernels take, entered.

    A test marked `ordered_by_atomics` has programs that wait for nobody but order themselves by atomics (the last one to
    arrive reads what all have stored): ttsem calls that a race, so it gives values alone; the guard judges the order.
    """
    if ttsem() is not None and request.node.get_closest_marker("ordered_by_atomics"):
        monkeypatch.setattr(ttsem()["pidraces"], "find_race", lambda log: None)
    if INTERPRETED:
        chosen = entered = torch.device("cpu")
    elif ttsem() is not None:
        chosen, entered = (
            torch.device("cuda", 0),
            torch.device("cpu"),
        )  # in a backward pass its tensors say "cpu"
    elif torch.cuda.is_available():
        chosen = entered = torch.device("cuda", torch.cuda.current_device())
    else:
        pytest.skip("no GPU: run with TRITON_INTERPRET=1 or under ttsem")
    with device.on(entered):
        yield chosen


@pytest.fixture(params=["forward", "reverse", 3] if INTERPRETED else ["forward"])
def order(request: pytest.FixtureRequest) -> str | int:
    """The order of programs, for `guard`: three where the interpreter runs them, else one that means nothing."""
    return request.param
