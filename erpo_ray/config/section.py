"""What every section of the configuration is."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Guidance = Annotated[str, Field(exclude_if=lambda text: not text)]
"""Words in front of a prompt's own, none by default. Not told of where it is empty: a configuration without it is the
same one, and continues the same run, as before there was the key."""


class Section(BaseModel):
    """A part of the tree: unknown keys are errors, values cannot be changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
