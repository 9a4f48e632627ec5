"""A shared ledger with very many rows: what it weighs, and how long it takes to look into it and to clean it.

The rows are made by the server itself. Each measurement is a process of its own: `python -m benchmarks.rows '{...}'`.
"""

# the SQL that is put together here is made of our own constants

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from aisolution_async import Attempt, Charge, clock
from aisolution_async.ledger import Ask, Result, Started, open_ledger
from benchmarks.compare import run_module
from benchmarks.measure import peak_megabytes
from benchmarks.table import print_table

_LOOKED_UP = 20_000
_AT_ONCE = 200
_CALLS = 10_000
_DAYS = 60

# Half of the attempts are look-ups, the others compare faces. Of a thousand, 930 are answered and charged, 64 are to be
# tried later, 5 never left, and 1 is held. Identities are as random as real ones, and times are in the order of ids.
_MAKE = f"""INSERT INTO %s.attempts
    (id, identity, started_at, elapsed, price, http_status, number, state, holds, may_charge, answer, endpoint, key,
        status, error, reply)
    SELECT id, CASE WHEN kind = 'not sent' THEN NULL ELSE md5(id::text)::uuid END,
        (extract(epoch FROM now())::bigint - {_DAYS} * 86400) * 1000000 + id * ({_DAYS} * 86400000000 / %d),
        350000 + id %% 1000, 20000, CASE WHEN kind IN ('charged', 'free') THEN 200 END, 1, kind::%s.state,
        (kind = 'unknown')::int, true, kind = 'charged',
        CASE WHEN id %% 2 = 0 THEN 'gliswadetail' ELSE 'facecompare' END, format('"A-%%s"', id),
        CASE kind WHEN 'charged' THEN 'OK' WHEN 'free' THEN 'RETRY_LATER' END,
        CASE kind WHEN 'free' THEN 'RETRY_LATER: the vendor asks to try again later'
            WHEN 'unknown' THEN 'no answer within 30.0 s' WHEN 'not sent' THEN 'no connection' END,
        CASE WHEN kind <> 'charged' THEN NULL WHEN id %% 2 = 0
            THEN format('{{"number":"+62813%%s","whatsapp":"yes","status_update":"20180825","signature":"at work",'
                '"business_user":"no","avatar":"yes"}}', lpad(id::text, 8, '0'))
            ELSE format('{{"similarity":%%s,"result":"SAME PERSON"}}', 80 + id %% 20) END
    FROM (SELECT id, CASE WHEN id * 7 %% 1000 < 930 THEN 'charged' WHEN id * 7 %% 1000 < 994 THEN 'free'
        WHEN id * 7 %% 1000 < 999 THEN 'not sent' ELSE 'unknown' END AS kind
        FROM generate_series(%d, %d) AS id) AS every_id"""
_COUNT = """INSERT INTO {0}.rollup
    SELECT 0, endpoint, started_at / 86400000000, state, coalesce(status, ''), count(*),
        sum(price * {0}.stake(state, may_charge)), count(*) FILTER (WHERE answer), count(reply)
    FROM {0}.attempts GROUP BY 2, 3, 4, 5"""
_SIZES = """SELECT c.relname, pg_relation_size(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE nspname = %s AND relname LIKE 'attempts%%' AND relkind IN ('r', 'i') ORDER BY relkind DESC, relname"""
_STEP = 1_000_000


def make(psycopg: Any, base: str, url: str, schema: str, count: int) -> dict[str, float]:
    """The ledger with so many attempts; seconds that it took, and the sizes of its parts in bytes."""
    asyncio.run(_open(url))
    with psycopg.connect(base, autocommit=True) as db:
        began = time.perf_counter()
        for first in range(1, count + 1, _STEP):
            db.execute(_MAKE % (schema, count, schema, first, min(first + _STEP - 1, count)))
        db.execute(_COUNT.format(schema))
        db.execute(f"SELECT setval('{schema}.ids', {count})")
        made = time.perf_counter() - began
        began = time.perf_counter()
        db.execute(f"VACUUM (ANALYZE) {schema}.attempts")
        vacuumed = time.perf_counter() - began
        return {"made": made, "vacuumed": vacuumed, **sizes(db, schema)}


def sizes(db: Any, schema: str) -> dict[str, float]:
    """Bytes of the table of attempts and of its indexes."""
    return dict(db.execute(_SIZES, (schema,)).fetchall())


async def _open(url: str) -> None:
    async with open_ledger(url):
        """It is made."""


# ------------------------------------------------------------------------------------- what a process of its own does


def summary(url: str, count: int) -> int:  # noqa: ARG001  # as all of them
    return sum(line.attempts for line in open_ledger(url).summary().lines)


def held(url: str, count: int) -> int:  # noqa: ARG001
    return sum(1 for _ in open_ledger(url).held())


def every_attempt(url: str, count: int) -> int:  # noqa: ARG001
    return sum(1 for _ in open_ledger(url).attempts())


