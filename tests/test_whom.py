"""Who was asked, if not the vendor: each command, each result and each report says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from aisolution_async import AsyncClient, ConfigurationError, WhatsAppDetail
from aisolution_async.bulk import pretended, run_bulk, run_folder
from aisolution_async.bulk.report import ReportOptions, make_report
from aisolution_async.sandbox import Sandbox

from .commands import PROFILE, numbers, ok, run, settled
from .sheets import sane, write
from .support import TOKEN, Vendor, VendorOf

LIST = "".join(f"{number}\n" for number in ("number", *settled(3)))
MADE_UP = "SANDBOX: the answers are made up"


def title(path: Path) -> Any:
    """What the second sheet of a workbook says first."""
    return openpyxl.load_workbook(path)["Summary"]["A1"].value


def the_vendor() -> tuple[AsyncClient, Vendor]:
    """A client of the vendor's own address, and who answers there."""
    vendor = Vendor(sane)
    return AsyncClient(TOKEN, transport=vendor), vendor


@pytest.mark.usefixtures("command_environment")
def test_an_address_of_the_environment_is_told_everywhere(vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = vendor_of(lambda n: ok(PROFILE))
    monkeypatch.setenv("AISOLUTION_BASE_URL", vendor.url)
    numbers(2)
    goes = f"the questions go to {vendor.url}, and not to the vendor's address (to change that: unset AISOLUTION_BASE_U"
    asked = f"asked at {vendor.url}, which is not the vendor's address"
    bulk = ["bulk", "whatsapp-detail", "in.csv", "-o", "out.xlsx"]
    assert goes in run(*bulk, "--dry-run").stderr  # it needs no token
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    assert goes in run("call", "whatsapp-detail", "+6281387300008").stderr
    assert "leave --base-url out" in run("call", "whatsapp-detail", "+6281387300008", "--base-url", vendor.url).stderr
    sample = run(*bulk, "--sample", "1", "--plan", "plan.txt")
    assert (goes in sample.stderr, asked in sample.stderr) == (True, True)
    assert Path("plan.txt").read_text().startswith(asked)
    done = run(*bulk, "--json")
    assert done.stderr.startswith(goes)
    assert asked in done.stderr
    assert json.loads(done.stdout)["whom"] == vendor.url
    assert title(Path("out.xlsx")) == asked
    assert "asked at an address, which is not the vendor" in make_report("out.xlsx")
    assert run(*bulk, "--quiet").stderr == ""


@pytest.mark.parametrize("token", [pretended.TOKEN, "another"])
async def test_a_sandbox_is_known_by_its_token(token: str) -> None:
    """The vendor has given it to nobody; a gateway on this machine has a real one."""
    here, vendor = "http://127.0.0.1:9", Vendor(sane)
    for base_url, whom in [
        (here, pretended.SANDBOX if token == pretended.TOKEN else here),
        ("https://gateway.example/a", "https://gateway.example/a"),
        ("https://API.aisolution.credit:443/v1/", None),
        (None, None),
    ]:
        async with AsyncClient(token, base_url=base_url, transport=vendor) as client:
            assert pretended.whom(client) == whom


async def test_answers_of_a_sandbox_are_never_those_of_the_vendor(sandbox: Sandbox, tmp_path: Path) -> None:
    """The workbook and the report say so, and a run that asks the vendor takes none of them over."""
    source, output = write(tmp_path / "in.csv", LIST), tmp_path / "out.xlsx"
    ledger = tmp_path / "out.xlsx.ledger"
    async with AsyncClient(sandbox.token, base_url=sandbox.url) as client:
        summary = await run_bulk(client, WhatsAppDetail, source, output, ledger=ledger)
    assert (summary.ok, summary.whom) == (3, "sandbox")
    assert title(output) == MADE_UP
    assert MADE_UP in make_report(output)
    client, vendor = the_vendor()
    async with client:
        summary = await run_bulk(client, WhatsAppDetail, source, output, ledger=ledger)
    assert (len(vendor.requests), summary.from_ledger, summary.whom) == (3, 0, None)
    assert title(output) == "Results of in.csv"
    assert MADE_UP not in make_report(output)
    async with AsyncClient(sandbox.token, base_url=sandbox.url) as client:
        with pytest.raises(ConfigurationError, match="has answers of the vendor, and this run asks a sandbox"):
            await run_bulk(client, WhatsAppDetail, source, output, ledger=ledger)
    assert title(output) == "Results of in.csv"


async def test_a_shard_that_a_sandbox_answered_is_not_done(sandbox: Sandbox, tmp_path: Path) -> None:
    lists, output, ledger = tmp_path / "lists", tmp_path / "results", tmp_path / "results.ledger"
    lists.mkdir()
    write(lists / "a.csv", LIST)
    async with AsyncClient(sandbox.token, base_url=sandbox.url) as client:
        for finished in (1, 0):
            found = await run_folder(client, WhatsAppDetail, lists, output, ledger=ledger)
            assert (found.finished, found.ok, found.run.whom) == (finished, 3, "sandbox")
    assert MADE_UP in make_report(output, options=ReportOptions(ledger=ledger))
    client, vendor = the_vendor()
    async with client:
        await run_folder(client, WhatsAppDetail, lists, output, ledger=ledger)
    assert len(vendor.requests) == 3


@pytest.mark.usefixtures("command_environment")
def test_what_a_sandbox_answered_is_not_finished_for_the_vendor(
    vendor_of: VendorOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = vendor_of(lambda n: ok(PROFILE))
    monkeypatch.setenv("AISOLUTION_BASE_URL", vendor.url)
    monkeypatch.setenv("AISOLUTION_TOKEN", TOKEN)
    numbers(2)
    assert run("bulk", "whatsapp-detail", "in.csv", "-o", "out.csv").exit_code == 0
    assert "out.csv is finished: " in run("bulk", "--resume", "out.csv").stderr
    monkeypatch.delenv("AISOLUTION_TOKEN")
    monkeypatch.delenv("AISOLUTION_BASE_URL")
    result = run("bulk", "--resume", "out.csv")
    assert (result.exit_code, "no token: set AISOLUTION_TOKEN" in result.stderr) == (2, True)
