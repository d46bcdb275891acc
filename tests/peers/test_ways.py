"""Each way that the benchmark measures beside fastwm computes the model's costs, at a small size."""

from __future__ import annotations

import pytest
import torch

from bench import problems
from bench.parity import truth
from bench.peers import PEERS
from bench.peers.peer import Peer
from bench.problems import Setting, make_problem

pytestmark = pytest.mark.peers


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_costs(peer: Peer) -> None:
    if peer.missing:
        pytest.skip(f"{', '.join(peer.missing)} not installed: make bench")
    if peer.engine == "torch.compile":
        pytest.skip("minutes to compile; the benchmark checks it before it is timed")
    model = "small" if peer.models is None else "lewm"
    setting = Setting(model, S=24, T=4, K=2, elites=6)
    module = problems.module(model)
    costs = peer.make(module, make_problem(module, setting), 1)
    with torch.inference_mode():
        found = truth(module, setting).check(costs, peer.engine, peer.dtype)
    assert found.passed, found
