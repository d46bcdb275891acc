"""Hyper-parameters of a training run."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

_PRESETS: dict[str, dict[str, Any]] = {
    # Two CPU cores, minutes.
    "small": {},
    # LeWM as published (arXiv:2603.19312), one GPU, hours.
    "paper": {"batch_size": 128, "learning_rate": 5e-5, "projections": 1024, "regulariser_weight": 0.09},
}


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A run of exactly `steps` optimizer steps, whatever it trains: linear warm-up, then a cosine over the whole run.

    The schedule belongs to the number of steps: half of a long run is not a short run.
    """

    steps: int
    batch_size: int = 64
    seed: int = 0

    learning_rate: float = 1e-3
    final_learning_rate: float = 0.05  # as a fraction of learning_rate
    warmup_steps: int = 50
    weight_decay: float = 1e-3
    gradient_clip: float = 1.0

    accumulate: int = (
        1  # parts that a process's share of a batch is computed in: less memory, statistics of a part
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a GPU where there is one
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: int | None = None  # None: as torch is set

    validation_fraction: float = 0.05
    validate_every: int = 500
    checkpoint_every: int = 500
    log_every: int = 10
    tensorboard: bool = True

    def __post_init__(self) -> None:
        self._check_integers(
            steps=1,
            batch_size=2,
            seed=0,
            warmup_steps=0,
            accumulate=1,
            validate_every=1,
            checkpoint_every=1,
            log_every=1,
        )
        self._check_numbers("learning_rate", "final_learning_rate", "weight_decay", "gradient_clip")
        if self.threads is not None and (not isinstance(self.threads, int) or self.threads < 1):
            raise ValueError(f"threads is {self.threads!r}; expected None or an integer of at least 1")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction is {self.validation_fraction!r}; expected between 0 and 1")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device is {self.device!r}; expected 'auto', 'cpu' or 'cuda'")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision is {self.precision!r}; expected 'auto', 'float32' or 'bfloat16'")

    def learning_rate_at(self, step: int) -> float:
        """The rate of step 1..steps."""
        warmup = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        cosine = (1 + math.cos(math.pi * (step - 1) / self.steps)) / 2
        return (
            self.learning_rate * warmup * (self.final_learning_rate + (1 - self.final_learning_rate) * cosine)
        )

    def _check_integers(self, **least: int) -> None:
        for name, smallest in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
                raise ValueError(f"{name} is {value!r}; expected an integer of at least {smallest}")

    def _check_numbers(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
                raise ValueError(f"{name} is {value!r}; expected a finite number of at least 0")


@dataclasses.dataclass(frozen=True)
class TrainConfig(RunConfig):
    """A run that trains a world model, and its objective."""

    frames: int = 4  # per sequence; the predictor sees frames - 1 pairs
    regulariser: Literal["sigreg", "vicreg"] = "sigreg"
    regulariser_weight: float = 0.1
    projections: int = 128  # sigreg
    knots: int = 17  # sigreg
    rollout_steps: int = 1  # blocks ahead that predictions are also taught from predictions; 1: none are
    rollout_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_integers(frames=2, projections=1, knots=2, rollout_steps=1)
        self._check_numbers("regulariser_weight", "rollout_weight")
        if self.rollout_steps >= self.frames:
            raise ValueError(
                f"rollout_steps is {self.rollout_steps}; sequences of {self.frames} frames allow fewer"
            )
        if self.regulariser not in ("sigreg", "vicreg"):
            raise ValueError(f"regulariser is {self.regulariser!r}; expected 'sigreg' or 'vicreg'")

    @classmethod
    def preset(cls, name: str, *, steps: int, **changes: Any) -> TrainConfig:
        """A named configuration ("small" or "paper"), with any field changed."""
        if name not in _PRESETS:
            raise ValueError(f"name is {name!r}; expected one of {sorted(_PRESETS)}")
        return cls(**{**_PRESETS[name], "steps": steps, **changes})
