"""Keys that a recipe is written without while they say nothing: recipes of earlier versions had none."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer


class LeavesOut(BaseModel):
    """A part of a recipe with such keys; pydantic has one serializer for all parts of a class."""

    def left_out(self) -> set[str]:
        """The keys that are not written as things stand."""
        return {
            name
            for name, field in type(self).model_fields.items()
            if isinstance(extra := field.json_schema_extra, dict)
            and extra.get("unwritten")
            and getattr(self, name) == field.default
        }

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        left_out = self.left_out()
        return {key: value for key, value in values.items() if key not in left_out}
