"""LatentWAM: five modes of one set of weights, and nothing that leaks from one into another."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

import fastwm
from fastwm.models import WorldModel
from fastwm.models.wam import LatentWAM, LatentWAMConfig
from fastwm.models.wam.heads import mixture_log_prob, mixture_sample
from fastwm.models.wam.trunk import join, rotate
from fastwm.objectives.flow_matching import flow_target

SMALL = LatentWAMConfig(
    action_dim=3,
    action_hidden=7,
    image_size=16,
    encoder_width=4,
    projector_dim=9,
    embed_dim=12,
    width=10,
    depth=2,
    heads=3,
    head_dim=6,
    mlp_dim=11,
    chunk=4,
    window=3,
    history=2,
    reach=5,
    action_head="flow",
)


def random_wam(**changes) -> LatentWAM:
    """A model whose every tensor is random: nothing hides behind a gate of zero."""
    model = LatentWAM(dataclasses.replace(SMALL, **changes)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(0.4 * torch.randn(tensor.shape, generator=generator))
            if name.endswith("running_var") or name == "action_std":
                tensor.abs_().add_(0.5)
    return model


def one_pass(
    model: LatentWAM,
    frames: Tensor,
    goal: Tensor,
    actions: Tensor,
    noisy: Tensor,
    time: Tensor,
    inverse: Tensor,
):
    """What training computes in one pass: video and forward predictions, and the action slots."""
    now = model.config.history - 1
    video, memory = model.watch(frames)
    forward = model.predict(frames[:, :-1], actions)
    joined = join(memory, model.goal_memory(goal, len(goal), now))
    mask = model.action_mask(len(goal), frames.shape[1], noisy.shape[1], now + 1, inverse)
    return video, forward, model.action_tokens(joined, now, noisy.shape[1], noisy, time, mask)


def inputs(seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    shapes = {"frames": (2, 5, 12), "goal": (2, 12), "actions": (2, 4, 3), "noisy": (2, 4, 3), "time": (2,)}
    return {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}


POLICY = torch.zeros(2, dtype=torch.bool)


@pytest.mark.parametrize(
    ("output", "blind"),
    [
        ("policy", {"actions"}),
        ("forward", {"goal", "noisy", "time"}),
        ("video", {"goal", "noisy", "time", "actions"}),
    ],
)
def test_no_gradient_leaks(output: str, blind: set[str]) -> None:
    model, given = random_wam(), {name: x.requires_grad_() for name, x in inputs().items()}
    video, forward, policy = one_pass(model, **given, inverse=POLICY)
    {"video": video, "forward": forward, "policy": policy}[output].sin().sum().backward()
    for name, x in given.items():
        reached = x.grad is not None and bool(x.grad.abs().sum() > 0)
        assert reached == (name not in blind), name


@torch.no_grad()
@pytest.mark.parametrize(
    ("changed", "same"), [("actions", (0, 2)), ("goal", (0, 1)), ("noisy", (0, 1)), ("time", (0, 1))]
)
def test_changed_inputs_change_only_what_may_know_them(changed: str, same: tuple[int, ...]) -> None:
    model, given = random_wam(), inputs()
    other = given | {changed: inputs(1)[changed]}
    before, after = one_pass(model, **given, inverse=POLICY), one_pass(model, **other, inverse=POLICY)
    for place in range(3):
        assert torch.equal(before[place], after[place]) == (place in same), place


@torch.no_grad()
def test_the_policy_sees_no_later_frame_and_the_inverse_mode_the_next() -> None:
    model, given = random_wam(), inputs()
    later = given["frames"].clone()
    later[:, 3] += 1.0  # now is frame 1: slot 0 leads to frame 2, slot 1 to frame 3
    for inverse in (POLICY, ~POLICY):
        before = one_pass(model, **given, inverse=inverse)[2]
        after = one_pass(model, **given | {"frames": later}, inverse=inverse)[2]
        changed = (before != after).flatten(2).any(2).any(0).tolist()
        assert changed == ([False] * 4 if inverse is POLICY else [False, True, True, True])


@torch.no_grad()
def test_causality_over_time() -> None:
    model, given = random_wam(), inputs()
    for name, outputs in (("frames", (0, 1)), ("actions", (1,)), ("noisy", (2,))):
        later = given[name].clone()
        later[:, 2] += 1.0
        before = one_pass(model, **given, inverse=POLICY)
        after = one_pass(model, **given | {name: later}, inverse=POLICY)
        for place in outputs:
            torch.testing.assert_close(before[place][:, :2], after[place][:, :2], rtol=0, atol=1e-6)
            assert (before[place][:, 2] != after[place][:, 2]).any()


@torch.no_grad()
def test_groups_with_memories_are_one_masked_sequence() -> None:
    """Oracle: LeWAM's layout, all tokens in one attention of float64 with a mask of who sees whom."""
    model, given = random_wam().double(), {name: x.double() for name, x in inputs().items()}
    frames, goal, noisy = given["frames"], given["goal"], given["noisy"]
    count, slots, width = 5, 4, model.config.width
    x = {
        True: torch.cat([model.state_input(frames), model.state_input(frames[:, :-1])], dim=1),
        False: torch.cat([model.goal_input(goal)[:, None], model.noisy_input(noisy) + model.slot], dim=1),
    }
    condition = {
        True: torch.cat(
            [
                model.no_action.expand(2, count, width),
                model.action_encoder(model.normalise(given["actions"])),
            ],
            dim=1,
        ),
        False: torch.cat(
            [model.goal_condition.expand(2, 1, width), model.time(given["time"]).expand(2, slots, width)],
            dim=1,
        ),
    }
    times = torch.cat([torch.arange(5), torch.arange(4), torch.tensor([1]), 1 + torch.arange(4)])
    sees = torch.zeros(14, 14, dtype=torch.bool)
    for i in range(14):
        for j in range(14):
            if i < 5:  # a frame sees `history` frames
                sees[i, j] = j <= i < j + 2
            elif i < 9:  # a slot sees `window` slots
                sees[i, j] = 5 <= j <= i < j + 3
            elif i == 9:
                sees[i, j] = j == 9
            else:  # frames 0 and 1, goal, slots before
                sees[i, j] = j < 2 or 9 <= j <= i
    for layer in range(model.config.depth):
        parts, projected = {}, []
        for state, stream in ((True, model.state_stream), (False, model.action_stream)):
            block = stream.blocks[layer]
            parts[state] = block.modulation(condition[state]).chunk(6, dim=-1)
            shift, scale = parts[state][:2]
            rows = block.attention.norm(block.norm1(x[state]) * (1 + scale) + shift)
            projected.append(block.attention.qkv(rows).unflatten(-1, (3, 3, 6)))
        query, key, value = torch.cat(projected, dim=1).permute(2, 0, 3, 1, 4)
        query, key = rotate(query, times), rotate(key, times)
        weights = (query @ key.transpose(2, 3) / 6**0.5).masked_fill(~sees, -torch.inf).softmax(-1)
        seen = (weights @ value).transpose(1, 2).flatten(2).split([9, 5], dim=1)
        for part, (state, stream) in zip(
            seen, ((True, model.state_stream), (False, model.action_stream)), strict=True
        ):
            block, (_, _, gate, shift, scale, last) = stream.blocks[layer], parts[state]
            x[state] = x[state] + gate * block.attention.out(part)
            x[state] = x[state] + last * block.mlp(block.norm2(x[state]) * (1 + scale) + shift)
    state, action = model.state_stream.norm(x[True]), model.action_stream.norm(x[False])
    video, forward, tokens = one_pass(model, **given, inverse=POLICY)
    torch.testing.assert_close(video, model.latent_head(frames, state[:, :5]))
    torch.testing.assert_close(forward, model.latent_head(frames[:, :-1], state[:, 5:]))
    torch.testing.assert_close(tokens, action[:, 1:])


