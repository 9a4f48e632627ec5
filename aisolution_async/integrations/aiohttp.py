"""aiohttp's server: one client for the application's life; errors as problem details; callbacks.

```python
app = web.Application(client_max_size=8 * 2**20)
install(app)


async def compare(request: web.Request) -> web.Response:
    form = await request.post()
    face = await client_of(request).face_compare(form["selfie"].file, form["card"].file)
    return web.json_response({"similarity": face.similarity})
```

Hand over what callers upload as bytes or files: text of theirs could be a path of this machine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

try:
    from aiohttp import web
    from aiohttp.typedefs import Handler
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] != "aiohttp":
        raise
    raise ImportError("aiohttp is missing: pip install 'aisolution-async[aiohttp]'") from None

from aisolution_async.client import AsyncClient
from aisolution_async.errors import AISolutionError, ConfigurationError
from aisolution_async.inbox import Inbox
from aisolution_async.integrations.asgi import answer, hide_from_access_logs
from aisolution_async.integrations.problems import CONTENT_TYPE, problem_of, worst_of

__all__ = ["CLIENT", "answer_errors", "client_of", "inbox_routes", "install"]

CLIENT: web.AppKey[AsyncClient] = web.AppKey("aisolution_client", AsyncClient)
"""Where the application keeps its client: `request.config_dict[CLIENT]`, also in applications below it."""


def install(app: web.Application, client: Callable[[], AbstractAsyncContextManager[AsyncClient]] = AsyncClient) -> None:
    """Give `app` a client for its life, and answers for the errors of calls.

    `client` makes the client (`lambda: AsyncClient(ledger=…)`), or what opens and closes more than that (a function
    under `asynccontextmanager` that yields it), each time the application starts. Contexts that are added to
    `app.cleanup_ctx` later may use it, and end before it is closed; by then the server has let the requests under way
    finish. Errors are answered as `problems` has it, in the middlewares added later too.

    Raises ConfigurationError for what makes no client, and for a second time on one application. A client that cannot
    be made or opened keeps the application from starting.
    """
    if not callable(client):
        raise ConfigurationError("install(app, lambda: AsyncClient(…)): a function, since a closed client stays closed")
    if answer_errors in app.middlewares:
        raise ConfigurationError("this application has a client already: install it once")

    async def opened(app: web.Application) -> AsyncIterator[None]:
        async with client() as app[CLIENT]:
            yield

    app.cleanup_ctx.append(opened)
    app.middlewares.append(answer_errors)


def client_of(where: web.Application | web.Request) -> AsyncClient:
    """The client of an application, or of a request to it. Raises ConfigurationError where there is none."""
    client = where.get(CLIENT) if isinstance(where, web.Application) else where.config_dict.get(CLIENT)
    if client is None:
        raise ConfigurationError("this application has no open client: call install(app) before it starts")
    return client


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer an AISolutionError, or a group of nothing else: the middleware that `install` adds."""
    try:
        return await handler(request)
    except (AISolutionError, ExceptionGroup) as error:
        found = worst_of(error) if isinstance(error, ExceptionGroup) else error
        if found is None or request.writer.output_size > 0:
            raise  # an answer that is under way already can only be cut off
        problem = problem_of(found)
    return web.Response(body=problem.body, status=problem.status, headers=problem.headers, content_type=CONTENT_TYPE)


def inbox_routes(inbox: Inbox, *, path: str | None = None) -> list[web.RouteDef]:
    """The receiver of callbacks: `app.add_routes(inbox_routes(inbox))`. See `asgi.inbox_app` for what it answers.

    `path` is where it is in this application, if a proxy in front changes the path of the inbox's address. aiohttp
    itself refuses request lines of more than `max_line_size` (8190 bytes) with HTTP 400.
    """
    hide_from_access_logs(inbox)
    place = (inbox.path if path is None else path).rstrip("/")

    async def receive(request: web.Request) -> web.Response:
        # As it was sent: what the framework makes of a query is not always what was in it.
        target, _, query = request.raw_path.partition("?")
        status = await answer(inbox, request.method, target, query.encode(errors="surrogateescape"))
        return web.Response(status=status, headers={"Allow": "GET"} if status == 405 else None)

    return [web.route("*", pattern, receive) for pattern in (place or "/", f"{place}/{{rest:.*}}")]
