"""The ranking gate tells a dtype that finds the same elites from one that does not."""

import copy

import pytest
import torch

import fastwm
from fastwm.engine import backend
from fastwm.engine.importers import import_model
from fastwm.engine.pack import PackedPredictor
from fastwm.engine.ranking import MAX_REGRET, MIN_OVERLAP, Ranking, measure
from fastwm.models import WorldModel, WorldModelConfig


@pytest.fixture(scope="module")
def model() -> WorldModel:
    """A small world model whose actions matter (a new AdaLN model ignores them)."""
    torch.manual_seed(0)
    model = WorldModel(WorldModelConfig.preset("small", action_dim=3, embed_dim=48, width=64)).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return model


def packings(model: WorldModel, change: float) -> tuple[PackedPredictor, PackedPredictor]:
    """The predictor, and the predictor with its head's weights off by a relative `change`."""
    spec = import_model(model).spec
    other = copy.deepcopy(spec)
    other.head[-1].weight *= 1 + change * torch.randn(other.head[-1].weight.shape)
    isa = backend.isa()
    return PackedPredictor(spec, dtype="float32", isa=isa), PackedPredictor(other, dtype="float32", isa=isa)


def test_an_exact_copy_ranks_exactly(model: WorldModel) -> None:
    exact, copied = packings(model, change=0.0)
    assert measure(exact, copied, torch.zeros(3), torch.ones(3), threads=1) == Ranking(
        overlap=1.0, regret=0.0
    )


def test_worse_weights_rank_worse_and_are_refused(model: WorldModel) -> None:
    found = [measure(*packings(model, c), torch.zeros(3), torch.ones(3), threads=1) for c in (0.01, 0.1, 1.0)]
    assert found[0].overlap > found[1].overlap > found[2].overlap
    assert found[0].regret < found[1].regret < found[2].regret
    assert not found[2].passed
    assert found[2].overlap < MIN_OVERLAP
    assert found[2].regret > MAX_REGRET


def test_bfloat16_passes_and_auto_says_so(model: WorldModel) -> None:
    spec = import_model(model).spec
    exact, narrow = (
        PackedPredictor(spec, dtype=dtype, isa=backend.isa()) for dtype in ("float32", "bfloat16")
    )
    found = measure(exact, narrow, torch.zeros(3), torch.ones(3), threads=1)
    assert found.passed
    info = fastwm.compile(model, threads=1).info()
    if info["isa"] == "avx512_bf16":
        assert info["dtype"] == "bfloat16"
        assert info["ranking_gate"] == {"overlap": found.overlap, "regret": found.regret, "passed": True}
    else:
        assert info["dtype"] == "float32"
        assert info["ranking_gate"] is None