@torch.no_grad()
@pytest.mark.parametrize("window", [1, 2, 3])
def test_rollout_reuses_keys_and_values_exactly(window: int) -> None:
    """A window slides over the memory of a rollout; teacher forcing of the same latents computes all of it again."""
    model = random_wam(window=window).double()
    random = torch.Generator().manual_seed(2)
    context = torch.randn(2, window, 12, generator=random, dtype=torch.float64)
    past = torch.randn(2, window - 1, 3, generator=random, dtype=torch.float64)
    actions = torch.randn(2, 3, 5, 3, generator=random, dtype=torch.float64)
    latents = model.rollout(context, actions, past)
    for b in range(2):
        for s in range(3):
            frames = torch.cat([context[b], latents[b, s, :-1]])[None]
            again = model.predict(frames, torch.cat([past[b], actions[b, s]])[None])
            torch.testing.assert_close(again[0, window - 1 :], latents[b, s])


@torch.no_grad()
def test_rotations_know_differences_of_times_alone() -> None:
    query, key = torch.randn(2, 1, 1, 4, 8, dtype=torch.float64).unbind(0)
    times = torch.tensor([0, 3, 4, 9])
    near, far = (rotate(query, times + d) @ rotate(key, times + d).transpose(2, 3) for d in (0, 117))
    torch.testing.assert_close(near, far, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(near, query @ key.transpose(2, 3))


@torch.no_grad()
@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_the_forward_mode_compiles(backend: str) -> None:
    model = random_wam(window=1)
    engine = fastwm.compile(model, backend=backend, dtype="float32", threads=1)  # type: ignore[arg-type]
    pixels = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    torch.testing.assert_close(engine.encode(pixels)[:, 0], model.encode(pixels))
    context, actions = torch.randn(2, 1, 12), torch.randn(2, 5, 6, 3)
    torch.testing.assert_close(
        engine.rollout(context, actions, keep="all"), model.rollout(context, actions), rtol=1e-4, atol=1e-4
    )


def test_a_wider_window_does_not_compile() -> None:
    with pytest.raises(ValueError, match=r"window is 3, expected 1"):
        fastwm.compile(random_wam())


def test_the_mixture_is_a_density() -> None:
    """Against torch.distributions, which has neither our chunks nor our units."""
    model = random_wam(action_head="mixture").double()
    random = torch.Generator().manual_seed(3)
    context, goal, actions = (
        torch.randn(s, generator=random, dtype=torch.float64) for s in ((2, 2, 12), (2, 12), (2, 4, 3))
    )
    with torch.no_grad():
        memory = join(model.watch(context)[1], model.goal_memory(goal, 2, 1))
        weights, mean, spread = model.mixture(model.action_tokens(memory, 1, 4, None, None, None))
        normal = torch.distributions.Normal(
            (mean * model.action_std + model.action_mean).flatten(2),
            (spread.exp() * model.action_std).flatten(2),
        )
        expected = torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(logits=weights), torch.distributions.Independent(normal, 1)
        ).log_prob(actions.flatten(1))
        torch.testing.assert_close(model.log_prob(context, goal, actions), expected, rtol=1e-5, atol=1e-5)


