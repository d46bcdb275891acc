"""Other ways to roll out the same model that a user could pick: one file each, an optional extra where it needs one."""

from __future__ import annotations

from bench.peers import onnx_runtime, openvino_runtime, pytorch, stable_worldmodel
from bench.peers.peer import Peer

PEERS: tuple[Peer, ...] = (
    *pytorch.PEERS,
    *stable_worldmodel.PEERS,
    *openvino_runtime.PEERS,
    *onnx_runtime.PEERS,
)
