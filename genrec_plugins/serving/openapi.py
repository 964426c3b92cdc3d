"""What the server says of itself in OpenAPI: the rows of the model that is being served. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genrec_plugins.serving.schema import RawColumn, RawSchema
from genrec_plugins.serving.settings import ServeSettings
from genrec_plugins.serving.wire import ARROW, JSON

_BINARY = {"schema": {"type": "string", "format": "binary"}}


def column_schema(column: RawColumn) -> dict[str, Any]:
    """JSON Schema of one value of a column.

    Example::

        >>> column_schema(RawColumn(name="city", kind="string", values="text"))["type"]
        ['string', 'integer', 'null']
    """
    one: dict[str, Any]
    if column.values == "text":
        one = {"type": ["string", "integer", "null"]}
    elif column.values == "integer":
        one = {"type": ["integer", "null"], "minimum": -(2**63), "maximum": 2**63 - 1}
    else:
        one = {"type": ["number", "null"]}
    found = {"type": ["array", "null"], "items": one} if column.kind == "list" else one
    return found | {"description": f"read by {', '.join(column.fields)}"} if column.fields else found


def row_schema(schema: RawSchema) -> dict[str, Any]:
    """JSON Schema of a raw row.

    Args:
        schema: the model's raw columns.
    """
    return {
        "type": "object",
        "title": "a raw row; null is a missing value, further keys are left alone",
        "required": [column.name for column in schema.columns if column.required],
        "properties": {column.name: column_schema(column) for column in schema.columns},
    }


def request_schema(schema: RawSchema | None, settings: ServeSettings) -> dict[str, Any]:
    """JSON Schema of a body of ``POST /score``.

    Args:
        schema: the model's raw columns; None while there is no model.
        settings: has the limits.
    """
    row = {"type": "object"} if schema is None else row_schema(schema)
    rows = {"type": "array", "maxItems": settings.max_request_rows}
    part: dict[str, Any] = {"type": "object", "properties": row.get("properties", {})}
    return {
        "oneOf": [
            {
                "type": "object",
                "title": "rows",
                "required": ["rows"],
                "additionalProperties": False,
                "properties": {"rows": rows | {"items": row}},
            },
            {
                "type": "object",
                "title": "candidates of one user: user and candidate are one row, each column stands in one of them",
                "required": ["user", "candidates"],
                "additionalProperties": False,
                "properties": {"user": part, "candidates": rows | {"items": part}},
            },
        ]
    }


def score_operation(schema: RawSchema | None, settings: ServeSettings) -> dict[str, Any]:
    """Body and answers of ``POST /score``, in OpenAPI's words.

    Args:
        schema: the model's raw columns; None while there is no model.
        settings: has the limits.
    """
    example: dict[str, Any] = {"rows": []} if schema is None else {"rows": [{c.name: None for c in schema.columns}]}
    body = {"schema": request_schema(schema, settings), "example": example}
    return {
        "requestBody": {"required": True, "content": {JSON: body, ARROW: _BINARY}},
        "responses": {
            "200": {
                "description": "probabilities in the order of the rows; as Arrow, a column 'probability' (float32)",
                "content": {JSON: {"schema": _SCORES}, ARROW: _BINARY},
            },
            **{str(status): problem(text) for status, text in PROBLEMS.items()},
        },
    }


def problem(text: str) -> dict[str, Any]:
    """An answer without scores.

    Args:
        text: when it is given.
    """
    return {"description": text, "content": {JSON: {"schema": _PROBLEM}}}


PROBLEMS: Mapping[int, str] = {
    400: "the body is not JSON, or no stream of Arrow's",
    401: "the API key is missing or wrong",
    406: "Accept names neither JSON nor Arrow",
    408: "the body did not come in time",
    413: "the body is too long",
    415: "Content-Type is neither JSON nor Arrow, or the body is compressed",
    422: "a row is bad (row and column say which), or there are too many",
    500: "a mistake in the server",
    503: "overloaded, or no model yet; try again after Retry-After",
    504: "the scores were not there in time",
}
_SCORES = {
    "type": "object",
    "required": ["probabilities", "model"],
    "additionalProperties": False,
    "properties": {
        "probabilities": {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}},
        "model": {"type": "string", "description": "digest of the model"},
    },
}
_PROBLEM = {
    "type": "object",
    "required": ["error", "row", "column"],
    "additionalProperties": False,
    "properties": {
        "error": {"type": "string"},
        "row": {"type": ["integer", "null"], "description": "index of the bad row, from 0"},
        "column": {"type": ["string", "null"]},
    },
}
