"""A predictor on a GPU: its weights as the kernels read them, and the schedule of a rollout.

What the CPU's rollout (csrc/cpu/rollout.cpp) does not do twice is not done twice here: every layer's modulation is made once
for all actions; while the window grows, keys and values are kept and one token per candidate is computed; context frames
that no candidate's action touches are computed once per environment; in the last layer only the last token asks.

A layer is three kernels (`fastwm/triton/rollout`). Nothing waits for the GPU, and everything that is allocated comes from
PyTorch, so that a rollout can be captured in a CUDA graph.

Letters as in csrc/ops.h; R: candidates of all environments, B S.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastwm.engine.spec import Dense, PredictorSpec, fold_layer
from fastwm.triton.rollout.attend import attend
from fastwm.triton.rollout.dense import dense
from fastwm.triton.rollout.mlp import head, mlp, mlp_scratch
from fastwm.triton.rollout.normalise import normalise
from fastwm.triton.rollout.qkv import norm_dense, qkv
from fastwm.triton.rollout.tokens import tokens

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_IN_PRODUCT = ("none", "silu", "gelu", "mish")  # activations that a product's kernel applies itself
BUDGET = (
    8 << 30
)  # bytes of a rollout's intermediate results; more candidates than fit run one part after another


class Product(NamedTuple):
    """One Dense on the device. in_kernel: whether the kernel of the product makes the whole layer, norm and activation."""

    weight: Tensor  # [N, K] in the predictor's dtype
    bias: Tensor  # [N] float32, zeros where there is none
    norm: tuple[Tensor, Tensor] | None
    activation: str

    @property
    def in_kernel(self) -> bool:
        return self.norm is None and self.activation in _IN_PRODUCT

    @property
    def after(self) -> str:
        """The activation that the product's kernel applies."""
        return self.activation if self.in_kernel else "none"