def test_mixture_samples_have_its_moments() -> None:
    random = torch.Generator().manual_seed(4)
    weights = torch.tensor([[0.25, 0.75]]).log()
    mean = torch.tensor([-1.0, 2.0]).view(1, 2, 1, 1)
    found = mixture_sample((weights, mean, torch.full((1, 2, 1, 1), -2.0)), 20000, random)
    assert found.shape == (1, 20000, 1, 1)
    assert found.mean().item() == pytest.approx(1.25, abs=0.05)
    assert (found < 0.5).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert mixture_log_prob((weights, mean, torch.zeros(1, 2, 1, 1)), torch.zeros(1, 1, 1)).shape == (1,)


@torch.no_grad()
@pytest.mark.parametrize("head", ["flow", "mixture"])
def test_policies_in_environment_units(head: str) -> None:
    """Other statistics of actions: the same numbers, moved and scaled."""
    model = random_wam(action_head=head)
    context, goal = torch.randn(2, 2, 12), torch.randn(2, 12)
    first = model.policy(context, goal, 3, torch.Generator().manual_seed(0))
    normal = (first - model.action_mean) / model.action_std
    model.set_action_statistics(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.1, 10.0, 1.0]))
    second = model.policy(context, goal, 3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(second, normal * model.action_std + model.action_mean, rtol=1e-4, atol=1e-4)
    assert not torch.equal(first[:, 0], first[:, 1])
    assert not torch.equal(second, model.policy(context, None, 3, torch.Generator().manual_seed(0)))


@torch.no_grad()
def test_a_shorter_horizon_is_the_first_part() -> None:
    model = random_wam()
    context = torch.randn(1, 2, 12)
    whole, part = (
        model.policy(context, None, 1, torch.Generator().manual_seed(0), horizon=T) for T in (4, 2)
    )
    torch.testing.assert_close(whole[:, :, :2], part)
    actions, latents = model.joint(context, 2)
    torch.testing.assert_close(latents, model.rollout(context[:, -1:], actions))


def test_flow_target() -> None:
    data, noise, time = torch.ones(2, 3, 1), torch.zeros(2, 3, 1), torch.tensor([0.0, 0.25])
    at, velocity = flow_target(data, noise, time)
    assert at[:, 0, 0].tolist() == [0.0, 0.25]
    assert velocity.eq(1).all()
    with pytest.raises(ValueError, match="time have shapes"):
        flow_target(data, noise, torch.zeros(3))


def test_save_and_load(tmp_path) -> None:
    model = random_wam()
    model.save(tmp_path, metadata={"world": "x"})
    again = LatentWAM.load(tmp_path)
    assert again.config == model.config
    assert again.metadata == {"world": "x"}
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert isinstance(fastwm.load(tmp_path), LatentWAM)
    with pytest.raises(ValueError, match="does not describe a fastwm world model"):
        WorldModel.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="is damaged"):
        LatentWAM.load(tmp_path)