def every_answer(url: str, count: int) -> int:  # noqa: ARG001
    return sum(1 for _ in open_ledger(url).answers())


def report(url: str, count: int) -> int:  # noqa: ARG001
    from aisolution_async.bulk.report import make_report  # noqa: PLC0415  # what it costs to import is a part

    return len(make_report(url))


def look_up(url: str, count: int) -> int:
    """Questions of any age, many at once, as a run that goes on looks them up."""

    async def look() -> int:
        rng, found = random.Random(1), 0
        async with open_ledger(url) as ledger:
            for _ in range(0, _LOOKED_UP, _AT_ONCE):
                asks = [_ask(rng.randrange(count) + 1) for _ in range(_AT_ONCE)]
                found += sum(stored is not None for stored in await ledger.find(asks))
        return found

    return asyncio.run(look())


def call(url: str, count: int) -> int:
    """New questions: begin and end."""

    async def work() -> int:
        async with open_ledger(url) as ledger:
            numbers = iter(range(count + 1, count + 1 + _CALLS))

            async def caller() -> None:
                for number in numbers:
                    started = await ledger.begin(_ask(number))
                    assert isinstance(started, Started), started
                    attempt = Attempt(Charge.CHARGED, "OK", 200, clock.today(), 0.1)
                    await ledger.end(started, Result(attempt, reply=b'{"whatsapp":"yes"}', answer=True))

            await asyncio.gather(*(caller() for _ in range(_AT_ONCE)))
        return _CALLS

    return asyncio.run(work())


def purge(url: str, count: int) -> int:  # noqa: ARG001
    """The older half."""

    async def work() -> int:
        async with open_ledger(url) as ledger:
            return await ledger.purge(_DAYS / 2 * 86400)

    return asyncio.run(work())


def _ask(number: int) -> Ask:
    # As the server makes the identities of its rows.
    identity = UUID(hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()).bytes
    return Ask("gliswadetail", identity, key=number, within=60.0)


_WORK: dict[str, tuple[str, Callable[[str, int], int]]] = {
    "call": ("begin and end, 200 at once", call),
    "look_up": ("look up", look_up),
    "summary": ("ledger show", summary),
    "held": ("the held attempts", held),
    "every_attempt": ("ledger attempts", every_attempt),
    "every_answer": ("ledger export, without its file", every_answer),
    "report": ("report", report),
    "purge": ("purge of the older half", purge),
}


def measure(postgres: Any, count: int) -> None:
    """Print the tables for so many rows."""
    psycopg = importlib.import_module("psycopg")
    base, schema = postgres.get_uri(), f"rows_{count}"
    url = f"{base}{'&' if '?' in base else '?'}schema={schema}"
    print(f"\n### scale: a shared ledger of {count:,} attempts\n")
    made = make(psycopg, base, url, schema, count)
    parts = ("attempts", "attempts_pkey", "attempts_identity", "attempts_holding", "attempts_time")
    weights = [(name, f"{made[name] / count:.1f}", f"{made[name] / 1e9:.2f}") for name in parts]
    print_table([("", "bytes a row", "GB"), *weights])
    print(f"\nMade in {made['made']:.0f} s, first vacuum {made['vacuumed']:.1f} s.\n")
    sys.stdout.flush()
    rows = [("", "rows", "seconds", "CPU, s", "rows/s", "peak MB", "WAL, MB")]
    with psycopg.connect(base, autocommit=True) as db:
        for work, (name, _) in _WORK.items():
            before = _written(db)
            found = _child({"work": work, "url": url, "count": count})
            seconds, cpu, rate = (f"{found['wall']:.2f}", f"{found['cpu']:.2f}", found["rows"] / found["wall"])
            each = "" if work in ("summary", "report") else f"{rate:,.0f}"
            weight = (f"{found['memory']:.0f}", f"{(_written(db) - before) / 1e6:.0f}")
            rows.append((name, f"{found['rows']:,.0f}", seconds, cpu, each, *weight))
        grown = sizes(db, schema)["attempts"] / made["attempts"] - 1
    print_table(rows)
    print(f"\nThe purge has made the table larger by {100 * grown:.0f} %: room for what comes next.")


def _written(db: Any) -> int:
    """Bytes that the server has written to its log, ever."""
    ((found,),) = db.execute("SELECT (pg_current_wal_lsn() - '0/0')::bigint").fetchall()
    return int(found)


def _child(spec: dict[str, Any]) -> dict[str, float]:
    result: dict[str, float] = run_module("benchmarks.rows", spec)
    if "error" in result:
        raise SystemExit(f"scale: {result['error']} {result.get('details', '')}")
    return result


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    began_ = time.perf_counter()
    found_ = _WORK[given["work"]][1](given["url"], given["count"])
    print(
        json.dumps(
            {
                "rows": found_,
                "wall": time.perf_counter() - began_,
                "cpu": time.process_time(),
                "memory": peak_megabytes(),
            }
        )
    )
