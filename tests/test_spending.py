"""One place says what is a limit, a price and an endpoint, for the client, a batch, a ledger, files and commands."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from aisolution_async import (
    AsyncClient,
    BudgetExhaustedError,
    Charge,
    ConfigurationError,
    Ledger,
    WhatsAppDetail,
)
from aisolution_async.api import CALLS, ENDPOINTS, endpoint_of
from aisolution_async.bulk import forecast_bulk, run_bulk
from aisolution_async.cli.commands import aisolution
from aisolution_async.sandbox.faults import Fault
from aisolution_async.spending import Spending

from .support import Vendor, client_of, in_turn, ok_whatsapp, says

NUMBER = "+6281387300008"
SPELLINGS = [
    "gliswadetail",
    "whatsapp-detail",
    "whatsapp_detail",
    "WhatsAppDetail",
    "GLISWADETAIL",
    " Whatsapp-Detail ",
]
CENTS = Decimal("0.02")


def vendor() -> Vendor:
    return in_turn(ok_whatsapp())


async def in_client(path: Path, **options: Any) -> Any:
    async with client_of(vendor(), **options) as client:
        return await client.whatsapp_detail(NUMBER)


async def in_client_with_ledger(path: Path, **options: Any) -> Any:
    return await in_client(path, ledger=path / "a.ledger", **options)


async def in_client_with_open_ledger(path: Path, **options: Any) -> Any:
    async with Ledger(path / "a.ledger") as ledger:
        return await in_client(path, ledger=ledger, **options)


async def in_batch(path: Path, **options: Any) -> Any:
    async with client_of(vendor()) as client, client.batch([WhatsAppDetail(NUMBER)], **options) as batch:
        (outcome,) = [outcome async for outcome in batch]
    if outcome.error is not None:
        raise outcome.error
    return outcome.reply


async def in_batch_with_ledger(path: Path, **options: Any) -> Any:
    return await in_batch(path, ledger=path / "a.ledger", **options)


async def in_ledger(path: Path, **options: Any) -> Any:
    async with Ledger(path / "a.ledger", **options) as ledger:
        return await in_client(path, ledger=ledger)


async def in_bulk(path: Path, **options: Any) -> Any:
    (path / "in.csv").write_text(f"number\n{NUMBER}\n")
    async with client_of(vendor()) as client:
        summary = await run_bulk(client, WhatsAppDetail, path / "in.csv", path / "out.csv", **options)
    if summary.over_budget:
        raise BudgetExhaustedError("max_cost")
    return None


async def in_bulk_with_ledger(path: Path, **options: Any) -> Any:
    return await in_bulk(path, ledger=path / "a.ledger", **options)


DOORS = [
    in_client,
    in_client_with_ledger,
    in_client_with_open_ledger,
    in_batch,
    in_batch_with_ledger,
    in_ledger,
    in_bulk,
    in_bulk_with_ledger,
]
doors = pytest.mark.parametrize("door", DOORS)


@doors
@pytest.mark.parametrize("name", [*SPELLINGS, WhatsAppDetail])
async def test_a_price_is_understood_in_every_spelling(door: Callable[..., Any], name: Any, tmp_path: Path) -> None:
    await door(tmp_path, prices={name: CENTS}, max_cost=CENTS)
    (tmp_path / "a.ledger").unlink(missing_ok=True)
    (tmp_path / "out.csv").unlink(missing_ok=True)
    with pytest.raises(BudgetExhaustedError, match="max_cost"):
        await door(tmp_path, prices={name: CENTS}, max_cost=CENTS / 2)


@doors
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"prices": {"whatsapp": CENTS}}, "prices: no endpoint 'whatsapp'; there are facecompare, idholding"),
        ({"prices": {7: CENTS}}, "prices: no endpoint 7"),
        ({"prices": {str: CENTS}}, "prices: no endpoint"),
        ({"prices": [CENTS]}, "prices is a list"),
        ({"prices": {"gliswadetail": CENTS, "WhatsAppDetail": CENTS}}, "prices has gliswadetail twice"),
        *(
            ({"prices": {"whatsapp-detail": price}}, 'the price of gliswadetail must be a Decimal .* Decimal."0.05"')
            for price in (1, 0.02, True, None, "0.02", math.nan, Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"))
        ),
        ({"prices": {"gliswadetail": Decimal(-1)}}, "the price of gliswadetail must be"),
        ({"prices": {"gliswadetail": Decimal("0.0000001")}}, "the price of gliswadetail must be"),
        ({"prices": {"gliswadetail": Decimal(10**9)}}, "the price of gliswadetail must be"),
        *(
            ({"prices": {"gliswadetail": CENTS}, "max_cost": cost}, "max_cost must be a Decimal")
            for cost in (1, 2.5, True, "1", Decimal("NaN"), Decimal("-Infinity"), Decimal(-1))
        ),
        ({"max_cost": CENTS}, "max_cost needs prices|needs the price of"),
        ({"max_cost": CENTS, "prices": {}}, "max_cost needs prices|needs the price of"),
        *(({"max_charges": most}, "max_charges must be a whole number") for most in (-1, True, 1.0, 1.5, "1")),
    ],
)
async def test_what_is_no_limit_and_no_price_is_refused_everywhere(
    door: Callable[..., Any], options: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        await door(tmp_path, **options)


@doors
@pytest.mark.parametrize("most", [Decimal(0), Decimal("0.019999")])
async def test_a_limit_may_be_nothing(door: Callable[..., Any], most: Decimal, tmp_path: Path) -> None:
    with pytest.raises(BudgetExhaustedError):
        await door(tmp_path, max_cost=most, prices={"gliswadetail": CENTS})


@pytest.mark.parametrize("seconds", [True, False, -1, math.nan, "60", Decimal(60)])
async def test_reuse_for_is_checked(seconds: Any, tmp_path: Path) -> None:
    for door in (in_client_with_ledger, in_client_with_open_ledger, in_batch_with_ledger, in_bulk_with_ledger):
        with pytest.raises(ConfigurationError, match="reuse_for must be seconds"):
            await door(tmp_path, reuse_for=seconds)


async def test_reuse_for_needs_a_ledger(tmp_path: Path) -> None:
    for door in (in_client, in_batch, in_bulk):
        with pytest.raises(ConfigurationError, match="reuse_for says how old .* give ledger= too"):
            await door(tmp_path, reuse_for=60)


async def test_a_batch_has_its_own_reuse_for_on_the_clients_ledger(tmp_path: Path) -> None:
    asked = vendor()
    path = tmp_path / "a.ledger"
    for options in ({"ledger": path}, {"ledger": Ledger(tmp_path / "b.ledger")}):
        asked.requests.clear()
        async with client_of(asked, **options) as client:
            if not isinstance(options["ledger"], Path):
                await options["ledger"].open()
            for reuse_for, sent in ((None, 1), (0, 2), (3600, 2)):
                async with client.batch([WhatsAppDetail(NUMBER)], reuse_for=reuse_for) as batch:
                    assert [outcome.ok async for outcome in batch] == [True]
                assert len(asked.requests) == sent
            await client.whatsapp_detail(NUMBER)  # the batches have not closed it
            assert len(asked.requests) == 2
        if not isinstance(options["ledger"], Path):
            await options["ledger"].aclose()


async def test_a_batch_that_comes_first_opens_the_clients_ledger(tmp_path: Path) -> None:
    client = client_of(vendor(), ledger=tmp_path / "a.ledger")
    async with client.batch([WhatsAppDetail(NUMBER)], reuse_for=60) as batch:
        assert [outcome.ok async for outcome in batch] == [True]
    assert (await client.whatsapp_detail(NUMBER)).recorded is not None
    await client.aclose()


@pytest.mark.parametrize("name", [*SPELLINGS, WhatsAppDetail])
async def test_charge_rules_are_understood_in_every_spelling(name: Any) -> None:
    rules = {name: {"FAIL": Charge.CHARGED}}
    async with client_of(in_turn(says("FAIL", "x")), charge_rules=rules) as client:
        async with client.batch([WhatsAppDetail(NUMBER)]) as batch:
            assert [outcome.charge async for outcome in batch] == [Charge.CHARGED]
    with pytest.raises(ConfigurationError, match="charge_rules has gliswadetail twice"):
        client_of(vendor(), charge_rules={name: {}, "/v1/gliswadetail": {}})


def test_every_endpoint_has_its_spellings() -> None:
    for call in CALLS:
        method = call.endpoint.command.replace("-", "_")
        assert hasattr(AsyncClient, method)
        for name in (call.endpoint.name, call.endpoint.command, method, call.__name__, call):
            assert endpoint_of(name) is ENDPOINTS[call.endpoint.name]
    for other in ("", "face", "v1", None, 7, int, "facecompare2", "face compare"):
        assert endpoint_of(other) is None
    assert Spending.of(prices={"delete_face": CENTS}).prices == {"delface": CENTS}
    assert Fault("hang", endpoint="add-face") == Fault("hang", endpoint="addface")


@pytest.mark.parametrize("name", SPELLINGS)
async def test_a_forecast_and_columns(name: str, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(f"x,phone\n1,{NUMBER}\n")
    async with client_of(vendor()) as client:
        columns = {f"{name}.number": "phone"}
        found = await forecast_bulk(client, WhatsAppDetail, tmp_path / "in.csv", columns=columns, prices={name: CENTS})
        assert found.cost == CENTS
        with pytest.raises(ConfigurationError, match="has no"):
            await forecast_bulk(client, WhatsAppDetail, tmp_path / "in.csv", columns={"addface.number": "phone"})


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_command_line_understands_every_spelling(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text(f"number\n{NUMBER}\n")
    Path("faces.csv").write_text(f"img1,img2,number\n1.jpg,2.jpg,{NUMBER}\n")

    def run(*args: str) -> Any:
        return CliRunner().invoke(aisolution, args)

    result = run("bulk", name, "in.csv", "--dry-run", "--json", "--price", f"{name}=0.02")
    assert (result.exit_code, '"cost": "0.02"' in result.stdout) == (0, True), result.output
    result = run("bulk", "FaceCompare", "faces.csv", "--dry-run", "--endpoint", name, "--price", f"{name}=0.02")
    assert "whatsapp-detail" in result.output, result.output
    result = run("bulk", name, "in.csv", "--dry-run", "--price", f"{name}=1", "--price", "gliswadetail=2")
    assert result.exit_code == 2
    assert "gliswadetail has two prices" in result.stderr
    assert "a phone number" in run("call", name, "--help").stdout


def test_an_invoice_is_understood_in_every_spelling(tmp_path: Path) -> None:
    asyncio.run(in_client_with_ledger(tmp_path))
    summary = Ledger(tmp_path / "a.ledger").summary()
    (day,) = {str(line.day) for line in summary.lines}
    for name in [*SPELLINGS, "/v1/gliswadetail"]:
        (tmp_path / "invoice.csv").write_text(f"day,endpoint,count\n{day},{name},1\n")
        args = ["ledger", "reconcile", str(tmp_path / "a.ledger"), "--invoice", str(tmp_path / "invoice.csv")]
        result = CliRunner().invoke(aisolution, args)
        assert result.exit_code == 0, (name, result.output)
