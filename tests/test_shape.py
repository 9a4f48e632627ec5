"""The size of the classes between a call and the wire, and of a list's run: what one reader can keep in mind."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import aisolution_async
from aisolution_async import Call, bulk, sandbox
from aisolution_async.api import CALLS
from aisolution_async.integrations import aiohttp, arrow, asgi, fastapi, instant, lists, telemetry

from . import floors
from .contract import CONTRACT

PACKAGE = Path(aisolution_async.__file__).parent
MIDDLE = ("sending", "batching", "ledger", "bulk")
MOST_ATTRIBUTES = 15

LARGER = {
    "Task": 17,  # a call has 15; a batch adds its place in the input, and when WhatsApp was first found checking
    "BulkOptions": 29,  # one value of all that a run may be told
    "Summary": 28,  # what a run did, in numbers
    "Forecast": 20,  # what a run would do, in numbers
    "Rows": 20,  # a reader says 16 things of its file, and this is in front of it
    "DelimitedReader": 28,  # as above, and how the text is written
    "SheetReader": 25,  # as above, and what the workbook has beside the sheet
    "ObjectReader": 20,  # as above
    "PageReader": 18,  # as above
    "ParquetReader": 18,  # as above
    "Figures": 34,  # the numbers of a report
}
"""Classes of the middle with more attributes than that, inherited ones included, and why."""

NAMED_TWICE = {
    "Started",  # the ledger's leave to send, which a user's own store returns; and the state of a call that has it
}
"""Names of two classes, and why."""


def classes(*folders: str) -> Iterator[ast.ClassDef]:
    for folder in folders:
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            yield from (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def attributes_of(cls: ast.ClassDef) -> set[str]:
    """What is declared in the class, in its `__slots__`, or assigned to `self` in one of its methods."""
    found = set()
    for statement in cls.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            found.add(statement.target.id)
        elif isinstance(statement, ast.Assign) and "__slots__" in map(ast.unparse, statement.targets):
            found.update(ast.literal_eval(statement.value))
    assigned = (node for node in ast.walk(cls) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    return found.union(node.attr for node in assigned if isinstance(node.value, ast.Name) and node.value.id == "self")


def test_no_class_of_the_middle_has_many_attributes() -> None:
    bases: dict[str, list[str]] = {}
    own: dict[str, set[str]] = defaultdict(set)
    for cls in classes(*MIDDLE):
        bases[cls.name] = [ast.unparse(base).partition("[")[0] for base in cls.bases]
        own[cls.name] |= attributes_of(cls)

    def whole(name: str) -> set[str]:
        return own.get(name, set()).union(*map(whole, bases.get(name, [])))

    sizes = {name: len(whole(name)) for name in bases}
    assert {"Sending", "Batch", "Ledger"} < sizes.keys()
    assert {name: size for name, size in sizes.items() if size > MOST_ATTRIBUTES} == LARGER


def test_a_class_has_a_name_of_its_own() -> None:
    counted = Counter(cls.name for cls in classes("."))
    assert {name for name, count in counted.items() if count > 1} == NAMED_TWICE


def test_every_dependency_of_users_has_a_minimum(capsys: pytest.CaptureFixture[str]) -> None:
    floors.main()
    printed = capsys.readouterr().out.splitlines()
    assert {"httpx==0.28", "pydantic==2.8"} < {*printed}
    assert not [line for line in printed if line.startswith(("aisolution-async", "ruff", "niquests"))]


def _public() -> Iterator[tuple[str, object]]:
    """What a user finds: each public class and function, and the public methods and properties of each class."""
    for module in (aisolution_async, bulk, sandbox, aiohttp, arrow, asgi, fastapi, instant, lists, telemetry):
        for name, found in inspect.getmembers(module):
            is_ours = getattr(found, "__module__", "").startswith(aisolution_async.__name__)
            if name.startswith("_") or not is_ours or not (inspect.isclass(found) or inspect.isfunction(found)):
                continue
            yield f"{module.__name__}.{name}", found
            for member, value in vars(found).items() if inspect.isclass(found) and not issubclass(found, Enum) else ():
                if not member.startswith("_") and isinstance(
                    value, FunctionType | property | classmethod | staticmethod
                ):
                    yield f"{module.__name__}.{name}.{member}", getattr(found, member)


def test_help_says_what_each_public_name_is() -> None:
    told = {name: inspect.getdoc(found) or "" for name, found in _public()}
    assert len(told) > 150
    assert [name for name, text in told.items() if not text or text.startswith(name.rpartition(".")[2] + "(")] == []


@pytest.mark.parametrize("call", CALLS)
def test_help_says_what_an_endpoint_asks_answers_and_costs(call: type[Call[Any]]) -> None:
    """Of a call and of its method: its parameters, its reply, the charge, and its section of the vendor's page."""
    endpoint = call.endpoint
    method = getattr(aisolution_async.AsyncClient, endpoint.command.replace("-", "_"))
    for text in (inspect.getdoc(call) or "", inspect.getdoc(method) or ""):
        assert re.search("FREE" if endpoint.never_charges else "CHARGED", text)
        assert f'("{CONTRACT[endpoint.name].section}"' in text
    assert endpoint.reply.__name__ in (inspect.getdoc(call) or "")
    assert "Raises " in (inspect.getdoc(method) or "")
    for name in endpoint.reply.model_fields:
        assert f"`{name}`" in (inspect.getdoc(endpoint.reply) or "")
        assert f"`{name}`" in (inspect.getdoc(method) or "") or name == "number"


@pytest.mark.no_cover
def test_without_coverage_nothing_is_traced() -> None:
    assert sys.gettrace() is threading.gettrace() is None
