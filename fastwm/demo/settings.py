"""What the demo does in each world: sizes at which it is known to work on two CPU cores in minutes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import fastwm
from fastwm.engine.backend import check_threads

if TYPE_CHECKING:
    from fastwm.engine.engine import Engine
    from fastwm.envs import World
    from fastwm.models import WorldModelConfig
    from fastwm.planning import Planner
    from fastwm.training import TrainConfig


@dataclasses.dataclass(frozen=True)
class Search:
    """The numbers of `Planner.recommended` that the command line changes.

    elites: None is a sixteenth of the samples, at least 6. min_std: in environment units. horizon: in action blocks.
    """

    samples: int = 128
    elites: int | None = None
    iterations: int = 2
    horizon: int = 16
    std: float = 1.5
    min_std: float = 0.1
    noise_exponent: float = 2.0

    @property
    def elite_count(self) -> int:
        """Candidates that refit the distribution."""
        return min(self.samples, max(6, self.samples // 16)) if self.elites is None else self.elites

    def planner(self, engine: Engine, world: World | None) -> Planner:
        """A planner within the world's action bounds; without a world, without bounds."""
        if world is not None:
            check_actions(engine.action_dim / engine.action_block, world)
        return fastwm.Planner.recommended(
            engine,
            low=None if world is None else world.action_low.tolist(),
            high=None if world is None else world.action_high.tolist(),
            **dataclasses.asdict(self) | {"elites": self.elite_count},
        )


def check_actions(taken: float, world: World) -> None:
    """Raise ValueError unless a model whose actions hold `taken` numbers acts in `world`."""
    if taken != world.action_dim:
        raise ValueError(
            f"the model takes actions of {taken:g} numbers; world {world.name!r} has actions of {world.action_dim}"
        )


@dataclasses.dataclass(frozen=True)
class DemoSettings:
    """One demo: data, model, training, search, evaluation. The result is a function of these, `threads` aside."""

    world: str
    episodes: int  # collected
    length: int  # frames of each
    model: str  # preset of WorldModelConfig
    steps: int  # of training
    validations: int  # during training
    evaluation_episodes: int = 100
    timed_plans: int = 25  # of each way, whose median is reported
    search: Search = Search()
    seed: int = 0
    threads: int | None = None  # None: every processor

    @classmethod
    def of(cls, world: str, **changes: Any) -> DemoSettings:
        """The known-good settings of `world`, with any field changed (None changes nothing)."""
        if world not in _KNOWN:
            raise ValueError(f"world: expected one of {', '.join(_KNOWN)}, got {world!r}")
        given = {name: value for name, value in changes.items() if value is not None}
        return dataclasses.replace(_KNOWN[world], **given)

    def __post_init__(self) -> None:
        least = {"episodes": 2, "length": 2, "steps": 1, "validations": 1, "evaluation_episodes": 1}
        least |= {"timed_plans": 1, "seed": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < bound:
                raise ValueError(f"{name} is {value!r}; expected an integer of at least {bound}")
        check_threads(self.threads)

    def recipe(self) -> dict[str, Any]:
        """The settings that episodes and model depend on: work made with the same ones can be used again."""
        evaluation = ("evaluation_episodes", "timed_plans", "search", "threads")
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in evaluation}

    def model_config(self, action_dim: int) -> WorldModelConfig:
        """The world model to train."""
        return fastwm.WorldModelConfig.preset(self.model, action_dim=action_dim)

    def train_config(self) -> TrainConfig:
        """How it is trained: checkpoints and validations evenly over the run, fine print as the preset has it."""
        from fastwm.training import TrainConfig

        every = -(-self.steps // self.validations)
        return TrainConfig.preset(
            "small",
            steps=self.steps,
            seed=self.seed,
            threads=self.threads,
            validate_every=every,
            checkpoint_every=every,
            log_every=max(1, self.steps // 300),
        )


_KNOWN = {
    "push": DemoSettings("push", episodes=2000, length=30, model="small", steps=3000, validations=12),
    "two-room": DemoSettings("two-room", episodes=2000, length=20, model="mlp", steps=500, validations=10),
}
