"""The engine against stable-worldmodel's own LeWM: rollouts and costs, in the release on PyPI.

There a candidate's first K actions are the history: frame k of the context goes with action k of the candidate. So with more
than one frame every candidate has a past of its own, and is one environment of the engine.
"""

from __future__ import annotations

import pytest

pytest.importorskip(
    "stable_worldmodel", reason="needs the `peers` extra: make test-peers", exc_type=ImportError
)

import torch
from real_lewm import DEFAULT, SIZES, build, vit_encoder
from torch import Tensor, nn

import fastwm
from fastwm import ops
from fastwm.engine.engine import Engine

pytestmark = pytest.mark.peers

MAX_RELATIVE_COST_ERROR = 1e-4  # float32


@pytest.fixture(autouse=True)
def force_isa(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    monkeypatch.setenv("FASTWM_ISA", isa)


def compiled(model: nn.Module, dtype: str = "float32") -> Engine:
    return fastwm.compile(model, backend="cpu", dtype=dtype, threads=2)  # type: ignore[arg-type]


def problem(A: int, *, B: int, S: int, T: int, K: int, size: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """pixels [B, K, 3, size, size], goal [B, 1, 3, size, size], candidates [B, S, T, A]"""
    random = torch.Generator().manual_seed(1)
    shapes = (B, K, 3, size, size), (B, 1, 3, size, size), (B, S, T, A)
    return tuple(torch.randn(shape, generator=random) for shape in shapes)  # type: ignore[return-value]


def their_info(pixels: Tensor, goal: Tensor, candidates: Tensor) -> dict[str, Tensor]:
    S = candidates.shape[1]
    info = {"pixels": pixels, "goal": goal, "action": candidates[:, 0, :1]}
    return {name: value[:, None].expand(-1, S, *value.shape[1:]) for name, value in info.items()}


def their_costs(model: nn.Module, *arguments: Tensor) -> Tensor:
    """Costs [B, S]. One environment at a time: `get_cost` broadcasts the goal wrongly for more."""
    one = [tuple(tensor[b : b + 1] for tensor in arguments) for b in range(len(arguments[0]))]
    return torch.cat([model.get_cost(their_info(*problem), problem[2]) for problem in one])


def our_costs(engine: Engine, pixels: Tensor, goal: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Latents of the frames to come [B, S, T-K+1, E], and costs [B, S]."""
    (B, S, T, A), K = candidates.shape, pixels.shape[1]
    context = engine.encode(pixels)
    if K == 1:
        latents = engine.rollout(context, candidates, keep="all")
    else:
        alone = candidates.reshape(B * S, 1, T, A)
        latents = engine.rollout(
            context.repeat_interleave(S, dim=0), alone[:, :, K - 1 :], alone[:, 0, : K - 1], keep="all"
        ).view(B, S, T - K + 1, -1)
    return latents, ops.goal_cost(latents[:, :, -1:].contiguous(), engine.encode(goal)[:, 0])


@pytest.mark.parametrize(
    ("name", "K"), [(name, K) for name in SIZES for K in (1, 3) if SIZES[name]["frames"] >= K]
)
@torch.no_grad()
def test_rollout_and_cost(name: str, K: int, record_property) -> None:
    sizes = SIZES[name]
    model = build(**sizes)
    pixels, goal, candidates = problem(sizes["A"], B=2, S=17, T=5, K=K)
    engine = compiled(model)
    latents, cost = our_costs(engine, pixels, goal, candidates)
    their_latents = model.rollout(their_info(pixels, goal, candidates), candidates)["predicted_emb"][:, :, K:]
    assert latents.shape == their_latents.shape
    torch.testing.assert_close(latents, their_latents, rtol=1e-4, atol=1e-4)
    their_cost = their_costs(model, pixels, goal, candidates)
    error = float(((cost - their_cost).abs() / their_cost).max())
    record_property("relative_cost_error", error)
    assert error <= MAX_RELATIVE_COST_ERROR


@torch.no_grad()
def test_candidates_with_one_past_share_their_context() -> None:
    """The same numbers when the past is given once: the way of stable-worldmodel's main branch."""
    model = build(**DEFAULT)
    pixels, goal, candidates = problem(10, B=2, S=9, T=5, K=3)
    candidates[:, :, :2] = candidates[:, :1, :2]
    their_cost = their_costs(model, pixels, goal, candidates)
    engine = compiled(model)
    latents = engine.rollout(
        engine.encode(pixels), candidates[:, :, 2:].contiguous(), candidates[:, 0, :2].contiguous()
    )
    cost = ops.goal_cost(latents, engine.encode(goal)[:, 0])
    assert float(((cost - their_cost).abs() / their_cost).max()) <= MAX_RELATIVE_COST_ERROR


@torch.no_grad()
def test_bfloat16_is_nearer_than_autocast() -> None:
    model = build(**DEFAULT)
    pixels, goal, candidates = problem(10, B=1, S=40, T=5, K=1)
    exact = their_costs(model, pixels, goal, candidates)
    with torch.autocast("cpu", torch.bfloat16):
        theirs = their_costs(model, pixels, goal, candidates)
    ours = our_costs(compiled(model, "bfloat16"), pixels, goal, candidates)[1]
    assert (ours - exact).square().mean() <= (theirs - exact).square().mean()


@torch.no_grad()
def test_encoders(isa: str) -> None:
    """A Hugging Face ViT and a module of one's own; both frame by frame."""
    sizes = SIZES["small"]
    for encoder in (None, vit_encoder(sizes["E"], 8)):
        model = build(**sizes, encoder=encoder)
        pixels, *_ = problem(2, B=2, S=1, T=1, K=3)
        expected = model.encode({"pixels": pixels})["emb"]
        engine = compiled(model)
        torch.testing.assert_close(engine.encode(pixels), expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(engine.encode(pixels[1, 2])[0, 0], engine.encode(pixels)[1, 2])


@pytest.mark.parametrize("norm", [nn.LayerNorm, None])
@torch.no_grad()
def test_heads_with_another_norm(norm: type[nn.Module] | None) -> None:
    model = build(**SIZES["own width"], norm=norm)
    pixels, goal, candidates = problem(5, B=1, S=7, T=6, K=1)
    their_cost = their_costs(model, pixels, goal, candidates)
    cost = our_costs(compiled(model), pixels, goal, candidates)[1]
    assert float(((cost - their_cost).abs() / their_cost).max()) <= MAX_RELATIVE_COST_ERROR


@torch.no_grad()
def test_without_heads() -> None:
    model = build(**SIZES["small"])
    model.projector, model.pred_proj = nn.Identity(), nn.Identity()
    pixels, goal, candidates = problem(2, B=1, S=7, T=6, K=1)
    their_cost = their_costs(model, pixels, goal, candidates)
    cost = our_costs(compiled(model), pixels, goal, candidates)[1]
    assert float(((cost - their_cost).abs() / their_cost).max()) <= MAX_RELATIVE_COST_ERROR
