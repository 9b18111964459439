"""Checks JSON against a JSON Schema, as far as bench/gpu/results.schema.json uses that language: type,
required, properties, patternProperties, additionalProperties, items, enum, minimum, minItems, $ref."""
import json
import os
import re

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "results.schema.json")
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
WORDS = {"type", "required", "properties", "patternProperties", "additionalProperties", "items", "enum", "minimum",
         "minItems", "$ref", "$schema", "title", "description", "definitions"}


def is_a(value, name):
    if name in ("number", "integer"):
        kinds = (int, float) if name == "number" else int
        return isinstance(value, kinds) and not isinstance(value, bool)
    return isinstance(value, TYPES[name])


def children(value, schema):
    """(key, schema of that member) of an object; None for one that is not allowed."""
    for key in value:
        found = False
        if key in schema.get("properties", {}):
            found = True
            yield key, schema["properties"][key]
        for pattern, part in schema.get("patternProperties", {}).items():
            if re.search(pattern, key):
                found = True
                yield key, part
        rest = schema.get("additionalProperties", True)
        if not found and rest is not True:
            yield key, rest or None


def problems(value, schema, root, at="$"):
    """What is wrong, in words, one each."""
    unknown = set(schema) - WORDS
    if unknown:
        raise ValueError(f"the schema at {at} says {', '.join(sorted(unknown))}, which is not understood here")
    if "$ref" in schema:
        return problems(value, root["definitions"][schema["$ref"].split("/")[-1]], root, at)
    names = schema.get("type", [])
    names = [names] if isinstance(names, str) else names
    if names and not any(is_a(value, n) for n in names):
        return [f"{at}: {type(value).__name__} instead of {' or '.join(names)}"]
    out = []
    if "enum" in schema and value not in schema["enum"]:
        out.append(f"{at}: {value!r} is none of {schema['enum']}")
    if "minimum" in schema and is_a(value, "number") and value < schema["minimum"]:
        out.append(f"{at}: {value} is less than {schema['minimum']}")
    if isinstance(value, dict):
        out += [f"{at}: there is no {key}" for key in schema.get("required", []) if key not in value]
        for key, part in children(value, schema):
            out += problems(value[key], part, root, f"{at}.{key}") if part is not None else [f"{at}: {key} is unknown"]
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            out.append(f"{at}: {len(value)} items instead of {schema['minItems']}")
        for i, item in enumerate(value):
            out += problems(item, schema.get("items", {}), root, f"{at}[{i}]")
    return out


def check(results):
    """What is wrong with the content of a results.json; an empty list when nothing is."""
    with open(PATH, encoding="utf-8") as f:
        schema = json.load(f)
    return problems(results, schema, schema)
