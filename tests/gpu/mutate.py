"""Plants a fault in a copy of the repository and runs the tests of its stem on the rungs that could see it.

A worker per kind of rung has imported torch and Triton once; each run is a fork of it, so a mutant costs its tests and little
more. Kernels of CUDA are compiled by the tests themselves, into the real build folder, where what is unchanged is found.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from mutants import Mutant

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("csrc", "fastwm", "tests")
CPU_TIME, WALL_TIME = (
    120,
    900.0,
)  # seconds; a mutant that does not end is seen, too, but a busy machine is no fault
SELECT = {"values": "not address and not thread", "ttsem": "triton", "address": "address", "thread": "thread"}


class Verdict(NamedTuple):
    """What a rung said of a mutant: whether its tests failed, and in what words."""

    killed: bool
    why: str


def stems() -> dict[str, list[Mutant]]:
    """The planted faults of every stem."""
    names = sorted(path.stem for path in (Path(__file__).parent / "mutants").glob("[a-z]*.py"))
    return {name: list(importlib.import_module(f"mutants.{name}").MUTANTS) for name in names}


class Repository:
    """A copy of what the tests need."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in COPIED:
            ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.json", "*.svg")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", folder)
        (ROOT / "build").mkdir(exist_ok=True)
        for name in ("build", "bench"):
            (folder / name).symlink_to(ROOT / name)
        compiled = importlib.util.find_spec("fastwm._cpu")  # wherever an editable install has put it
        if compiled is not None and compiled.origin is not None:
            (folder / "fastwm" / Path(compiled.origin).name).symlink_to(compiled.origin)

    def plant(self, mutant: Mutant | None) -> None:
        """Put the fault in; the one before goes."""
        self.restore()
        if mutant is not None:
            text = (ROOT / mutant.file).read_text()
            (self.folder / mutant.file).write_text(mutant.apply(text))
            self._changed = mutant.file

    _changed: str | None = None

    def restore(self) -> None:
        if self._changed is not None:
            shutil.copy(ROOT / self._changed, self.folder / self._changed)


class Worker:
    """A process with everything imported but fastwm, which runs pytest in forks of itself."""

    def __init__(self, rung: str):
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        environment |= {
            "TRITON_DEFAULT_FP_FUSION": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if rung != "ttsem":
            environment["TRITON_INTERPRET"] = "1"
        self.ttsem = rung == "ttsem"
        command = [sys.executable, str(Path(__file__).resolve()), rung]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    def run(self, repository: Path, stem: str, rung: str) -> Verdict:
        """The tests of a stem. Raises RuntimeError if there are none or the mutant is not a program."""
        arguments = ["-x", "-q", "--no-header", "--tb=short", "-p", "no:cacheprovider", "-m", SELECT[rung]]
        arguments += [f"--rootdir={repository}", str(repository / "tests" / "gpu" / f"test_{stem}.py")]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"folder": str(repository), "arguments": arguments}) + "\n")
        self._process.stdin.flush()
        code, log = json.loads(self._process.stdout.readline())
        if code in (0, 1) and not (
            broken := re.search(r"\n\S*(?:g\+\+|c\+\+) .* failed:.*?error: (.*)", log, re.S)
        ):
            words = re.findall(r"^E\s+(\S.*)", log, re.M)
            return Verdict(code == 1, words[0] if words and code else "")
        if code < 0:
            return Verdict(
                True,
                "does not end" if -code in (signal.SIGXCPU, signal.SIGKILL) else signal.Signals(-code).name,
            )
        reason = f"does not compile: {broken.group(1)}" if code == 1 else f"pytest ended with {code}"
        raise RuntimeError(f"{stem} on rung {rung}: {reason}\n{log[-2000:]}")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Ladder:
    """Runs mutants, and the code without one."""

    def __init__(self, folder: Path):
        self._repository = Repository(folder)
        self._workers: dict[bool, Worker] = {}

    def run(self, stem: str, mutant: Mutant | None, rung: str) -> Verdict:
        """The stem's tests on one rung, with the fault or (None) without."""
        self._repository.plant(mutant)
        worker = self._workers.get(rung == "ttsem")
        if worker is None:
            worker = self._workers[rung == "ttsem"] = Worker(rung)
        return worker.run(self._repository.folder, stem, rung)

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()


def serve(rung: str) -> None:
    """The worker: one request a line, one answer a line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in (
        "numpy",
        "pytest",
        "torch",
        "triton.language",
        "triton.runtime.interpreter",
        "ttsem.sanitize",
    ):
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            importlib.import_module(name)
    del sys.path[0]
    for line in sys.stdin:
        answers.write(json.dumps(_forked(json.loads(line), rung)) + "\n")
        answers.flush()


def _forked(request: dict[str, Any], rung: str) -> tuple[int, str]:
    log = Path(request["folder"]) / "log.txt"
    child = os.fork()
    if child == 0:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = 70
        try:
            code = _pytest(request, rung)
        finally:
            sys.stdout.flush()
            os._exit(code)
    status = _ended(child)
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return code, log.read_text()


def _pytest(request: dict[str, Any], rung: str) -> int:
    """pytest in the copy: nothing of fastwm has been imported yet, and an editable install must not be."""
    import pytest

    resource.setrlimit(resource.RLIMIT_CPU, (CPU_TIME, CPU_TIME + 5))
    os.chdir(request["folder"])
    sys.meta_path[:] = [
        finder for finder in sys.meta_path if not type(finder).__module__.startswith("_editable")
    ]
    sys.path.insert(0, request["folder"])
    if rung == "ttsem":
        from ttsem.sanitize import run_pytest

        return run_pytest(request["arguments"])
    return int(pytest.main(request["arguments"]))


def _ended(child: int) -> int:
    """The status of a process when it has ended, of itself or because its time is over."""
    deadline = time.monotonic() + WALL_TIME
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


if __name__ == "__main__":
    serve(sys.argv[1])
