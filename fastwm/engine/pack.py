"""From a `PredictorSpec` to the packed weights of one instruction set and dtype: fold what can be folded, pad, pack.

Folded exactly (in float64): the affine part of each block's inner LayerNorm into the next Linear, the attention's scale into
the queries. Python owns the memory; the C++ predictor holds addresses into it.
"""

from __future__ import annotations

import threading
import weakref

import torch
from torch import Tensor

from fastwm.engine.backend import cpu_module
from fastwm.engine.spec import Dense, Layer, PredictorSpec, fold_layer, split_inputs

DTYPES = {"float32": 0, "bfloat16": 1, "int8": 2}
LARGE_PAGE = 2 << 20
_ACTIVATIONS = {"none": 0, "silu": 1, "gelu": 2, "mish": 3, "simnorm": 4}
_FUSED = ("silu", "gelu", "mish")  # activations that a fused MLP may have between its layers


class PackedPredictor:
    """A predictor ready to run on the CPU: packed weights, and the C++ object that reads them.

    Workspaces are kept per thread, so that calls from different threads never share one.
    """

    def __init__(self, spec: PredictorSpec, *, dtype: str, isa: str) -> None:
        self.spec, self.dtype, self.isa = spec, dtype, isa
        self._cpu = cpu_module()
        self._panel: int = self._cpu.panel_width(isa)
        self._weights = _Arena()
        self._workspaces = threading.local()
        self.bound = self._cpu.Predictor(isa, self._describe(spec))
        self.handle = id(self)
        handles[self.handle] = self

    @property
    def weight_bytes(self) -> int:
        return self._weights.used

    def workspace(self, B: int, S: int, T: int, K: int, threads: int) -> Tensor:
        """Scratch memory for one call, reused by later calls of the same thread."""
        size = self.bound.workspace(B, S, T, K, threads)
        kept = getattr(self._workspaces, "tensor", None)
        if kept is None or kept.numel() < size:
            kept = self._workspaces.tensor = large_pages(size)
        return kept

    def _describe(self, spec: PredictorSpec) -> dict:
        W, H, D = spec.width, spec.heads, spec.head_dim
        zeros, head, latent = torch.zeros(W, dtype=torch.float32), spec.head, None
        if spec.dynamics == "mlp":
            latent, *head = *split_inputs(head[0], spec.embed_dim), *head[1:]
        fused = (
            len(head) >= 2
            and head[-2].norm is head[-1].norm is None
            and head[-2].activation in _FUSED
            and head[-1].activation == "none"
        )
        gain, bias = spec.norm or (zeros, zeros)
        return {
            "dynamics": 0 if spec.dynamics == "transformer" else 1,
            "dtype": DTYPES[self.dtype],
            "residual": spec.residual,
            "fused_head": fused,
            "E": spec.embed_dim,
            "A": spec.action_dim,
            "C": spec.condition_dim,
            "W": W,
            "H": H,
            "D": D,
            "window": spec.window,
            # The first layer reads raw actions, whose offset may be large against their differences.
            "action": [
                self._pack(dense, dtype="float32" if i == 0 or self.dtype == "float32" else "bfloat16")
                for i, dense in enumerate(spec.action)
            ],
            "head": [
                self._pack(dense, after=head[-2].activation if fused and dense is head[-1] else None)
                for dense in head
            ],
            "latent": self._pack(latent) if latent is not None else (0,) * 10,
            "input": self._pack(spec.input) if spec.input is not None else (0,) * 10,
            "position": self._keep(spec.position) if spec.position is not None else 0,
            "norm_gain": self._padded(gain, W) if W else 0,
            "norm_bias": self._padded(bias, W) if W else 0,
            "layers": [self._pack_layer(layer, W, H, D) for layer in spec.layers],
        }

    def _pack_layer(self, layer: Layer, W: int, H: int, D: int) -> list[tuple]:
        folded = fold_layer(layer, H)
        qkv = folded.qkv
        assert qkv.bias is not None
        weight, bias = qkv.weight.view(3, H, D, W).transpose(0, 1), qkv.bias.view(3, H, D).transpose(0, 1)
        return [
            self._pack(layer.modulation, out_blocks=6),
            self._pack(Dense(weight.reshape(3 * H * D, W), bias.flatten()), out_blocks=3 * H),
            self._pack(layer.out, in_blocks=H),
            self._pack(folded.fc1),
            self._pack(layer.fc2, after="gelu"),
        ]

    def _pack(
        self,
        dense: Dense,
        *,
        out_blocks: int = 1,
        in_blocks: int = 0,
        after: str | None = None,
        dtype: str | None = None,
    ) -> tuple:
        """The tuple that the C++ Dense is made of; its memory is in self._weights.

        in_blocks: of an attention's heads. after: the activation of a fused MLP whose second layer this is.
        """
        outputs, inputs = dense.weight.shape
        code = DTYPES[dtype or self.dtype]
        part = self._cpu.part_width(code)
        if in_blocks:  # whole heads
            padded_head = -(-(inputs // in_blocks) // self._panel) * self._panel
            part = max(1, min(in_blocks, part // padded_head)) * padded_head
        elif after is None:
            part = 0
        shape = (out_blocks, outputs // out_blocks, in_blocks, inputs // max(1, in_blocks), part, code)
        size, parts, columns = self._cpu.packed_sizes(self.isa, *shape)
        packed = self._weights.take(size)
        scale, sums = (torch.empty(parts, columns, dtype=t) for t in (torch.float32, torch.int32))
        weight = dense.weight.contiguous()
        pointers = (weight.data_ptr(), packed.data_ptr(), scale.data_ptr(), sums.data_ptr())
        self._cpu.pack(self.isa, *pointers, *shape)
        bias = torch.zeros(out_blocks, columns // out_blocks, dtype=torch.float32)
        if dense.bias is not None:
            bias[:, : outputs // out_blocks] = dense.bias.view(out_blocks, -1)
        bias = bias.view(-1)
        quantised = [0, 0]
        if code == DTYPES["int8"]:
            start = 0
            if after is None:
                start = self._keep(-128 * sums)
            else:
                lowest = self._cpu.activation_minimum(_ACTIVATIONS[after])
                bias = bias + (lowest * (scale.double() * sums).sum(0)).float()
            quantised = [self._keep(scale), start]
        norm = [self._padded(part, outputs) for part in dense.norm] if dense.norm is not None else [0, 0]
        activation = _ACTIVATIONS[dense.activation]
        return (packed.data_ptr(), self._keep(bias), *norm, *quantised, inputs, outputs, columns, activation)

    def _padded(self, vector: Tensor, size: int) -> int:
        """Address of a copy that is padded with zeros to whole panels."""
        padded = torch.zeros(-(-size // self._panel) * self._panel, dtype=torch.float32)
        padded[:size] = vector
        return self._keep(padded)

    def _keep(self, tensor: Tensor) -> int:
        """Address of a copy."""
        kept = self._weights.take(tensor.nbytes).view(tensor.dtype)
        kept.copy_(tensor.detach().reshape(-1))
        return kept.data_ptr()


class _Arena:
    """Pieces of large memory, 64-byte aligned: matrices that are read one after another lie one after another."""

    CHUNK = 16 << 20

    def __init__(self) -> None:
        self._chunks: list[Tensor] = []
        self._left = torch.empty(0, dtype=torch.uint8)
        self.used = 0

    def take(self, size: int) -> Tensor:
        """uint8 [size], not initialised."""
        rounded = -(-size // 64) * 64
        if rounded > self._left.numel():
            self._left = large_pages(max(rounded, self.CHUNK))
            self._chunks.append(self._left)
        piece, self._left = self._left[:size], self._left[rounded:]
        self.used += size
        return piece


def large_pages(size: int) -> Tensor:
    """uint8 [size] that begins at a page of 2 MiB, where size is worth it, and lies in such pages if the system has them."""
    if size < LARGE_PAGE:
        return torch.empty(size, dtype=torch.uint8, device="cpu")
    memory = torch.empty(size + LARGE_PAGE, dtype=torch.uint8, device="cpu")
    offset = -memory.data_ptr() % LARGE_PAGE
    cpu_module().advise_large_pages(memory.data_ptr() + offset, size)
    return memory[offset : offset + size]


# Integers that stand for a predictor where only numbers and tensors may pass (torch ops).
handles: weakref.WeakValueDictionary[int, PackedPredictor] = weakref.WeakValueDictionary()