def test_refusals() -> None:
    model = random_wam()
    for config, words in (
        ({"head_dim": 5}, "head_dim is 5"),
        ({"action_head": "x"}, "action_head is 'x'"),
        ({"image_size": 20}, "image_size is 20"),
        ({"chunk": 0}, "chunk is 0"),
        ({"window": True}, "window is True"),
    ):
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(SMALL, **config)
    with pytest.raises(ValueError, match=r"unknown configuration fields \['x'\]"):
        LatentWAMConfig.from_dict({"action_dim": 2, "x": 1})
    with pytest.raises(ValueError, match="horizon is 5; expected 1 to 4"):
        model.policy(torch.randn(1, 1, 12), None, horizon=5)
    with pytest.raises(ValueError, match=r"goal has shape \[1, 11\]; expected \[1, 12\]"):
        model.policy(torch.randn(1, 1, 12), torch.randn(1, 11))
    with pytest.raises(ValueError, match=r"past_actions is None; expected \[1, 1, 3\]"):
        model.rollout(torch.randn(1, 2, 12), torch.randn(1, 1, 1, 3))
    with pytest.raises(ValueError, match="expected 'mixture'"):
        model.log_prob(torch.randn(1, 1, 12), None, torch.randn(1, 4, 3))


def test_what_does_not_fit_is_refused_by_name() -> None:
    model = random_wam(action_head="mixture", reward_head=True, termination_head=True)
    context, goal, actions = torch.randn(2, 1, 12), torch.randn(2, 12), torch.randn(2, 4, 3)
    nan = torch.full_like(context, torch.nan)
    for call, error, words in (
        (lambda: model.log_prob(context, goal, actions[:1]), ValueError, r"actions has shape \[1, 4, 3\]; exp.* \[2, T, 3\]"),
        (lambda: model.log_prob(context, goal, actions / 0), ValueError, "actions holds numbers that are not finite"),
        (lambda: model.log_prob(context, goal, actions.double()), TypeError, "actions has dtype torch.float64"),
        (lambda: model.distance(context[:, 0], goal[:1]), ValueError, r"goal has shape \[1, 12\]; expected \[2, 12\]"),
        (lambda: model.distance(goal.double(), goal), TypeError, "latents has dtype torch.float64; expected torch.float32"),
        (lambda: model.reward(goal, actions[:1, 0]), ValueError, r"actions has shape \[1, 3\]; expected \[2, 3\] to match"),
        (lambda: model.survival(goal[:, :9], actions[:, 0]), ValueError, r"latents has shape \[2, 9\]; expected \[..., 12\]"),
        (lambda: model.policy(nan, goal), ValueError, "context holds numbers that are not finite"),
        (lambda: model.policy(context, nan[:, 0]), ValueError, "goal holds numbers that are not finite"),
        (lambda: model.policy(context.half(), goal), TypeError, "context has dtype torch.float16"),
        (lambda: model.density(context, goal.tolist()), TypeError, "goal is list; expected a torch.Tensor"),
        (lambda: model.inverse(nan.expand(2, 3, 12)), ValueError, "latents holds numbers that are not finite"),
        (lambda: model.rollout(context, actions.int()[:, None]), TypeError, "actions has dtype torch.int32"),
        (lambda: model.predict(context, actions[:, :1].double()), TypeError, "actions has dtype torch.float64"),
        (lambda: model.rollout(context, actions[:, None, :0]), ValueError, r"actions .*expected \[2, S >= 1, T >= 1, 3\]"),
        (lambda: model.rollout(context, actions[:, :0, None]), ValueError, "actions has shape"),
        (lambda: model.policy(context.to("meta"), goal), ValueError, "context is on meta; expected cpu, where the model is"),
        (lambda: model.encode(None), TypeError, "pixels is NoneType; expected a torch.Tensor"),
        (lambda: model.encode(torch.zeros(1, 16, 16, 3, dtype=torch.uint8, device="meta")), ValueError, "pixels is on meta"),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            call()
