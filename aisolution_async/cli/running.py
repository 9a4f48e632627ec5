"""What the commands have in common: the event loop, the client, Ctrl-C, errors and exit codes."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import httpx

from aisolution_async.bulk import outputs, pretended
from aisolution_async.cli import show
from aisolution_async.cli.ending import BEGUN, Ending, Exit
from aisolution_async.client import BASE_URL_VARIABLE, TOKEN_VARIABLE, AsyncClient
from aisolution_async.errors import AISolutionError, ConfigurationError
from aisolution_async.ledger import LedgerError

if TYPE_CHECKING:
    from aisolution_async.sandbox import Sandbox

new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    from uvloop import new_event_loop
except ImportError:  # it is not made for every platform
    from asyncio import new_event_loop

T = TypeVar("T")

_LONGEST_TOKEN = 4096


@dataclass(frozen=True, slots=True)
class Access:
    """Which vendor to ask, and how to be let in."""

    sandbox: bool = False
    token_file: Path | None = None
    base_url: str | None = None


def check_stdout() -> None:
    """Raise Ending where stdout is closed, before anything is paid for that was to go there."""
    with foreseen():
        outputs.check_stdout()


def keep_stdin() -> None:
    """Read standard input to its end, into a file that is nobody else's, so that it can be read more than once.

    Now, while Ctrl-C still ends it at once.
    """
    if sys.stdin.seekable():
        return
    file = tempfile.TemporaryFile()  # noqa: SIM115  # it takes the place of stdin
    try:
        if sys.stdin.isatty():
            show.say("reading rows from here, an object of JSON on each line: Ctrl-D ends them")
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
        file.seek(0)
    except KeyboardInterrupt:
        failed = Ending("interrupted: nothing was sent", Exit.INTERRUPTED)
    except OSError as exc:
        failed = Ending(f"standard input cannot be kept: {exc.strerror or type(exc).__name__}", Exit.USAGE)
    else:
        sys.stdin = io.TextIOWrapper(file)
        return
    file.close()
    raise failed


@contextmanager
def foreseen() -> Iterator[None]:
    """What can be foreseen to go wrong in here becomes an `Ending`."""
    try:
        yield
    except (ConfigurationError, LedgerError) as exc:
        failed = Ending(str(exc), Exit.USAGE)
    except AISolutionError as exc:
        failed = Ending(str(exc), Exit.PROBLEMS)
    else:
        return
    raise failed


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on a loop of its own; what can be foreseen to go wrong becomes an `Ending`."""
    context = click.get_current_context(silent=True)
    if context is not None:
        context.meta[BEGUN] = True
    try:
        with foreseen(), asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(main)
    except KeyboardInterrupt:
        failed = Ending("interrupted: what was under way may have been charged", Exit.INTERRUPTED)
    raise failed


