"""From a `PredictorSpec` to the packed weights of one instruction set and dtype: fold what can be folded, pad, pack.

Folded exactly (in float64): the affine part of each block's inner LayerNorm into the next Linear, the attention's scale into
the queries. Python owns the memory; the C++ predictor holds addresses into it.
"""

from __future__ import annotations

import dataclasses
import threading
import weakref

import torch
from torch import Tensor

from fastwm.engine.backend import cpu_module
from fastwm.engine.spec import Dense, Layer, PredictorSpec, fold_input_affine

DTYPES = {"float32": 0, "bfloat16": 1}
_ACTIVATIONS = {"none": 0, "silu": 1, "gelu": 2}


class PackedPredictor:
    """A predictor ready to run on the CPU: packed weights, and the C++ object that reads them.

    Workspaces are kept per thread, so that calls from different threads never share one.
    """

    def __init__(self, spec: PredictorSpec, *, dtype: str, isa: str) -> None:
        self.spec, self.dtype, self.isa = spec, dtype, isa
        self._cpu = cpu_module()
        self._panel: int = self._cpu.panel_width(isa)
        self._memory: list[Tensor] = []
        self._workspaces = threading.local()
        self.bound = self._cpu.Predictor(isa, self._describe(spec))
        self.handle = id(self)
        handles[self.handle] = self

    @property
    def weight_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._memory)

    def workspace(self, B: int, S: int, T: int, K: int, threads: int) -> Tensor:
        """Scratch memory for one call, reused by later calls of the same thread."""
        size = self.bound.workspace(B, S, T, K, threads)
        kept = getattr(self._workspaces, "tensor", None)
        if kept is None or kept.numel() < size:
            kept = self._workspaces.tensor = torch.empty(size, dtype=torch.uint8)
        return kept

    def _describe(self, spec: PredictorSpec) -> dict:
        W, H, D = spec.width, spec.heads, spec.head_dim
        zeros = torch.zeros(W)
        gain, bias = spec.norm or (zeros, zeros)
        return {
            "dynamics": 0 if spec.dynamics == "transformer" else 1,
            "dtype": DTYPES[self.dtype],
            "residual": spec.residual,
            "E": spec.embed_dim,
            "A": spec.action_dim,
            "C": spec.condition_dim,
            "W": W,
            "H": H,
            "D": D,
            "window": spec.window,
            # The action chain is a hundredth of the work and reads raw actions: float32 in every dtype.
            "action": [self._pack(dense, dtype="float32") for dense in spec.action],
            "head": [self._pack(dense) for dense in spec.head],
            "input": self._pack(spec.input) if spec.input is not None else (0, 0, 0, 0, spec.embed_dim, W, 0),
            "position": self._keep(spec.position) if spec.position is not None else 0,
            "norm_gain": self._padded(gain, 1, W) if W else 0,
            "norm_bias": self._padded(bias, 1, W) if W else 0,
            "layers": [self._pack_layer(layer, W, H, D) for layer in spec.layers],
        }

    def _pack_layer(self, layer: Layer, W: int, H: int, D: int) -> list[tuple]:
        qkv = fold_input_affine(layer.qkv, *layer.attention_norm)
        scale = torch.ones(3, H, D, dtype=torch.float64)
        scale[0] = D**-0.5
        weight = (qkv.weight.double().view(3, H, D, W) * scale[..., None]).transpose(0, 1)  # [H, 3, D, W]
        bias = (qkv.bias.double().view(3, H, D) * scale).transpose(0, 1)  # type: ignore[union-attr]
        qkv = Dense(weight.reshape(3 * H * D, W).float(), bias.flatten().float())
        return [
            self._pack(layer.modulation, out_blocks=6),
            self._pack(qkv, out_blocks=3 * H),
            self._pack(layer.out, in_blocks=H),
            self._pack(dataclasses.replace(fold_input_affine(layer.fc1, *layer.mlp_norm), activation="gelu")),
            self._pack(layer.fc2),
        ]

    def _pack(
        self, dense: Dense, *, out_blocks: int = 1, in_blocks: int = 0, dtype: str | None = None
    ) -> tuple:
        """The tuple that the C++ Dense is made of; its memory stays in self._memory."""
        outputs, inputs = dense.weight.shape
        shape = (
            out_blocks,
            outputs // out_blocks,
            in_blocks,
            inputs // max(1, in_blocks),
            DTYPES[dtype or self.dtype],
        )
        packed = torch.empty(self._cpu.packed_size(self.isa, *shape), dtype=torch.uint8)
        weight = dense.weight.contiguous()
        self._cpu.pack(self.isa, weight.data_ptr(), packed.data_ptr(), *shape)
        self._memory.append(packed)
        bias = dense.bias if dense.bias is not None else torch.zeros(outputs)
        norm = [self._padded(part, 1, outputs) for part in dense.norm] if dense.norm is not None else [0, 0]
        padded_bias = self._padded(bias, out_blocks, outputs // out_blocks)
        return (packed.data_ptr(), padded_bias, *norm, inputs, outputs, _ACTIVATIONS[dense.activation])

    def _padded(self, vector: Tensor, blocks: int, size: int) -> int:
        """Address of a copy whose blocks are padded with zeros to whole panels."""
        padded = torch.zeros(blocks, -(-size // self._panel) * self._panel)
        padded[:, :size] = vector.view(blocks, size)
        return self._keep(padded)

    def _keep(self, tensor: Tensor) -> int:
        tensor = tensor.detach().contiguous().clone()
        self._memory.append(tensor)
        return tensor.data_ptr()


# Integers that stand for a predictor where only numbers and tensors may pass (torch ops).
handles: weakref.WeakValueDictionary[int, PackedPredictor] = weakref.WeakValueDictionary()
