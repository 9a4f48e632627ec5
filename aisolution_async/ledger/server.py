"""A PostgreSQL server with a shared ledger: connected to, looked at, and brought to the newest version."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from typing import Any, TypeAlias, cast

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from aisolution_async.ledger.store import LedgerError
from aisolution_async.ledger.urls import Server

_log = logging.getLogger(__name__)

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

VERSION = 3
_OLDEST = 140000
_ISOLATION = "AL001"
_MIGRATING = 4147  # any number, the same for everybody: for the lock of those who make or change a schema
# A server that is gone is noticed within half a minute, and not by the system's own patience of hours.
_PATIENCE = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "application_name": "aisolution-async",
    "client_encoding": "UTF8",
}

# What is locked by a process that stands still (a frozen machine, Ctrl-Z) is free after so long: its session is ended.
STANDS_STILL = "SET LOCAL idle_in_transaction_session_timeout = '30s'"
# Nobody waits for a lock for longer than this: see `end_still`. The functions of the schema have it by themselves.
LOCK_TIMEOUT = "SET LOCAL lock_timeout = '5s'"
# Seconds for one that stands still while the server hands it an answer: until that is read, its transaction does not
# end. Fewer than others have until they are taken for dead. Who only reads (`ledger show` into a pager) locks no row,
# and may take its time. So may an administrator, who has a transaction open and asks nothing: that is not "active".
STILL = 10.0
_END_STILL = """SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a
    WHERE a.datname = current_database() AND a.usename = session_user AND a.wait_event_type = 'Client'
    AND a.state = 'active' AND a.state_change < clock_timestamp() - make_interval(secs => %s)
    AND EXISTS (SELECT FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
        WHERE l.pid = a.pid AND l.mode IN ('RowShareLock', 'RowExclusiveLock')
        AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s))"""
_TRIES = 5  # to get a lock, before it is told that somebody does not let it go


def connect(server: Server, *, to_read: bool = False) -> Connection:
    """A connection that keeps nothing in its session: a pooler may give each transaction another one.

    `to_read`: for a user who may do nothing else, too. Raises psycopg.Error, and LedgerError for a server that a ledger
    cannot be on.
    """
    # No variable has them: tracebacks show locals, and a password is among these.
    db: Connection = psycopg.Connection.connect(
        **cast("Any", {**_PATIENCE, **conninfo_to_dict(server.address.value)}), autocommit=True, prepare_threshold=None
    )
    try:
        row = db.execute(
            """SELECT pg_is_in_recovery(), current_setting('server_encoding'),
                current_setting('server_version_num')::int, current_setting('transaction_isolation'),
                current_setting('transaction_read_only'), current_setting('fsync')"""
        ).fetchone()
        assert row is not None
        recovers, encoding, version, isolation, read_only, syncs = row
        if version < _OLDEST:
            raise LedgerError(f"the ledger {server} needs PostgreSQL 14 or newer: this server has {version // 10000}")
        if recovers or (read_only == "on" and not to_read):
            raise LedgerError(
                f"the ledger {server} is on a server that cannot be written, such as a standby: name its primary, or "
                "all hosts with target_session_attrs=read-write; or this user may only read: "
                "ALTER ROLE … SET default_transaction_read_only = off"
            )
        if encoding != "UTF8":
            raise LedgerError(f"the ledger {server} needs a database in UTF8, and this one is in {encoding}")
        if syncs == "off":
            _log.warning("the server of the ledger %s has fsync off: what a crash takes is paid for again", server)
        if isolation != "read committed":
            # A pooler may give the next transaction another session: then the functions refuse to work.
            db.execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED")
    except BaseException:
        db.close()
        raise
    return db


def is_there(server: Server) -> bool:
    """Whether there is a ledger. Raises LedgerError."""
    with faults(server), connect(server, to_read=True) as db:
        found = _version(db, server)
    return found is not None


def connect_to_read(server: Server) -> Connection:
    """A connection to a ledger that is there, within a transaction that sees one state of it and cannot write."""
    db = connect(server, to_read=True)
    try:
        version = _version(db, server)
        if version is None:
            raise LedgerError(f"there is no ledger {server}: check the URL, and the schema in it")
        if version != VERSION:
            raise LedgerError(f"the ledger {server} is of version {version}: open it for writing, which brings it up")
        db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    except BaseException:
        db.close()
        raise
    return db


def prepare(db: Connection, server: Server) -> bytes:
    """Make the ledger if it is not there, and bring it to the newest version. Returns its key for hashes."""
    for left in reversed(range(_TRIES)):
        try:
            _make_or_bring_up(db, server)
            break
        except psycopg.errors.LockNotAvailable:
            if not left:
                raise
            end_still(db, server)
    row = db.execute(named(server, "SELECT hash_key FROM ledger.book")).fetchone()
    assert row is not None
    return bytes(row[0])


def end_still(db: Connection, server: Server) -> None:
    """End the sessions that have something locked in the ledger, and have stood still for `STILL` seconds.

    Whoever it was finds its connection lost: what it asked is not done, and it asks anew. Where that cannot be done,
    whoever waits asks again all the same, and is told.
    """
    with suppress(psycopg.Error), db.transaction():
        db.execute("SET LOCAL ROLE NONE")  # one may end one's own sessions, whatever role they took on
        db.execute(_END_STILL, (STILL, server.schema))


def named(server: Server, query: str) -> bytes:
    """`query` on the ledger's schema, which is called "ledger" in it."""
    return re.sub(r"\bledger\.", f'"{server.schema}".', query).encode()