class _Nowhere(httpx.AsyncBaseTransport):
    """Where nothing is ever sent."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("nothing is sent in a dry run", request=request)


def say_whom(access: Access, client: AsyncClient) -> None:
    """Say where the questions go, unless that is to the vendor, or to the sandbox that was asked for by name."""
    whom = pretended.whom(client)
    if access.sandbox or whom is None:
        return
    what = ", a sandbox, which makes its answers up" if whom == pretended.SANDBOX else ""
    remedy = f"unset {BASE_URL_VARIABLE} {TOKEN_VARIABLE}" if access.base_url is None else "leave --base-url out"
    show.say(f"the questions go to {client.base_url}{what}, and not to the vendor's address (to change that: {remedy})")


def whom_now(base_url: str | None) -> str | None:
    """Who would be asked, by the environment, as `pretended.whom` says it. Raises ConfigurationError."""
    token = os.environ.get(TOKEN_VARIABLE, "").strip() or "none"
    return pretended.whom(AsyncClient(token, base_url=base_url, transport=_Nowhere()))


@asynccontextmanager
async def disconnected(access: Access, **options: Any) -> AsyncIterator[AsyncClient]:
    """A client that cannot send anything, and needs no token, for the same vendor."""
    base_url = "http://127.0.0.1" if access.sandbox else access.base_url
    async with AsyncClient("none", base_url=base_url, transport=_Nowhere(), **options) as client:
        yield client


@asynccontextmanager
async def connected(access: Access, *, max_connections: int = 1, **options: Any) -> AsyncIterator[AsyncClient]:
    """A client as `access` says, with the sandbox it may need."""
    async with AsyncExitStack() as stack:
        token, base_url = None, access.base_url
        if access.sandbox:
            if access.token_file is not None or access.base_url is not None:
                raise ConfigurationError("--sandbox has its own token and address: leave --token-file, --base-url out")
            sandbox = await stack.enter_async_context(started_sandbox())
            token, base_url = sandbox.token, sandbox.url
        elif access.token_file is not None:
            token = _token(access.token_file)
        elif not os.environ.get(TOKEN_VARIABLE, "").strip():
            raise ConfigurationError(f"no token: set {TOKEN_VARIABLE}, name a --token-file, or try it with --sandbox")
        yield await stack.enter_async_context(
            AsyncClient(token, base_url=base_url, max_connections=max_connections, **options)
        )


@asynccontextmanager
async def started_sandbox(port: int = 0, *, callbacks_anywhere: bool = False) -> AsyncIterator[Sandbox]:
    """A sandbox that listens. Raises ConfigurationError if it cannot."""
    from aisolution_async.sandbox import Sandbox  # noqa: PLC0415  # slow to import, and seldom asked for

    sandbox = Sandbox(port, callbacks_anywhere=callbacks_anywhere)
    try:
        await sandbox.start()
    except OSError as exc:
        problem = f"port {port} cannot be used ({exc.strerror or type(exc).__name__}): choose another one with --port"
    except RuntimeError as exc:  # Pillow is missing
        problem = str(exc)
    else:
        try:
            yield sandbox
        finally:
            await sandbox.aclose()
        return
    raise ConfigurationError(problem)


@contextmanager
def on_interrupt(pressed: Callable[[], None]) -> Iterator[None]:
    """Call `pressed` on the loop for each Ctrl-C (or SIGTERM), or when the terminal is closed, instead of being ended.

    A signal that is ignored stays so: nohup means SIGHUP, and a shell's script means Ctrl-C, for others.
    """
    loop = asyncio.get_running_loop()
    hangup = getattr(signal, "SIGHUP", None)
    told = False

    def tell(number: int) -> None:
        nonlocal told
        # Shell and system both tell of a terminal's end, and some send it after SIGTERM: it is nobody's second Ctrl-C.
        if number != hangup or not told:
            told = True
            pressed()

    with ExitStack() as listening:
        with suppress(RuntimeError, ValueError):  # not in the main thread: the run is cancelled at once there
            for number in (signal.SIGINT, signal.SIGTERM, hangup):
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    listening.callback(_listen(loop, number, tell))
        yield


def _listen(loop: asyncio.AbstractEventLoop, number: int, tell: Callable[[int], None]) -> Callable[[], object]:
    """Have the loop call `tell` at a signal. What is returned ends that."""
    try:
        loop.add_signal_handler(number, tell, number)
    except NotImplementedError:  # as on Windows, whose loop a signal wakes up all the same
        before = signal.signal(number, lambda number, _: loop.call_soon_threadsafe(tell, number) and None)
        return lambda: signal.signal(number, before)
    return lambda: loop.remove_signal_handler(number)


def _token(path: Path) -> str:
    shown = repr(str(path))
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            token = file.read(_LONGEST_TOKEN + 1).decode().strip()
    except OSError as exc:
        problem = exc.strerror or type(exc).__name__
    except ValueError:
        problem = "it is no text"
    else:
        if token and len(token) <= _LONGEST_TOKEN:
            if stat.S_ISREG(mode) and mode & (stat.S_IRGRP | stat.S_IROTH):
                show.say(f"warning: the token file {shown} can be read by others: chmod 600 it")
            return token
        problem = "it is too long for a token" if token else "it is empty"
    raise ConfigurationError(f"the token file {shown} cannot be used: {problem}")
