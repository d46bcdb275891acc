"""Whose threads the CPU's kernels run on: PyTorch's where it works on as many, else their own; a forked child's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system lists no threads")

# PyTorch works on two threads; `product` is a kernel on as many as one likes.
COMMON = """
import os
import sys

import torch

torch.set_num_threads(2)
torch.ones(10**6).sum()


def product(threads):
    from fastwm.engine.backend import cpu_module

    a, b, c = torch.ones(100, 40), torch.ones(40, 200), torch.zeros(100, 200)  # few: PyTorch fills them alone
    workspace = torch.empty(threads, cpu_module().LINEAR_WORKSPACE)
    pointers = [t.data_ptr() for t in (a, b)] + [0, c.data_ptr(), workspace.data_ptr()]
    cpu_module().linear("baseline", *pointers, 100, 200, 40, False, False, False, threads)
    return bool((c == 40).all())


def running():
    return len(os.listdir("/proc/self/task"))


def in_child(work):
    import signal

    child = os.fork()
    if not child:
        signal.alarm(60)  # ends a child that waits for threads that it does not have
        os._exit(0 if work() else 1)
    assert os.waitpid(child, 0)[1] == 0, "the child failed or stood still"
"""

SCRIPTS = {
    "as many threads are PyTorch's": """
assert product(2)
before = running()
assert product(2) and running() == before == with_pytorch
assert product(3) and running() == before + 2, "a pool of two and the caller"
assert product(2) and torch.ones(10**6).sum() == 10**6
""",
    "a child of a process that used them": """
assert product(2) and product(3)
in_child(lambda: product(2) and product(3) and product(2))
assert product(2) and product(3)
""",
    "a child that loads fastwm first": """
assert "fastwm" not in sys.modules
in_child(lambda: product(2) and product(3))
""",
    "callers on several threads": """
import threading

found = []
callers = [threading.Thread(target=lambda n=n: found.append(all(product(n) for _ in range(20)))) for n in (1, 2, 2, 3)]
for caller in callers:
    caller.start()
for caller in callers:
    caller.join()
assert found == [True] * 4
""",
}


@pytest.mark.parametrize("case", SCRIPTS)
def test_threads(case: str) -> None:
    if "OpenMP" not in torch.__config__.parallel_info().split("ATen parallel backend: ")[-1]:
        pytest.skip("this PyTorch works without OpenMP")
    script = COMMON + "\nwith_pytorch = running()\n" + SCRIPTS[case]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
