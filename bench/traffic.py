"""Bytes that come from beyond L2, counted from shapes: the lower axis of the roofline. Nothing here is measured."""

from __future__ import annotations

from fastwm.engine.pack import PackedPredictor
from fastwm.engine.spec import Dense, PredictorSpec

BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}


def weight_bytes(spec: PredictorSpec, dtype: str) -> tuple[int, int]:
    """Bytes of weights that a tile of candidates reads once, and those that it reads at every step, without padding."""
    once = [layer.modulation for layer in spec.layers]
    each = [dense for layer in spec.layers for dense in (layer.qkv, layer.out, layer.fc1, layer.fc2)]
    each += [*spec.head, *([spec.input] if spec.input is not None else [])]
    size = BYTES[dtype]
    narrow = max(size, BYTES["bfloat16"])  # the action encoder, after its first layer (engine/pack.py)
    action = BYTES["float32"] * _elements(spec.action[:1]) + narrow * _elements(spec.action[1:])
    return size * _elements(once) + action, size * _elements(each)


def tile_traffic(packed: PackedPredictor, *, B: int, S: int, T: int, K: int, threads: int) -> int:
    """fastwm: a tile's activations stay in L2 and the packed weights pass at every step, so each tile reads them T times."""
    once, each = weight_bytes(packed.spec, packed.dtype)
    tiles = -(-B * S // packed.bound.tile(B, S, T, K, threads))
    return tiles * (once + T * each)


def operator_traffic(spec: PredictorSpec, dtype: str, *, B: int, S: int, T: int, K: int) -> int:
    """One operator after another, the whole window at every step, as PyTorch runs a transformer: each matrix product reads
    its weights and its input and writes its output. At least this: norms, activations and attention pass over memory, too."""
    size = BYTES[
        "bfloat16" if dtype == "int8" else dtype
    ]  # activations of int8 models are wider between operators
    total = 0
    for t in range(T):
        tokens = B * S * min(K + t, spec.window)
        once, each = weight_bytes(spec, dtype)
        total += once + each
        for layer in spec.layers:
            for dense in (layer.modulation, layer.qkv, layer.out, layer.fc1, layer.fc2):
                total += size * tokens * sum(dense.weight.shape)
        total += size * B * S * sum(sum(dense.weight.shape) for dense in spec.head)
    return total


def _elements(layers: list[Dense]) -> int:
    return sum(dense.weight.numel() for dense in layers)
