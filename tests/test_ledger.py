"""The ledger through the client: resume, held calls, budgets, faults, and what is in the file."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import sqlite3
import stat
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aisolution_async import (
    AddFace,
    AISolutionError,
    AsyncClient,
    BudgetExhaustedError,
    Charge,
    ConfigurationError,
    DeleteFace,
    FaceCompare,
    LedgerError,
    NotSentError,
    OutcomeUnknownError,
    Retry,
    StatusError,
    WhatsAppDetail,
)
from aisolution_async.ledger import State
from aisolution_async.sandbox import Sandbox

from . import forks
from .batches import asks, taken
from .crash import CHILD, CountingSandbox, one_round
from .ledgers import ledger_at
from .support import TOKEN, Vendor, client_of, examples, in_turn, ok_whatsapp, picture, says, virtual

CHARGED, FREE, UNKNOWN = Charge.CHARGED, Charge.FREE, Charge.UNKNOWN
NUMBER = "6281387300008"


# ---------------------------------------------------------------------------------------------------- resume


async def test_what_was_answered_is_not_asked_again(place: Path | str) -> None:
    vendor = in_turn(ok_whatsapp())
    async with client_of(vendor, ledger=place) as client:
        first = await client.whatsapp_detail(f"+{NUMBER}", key="A-1")
        assert first.charge is CHARGED
        assert first.answered_at is None
        assert first.attempts[0].recorded is True
        again = await client.whatsapp_detail(f"00{NUMBER}", key="A-2")
        assert again == first
        assert (again.charge, again.attempts) == (FREE, ())
        assert again.answered_at is not None
    async with client_of(vendor) as client:
        batch = client.batch(
            [WhatsAppDetail(f"+{NUMBER}"), WhatsAppDetail("6281300000")], ledger=str(place), ordered=True
        )
        outcomes = await taken(batch)
        assert [o.from_ledger for o in outcomes] == [True, False]
        assert [o.charge for o in outcomes] == [FREE, CHARGED]
    assert len(vendor.requests) == 2


async def test_every_reply_survives_the_ledger(place: Path | str) -> None:
    photo = picture(1)
    vendor = in_turn(
        says("OK", {"similarity": 97.501, "result": "SAME PERSON", "new": [1]}),
        says("OK", {"group_id": "LxiKPLIMGFpXzXas", "person_id": "p", "person_count": 1}),
        says("OK", [{"confidence": 99.5, "person_id": "p"}]),
        says("OK", None),
    )
    async with client_of(vendor, ledger=place) as client:
        for _ in range(2):
            face = await client.face_compare(photo, picture(2))
            assert (face.similarity, face.result, face.model_extra) == (97.501, "SAME PERSON", {"new": [1]})
            added = await client.add_face(photo, key="A-1")
            assert (added.person_id, added.person_count) == ("p", 1)
            found = await client.search_face(photo)
            assert found.matches[0].confidence == 99.5
            await client.delete_face("p", key="A-1")
        assert added.group_id == ""
    assert len(vendor.requests) == 4


async def test_a_batch_answers_from_the_ledger_without_a_place_a_turn_or_a_request(place: Path | str) -> None:
    async with client_of(in_turn(ok_whatsapp()), ledger=place) as client:
        assert all(outcome.ok for outcome in await taken(client.batch(asks(400))))
    vendor = in_turn(ok_whatsapp())
    async with client_of(vendor, ledger=place, rate=1e-3) as client:  # the rate allows one attempt in 1,000 s
        outcomes = await taken(client.batch(asks(400), concurrency=7, ordered=True))
    assert [outcome.key for outcome in outcomes] == list(range(400))
    assert all(outcome.from_ledger and outcome.charge is FREE and outcome.attempts == () for outcome in outcomes)
    assert vendor.requests == []
    recorded = outcomes[3].recorded
    assert recorded is not None
    assert (recorded.charge, recorded.status, recorded.number, recorded.recorded) == (CHARGED, "OK", 1, True)


async def test_a_batch_sends_what_the_ledger_lacks_and_shares_what_it_has(place: Path | str) -> None:
    calls = list(asks(30))
    vendor = in_turn(says("RETRY_LATER", "x"), ok_whatsapp())
    async with client_of(vendor, ledger=place, retry=Retry(first=0.001)) as client:
        (first,) = await taken(client.batch(calls[7:8]))
        assert [a.number for a in first.attempts] == [1, 2]
    vendor = in_turn(ok_whatsapp())
    async with client_of(vendor, ledger=place) as client:
        outcomes = await taken(client.batch([*calls, *calls, 5], ordered=True))  # type: ignore[list-item]
        assert len(vendor.requests) == 29
        assert [n for n, outcome in enumerate(outcomes) if outcome.from_ledger and outcome.answered_by is None] == [7]
        assert [outcome.answered_by for outcome in outcomes[30:60]] == list(range(30))
        assert outcomes[7].recorded is not None
        assert outcomes[7].recorded.number == 2
        vendor.requests.clear()
        again = await taken(client.batch(calls * 2, dedupe=False))
        assert all(outcome.from_ledger and outcome.answered_by is None for outcome in again)
    assert vendor.requests == []


@virtual
async def test_a_ledger_that_is_not_open_ends_no_batch_in_silence(place: Path | str) -> None:
    async with client_of(in_turn(ok_whatsapp()), ledger=ledger_at(place)) as client:
        async with asyncio.timeout(5):
            outcomes = await taken(client.batch(asks(2)))
        assert all(isinstance(outcome.error, ConfigurationError) for outcome in outcomes)


async def test_a_stored_answer_needs_no_budget(place: Path | str) -> None:
    async with client_of(in_turn(ok_whatsapp()), ledger=place) as client:
        await client.whatsapp_detail(NUMBER)
    async with ledger_at(place) as ledger, client_of(in_turn(), ledger=ledger, max_charges=0) as client:
        assert (await client.whatsapp_detail(NUMBER)).answered_at is not None


async def test_an_image_that_was_asked_before_is_answered_without_a_request(place: Path | str, tmp_path: Path) -> None:
    photo = tmp_path / "selfie.jpg"
    photo.write_bytes(picture(3) + bytes(300_000))
    calls = [FaceCompare(photo, picture(1) + bytes(300_000), key=n) for n in range(2)]
    async with client_of(in_turn(says("OK", {"similarity": 1, "result": "NOT SURE"})), ledger=place) as client:
        await taken(client.batch(calls))
    vendor = in_turn()
    async with client_of(vendor, ledger=place) as client:
        outcomes = await taken(client.batch(calls, ordered=True))
        assert sorted(outcome.from_ledger for outcome in outcomes) == [False, True]
        (other,) = (outcome for outcome in outcomes if not outcome.from_ledger)
        assert other.answered_by == 1 - other.index
        assert (await client.send(calls[0])).similarity == 1
    assert vendor.requests == []


async def test_a_batch_that_is_left_while_it_looks_up_loses_no_call(place: Path | str) -> None:
    async with client_of(in_turn(ok_whatsapp()), ledger=place) as client:
        await taken(client.batch(asks(50)))
        read = 0

        def counted() -> Iterator[WhatsAppDetail]:
            nonlocal read
            for call in asks(1000):
                read += 1
                yield call

        for last in (0, 1, 20):
            read, got = 0, []
            async with client.batch(counted(), concurrency=10) as batch:
                async for outcome in batch:
                    got.append(outcome.index)
                    if len(got) > last:
                        break
            assert sorted([*got, *(outcome.index for outcome in batch.unread)]) == list(range(read))


async def test_what_does_something_each_time_is_the_same_only_under_a_key(place: Path | str) -> None:
    vendor = in_turn(says("OK", {"group_id": "g", "person_id": "p", "person_count": 1}))
    async with client_of(vendor, ledger=place) as client:
        for key in (None, None, "A", "B", "A"):
            await client.send(AddFace(picture(1), key=key))
    assert len(vendor.requests) == 4


async def test_checking_and_failures_are_no_answers(place: Path | str) -> None:
    vendor = in_turn(ok_whatsapp("checking"), says("FAIL", "x"), ok_whatsapp())
    async with client_of(vendor, ledger=place) as client:
        assert (await client.whatsapp_detail(NUMBER)).whatsapp == "checking"
        with pytest.raises(StatusError):
            await client.whatsapp_detail(NUMBER)
        assert (await client.whatsapp_detail(NUMBER)).charge is CHARGED
    assert len(vendor.requests) == 3


async def test_an_answer_can_be_too_old(place: Path | str) -> None:
    vendor = in_turn(ok_whatsapp())
    for _ in range(2):
        async with client_of(vendor, ledger=place, reuse_for=0) as client:
            await client.whatsapp_detail(NUMBER)
    async with client_of(vendor, ledger=place, reuse_for=3600) as client:
        await client.whatsapp_detail(NUMBER)
    assert len(vendor.requests) == 2


# ------------------------------------------------------------------------------------------------- held calls


async def test_what_may_have_been_charged_is_held(place: Path | str) -> None:
    vendor = in_turn(httpx.ReadTimeout("lost"), ok_whatsapp())
    async with client_of(vendor, ledger=place) as client:
        with pytest.raises(OutcomeUnknownError) as caught:
            await client.whatsapp_detail(NUMBER, key="A-1")
        assert caught.value.charge is UNKNOWN
    async with client_of(vendor, ledger=place) as client:
        with pytest.raises(OutcomeUnknownError, match="not sent: an attempt of .* settle it in the ledger") as caught:
            await client.whatsapp_detail(NUMBER, key="A-1")
        assert (caught.value.charge, caught.value.attempts, caught.value.key) == (FREE, (), "A-1")
        (outcome,) = await taken(client.batch([WhatsAppDetail(NUMBER)]))
        assert isinstance(outcome.error, OutcomeUnknownError)
        assert len(vendor.requests) == 1
        (outcome,) = await taken(client.batch([WhatsAppDetail(NUMBER)], retry_unknown=1))
        assert outcome.charge is CHARGED
    assert [record.state for record in ledger_at(place).attempts()] == [State.UNKNOWN, State.CHARGED]


async def test_an_ok_that_did_not_fit_comes_back_with_its_message(place: Path | str) -> None:
    vendor = in_turn(says("OK", {"whatsapp": ["odd"], "group_id": "LxiKPLIMGFpXzXas"}))
    for _ in range(2):
        async with client_of(vendor, ledger=place) as client:
            (outcome,) = await taken(client.batch([WhatsAppDetail(NUMBER)]))
        error = outcome.error
        assert isinstance(error, OutcomeUnknownError)
        assert (error.status, error.http_status) == ("OK", 200)
        assert error.message["whatsapp"] == ["odd"]
        recorded = error.recorded
    assert recorded is not None
    assert recorded is outcome.recorded
    assert (recorded.charge, outcome.attempts) == (UNKNOWN, ())
    assert len(vendor.requests) == 1


async def test_what_was_settled_as_charged_is_not_bought_again_unasked(place: Path | str) -> None:
    vendor = in_turn(httpx.ReadTimeout("lost"), ok_whatsapp())
    async with ledger_at(place) as ledger, client_of(vendor, ledger=ledger) as client:
        for text in ("no answer", "was charged, as somebody settled, and its answer is lost: retry_unknown=1 buys"):
            with pytest.raises(OutcomeUnknownError, match=text):
                await client.whatsapp_detail(NUMBER, key="A-1")
            await ledger.resolve("A-1", CHARGED)
        reply = await client.with_options(retry_unknown=1).whatsapp_detail(NUMBER, key="A-1")
        assert reply.charge is CHARGED


async def test_a_held_call_is_settled_by_hand(place: Path | str) -> None:
    vendor = in_turn(httpx.ReadTimeout("lost"), ok_whatsapp())
    async with ledger_at(place) as ledger, client_of(vendor, ledger=ledger) as client:
        with pytest.raises(OutcomeUnknownError):
            await client.whatsapp_detail(NUMBER, key="A-1")
        assert await ledger.resolve("A-1", Charge.FREE) == 1
        assert (await client.whatsapp_detail(NUMBER, key="A-1")).charge is CHARGED


async def test_a_repeat_within_one_call_is_recorded_too(place: Path | str) -> None:
    vendor = in_turn(httpx.ReadTimeout("lost"), says("RETRY_LATER", "x"), httpx.ConnectError("no"), ok_whatsapp())
    async with client_of(vendor, ledger=place, retry=Retry(first=0.001, unknown=1)) as client:
        reply = await client.whatsapp_detail(NUMBER)
        assert [a.charge for a in reply.attempts] == [UNKNOWN, FREE, FREE, CHARGED]
        assert all(a.recorded for a in reply.attempts)
    states = [record.state for record in ledger_at(place).attempts()]
    assert states == [State.UNKNOWN, State.FREE, State.NOT_SENT, State.CHARGED]


async def test_a_cancelled_attempt_is_unknown_in_the_ledger(place: Path | str) -> None:
    entered = asyncio.Event()

    async def hang(request: httpx.Request, number: int) -> httpx.Response:
        entered.set()
        await asyncio.sleep(1e6)
        raise AssertionError

    async with client_of(Vendor(hang), ledger=place) as client:
        task = asyncio.create_task(client.whatsapp_detail(NUMBER))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [record.state for record in ledger_at(place).attempts()] == [State.UNKNOWN]


async def test_a_paid_answer_that_does_not_fit_is_kept(ledger_path: Path) -> None:
    async with client_of(in_turn(says("OK", {"whats": "app"})), ledger=ledger_path) as client:
        with pytest.raises(OutcomeUnknownError):
            await client.whatsapp_detail(NUMBER)
    with sqlite3.connect(ledger_path) as database:
        assert b'{"whats": "app"}' in b"".join(database.serialize().split(b"\0"))
    database.close()


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (httpx.Response(200, content='{"status":"OK","message":{"whatsapp":"yes",}}'), '{"status":"OK","message":'),
        (
            httpx.Response(200, content='{"status":"OK","status":"FAIL","message":null}'),
            '{"status":"OK","status":"FAIL"',
        ),
        (httpx.Response(502, content=f"<html>Bad gateway {TOKEN}</html>"), "<html>Bad gateway …"),
        (says("BRAND_NEW", "some words"), "some words"),
    ],
)
async def test_what_cannot_be_read_is_kept_and_told_to_who_is_held(
    place: Path | str, answer: httpx.Response, kept: str
) -> None:
    async with client_of(in_turn(answer), ledger=place) as client:
        with pytest.raises(AISolutionError) as caught:
            await client.whatsapp_detail(NUMBER)
        assert caught.value.charge is UNKNOWN
        with pytest.raises(OutcomeUnknownError, match="not sent") as held:
            await client.whatsapp_detail(NUMBER)
    assert held.value.message.startswith(kept)
    for records in (ledger_at(place).held(), ledger_at(place).answers()):
        (record,) = records
        assert record.reply is not None
        assert json.loads(record.reply).startswith(kept)
        assert TOKEN.encode() not in record.reply


async def test_no_body_is_no_answer(place: Path | str) -> None:
    async with client_of(in_turn(httpx.Response(502)), ledger=place) as client:
        with pytest.raises(OutcomeUnknownError):
            await client.whatsapp_detail(NUMBER)
    (record,) = ledger_at(place).held()
    assert record.reply is None
    assert not list(ledger_at(place).answers())


async def test_the_intent_is_on_disk_before_the_first_byte(place: Path | str) -> None:
    seen: list[list[State]] = []

    def script(request: httpx.Request, number: int) -> httpx.Response:
        seen.append([record.state for record in ledger_at(place).attempts()])
        return ok_whatsapp()

    async with client_of(Vendor(script), ledger=place) as client:
        await client.whatsapp_detail(NUMBER)
    assert seen == [[State.INTENDED]]


# --------------------------------------------------------------------------------------------------- two at once


async def test_the_same_call_twice_at_once_is_sent_once(place: Path | str) -> None:
    go = asyncio.Event()

    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await go.wait()
        return ok_whatsapp()

    vendor = Vendor(script)
    async with client_of(vendor, ledger=place) as client:
        tasks = [asyncio.create_task(client.whatsapp_detail(NUMBER)) for _ in range(3)]
        while not vendor.requests:
            await asyncio.sleep(0)
        go.set()
        replies = await asyncio.gather(*tasks)
    assert len(vendor.requests) == 1
    assert sorted(reply.charge for reply in replies) == [CHARGED, FREE, FREE]


async def test_two_clients_share_a_ledger(place: Path | str) -> None:
    vendor = Vendor(lambda request, number: ok_whatsapp())
    async with client_of(vendor, ledger=place) as one, client_of(vendor, ledger=place) as other:
        both = await asyncio.gather(
            taken(one.batch(asks(300), concurrency=20)), taken(other.batch(asks(300), concurrency=20))
        )
        assert all(outcome.ok for outcomes in both for outcome in outcomes)
        assert one.tally.charged + other.tally.charged == len(vendor.requests) == 300


# ------------------------------------------------------------------------------------------------------ budget


@pytest.mark.parametrize("where", ["client", "batch", "ledger path", "ledger"])
async def test_a_budget_is_never_exceeded(where: str, place: Path | str) -> None:
    vendor = Vendor(lambda request, number: ok_whatsapp())
    limit = {"max_charges": 7}
    ledger = ledger_at(place, **limit)
    if where == "ledger":
        await ledger.open()
    client = {
        "client": lambda: client_of(vendor, **limit),
        "batch": lambda: client_of(vendor),
        "ledger path": lambda: client_of(vendor, ledger=place, **limit),
        "ledger": lambda: client_of(vendor, ledger=ledger),
    }[where]()
    async with client:
        outcomes = await taken(client.batch(asks(30), concurrency=10, **(limit if where == "batch" else {})))  # type: ignore[arg-type]
        refused = [o.error for o in outcomes if not o.ok]
        assert len(vendor.requests) == client.tally.charged == 7
        assert len(refused) == 23
        assert all(isinstance(error, BudgetExhaustedError) and error.charge is FREE for error in refused)
        # What cannot be charged goes on.
        vendor._script = lambda request, number: says("OK")
        await client.delete_face("p")
    await ledger.aclose()
    if where.startswith("ledger"):
        # A later run goes on from there.
        async with client_of(vendor, ledger=place, max_charges=9) as client:
            vendor._script = lambda request, number: ok_whatsapp()
            outcomes = await taken(client.batch(asks(30), concurrency=10))
            assert sum(o.ok for o in outcomes) == 9
            assert client.tally.charged == 2


async def test_a_budget_of_money() -> None:
    prices = {"gliswadetail": Decimal("0.30"), "facecompare": Decimal(1)}
    vendor = Vendor(lambda request, number: ok_whatsapp())
    async with client_of(vendor, prices=prices, max_cost=Decimal(1)) as client:
        outcomes = await taken(client.batch(asks(5)))
        assert sum(o.ok for o in outcomes) == 3
        with pytest.raises(BudgetExhaustedError, match="max_cost"):
            await client.face_compare(picture(1), picture(2))
        with pytest.raises(BudgetExhaustedError, match="no price of searchface"):
            await client.search_face(picture(1))


async def test_free_attempts_give_their_reservation_back() -> None:
    vendor = in_turn(
        says("FAIL"), httpx.ConnectError("no"), ok_whatsapp("checking"), httpx.ReadTimeout("x"), ok_whatsapp()
    )
    async with client_of(vendor, max_charges=2, retry=0) as client:
        kinds = []
        for number in range(7):
            try:
                await client.whatsapp_detail(f"628130000{number}")
                kinds.append("ok")
            except AISolutionError as exc:
                kinds.append(type(exc).__name__)
    assert kinds == [
        "ServiceFailedError",
        "NotSentError",
        "ok",
        "OutcomeUnknownError",
        "ok",
        "BudgetExhaustedError",
        "BudgetExhaustedError",
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"max_charges": -1},
        {"max_charges": 1.5},
        {"max_cost": 3.5, "prices": {"facecompare": Decimal(1)}},
        {"max_cost": Decimal(3)},
        {"max_cost": Decimal(3), "prices": {"facecompare": Decimal(-1)}},
        {"reuse_for": -1},
        {"ledger": 7},
    ],
)
def test_budgets_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        client_of(in_turn(ok_whatsapp()), **options)


@settings(
    max_examples=examples(50),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.integers(0, 12), st.integers(1, 8), st.integers(0, 2**32))
async def test_a_budget_holds_at_every_instant(limit: int, concurrency: int, seed: int) -> None:
    rng = random.Random(seed)
    spent = under_way = 0

    async def script(request: httpx.Request, number: int) -> httpx.Response:
        nonlocal spent, under_way
        under_way += 1
        assert spent + under_way <= limit
        for _ in range(rng.randrange(3)):
            await asyncio.sleep(0)
        under_way -= 1
        what = rng.random()
        if what < 0.4:
            spent += 1
            return ok_whatsapp()
        if what < 0.6:
            spent += 1
            raise httpx.ReadTimeout("lost")
        return says("FAIL") if what < 0.8 else says("RETRY_LATER", "busy")

    async with client_of(Vendor(script), max_charges=limit, retry=Retry(first=0.001, longest=0.001)) as client:
        await taken(client.batch(asks(40), concurrency=concurrency))
        assert client.tally.charged + client.tally.unknown == spent <= limit


# ------------------------------------------------------------------------------------------------------ faults


async def test_a_ledger_that_cannot_be_used_stops_before_money_is_at_risk(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.ledger"
    damaged.write_bytes(b"this is no database" * 1000)
    for path in (damaged, tmp_path, tmp_path / "missing" / "x.ledger"):
        vendor = in_turn(ok_whatsapp())
        with pytest.raises(LedgerError, match=path.name):
            async with client_of(vendor, ledger=path):
                pass
        async with client_of(vendor) as client:
            with pytest.raises(LedgerError, match=path.name):
                async with client.batch(asks(3), ledger=path):
                    pass
        client = client_of(vendor, ledger=path)
        for _ in range(2):
            with pytest.raises(LedgerError, match=path.name) as caught:
                await client.whatsapp_detail(NUMBER, key="k")
            assert (caught.value.charge, caught.value.key) == (FREE, "k")
        await client.aclose()
        assert not vendor.requests


async def test_a_ledger_that_fails_in_the_middle(place: Path | str, monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = Vendor(lambda request, number: ok_whatsapp())
    async with ledger_at(place) as ledger, client_of(vendor, ledger=ledger) as client:
        await client.whatsapp_detail("6281300001")

        async def full(*_: Any) -> Any:
            raise LedgerError("run.ledger cannot be written: the disk is full; free some space")

        with monkeypatch.context() as patch:
            patch.setattr(ledger, "end", full)
            # The answer was paid for: it comes, and says that it is not recorded.
            reply = await client.whatsapp_detail("6281300002")
            assert reply.charge is CHARGED
            assert reply.attempts[0].recorded is False
            patch.setattr(ledger, "begin", full)
            with pytest.raises(LedgerError, match="not sent: run.ledger cannot be written"):
                await client.whatsapp_detail("6281300003")
            assert len(vendor.requests) == 2


async def test_a_ledger_of_ones_own_must_be_open(place: Path | str) -> None:
    async with client_of(in_turn(ok_whatsapp()), ledger=ledger_at(place)) as client:
        with pytest.raises(ConfigurationError, match="the ledger is not open"):
            await client.whatsapp_detail(NUMBER)


# ------------------------------------------------------------------------------------------- what is in the file


async def test_no_secret_is_in_the_file(ledger_path: Path) -> None:
    photo = picture(1)

    def script(request: httpx.Request, number: int) -> httpx.Response:
        if request.url.path == "/v1/addface":
            return says("OK", {"group_id": "LxiKPLIMGFpXzXas", "person_id": "p", "person_count": 1})
        if request.url.path == "/v1/facecompare":
            return says("OK", {"similarity": 1, "result": "NOT SURE", "echo": str(request.url)})
        if number % 3 == 0:
            return says("OK", {"unfit": TOKEN})
        return says("INVALID_INPUT", f"token {TOKEN}")

    async with client_of(Vendor(script), ledger=ledger_path) as client:
        await taken(
            client.batch([FaceCompare(photo, photo), AddFace(photo, key="k"), *asks(6), DeleteFace("p")], concurrency=1)
        )
    content = b"".join(path.read_bytes() for path in ledger_path.parent.iterdir())
    assert b"facecompare" in content
    encoded = base64.b64encode(photo)
    for secret in (TOKEN.encode(), b"tok-3n%2F", b"LxiKPLIMGFpXzXas", encoded[:40], encoded[40:80], photo[:40]):
        assert secret not in content
    assert stat.S_IMODE(ledger_path.stat().st_mode) == 0o600


# ------------------------------------------------------------------------------------------------------ kill -9


@pytest.mark.no_cover
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
async def test_kill_nine(seed: int, tmp_path: Path) -> None:
    """`python -m tests.crash 50 --kind batch` runs fifty of these, with 5,000 calls each."""
    assert await one_round(tmp_path, random.Random(seed), calls=1200) > 1


@pytest.mark.no_cover
async def test_two_processes_over_one_ledger(place: Path | str) -> None:
    async with CountingSandbox() as sandbox:
        children = [await forks.begin(["-c", CHILD, sandbox.url, str(place), "700", "40"]) for _ in range(2)]
        outputs = [(await child.communicate())[0] for child in children]
        for output in outputs:
            names = Counter(line.split()[1] for line in output.decode().splitlines())
            assert names == {"ok": 700}
        assert max(sandbox.charged.values()) == 1
        assert sandbox.bill.charged <= 700


async def test_not_sent_is_recorded_as_that(place: Path | str) -> None:
    async with Sandbox() as sandbox:
        url = sandbox.url
    async with AsyncClient("t", base_url=url, ledger=place, retry=0) as client:
        with pytest.raises(NotSentError):
            await client.whatsapp_detail(NUMBER)
    assert [record.state for record in ledger_at(place).attempts()] == [State.NOT_SENT]