def definition() -> str:
    """The schema, in SQL."""
    return files("aisolution_async.ledger").joinpath("postgres.sql").read_text("utf-8")


def _version(db: Connection, server: Server) -> int | None:
    # Not by to_regclass, which does not see what another session has made meanwhile.
    query = "SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = %s AND relname = 'book'"
    if db.execute(query, (server.schema,)).fetchone() is None:
        return None
    try:
        row = db.execute(named(server, "SELECT version, hash_key FROM ledger.book")).fetchone()
    except psycopg.errors.UndefinedColumn:
        row = None
    # Other programs have tables of books, with versions too: nothing of theirs is brought up.
    if row is None or not (isinstance(row[0], int) and row[0] >= 1 and isinstance(row[1], bytes)):
        raise LedgerError(f"{server} is a schema of something else, and no ledger: give the ledger one of its own")
    version: int = row[0]
    if version > VERSION:
        raise LedgerError(
            f"the ledger {server} is of version {version}, and this aisolution-async knows {VERSION} at most: install "
            "the newer aisolution-async that wrote it"
        )
    return version


def _make_or_bring_up(db: Connection, server: Server) -> None:
    if _version(db, server) == VERSION:
        return
    with db.transaction():
        db.execute(STANDS_STILL)
        # Machines start together: one makes it, and the others find it made.
        db.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_MIGRATING, server.schema))
        db.execute(LOCK_TIMEOUT)
        found = _version(db, server)
        if found is None:
            _make(db, server)
        elif found != VERSION:
            _bring_up(db, server, found)


def _make(db: Connection, server: Server) -> None:
    there = db.execute("SELECT oid FROM pg_namespace WHERE nspname = %s", (server.schema,)).fetchone()
    if there is None:
        db.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(server.schema)))
    elif db.execute("SELECT FROM pg_class WHERE relnamespace = %s LIMIT 1", there).fetchone() is not None:
        raise LedgerError(f"{server} is a schema of something else, and no ledger: give the ledger one of its own")
    db.execute(named(server, definition()))
    db.execute(
        named(server, "INSERT INTO ledger.book (version, hash_key) VALUES (%s, %s)"), (VERSION, secrets.token_bytes(32))
    )


def _bring_up(db: Connection, server: Server, version: int) -> None:
    """Add what came after that version. In the schema's text, each version begins with a line that says so."""
    later = re.split(r"(?m)^(?=-- Version \d+)", definition())[1:]
    try:
        db.execute(named(server, "".join(later[version:])))
    except psycopg.errors.InsufficientPrivilege:
        raise LedgerError(
            f"the ledger {server} is of version {version}, and only the user who made it can bring it up to {VERSION}: "
            "open it once as that user, and GRANT all rights on what is new in it"
        ) from None
    db.execute(named(server, "UPDATE ledger.book SET version = %s"), (VERSION,))


# --------------------------------------------------------------------------------------------------------- faults


