"""The rollout kernel: near the float64 truth for every shape, and the same bits however the work is cut.

Every instruction set of the machine, float32 and bfloat16. The oracle is the reference rollout in float64, which
tests/test_models.py and tests/peers tie to the models' own sliding windows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import pytest
import specs
import torch
from close import assert_close
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastwm.engine.backend import isas
from fastwm.engine.pack import DTYPES, PackedPredictor
from fastwm.engine.spec import ACTIVATIONS, PredictorSpec
from fastwm.ops.rollout import rollout

# What a few roundings in another order may cost, relative to the truth.
TINY = {"float32": 2**-21, "bfloat16": 2**-9, "int8": 2**-7}

every_dtype = pytest.mark.parametrize("dtype", DTYPES)
given_cases = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture
    ],  # `isa` and poisoned memory are the same for every example
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The oracle runs small matrices, which PyTorch's threads only slow down."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclasses.dataclass(repr=False)
class Case:
    sizes: dict  # what the spec was made of, for messages
    spec: PredictorSpec
    B: int
    S: int
    T: int
    K: int

    def __repr__(self) -> str:
        return f"Case({self.sizes}, B={self.B}, S={self.S}, T={self.T}, K={self.K})"

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        return specs.inputs(self.spec, 1, B=self.B, S=self.S, T=self.T, K=self.K)


WIDE, NARROW = [15, 16, 33, 64], [1, 2, 3, 5, 8]


def last_fits(layers: list[dict]) -> bool:
    """The last layer's width is the caller's, not its own."""
    return layers[-1]["activation"] != "simnorm" if layers else True


def dense_layers(minimum: int, maximum: int, widths: list[int]) -> st.SearchStrategy[list[dict]]:
    layer = st.fixed_dictionaries(
        {
            "out": st.sampled_from([*widths, 130, 200]),
            "activation": st.sampled_from(ACTIVATIONS),
            "norm": st.booleans(),
        }
    )
    fits = layer.filter(lambda made: made["activation"] != "simnorm" or made["out"] % 8 == 0)
    return st.lists(fits, min_size=minimum, max_size=maximum).filter(last_fits)


@st.composite
def cases(draw, candidates: list[int], widths: list[int]) -> Case:
    """Sizes on both sides of every vector, panel and block of the kernel."""
    seed, window = draw(st.integers(0, 2**16)), draw(st.integers(1, 6))
    common = {
        "A": draw(st.sampled_from([1, 2, 10, 17, 40])),
        "window": window,
        "residual": draw(st.booleans()),
        "action": draw(dense_layers(1, 3, widths)),
    }
    if draw(st.integers(0, 3)) == 0:
        make = specs.mlp
        sizes = {"E": draw(st.sampled_from(widths)), "head": draw(dense_layers(1, 4, widths)), **common}
    else:
        make = specs.transformer
        W = draw(st.sampled_from([None, *widths, 41]))
        sizes = {
            "E": draw(st.sampled_from(widths)),
            "W": W,
            "L": draw(st.integers(1, 3)),
            "H": draw(st.sampled_from([1, 2, 3, 5])),
            "D": draw(st.sampled_from([1, 4, 16, 17, 31, 64, 140])),
            "M": draw(st.sampled_from([1, 40, 128, 129, 300])),
            "head": draw(dense_layers(0 if W is None else 1, 3, widths)),
            **common,
        }
    return Case(
        {"make": make.__name__, "seed": seed, **sizes},
        make(seed, **sizes),
        B=draw(st.integers(1, 3)),
        S=draw(st.sampled_from(candidates)),
        T=draw(st.integers(1, 8)),
        K=draw(st.integers(1, window)),
    )


def run(packed: PackedPredictor, *arguments: Tensor, keep_all: bool = True, threads: int = 1) -> Tensor:
    """The kernel with NaN in every byte of its workspace (its output is poisoned by conftest.py)."""
    B, S, T, _ = arguments[1].shape
    packed.workspace(B, S, T, arguments[0].shape[1], threads).fill_(0xFF)
    return rollout(packed, *arguments, keep_all=keep_all, threads=threads)


# ---- near the truth ------------------------------------------------------------------------------------------------------


@every_dtype
@given_cases
@given(case=cases(candidates=[24, 37, 100], widths=WIDE))
def test_close_to_float64(isa: str, dtype: str, case: Case) -> None:
    """Root mean square errors: over a few numbers the largest error is luck."""
    inputs = case.inputs()
    truth = specs.truth(case.spec, *inputs)
    error = root_mean_square(run(PackedPredictor(case.spec, dtype=dtype, isa=isa), *inputs) - truth)
    allowed = root_mean_square(specs.torch_rollout(case.spec, dtype, *inputs) - truth)
    assert error <= 2 * allowed + TINY[dtype] * root_mean_square(truth)  # false for NaN


def root_mean_square(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


@given_cases
@given(case=cases(candidates=[1, 2, 3], widths=NARROW))
def test_narrow_layers(isa: str, case: Case) -> None:
    """A norm over a few nearly equal numbers magnifies every rounding, PyTorch's too: only gross errors are seen here."""
    inputs = case.inputs()
    truth = specs.truth(case.spec, *inputs)
    got = run(PackedPredictor(case.spec, dtype="float32", isa=isa), *inputs)
    torch.testing.assert_close(got.double(), truth, rtol=1e-3, atol=1e-3)


