"""What many wait for, looked up from time to time, once for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

Look = Callable[[list[bytes]], "asyncio.Future[set[bytes]] | None"]
"""Which of these questions are still in the hands of others, as the ledger says later; None if it is closed."""


class Watching:
    """Questions that are in the hands of others. Who waits for one is told once it is not so any more.

    Where the ledger fails or is closed, all are told if `tells_faults`, to ask again and hear of it.
    """

    def __init__(self, every: float, look: Look, *, tells_faults: bool) -> None:
        self._every = every
        self._look_at = look
        self._tells_faults = tells_faults
        self._waiting: dict[bytes, list[tuple[Callable[[], bool], Callable[[], object]]]] = {}
        self._is_at_it = False

    def add(self, identity: bytes, waits: Callable[[], bool], tell: Callable[[], object]) -> None:
        """Call `tell` then, once, if it `waits` until then."""
        self._waiting.setdefault(identity, []).append((waits, tell))
        if not self._is_at_it:
            self._is_at_it = True
            self._go_on()

    def _go_on(self) -> None:
        asyncio.get_running_loop().call_later(self._every, self._look)

    def _look(self) -> None:
        for identity, waiting in [*self._waiting.items()]:
            waiting[:] = [each for each in waiting if each[0]()]
            if not waiting:
                del self._waiting[identity]
        asked = list(self._waiting)
        looked = self._look_at(asked) if asked else None
        if looked is not None:
            looked.add_done_callback(lambda _: self._looked(asked, looked))
            return
        self._is_at_it = False
        if self._tells_faults:
            self._tell(asked)
        else:
            self._waiting.clear()

    def _looked(self, asked: list[bytes], looked: asyncio.Future[set[bytes]]) -> None:
        if not (looked.cancelled() or looked.exception() is not None):
            self._tell([identity for identity in asked if identity not in looked.result()])
        elif self._tells_faults:
            self._tell(asked)
        self._is_at_it = bool(self._waiting)
        if self._is_at_it:
            self._go_on()

    def _tell(self, identities: list[bytes]) -> None:
        for identity in identities:
            for waits, tell in self._waiting.pop(identity, ()):
                if waits():
                    tell()
