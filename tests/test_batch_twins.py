"""The same asked more than once in a batch."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aisolution_async import (
    AddFace,
    Charge,
    DeleteFace,
    FaceCompare,
    Inbox,
    NotSentError,
    OutcomeUnknownError,
    Retry,
    RetryLaterError,
    WhatsAppDetail,
    WhatsAppProfile,
)
from aisolution_async.batching.twins import Asks, Follows, Parting, Shares, Twins
from aisolution_async.sending.states import Over

from .batches import asks, taken
from .support import TOKEN, Vendor, client_of, in_turn, ok_whatsapp, picture, says, virtual

SECRET = "inbox-secret-0123456789"
CHARGED, FREE, UNKNOWN = Charge.CHARGED, Charge.FREE, Charge.UNKNOWN


@virtual
async def test_the_same_is_asked_once() -> None:
    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(0.1)
        return ok_whatsapp()

    vendor = Vendor(script)
    async with client_of(vendor) as client:
        outcomes = await taken(client.batch(asks(1000, distinct=700), concurrency=30))
        assert len(vendor.requests) == client.tally.charged == 700
        shared = [outcome for outcome in outcomes if outcome.answered_by is not None]
        assert len(shared) == 300
        by_index = {outcome.index: outcome for outcome in outcomes}
        for outcome in shared:
            assert outcome.charge is FREE
            assert outcome.attempts == ()
            assert outcome.reply is not None
            assert outcome.reply.charge is FREE
            assert outcome.answered_by is not None
            leader = by_index[outcome.answered_by]
            assert leader.reply == outcome.reply
            assert leader.charge is CHARGED
            assert leader.call.number == outcome.call.number  # type: ignore[union-attr]


@virtual
async def test_what_is_the_same() -> None:
    vendor = in_turn(ok_whatsapp())
    photo = picture(1)
    calls: list[Any] = [
        WhatsAppDetail("+62 813-8730-0008"),
        WhatsAppDetail("+6281387300008"),
        WhatsAppDetail("006281387300008"),
        WhatsAppDetail("6281387300008"),  # a national number, perhaps
        WhatsAppDetail("+6281387300008", country="ID"),
        WhatsAppDetail("6281387300009"),
        FaceCompare(photo, picture(2)),
        FaceCompare(bytearray(photo), picture(2)),
        FaceCompare(picture(2), photo),
        AddFace(photo),
        AddFace(photo),
        DeleteFace("p"),
        DeleteFace("p"),
    ]
    async with client_of(vendor, deadline=None) as client:
        outcomes = await taken(client.batch(calls, ordered=True, concurrency=1))
        assert [o.answered_by for o in outcomes] == [None, 0, 0, None, 0, None, None, 6, *[None] * 5]
        vendor.requests.clear()
        await taken(client.batch(calls, dedupe=False))
        assert len(vendor.requests) == 13


@virtual
async def test_the_same_photo_is_compared_once() -> None:
    vendor = in_turn(says("OK", {"similarity": 97.5, "result": "SAME PERSON"}))
    photo = picture(1)
    async with client_of(vendor, deadline=None) as client:
        calls = [FaceCompare(photo, bytearray(photo)), FaceCompare(photo, photo), FaceCompare(photo, picture(2))]
        outcomes = await taken(client.batch(calls, ordered=True, concurrency=1))
    assert [o.answered_by for o in outcomes] == [None, 0, None]
    assert outcomes[1].reply == outcomes[0].reply


@virtual
async def test_a_leader_that_fails_free_takes_nobody_down() -> None:
    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(1)
        return says("FAIL", "not this time") if number == 0 else ok_whatsapp()

    vendor = Vendor(script)
    async with client_of(vendor) as client:
        outcomes = await taken(client.batch(asks(5, distinct=1), concurrency=5, ordered=True))
    assert [o.ok for o in outcomes] == [False, True, True, True, True]
    assert [o.answered_by for o in outcomes] == [None, None, 1, 1, 1]
    assert len(vendor.requests) == 2


@virtual
async def test_nobody_buys_again_what_may_have_been_charged() -> None:
    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(1)
        raise httpx.ReadTimeout("lost")

    vendor = Vendor(script)
    async with client_of(vendor) as client:
        outcomes = await taken(client.batch(asks(3, distinct=1), ordered=True))
        assert len(vendor.requests) == client.tally.unknown == 1
    assert all(isinstance(o.error, OutcomeUnknownError) for o in outcomes)
    assert [o.charge for o in outcomes] == [UNKNOWN, FREE, FREE]
    assert [o.answered_by for o in outcomes] == [None, 0, 0]


@pytest.mark.parametrize("concurrency", [1, 5])
@pytest.mark.parametrize(
    ("answer", "charge"),
    [(httpx.ReadTimeout("lost"), UNKNOWN), (says("WEIRD"), UNKNOWN), (says("FAIL"), CHARGED)],
    ids=["lost", "undocumented", "charged"],
)
@virtual
async def test_nobody_buys_again_whenever_it_is_read(answer: Any, charge: Charge, concurrency: int) -> None:
    vendor = in_turn(answer)
    rules = {"gliswadetail": {"FAIL": Charge.CHARGED}}
    async with client_of(vendor, charge_rules=rules) as client:
        outcomes = await taken(client.batch(asks(5, distinct=1), concurrency=concurrency, ordered=True))
    assert len(vendor.requests) == 1
    assert [o.charge for o in outcomes] == [charge, FREE, FREE, FREE, FREE]
    assert [o.answered_by for o in outcomes] == [None, 0, 0, 0, 0]
    assert len({type(o.error) for o in outcomes}) == 1
    assert all(o.error is not None and o.error.key == o.key for o in outcomes)


@virtual
async def test_followers_of_a_stopped_call() -> None:
    async def script(request: httpx.Request, number: int) -> httpx.Response:
        await asyncio.sleep(1)
        return says("RETRY_LATER", "busy")

    async with client_of(Vendor(script), retry=Retry(first=100, longest=100)) as client:
        async with client.batch(asks(6, distinct=2), concurrency=6) as batch:
            await asyncio.sleep(2)
        kinds = Counter(type(o.error) for o in batch.unread)
    assert kinds == {RetryLaterError: 2, NotSentError: 4}
    assert sorted(o.index for o in batch.unread) == list(range(6))


@virtual
async def test_unavailable_is_no_answer_to_remember() -> None:
    vendor = in_turn(ok_whatsapp("unavailable"), ok_whatsapp())
    async with client_of(vendor) as client:
        outcomes = await taken(client.batch(asks(3, distinct=1), concurrency=1, ordered=True))
    assert [o.reply.whatsapp for o in outcomes] == ["unavailable", "yes", "yes"]  # type: ignore[union-attr]
    assert [o.answered_by for o in outcomes] == [None, None, 1]


@virtual
async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aisolution_async.batching.twins.REMEMBERED", 10)
    vendor = in_turn(ok_whatsapp())
    calls = [*asks(10), *asks(5), *asks(30), *asks(1)]
    async with client_of(vendor) as client:
        await taken(client.batch(calls, concurrency=1))
    assert len(vendor.requests) == 31


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"note": f"for {TOKEN}"},
        {"note": f"https://app.example/whatsapp/{SECRET} was told"},
        {"note": "x" * 5000},
        {"group_id": "G-1", "about": {"access_key": "K"}, "n": 1.5},
    ],
    ids=["plain", "the token in it", "the callback's secret in it", "long", "secrets, and more than is known"],
)
@pytest.mark.parametrize("late", [False, True], ids=["at once", "after it was answered"])
@virtual
async def test_what_is_shared_is_what_was_answered(more: dict[str, Any], late: bool) -> None:
    """However long ago the answer came, and however it was kept since then."""
    said = {"number": "+6281387300000", "whatsapp": "yes", "signature": "häppy", **more}
    body = json.dumps({"status": "OK", "message": said}, ensure_ascii=False).encode()
    vendor = in_turn(httpx.Response(200, content=body))
    async with client_of(vendor) as client:
        calls = [WhatsAppDetail("+6281387300000", key=key) for key in range(2)]
        inbox = Inbox("https://app.example/whatsapp", secret=SECRET)
        first, second = await taken(client.batch(calls, concurrency=1 if late else 2, inbox=inbox))
    assert len(vendor.requests) == 1
    assert (first.answered_by, second.answered_by, second.attempts) == (None, 0, ())
    assert first.reply is not None
    assert second.reply is not None
    assert second.reply == first.reply
    assert second.reply.model_dump_json() == first.reply.model_dump_json()
    assert not any(secret in second.reply.model_dump_json() for secret in (TOKEN, SECRET))


# -------------------------------------------------------------------------------------------- the twins by themselves


def asked(index: int, identity: bytes | None) -> Any:
    """A call that asks `identity`, and is not answered."""
    call = WhatsAppDetail("62813", key=index)
    return SimpleNamespace(index=index, call=call, identity=identity, end=Over(None, None), attempts=())


def test_who_asks_and_who_follows() -> None:
    twins = Twins()
    first, second, third = (asked(number, b"a") for number in range(3))
    assert isinstance(twins.place(asked(9, None)), Asks)  # nobody knows what it asks
    assert not twins.knows(b"a")
    assert isinstance(twins.place(first), Asks)
    assert isinstance(twins.place(first), Asks)  # once more, after an attempt
    assert isinstance(twins.place(second), Follows)
    assert isinstance(twins.place(third), Follows)
    assert twins.leads(first)
    assert not twins.leads(second)
    assert twins.knows(b"a")
    assert twins.following == 2
    assert twins.part(second, stopping=False) is None  # it leads nobody
    first.end = Over(None, NotSentError("refused"))
    assert twins.part(first, stopping=False) == Parting([], None, second)
    assert twins.leads(second)
    assert twins.following == 1
    reply = WhatsAppProfile.model_validate({"whatsapp": "yes"})
    second.end = Over(reply, None)
    assert twins.part(second, stopping=False) == Parting([third], Shares(1, reply), None)
    assert twins.following == 0
    assert twins.place(asked(4, b"a")) == Shares(1, reply)
    assert isinstance(twins.place(asked(5, b"b")), Asks)
    twins.forget()
    assert not twins.knows(b"a")


def test_nobody_asks_in_the_place_of_another_once_it_is_stopped() -> None:
    twins = Twins()
    first, second = asked(0, b"a"), asked(1, b"a")
    twins.place(first)
    twins.place(second)
    first.end = Over(None, NotSentError("stopped"))
    assert twins.part(first, stopping=True) == Parting([second], None, None)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["yes", "checking", "free", "unknown"])), max_size=40))
def test_each_question_is_bought_once(asks: list[tuple[int, str]]) -> None:
    """Whoever asks when: each call ends once, and a question that was answered, or may have been paid, is not asked."""
    twins = Twins()
    under_way: list[Any] = []
    ended: list[int] = []
    bought: set[bytes] = set()
    for index, (question, end) in enumerate(asks):
        task = asked(index, bytes([question]))
        task.comes_to = end
        match twins.place(task):
            case Asks():
                assert task.identity not in bought
                under_way.append(task)
            case Shares() as shares:
                assert shares.outcome(task).attempts == ()
                ended.append(index)
        if index % 3 == 2 and under_way:
            _end(twins, under_way, ended, bought)
    while under_way:
        _end(twins, under_way, ended, bought)
    assert sorted(ended) == list(range(len(asks)))
    assert twins.following == 0


def _end(twins: Twins, under_way: list[Any], ended: list[int], bought: set[bytes]) -> None:
    task = under_way.pop(0)
    if task.comes_to in ("yes", "checking"):
        task.end = Over(WhatsAppProfile.model_validate({"whatsapp": task.comes_to}), None)
    else:
        error = OutcomeUnknownError("lost") if task.comes_to == "unknown" else NotSentError("refused")
        task.end = Over(None, error)
    if task.comes_to in ("yes", "unknown"):
        assert task.identity not in bought
        bought.add(task.identity)
    ended.append(task.index)
    parting = twins.part(task, stopping=False)
    if parting is not None:
        assert (parting.shares is None) is (task.comes_to == "free")
        ended.extend(follower.index for follower in parting.followers)
        if parting.heir is not None:
            under_way.append(parting.heir)
