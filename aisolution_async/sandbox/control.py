"""`/_sandbox/`: the sandbox seen and set over HTTP, by programs and people on the same machine.

====================================  =============================================================================
GET /_sandbox/                        a page for people; JSON where that is asked for (`Accept: application/json`)
GET /_sandbox/state                   the same as JSON: clock, bill, requests, faults, callbacks, faces
GET /_sandbox/openapi.json            the endpoints as OpenAPI 3.1
GET /_sandbox/numbers                 the magic numbers, by name
GET /_sandbox/images/NAME/ARGUMENT…   a picture that is answered as it says: person/alice, status/FAIL, nobody, …
POST /_sandbox/faults                 add one fault or a list: "reset-after:0.02" or {"kind": "reset-after", …}
DELETE /_sandbox/faults               remove them all
POST /_sandbox/clock                  {"advance": seconds}
POST /_sandbox/whatsapp               {"available": false}
POST /_sandbox/reset                  as it was when it was started
====================================  =============================================================================

Bodies are JSON; a request that does not make sense is HTTP 400, and says why. It answers loopback peers only, under
loopback names only, and no page of another site: whoever makes a browser come here has no business here. The token is
never shown, nor is a group id; of numbers the last four digits are, and of addresses to call back all but the path.
"""

from __future__ import annotations

import inspect
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from html import escape
from itertools import islice
from typing import Any
from urllib.parse import unquote, urlsplit

from aisolution_async.charges import Tally
from aisolution_async.checks import is_number, is_one_of
from aisolution_async.sandbox import images
from aisolution_async.sandbox.desk import Desk
from aisolution_async.sandbox.faults import Fault
from aisolution_async.sandbox.magic import BLOCKS, MAGIC_NUMBERS
from aisolution_async.sandbox.openapi import openapi
from aisolution_async.sandbox.vendor import Request, Served

