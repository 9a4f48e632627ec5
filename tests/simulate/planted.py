"""Wrong edits of the money path, each of which the simulation finds.

`python -m tests.simulate --plant NAME --seeds 0..10000` runs it on the code with one of them; `python -m
tests.simulate.planted` does so with each, and says how many seeds it took.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

PACKAGE = "aisolution_async"
ROOT = Path(__file__).parents[2] / PACKAGE
MOST_SEEDS = 10_000


class Bug(NamedTuple):
    """In `file` of the package, `new` in place of `old`, which stands there once."""

    file: str
    old: str
    new: str


BUGS: dict[str, Bug] = {
    # What an attempt cost.
    "a cancelled attempt was not sent": Bug("sending/call.py", "Lost(state.flight.left is not False, ", "Lost(False, "),
    "a loss by timeout is free": Bug(
        "sending/finding.py",
        "Charge.UNKNOWN if lost.left else",
        "Charge.UNKNOWN if lost.left and not lost.timed_out else",
    ),
    "every loss is free": Bug(
        "sending/finding.py", "Charge.UNKNOWN if lost.left else", "Charge.UNKNOWN if lost.left and called_back else"
    ),
    "a request that was half written never left": Bug(
        "wire/exchange.py",
        "if flight.left is None else flight.left",
        "if flight.left is None else flight.left and not isinstance(exc, httpx.WriteError)",
    ),
    "a reset is no loss": Bug(
        "wire/exchange.py",
        "if flight.left is None else flight.left",
        "if flight.left is None else flight.left and not isinstance(exc, httpx.ReadError)",
    ),
    "an undocumented status is free": Bug(
        "wire/envelope.py",
        "charge = Charge.FREE if endpoint.never_charges else Charge.UNKNOWN\n",
        "charge = Charge.FREE\n",
    ),
    "an OK that does not fit is free": Bug(
        "wire/envelope.py",
        'Charge.UNKNOWN,\n            http_status,\n            "OK",',
        'Charge.FREE,\n            http_status,\n            "OK",',
    ),
    "an answer that cannot be read is free": Bug(
        "wire/envelope.py",
        'RefusedError, text=f"refused with HTTP {http_status}{hint}")\n    return Answer(\n        Charge.UNKNOWN,',
        'RefusedError, text=f"refused with HTTP {http_status}{hint}")\n    return Answer(\n        Charge.FREE,',
    ),
    "a contradiction is free": Bug(
        "wire/envelope.py", "Charge.FREE if endpoint.never_charges else Charge.UNKNOWN,\n", "Charge.FREE,\n"
    ),
    "an answer about another number is free": Bug(
        "wire/envelope.py", "Charge.UNKNOWN,\n        answer.http_status,", "Charge.FREE,\n        answer.http_status,"
    ),
    "an answer that is not finished is charged": Bug(
        "wire/envelope.py", 'charge = charges.get("OK:" + getattr(reply, endpoint.refined_by), charge)', "pass"
    ),
    # What a connection brings.
    "a connection whose answer was left unread is used again": Bug(
        "wire/transport.py",
        "if not flight.left:\n            self._release(conn)",
        "if True:\n            self._release(conn)",
    ),
    "a connection with something unread is used again": Bug(
        "wire/transport.py", "if not conn.is_quiet():", "if False:"
    ),
    "an answer that came before its request was out is believed": Bug(
        "sending/finding.py", "if response.early and not answer.refuses:", "if False:"
    ),
    "a request of which a piece left never left": Bug(
        "wire/transport.py",
        "flight.left = not conn.refused\n",
        "flight.left = not (conn.refused or isinstance(conn.error, httpx.WriteError))\n",
    ),
    "a client that is closed waits for nobody's record": Bug("sending/journal.py", "await self._unused.wait()", "pass"),
    "a closer that is cancelled closes in the middle of records": Bug(
        "sending/shared.py", "await asyncio.shield(self._closing)\n        elif", "await self._closing\n        elif"
    ),
    "the tally takes what is unknown for free": Bug("charges.py", "counts.unknown += times", "counts.free += times"),
    "the last attempt of a batch is not in the client's tally": Bug(
        "sending/call.py",
        "self._shared.tally.add(name, attempt.charge)\n        if self._tally is not None:",
        "if self._tally is None:\n            self._shared.tally.add(name, attempt.charge)\n        else:",
    ),
    # What may be asked again.
    "one unknown attempt too many is passed": Bug(
        "ledger/answers.py", "len(holding) <= ask.retry_unknown", "len(holding) <= ask.retry_unknown + 1"
    ),
    "only the last attempt holds": Bug(
        "ledger/answers.py",
        "holding = [row for row in rows if row[7] == HOLDS]",
        "holding = [row for row in rows[:1] if row[7] == HOLDS]",
    ),
    "a call repeats one unknown attempt too many": Bug(
        "retry.py",
        "return sum(attempt.charge is last for attempt in attempts) <= most",
        "return sum(attempt.charge is last for attempt in attempts) <= most + 1",
    ),
    "a hold is no hold": Bug(
        "sending/call.py",
        "return Over(None, held_error(verdict, call.endpoint.name, call.key, self.attempts))",
        "return self._start(form, None, clock.now(), ends)",
    ),
    "without leave from a ledger that fails, it is sent": Bug(
        "sending/call.py",
        'return Over(None, self._problem(LedgerError, f"not sent: {problem}"))\n\n    async def _heed',
        "return self._start(admitted.form, None, clock.now(), ends)\n\n    async def _heed",
    ),
    "what is under way is begun once more": Bug("ledger/intents.py", "INSERT OR IGNORE", "INSERT OR REPLACE"),
    "an intent is not kept": Bug("ledger/book.py", 'sql("COMMIT")', 'sql("ROLLBACK")'),
    "every other owner is dead": Bug(
        "ledger/book.py",
        "alive = owner == self._owner.name or owners.is_alive(self._path, owner)",
        "alive = owner == self._owner.name",
    ),
    "what a dead owner had under way is free": Bug(
        "ledger/intents.py",
        "state, holds = State.UNKNOWN, LIFTED if identity is None else HOLDS",
        "state, holds = State.FREE, 0",
    ),
    "what a dead owner had under way holds nothing": Bug(
        "ledger/intents.py", "LIFTED if identity is None else HOLDS", "LIFTED"
    ),
    "what a dead owner had under way was never sent": Bug(
        "ledger/intents.py",
        "state, holds = State.UNKNOWN, LIFTED if identity is None else HOLDS",
        "state, holds = State.NOT_SENT, 0",
    ),
    "an unknown attempt holds nothing": Bug(
        "ledger/book.py",
        "holds = HOLDS if result.holds and identity is not None and not is_answered else LIFTED",
        "holds = LIFTED",
    ),
    "a free attempt lifts the hold": Bug(
        "ledger/book.py", "if step.any_holding and answers_it:", "if step.any_holding:"
    ),
    "an answer is never used again": Bug(
        "ledger/answers.py", "return ask.reuse_for is None or ", "return ask.reuse_for is not None and "
    ),
    "a call that is paid for is not told from others": Bug(
        "sending/call.py",
        "reusable=not call.endpoint.never_charges or call.key is not None",
        "reusable=call.key is None",
    ),
    "the number is no part of the question": Bug(
        "sending/prepare.py", 'frozenset({"callback", "servstatus"})', 'frozenset({"callback", "servstatus", "number"})'
    ),
    "the callback's address is a part of the question": Bug(
        "sending/prepare.py", 'frozenset({"callback", "servstatus"})', 'frozenset({"servstatus"})'
    ),
    "a look-up of many tells one the answer of another": Bug(
        "ledger/answers.py", "answers[int(place)] = Stored(", "answers[-1 - int(place)] = Stored("
    ),
    "a loss is bought again for who asks the same": Bug(
        "batching/twins.py", "elif error is not None and may_be_bought(leader.attempts, error):", "elif False:"
    ),
    "an answer is not remembered for who asks the same": Bug(
        "batching/twins.py", "if reply.is_answer:", "if not reply.is_answer:"
    ),
    # What a ledger keeps.
    "what is not recorded is told as recorded": Bug(
        "sending/journal.py",
        "    except AISolutionError as exc:\n        recorded = False\n",
        "    except AISolutionError as exc:\n",
    ),
    "a disk that is full is no fault": Bug(
        "ledger/sqlite.py", "return schema.fault(self.path, exc), schema.is_fault_of_file(exc)", "return None, False"
    ),
    "an answer is recorded without its reply": Bug("sending/call.py", "to_record(found, self._redact),", "None,"),
    "a purge takes the hold, too": Bug("ledger/attempts.py", ' AND holds <> {HOLDS}"""', '"""'),
    "to settle one settles others": Bug(
        "ledger/attempts.py", "(id = ? OR identity = ? OR key IN (?, ?))", "(id >= ? OR identity = ? OR key IN (?, ?))"
    ),
    "what is settled as charged holds no more": Bug(
        "ledger/attempts.py",
        "step.sql(_SETTLE, (state, state is State.CHARGED, id_))",
        "step.sql(_SETTLE, (state, False, id_))",
    ),
    "what is settled is not taken from the counts": Bug(
        "ledger/attempts.py",
        "step.totals.count(endpoint, State.UNKNOWN, may_charge, price, -1)\n        step.totals.count(endpoint, state,",
        "step.totals.count(endpoint, state,",
    ),
    "outcomes that nobody took are gone": Bug(
        "batching/batch.py", "self.unread.extend(self._outlet.left())", "self._outlet.left()"
    ),
    "a batch that is cancelled again does not wait for its end": Bug(
        "batching/batch.py", "await _over(runner)", "await asyncio.wait({runner})"
    ),
    # What may be spent.
    "one charge over the ledger's limit": Bug("ledger/totals.py", ">= limit", "> limit"),
    "one charge over the limit in memory": Bug(
        "limits.py", "self._charges >= self._max_charges", "self._charges > self._max_charges"
    ),
    "one charge over the ledger's limit in money": Bug(
        "ledger/totals.py",
        'totals.sum("cost") - (lent or 0) + price > self.max_cost',
        'totals.sum("cost") - (lent or 0) > self.max_cost',
    ),
    "what is under way is not reserved in the ledger": Bug(
        "ledger/totals.py",
        "(may_charge and state in _OPEN)",
        "(may_charge and state is State.UNKNOWN)",
    ),
    "what is unknown is given back in the ledger": Bug(
        "ledger/totals.py",
        "(may_charge and state in _OPEN)",
        "(may_charge and state is State.INTENDED)",
    ),
    "what is unknown is given back in memory": Bug(
        "limits.py",
        "if charge is Charge.FREE:\n            self._charges -= 1",
        "if charge is not Charge.CHARGED:\n            self._charges -= 1",
    ),
    "a reservation is given back twice": Bug(
        "sending/admission.py",
        "        self._is_flying, charge = False, self._charge\n",
        "        charge = self._charge\n",
    ),
    "what is called back to a call that waits no longer costs nothing in memory": Bug(
        "inbox.py",
        "called_back_late(Charge.FREE if is_free else charge):",
        "called_back_late(Charge.FREE):",
    ),
    "what is set aside for a callback is given back at once": Bug(
        "sending/admission.py", "if may_come and charge is Charge.FREE and not self._is_callbacks:", "if False:"
    ),
    # Callbacks.
    "a callback is counted twice": Bug("sending/callback.py", "if recorded is not False:", "if True:"),
    "a callback is recorded twice": Bug("ledger/callbacks.py", "if not awaited.answered]", "if True]"),
    "a callback leaves the request its charge": Bug("ledger/book.py", "intents.has_charge(step, started.id)", "True"),
    "a callback pays for the request that is out, whichever": Bug(
        "sending/call.py",
        "self.callback.has_paid\n        if isinstance",
        "self.callback.answer is not None\n        if isinstance",
    ),
    "an answer of unknown charge is asked for again when the callback is late": Bug(
        "sending/call.py",
        "lost = otherwise is not None and otherwise.error is not None",
        "lost = otherwise is not None and isinstance(otherwise.error, OutcomeUnknownError)",
    ),
    "a number that is outstanding is asked for again": Bug(
        "ledger/book.py", "if callback is not None and awaited is not None and not awaited.is_spent:", "if False:"
    ),
    "nothing is set aside for a callback": Bug(
        "ledger/callbacks.py", "        if result.expected:\n            _reserve(step, awaited, 1)\n", ""
    ),
    "a callback that may be charged all the same is given up at once": Bug(
        "ledger/callbacks.py", '"answered AND ends <= ?", (step.now,)', '"answered", ()'
    ),
    "a callback after another answer is forgotten when it is late": Bug(
        "ledger/callbacks.py", "        _repeat(step, found[0], result)\n", "        pass\n"
    ),
    "a callback that says nothing final is an answer": Bug(
        "inbox.py", "elif reply.whatsapp not in (WhatsAppState.YES, WhatsAppState.NO):", "elif False:"
    ),
}


def check(bug: Bug) -> str:
    """The source with the bug in it. Raises ValueError where it can no longer be planted."""
    source = (ROOT / bug.file).read_text(encoding="utf-8")
    if source.count(bug.old) != 1:
        raise ValueError(f"{bug.file} has {source.count(bug.old)} times: {bug.old}")
    return source.replace(bug.old, bug.new)


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, module: str, source: str) -> None:
        self._module, self._source = module, source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._module:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _Loader(fullname, spec.origin, self._source)
        return spec


def plant(name: str) -> None:
    """From now on, the module that is imported has the bug."""
    bug = BUGS[name]
    plant_source(bug.file, check(bug))


def plant_source(file: str, source: str) -> None:
    """From now on, the module of a file of the package has this source."""
    module = ".".join((PACKAGE, *Path(file).with_suffix("").parts))
    if module in sys.modules:
        raise RuntimeError(f"{module} is imported already")
    sys.meta_path.insert(0, _Finder(module, source))


def seeds_until_found(name: str, most: int = MOST_SEEDS, store: str = "sqlite") -> tuple[int | None, str]:
    """How many seeds it takes, in a process of its own, and what is broken then."""
    found = subprocess.run(
        [sys.executable, "-m", "tests.simulate", "--plant", name, "--seeds", f"0..{most}", "--store", store],
        cwd=ROOT.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    for line in found.stdout.splitlines():
        if line.startswith("seed "):
            number, _, what = line.removeprefix("seed ").partition(": ")
            return int(number) + 1, what
    if found.returncode:
        raise RuntimeError(found.stderr)
    return None, ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulate.planted", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=MOST_SEEDS)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    names = options.names or [*BUGS]
    missed, start = 0, time.time()
    with ThreadPoolExecutor(options.jobs) as pool:
        for name, (seeds, what) in zip(
            names, pool.map(lambda name: seeds_until_found(name, options.seeds), names), strict=True
        ):
            missed += seeds is None
            print(f"{'missed' if seeds is None else seeds:>6}  {name}  ({what[:90]})", flush=True)
    print(f"{len(names) - missed} of {len(names)} found, {time.time() - start:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
