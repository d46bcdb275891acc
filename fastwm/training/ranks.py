"""The processes of one training run. Each takes its share of every batch; the first alone writes and measures.

`torchrun` starts them (`fastwm train --devices N` calls it), torch.distributed connects them and averages gradients.
"""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed, nn

from fastwm.training.batch_norm import apart, together

# Buffers are equal already: every process computes the same. Newer versions of PyTorch have another name for it.
BUFFERS: dict[str, Any] = {
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(nn.parallel.DistributedDataParallel).parameters
    else "broadcast_buffers": False
}
# What the command line says in one line and ends with FAILED for (fastwm/cli.py).
EXPECTED = (ValueError, TypeError, OSError, ImportError, ArithmeticError, MemoryError, RuntimeError)
FAILED = 2
PATIENCE = datetime.timedelta(hours=2)  # while the first measures and writes, the others wait


@dataclasses.dataclass(frozen=True)
class Ranks:
    """This process among `count`: its number, 0 for the one that writes."""

    rank: int
    count: int
    store: Any = None  # torch.distributed's, through which they also meet where one has failed

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, size: int, part: int, parts: int) -> slice:
        """The samples of a batch of `size` that are this process's in part number `part` of `parts`."""
        own = size // (self.count * parts)
        start = (part * self.count + self.rank) * own
        return slice(start, start + own)

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Each value, averaged over the processes."""
        if self.count == 1:
            return values
        numbers = torch.tensor(list(values.values()), dtype=torch.float64)
        distributed.all_reduce(numbers)
        return dict(zip(values, (numbers / self.count).tolist(), strict=True))

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            distributed.barrier()

    @contextmanager
    def one_voice(self) -> Iterator[None]:
        """What fails is raised in the first process that it fails in; in the others, and where all are interrupted, SystemExit.

        A mistake fails all alike, and the end of one fails the others: the first alone knows why.
        """
        try:
            yield
        except EXPECTED:
            if self.store is not None and self.store.add("failed", 1) > 1:
                raise SystemExit(FAILED) from None
            raise
        except KeyboardInterrupt:
            if self.store is not None:  # who started the processes says so
                raise SystemExit(128 + signal.SIGINT) from None
            raise

    @contextmanager
    def joined(self, module: nn.Module) -> Iterator[nn.Module]:
        """`module` for forward passes whose backward passes average gradients; norms see the whole batch."""
        if self.count == 1:
            yield module
            return
        together(module)
        try:
            yield nn.parallel.DistributedDataParallel(module, **BUFFERS)
        finally:
            apart(module)


@contextmanager
def ranks() -> Iterator[Ranks]:
    """The processes that torchrun started, connected; or this one alone."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if distributed.is_available() and distributed.is_initialized():
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    elif distributed.is_available() and distributed.is_torchelastic_launched():
        store, rank, count = next(distributed.rendezvous("env://"))
        store.set_timeout(PATIENCE)
        distributed.init_process_group(
            backend,
            timeout=PATIENCE,
            store=distributed.PrefixStore("group", store),
            rank=rank,
            world_size=count,
        )
        try:
            yield Ranks(rank, count, store)
        finally:
            distributed.destroy_process_group()
    else:
        yield Ranks(0, 1)


def launch(arguments: list[str], devices: int) -> None:
    """Run `fastwm` with `arguments` in `devices` processes of this machine, by torchrun.

    SystemExit where one of them has said what is wrong, RuntimeError where one died.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=f"fastwm-{os.getpid()}",
        max_restarts=0,  # a run that died goes on by --resume
    )
    for name in (
        "multiprocessing",
        "agent.server",
    ):  # they tell of processes that failed or were ended, as we do below
        logging.getLogger(f"torch.distributed.elastic.{name}.api").setLevel(logging.CRITICAL)
    command: Any = [sys.executable, "-m", "fastwm.cli", *arguments]
    try:
        elastic_launch(config, command[0])(*command[1:])
    except SignalException as stopped:  # the processes have been ended
        if stopped.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise SystemExit(128 + stopped.sigval) from None
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in sorted(error.failures.items())}
        died = {rank: code for rank, code in codes.items() if code not in (FAILED, -signal.SIGTERM)}
        if not died and FAILED in codes.values():  # the others were then ended
            raise SystemExit(FAILED) from None
        rank, code = next(iter((died or codes).items()))
        raise RuntimeError(
            f"process {rank} of {devices} ended with {code}; what it said is above; where a checkpoint was "
            "written, --resume goes on from it"
        ) from error