@every_dtype
@pytest.mark.parametrize("K", [1, 3])
def test_close_to_float64_at_the_published_size(isa: str, dtype: str, K: int) -> None:
    spec = published()
    inputs = specs.inputs(spec, 1, B=1, S=9, T=5, K=K)
    truth = specs.truth(spec, *inputs)
    got = run(PackedPredictor(spec, dtype=dtype, isa=isa), *inputs)
    assert_close(
        dtype,
        got,
        specs.torch_rollout(spec, dtype, *inputs),
        truth,
        tiny=TINY[dtype] * float(truth.abs().max()),
    )


def published() -> PredictorSpec:
    """LeWM's default predictor: 6 layers of 192, 16 heads of 64, MLP 2048."""
    return specs.transformer(
        0,
        E=192,
        A=10,
        L=6,
        H=16,
        D=64,
        M=2048,
        action=[{"out": 768, "activation": "silu"}, {}],
        head=[{"out": 2048, "activation": "gelu"}, {}],
    )


@every_dtype
def test_a_plain_chain_equals_pen_and_paper(isa: str, dtype: str) -> None:
    """z' = z + 2 z - a, for numbers that float32 and bfloat16 hold exactly."""
    spec = specs.mlp(0, E=1, A=1, action=[{}], head=[{}])
    spec.action[0].weight, spec.action[0].bias = torch.ones(1, 1), torch.zeros(1)
    spec.head[0].weight, spec.head[0].bias = torch.tensor([[2.0, -1.0]]), torch.zeros(1)
    got = run(
        PackedPredictor(spec, dtype=dtype, isa=isa), torch.ones(1, 1, 1), torch.tensor([[[[1.0], [2.0]]]])
    )
    assert got.flatten().tolist() == pytest.approx([2.0, 4.0], rel=0.02 if dtype == "int8" else 0)


# ---- the same bits -------------------------------------------------------------------------------------------------------