PREFIX = "/_sandbox/"
_HOST = re.compile(r"(127\.[0-9.]+|localhost|\[::1\])(:[0-9]{1,5})?", re.ASCII | re.IGNORECASE)
_SHOWN = 100
_HEADERS = (
    ("cache-control", "no-store"),
    ("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
)


class _Wrong(Exception):  # noqa: N818  # an answer, not an error of ours
    def __init__(self, http_status: int, why: str) -> None:
        super().__init__(why)
        self.http_status = http_status


def is_at(path: str) -> bool:
    """Whether a request to `path` is about the sandbox itself."""
    return path.startswith(PREFIX) or path == PREFIX.rstrip("/")


def answer(desk: Desk, request: Request, reset: Callable[[], None]) -> Served:
    """What a request about the sandbox itself is answered. It is no request to the vendor, and on no bill.

    `reset` makes the sandbox as it was when it was started, connections and all.
    """
    try:
        _check(request)
        return _routed(desk, request, reset)
    except _Wrong as wrong:
        return _json({"error": str(wrong)}, wrong.http_status)


def _check(request: Request) -> None:
    """Refuse whoever is not on this machine, and browsers that are led here (DNS rebinding included)."""
    try:
        local = ipaddress.ip_address(request.peer).is_loopback
    except ValueError:
        local = False
    hosts = [value for name, value in request.headers if name == "host"]
    origins = [value for name, value in request.headers if name == "origin"]
    sites = {value for name, value in request.headers if name == "sec-fetch-site"}
    if not local or len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
        raise _Wrong(403, "this is for programs on the same machine, by the name 127.0.0.1 or localhost")
    if any(origin.lower() != f"http://{hosts[0].lower()}" for origin in origins) or sites - {"same-origin", "none"}:
        raise _Wrong(403, "this is not for pages of other sites")


def _routed(desk: Desk, request: Request, reset: Callable[[], None]) -> Served:
    path = request.path.removeprefix(PREFIX.rstrip("/")).removeprefix("/")
    if path.startswith("images/"):
        methods: Mapping[str, Callable[[], Served]] = {"GET": lambda: _image(path.removeprefix("images/"))}
    else:
        methods = {
            "": {"GET": lambda: _page(desk, request)},
            "state": {"GET": lambda: _json(state(desk))},
            "openapi.json": {"GET": lambda: _json(openapi())},
            "numbers": {"GET": lambda: _json(_numbers())},
            "faults": {
                "GET": lambda: _json(_faults(desk)),
                "POST": lambda: _add_faults(desk, request.body),
                "DELETE": lambda: _clear_faults(desk),
            },
            "clock": {"POST": lambda: _advance(desk, request.body)},
            "whatsapp": {"POST": lambda: _set_available(desk, request.body)},
            "reset": {"POST": lambda: _reset(reset)},
        }.get(path, {})
    if not methods:
        raise _Wrong(404, f"there is nothing here: {PREFIX} shows what there is")
    handler = methods.get("GET" if request.method == "HEAD" else request.method)
    if handler is None:
        return Served(405, b"method not allowed\n", headers=(*_HEADERS, ("allow", ", ".join(methods))))
    return handler()


def _json(value: object, http_status: int = 200) -> Served:
    return Served(http_status, f"{json.dumps(value, indent=1)}\n".encode(), "application/json", _HEADERS)


def _read(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise _Wrong(400, "the body is not JSON") from None


def _only(body: bytes, name: str, kind: type | tuple[type, ...]) -> Any:
    value = _read(body)
    found = value.get(name) if isinstance(value, dict) and len(value) == 1 else None
    if not is_one_of(found, kind):
        raise _Wrong(400, f'the body is {{"{name}": …}}')
    return found


# -------------------------------------------------------------------------------------------------------- to set


def _add_faults(desk: Desk, body: bytes) -> Served:
    value = _read(body)
    try:
        faults = [Fault.from_json(each) for each in (value if isinstance(value, list) else [value])]
    except ValueError as error:
        raise _Wrong(400, str(error)) from None
    for fault in faults:
        desk.faults.add(fault)
    return _json(_faults(desk))


def _clear_faults(desk: Desk) -> Served:
    desk.faults.clear()
    return _json(_faults(desk))


def _advance(desk: Desk, body: bytes) -> Served:
    try:
        desk.clock.advance(_only(body, "advance", (int, float)))
    except (ValueError, OverflowError) as error:
        raise _Wrong(400, str(error)) from None
    return _json({"now": desk.clock.now()})


def _set_available(desk: Desk, body: bytes) -> Served:
    desk.vendor.whatsapp_available = _only(body, "available", bool)
    return _json({"available": desk.vendor.whatsapp_available})


def _reset(reset: Callable[[], None]) -> Served:
    reset()
    return _json({"reset": True})


# ------------------------------------------------------------------------------------------------------- to see


def state(desk: Desk) -> dict[str, Any]:
    """All that is shown, ready for JSON."""
    bill = desk.bill
    return {
        "clock": round(desk.clock.now(), 3),
        "whatsapp_available": desk.vendor.whatsapp_available,
        "seed": desk.faults.seed,
        "bill": {**_tally(bill), "delivered": _tally(bill.delivered), "by_callback": _tally(bill.by_callback)},
        "requests": dict(desk.requests),
        "entries": [asdict(entry) for entry in islice(reversed(bill.entries), _SHOWN)],
        "faults": _faults(desk),
        "outstanding": [
            {"number": _masked(each.number), "to": _origin(each.url), "due": each.due}
            for each in desk.callbacks.outstanding
        ],
        "callbacks": [
            {
                "number": _masked(each.number),
                "to": _origin(each.url),
                "http_status": each.http_status,
                "error": each.error,
            }
            for each in islice(reversed(desk.callbacks.made), _SHOWN)
        ],
        "faces": [{"people": len(people), "pictures": sum(people.values())} for people in desk.vendor.faces.values()],
    }


def _tally(tally: Tally) -> dict[str, Any]:
    counted = {name: {"charged": counts.charged, "free": counts.free} for name, counts in tally.by_endpoint.items()}
    return {"charged": tally.charged, "free": tally.free, "by_endpoint": counted}


def _faults(desk: Desk) -> list[dict[str, Any]]:
    return [{**fault.to_json(), "hits": desk.faults.hits(fault)} for fault in desk.faults]


def _numbers() -> dict[str, Any]:
    return {
        name: {"what": magic.what, "numbers": {country: block + magic.code for country, block in BLOCKS.items()}}
        for name, magic in MAGIC_NUMBERS.items()
    }


def _image(path: str) -> Served:
    name, *arguments = unquote(path.removesuffix(".jpg")).split("/")
    maker = images.MAKERS.get(name)
    if maker is None:
        raise _Wrong(404, f"there are pictures of {', '.join(images.MAKERS)}")
    takes = inspect.signature(maker)
    try:
        takes.bind(*arguments)
    except TypeError:
        path = PREFIX + "images/" + name
        for parameter in takes.parameters.values():
            part = f"/{parameter.name.upper()}"
            path += part if parameter.default is parameter.empty else f"[{part}]"
        raise _Wrong(400, f"such pictures are at {path}") from None
    try:
        picture = maker(*arguments)
    except ValueError as error:
        raise _Wrong(400, str(error)) from None
    return Served(200, picture, "image/jpeg", _HEADERS)


def _masked(number: str) -> str:
    return f"…{number[-4:]}"


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/…"


# ------------------------------------------------------------------------------------------------------ the page

_STYLE = """
:root{color-scheme:light dark;font:15px/1.5 system-ui,sans-serif}
body{max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse;display:block;overflow-x:auto}
th,td{padding:.2rem .8rem .2rem 0;text-align:left;border-bottom:1px solid #8884;white-space:nowrap}
td.n{text-align:right;font-variant-numeric:tabular-nums}
"""


def _page(desk: Desk, request: Request) -> Served:
    accepted = ",".join(value for name, value in request.headers if name == "accept")
    if "application/json" in accepted and "text/html" not in accepted:
        return _json(state(desk))
    shown = state(desk)
    bill = shown["bill"]
    rows = [
        (
            name,
            shown["requests"].get(name, 0),
            counts["charged"],
            counts["free"],
            bill["delivered"]["by_endpoint"].get(name, {}).get("charged", 0),
            bill["by_callback"]["by_endpoint"].get(name, {}).get("charged", 0),
        )
        for name, counts in bill["by_endpoint"].items()
    ]
    columns = ("endpoint", "requests", "charged", "free", "charged and delivered", "charged by callback")
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>Sandbox</title><style>{_STYLE}</style><h1>The vendor, pretended</h1>",
        f"<p>{shown['clock']:.1f} s on its clock. Nothing is really charged. ",
        f"<a href={PREFIX}state>As JSON</a> · <a href={PREFIX}openapi.json>OpenAPI</a> · ",
        f"<a href={PREFIX}numbers>Magic numbers</a>",
        _table("Bill", columns, rows),
        _table(
            "Faults",
            ("fault", "hits"),
            [
                (", ".join(f"{k} {v}" for k, v in fault.items() if k != "hits"), fault["hits"])
                for fault in shown["faults"]
            ],
        ),
        _table(
            "Outstanding callbacks",
            ("number", "to", "due at"),
            [(o["number"], o["to"], "never" if o["due"] is None else o["due"]) for o in shown["outstanding"]],
        ),
        _table("Callbacks", ("number", "to", "HTTP", "problem"), [tuple(c.values()) for c in shown["callbacks"]]),
        _table("Latest", tuple(shown["entries"][0]) if shown["entries"] else (), map(dict.values, shown["entries"])),
    ]
    return Served(200, "".join(parts).encode(), "text/html; charset=utf-8", _HEADERS)


def _table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines = "".join(f"<tr>{''.join(map(_cell, row))}" for row in rows)
    if not lines:
        return f"<h2>{title}</h2><p>None."
    head = "".join(f"<th>{escape(column)}" for column in columns)
    return f"<h2>{title}</h2><table><tr>{head}{lines}</table>"


def _cell(value: object) -> str:
    if isinstance(value, float):
        value = round(value, 3)
    return f"<td{' class=n' if is_number(value) else ''}>{'' if value is None else escape(str(value))}"