class DevicePredictor:
    """A predictor ready to run on one GPU. dtype: of weights and of what products read; sums and residuals are float32."""

    def __init__(self, spec: PredictorSpec, *, dtype: str, device: torch.device) -> None:
        self.spec, self.dtype, self.device = spec, dtype, device
        self._kind = DTYPES[dtype]
        self._tensors: list[Tensor] = []
        # The first layer reads raw actions, whose offset may be large against their differences.
        self._action = [self._put(d, torch.float32 if i == 0 else None) for i, d in enumerate(spec.action)]
        self._head = [self._put(dense) for dense in spec.head]
        self._norm = self._norm_of(spec.norm)
        self._position = self._keep(spec.position) if spec.position is not None else None
        self._input = self._put(spec.input) if spec.input is not None else None
        folded = [fold_layer(layer, spec.heads) for layer in spec.layers]
        self._layers = [tuple(self._put(dense) for dense in (l.qkv, l.out, l.fc1, l.fc2)) for l in folded]
        if folded:
            weights, biases = zip(*((l.modulation.weight, _bias(l.modulation)) for l in folded), strict=True)
            self._modulation = self._put(Dense(torch.cat(weights), torch.cat(biases)))

    @property
    def weight_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors)

    def rollout(self, context: Tensor, actions: Tensor, past_actions: Tensor, *, keep_all: bool) -> Tensor:
        """context [B, K, E], actions [B, S, T, A], past_actions [B, K-1, A] -> latents [B, S, T, E], or [B, S, E] of the last.

        All float32 on the device. A candidate's bits are a function of its own inputs and of the sizes of the predictor.
        """
        B, S, T, _ = actions.shape
        fit = max(1, BUDGET // self._bytes_per_candidate(T))
        if fit < S:  # a part of one environment's candidates at a time
            parts = [
                self.rollout(c, some, p, keep_all=keep_all)
                for c, a, p in zip(context.split(1), actions.split(1), past_actions.split(1), strict=True)
                for some in a.split(fit, dim=1)
            ]
            per_environment = -(-S // fit)
            rows = [parts[b * per_environment : (b + 1) * per_environment] for b in range(B)]
            return torch.cat([torch.cat(row, dim=1) for row in rows])
        if fit < B * S:
            some = fit // S
            inputs = (context.split(some), actions.split(some), past_actions.split(some))
            return torch.cat([self.rollout(*part, keep_all=keep_all) for part in zip(*inputs, strict=True)])
        make = self._mlp if self.spec.dynamics == "mlp" else self._transformer
        latents = make(context.contiguous(), actions.contiguous(), past_actions)  # [R, T, E]
        return (latents if keep_all else latents[:, -1].contiguous()).unflatten(0, (B, S))

    def _bytes_per_candidate(self, T: int) -> int:
        """Of intermediate results: modulation, keys and values, and what a step's kernels write."""
        spec, size = self.spec, 4 if self.dtype == "float32" else 2
        if spec.dynamics == "mlp":
            widest = max(dense.weight.shape[0] for dense in (*spec.action, *spec.head))
            return 4 * (T + 1) * (spec.embed_dim + spec.condition_dim) + 8 * T * widest
        W, L, inner, own = spec.width, len(spec.layers), spec.heads * spec.head_dim, min(T, spec.window)
        kept = T * 6 * L * W * size + own * L * 2 * inner * size
        return kept + own * (8 * W + inner * size) + 32 * W + 8 * T * W

    # ---- the transformer

    def _transformer(self, context: Tensor, actions: Tensor, past_actions: Tensor) -> Tensor:
        """-> latents [R, T, E]"""
        spec = self.spec
        (B, K, E), (_, S, T, _), window = context.shape, actions.shape, self.spec.window
        R, own = B * S, min(T, window)
        modulation = self._modulate(actions.flatten(0, 1).transpose(0, 1))  # [T, R, L 6 W]
        past = self._modulate(past_actions.transpose(0, 1)) if K > 1 else None  # [K-1, B, L 6 W]
        keys_values = self._empty(len(spec.layers), own, R, 2 * spec.heads * spec.head_dim, kind=self._kind)
        latents = self._empty(R, T, E)
        most = max(R * own, B * (K - 1))  # rows at once: of candidates' tokens, or of context frames
        scratch = mlp_scratch(most, max(spec.width, E), self.device)
        prefix: Tensor | None = None  # [L, shared, B, 2 H D]
        shared = 0
        for t in range(T):
            start = max(0, K + t - window)  # the oldest frame of the window
            if past is not None and (t == 0 or shared) and K - 1 - start != shared:
                shared = max(0, K - 1 - start)
                prefix = self._prefix(context[:, start : K - 1], past[start:], scratch) if shared else None
            first = 0 if start == 0 else max(0, start - (K - 1))  # of a candidate's own tokens in the window
            new = t if start == 0 else first  # the first that is not there yet
            x = self._embed(
                context[:, -1], latents, m=t + 1 - new, first=new, place=K - 1 + new - start, per=S
            )
            x = self._run(
                x,
                modulation[new : t + 1],
                keys_values,
                prefix,
                earlier=new - first,
                per_environment=S,
                scratch=scratch,
            )
            last = None
            if spec.residual:
                last = latents[:, t - 1] if t else context[:, -1].repeat_interleave(S, 0)
            self._predict(x, last, latents[:, t], scratch)
        return latents

    def _prefix(self, frames: Tensor, modulation: Tensor, scratch: tuple[Tensor, Tensor]) -> Tensor:
        """Keys and values of context frames [B, shared, E], which all candidates see: [L, shared, B, 2 H D]."""
        spec, (B, shared, _) = self.spec, frames.shape
        out = self._empty(len(spec.layers), shared, B, 2 * spec.heads * spec.head_dim, kind=self._kind)
        x = self._embed(frames[:, 0], frames[:, 1:], m=shared, first=0, place=0, per=1)
        self._run(
            x, modulation[:shared], out, None, earlier=0, per_environment=1, scratch=scratch, asks=False
        )
        return out

    def _embed(self, context: Tensor, latents: Tensor, *, m: int, first: int, place: int, per: int) -> Tensor:
        """What the first layer reads [m R, W]."""
        assert self._position is not None
        R, E = context.shape[0] * per, self.spec.embed_dim
        x = self._empty(m, R, E)
        tokens(context, latents, self._position, x, per_environment=per, first=first, place=place)
        if self._input is None:
            return x.flatten(0, 1)
        out = self._empty(m * R, self.spec.width)
        dense(x[None].flatten(1, 2), self._input.weight, self._input.bias, out[None])
        return out

    def _run(
        self,
        x: Tensor,
        modulation: Tensor,
        keys_values: Tensor,
        prefix: Tensor | None,
        *,
        earlier: int,
        per_environment: int,
        scratch: tuple[Tensor, Tensor],
        asks: bool = True,
    ) -> Tensor:
        """x [m R, W] through all layers -> rows of the last token [R, W]. modulation [m, R, L 6 W].

        keys_values [L, own tokens, R, 2 H D]: has `earlier` tokens, those of x are added. asks: whether any output is needed;
        else keys and values are all that is made.
        """
        spec, (m, R, _) = self.spec, modulation.shape
        W, inner = spec.width, spec.heads * spec.head_dim
        for l, (project, out, fc1, fc2) in enumerate(self._layers):
            last = l + 1 == len(self._layers)
            skip = (m - 1 if asks else m) if last else 0  # tokens that do not ask
            rows = modulation.flatten(0, 1)[:, l * 6 * W : (l + 1) * 6 * W]
            query = self._empty((m - skip) * R, inner, kind=self._kind)
            here = keys_values[l, earlier : earlier + m].flatten(0, 1)
            qkv(x, rows, project.weight, project.bias, query, here, asking_from=skip * R)
            if last and not asks:
                break
            x, rows = x[skip * R :], rows[skip * R :]
            attend(
                query, None if prefix is None else prefix[l], keys_values[l], out.weight, out.bias,
                rows[:, 2 * W : 3 * W], x,
                candidates=R, per_environment=per_environment, first=earlier + skip, heads=spec.heads,
            )  # fmt: skip
            mlp(x, rows[:, 3 * W :], fc1[:2], fc2[:2], scratch)
        return x

    def _predict(self, x: Tensor, last: Tensor | None, out: Tensor, scratch: tuple[Tensor, Tensor]) -> None:
        """out [R, E] = (last +) head(norm(x)); x [R, W]"""
        layers = self._head
        assert self._norm is not None
        if not layers:
            normal = self._empty(*x.shape)
            normalise(x, self._norm, "none", normal)
            out.copy_(normal if last is None else normal + last)
        elif len(layers) == 2 and all(layer.in_kernel for layer in layers) and layers[1].activation == "none":
            head(x, self._norm, layers[0][:2], layers[1][:2], layers[0].activation, last, out, scratch)
        else:
            alone = len(layers) == 1
            first, kind = layers[0], torch.float32 if alone else self._kind
            y = self._empty(len(x), len(first.bias), kind=kind if first.in_kernel else torch.float32)
            norm_dense(x, self._norm, first.weight, first.bias, y, after=first.after)
            y = self._finish(first, y, kind)
            if alone:
                out.copy_(y if last is None else y + last)
            else:
                self._chain(layers[1:], y[None], out[None], last)

    # ---- MLP dynamics

    def _mlp(self, context: Tensor, actions: Tensor, past_actions: Tensor) -> Tensor:
        """-> latents [R, T, E]"""
        spec = self.spec
        (B, _, E), (_, S, T, _) = context.shape, actions.shape
        joined = self._empty(T + 1, B * S, E + spec.condition_dim)  # each step's latent and conditioning
        self._chain(self._action, actions.flatten(0, 1).transpose(0, 1), joined[:T, :, E:])
        joined[0, :, :E] = context[:, -1].repeat_interleave(S, 0)
        for t in range(T):
            last = joined[t, :, :E] if spec.residual else None
            self._chain(self._head, joined[t : t + 1], joined[t + 1 : t + 2, :, :E], last)
        return joined[1:, :, :E].transpose(0, 1).contiguous()

    # ---- parts

    def _modulate(self, actions: Tensor) -> Tensor:
        """actions [steps, R, A] -> every layer's modulation [steps, R, L 6 W], in the order in which kernels read it."""
        steps, R, _ = actions.shape
        condition = self._empty(steps, R, self.spec.condition_dim)
        self._chain(self._action, actions, condition)
        out = self._empty(steps, R, len(self._modulation.bias), kind=self._kind)
        dense(condition, self._modulation.weight, self._modulation.bias, out, before="silu")
        return out

    def _chain(self, layers: list[Product], x: Tensor, out: Tensor, last: Tensor | None = None) -> None:
        """out [G, R, N] = (last +) layers one after another of x [G, R, K]."""
        for layer in layers[:-1]:
            y = self._empty(
                *x.shape[:2], len(layer.bias), kind=self._kind if layer.in_kernel else torch.float32
            )
            dense(x, layer.weight, layer.bias, y, after=layer.after)
            x = self._finish(layer, y, self._kind)
        layer = layers[-1]
        if layer.in_kernel:
            dense(x, layer.weight, layer.bias, out, after=layer.after, last=last)
            return
        y = self._empty(*x.shape[:2], len(layer.bias))
        dense(x, layer.weight, layer.bias, y)
        y = self._finish(layer, y, torch.float32)
        out.copy_(y if last is None else y + last)

    def _finish(self, layer: Product, y: Tensor, kind: torch.dtype) -> Tensor:
        """The norm and activation of a layer whose product is y, unless the product's kernel applied them."""
        if layer.in_kernel:
            return y
        out = self._empty(*y.shape, kind=kind)
        normalise(y.flatten(0, -2), layer.norm, layer.activation, out)
        return out

    def _empty(self, *shape: int, kind: torch.dtype | None = None) -> Tensor:
        return torch.empty(shape, dtype=kind or torch.float32, device=self.device)

    def _put(self, dense: Dense, kind: torch.dtype | None = None) -> Product:
        weight = dense.weight.detach().to(self.device, kind or self._kind).clone()
        self._tensors.append(weight)
        norm = self._norm_of(dense.norm)
        return Product(weight, self._keep(_bias(dense)), norm, dense.activation)

    def _norm_of(self, norm: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor] | None:
        return None if norm is None else (self._keep(norm[0]), self._keep(norm[1]))

    def _keep(self, tensor: Tensor) -> Tensor:
        """A float32 copy on the device."""
        self._tensors.append(tensor.detach().to(self.device, torch.float32).clone())
        return self._tensors[-1]


def _bias(dense: Dense) -> Tensor:
    return dense.weight.new_zeros(dense.weight.shape[0]) if dense.bias is None else dense.bias
