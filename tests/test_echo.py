"""Answers that are about another number, or another request: what is believed of them, and what is held."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import phonenumbers
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aisolution_async import (
    AISolutionError,
    AsyncClient,
    Charge,
    FaceCompare,
    Ledger,
    NotSentError,
    OutcomeUnknownError,
    WhatsAppDetail,
)
from aisolution_async.echo import Echo, Seen, differs
from aisolution_async.ledger.store import Result, Started
from aisolution_async.wire.transport import PoolTransport

from .support import TOKEN, Vendor, client_of, ok_whatsapp, picture, raw_server, says, virtual

OTHER = "+6289987654321"


def naming(*numbers: str | None, whatsapp: str = "yes") -> Vendor:
    """A vendor that names these numbers one after the other, and the last one from then on."""

    def script(request: httpx.Request, turn: int) -> httpx.Response:
        number = numbers[min(turn, len(numbers) - 1)]
        return ok_whatsapp(whatsapp) if number is None else says("OK", {"number": number, "whatsapp": whatsapp})

    return Vendor(script)


def asks(count: int) -> list[WhatsAppDetail]:
    return [WhatsAppDetail(f"+62813{number:08}", key=number) for number in range(count)]


# Which numbers are surely another one.


def test_no_number_that_phonenumbers_knows_is_taken_for_another() -> None:
    kinds = [phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE]
    compared = 0
    for region in sorted(phonenumbers.SUPPORTED_REGIONS):
        for kind in [*kinds, *set(phonenumbers.PhoneNumberType.values()) - set(kinds)]:
            number = phonenumbers.example_number_for_type(region, kind)
            if number is None:
                continue
            form = phonenumbers.PhoneNumberFormat
            written = [phonenumbers.format_number(number, f) for f in (form.E164, form.INTERNATIONAL, form.NATIONAL)]
            written += [re.sub(r"[^0-9]", "", text) for text in written]
            written.append("00" + written[0][1:])
            written.append(phonenumbers.national_significant_number(number))
            for asked in written:
                for said in written:
                    assert differs(asked, said) is not True, (region, asked, said)
                    compared += 1
    assert compared > 50_000


@pytest.mark.parametrize(
    ("asked", "said", "different"),
    [
        ("+6281387300008", "+6281387300008", False),
        ("081387300008", "+6281387300008", False),
        ("+6281387300008", "081387300008", False),
        ("006281387300008", "6281387300008", False),
        ("+6281387300008", "+62 813-8730-0008", False),
        ("+6281387300008", "+6281387300009", True),
        ("+6281387300008", "+6284921089722", True),
        ("+6281387300008", "+62 813-8730-0018", True),
        ("00123", "+62123", False),
        ("00123", "+62124", True),
        ("+6281387300008", "0008", False),
        # What proves nothing.
        ("+6281387300008", "+62813****0009", None),
        ("+6281387300008", None, None),
        ("+6281387300008", "", None),
        ("+6281387300008", "+", None),
        ("+6281387300008", "unknown", None),
        ("+6281387300008", "6281387300008.0", None),
        ("+6281387300008", "6.28E+12", None),
        ("+6281387300008", "+6281387300009 ext. 1", None),
        ("+6281387300008", "٦٢٨١٣٨٧٣٠٠٠٠٩", None),
        ("", "+6281387300009", None),
        ("000", "+6281387300009", None),
    ],
)
def test_what_is_another_number(asked: str, said: str | None, different: bool | None) -> None:
    assert differs(asked, said) is different


@given(asked=st.from_regex(r"\+?[0-9]{5,15}", fullmatch=True), said=st.text(max_size=30))
@example(asked="+6281387300008", said="0")
def test_no_text_breaks_the_comparison(asked: str, said: str) -> None:
    assert differs(asked, asked) is not True
    if differs(asked, said) is not None:
        digits = re.sub(r"[^0-9]", "", said)
        assert digits
        assert differs(asked, digits) is differs(asked, said)


def test_the_states_of_an_echo(caplog: pytest.LogCaptureFixture) -> None:
    echo = Echo()
    assert not echo.is_another("1234567", "1234567")
    assert echo.state is Seen.ECHO
    assert [echo.is_another("1234567", "7654321") for _ in range(9)] == [True] * 9
    assert (echo.state, echo.holds) == (Seen.ECHO, True)

    echo = Echo()
    assert echo.is_another("1234567", "7654321")
    assert not echo.is_another("1234567", "12****7")
    assert echo.is_another("1234567", "7654321")
    assert (echo.state, echo.holds) == (Seen.NOTHING, True)
    assert caplog.records == []
    assert echo.is_another("1234567", "7654321")
    assert (echo.state, echo.holds) == (Seen.CONVENTION, False)
    assert not echo.is_another("1234567", "1234567")  # one that was under way: nothing is sent any more all the same
    assert echo.is_another("1234567", "7654321")
    assert echo.state is Seen.CONVENTION
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "must answer with the number" in caplog.text
    assert "7654321" not in caplog.text


# A client that is answered for another number.


@pytest.mark.parametrize("whatsapp", ["yes", "no", "checking", "unavailable", "new word"])
async def test_an_answer_about_another_number_is_unknown_and_held(whatsapp: str, tmp_path: Path) -> None:
    vendor = naming(None, OTHER, None, whatsapp=whatsapp)
    async with Ledger(tmp_path / "l") as ledger, client_of(vendor, ledger=ledger, retry=2) as client:
        first, second, third = asks(3)
        assert (await client.send(first)).number == first.number
        with pytest.raises(OutcomeUnknownError, match="another number") as caught:
            await client.send(second)
        error = caught.value
        assert (error.charge, error.status, error.http_status) == (Charge.UNKNOWN, "OK", 200)
        assert error.message == {"number": OTHER, "whatsapp": whatsapp}
        assert error.body
        assert OTHER not in str(error)
        assert len(vendor.requests) == 2
        with pytest.raises(OutcomeUnknownError, match="not sent"):
            await client.send(second)
        assert (await client.send(third)).number == third.number
        assert len(vendor.requests) == 3
        assert client.tally.unknown == 1
        (held,) = ledger.held()
        assert held.reply is not None
        assert OTHER.encode() in held.reply


async def test_twins_do_not_get_another_numbers_answer() -> None:
    vendor = naming(None, OTHER, None)
    async with client_of(vendor) as client:
        first, second = asks(2)
        outcomes = await collect(client, [first, second, second, second])
    assert len(vendor.requests) == 2
    assert [outcome.ok for outcome in outcomes] == [True, False, False, False]
    assert all(isinstance(outcome.error, OutcomeUnknownError) for outcome in outcomes[1:])
    assert [outcome.charge for outcome in outcomes] == [Charge.CHARGED, Charge.UNKNOWN, Charge.FREE, Charge.FREE]


async def collect(client: AsyncClient, calls: list[Any], **options: Any) -> list[Any]:
    async with client.batch(calls, ordered=True, **options) as batch:
        return [outcome async for outcome in batch]


async def test_it_may_be_bought_again_by_who_says_so() -> None:
    vendor = naming(None, OTHER, None)
    async with client_of(vendor, retry_unknown=1) as client:
        first, second = asks(2)
        await client.send(first)
        reply = await client.send(second)
    assert reply.number == second.number
    assert [attempt.charge for attempt in reply.attempts] == [Charge.UNKNOWN, Charge.CHARGED]


@pytest.mark.parametrize("concurrency", [1, 2, 50])
async def test_a_server_that_names_one_number_to_everybody_is_told_so_and_asked_no_more(
    concurrency: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vendor = naming(OTHER)
    async with LiftedLedger(tmp_path / "l") as ledger, client_of(vendor, ledger=ledger) as client:
        outcomes = await collect(client, asks(500), concurrency=concurrency)
        assert 3 <= len(vendor.requests) <= 2 + concurrency
        sent = [outcome for outcome in outcomes if outcome.charge is Charge.UNKNOWN]
        rest = [outcome for outcome in outcomes if outcome.charge is Charge.FREE]
        assert len(sent) == len(vendor.requests)
        assert len(sent) + len(rest) == 500
        assert all(isinstance(outcome.error, OutcomeUnknownError) for outcome in sent)
        assert all(type(outcome.error) is NotSentError and outcome.attempts == () for outcome in rest)
        assert "must answer with the number" in str(rest[0].error)
        with pytest.raises(NotSentError, match="not sent"):
            await client.send(WhatsAppDetail("+6281300000999"))
        # Nothing is held for those that showed it, and each of them is known.
        assert len(ledger.found) == len(sent)
        assert not any(result.holds for result in ledger.found.values())
        assert all(result.attempt.charge is Charge.UNKNOWN and result.reply for result in ledger.found.values())
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1


class LiftedLedger(Ledger):
    """A ledger that notes the latest result of each attempt."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.found: dict[int, Result] = {}

    async def end(self, started: Started, result: Result) -> None:
        await super().end(started, result)
        if result.sent:
            self.found[started.id] = result


