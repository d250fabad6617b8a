"""What /openapi.json tells besides what FastAPI finds out: the tokens, the errors, the body of a join."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from pydantic.json_schema import models_json_schema
from roundtable.errors import PROBLEMS, RoundtableError
from roundtable.messages import Join

from aggregator.problems import MEDIA_TYPE, PLAIN

Responses: TypeAlias = dict[int | str, dict[str, Any]]

_COMPONENTS: Final = "#/components/schemas/{model}"
_TOKENS: Final = {
    "join token": "from STATE_DIR/tokens/join",
    "session token": "from the reply to a join",
    "admin token": "from STATE_DIR/tokens/admin",
    "read token": "from STATE_DIR/tokens/read; only where the service is published beyond loopback",
}
_PROBLEM: Final[dict[str, Any]] = {
    "title": "Problem",
    "description": "Why a request is not done (RFC 9457)",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri", "description": "stable: what a program looks at"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "one line for a person"},
    },
}


def refusals(*kinds: type[RoundtableError] | int) -> Responses:
    """What an endpoint may answer with instead: errors, and statuses that say it all."""
    types: dict[int, list[str]] = {}
    for kind in kinds:
        status, uri = (kind, PLAIN) if isinstance(kind, int) else PROBLEMS[kind]
        types.setdefault(status, []).append(f"`{uri}`")
    return {str(status): _problem(" or ".join(uris)) for status, uris in types.items()}


def complete(schema: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's, with what we refer to."""
    components = schema["components"]
    components["securitySchemes"] = {
        name: {"type": "http", "scheme": "bearer", "description": told} for name, told in _TOKENS.items()
    }
    _, join = models_json_schema([(Join, "validation")], ref_template=_COMPONENTS)
    components["schemas"] |= join["$defs"] | {"Problem": _PROBLEM}
    return schema


def _problem(told: str) -> dict[str, Any]:
    return {"description": told, "content": {MEDIA_TYPE: {"schema": reference("Problem")}}}


def reference(model: str) -> dict[str, str]:
    return {"$ref": _COMPONENTS.format(model=model)}


ANY_OTHER: Final[Responses] = {"default": _problem("any other error")}  # in place of FastAPI's own 422
