"""An agent in a gymnasium environment, or in many at once.

from fastwm.integrations.gymnasium import run
print(run(gymnasium.make("Pendulum-v1"), agent, episodes=3, seed=0))
"""

from fastwm.integrations.gymnasium.actions import ActionBlock
from fastwm.integrations.gymnasium.run import Run, run
from fastwm.integrations.gymnasium.vector import run_vector

__all__ = ["ActionBlock", "Run", "run", "run_vector"]
