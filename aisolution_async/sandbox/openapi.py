"""The vendor's endpoints as OpenAPI 3.1, made of the table in `api.py`: what the page says, and what we assume."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from aisolution_async.api import ENDPOINTS, Endpoint, Kind
from aisolution_async.sandbox import images

_TEXT = {
    Kind.IMAGE: {
        "type": "string",
        "contentEncoding": "base64",
        "contentMediaType": "image/jpeg",
        "description": "A photo, 2 MiB at most, as base64.",
        "examples": [b64encode(picture).decode() for picture in (images.holding("alice"), images.nobody())],
    },
    Kind.NUMBER: {
        "type": "string",
        "description": "A phone number: with + or 00 and its country code, or national with `country`.",
        "examples": ["+6281387300008"],
    },
    Kind.COUNTRY: {"type": "string", "description": "Two letters: PH, VN, IN, ID, …", "examples": ["ID"]},
    Kind.URL: {"type": "string", "format": "uri", "description": "Where the result is sent by GET."},
    Kind.TEXT: {"type": "string"},
    Kind.FLAG: {"type": "string", "enum": ["y", "n", ""], "description": "y or nothing."},
}


def openapi() -> dict[str, Any]:
    """The description, ready for JSON. It names no token and no server but the one that serves it."""
    schemas: dict[str, Any] = {}
    paths = {endpoint.path: {"post": _operation(endpoint, schemas)} for endpoint in ENDPOINTS.values()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AI Solution identity verification, pretended",
            "version": "1",
            "description": (
                "The endpoints as a client may understand them. Every answer of the vendor is an envelope of status "
                "and message with HTTP 200, refused input too. `x-charges` says what each status costs; of OK, "
                "`OK:value` where it depends on what is in the message."
            ),
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "apiKey", "in": "query", "name": "token"}},
            "responses": {
                "BadRequest": _plain("Not HTTP that can be understood."),
                "Unauthorized": _plain("The token is missing or not valid. Free."),
                "MethodNotAllowed": _plain("POST only. Free."),
                "TooLarge": _plain("More than any two photos take. Free."),
                "TooManyRequests": _plain("Too many requests, try again after a while. Free.", retry_after=True),
                "TooManyHeaders": _plain("More headers than the server reads. Free."),
                "Unavailable": _plain("Not served. Free.", retry_after=True),
            },
            "schemas": schemas,
        },
    }


def _operation(endpoint: Endpoint[Any], schemas: dict[str, Any]) -> dict[str, Any]:
    properties = {parameter.name: _TEXT[parameter.kind] for parameter in endpoint.parameters}
    required = [parameter.name for parameter in endpoint.parameters if parameter.required]
    form = {"type": "object", "properties": properties, "required": required}
    name = endpoint.name
    schemas[name] = _envelope(endpoint, schemas)
    responses: dict[str, Any] = {
        "200": {
            "description": "The vendor's answer.",
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}},
        }
    }
    for code, response in (
        ("400", "BadRequest"),
        ("401", "Unauthorized"),
        ("405", "MethodNotAllowed"),
        ("413", "TooLarge"),
        ("429", "TooManyRequests"),
        ("431", "TooManyHeaders"),
        ("503", "Unavailable"),
    ):
        responses[code] = {"$ref": f"#/components/responses/{response}"}
    return {
        "operationId": name,
        "summary": endpoint.summary,
        "requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": form}}},
        "responses": responses,
        "x-charges": {status: charge.value for status, charge in endpoint.charges.items()},
        "x-idempotent": endpoint.idempotent,
    }


def _envelope(endpoint: Endpoint[Any], schemas: dict[str, Any]) -> dict[str, Any]:
    others = sorted({status.partition(":")[0] for status in endpoint.charges} - {"OK"})
    said = {"description": "An error message, or what there is to say."}
    return {
        "oneOf": [_said({"const": "OK"}, _message(endpoint, schemas)), _said({"enum": others}, said)],
        "required": ["status", "message"],
    }


def _said(status: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"status": status, "message": message}, "required": ["status", "message"]}


def _message(endpoint: Endpoint[Any], schemas: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = endpoint.reply.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    # A reply without fields carries nothing; one that holds a single value is made of that value itself.
    if not schema.get("properties"):
        return {"type": "null"}
    if endpoint.reply.sole_field is not None:
        held: dict[str, Any] = schema["properties"][endpoint.reply.sole_field]
        return held
    schema.pop("description", None)
    return schema


def _plain(description: str, *, retry_after: bool = False) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": description,
        "content": {"text/plain; charset=utf-8": {"schema": {"type": "string"}}},
    }
    if retry_after:
        response["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "string"}}}
    return response
