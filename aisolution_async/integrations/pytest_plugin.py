"""pytest: a pretended vendor for each test that asks for one, and none that costs money for the others.

| fixture | what |
| --- | --- |
| `aisolution_sandbox` | a running `Sandbox`, which AISOLUTION_TOKEN and AISOLUTION_BASE_URL name meanwhile |
| `aisolution_client` | an `AsyncClient` of it, closed at the end; in asyncio tests |
| `aisolution_instant` | waits of the test's event loop end at once: retries, "checking", your own `asyncio.sleep` |

```python
async def test_an_applicant_is_checked(aisolution_sandbox, aisolution_instant):
    number = aisolution_sandbox.number("checking-twice")
    assert await my_app.check(number) == "yes"
    assert aisolution_sandbox.bill.charged == 1
```

While tests run, clients dial no host but this machine: a test whose mock is walked past fails, and does not pay. Tests
marked `aisolution_network` may dial any.

The fixtures work in tests of pytest-asyncio, in either mode, and of anyio's plugin, where the sandbox is on the test's
own event loop. In other tests, those with a `TestClient` say, the sandbox is in a thread of its own; `reset()` and
`clock.advance()` may be called from the test there too.
"""

from __future__ import annotations

import types
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from aisolution_async.wire import reach  # light, as all that is imported here: most tests use nothing of it

if TYPE_CHECKING:
    import asyncio

    from aisolution_async.client import AsyncClient
    from aisolution_async.sandbox import Sandbox

_LOOP_SCOPES = ("function", "class", "module", "package", "session")


@pytest.fixture
def aisolution_sandbox(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A running Sandbox, new for each test, which the environment's token and base URL name meanwhile."""
    place = _place(request)

    def name(sandbox: Sandbox) -> Sandbox:
        monkeypatch.setenv("AISOLUTION_TOKEN", sandbox.token)
        monkeypatch.setenv("AISOLUTION_BASE_URL", sandbox.url)
        return sandbox

    if place is None:
        with _in_thread() as sandbox:
            yield name(sandbox)
    else:
        yield name(request.getfixturevalue(f"_aisolution_sandbox_{place}"))


@pytest.fixture
def aisolution_client(request: pytest.FixtureRequest) -> AsyncClient:
    """An AsyncClient of `aisolution_sandbox`, for asyncio tests."""
    client: AsyncClient = request.getfixturevalue(f"_aisolution_client_{_asyncio_place(request)}")
    return client


@pytest.fixture
def aisolution_instant(request: pytest.FixtureRequest) -> None:
    """Waiting takes no time on the test's event loop, for asyncio tests on asyncio's own loop."""
    request.getfixturevalue(f"_aisolution_instant_{_asyncio_place(request)}")


def pytest_configure(config: pytest.Config) -> None:
    """Keep clients to this machine, and make the fixtures above known to the plugin that runs asyncio tests here."""
    config.addinivalue_line("markers", "aisolution_network: the test may reach the vendor, who may charge for it.")
    config.add_cleanup(_keep_to_loopback(True))
    pluginmanager = config.pluginmanager
    if pluginmanager.hasplugin("asyncio"):
        import pytest_asyncio  # noqa: PLC0415  # loaded already

        for scope in _LOOP_SCOPES:
            pluginmanager.register(_behind(scope, pytest_asyncio.fixture, loop_scope=scope))
    if pluginmanager.hasplugin("anyio"):
        pluginmanager.register(_behind("anyio", pytest.fixture))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let the test reach the vendor where it is marked so."""
    back = _keep_to_loopback(item.get_closest_marker("aisolution_network") is None)
    try:
        return (yield)
    finally:
        back()


def _keep_to_loopback(on: bool) -> Callable[[], None]:
    """What puts it back, as pytest may run within pytest."""
    before, reach.loopback_only = reach.loopback_only, on

    def back() -> None:
        reach.loopback_only = before

    return back


def _behind(place: str, fixture: Callable[..., Any], **options: Any) -> Any:
    """Fixtures on the test's event loop, by names that end in `place`."""

    async def sandbox() -> AsyncIterator[Sandbox]:
        from aisolution_async.sandbox import Sandbox  # noqa: PLC0415  # heavy

        async with Sandbox() as running:
            yield running

    async def client(aisolution_sandbox: Sandbox) -> AsyncIterator[AsyncClient]:
        from aisolution_async.client import AsyncClient  # noqa: PLC0415  # heavy

        async with AsyncClient(aisolution_sandbox.token, base_url=aisolution_sandbox.url) as opened:
            yield opened

    async def instant() -> AsyncIterator[None]:
        from asyncio import get_running_loop  # noqa: PLC0415  # pytest loads this in every run

        with skipping(get_running_loop()):
            yield

    plugin = types.ModuleType(f"{__name__}.{place}")
    for function in (sandbox, client, instant):
        name = f"_aisolution_{function.__name__}_{place}"
        setattr(plugin, name, fixture(function, name=name, **options))
    return plugin


def _place(request: pytest.FixtureRequest) -> str | None:
    """Where the test's event loop is; None where the test has none that is known here."""
    manager = request.config.pluginmanager
    if manager.hasplugin("anyio") and "anyio_backend" in request.fixturenames:
        backend = request.getfixturevalue("anyio_backend")
        if "trio" in (backend, backend[0]):
            pytest.skip("aisolution-async runs on asyncio only")
        return "anyio"
    marker = request.node.get_closest_marker("asyncio")
    if marker is None or not manager.hasplugin("asyncio"):
        return None
    scope = marker.kwargs.get("loop_scope") or request.config.getini("asyncio_default_test_loop_scope")
    return str(scope or "function")


def _asyncio_place(request: pytest.FixtureRequest) -> str:
    place = _place(request)
    if place is None:
        pytest.fail(
            f"{request.fixturename} is for asyncio tests: mark an async test with @pytest.mark.asyncio "
            "(pytest-asyncio has to be installed) or @pytest.mark.anyio; in a plain test, give the sandbox's token and "
            "url to a client of your own",
            pytrace=False,
        )
    return place


@contextmanager
def _in_thread() -> Iterator[Sandbox]:
    from anyio.from_thread import start_blocking_portal  # noqa: PLC0415  # heavy

    from aisolution_async.sandbox import Sandbox  # noqa: PLC0415  # heavy

    with start_blocking_portal() as portal:
        ours = portal.call(_thread_id)

        def there(function: Callable[..., None]) -> Callable[..., None]:
            # What moves timers and tasks has to do so on their own thread.
            def call(*arguments: Any) -> None:
                if _thread_id() == ours:
                    function(*arguments)
                else:
                    portal.call(function, *arguments)

            return call

        async def made() -> Sandbox:
            return Sandbox()

        sandbox: Any = portal.call(made)
        sandbox.reset = there(sandbox.reset)
        sandbox.clock.advance = there(sandbox.clock.advance)
        with portal.wrap_async_context_manager(sandbox):
            yield sandbox


def _thread_id() -> int:
    from threading import get_ident  # noqa: PLC0415  # pytest loads this in every run

    return get_ident()


def skipping(loop: asyncio.AbstractEventLoop) -> AbstractContextManager[None]:
    """Let `loop` skip the time in which it would only wait. Its clock goes on from there afterwards.

    What works outside the loop takes the time that it takes: see `instant`. Raises RuntimeError, when entered, for a
    loop that does not wait by a selector: uvloop's, or the proactor of Windows.
    """
    from aisolution_async.integrations import instant  # noqa: PLC0415  # heavy

    return instant.skipping(loop)