@every_dtype
@given_cases
@given(case=cases(candidates=[1, 2, 5, 13, 100], widths=[*NARROW, *WIDE]))
def test_same_bits_however_the_work_is_cut(isa: str, dtype: str, case: Case) -> None:
    packed = PackedPredictor(case.spec, dtype=dtype, isa=isa)
    context, actions, past = case.inputs()
    whole = run(packed, context, actions, past)
    for threads in (2, 3):
        assert torch.equal(run(packed, context, actions, past, threads=threads), whole), f"{threads} threads"
    assert torch.equal(run(packed, context, actions, past, keep_all=False), whole[:, :, -1]), "keep last"

    order = torch.randperm(case.S, generator=torch.Generator().manual_seed(0))
    assert torch.equal(run(packed, context, actions[:, order], past, threads=2), whole[:, order]), (
        "order of candidates"
    )
    for b in range(case.B):
        alone = run(packed, context[b : b + 1], actions[b : b + 1], past[b : b + 1])
        assert torch.equal(alone[0], whole[b]), "one environment"
        s = case.S // 2
        single = run(packed, context[b : b + 1], actions[b : b + 1, s : s + 1], past[b : b + 1])
        assert torch.equal(single[0, 0], whole[b, s]), "one candidate"
    if case.T > 1:
        shorter = run(packed, context, actions[:, :, :-1], past)
        assert torch.equal(shorter, whole[:, :, :-1]), "shorter horizon"


@every_dtype
@pytest.mark.parametrize("K", [1, 3])
def test_same_bits_with_many_tiles(isa: str, dtype: str, K: int) -> None:
    spec = published()
    packed = PackedPredictor(spec, dtype=dtype, isa=isa)
    context, actions, past = specs.inputs(spec, 2, B=2, S=67, T=2, K=K)
    whole = run(packed, context, actions, past, threads=2)
    assert torch.equal(run(packed, context, actions, past), whole)
    for b, s in ((0, 0), (0, 66), (1, 33)):
        single = run(packed, context[b : b + 1], actions[b : b + 1, s : s + 1], past[b : b + 1])
        assert torch.equal(single[0, 0], whole[b, s])


def test_the_instruction_sets_agree() -> None:
    """They round differently, but no more than PyTorch does."""
    spec = specs.transformer(3, E=40, W=33)
    inputs = specs.inputs(spec, 0, B=2, S=20, T=5, K=2)
    results = [run(PackedPredictor(spec, dtype="float32", isa=isa), *inputs) for isa in isas()]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-4, atol=1e-5)


@every_dtype
def test_a_candidate_that_overflows_is_seen_and_alone(isa: str, dtype: str) -> None:
    spec = specs.mlp(0, E=20, A=3, action=[{}], head=[{}])
    packed = PackedPredictor(spec, dtype=dtype, isa=isa)
    context, actions, past = specs.inputs(spec, 0, B=1, S=30, T=3, K=1)
    calm = run(packed, context, actions, past)
    actions[0, 7, 1:] = 3e38
    wild = run(packed, context, actions, past)
    others = torch.arange(30) != 7
    assert torch.equal(wild[:, others], calm[:, others])
    assert torch.equal(wild[0, 7, 0], calm[0, 7, 0]), "a step sees no later action"
    assert not wild[0, 7, 1:].isfinite().all()


def test_a_variance_that_overflows_is_no_number(isa: str) -> None:
    """A LayerNorm of numbers whose squares overflow must not give finite latents that mean nothing."""
    spec = specs.transformer(0)
    packed = PackedPredictor(spec, dtype="float32", isa=isa)
    context, actions, past = specs.inputs(spec, 1, B=1, S=2, T=2, K=1)
    assert rollout(packed, context, actions, past).isfinite().all()
    assert not rollout(packed, context * 1e25, actions, past).isfinite().any()


def test_non_contiguous_arguments_are_read_by_value(isa: str) -> None:
    spec = specs.transformer(0)
    packed = PackedPredictor(spec, dtype="float32", isa=isa)
    context, actions, past = specs.inputs(spec, 0, B=3, S=4, T=5, K=3)
    strided = [
        tensor.flip(0).transpose(0, 1).contiguous().transpose(0, 1).flip(0)
        for tensor in (context, actions, past)
    ]
    doubled = actions.repeat(1, 1, 1, 2)[..., : spec.action_dim]
    assert torch.equal(run(packed, *strided), run(packed, context, actions, past))
    assert torch.equal(run(packed, context, doubled, past), run(packed, context, actions, past))


