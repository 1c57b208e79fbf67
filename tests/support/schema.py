"""JSON Schema, as much of it as docs/*.schema.json use."""

import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"

_KEYWORDS = {
    "$schema", "$ref", "$defs", "title", "description", "type", "const", "enum", "oneOf", "minimum",
    "maximum", "pattern", "items", "properties", "required", "additionalProperties",
}  # fmt: skip

_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


class Schema:
    """One of the files in docs. Raises AssertionError if it has a keyword that is unknown here."""

    def __init__(self, name: str) -> None:
        self.document: dict[str, Any] = json.loads((DOCS / name).read_text())
        for each in self._all(self.document):
            assert set(each) <= _KEYWORDS, each

    def isValid(self, value: Any) -> bool:
        """By our own reading of the schema, and by jsonschema's where that is installed."""
        found = self._conforms(value, self.document)
        if importlib.util.find_spec("jsonschema"):
            jsonschema = importlib.import_module("jsonschema")
            assert jsonschema.Draft202012Validator(self.document).is_valid(value) is found
        return found

    def _all(self, schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield schema
        named = {**schema.get("properties", {}), **schema.get("$defs", {})}.values()
        others = [schema.get("items"), schema.get("additionalProperties")]
        for each in [*named, *schema.get("oneOf", ()), *others]:
            if isinstance(each, dict):
                yield from self._all(each)

    def _conforms(self, value: Any, schema: dict[str, Any]) -> bool:
        if "$ref" in schema:
            name = schema["$ref"].removeprefix("#/$defs/")
            if not self._conforms(value, self.document["$defs"][name]):
                return False
        kinds = schema.get("type", [])
        if kinds and not any(
            _TYPES[kind](value) for kind in ([kinds] if isinstance(kinds, str) else kinds)
        ):
            return False
        if "const" in schema and value != schema["const"]:
            return False
        if "enum" in schema and value not in schema["enum"]:
            return False
        oneOf = schema.get("oneOf")
        if oneOf is not None and sum(self._conforms(value, each) for each in oneOf) != 1:
            return False
        if isinstance(value, int) and not schema.get("minimum", value) <= value <= schema.get(
            "maximum", value
        ):
            return False
        if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
            return False
        if isinstance(value, list):
            return all(self._conforms(item, schema.get("items", {})) for item in value)
        if isinstance(value, dict):
            return self._hasConforming(value, schema)
        return True

    def _hasConforming(self, value: dict[str, Any], schema: dict[str, Any]) -> bool:
        properties = schema.get("properties", {})
        others = schema.get("additionalProperties", True)
        return (
            set(schema.get("required", ())) <= set(value)
            and (others is not False or set(value) <= set(properties))
            and all(
                self._conforms(each, properties.get(name, others if others is not True else {}))
                for name, each in value.items()
                if name in properties or isinstance(others, dict)
            )
        )
