"""FastAPI: the guide's service under uvicorn, and what `install` promises on any application."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Request, WebSocket
from pydantic import TypeAdapter
from starlette.applications import Starlette

from aisolution_async import (
    AddFace,
    AISolutionError,
    AsyncClient,
    Attempt,
    BudgetExhaustedError,
    Call,
    Charge,
    ConfigurationError,
    DeleteFace,
    FaceCompare,
    FaceComparison,
    FaceNotFoundError,
    IdHolding,
    ImageTooLargeError,
    InputError,
    InvalidRequestError,
    Ledger,
    LedgerError,
    NotSentError,
    OutcomeUnknownError,
    PersonNotFoundError,
    RefusedError,
    Reply,
    Retry,
    RetryLaterError,
    SearchFace,
    ServiceFailedError,
    UnknownStatusError,
    WhatsAppDetail,
    WhatsAppProfile,
    errors,
)
from aisolution_async.api import Kind
from aisolution_async.clock import today
from aisolution_async.integrations import problems
from aisolution_async.integrations.fastapi import Client, WithCharge, client_of, get_client, install, install_errors
from aisolution_async.sandbox import Sandbox
from aisolution_async.sandbox.clock import Clock
from aisolution_async.sandbox.faults import Fault

from .commands import settled
from .services import (
    UNDER_UVICORN,
    assert_clean,
    curl,
    done,
    example,
    needs_curl,
    serving,
    state_of,
    two_workers_run_a_list,
)
from .support import NUMBER, Vendor, in_turn, ok_whatsapp, picture, says
from .support import client_of as client_on

SECRETS = ("sandbox-token", "6281387300008", "LxiKPLIMGFpXzXas", "applicant-7", "/srv/uploads")


@pytest.fixture
def source() -> str:
    return example("import Client, WithCharge, client_of, install")


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """The application, started, and an HTTP client of it."""
    async with app.router.lifespan_context(app) as state:

        async def with_state(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "state": dict(state or {})}, receive, send)

        transport = httpx.ASGITransport(with_state, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
            yield http


# ------------------------------------------------------------------------------------------- the guide's service


@pytest.mark.parametrize("imported", ["import Client, install\n\napp", "import Client, WithCharge, install"])
async def test_the_small_service_answers_a_number_and_maps_errors(imported: str, tmp_path: Path) -> None:
    source = example(imported)
    assert len([line for line in source.splitlines() if line]) <= 10
    async with (
        Sandbox() as sandbox,
        serving(source, UNDER_UVICORN, tmp_path, sandbox, HTTP="auto") as service,
        httpx.AsyncClient(base_url=service.url) as user,
    ):
        answer = await user.get("/numbers/0813-8730-0008")
        assert answer.status_code == 200
        profile = answer.json()
        assert (profile["number"], "group_id" in profile) == ("+6281387300008", False)
        assert profile["whatsapp"] in ("yes", "no", "checking")
        assert ("charge" in profile) is ("WithCharge" in source)
        answer = await user.get("/numbers/no number")
        assert (answer.status_code, answer.json()["charge"]) == (422, "free")
        sandbox.faults.add(Fault("http", http_status=503, retry_after=60, times=1))  # longer than the deadline
        answer = await user.get(f"/numbers/{sandbox.number('yes')}")
        assert (answer.status_code, answer.headers["retry-after"], answer.json()["charge"]) == (503, "60", "free")
        described = (await user.get("/openapi.json")).json()["paths"]["/numbers/{number}"]["get"]["responses"]
        assert {"200", "422", "502", "503"} <= described.keys()
        service.terminate()
        assert_clean(await service.ended())


@needs_curl
@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_the_service_answers_and_ends_with_requests_in_flight(source: str, tmp_path: Path, http: str) -> None:
    clock = Clock(ticking=False)
    async with (
        Sandbox(clock=clock) as sandbox,
        serving(source, UNDER_UVICORN, tmp_path, sandbox, HTTP=http) as service,
        httpx.AsyncClient(base_url=service.url) as user,
    ):
        (tmp_path / "a.jpg").write_bytes(picture(1))
        form = ("-F", f"selfie=@{tmp_path}/a.jpg", "-F", f"card=@{tmp_path}/a.jpg", f"{service.url}/faces")
        face = json.loads(await curl(*form))
        assert face.pop("attempts")[0]["status"] == "OK"
        assert face == {"similarity": 100, "result": "SAME PERSON", "charge": "charged"}

        files = {"selfie": picture(2), "card": picture(3)}
        answer = await user.post("/faces", files=files)
        assert answer.json()["result"] == "NOT SAME PERSON"
        answer = await user.post("/faces", files={"selfie": b"no picture", "card": picture(3)})
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
        assert answer.json()["charge"] == "free"

        sandbox.faults.add(Fault("latency", seconds=20))
        asked = sandbox.requests["facecompare"]
        under_way = [asyncio.create_task(user.post("/faces", files=files | {"card": picture(n)})) for n in range(4, 9)]
        while sandbox.requests["facecompare"] < asked + 5:
            await asyncio.sleep(0.01)
        service.terminate()
        await service.refuses()
        while not all(task.done() for task in under_way):
            clock.advance(20)
            await asyncio.sleep(0.01)
        assert [answer.status_code for answer in await asyncio.gather(*under_way)] == [200] * 5
        assert_clean(await service.ended())


async def test_a_list_survives_a_restart_and_is_paid_for_once(source: str, tmp_path: Path) -> None:
    numbers = {f"applicant-{n}": f"+62813873{n:05}" for n in range(400)}
    async with Sandbox() as sandbox, httpx.AsyncClient() as user:
        sandbox.faults.add(Fault("hang", rate=0.5))
        async with serving(source, UNDER_UVICORN, tmp_path, sandbox, HTTP="auto") as service:
            url = f"{service.url}/lists/monday"
            assert (await user.put(url, json=numbers)).status_code == 202
            while (await state_of(user, url))["done"] < 5:
                await asyncio.sleep(0.02)
            assert (await user.get(f"{url}/results")).status_code == 409
            service.kill()
            await service.ended()
        sandbox.faults.clear()
        paid = sandbox.bill.charged
        assert paid
        async with serving(source, UNDER_UVICORN, tmp_path, sandbox, HTTP="auto") as service:
            state, results = await done(user, f"{service.url}/lists/monday")
            for path in ("other", "other/results", ".hidden", "monday.results"):
                assert (await user.get(f"{service.url}/lists/{path}")).status_code == 404
            service.terminate()
            assert_clean(await service.ended())
    assert [row["key"] for row in results] == list(numbers)
    # What was under way when the power went may have been charged: it is held, and not asked again.
    held = sum(row["error"] == "OutcomeUnknownError" for row in results)
    assert 0 < held < len(numbers)
    assert state["held"] == held
    assert paid < sandbox.bill.charged <= len(numbers)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="which process has a file open is told by /proc")
async def test_a_list_of_a_killed_worker_is_finished_by_the_other(source: str, tmp_path: Path) -> None:
    await two_workers_run_a_list(source, UNDER_UVICORN, tmp_path, HTTP="auto")


async def test_a_list_under_way_is_left_with_grace(source: str, tmp_path: Path) -> None:
    clock = Clock(ticking=False)
    async with Sandbox(clock=clock) as sandbox, httpx.AsyncClient() as user:
        numbers = {str(n): number for n, number in enumerate(settled(100))}
        sandbox.faults.add(Fault("latency", seconds=20))
        async with serving(source, UNDER_UVICORN, tmp_path, sandbox, HTTP="auto") as service:
            await user.put(f"{service.url}/lists/monday", json=numbers)
            while sandbox.requests["gliswadetail"] < 50:
                await asyncio.sleep(0.01)
            service.terminate()
            await service.says("Waiting for application shutdown")  # and not only for requests: no more is sent
            clock.advance(20)
            assert_clean(await service.ended())
        paid = sandbox.bill.charged
        assert paid == sandbox.requests["gliswadetail"] == 50
        sandbox.faults.clear()
        async with serving(source, UNDER_UVICORN, tmp_path, sandbox, HTTP="auto") as service:
            state, results = await done(user, f"{service.url}/lists/monday")
    assert (state["ok"], state["held"]) == (len(numbers), 0), [row for row in results if row["error"]]
    assert sandbox.bill.charged == sum(row["charge"] == "charged" for row in results) == len(numbers)


async def test_more_than_a_client_may_be_opened(tmp_path: Path) -> None:
    async with Sandbox() as sandbox:
        ledger = Ledger(tmp_path / "service.ledger")

        @asynccontextmanager
        async def opened() -> AsyncIterator[AsyncClient]:
            async with ledger, AsyncClient(sandbox.token, base_url=sandbox.url, ledger=ledger) as client:
                yield client

        app = FastAPI()
        install(app, opened)

        @app.get("/")
        async def look_up(client: Client) -> bool:
            return (await client.whatsapp_detail("+6281387300008")).recorded is not None

        async with running(app) as http:
            assert [(await http.get("/")).json() for _ in range(2)] == [False, True]


# ---------------------------------------------------------------------------------------------------------- errors


def error(kind: type[AISolutionError], *, charge: Charge = Charge.FREE, **more: Any) -> AISolutionError:
    text = f"facecompare: {' '.join(SECRETS)}"
    return kind(text, endpoint="facecompare", key="applicant-7", charge=charge, **more)


LOST = Attempt(Charge.UNKNOWN, None, None, today(), 1.0)
ANSWERS: list[tuple[AISolutionError, int, str]] = [
    (InputError("number is empty: there is no phone number to ask for", key="applicant-7"), 422, "input"),
    (InputError("img1 '/srv/uploads/x.jpg' does not exist: check the path"), 422, "input"),
    (InputError('img1 "/srv/uploads/o\'brien.jpg" is not an image but text: name a JPEG or PNG file'), 422, "input"),
    (error(InvalidRequestError, message=SECRETS), 422, "invalid-request"),
    (error(ImageTooLargeError, message="image larger than 2M"), 422, "image-too-large"),
    (error(FaceNotFoundError, message="IMAGEB_FACE_DETECT_FAILED"), 422, "face-not-found"),
    (error(FaceNotFoundError, message={"group_id": SECRETS[2]}), 422, "face-not-found"),
    (error(PersonNotFoundError), 404, "person-not-found"),
    (error(RetryLaterError), 503, "retry-later"),
    (error(NotSentError), 503, "not-sent"),
    (error(BudgetExhaustedError), 503, "budget-exhausted"),
    (error(LedgerError), 503, "ledger"),
    (error(OutcomeUnknownError, charge=Charge.UNKNOWN, body=SECRETS[0].encode()), 502, "outcome-unknown"),
    (error(OutcomeUnknownError, recorded=LOST), 502, "outcome-unknown"),
    (error(UnknownStatusError, charge=Charge.UNKNOWN, status=SECRETS[0]), 502, "unknown-status"),
    (error(ServiceFailedError), 502, "service-failed"),
    (error(RefusedError, http_status=401), 502, "refused"),
    (error(ConfigurationError), 500, "configuration"),
]


@pytest.mark.parametrize(("raised", "status", "name"), ANSWERS, ids=lambda value: value if type(value) is str else "")
async def test_every_error_has_an_answer_that_gives_nothing_away(
    raised: AISolutionError, status: int, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = FastAPI()
    install(app, lambda: client_on(Vendor(lambda r, n: says("OK"))))

    @app.get("/")
    async def fail() -> None:
        raise raised

    async with running(app) as http:
        answer = await http.get("/")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert list(problem) == ["type", "title", "status", "detail", "charge"]
    assert problem["type"] == f"urn:problem-type:aisolution:{name}"
    assert problem["status"] == status
    assert problem["charge"] == raised.charge
    assert problem["title"]
    assert problem["detail"]
    shown = answer.text + str(answer.headers)
    assert not any(secret in shown for secret in SECRETS), shown
    logged = [record for record in caplog.records if record.name == problems.__name__]
    assert len(logged) == (status >= 500)


def test_no_error_of_the_tree_was_forgotten() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AISolutionError)}
    tested = {type(raised) for raised, _, _ in ANSWERS}
    assert kinds - tested == {AISolutionError, errors.StatusError}


@pytest.mark.parametrize(
    ("asked", "header"), [(None, "10"), (0.2, "1"), (7.0, "7"), (7.01, "8"), (float("inf"), "3600"), (0.0, "1")]
)
def test_retry_after(asked: float | None, header: str) -> None:
    problem = problems.problem_of(RetryLaterError("busy", retry_after=asked))
    assert problem.headers["Retry-After"] == header
    assert "Retry-After" not in problems.problem_of(NotSentError("refused")).headers


@pytest.mark.parametrize(
    ("raised", "detail"),
    [
        (ANSWERS[0][0], "number is empty: there is no phone number to ask for"),
        (ANSWERS[1][0], "img1 cannot be used."),
        (ANSWERS[2][0], "img1 cannot be used."),
        (ANSWERS[5][0], "There is no face, or not the right number of faces, in the second image: another photo is"),
        (ANSWERS[6][0], "There is no face, or not the right number of faces, in the image: another photo is needed."),
        (ANSWERS[13][0], "It was asked before, and may have been charged then"),
    ],
)
def test_what_callers_can_mend_is_said(raised: AISolutionError, detail: str) -> None:
    assert problems.problem_of(raised).detail.startswith(detail)


async def test_real_errors_of_a_real_client(tmp_path: Path) -> None:
    app = FastAPI()
    async with Sandbox() as sandbox:
        install(app, lambda: AsyncClient(sandbox.token, base_url=sandbox.url, retry=0, max_charges=1))

        @app.post("/faces")
        async def compare(client: Client, request: Request) -> float:
            return (await client.face_compare(await request.body(), picture(1))).similarity

        @app.delete("/people/{person_id}")
        async def delete(client: Client, person_id: str) -> None:
            await client.delete_face(person_id)

        async with running(app) as http:
            assert (await http.post("/faces", content=b"")).status_code == 422
            assert (await http.post("/faces", content=b"\xff\xd8\xff" + bytes(2 * 1024 * 1024))).status_code == 422
            assert (await http.delete("/people/nobody")).status_code == 404
            sandbox.faults.add(Fault("status", status="RETRY_LATER", times=1, retry_after=30))
            busy = await http.post("/faces", content=picture(1))
            assert (busy.status_code, busy.headers["retry-after"]) == (503, "30")
            assert (await http.post("/faces", content=picture(1))).json() == 100
            spent = await http.post("/faces", content=picture(1))
            assert (spent.status_code, spent.json()["type"]) == (503, "urn:problem-type:aisolution:budget-exhausted")


# --------------------------------------------------------------------------------------------- charge and attempts


GROUP = "LxiKPLIMGFpXzXas"
MESSAGES: list[tuple[type[Call[Any]], object]] = [
    (FaceCompare, {"similarity": 97.5, "result": "SAME PERSON", "charge": "mine", "attempts": "yours", "more": [1]}),
    (IdHolding, {"similarity": 1, "result": "A NEW WORD", "group_id": GROUP}),
    (AddFace, {"group_id": GROUP, "person_id": "p", "person_count": 1}),
    (SearchFace, [{"confidence": 100, "person_id": "p", "group_id": GROUP}]),
    (DeleteFace, None),
    (WhatsAppDetail, {"number": NUMBER, "whatsapp": "yes", "signature": "<b>", "deep": {"group_id": GROUP}}),
]


@pytest.mark.parametrize(("kind", "message"), MESSAGES, ids=lambda value: getattr(value, "__name__", ""))
async def test_a_reply_is_answered_with_its_charge(kind: type[Call[Any]], message: object) -> None:
    """Only there: what a ledger keeps, and what the same reply is elsewhere, stays as it is."""
    images: dict[str, Any] = {
        parameter.name: picture(1) for parameter in kind.endpoint.parameters if parameter.kind is Kind.IMAGE
    }
    texts = {"number": NUMBER} if kind is WhatsAppDetail else {"person_id": "p"} if kind is DeleteFace else {}
    call = kind(**images, **texts)
    reply_type: Any = kind.endpoint.reply
    kept: list[Reply] = []
    app = FastAPI()
    # Of the first attempt nothing may get out but that it was made.
    lost = httpx.ConnectError(f"proxy.internal {SECRETS[0]}")
    install(app, lambda: client_on(in_turn(lost, says("OK", message)), retry=Retry(first=0.001)))

    async def ask(client: Client) -> Any:
        kept.append(await client.send(call))
        return kept[-1]

    shown: Any = WithCharge
    app.add_api_route("/one", ask, response_model=shown[reply_type])
    app.add_api_route("/more", ask, response_model=shown[reply_type] | None)
    app.add_api_route("/plain", ask, response_model=reply_type)
    async with running(app) as http:
        one = (await http.get("/one")).json()
        more, plain = (await http.get("/more")).json(), (await http.get("/plain")).json()
        schema = (await http.get("/openapi.json")).json()
    assert one.pop("charge") == kept[0].charge == more.pop("charge")
    made = one.pop("attempts")
    assert [(attempt["number"], attempt["charge"], attempt["status"]) for attempt in made] == [
        (1, "free", None),
        (2, kept[0].charge, "OK"),
    ]
    assert len(more.pop("attempts")) == 1
    for name in ("charge", "attempts"):  # a word of the vendor's
        plain.pop(name, None)
    assert one == more == plain
    assert "proxy" not in json.dumps(made)
    assert GROUP not in json.dumps([one, more, plain])
    for reply in kept:
        assert type(reply) is reply_type
        assert json.loads(reply.to_record()) == reply.model_dump(mode="json")
    described = schema["components"]["schemas"][f"{reply_type.__name__}WithCharge"]
    assert {"charge", "attempts"} <= {*described["required"]} & {*described["properties"]}
    assert "group_id" not in json.dumps(described)
    assert {*schema["components"]["schemas"]["AttemptMade"]["properties"]} == {*made[0]}


async def test_an_undocumented_status_gets_not_out() -> None:
    app = FastAPI()
    vendor = in_turn(says("SIMON_OF_GARUT"), ok_whatsapp())
    install(app, lambda: client_on(vendor, retry_unknown=1, retry=Retry(first=0.001, unknown=1)))

    @app.get("/")
    async def ask(client: Client) -> WithCharge[WhatsAppProfile]:
        return await client.whatsapp_detail(NUMBER)

    async with running(app) as http:
        answer = await http.get("/")
    assert "SIMON" not in answer.text
    assert [attempt["charge"] for attempt in answer.json()["attempts"]] == ["unknown", "charged"]


@pytest.mark.parametrize("kind", [int, FaceComparison | WhatsAppProfile])
def test_what_is_no_reply_has_no_charge(kind: Any) -> None:
    with pytest.raises(ConfigurationError, match="one kind of reply"):
        TypeAdapter(WithCharge[kind])


# --------------------------------------------------------------------------------------------------------- OpenAPI


async def test_the_problems_are_described() -> None:
    app = FastAPI()
    install(app, lambda: client_on(in_turn(says("PERSON_ID_NOT_EXIST"))))
    router = APIRouter(prefix="/below")

    @app.get("/")
    async def top(number: int) -> int:
        return number

    @router.delete("/{person}", responses={503: {"description": "ours"}, 502: {"model": int}})
    async def lower(client: Client, person: str) -> None:
        await client.delete_face(person)

    app.include_router(router)
    async with running(app) as http:
        problem = (await http.delete("/below/p")).json()
        schema = (await http.get("/openapi.json")).json()
        assert (await http.get("/openapi.json")).json() == schema
    for operation in (schema["paths"]["/"]["get"], schema["paths"]["/below/{person}"]["delete"]):
        found: dict[str, int] = {}
        for status, response in operation["responses"].items():
            body = response["content"].get("application/problem+json")
            assert (body is not None) == (status != "200")
            if body is not None:
                assert body["schema"] == {"$ref": "#/components/schemas/AISolutionProblem"}
                found |= {name: int(status) for name in body["examples"]}
        assert found == {name: status for _, status, name in ANSWERS} | {"error": 500}
        assert "Retry-After" in operation["responses"]["503"]["headers"]
        assert "application/json" in operation["responses"]["422"]["content"]  # FastAPI's own
    assert operation["responses"]["503"]["description"] == "ours"
    assert operation["responses"]["502"]["content"]["application/json"]["schema"]["type"] == "integer"
    described = schema["components"]["schemas"]["AISolutionProblem"]
    assert [*described["properties"]] == described["required"] == [*problem]
    assert problem["type"] in described["properties"]["type"]["enum"]
    examples = operation["responses"]["404"]["content"]["application/problem+json"]["examples"]
    assert examples["person-not-found"]["value"] == problem


async def test_an_application_below_describes_them_too() -> None:
    below = FastAPI()
    install_errors(below)

    @below.get("/")
    async def lower() -> None: ...

    assert "502" in below.openapi()["paths"]["/"]["get"]["responses"]
    install_errors(Starlette())  # which describes nothing


# --------------------------------------------------------------------------------------------------------- install


async def test_one_client_for_the_life_of_the_application_and_another_for_the_next() -> None:
    vendors: list[Vendor] = []

    def made() -> AsyncClient:
        vendors.append(in_turn(says("OK", None)))
        return client_on(vendors[-1])

    seen: list[AsyncClient] = []

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        seen.append(client_of(app))
        yield {"mine": 1}
        await client_of(app).delete_face("at the end")  # it is still open

    app = FastAPI(lifespan=own)
    install(app, made)
    below = FastAPI()

    @app.get("/")
    async def top(client: Client, request: Request) -> int:
        seen.append(client)
        mine: int = request.state.mine
        return mine

    @below.get("/")
    async def lower(client: Client) -> None:
        seen.append(client)

    app.mount("/below", below)
    for life in range(2):
        seen.clear()
        async with running(app) as http:
            assert (await http.get("/")).json() == 1
            assert (await http.get("/below/")).status_code == 200
            assert (await http.get("/")).status_code == 200
        assert len(seen) == 4
        assert len(set(map(id, seen))) == 1
        assert [vendor.closed for vendor in vendors] == [1] * (life + 1)
        assert len(vendors[-1].requests) == 1
        with pytest.raises(ConfigurationError, match="install"):
            client_of(app)


async def test_errors_in_dependencies_and_without_a_lifespan() -> None:
    app = FastAPI()
    install(app, lambda: client_on(in_turn(says("PERSON_ID_NOT_EXIST"))))

    async def person(client: Client) -> None:
        await client.delete_face("p")

    @app.get("/", dependencies=[Depends(person)])
    async def never() -> None:
        raise AssertionError

    async with running(app) as http:
        assert (await http.get("/")).status_code == 404
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as http:
        assert (await http.get("/")).json()["type"].endswith(":configuration")


async def test_a_background_task_that_fails_leaves_its_answer_alone() -> None:
    app = FastAPI()
    install(app, lambda: client_on(in_turn(says("PERSON_ID_NOT_EXIST"))))

    @app.get("/")
    async def later(client: Client, tasks: BackgroundTasks) -> str:
        tasks.add_task(client.delete_face, "p")
        return "taken"

    async with running(app) as http:
        answer = await http.get("/")
        assert (answer.status_code, answer.json()) == (200, "taken")
        assert (await http.get("/")).status_code == 200


@pytest.mark.parametrize("accepted", [True, False])
async def test_a_websocket_is_closed(accepted: bool) -> None:
    app = FastAPI()
    install(app, lambda: client_on(in_turn(says("FAIL"))))

    @app.websocket("/")
    async def talk(socket: WebSocket, client: Client) -> None:
        if accepted:
            await socket.accept()
        await client.add_face(picture(1))

    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    async with app.router.lifespan_context(app) as state:
        scope = {"type": "websocket", "path": "/", "headers": [], "query_string": b"", "state": dict(state or {})}
        await app(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.accept"] * accepted + ["websocket.close"]
    assert sent[-1]["code"] == 1011


async def test_a_client_that_cannot_be_opened_keeps_the_application_from_starting(tmp_path: Path) -> None:
    app = FastAPI()
    install(app, lambda: AsyncClient("t", ledger=tmp_path, max_cost=Decimal(1), prices={"facecompare": Decimal(1)}))
    with pytest.raises(LedgerError):
        async with running(app):
            raise AssertionError


async def test_what_makes_no_client_is_refused() -> None:
    app = FastAPI()
    with pytest.raises(ConfigurationError, match="lambda"):
        install(app, AsyncClient("t"))  # type: ignore[arg-type]
    install(app, lambda: AsyncClient("t"))
    with pytest.raises(ConfigurationError, match="once"):
        install(app)


async def test_a_test_can_put_another_client_in_its_place(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    install(app)
    vendor = in_turn(says("OK"))

    @app.get("/")
    async def delete(client: Client) -> None:
        await client.delete_face("p")

    async with client_on(vendor) as other:
        app.dependency_overrides[get_client] = lambda: other
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as http:
            assert (await http.get("/")).status_code == 200
    assert len(vendor.requests) == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
