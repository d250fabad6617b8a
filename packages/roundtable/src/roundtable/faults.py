"""What is wrong with an input, in words for the person who wrote it.

pydantic reports faults in its own terms; this turns each into one line, `path: found …; allowed: …`. What is
allowed is taken from the model's JSON schema, so that it cannot differ from what is checked. A model's own
validators raise ValueError("field: found …, …"), and the line puts the path before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError

Schema: TypeAlias = Mapping[str, Any]


def faults(error: ValidationError, model: type[BaseModel] | None = None) -> list[str]:
    """One line for each field at fault. Without `model`, what is allowed is told in pydantic's words."""
    root: Schema = {} if model is None else model.model_json_schema()
    lines: dict[str, str] = {}
    for fault in error.errors(include_url=False):
        place = _walk(root, fault["loc"])
        if fault["type"] in ("union_tag_not_found", "union_tag_invalid"):
            place = _walk(root, (*fault["loc"], fault["ctx"]["discriminator"].strip("'")))
        line = _line(place, fault["type"], fault["msg"], fault["input"], fault.get("ctx", {}))
        lines.setdefault(place.path, line)
    return list(lines.values())


@dataclass(frozen=True)
class _Place:
    """Where a fault is: its path as the author wrote it, the schemas of the value and the table around it."""

    root: Schema
    parts: tuple[str, ...]
    node: Schema  # empty where the schema does not say
    table: Schema
    union: Schema  # the union that the table is a variant of, or empty

    @property
    def path(self) -> str:
        return ".".join(map(_printable, self.parts))


def _line(place: _Place, kind: str, message: str, found: object, context: Mapping[str, Any]) -> str:
    where = place.path or "(whole file)"
    if kind == "value_error":
        said = str(context["error"])
        inside = isinstance(found, dict) or place.node.get("type") == "object"
        return f"{where}: {said}" if not inside else f"{place.path}.{said}" if place.path else said
    if kind == "extra_forbidden":
        return f"{where}: found an unknown field{_known(place)}"
    allowed = _allowed(place.root, place.node) or message.removeprefix("Input should be ")
    if kind in ("missing", "union_tag_not_found"):
        return f"{where}: found nothing; allowed: {allowed}"
    if kind == "union_tag_invalid":
        found = found[context["discriminator"].strip("'")] if isinstance(found, dict) else context["tag"]
    return f"{where}: found {_shown(found)}; allowed: {allowed}{_meant(found, place.node.get('enum', ()))}"


def _walk(root: Schema, loc: Sequence[int | str]) -> _Place:
    """Follow pydantic's location, which names union branches besides fields, through the schema."""
    node, table = root, root
    union: Schema = {}
    path: list[str] = []
    for index, part in enumerate(loc):
        step = _step(root, node, part)
        if step is None and "discriminator" in node:
            mapping = node["discriminator"]["mapping"]
            if part in mapping:
                union, node = node, _resolved(root, {"$ref": mapping[part]})
                continue
            if part == node["discriminator"]["propertyName"]:
                step = {"enum": list(mapping)}
        if step is None and node.get("type") != "object" and node:
            break  # the branch of a union of plain values
        table, node = node, step or {}
        path.append(str(part))
        if index + 1 < len(loc) and step is not None and "discriminator" not in step:
            union = {}
    return _Place(root, tuple(path), node, table, union)


def _step(root: Schema, node: Schema, part: int | str) -> Schema | None:
    """The schema of what `part` names inside `node`."""
    for branch in _branches(root, node):
        if part in branch.get("properties", {}):
            return _resolved(root, branch["properties"][part])
        for key, kind in (("additionalProperties", str), ("items", int)):
            if isinstance(branch.get(key), dict) and isinstance(part, kind):
                return _resolved(root, branch[key])
    return None


def _resolved(root: Schema, node: Schema) -> Schema:
    if "$ref" in node:
        target: Schema = root["$defs"][node["$ref"].rpartition("/")[2]]
        return {**target, **({"default": node["default"]} if "default" in node else {})}
    return node


