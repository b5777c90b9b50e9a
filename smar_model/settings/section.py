"""What all sections of the settings share: strict names, and the kinds of numbers that many have."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Base of all sections: an unknown name is an error, values cannot be changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        kind = repr(cls.model_fields[info.field_name].annotation) if info.field_name else "bool"
        parts = (
            value.values()
            if isinstance(value, dict) and kind.startswith("dict")
            else value
            if isinstance(value, list | tuple)
            else [value]
        )
        if "bool" not in kind and "Any" not in kind and any(isinstance(part, bool) for part in parts):
            raise ValueError("true or false (also written yes, no, on, off) where a number or text is asked for")
        return value
