"""What a plan should make small. Costs compose: `GoalDistance() + 0.01 * ActionPenalty()`."""

from fastwm.planning.costs.action import ActionPenalty
from fastwm.planning.costs.cost import Cost, Function, Sum
from fastwm.planning.costs.goal_distance import GoalDistance

__all__ = ["ActionPenalty", "Cost", "Function", "GoalDistance", "Sum"]
