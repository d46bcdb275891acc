"""Planning: search for the actions that a world model predicts to lead to a goal."""

from fastwm.planning.agent import Agent
from fastwm.planning.async_agent import AsyncAgent
from fastwm.planning.best_of_k import BestOfK
from fastwm.planning.categorical_cem import CategoricalCEM
from fastwm.planning.cem import CEM
from fastwm.planning.costs import (
    ActionPenalty,
    Constraint,
    Cost,
    Function,
    GoalDistance,
    Reward,
    Risk,
    Smoothness,
    Sum,
    TemporalDistance,
    TrustRegion,
    Value,
)
from fastwm.planning.function import FunctionDynamics
from fastwm.planning.goal import Goal
from fastwm.planning.gradient_descent import GradientDescent
from fastwm.planning.icem import ICEM
from fastwm.planning.latent_policy import LatentPolicy
from fastwm.planning.mixture_cem import MixtureCEM
from fastwm.planning.mppi import MPPI
from fastwm.planning.plan import Plan
from fastwm.planning.planner import Planner
from fastwm.planning.policy import Policy
from fastwm.planning.predictive_sampling import PredictiveSampling
from fastwm.planning.random_shooting import RandomShooting
from fastwm.planning.sampling import Sampling, State
from fastwm.planning.search import Iteration, search
from fastwm.planning.warm_start import WarmStart

__all__ = [
    "CEM",
    "ICEM",
    "MPPI",
    "ActionPenalty",
    "Agent",
    "AsyncAgent",
    "BestOfK",
    "CategoricalCEM",
    "Constraint",
    "Cost",
    "Function",
    "FunctionDynamics",
    "Goal",
    "GoalDistance",
    "GradientDescent",
    "Iteration",
    "LatentPolicy",
    "MixtureCEM",
    "Plan",
    "Planner",
    "Policy",
    "PredictiveSampling",
    "RandomShooting",
    "Reward",
    "Risk",
    "Sampling",
    "Smoothness",
    "State",
    "Sum",
    "TemporalDistance",
    "TrustRegion",
    "Value",
    "WarmStart",
    "search",
]
