"""Planning: search for the actions that a world model predicts to lead to a goal."""

from fastwm.planning.agent import Agent
from fastwm.planning.cem import CEM
from fastwm.planning.costs import ActionPenalty, Cost, GoalDistance, Sum
from fastwm.planning.planner import Plan, Planner

__all__ = ["CEM", "ActionPenalty", "Agent", "Cost", "GoalDistance", "Plan", "Planner", "Sum"]
