"""FastAPI: one client for the application's life, as a dependency; replies with their charge; errors; callbacks.

```python
app = FastAPI()
install(app)


@app.post("/faces")
async def compare(client: Client, selfie: UploadFile, card: UploadFile) -> WithCharge[FaceComparison]:
    return await client.face_compare(await selfie.read(), await card.read())
```

Hand over what callers upload as bytes: text of theirs could be a path of this machine. Plain Starlette can use
`client_of`, `answer_error` and `inbox_app` the same way.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import Annotated, Any, cast

from pydantic import BaseModel, GetCoreSchemaHandler, computed_field, create_model
from pydantic_core import CoreSchema, core_schema

try:
    from fastapi import APIRouter, Depends, FastAPI
    from starlette.applications import Starlette
    from starlette.requests import HTTPConnection
    from starlette.responses import Response
    from starlette.routing import Route
    from starlette.websockets import WebSocket, WebSocketState
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] not in ("fastapi", "starlette"):
        raise
    raise ImportError("FastAPI is missing: pip install 'aisolution-async[fastapi]'") from None

from aisolution_async.api import ERRORS, R, Reply
from aisolution_async.charges import Attempt, Charge, overall
from aisolution_async.client import AsyncClient
from aisolution_async.errors import AISolutionError, ConfigurationError
from aisolution_async.inbox import Inbox
from aisolution_async.integrations.asgi import inbox_app
from aisolution_async.integrations.problems import CONTENT_TYPE, document, problem_of, worst_of

__all__ = [
    "AttemptMade",
    "Client",
    "WithCharge",
    "answer_error",
    "client_of",
    "get_client",
    "inbox_router",
    "install",
    "install_errors",
]

_NAME = "aisolution_client"
_INTERNAL_ERROR = 1011  # of WebSockets, RFC 6455


def install(app: Starlette, client: Callable[[], AbstractAsyncContextManager[AsyncClient]] = AsyncClient) -> None:
    """Give `app` a client for its life, and answers for the errors of calls.

    `client` makes the client (`lambda: AsyncClient(ledger=…)`), or what opens and closes more than that (a function
    under `asynccontextmanager` that yields it), each time the application starts: it is opened before the lifespan
    that the application has, which may use `client_of(app)`, and closed after it, once the server has let the requests
    under way finish. Errors are answered as `problems` has it, also where dependencies raise them, and the OpenAPI
    schema says so; what a background task raises has no answer left to change, and is the server's to log.

    Raises ConfigurationError for what makes no client, and for a second time on one application. A client that cannot
    be made or opened keeps the application from starting.
    """
    if not callable(client):
        raise ConfigurationError("install(app, lambda: AsyncClient(…)): a function, since a closed client stays closed")
    if AISolutionError in app.exception_handlers:
        raise ConfigurationError("this application has a client already: install it once")
    install_errors(app)
    own = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(owner: Any) -> AsyncIterator[Mapping[str, Any]]:
        async with client() as opened:
            setattr(app.state, _NAME, opened)
            try:
                async with own(owner) as state:
                    # Applications mounted below this one see the state, and not this application.
                    yield {**(state or {}), _NAME: opened}
            finally:
                delattr(app.state, _NAME)

    app.router.lifespan_context = lifespan


def install_errors(app: Starlette) -> None:
    """Give `app` answers for the errors of calls: for one that is mounted below the one that has the client."""
    handler: Any = answer_error  # of requests and WebSockets alike, which Starlette's types keep apart
    app.add_exception_handler(AISolutionError, handler)
    app.add_exception_handler(ExceptionGroup, handler)  # as asyncio's and anyio's task groups raise them
    if isinstance(app, FastAPI):
        own = app.openapi
        app.openapi = lambda: document(own())  # type: ignore[method-assign]  # FastAPI's way to extend it


def client_of(where: Starlette | HTTPConnection) -> AsyncClient:
    """The client of an application, of a request or of a WebSocket. Raises ConfigurationError where there is none."""
    places = (where.state, where.app.state) if isinstance(where, HTTPConnection) else (where.state,)
    for state in places:
        client = getattr(state, _NAME, None)
        if isinstance(client, AsyncClient):
            return client
    raise ConfigurationError(
        "this application has no open client: call install(app), and let its lifespan run (a server does; in tests, "
        "`async with app.router.lifespan_context(app):`)"
    )


async def get_client(connection: HTTPConnection) -> AsyncClient:
    """The dependency behind `Client`: replace it in tests with `app.dependency_overrides[get_client] = …`."""
    return client_of(connection)


Client = Annotated[AsyncClient, Depends(get_client)]
"""The application's client, as a parameter: `async def compare(client: Client)`."""


