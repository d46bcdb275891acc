"""The ranking gate tells a dtype that finds elites as good from one that does not, on the model's own contexts."""

from __future__ import annotations

import copy
import dataclasses
import gc
import math
from collections.abc import Callable

import pytest
import quantized
import specs
import torch
from torch import Tensor

import fastwm
from fastwm.engine import backend, pack, ranking
from fastwm.engine.compile import NARROW
from fastwm.engine.importers import import_model
from fastwm.engine.pack import DTYPES, PackedPredictor
from fastwm.engine.ranking import MAX_REGRET, MIN_OVERLAP, Problems, Ranking, Rollout, pose_problems
from fastwm.engine.spec import Dense, PredictorSpec
from fastwm.models import WorldModel, WorldModelConfig
from fastwm.models.calibration import Calibration
from fastwm.ops.rollout import rollout

ZERO, ONE = torch.zeros(3), torch.ones(3)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> WorldModel:
    """A small world model whose actions matter (a new AdaLN model ignores them)."""
    torch.manual_seed(0)
    sizes = {"embed_dim": 48, "width": 64, "mlp_dim": 96, "projector_dim": 80}
    model = WorldModel(WorldModelConfig.preset("small", action_dim=3, **sizes)).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return model


@pytest.fixture(scope="module")
def spec(model: WorldModel) -> PredictorSpec:
    return import_model(model).spec


def contexts(spec: PredictorSpec, *, N: int = 7, K: int = 2, seed: int = 1) -> Calibration:
    latents, _, past_actions = specs.inputs(spec, seed, B=N, S=1, T=1, K=K)
    return Calibration(latents, past_actions)


def packed(spec: PredictorSpec, dtype: str) -> Rollout:
    """The kernel; for int8, PyTorch's emulation of it where the kernel is not built."""
    if dtype not in DTYPES:
        return lambda context, actions, past: quantized.rollout(spec, context, actions, past)[:, :, -1]
    predictor = PackedPredictor(spec, dtype=dtype, isa=backend.isa())
    return lambda context, actions, past: rollout(predictor, context, actions, past)


def judge(spec: PredictorSpec, narrow: Rollout, calibration: Calibration | None = None) -> Ranking:
    mean, std = torch.zeros(spec.action_dim), torch.ones(spec.action_dim)
    return pose_problems(packed(spec, "float32"), calibration or contexts(spec), mean, std).rank(narrow)


def worse(spec: PredictorSpec, change: float) -> PredictorSpec:
    """The predictor with its head's weights off by a relative `change`."""
    other, random = copy.deepcopy(spec), torch.Generator().manual_seed(0)
    weight = other.head[-1].weight
    weight *= 1 + change * torch.randn(weight.shape, generator=random)
    return other


# ---- what is measured


def test_an_exact_copy_ranks_exactly(spec: PredictorSpec) -> None:
    assert judge(spec, packed(copy.deepcopy(spec), "float32")) == Ranking(overlap=1.0, regret=0.0)


def test_worse_weights_rank_worse_and_are_refused(spec: PredictorSpec) -> None:
    found = [judge(spec, packed(worse(spec, change), "float32")) for change in (0.01, 0.1, 1.0)]
    assert found[0].overlap > found[1].overlap > found[2].overlap
    assert found[0].regret < found[1].regret < found[2].regret
    assert found[0].passed
    assert not found[2].passed
    assert found[2].overlap < MIN_OVERLAP
    assert found[2].regret > MAX_REGRET


def test_choosing_blindly_loses_all_that_elites_gain(spec: PredictorSpec) -> None:
    def blind(context: Tensor, actions: Tensor, past: Tensor) -> Tensor:
        return torch.randn(*actions.shape[:2], spec.embed_dim, generator=random)

    random = torch.Generator().manual_seed(0)
    found = judge(spec, blind)
    assert found.regret == pytest.approx(1, abs=0.25)
    assert found.overlap == pytest.approx(ranking.ELITES / ranking.CANDIDATES, abs=0.05)


def test_swapping_equals_is_no_regret() -> None:
    """Twelve candidates share the least cost: another half of them is no overlap, but as good."""
    cost = torch.linspace(4, 5, 64)[None]
    cost[:, :12] = torch.linspace(1, 1.0001, 12)
    opposite = cost.clone()
    opposite[:, :12] = cost[:, :12].flip(1)
    problems = Problems(
        torch.zeros(1, 1, 1), torch.zeros(1, 0, 1), torch.zeros(1, 1), [(torch.zeros(1, 64, 1, 1), cost)]
    )
    found = problems.rank(lambda context, actions, past: opposite.sqrt()[..., None])
    assert found.overlap == 0
    assert found.regret == pytest.approx(0, abs=1e-4)


