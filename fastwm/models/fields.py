"""What the configurations of models have in common: fields that are sizes, and the way back from JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

Config = TypeVar("Config")


def check_sizes(config: Any) -> None:
    """ValueError, naming the field, unless every `int` field of a dataclass is an integer of at least 1."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.type == "int" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{field.name} is {value!r}; expected an integer of at least 1")


def from_fields(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """A dataclass from `values`; ValueError for fields that are unknown or missing."""
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    names = {field.name for field in fields}
    if unknown := sorted(set(values) - names):
        raise ValueError(f"unknown configuration fields {unknown}; known are {sorted(names)}")
    for field in fields:
        if field.default is dataclasses.MISSING and field.name not in values:
            raise ValueError(f"configuration field {field.name!r} is missing")
    return kind(**values)
