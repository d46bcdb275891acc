"""fastwm: JEPA world models and planning in their latent space, at the speed of the hardware.

wm = fastwm.load("runs/demo/model")
engine = fastwm.compile(wm)
planner = fastwm.Planner.recommended(engine, low=-1, high=1)
plan = planner.plan(obs, goal)  # once; or in a loop:
action = fastwm.Agent(planner).act(obs, goal, deadline=0.02)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.2.0.dev0"

# Public names in the order of the data path, and where each lives; imported on first use, so that `import fastwm` is quick.
_HOMES = {
    "load": "fastwm.models",
    "WorldModel": "fastwm.models",
    "WorldModelConfig": "fastwm.models",
    "LatentWAM": "fastwm.models",
    "LatentWAMConfig": "fastwm.models",
    "compile": "fastwm.engine.compile",
    "Engine": "fastwm.engine.engine",
    "Ensemble": "fastwm.engine.ensemble",
    "Replicas": "fastwm.engine.replicas",
    "Goal": "fastwm.planning",
    "Cost": "fastwm.planning",
    "GoalDistance": "fastwm.planning",
    "ActionPenalty": "fastwm.planning",
    "Smoothness": "fastwm.planning",
    "Reward": "fastwm.planning",
    "Value": "fastwm.planning",
    "TemporalDistance": "fastwm.planning",
    "TrustRegion": "fastwm.planning",
    "Constraint": "fastwm.planning",
    "Risk": "fastwm.planning",
    "Sum": "fastwm.planning",
    "CEM": "fastwm.planning",
    "ICEM": "fastwm.planning",
    "MPPI": "fastwm.planning",
    "PredictiveSampling": "fastwm.planning",
    "RandomShooting": "fastwm.planning",
    "GradientDescent": "fastwm.planning",
    "CategoricalCEM": "fastwm.planning",
    "MixtureCEM": "fastwm.planning",
    "BestOfK": "fastwm.planning",
    "LatentPolicy": "fastwm.planning",
    "Planner": "fastwm.planning",
    "Plan": "fastwm.planning",
    "Agent": "fastwm.planning",
    "AsyncAgent": "fastwm.planning",
    "info": "fastwm.engine.backend",
}

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from fastwm.engine.backend import info as info
    from fastwm.engine.compile import compile as compile
    from fastwm.engine.engine import Engine as Engine
    from fastwm.engine.ensemble import Ensemble as Ensemble
    from fastwm.engine.replicas import Replicas as Replicas
    from fastwm.models import LatentWAM as LatentWAM
    from fastwm.models import LatentWAMConfig as LatentWAMConfig
    from fastwm.models import WorldModel as WorldModel
    from fastwm.models import WorldModelConfig as WorldModelConfig
    from fastwm.models import load as load
    from fastwm.planning import CEM as CEM
    from fastwm.planning import ICEM as ICEM
    from fastwm.planning import MPPI as MPPI
    from fastwm.planning import ActionPenalty as ActionPenalty
    from fastwm.planning import Agent as Agent
    from fastwm.planning import AsyncAgent as AsyncAgent
    from fastwm.planning import BestOfK as BestOfK
    from fastwm.planning import CategoricalCEM as CategoricalCEM
    from fastwm.planning import Constraint as Constraint
    from fastwm.planning import Cost as Cost
    from fastwm.planning import Goal as Goal
    from fastwm.planning import GoalDistance as GoalDistance
    from fastwm.planning import GradientDescent as GradientDescent
    from fastwm.planning import LatentPolicy as LatentPolicy
    from fastwm.planning import MixtureCEM as MixtureCEM
    from fastwm.planning import Plan as Plan
    from fastwm.planning import Planner as Planner
    from fastwm.planning import PredictiveSampling as PredictiveSampling
    from fastwm.planning import RandomShooting as RandomShooting
    from fastwm.planning import Reward as Reward
    from fastwm.planning import Risk as Risk
    from fastwm.planning import Smoothness as Smoothness
    from fastwm.planning import Sum as Sum
    from fastwm.planning import TemporalDistance as TemporalDistance
    from fastwm.planning import TrustRegion as TrustRegion
    from fastwm.planning import Value as Value


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastwm' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