class AttemptMade(BaseModel):
    """One request to the verification service: `status` is its own word, if documented, and `elapsed` in seconds."""

    number: int
    charge: Charge
    status: str | None
    http_status: int | None
    started_at: datetime
    elapsed: float

    @classmethod
    def of(cls, attempt: Attempt) -> AttemptMade:
        """What a service's callers may see: no error's text, which names hosts, and no word that nobody documented."""
        return cls(
            number=attempt.number,
            charge=attempt.charge,
            status=attempt.status if attempt.status in _DOCUMENTED else None,
            http_status=attempt.http_status,
            started_at=attempt.started_at,
            elapsed=attempt.elapsed,
        )


_DOCUMENTED = {"OK", *ERRORS}


class _Shown(Reply):
    """A reply as a service answers it."""

    @computed_field(description="What the call cost, over all its attempts.")  # type: ignore[prop-decorator]
    @property
    def charge(self) -> Charge:
        return overall(super().attempts)

    @computed_field(description="The requests that led to this, oldest first.")  # type: ignore[prop-decorator]
    @property
    def attempts(self) -> tuple[AttemptMade, ...]:  # type: ignore[override]  # only pydantic reads it
        return tuple(AttemptMade.of(attempt) for attempt in super().attempts)


@functools.cache
def _shown(kind: type[Reply]) -> type[_Shown]:
    bases: Any = (_Shown, kind)
    about = (kind.__doc__ or "").partition("\n")[0]  # what is secret is further down
    return cast("type[_Shown]", create_model(f"{kind.__name__}WithCharge", __base__=bases, __doc__=about))


class _Charged:
    """What makes pydantic write a reply with its charge and attempts, and describe it so."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if not (isinstance(source, type) and issubclass(source, Reply)):
            raise ConfigurationError("WithCharge[…] is for one kind of reply, like WithCharge[FaceComparison]")
        shown = _shown(source)

        def show(reply: Reply) -> _Shown:
            names = {*source.model_fields, *(reply.model_extra or {})} - {"charge", "attempts"}
            made = shown.model_construct(**{name: getattr(reply, name) for name in names})
            return made.made_by(reply.attempts)  # its own class

        return core_schema.no_info_after_validator_function(
            lambda reply: reply,
            handler(source),
            serialization=core_schema.plain_serializer_function_ser_schema(
                show, return_schema=handler.generate_schema(shown)
            ),
        )


WithCharge = Annotated[R, _Charged()]
"""A reply whose JSON has `charge` and `attempts` too: `async def compare(…) -> WithCharge[FaceComparison]`.

To a type checker it is the reply itself. Only what such an endpoint answers changes.
"""


async def answer_error(connection: HTTPConnection, error: Exception) -> Response | None:
    """Answer an AISolutionError, or a group of nothing else: the exception handler that `install` adds.

    A WebSocket is closed with code 1011.
    """
    found = worst_of(error) if isinstance(error, ExceptionGroup) else error
    if not isinstance(found, AISolutionError):
        raise error
    problem = problem_of(found)
    if isinstance(connection, WebSocket):
        if connection.application_state != WebSocketState.DISCONNECTED:
            await connection.close(_INTERNAL_ERROR)
        return None
    return Response(problem.body, problem.status, problem.headers, CONTENT_TYPE)


def inbox_router(inbox: Inbox, *, path: str | None = None) -> APIRouter:
    """The receiver of callbacks, to be included: `app.include_router(inbox_router(inbox))`. See `inbox_app`.

    `path` is where it is in this application, if a proxy in front changes the path of the inbox's address. It is in no
    OpenAPI schema.
    """
    place = (inbox.path if path is None else path).rstrip("/")
    receiver = inbox_app(inbox)
    router = APIRouter(redirect_slashes=False)
    for pattern in (place or "/", f"{place}/{{rest:path}}"):
        router.routes.append(Route(pattern, receiver))
    return router
