"""How deep the path of a call is: what `sending/__init__.py` draws, taken from the stack at the socket."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import aisolution_async
from aisolution_async import sending
from aisolution_async.sandbox import Sandbox
from aisolution_async.wire.connection import Connection

PACKAGE = Path(aisolution_async.__file__).parent
PATH = [
    "AsyncClient.whatsapp_detail",
    "AsyncClient.send",
    "Sending.step",
    "PoolTransport._exchange",
]


async def test_four_frames_lead_from_a_method_to_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    stacks: list[list[str]] = []
    write = Connection.write

    def written(conn: Connection, data: Any) -> None:
        frame, names = sys._getframe(1), []  # the stack is what is looked at
        while frame.f_back is not None:
            if Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
                names.append(frame.f_code.co_qualname)
            frame = frame.f_back
        stacks.append(names[::-1])
        write(conn, data)

    monkeypatch.setattr(Connection, "write", written)
    async with Sandbox() as sandbox, aisolution_async.AsyncClient(sandbox.token, base_url=sandbox.url) as client:
        await client.whatsapp_detail("+6281387300008")
    assert stacks == [PATH]
    assert all(name in (sending.__doc__ or "") for name in PATH[1:])
