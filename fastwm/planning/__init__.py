"""Planning: search for the actions that a world model predicts to lead to a goal."""

from fastwm.planning.agent import Agent
from fastwm.planning.cem import CEM
from fastwm.planning.costs import ActionPenalty, Cost, GoalDistance, Sum
from fastwm.planning.icem import ICEM
from fastwm.planning.mppi import MPPI
from fastwm.planning.planner import Iteration, Plan, Planner
from fastwm.planning.predictive_sampling import PredictiveSampling
from fastwm.planning.random_shooting import RandomShooting
from fastwm.planning.sampling import Sampling, State

__all__ = [
    "CEM",
    "ICEM",
    "MPPI",
    "ActionPenalty",
    "Agent",
    "Cost",
    "GoalDistance",
    "Iteration",
    "Plan",
    "Planner",
    "PredictiveSampling",
    "RandomShooting",
    "Sampling",
    "State",
    "Sum",
]
