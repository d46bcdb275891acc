"""Functions that a cost is made of, a user's: called here, and what they return is checked."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def call(
    name: str,
    function: Callable[..., Tensor],
    *inputs: Tensor,
    shapes: tuple[tuple[int | None, ...], ...],
) -> Tensor:
    """function(*inputs) as float32, of one of `shapes`, where None is any size.

    Raises RuntimeError if the function does not take the inputs, TypeError or ValueError for what it returns.
    """
    try:
        found = function(*inputs)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        given = " and ".join(str(tuple(x.shape)) for x in inputs)
        raise RuntimeError(f"{name} failed on tensors of shape {given}: {error}") from error
    expected = " or ".join(str(list(shape)).replace("None", "any") for shape in shapes)
    if not isinstance(found, Tensor) or found.is_complex():
        kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
        raise TypeError(f"{name} returned {kind}, expected a tensor of real numbers {expected}")
    if not any(_fits(tuple(found.shape), shape) for shape in shapes):
        raise ValueError(f"{name} returned a tensor of shape {tuple(found.shape)}, expected {expected}")
    return found.float()


def _fits(found: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    return (
        0 not in found
        and len(found) == len(shape)
        and all(n in (None, m) for m, n in zip(found, shape, strict=True))
    )