# ---- as a torch op -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_all", [True, False])
def test_candidates_that_there_is_no_time_for_are_nan(keep_all: bool) -> None:
    packed = PackedPredictor(specs.transformer(0), dtype="float32", isa=isas()[0])
    inputs = specs.inputs(packed.spec, 0, B=2, S=300, T=3, K=2)
    whole = rollout(packed, *inputs, keep_all=keep_all)
    assert rollout(packed, *inputs, keep_all=keep_all, seconds=0.0).isnan().all()
    assert rollout(packed, *inputs, keep_all=keep_all, seconds=-1.0).isnan().all()
    assert torch.equal(rollout(packed, *inputs, keep_all=keep_all, seconds=60.0), whole)
    part = rollout(packed, *inputs, keep_all=keep_all, seconds=1e-4)
    done = part.isfinite().flatten(2).all(2)
    assert torch.equal(part[done], whole[done])
    assert part[~done].isnan().all()
    with pytest.raises(ValueError, match="seconds is nan"):
        rollout(packed, *inputs, seconds=math.nan)


def test_opcheck() -> None:
    packed = PackedPredictor(specs.transformer(0), dtype="float32", isa=isas()[0])
    context, actions, past = specs.inputs(packed.spec, 0, B=2, S=4, T=3, K=2)
    torch.library.opcheck(
        torch.ops.fastwm.rollout.default, (packed.handle, context, actions, past, True, None, 1)
    )
    torch.library.opcheck(
        torch.ops.fastwm.rollout.default,
        (packed.handle, context[:, 1:], actions, past[:, 1:], False, 60.0, 2),
    )


def test_compiles_without_a_graph_break() -> None:
    packed = PackedPredictor(specs.transformer(0), dtype="float32", isa=isas()[0])
    context, actions, past = specs.inputs(packed.spec, 0, B=2, S=4, T=3, K=2)
    compiled = torch.compile(
        lambda *arguments: rollout(packed, *arguments, keep_all=True).square(),
        fullgraph=True,
        backend="aot_eager",
    )
    assert torch.equal(
        compiled(context, actions, past), rollout(packed, context, actions, past, keep_all=True).square()
    )


@pytest.mark.parametrize("spec", [specs.transformer(0, W=15), specs.mlp(0)], ids=["transformer", "mlp"])
def test_gradients_are_those_of_the_reference(spec: PredictorSpec) -> None:
    packed = PackedPredictor(spec, dtype="float32", isa=isas()[0])
    inputs = specs.inputs(spec, 0, B=2, S=3, T=4, K=2)
    weights = torch.randn(2, 3, 4, spec.embed_dim, generator=torch.Generator().manual_seed(5))

    def one_by_one(*leaves: Tensor) -> Tensor:
        """Each environment by itself, as ours: another batch would be rounded otherwise, at times to half the error."""
        environments = zip(*(leaf.split(1) for leaf in leaves), strict=True)
        return torch.cat([specs.torch_rollout(spec, "float32", *each) for each in environments])

    def gradients(function, dtype: torch.dtype) -> list[Tensor]:
        leaves = [tensor.detach().to(dtype, copy=True).requires_grad_() for tensor in inputs]
        (function(*leaves) * weights.to(dtype)).sum().backward()
        return [leaf.grad for leaf in leaves]

    ours = gradients(lambda *leaves: rollout(packed, *leaves, keep_all=True), torch.float32)
    same_dtype = gradients(one_by_one, torch.float32)
    true = gradients(lambda *leaves: specs.truth(spec, *leaves), torch.float64)
    for name, *found in zip(("context", "actions", "past_actions"), ours, same_dtype, true, strict=True):
        if name == "past_actions" and spec.dynamics == "mlp":
            continue  # not read: the gradient is zero or absent
        assert found[0].abs().max() > 0, name
        assert_close(name, *found)