async def test_other_endpoints_and_what_is_in_the_ledger_are_answered_all_the_same(tmp_path: Path) -> None:
    def script(request: httpx.Request, turn: int) -> httpx.Response:
        if "facecompare" in request.url.path:
            return says("OK", {"similarity": 1, "result": "NOT SURE"})
        return ok_whatsapp() if b"813000000" not in request.content else says("OK", {"number": OTHER, "whatsapp": "no"})

    known = WhatsAppDetail("+6281387300008")
    async with Ledger(tmp_path / "l") as ledger:
        async with client_of(Vendor(script), ledger=ledger) as client:
            await client.send(known)
        async with client_of(Vendor(script), ledger=ledger) as client:
            await collect(client, asks(5), concurrency=1)
            assert client.tally.unknown == 3
            assert (await client.send(known)).recorded
            assert (await client.send(FaceCompare(picture(1), picture(2)))).charge is Charge.CHARGED
        async with client_of(Vendor(script), ledger=ledger) as client:
            assert (await client.send(WhatsAppDetail("+6281387300009"))).charge is Charge.CHARGED  # another client


async def test_a_call_that_waits_to_be_repeated_ends_as_it_stands() -> None:
    waiting, others = asks(2)[0], asks(4)[1:]
    leave = asyncio.Event()

    async def script(request: httpx.Request, turn: int) -> httpx.Response:
        if turn == 0:
            return says("RETRY_LATER")
        if turn == 3:
            await leave.wait()
        return says("OK", {"number": OTHER, "whatsapp": "yes"})

    vendor = Vendor(script)
    async with client_of(vendor, retry=5, retry_unknown=5) as client:
        calls = [asyncio.ensure_future(client.send(call)) for call in (waiting, *others)]
        leave.set()
        ended = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(error, AISolutionError) for error in ended)
    assert all(isinstance(error, OutcomeUnknownError) for error in ended[1:])
    assert len(vendor.requests) <= 6


