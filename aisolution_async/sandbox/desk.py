"""The pretended vendor with all that goes wrong, and the bill of it: a request comes in, an answer goes out."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from aisolution_async.charges import Charge
from aisolution_async.sandbox.bill import Bill, Entry
from aisolution_async.sandbox.callbacks import Callbacks
from aisolution_async.sandbox.clock import Clock
from aisolution_async.sandbox.faults import ENVELOPE_OF_BUSY, SPOILING, Fate, Fault, Faults, spoiled
from aisolution_async.sandbox.vendor import Request, Served, Vendor


class Desk:
    """What is answered, and what that costs. `faults` go wrong from the start."""

    def __init__(
        self,
        vendor: Vendor,
        clock: Clock,
        faults: Iterable[Fault],
        seed: int,
        *,
        callback_timeout: float,
        callback_delay: float,
    ) -> None:
        self.vendor = vendor
        self.clock = clock
        self.bill = Bill()
        self.requests: Counter[str] = Counter()
        self.callbacks = Callbacks(self.bill, clock, timeout=callback_timeout, delay=callback_delay)
        self._first_faults = tuple(faults)
        self._first_available = vendor.whatsapp_available
        self.faults = Faults(self._first_faults, seed=seed)

    def reset(self) -> None:
        """Be as at the start: nothing asked, added or billed, and the first faults."""
        self.callbacks.clear()
        self.vendor.forget()
        self.vendor.whatsapp_available = self._first_available
        self.bill.clear()
        self.requests.clear()
        self.faults.clear()
        for fault in self._first_faults:
            self.faults.add(fault)

    def resets(self, path: str) -> bool:
        """Whether a request to `path` is not to be read any further."""
        endpoint = self.vendor.endpoint(path) if self.faults else None
        return endpoint is not None and self.faults.begins(endpoint, self.clock.now()) is not None

    def received(self, path: str) -> str | None:
        """Count a request; its endpoint, if it has one."""
        endpoint = self.vendor.endpoint(path)
        if endpoint is not None:
            self.requests[endpoint] += 1
        return endpoint

    async def answer(self, request: Request) -> Served:
        """What the vendor answers, and what goes wrong with it.

        A bug of ours is HTTP 500, and the loop's exception handler is told.
        """
        endpoint = self.vendor.endpoint(request.path)
        fate = Fate()
        if endpoint is not None and self.faults:
            fate = self.faults.fate(endpoint, request.body, self.clock.now())
        fault = fate.fault
        if fault is None or fault.is_billed:
            try:
                answer = await self.vendor.answer(request)
            except Exception as error:
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "the sandbox failed to answer", "exception": error}
                )
                answer = Served(500, b"the sandbox failed\n", endpoint=endpoint)
            fault = fault or answer.fault
        if fault is None:
            return replace(answer, delay=fate.seconds) if fate.seconds else answer
        assert endpoint is not None
        if not fault.is_billed:
            # The vendor knows nothing of it: what there is to send is somebody's before it who is busy.
            answer = Served(200, ENVELOPE_OF_BUSY, "application/json", endpoint=endpoint)
        if fault.kind in SPOILING:
            http_status, body, content_type, headers, status = spoiled(
                fault, endpoint, answer.http_status, answer.body, answer.content_type
            )
            answer = replace(
                answer,
                http_status=http_status,
                body=body,
                content_type=content_type,
                headers=headers,
                status=status,
            )
        return replace(answer, fault=fault, delay=fate.seconds)

    def account(self, answer: Served) -> Entry | None:
        """Put an answer on the bill."""
        if answer.endpoint is None:
            return None
        fault = None if answer.fault is None else answer.fault.kind
        if answer.number is not None and answer.charge is Charge.CHARGED:
            self.callbacks.answered(answer.number)
        entry = Entry(
            self.clock.now(), answer.endpoint, "request", answer.charge, answer.status, answer.http_status, fault
        )
        return self.bill.enter(entry)
