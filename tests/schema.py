"""JSON Schema, as much of it as verdict.schema.json uses: enough to say where a document breaks it."""

from __future__ import annotations

from typing import Any

TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int}
KNOWN = {"$schema", "$id", "$defs", "title", "description"} | {
    "type", "const", "enum", "oneOf", "$ref", "required", "properties", "additionalProperties", "items"
}  # fmt: skip


def violations(value: Any, schema: dict[str, Any], root: dict[str, Any], path: str = "") -> list[str]:
    """Return every place where `value` breaks `schema`; an unknown keyword of the schema is an error."""
    assert schema.keys() <= KNOWN, f"this checker does not know {schema.keys() - KNOWN}"
    if "$ref" in schema:
        return violations(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, path)
    if "oneOf" in schema:
        fitting = [one for one in schema["oneOf"] if not violations(value, one, root, path)]
        return [] if len(fitting) == 1 else [f"{path}: fits {len(fitting)} of the alternatives"]
    found = [f"{path}: {value!r}"] * ("const" in schema and value != schema["const"])
    found += [f"{path}: {value!r}"] * ("enum" in schema and value not in schema["enum"])
    if "type" in schema and not any(is_type(value, name) for name in as_list(schema["type"])):
        return [*found, f"{path}: {value!r} is not {schema['type']}"]
    if isinstance(value, dict):
        found += in_object(value, schema, root, path)
    if isinstance(value, list) and "items" in schema:
        found += [v for i, item in enumerate(value) for v in violations(item, schema["items"], root, f"{path}[{i}]")]
    return found


def in_object(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], path: str) -> list[str]:
    known, other = schema.get("properties", {}), schema.get("additionalProperties", True)
    found = [f"{path}: lacks {name}" for name in schema.get("required", []) if name not in value]
    for name, item in value.items():
        if name in known:
            found += violations(item, known[name], root, f"{path}.{name}")
        elif isinstance(other, dict):
            found += violations(item, other, root, f"{path}.{name}")
        elif not other:
            found.append(f"{path}: {name} is not known")
    return found


def is_type(value: Any, name: str) -> bool:
    if name == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, TYPES[name]) and not (name == "integer" and isinstance(value, bool))


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