@virtual
async def test_a_call_whose_own_answers_show_it_does_not_wait_for_another() -> None:
    times: list[float] = []

    def script(request: httpx.Request, turn: int) -> httpx.Response:
        times.append(asyncio.get_running_loop().time())
        return says("OK", {"number": OTHER, "whatsapp": "yes"})

    async with client_of(Vendor(script), retry_unknown=9) as client:
        with pytest.raises(OutcomeUnknownError, match="another number"):
            await client.send(asks(1)[0])
        assert asyncio.get_running_loop().time() == times[-1]
    assert len(times) == 3
    assert len(set(times)) == 3


async def test_an_early_answers_access_key_is_not_kept(tmp_path: Path) -> None:
    leave = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(http(b'{"status":"OK","message":{"group_id":"LxiKPLIM","person_id":"c5r7","person_count":1}}'))
        await leave.wait()

    image = picture(1) + bytes(1_900_000)
    async with raw_server(serve) as url, Ledger(tmp_path / "l") as ledger:
        async with AsyncClient(TOKEN, base_url=url, ledger=ledger) as client:
            with pytest.raises(OutcomeUnknownError):
                await client.add_face(image)
        leave.set()
        (kept,) = ledger.answers()
        assert kept.reply is not None
        assert b"c5r7" in kept.reply
        assert b"LxiK" not in kept.reply


