"""The file of `erpo sweep`: what all rows share, and each row's differences."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from erpo_ray.config.decoding import Decode
from erpo_ray.config.section import Section


class Budget(Section):
    """What a row may spend at most before its last policy, by the estimates of `erpo plan`; evaluation is not in it."""

    sampled_tokens: int = Field(ge=1)
    trained_tokens: int = Field(ge=1)


class MeasuredRow(Section):
    """A row that trains nothing: a policy as it decodes."""

    of: str = ""
    """The row whose last policy it is, one further up in the file; the model as given when empty."""
    decode: Decode = Decode()


class SweepFile(Section):
    """The file as written. A row with `method` is a configuration laid over `common`, others are `MeasuredRow`s."""

    name: str
    budget: Budget
    common: dict[str, Any] = {}
    """A configuration: what the rows have in common."""
    rows: dict[str, dict[str, Any]]