def test_what_float32_cannot_tell_apart_is_no_proof(spec: PredictorSpec) -> None:
    """Actions change the latent by less than float32 keeps of it: every order is as good, and none is judged."""

    def stuck(context: Tensor, actions: Tensor, past: Tensor) -> Tensor:
        return 1e4 + 1e-3 * actions.mean((2, 3))[..., None].expand(-1, -1, spec.embed_dim)

    mean, std = torch.zeros(spec.action_dim), torch.ones(spec.action_dim)
    found = pose_problems(stuck, contexts(spec), mean, std).rank(stuck)
    assert found == Ranking(0.0, 1.0, 0.0)
    assert not found.passed


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(spec: PredictorSpec, value: float) -> None:
    assert not judge(spec, lambda context, actions, past: torch.full((*actions.shape[:2], 48), value)).passed


def test_problems_are_those_of_a_search(spec: PredictorSpec) -> None:
    """Goals are seen or reached; the second iteration is drawn around the first one's elites, so it costs less."""
    calibration = contexts(spec, N=50, K=3)
    problems = pose_problems(packed(spec, "float32"), calibration, ZERO, ONE)
    latents = calibration.latents.flatten(0, 1)
    seen = [(latents == goal).all(1).any().item() for goal in problems.goal]
    assert seen == [True, False] * (ranking.PROBLEMS // 2)
    assert not (problems.goal == problems.context[:, -1]).all(1).any()
    for context, past in zip(problems.context, problems.past_actions, strict=True):
        place = (calibration.latents == context).all(2).all(1).nonzero().item()
        assert torch.equal(past, calibration.past_actions[place])
    first, second = (cost.mean(1) for _, cost in problems.searches)
    assert (second < first).all()
    for actions, cost in problems.searches:
        again = packed(spec, "float32")(problems.context, actions, problems.past_actions)
        torch.testing.assert_close((again - problems.goal[:, None]).square().sum(-1), cost)


def test_problems_are_always_the_same(spec: PredictorSpec) -> None:
    one, other = (pose_problems(packed(spec, "float32"), contexts(spec), ZERO, ONE) for _ in range(2))
    assert torch.equal(one.goal, other.goal)
    assert all(map(torch.equal, one.searches[-1], other.searches[-1]))


# ---- which dtype is taken


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_narrow_dtypes_pass_on_an_ordinary_model(spec: PredictorSpec, dtype: str) -> None:
    found = judge(spec, packed(spec, dtype))
    assert found.passed, found
    assert found.overlap < 1, "this dtype is not float32"


def outlier_spec() -> PredictorSpec:
    """A predictor, residual and with a plain head, whose latents hold one number that is huge and does not change: what
    tells candidates apart vanishes below the steps of an 8-bit row, while bfloat16 has an exponent for each number."""
    random = torch.Generator().manual_seed(3)
    E, A, C = 24, 3, 16
    hidden = torch.randn(40, E + C, generator=random) / (E + C) ** 0.5
    hidden[:, 0] = 0.0  # what is huge is not read
    last = torch.randn(E, 40, generator=random) / 40**0.5
    last[0] = 0.0
    return PredictorSpec(
        "mlp",
        embed_dim=E,
        action_dim=A,
        residual=True,
        action=[Dense(torch.randn(C, A, generator=random), torch.zeros(C))],
        head=[Dense(hidden, torch.zeros(40), "silu"), Dense(last, torch.zeros(E))],
        window=3,
    ).validate()


def outlier_contexts(spec: PredictorSpec, size: float = 2000.0) -> Tensor:
    latents = contexts(spec, N=12, K=1).latents
    latents[:, :, 0] = size
    return latents


def test_int8_is_refused_where_a_few_numbers_swallow_the_rest() -> None:
    spec = outlier_spec()
    calibration = Calibration(outlier_contexts(spec), torch.empty(12, 0, 3))
    assert not judge(spec, packed(spec, "int8"), calibration).passed
    assert judge(spec, packed(spec, "bfloat16"), calibration).passed
    assert judge(spec, packed(spec, "int8")).passed, "on ordinary latents it is good enough"


def auto(model, calibration: Tensor | None = None) -> dict:  # type: ignore[no-untyped-def]
    return fastwm.compile(model, threads=1, calibration=calibration).info()


needs_narrow = pytest.mark.skipif(backend.isa() not in NARROW, reason="no dtype is faster than float32 here")


@needs_narrow
def test_auto_takes_the_fastest_that_passes_and_says_so() -> None:
    spec = outlier_spec()
    info = auto(specs.imported(spec))
    assert info["dtype"] == NARROW[info["isa"]][0]
    assert info["ranking_gate"]["calibration"] == "standard normal"
    assert list(info["ranking_gate"]["dtypes"]) == [info["dtype"]]
    assert info["why"]["dtype"] == f"{info['dtype']} passed the ranking gate"

    info = auto(specs.imported(spec), outlier_contexts(spec))
    assert info["dtype"] == "bfloat16"
    assert info["ranking_gate"]["calibration"] == "argument"
    found = info["ranking_gate"]["dtypes"]
    assert found["bfloat16"]["passed"]
    if "int8" in DTYPES:
        assert info["why"]["dtype"] == "int8 failed the ranking gate, bfloat16 passed the ranking gate"
        assert not found["int8"]["passed"]
        assert found["int8"]["regret"] > found["bfloat16"]["regret"]


@needs_narrow
def test_auto_is_float32_where_nothing_else_passes(
    monkeypatch: pytest.MonkeyPatch, spec: PredictorSpec
) -> None:
    monkeypatch.setattr(ranking, "MAX_REGRET", -1.0)
    info = auto(specs.imported(spec))
    assert info["dtype"] == "float32"
    assert not any(figures["passed"] for figures in info["ranking_gate"]["dtypes"].values())
    assert list(info["ranking_gate"]["dtypes"]) == list(NARROW[info["isa"]])


@needs_narrow
def test_refused_packings_are_given_back(monkeypatch: pytest.MonkeyPatch, spec: PredictorSpec) -> None:
    monkeypatch.setattr(ranking, "MAX_REGRET", -1.0)
    gc.collect()
    before = set(pack.handles)
    engine = fastwm.compile(specs.imported(spec), threads=1)
    kept = [packed for handle, packed in pack.handles.items() if handle not in before]
    assert [packed.dtype for packed in kept] == [engine.dtype]


@needs_narrow
def test_a_models_own_contexts_are_used(model: WorldModel, spec: PredictorSpec) -> None:
    assert auto(model)["ranking_gate"]["calibration"] == "standard normal"
    own = copy.deepcopy(model)
    own.calibration = contexts(spec, K=3)
    info = auto(own)
    assert info["ranking_gate"]["calibration"] == "model"
    expected = pose_problems(packed(spec, "float32"), own.calibration, ZERO, ONE).rank(
        packed(spec, info["dtype"])
    )
    assert info["ranking_gate"]["dtypes"][info["dtype"]] == {**dataclasses.asdict(expected), "passed": True}
    assert auto(own, own.calibration.latents)["ranking_gate"]["calibration"] == "argument"


def test_a_dtype_asked_for_is_not_judged(model: WorldModel) -> None:
    for dtype in DTYPES:
        info = fastwm.compile(model, dtype=dtype, threads=1).info()
        assert info["dtype"] == dtype
        assert info["ranking_gate"] is None


BAD_CALIBRATION: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "an array": (
        lambda: torch.zeros(2, 1, 48).numpy(),
        TypeError,
        "calibration is ndarray, expected float32 latents",
    ),
    "another dtype": (
        lambda: torch.zeros(2, 1, 48).double(),
        TypeError,
        "calibration is torch.float64, expected",
    ),
    "one context": (
        lambda: torch.zeros(1, 48),
        ValueError,
        r"calibration has shape \[1, 48\], expected float32 latents",
    ),
    "another width": (lambda: torch.zeros(2, 1, 47), ValueError, r"\[2, 1, 47\], expected .* \[N, K, 48\]"),
    "too many frames": (lambda: torch.zeros(2, 4, 48), ValueError, r"\[2, 4, 48\], expected .* 1 <= K <= 3"),
    "no frames": (lambda: torch.zeros(2, 0, 48), ValueError, r"\[2, 0, 48\], expected .* 1 <= K <= 3"),
    "no contexts": (lambda: torch.zeros(0, 1, 48), ValueError, r"\[0, 1, 48\], expected .* N >= 1"),
    "no numbers": (lambda: torch.zeros(2, 1, 48, device="meta"), ValueError, "is on the meta device"),
    "sparse": (
        lambda: torch.zeros(2, 1, 48).to_sparse(),
        ValueError,
        "is a torch.sparse_coo tensor, expected a dense",
    ),
    "not finite": (
        lambda: torch.full((2, 1, 48), math.nan),
        ValueError,
        "calibration holds numbers that are not finite",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), BAD_CALIBRATION.values(), ids=BAD_CALIBRATION.keys())
def test_a_calibration_that_does_not_fit_is_refused(
    model: WorldModel, make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fastwm.compile(model, calibration=make())


def test_a_calibration_is_for_auto_alone(model: WorldModel) -> None:
    with pytest.raises(ValueError, match="dtype is 'int8', but calibration is what 'auto' judges dtypes on"):
        fastwm.compile(model, dtype="int8", calibration=torch.zeros(2, 1, 48))
