"""How a kernel becomes a torch op: a schema, a body, and a fake for `torch.compile`, joined by one
decorator."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

LIBRARY = torch.library.Library("fastwm", "DEF")
Body = TypeVar("Body", bound=Callable[..., Any])


def op(schema: str, fake: Callable[..., Any]) -> Callable[[Body], Body]:
    """Register `body` as `torch.ops.fastwm.<name>`, where `schema` is "name(arguments) -> results".

    In eager mode the body is called directly, half the cost of a call through the dispatcher. `fake` takes
    the same arguments,
    validates them and returns empty results: what tracing sees. Arguments are positional.
    """

    def register(body: Body) -> Body:
        name = schema.partition("(")[0]
        LIBRARY.define(schema)
        for device in ("CPU", "CUDA"):
            LIBRARY.impl(name, body, device)
        torch.library.register_fake(f"fastwm::{name}", fake, lib=LIBRARY)
        registered = getattr(torch.ops.fastwm, name).default

        @functools.wraps(body)
        def call(*arguments: Any) -> Any:
            return registered(*arguments) if torch.compiler.is_compiling() else body(*arguments)

        return call  # type: ignore[return-value]

    return register