async def test_a_ledger_that_fails_keeps_the_hold(tmp_path: Path) -> None:
    class Failing(LiftedLedger):
        async def end(self, started: Started, result: Result) -> None:
            if not result.holds and started.id in self.found:
                await self.aclose()
            await super().end(started, result)

    async with Failing(tmp_path / "l") as ledger, client_of(naming(OTHER), ledger=ledger) as client:
        outcomes = await collect(client, asks(3), concurrency=1)
        assert [outcome.charge for outcome in outcomes] == [Charge.UNKNOWN] * 3


# Raw servers: answers that are another request's, on connections of our own pool.


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    assert length is not None
    return await reader.readexactly(int(length[1]))


def http(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


def profile(request: bytes) -> bytes:
    number = re.search(rb"number=%2B(\d+)", request)
    assert number is not None
    return http(b'{"status":"OK","message":{"number":"+%b","whatsapp":"yes"}}' % number[1])


async def test_answers_that_are_shifted_by_one_are_stopped_at_the_first(caplog: pytest.LogCaptureFixture) -> None:
    """The extra answer comes when the next request has left: only the number tells."""
    served_requests = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served_requests
        answer = profile(await read_request(reader))
        served_requests += 1
        writer.write(answer)
        while True:
            request = await read_request(reader)
            served_requests += 1
            writer.write(answer)  # the one before it, again
            answer = profile(request)

    async with raw_server(serve) as url, AsyncClient(TOKEN, base_url=url) as client:
        outcomes = await collect(client, asks(50), concurrency=1)
    assert [outcome.ok for outcome in outcomes].count(False) == 1  # the first that a connection served as its second
    assert all(outcome.reply.number == outcome.call.number for outcome in outcomes if outcome.ok)
    assert served_requests == 50
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert not re.search(r"\+?62\d{5}", caplog.text)


@pytest.mark.parametrize(
    ("answer", "charge"),
    [
        (http(b'{"status":"OK","message":{"similarity":99,"result":"SAME PERSON"}}'), Charge.UNKNOWN),
        (http(b'{"status":"NEW_WORD","message":null}'), Charge.UNKNOWN),
        (http(b"<html>", b"500 Oops"), Charge.UNKNOWN),
        (http(b'{"status":"INVALID_REQUEST","message":"no"}'), Charge.FREE),
        (http(b'{"status":"IMAGE_INVALID_SIZE","message":"no"}', b"413 Too Large"), Charge.FREE),
        (http(b"too large", b"413 Too Large"), Charge.FREE),
        (http(b"who are you", b"401 No"), Charge.FREE),
    ],
)
async def test_an_answer_that_comes_before_the_request_is_out_is_only_believed_when_it_refuses(
    answer: bytes, charge: Charge
) -> None:
    leave = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await leave.wait()  # not a byte of the images is read

    image = picture(1) + bytes(1_900_000)
    async with raw_server(serve) as url, AsyncClient(TOKEN, base_url=url, retry=0) as client:
        with pytest.raises(AISolutionError) as caught:
            await client.face_compare(image, image[:-1])
        leave.set()
        error = caught.value
        assert error.charge is charge
        assert isinstance(error, OutcomeUnknownError) is (charge is Charge.UNKNOWN)
        if isinstance(error, OutcomeUnknownError):
            assert error.body == answer.partition(b"\r\n\r\n")[2]
            assert "before the request was out" in str(error)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"", "the server closed the connection without answering"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
            "the server closed the connection before the answer was whole",
        ),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "what the server sent is no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 1_200_000, "the answer is over 1 MiB"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 30_000, "the answer is over 1 MiB, or its head over 64 KiB"),
    ],
)
@pytest.mark.parametrize("transport", [PoolTransport, httpx.AsyncHTTPTransport])
async def test_each_way_to_get_no_answer_has_its_words(
    said: bytes, words: str, transport: Callable[[], httpx.AsyncBaseTransport]
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(said)
        await writer.drain()

    async with raw_server(serve) as url, AsyncClient(TOKEN, base_url=url, transport=transport()) as client:
        with pytest.raises(OutcomeUnknownError) as caught:
            await client.whatsapp_detail("+6281387300008")
        if transport is PoolTransport or "its head" not in words:
            assert words in str(caught.value)
        assert caught.value.charge is Charge.UNKNOWN
