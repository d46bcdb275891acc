"""What an agent says in numbers -> actions of a gymnasium space."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from numpy.typing import NDArray


class Actions:
    """Turns action blocks [A] into the actions of as many environment steps as A holds.

    An action of a Box is its numbers; of a Discrete space as many numbers as it has actions, the largest of which says which
    (one-hot); of a MultiDiscrete space one such group after another.
    Raises ValueError if the space is of another kind or A is no multiple of the numbers of one action.
    """

    def __init__(self, space: gymnasium.Space[Any], action_dim: int) -> None:
        self._space = space
        if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating):
            size = int(np.prod(space.shape))
        elif isinstance(space, Discrete):
            size = int(space.n)
        elif isinstance(space, MultiDiscrete):
            size = int(space.nvec.sum())
        else:
            raise ValueError(
                f"the action space is {space}, expected a Box of floating-point numbers, Discrete or MultiDiscrete"
            )
        if action_dim % size:
            raise ValueError(
                f"the planner's action blocks hold {action_dim} numbers, expected a multiple of {size}, one action of {space}"
            )
        self.steps = action_dim // size

    def of(self, block: NDArray[Any]) -> list[Any]:
        """block [A] -> an action for each environment step. Raises ValueError for one outside the space."""
        return [self._action(numbers) for numbers in np.asarray(block).reshape(self.steps, -1)]

    def _action(self, numbers: NDArray[Any]) -> Any:
        space = self._space
        if isinstance(space, Box):
            return _inside(space, numbers.reshape(space.shape))
        if isinstance(space, Discrete):
            return space.start + np.argmax(numbers)
        assert isinstance(space, MultiDiscrete)
        groups = np.split(numbers, np.cumsum(space.nvec.ravel())[:-1])
        chosen = np.array([np.argmax(group) for group in groups], space.dtype)
        return space.start + chosen.reshape(space.shape)


class ActionBlock(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose action is a block of `steps` actions, executed one after another: for `run_vector`.

    Rewards are summed; the episode may end within a block. Raises ValueError unless the action space is a Box.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], steps: int) -> None:
        super().__init__(env)
        space = env.action_space
        if not isinstance(space, Box):
            raise ValueError(f"the action space is {space}, expected a Box")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps is {steps!r}, expected an integer of at least 1")
        self.steps = steps
        low, high = (np.tile(bound.ravel(), steps) for bound in (space.low, space.high))
        self.action_space = Box(low, high, dtype=space.dtype.type)

    def step(self, action: NDArray[Any]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One block."""
        total = 0.0
        for one in action.reshape(self.steps, *self.env.action_space.shape):  # type: ignore[misc]
            obs, reward, terminated, truncated, info = self.env.step(one)
            total += float(reward)
            if terminated or truncated:
                break
        return obs, total, terminated, truncated, info


def _inside(space: Box, action: NDArray[Any]) -> NDArray[Any]:
    """The action in the space's precision; a bound that was rounded to float32 is the bound."""
    low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    if not ((action >= low) & (action <= high)).all():
        raise ValueError(
            f"the agent's action {action} is outside of {space}: give the optimizer low= and high=, or wrap the environment "
            "in gymnasium.wrappers.ClipAction"
        )
    return np.clip(action.astype(space.dtype), space.low, space.high)
