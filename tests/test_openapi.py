"""The published description of the endpoints, held against the sandbox that publishes it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from aisolution_async.api import ENDPOINTS, DeletedFace, Endpoint, Kind, Parameter
from aisolution_async.charges import Charge
from aisolution_async.sandbox import Fault, Sandbox
from aisolution_async.sandbox.openapi import openapi

from .contract import CONTRACT

TOKEN = "sandbox-token"


def schema_of(description: dict[str, Any], endpoint: str) -> dict[str, Any]:
    schema: dict[str, Any] = description["components"]["schemas"][endpoint]
    return schema


async def test_it_is_published_without_the_token() -> None:
    async with Sandbox(token="a-token-of-ours") as sandbox, httpx.AsyncClient(base_url=sandbox.url) as client:
        response = await client.get("/_sandbox/openapi.json")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == openapi()
    assert "a-token-of-ours" not in response.text


def test_every_endpoint_of_the_table_is_described() -> None:
    description = openapi()
    assert description["openapi"].startswith("3.1")
    assert set(description["paths"]) == {endpoint.path for endpoint in ENDPOINTS.values()}
    for endpoint in ENDPOINTS.values():
        operation = description["paths"][endpoint.path]["post"]
        assert set(operation["responses"]) == {"200", "400", "401", "405", "413", "429", "431", "503"}
        form = operation["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"]
        assert list(form["properties"]) == [parameter.name for parameter in endpoint.parameters]
        assert form["required"] == [parameter.name for parameter in endpoint.parameters if parameter.required]
        assert operation["x-charges"] == {status: str(charge) for status, charge in endpoint.charges.items()}
        ok, others = schema_of(description, endpoint.name)["oneOf"]
        statuses = {ok["properties"]["status"]["const"], *others["properties"]["status"]["enum"]}
        assert statuses == {status.partition(":")[0] for status in endpoint.charges}


def test_messages_are_described_as_they_come() -> None:
    message = {
        name: schema_of(openapi(), name)["oneOf"][0]["properties"]["message"]
        for name in ("facecompare", "searchface", "delface", "gliswadetail")
    }
    assert message["facecompare"]["properties"]["similarity"]["maximum"] == 100
    assert message["searchface"]["type"] == "array"
    assert message["delface"] == {"type": "null"}
    assert message["gliswadetail"]["required"] == ["whatsapp"]


async def test_a_seventh_endpoint_needs_nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    seventh: Endpoint[DeletedFace] = Endpoint(
        name="ocr",
        command="ocr",
        summary="Read a card.",
        reply=DeletedFace,
        parameters=(Parameter("img", Kind.IMAGE),),
        charges={"OK": Charge.CHARGED, "FAIL": Charge.FREE},
    )
    monkeypatch.setitem(ENDPOINTS, "ocr", seventh)
    assert openapi()["paths"]["/v1/ocr"]["post"]["x-charges"] == {"OK": "charged", "FAIL": "free"}
    async with Sandbox() as sandbox, httpx.AsyncClient(base_url=sandbox.url) as client:
        response = await client.post("/v1/ocr", params={"token": TOKEN})
        assert response.status_code == 501
        assert (await client.post("/v1/ocr")).status_code == 401
        sandbox.faults.add(Fault("status", status="FAIL", endpoint="ocr"))
        assert (await client.post("/v1/ocr")).json()["status"] == "FAIL"
        assert sandbox.requests == {"ocr": 3}


async def schemathesis(sandbox: Sandbox, folder: Path, *options: str) -> tuple[int | None, str]:
    """The exit code and the words of a run, with warnings as errors."""
    pytest.importorskip("schemathesis")
    config = folder / "schemathesis.toml"
    config.write_text(f'[auth.openapi.token]\napi_key = "{TOKEN}"\n')
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "schemathesis.cli", "--config-file", str(config)),
        *("run", f"{sandbox.url}/_sandbox/openapi.json", "--no-color", "--generation-deterministic"),
        # What is invalid is answered by an envelope, with HTTP 200: there is nothing to reject.
        *("--checks", "all", "--exclude-checks", "negative_data_rejection", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
    )
    assert process.stdout is not None
    said = (await process.stdout.read()).decode()
    return await process.wait(), said


@pytest.mark.parametrize(
    "options",
    [
        ("--max-examples", "5", "--phases", "examples,fuzzing"),
        pytest.param(("--max-examples", "15"), marks=pytest.mark.long),
    ],
    ids=["some", "all"],
)
async def test_the_sandbox_is_as_described(tmp_path: Path, options: tuple[str, ...]) -> None:
    async with Sandbox() as sandbox:
        code, said = await schemathesis(sandbox, tmp_path, *options)
        assert code == 0, said
        assert "No issues found" in said
        # It came as far as answers that mean something.
        assert set(sandbox.requests) == set(ENDPOINTS)
        charged = {name for name, counts in sandbox.bill.by_endpoint.items() if counts.charged}
        assert charged == {name for name, told in CONTRACT.items() if Charge.CHARGED in told.charges.values()}
        assert {entry.status for entry in sandbox.bill.entries if entry.endpoint == "addface"} > {"OK", "FAIL"}


async def test_a_sandbox_that_is_not_is_found_out(tmp_path: Path) -> None:
    faults = [Fault("status", status="NEVER_HEARD_OF", endpoint="delface"), Fault("content-type", endpoint="addface")]
    async with Sandbox(faults=faults) as sandbox:
        names = [word for fault in faults for word in ("--include-operation-id", str(fault.endpoint))]
        code, said = await schemathesis(sandbox, tmp_path, "--max-examples", "5", *names, "--phases", "fuzzing")
    assert code == 1, said
    assert "Response violates schema" in said
    assert "Undocumented Content-Type" in said


def test_it_is_json() -> None:
    assert json.loads(json.dumps(openapi())) == openapi()
