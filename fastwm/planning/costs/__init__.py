"""What a plan should make small. Costs compose: `GoalDistance() + 0.01 * ActionPenalty()`."""

from fastwm.planning.costs.action import ActionPenalty, Smoothness
from fastwm.planning.costs.constraint import Constraint
from fastwm.planning.costs.cost import Cost, Function, Sum
from fastwm.planning.costs.goal_distance import GoalDistance
from fastwm.planning.costs.risk import Risk
from fastwm.planning.costs.temporal_distance import TemporalDistance
from fastwm.planning.costs.trust_region import TrustRegion
from fastwm.planning.costs.value import Reward, Value

__all__ = [
    "ActionPenalty",
    "Constraint",
    "Cost",
    "Function",
    "GoalDistance",
    "Reward",
    "Risk",
    "Smoothness",
    "Sum",
    "TemporalDistance",
    "TrustRegion",
    "Value",
]