def _branches(root: Schema, node: Schema) -> Iterator[Schema]:
    yield node
    if "discriminator" not in node:
        for branch in node.get("anyOf", ()):
            yield _resolved(root, branch)


def _known(place: _Place) -> str:
    """What an unknown field could have been."""
    *around, name = place.parts
    known = list(place.table.get("properties", {}))
    if not known:
        return "; allowed: none" if place.root else ""
    variants = []
    if place.union:
        key = place.union["discriminator"]["propertyName"]
        refs = place.union["discriminator"]["mapping"]
        variants = [
            v for v, ref in refs.items() if name in _resolved(place.root, {"$ref": ref})["properties"]
        ]
    if variants:
        hint = f" ({name} belongs to {key} = {' or '.join(map(_shown, variants))})"
    elif near := get_close_matches(name, known, 1):
        hint = f" (did you mean {'.'.join([*around, near[0]])}?)"
    elif elsewhere := [path for path in _paths(place.root, place.root) if path.rpartition(".")[2] == name]:
        hint = f" (did you mean {' or '.join(elsewhere)}?)"
    else:
        hint = ""
    where = f"in [{'.'.join(around)}]" if around else "at the top"
    return f"{hint}; allowed {where}: {', '.join(known)}"


def _paths(root: Schema, node: Schema, before: str = "") -> Iterator[str]:
    for name, child in node.get("properties", {}).items():
        yield before + name
        yield from _paths(root, _resolved(root, child), f"{before}{name}.")


def _allowed(root: Schema, node: Schema) -> str:
    """What a schema allows, in words."""
    if "description" in node and node.get("type") != "object":
        return str(node["description"])
    if "const" in node:
        return _shown(node["const"])
    if "enum" in node:
        return (
            " or ".join(map(_shown, node["enum"]))
            if len(node["enum"]) < 3
            else ", ".join(map(_shown, node["enum"]))
        )
    if "anyOf" in node:
        branches = [_resolved(root, branch) for branch in node["anyOf"] if branch.get("type") != "null"]
        return ", or ".join(text for branch in branches if (text := _allowed(root, branch)))
    kind = node.get("type")
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _range(node)
    if kind == "string":
        low, high = node.get("minLength", 0), node.get("maxLength")
        return "a text" + (f" of {low} to {high} characters" if high is not None else "")
    if "discriminator" in node:
        choice = node["discriminator"]
        return f"a table with {choice['propertyName']} = {', '.join(map(_shown, choice['mapping']))}"
    if kind == "object":
        fields = ", ".join(node.get("properties", {}))
        return "a table" + (f" with {fields}" if fields else "")
    if kind == "array":
        return f"a list of at least {node['minItems']}" if "minItems" in node else "a list"
    return "true or false" if kind == "boolean" else ""


def _range(node: Schema) -> str:
    whole = node["type"] == "integer"
    parts = []
    for key, words in (
        ("minimum", "at least"),
        ("exclusiveMinimum", "at least" if whole else "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "at most" if whole else "below"),
    ):
        if key in node:
            limit = node[key] + ({"exclusiveMinimum": 1, "exclusiveMaximum": -1}.get(key, 0) if whole else 0)
            parts.append(f"{words} {limit:.15g}")
    return ", " + " and ".join(parts) if parts else ""


def _meant(found: object, known: Sequence[str]) -> str:
    near = get_close_matches(found, known, 1) if isinstance(found, str) else []
    return f" (did you mean {_shown(near[0])}?)" if near else ""


def _shown(value: object) -> str:
    """A value as its author wrote it."""
    if isinstance(value, dict):
        return "a table"
    try:
        return _printable(json.dumps(value, ensure_ascii=False, default=str))
    except ValueError:  # written in hexadecimal digits, which Python reads at any length
        return "a number of more than 4,300 digits"


def _printable(text: str) -> str:
    """Bounded, and in one line whatever is in it."""
    text = text if len(text) <= 80 else text[:77] + "..."
    return "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)