def is_lost(exc: BaseException) -> bool:
    """Whether the connection failed, so that nobody knows whether what was asked was done."""
    if isinstance(exc, psycopg.Error) and exc.sqlstate == "25P04":  # what takes too long ends its session
        return True
    if not isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    return exc.sqlstate is None or exc.sqlstate[:2] in ("08", "57")


def is_fault_of_server(exc: BaseException) -> bool:
    """Whether it was the server that failed, and not what was to be written, so that it may work later."""
    if is_lost(exc):
        return True
    code = (isinstance(exc, psycopg.Error) and exc.sqlstate) or ""
    return code == _ISOLATION or code[:2] not in ("", "22", "23", "AL")  # a pooler may give another session next time


def is_passing(exc: BaseException) -> bool:
    """Whether the server did nothing, and may do the same if it is asked again: two were in each other's way."""
    return isinstance(exc, psycopg.Error) and exc.sqlstate in ("40P01", "40001")


def is_locked(exc: BaseException) -> bool:
    """Whether the server did nothing, as somebody has had locked for too long what it takes."""
    return isinstance(exc, psycopg.Error) and exc.sqlstate == "55P03"


@contextmanager
def faults(server: Server) -> Iterator[None]:
    """Whatever the driver raises within leaves as a LedgerError."""
    try:
        yield
    except psycopg.Error as exc:
        raise fault(server, exc) from None


def fault(server: Server, exc: BaseException) -> LedgerError:
    """`exc` as an error that names the ledger and the remedy, and nothing that was to be written."""
    if isinstance(exc, LedgerError):
        return LedgerError(str(exc))
    if not isinstance(exc, psycopg.Error):
        return LedgerError(f"this cannot be recorded in the ledger {server}: {type(exc).__name__}")
    code = exc.sqlstate
    if code is None:
        lines = _without_secrets(server, str(exc)).splitlines()
        why = lines[0][:200] if lines else type(exc).__name__
        return LedgerError(f"the ledger {server} cannot be reached: {why}; is its server up, and may this user log in?")
    if code == "AL003":
        until = exc.diag.message_primary
        return LedgerError(
            f"an attempt in the ledger {server} may still be sent until {until} UTC, by a process that was cut off: "
            "settle it as free after that"
        )
    words = _WORDS.get(code) or _WORDS.get(code[:2])
    if words is None:
        words = f"the ledger {{}} failed (SQLSTATE {code}): look at the log of its server"
    return LedgerError(words.format(server))


def _without_secrets(server: Server, text: str) -> str:
    try:
        given = conninfo_to_dict(server.address.value)
    except psycopg.Error:
        return "its URL cannot be read"  # libpq's words quote it
    for name, value in given.items():
        if value and ("password" in name or "secret" in name or name.startswith("scram")):
            text = text.replace(str(value), "…")
    return text


_WORDS = {
    _ISOLATION: "the ledger {} needs transactions that are READ COMMITTED, and a pooler before the server keeps "
    "others: ALTER ROLE … SET default_transaction_isolation = 'read committed'",
    "AL002": "the ledger {} lacks an attempt that was begun in it: it is not the one that it was",
    "08": "the connection to the ledger {} was lost",
    "25006": "the ledger {} is on a server that cannot be written, such as a standby: name its primary",
    **dict.fromkeys(
        ("25P04", "57014"),
        "the ledger {} needs more time than its server gives this user: ALTER ROLE … SET statement_timeout = 0, and so "
        "transaction_timeout",
    ),
    "25P03": "this process stood still while it had something locked in the ledger {}: run it again",
    "28": "the server of the ledger {} does not let this user in: check the user, and the password in ~/.pgpass, "
    "PGPASSWORD or the URL",
    "3D": "the database of the ledger {} does not exist: make it (createdb), or check the URL",
    "42501": "this user may not use the ledger {}: GRANT USAGE on its schema and all rights on what is in it, or, so "
    "that it can be made, CREATE on its database",
    "42P01": "the ledger {} lost its tables: restore it from a copy",
    "53100": "the disk of the ledger {} is full: make room there, then run again",
    "53300": "the server of the ledger {} has no connection left: raise max_connections, or have fewer workers",
    "55P03": "somebody has locked what this takes of the ledger {}, and does not go on: look for a process that stands "
    "still, and at pg_stat_activity on its server; then run again",
    "57": "the server of the ledger {} is shutting down, or starting: wait for it, and run again",
}
