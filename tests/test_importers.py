"""Importers: the same numbers as the model itself, and a clear word where a model cannot be represented."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from lewm_like import Block, LeWMLike
from tiny_models import random_model
from torch import Tensor, nn

import fastwm
from fastwm.models import WorldModel, WorldModelConfig

SIZES = {
    "square": {},
    "own width": {"width": 33, "depth": 3, "heads": 2, "head_dim": 17},
    "one head as wide as the model": {"heads": 1, "head_dim": 20, "depth": 1},
    "window 1": {"frames": 1},
    "window 5": {"frames": 5, "action_dim": 1},
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("backend", ["cpu", "torch"])
@torch.no_grad()
def test_lewm_with_an_action_history(sizes: dict, backend: str) -> None:
    """The calling convention of stable-worldmodel's main branch: past blocks are given apart from the candidates."""
    model = LeWMLike(**sizes)
    engine = fastwm.compile(model, backend=backend, dtype="float32", threads=1)  # type: ignore[arg-type]
    random = torch.Generator().manual_seed(0)
    B, S, T, A = 2, 6, 7, engine.action_dim
    for K in range(1, engine.window + 1):
        pixels, past, actions = (
            torch.randn(shape, generator=random) for shape in ((B, K, 3, 8, 8), (B, K - 1, A), (B, S, T, A))
        )
        context = model.encode({"pixels": pixels})["emb"]
        torch.testing.assert_close(engine.encode(pixels), context, rtol=1e-5, atol=1e-5)
        expected = torch.stack([model.rollout(context, past, actions[:, s]) for s in range(S)], dim=1)
        latents = engine.rollout(context, actions, past, keep="all")
        torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_narrower_window_than_positions_is_kept() -> None:
    model = LeWMLike(frames=4)
    model.predictor.num_frames = 2
    engine = fastwm.compile(model, dtype="float32", threads=1)
    assert engine.window == 2
    context, actions = torch.randn(1, 2, 20), torch.randn(1, 1, 5, 5)
    past = torch.randn(1, 1, 5)
    expected = model.rollout(context, past, actions[:, 0])
    torch.testing.assert_close(
        engine.rollout(context, actions, past, keep="all")[:, 0], expected, rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def test_heads() -> None:
    heads: list[nn.Module] = [nn.Identity(), nn.Linear(20, 20)]
    for head in heads:
        model = LeWMLike(width=24)
        model.pred_proj = head
        context, actions = torch.randn(1, 1, 20), torch.randn(1, 1, 4, 5)
        expected = model.rollout(context, actions[:, 0, :0], actions[:, 0])
        engine = fastwm.compile(model, dtype="float32", threads=1)
        torch.testing.assert_close(
            engine.rollout(context, actions, keep="all")[:, 0], expected, rtol=1e-4, atol=1e-4
        )


def replace(path: str, new: Callable[[nn.Module], object]) -> Callable[[nn.Module], None]:
    """A change of a model: what stands at `path` becomes new(what stood there)."""

    def change(model: nn.Module) -> None:
        *parents, name = path.split(".")
        owner = model
        for parent in parents:
            owner = owner[int(parent)] if parent.isdigit() else getattr(owner, parent)  # type: ignore[index]
        if name.isdigit():
            owner[int(name)] = new(owner[int(name)])  # type: ignore[index,operator]
        else:
            old = getattr(owner, name)
            delattr(owner, name)
            if (value := new(old)) is not None:
                setattr(owner, name, value)

    return change


def without(_: object) -> None:
    """Removes the part."""


def poisoned(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.full_like(tensor, float("nan")))


BLOCK = "predictor.transformer.layers.1"
REFUSED = {
    "blocks without AdaLN": (
        replace(f"{BLOCK}.adaLN_modulation", without),
        r"layers\[1\] \(Block\) has no adaLN_modulation",
    ),
    "AdaLN of another activation": (
        replace(f"{BLOCK}.adaLN_modulation.0", lambda _: nn.ReLU()),
        r"layers\[1\].adaLN_modulation\[0\] is ReLU, expected SiLU",
    ),
    "an affine first norm": (
        replace(f"{BLOCK}.norm1", lambda _: nn.LayerNorm(20, eps=1e-6)),
        r"layers\[1\].norm1 is not a LayerNorm",
    ),
    "another eps of the first norm": (
        replace(f"{BLOCK}.norm2", lambda _: nn.LayerNorm(20, elementwise_affine=False)),
        r"layers\[1\].norm2 is not a LayerNorm without affine part and with eps 1e-6",
    ),
    "another eps of the second norm": (
        replace(f"{BLOCK}.attn.norm", lambda _: nn.LayerNorm(20, eps=1e-6)),
        r"layers\[1\].attn.norm has eps 1e-06, expected 1e-05",
    ),
    "RMS norm": (
        replace(f"{BLOCK}.attn.norm", lambda _: nn.RMSNorm(20)),
        r"layers\[1\].attn.norm is RMSNorm, expected LayerNorm",
    ),
    "approximate GELU": (
        replace(f"{BLOCK}.mlp.net.2", lambda _: nn.GELU(approximate="tanh")),
        r"layers\[1\].mlp.net\[2\] is a GELU with approximate='tanh', expected the exact one",
    ),
    "an MLP of ReLU": (
        replace(f"{BLOCK}.mlp.net.2", lambda _: nn.ReLU()),
        r"layers\[1\].mlp.net\[2\] is ReLU, expected GELU",
    ),
    "an MLP of other length": (
        replace(f"{BLOCK}.mlp.net", lambda net: net[:5]),
        r"layers\[1\].mlp.net has 5 modules, expected 6",
    ),
    "layers of unequal heads": (
        replace(BLOCK, lambda _: Block(20, 6, 4, 30)),
        r"the layers have \[3, 6\] heads, expected the same",
    ),
    "no layers": (
        replace("predictor.transformer.layers", lambda _: nn.ModuleList()),
        "predictor.transformer.layers is empty",
    ),
    "no transformer": (
        replace("predictor.transformer", without),
        r"predictor \(Predictor\) has no transformer",
    ),
    "more frames than positions": (
        replace("predictor.num_frames", lambda _: 9),
        "predictor.num_frames is 9, but pos_embedding holds 3",
    ),
    "positions of other width": (
        replace("predictor.pos_embedding", lambda _: nn.Parameter(torch.zeros(1, 3, 8))),
        "action ends in 20 numbers, expected the width 8",
    ),
    "actions convolved over time": (
        replace("action_encoder.patch_embed", lambda _: nn.Conv1d(5, 7, 3, padding=1)),
        "action_encoder.patch_embed is not a plain convolution of kernel 1",
    ),
    "actions strided over time": (
        replace("action_encoder.patch_embed", lambda _: nn.Conv1d(5, 7, 1, stride=2)),
        "action_encoder.patch_embed is not a plain convolution of kernel 1",
    ),
    "no action convolution": (
        replace("action_encoder", lambda _: nn.Linear(5, 20)),
        r"action_encoder \(Linear\) has no patch_embed",
    ),
    "an action encoder of ReLU": (
        replace("action_encoder.embed.1", lambda _: nn.ReLU()),
        r"action_encoder.embed\[1\] is ReLU, expected SiLU",
    ),
    "a head of ReLU": (
        replace("pred_proj.net.2", lambda _: nn.ReLU()),
        r"pred_proj.net\[2\] is ReLU, expected GELU or SiLU",
    ),
    "a head of another norm": (
        replace("pred_proj.net.1", lambda _: nn.GroupNorm(1, 33)),
        r"pred_proj.net\[1\] is GroupNorm, expected BatchNorm1d or LayerNorm or Identity",
    ),
    "a batch norm without statistics": (
        replace("pred_proj.net.1", lambda _: nn.BatchNorm1d(33, track_running_stats=False)),
        "BatchNorm1d keeps no running statistics",
    ),
    "a head of unknown make": (
        replace("pred_proj", lambda _: nn.GRUCell(20, 20)),
        r"pred_proj \(GRUCell\) has no net",
    ),
    "weights that are not finite": (
        replace(f"{BLOCK}.attn.to_qkv.weight", poisoned),
        "to_qkv.weight holds numbers that are not finite",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_lewm_that_cannot_be_represented(change: Callable[[nn.Module], None], message: str) -> None:
    model = LeWMLike()
    change(model)
    with pytest.raises(ValueError, match=message):
        fastwm.compile(model)


def test_a_model_with_other_parts_is_of_no_family() -> None:
    model = LeWMLike()
    del model.action_encoder
    with pytest.raises(TypeError, match="LeWMLike, which no importer knows"):
        fastwm.compile(model)


def test_our_own_models_in_another_precision() -> None:
    """Weights of any floating dtype are read as float32."""
    model = random_model().double()
    context, actions = torch.randn(1, 1, 12), torch.randn(1, 3, 4, 2)
    with torch.no_grad():
        expected = model.rollout(context.double(), actions.double())
    latents = fastwm.compile(model, dtype="float32", threads=1).rollout(context, actions, keep="all")
    torch.testing.assert_close(latents.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


class Halved(nn.Linear):
    """A Linear that is not one."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


def hooked(model: nn.Module) -> None:
    model.get_submodule(f"{BLOCK}.mlp").net.register_forward_hook(lambda module, inputs, output: 2 * output)


@pytest.mark.parametrize(
    "change",
    [hooked, replace("pred_proj.net.3", lambda old: Halved(old.in_features, old.out_features))],
    ids=["a hook", "a Linear with its own forward"],
)
def test_a_lewm_whose_parts_do_not_tell_what_it_computes(change: Callable[[nn.Module], None]) -> None:
    model = LeWMLike()
    change(model)
    with pytest.raises(ValueError, match="LeWM predicts other numbers than its parts say"):
        fastwm.compile(model)


def test_a_world_model_is_refused_when_it_cannot_encode_or_normalise() -> None:
    model = WorldModel(WorldModelConfig(action_dim=2)).eval()
    model.action_std[1] = 0
    with pytest.raises(ValueError, match=r"action_std is \[1.0, 0.0\], expected numbers above 0"):
        fastwm.compile(model)
    model.action_std[1] = 1
    model.projector.fc2.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match=r"projector.fc2.bias holds numbers that are not finite"):
        fastwm.compile(model)
