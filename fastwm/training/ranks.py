"""The processes of one training run. Each takes its share of every batch; the first alone writes and measures.

`torchrun` starts them (`fastwm train --devices N` calls it), torch.distributed connects them and averages gradients.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed, nn

from fastwm.training.batch_norm import apart, together

PATIENCE = datetime.timedelta(hours=2)  # while the first measures and writes, the others wait


@dataclasses.dataclass(frozen=True)
class Ranks:
    """This process among `count`: its number, 0 for the one that writes."""

    rank: int
    count: int

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
    def joined(self, module: nn.Module) -> Iterator[nn.Module]:
        """`module` for forward passes whose backward passes average gradients; norms see the whole batch."""
        if self.count == 1:
            yield module
            return
        together(module)
        try:
            yield nn.parallel.DistributedDataParallel(
                module,
                broadcast_buffers=False,  # equal already: every process computes the same
                find_unused_parameters=True,
            )
        finally:
            apart(module)


@contextmanager
def ranks() -> Iterator[Ranks]:
    """The processes that torchrun started, connected; or this one alone."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if distributed.is_available() and distributed.is_initialized():
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    elif distributed.is_available() and distributed.is_torchelastic_launched():
        distributed.init_process_group(backend, timeout=PATIENCE)
        try:
            yield Ranks(distributed.get_rank(), distributed.get_world_size())
        finally:
            distributed.destroy_process_group()
    else:
        yield Ranks(0, 1)


def launch(arguments: list[str], devices: int) -> None:
    """Run `fastwm` with `arguments` in `devices` processes of this machine, by torchrun; RuntimeError where one fails."""
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
    command: Any = [sys.executable, "-m", "fastwm.cli", *arguments]
    try:
        elastic_launch(config, command[0])(*command[1:])
    except SignalException as stopped:  # the processes have been ended
        if stopped.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise SystemExit(128 + stopped.sigval) from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise RuntimeError(
            f"process {rank} of {devices} ended with {failure.exitcode}; what it said is above; where a checkpoint was "
            "written, --resume goes on from it"
        ) from error
