"""Training steps: LeWM's published predictor with SIGReg, and the whole small preset: forward, backward and AdamW."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from bench.bench_sigreg import formula
from bench.options import Options
from bench.timing import in_turns
from fastwm.models import WorldModel, WorldModelConfig
from fastwm.objectives import SIGReg
from fastwm.training.accelerate import accelerate

FRAMES, A, WEIGHT = 4, 10, 0.1  # T = 3 predictions


class Step:
    """One way of a training step on one batch. It trains its own copy of the model."""

    def __init__(
        self, model: WorldModel, given: Tensor, actions: Tensor, regulariser: nn.Module, *, bfloat16: bool
    ) -> None:
        self.model = copy.deepcopy(model).train()
        self.given, self.actions, self.bfloat16 = given, actions, bfloat16
        self.regulariser = regulariser
        self.predict: Callable[[Tensor, Tensor], Tensor] = self.model.predict
        self.encode: Callable[[Tensor], Tensor] = self.model.encode
        parts: list[nn.Module] = [self.model]
        if given.dtype != torch.uint8:
            parts = [self.model.predictor, self.model.pred_proj, self.model.action_encoder]
        self.optimizer = torch.optim.AdamW([p for m in parts for p in m.parameters()], lr=1e-4, fused=True)

    def compiled(self) -> Step:
        self.predict, self.encode = torch.compile(self.predict), torch.compile(self.encode)
        self.regulariser = torch.compile(self.regulariser)  # type: ignore[assignment]
        return self

    def accelerated(self) -> Step:
        accelerate(self.model)
        return self

    def __call__(self) -> Tensor:
        """The loss before the step: latents [B, T, E] or pixels are given."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            pixels = self.given.dtype == torch.uint8
            latents = self.encode(self.given) if pixels else self.given.clone().requires_grad_()
            predicted = self.predict(latents[:, :-1], self.actions)
        loss = (predicted - latents[:, 1:]).square().mean() + WEIGHT * self.regulariser(
            latents.transpose(0, 1)
        )
        loss.backward()
        self.optimizer.step()
        return loss.detach()


class PlainSIGReg(nn.Module):
    """The formula as it is written down (bench/bench_sigreg.py)."""

    def forward(self, latents: Tensor) -> Tensor:
        return formula(latents)


def steps(model: WorldModel, given: Tensor, actions: Tensor, options: Options) -> dict[str, Step]:
    made = {}
    for dtype in ("float32", "bfloat16"):
        new = functools.partial(Step, model, given, actions, bfloat16=dtype == "bfloat16")
        made[f"torch eager {dtype}"] = new(PlainSIGReg())
        if options.compiled:
            made[f"torch.compile {dtype}"] = new(PlainSIGReg()).compiled()
        made[f"fastwm {dtype}"] = new(SIGReg()).accelerated()
    return made


def curve(step: Step) -> list[float]:
    """Losses of the first steps, directions drawn alike."""
    losses = []
    for seed in range(4):
        torch.manual_seed(seed)
        losses.append(step().item())
    return losses


def problems() -> Iterator[tuple[str, int, WorldModel, Tensor, Tensor]]:
    random = torch.Generator().manual_seed(0)
    published = WorldModelConfig.preset(
        "paper", action_dim=A, dropout=0.0
    )  # PyTorch's attention draws dropout alone
    published = WorldModelConfig.from_dict(
        published.to_dict() | {"encoder": "patch_conv", "image_size": 64, "patch_size": 8}  # not run
    )
    for name, config in (("predictor", published), ("small", WorldModelConfig.preset("small", action_dim=A))):
        torch.manual_seed(0)
        model = WorldModel(config)
        for B in (64, 128):
            actions = torch.randn(B, FRAMES - 1, A, generator=random)
            if name == "predictor":
                given = torch.randn(B, FRAMES, config.embed_dim, generator=random)
            else:
                given = torch.randint(0, 256, (B, FRAMES, 64, 64, 3), dtype=torch.uint8, generator=random)
            yield name, B, model, given, actions


def results(options: Options) -> Iterator[dict]:
    """One line per problem, way, dtype and threads; the losses of four steps agree with eager float32's: 1e-3, or 0.02 in
    bfloat16 (torch.compile's random directions are its own)."""
    for threads in options.threads:
        torch.set_num_threads(threads)
        for name, B, model, given, actions in problems():
            if options.models and name not in options.models:
                continue
            ways = steps(model, given, actions, options)
            expected, timed = torch.tensor(curve(ways["torch eager float32"])), {}
            for way, step in ways.items():
                found = expected if way == "torch eager float32" else torch.tensor(curve(step))
                exact = way.endswith("float32") and "compile" not in way
                if torch.allclose(found, expected, rtol=1e-3 if exact else 0.02):
                    timed[way] = step
                else:
                    yield {"model": name, "B": B, "threads": threads, "way": way, "passed": False}
            for way, times in in_turns(timed, repeats=options.repeats).items():
                line = {"model": name, "B": B, "threads": threads, "way": way}
                yield line | {"milliseconds": times, "passed": True}
