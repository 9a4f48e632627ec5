"""A ledger given by URL: what it is taken for, what is refused, and that no password is shown."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from aisolution_async import AsyncClient, ConfigurationError, Ledger, LedgerError
from aisolution_async.bulk.origins import Origin, origin_of, write_note
from aisolution_async.ledger import open_ledger
from aisolution_async.ledger.urls import Server, copied, open_peek, place_of

from .batches import asks, taken
from .commands import run
from .servers import running
from .support import client_of, in_turn, ok_whatsapp

PASSWORD = "s3cret%2Fp%40ss"


@pytest.mark.parametrize(
    ("url", "shown", "schema"),
    [
        ("postgresql://host/db?schema=applicants", "postgresql://host/db?schema=applicants", "applicants"),
        ("postgres://host/db", "postgresql://host/db?schema=aisolution", "aisolution"),
        ("PostgreSQL://u@h:5433/db", "postgresql://u@h:5433/db?schema=aisolution", "aisolution"),
        (f"postgresql://u:{PASSWORD}@h/db?schema=a", "postgresql://u@h/db?schema=a", "a"),
        (f"postgresql://u@h/db?password={PASSWORD}&schema=a", "postgresql://u@h/db?schema=a", "a"),
        (
            f"postgresql://u:{PASSWORD}@h1:1,[::1]:2/db?sslmode=verify-full&sslpassword={PASSWORD}&target_session_attrs=any",
            "postgresql://u@h1:1,[::1]:2/db?sslmode=verify-full&target_session_attrs=any&schema=aisolution",
            "aisolution",
        ),
        (
            "postgresql://u:@/db?host=/var/run/postgresql&schema=a",
            "postgresql://u@/db?host=/var/run/postgresql&schema=a",
            "a",
        ),
        ("postgresql://", "postgresql://?schema=aisolution", "aisolution"),
        (
            f" \tpostgres://u:{PASSWORD}@host/db?schema=a\n",  # as it is read from a file
            "postgresql://u@host/db?schema=a",
            "a",
        ),
    ],
)
def test_a_url_is_a_server_and_shows_no_password(url: str, shown: str, schema: str) -> None:
    place = place_of(url)
    assert isinstance(place, Server)
    assert (str(place), place.schema) == (shown, schema)
    assert "s3cret" not in repr(place) + str(place) + place.name + repr(place.address)
    # What is shown leads to the same ledger: a file of problems remembers it so.
    again = place_of(shown)
    assert str(again) == shown
    assert again == place
    assert hash(again) == hash(place)
    assert "schema" not in place.address.value


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///calls.ledger",
        "file:/calls.ledger",
        "mysql://u:s3cret@host/db",
        "https://host/db",
        "postgresql+psycopg://u:s3cret@host/db",
        "jdbc:postgresql://u:s3cret@host/db",
        " mysql://u:s3cret@host/db",
        "host=db dbname=kyc password=s3cret",
        "password = 's3cret' host = db",
        "postgresql:/host/db",
        "postgresql://u:s3cret/a@host/db",
        "postgresql://u:s3cret?a@host/db",
        "postgresql://host:s3cret/db",
        "postgresql://host/db?schema=",
        "postgresql://host/db?schema=A",
        "postgresql://host/db?schema=a&schema=b",
        'postgresql://host/db?schema="s3cret',
        "postgresql://host/db?schema=pg_catalog",
        "postgresql://host/db?s3cret",
        "postgresql://host/db\0",
        Path("postgresql://u:s3cret@host/db"),
        Path("mysql://u:s3cret@host/db"),
    ],
)
def test_any_other_url_is_refused_and_taken_for_no_file(
    url: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for use in (open_ledger, lambda url: AsyncClient("token", ledger=url), Ledger, open_peek):
        with pytest.raises(ConfigurationError) as caught:
            use(url)
        traceback.TracebackException.from_exception(caught.value, capture_locals=True)  # as tools of others do
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path", ["calls.ledger", "C:/calls.ledger", "c:\\calls.ledger", "./a:/b", "user=5/a b.ledger", Path("x") / "y"]
)
def test_a_path_is_a_path(path: str | Path) -> None:
    assert place_of(path) == Path(path)
    assert isinstance(open_ledger(path), Ledger)


def test_a_url_without_the_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    for use in (open_ledger, open_peek, lambda url: AsyncClient("token", ledger=url)):
        with pytest.raises(ConfigurationError, match=r"pip install 'aisolution-async\[postgres\]'") as caught:
            use(f"postgresql://u:{PASSWORD}@host/db")
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{PASSWORD}@127.0.0.1:1/db?connect_timeout=2",
        f"postgresql://u@127.0.0.1:1/db?password={PASSWORD}&connect_timeout=2",
        f"postgresql://u:{PASSWORD}@127.0.0.1:1/db?sslmode=never",
        f"postgresql://u:{PASSWORD}@127.0.0.1:1/db?no_such_option={PASSWORD}",
    ],
)
async def test_a_server_that_is_not_there_is_told_without_the_password(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("psycopg")
    caplog.set_level(logging.DEBUG)
    ledger = open_ledger(url)
    with pytest.raises(LedgerError, match="cannot be reached") as caught:
        await ledger.open()
    with pytest.raises(LedgerError, match="cannot be reached") as read:
        ledger.summary()
    for error in (caught, read):
        said = "".join(traceback.format_exception(error.value)) + repr(ledger) + caplog.text
        assert "s3cret" not in said


async def test_a_client_and_a_batch_take_a_url(server_url: str) -> None:
    vendor = in_turn(ok_whatsapp())
    async with client_of(vendor, ledger=server_url) as client:
        assert all(outcome.ok for outcome in await taken(client.batch(asks(20))))
    async with client_of(vendor) as client:
        outcomes = await taken(client.batch(asks(20), ledger=server_url))
    assert all(outcome.from_ledger for outcome in outcomes)
    assert len(vendor.requests) == 20


@pytest.mark.usefixtures("command_environment")
def test_the_command_line_takes_a_url(tmp_path: Path) -> None:
    url = running().url(schema="applicants_sandbox")
    source = tmp_path / "list.csv"
    source.write_text("id,phone\n" + "".join(f"A-{n},+628120000000{n}\n" for n in range(8)))
    command = ["bulk", "whatsapp-detail", str(source), "--number", "phone", "--key", "id", "--sandbox", "--json"]
    first = run(*command, "-o", str(tmp_path / "one.csv"), "--ledger", url)
    again = run(*command, "-o", str(tmp_path / "two.csv"), "--ledger", url)
    assert first.exit_code == again.exit_code
    told = json.loads(again.stdout)
    assert told["from_ledger"] == json.loads(first.stdout)["ok"]
    assert told["ledger"] == str(place_of(url))
    assert json.loads(run("ledger", "show", url, "--json").stdout)["charged"] == json.loads(first.stdout)["charged"]
    assert len(run("ledger", "attempts", url, "--json").stdout.splitlines()) >= 8
    assert run("ledger", "export", url, "-o", str(tmp_path / "answers.csv")).exit_code == 0
    assert len((tmp_path / "answers.csv").read_text().splitlines()) > 1
    assert run("report", url, "-o", str(tmp_path / "report.html")).exit_code == 0
    assert "applicants_sandbox" in (tmp_path / "report.html").read_text()
    dry = run(*command, "-o", str(tmp_path / "three.csv"), "--ledger", url, "--dry-run")
    assert json.loads(dry.stdout)["from_ledger"] == told["from_ledger"]
    refused = run("ledger", "show", "mysql://u:s3cret@host/db")
    assert refused.exit_code == 2
    assert "s3cret" not in refused.stderr
    assert "PostgreSQL" in refused.stderr
    assert not (tmp_path / "postgresql:").exists()


def test_a_file_of_problems_remembers_a_url_without_its_password(tmp_path: Path) -> None:
    path = tmp_path / "problems.csv"
    path.write_text("id\n")
    ledger = place_of(f"postgresql://u:{PASSWORD}@h/db?schema=a")
    write_note(path, Origin(ledger, tmp_path / "out.csv", "00"), None, ())
    found = origin_of(path)
    assert found is not None
    assert found.ledger == ledger
    assert "s3cret" not in (tmp_path / "problems.csv.of").read_text()


@pytest.mark.usefixtures("command_environment")
@pytest.mark.parametrize("blank", ["", " "])
def test_a_configuration_that_nobody_named_leads_to_no_server(tmp_path: Path, blank: str) -> None:
    (tmp_path / "list.csv").write_text("phone\n+6281200000000\n")
    (tmp_path / "aisolution.toml").write_text(f'[bulk]\nledger = "{blank}postgresql://elsewhere/db?schema=a"\n')
    refused = run("bulk", "whatsapp-detail", "list.csv", "-o", "out.csv")
    assert refused.exit_code == 2
    assert "leads out of this folder" in refused.stderr


def test_a_copy_for_figures_is_like_the_ledger(server_url: str) -> None:
    import asyncio

    async def use() -> None:
        async with client_of(in_turn(ok_whatsapp()), ledger=server_url) as client:
            await taken(client.batch(asks(5)))

    asyncio.run(use())
    with copied(Server(server_url)) as db:
        found: list[Any] = db.execute("SELECT typeof(identity), typeof(reply), state, answer FROM attempts").fetchall()
    assert found == [("blob", "blob", "charged", 1)] * 5
