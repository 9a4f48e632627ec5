"""The file: how it is made, opened and migrated, and what can be wrong with it."""

from __future__ import annotations

import errno
import os
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from aisolution_async.errors import ConfigurationError
from aisolution_async.ledger import mark
from aisolution_async.ledger.store import LedgerError
from aisolution_async.names import exists, is_file, is_folder, scheme_of

Synchronous = Literal["full", "normal", "off"]

_APPLICATION = 0x41495341  # "AISA"
_CACHE_KIB = 16 * 1024
_CHECKPOINT_PAGES = 250  # of the log, a megabyte: what the file alone lacks
_LOOKS = 5  # at a file whose log seems to be lost
_creating = threading.Lock()


def _first(db: sqlite3.Connection) -> None:
    """Version 1.

    `attempts` has the attempts that are over and `intents` those under way: few, so that recovery looks at few,
    and the finished rows never grow. Ids are common to both. An intent that other calls like it need not wait for
    has its id for an identity. Times are microseconds (since 1970, UTC), prices
    millionths, keys JSON. An identity stands only with attempts that left. `totals` counts the rows of both, so
    that the budget is read at once; its at_stake and cost are those of charges that were, may be or will be made.
    """
    for statement in (
        "CREATE TABLE file (hash_key BLOB NOT NULL, last_id INTEGER NOT NULL)",
        """CREATE TABLE intents (
            id INTEGER NOT NULL, identity BLOB PRIMARY KEY, endpoint TEXT NOT NULL, key TEXT,
            may_charge INTEGER NOT NULL, price INTEGER NOT NULL, started_at INTEGER NOT NULL, owner TEXT NOT NULL
        ) WITHOUT ROWID""",
        """CREATE TABLE attempts (
            id INTEGER PRIMARY KEY, identity BLOB, endpoint TEXT NOT NULL, key TEXT,
            may_charge INTEGER NOT NULL, price INTEGER NOT NULL, started_at INTEGER NOT NULL, elapsed INTEGER NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('charged', 'free', 'not sent', 'unknown')),
            status TEXT, http_status INTEGER, error TEXT, answer INTEGER NOT NULL, reply BLOB)""",
        "CREATE INDEX attempts_by_identity ON attempts (identity) WHERE identity IS NOT NULL",
        "CREATE INDEX attempts_unknown ON attempts (id) WHERE state = 'unknown'",
        """CREATE TABLE totals (
            endpoint TEXT PRIMARY KEY, intended INTEGER NOT NULL, charged INTEGER NOT NULL, free INTEGER NOT NULL,
            not_sent INTEGER NOT NULL, unknown INTEGER NOT NULL, at_stake INTEGER NOT NULL, cost INTEGER NOT NULL
        ) WITHOUT ROWID""",
    ):
        db.execute(statement)
    db.execute("INSERT INTO file VALUES (?, 0)", (secrets.token_bytes(32),))


def _second(db: sqlite3.Connection) -> None:
    """Version 2.

    `number` counts the attempts of a call. `holds` stands with attempts after which a call is not sent again unasked:
    their charge is unknown, or a person settled that they were charged, and there is no answer. `outstanding` has the
    questions whose answer may come by callback, known by a keyed hash of the number: the charge of that answer is the
    one of `attempt`, under way or unknown, or else, where `reserved`, one that is set aside here.
    """
    for statement in (
        "ALTER TABLE attempts ADD COLUMN number INTEGER NOT NULL DEFAULT 1",
        "ALTER TABLE attempts ADD COLUMN holds INTEGER NOT NULL DEFAULT 0",
        "UPDATE attempts SET holds = 1 WHERE state = 'unknown'",
        "DROP INDEX attempts_unknown",
        "CREATE INDEX attempts_holding ON attempts (id) WHERE holds",
        """CREATE TABLE outstanding (
            callback BLOB PRIMARY KEY, identity BLOB NOT NULL, endpoint TEXT NOT NULL, key TEXT, price INTEGER NOT NULL,
            since INTEGER NOT NULL, reserved INTEGER NOT NULL, attempt INTEGER
        ) WITHOUT ROWID""",
        "CREATE INDEX outstanding_by_identity ON outstanding (identity)",
    ):
        db.execute(statement)


def _third(db: sqlite3.Connection) -> None:
    """Version 3.

    `ends` of an intent is when it must be over, whatever became of its owner. `holds` is 1 with an attempt that holds
    its question; 2 with one that is not settled and holds nothing: the question was answered since, or has no identity.
    `outstanding` has a row for each question that waits for a callback, more than one for a number that was written in
    two ways. `answered`: the question was answered otherwise; then the reservation is of a charge that may come all the
    same, until `ends`. `totals` is counted anew: the version before it could leave a reservation in it. `in_use` of the
    file is 1 from the first opening on until the last close: meanwhile its log has what the file lacks.
    """
    for statement in (
        "ALTER TABLE file ADD COLUMN in_use INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE intents ADD COLUMN ends INTEGER NOT NULL DEFAULT 0",
        """UPDATE attempts SET holds = 2 WHERE holds AND (identity IS NULL OR EXISTS (SELECT 1 FROM attempts AS other
            WHERE other.identity = attempts.identity AND other.answer AND other.id > attempts.id))""",
        # What was settled as charged without its answer holds too; version 1 did not know of it.
        """UPDATE attempts SET holds = 1 WHERE state = 'charged' AND identity IS NOT NULL AND NOT answer AND NOT holds
            AND error LIKE '%settled by hand' AND NOT EXISTS (SELECT 1 FROM attempts AS other
            WHERE other.identity = attempts.identity AND other.answer AND other.id > attempts.id)""",
        "ALTER TABLE outstanding RENAME TO outstanding_before",
        "DROP INDEX outstanding_by_identity",
        """CREATE TABLE outstanding (
            callback BLOB NOT NULL, identity BLOB NOT NULL, endpoint TEXT NOT NULL, key TEXT, price INTEGER NOT NULL,
            since INTEGER NOT NULL, reserved INTEGER NOT NULL, attempt INTEGER, ends INTEGER NOT NULL,
            answered INTEGER NOT NULL, PRIMARY KEY (callback, identity)
        ) WITHOUT ROWID""",
        """INSERT INTO outstanding SELECT callback, identity, endpoint, key, price, since, reserved, attempt,
            since + 120000000, 0 FROM outstanding_before""",
        "DROP TABLE outstanding_before",
        "CREATE INDEX outstanding_by_identity ON outstanding (identity)",
        "CREATE INDEX outstanding_answered ON outstanding (ends) WHERE answered",
        "DELETE FROM totals",
        """INSERT INTO totals SELECT endpoint, sum(state = 'intended'), sum(state = 'charged'), sum(state = 'free'),
            sum(state = 'not sent'), sum(state = 'unknown'), sum(staked), sum(CASE WHEN staked THEN price ELSE 0 END)
        FROM (SELECT endpoint, state, price,
                state = 'charged' OR (may_charge AND state IN ('intended', 'unknown')) AS staked
            FROM (SELECT endpoint, state, may_charge, price FROM attempts
                UNION ALL SELECT endpoint, 'intended', may_charge, price FROM intents
                UNION ALL SELECT endpoint, 'intended', 1, price FROM outstanding WHERE reserved))
        GROUP BY endpoint""",
    ):
        db.execute(statement)


def _fourth(db: sqlite3.Connection) -> None:
    """Version 4. `max_charges` of the file is its own limit, whoever opens it; NULL for none."""
    db.execute("ALTER TABLE file ADD COLUMN max_charges INTEGER")


MIGRATIONS: list[Callable[[sqlite3.Connection], None]] = [_first, _second, _third, _fourth]
"""Step n leads from version n to n + 1. Steps are only ever added."""


def file_of(path: str | os.PathLike[str]) -> Path:
    """The file itself, which the files beside a ledger stand beside. Raises ConfigurationError for one of these."""
    if re.search(r"-(wal|shm|mark|owner-[0-9a-f]+)$", os.fspath(path)):
        raise ConfigurationError(f"{os.fspath(path)!r} is named like a file beside a ledger: name the ledger itself")
    if scheme_of(os.fspath(path)) is not None:
        raise ConfigurationError("this ledger is a file, and was given a URL: open_ledger(url) opens what is there")
    return Path(os.path.realpath(path))


def connect(path: Path, *, synchronous: Synchronous, busy_timeout: float) -> sqlite3.Connection:
    """The connection that writes: the file made if it is not there, migrated to the newest version.

    Raises LedgerError where the file is not the ledger that it was.
    """
    check_memory(path, busy_timeout)
    if not exists(path):
        mark.forget(path)  # before the file is made: it is none of a new ledger's
    _create(path)
    db = _open(path, "rw", busy_timeout)
    try:
        version = _version(db, path)
        _make_private(path)
        if _keep_log(db, busy_timeout) != "wal":
            raise LedgerError(f"the ledger {path} cannot be kept on this file system: put it on a local disk")
        db.execute(f"PRAGMA synchronous = {synchronous}")
        db.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone does not reach the disk
        db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        # Each row would make a table of the states, to be looked for in it, which takes a third of the file's time.
        db.execute("PRAGMA ignore_check_constraints = ON")
        if version < len(MIGRATIONS):
            _migrate(db, path)
    except BaseException:
        db.close()
        raise
    return db


def connect_to_read(path: Path, *, busy_timeout: float) -> sqlite3.Connection:
    """A connection that cannot write, beside whoever does."""
    if not exists(path):
        raise LedgerError(f"there is no ledger {path}: check the path")
    _check_log(path)
    # One that may write tidies up the files beside the ledger when it is the last to leave. A log that is there stays:
    # without that of a killed process, or the empty one that somebody put in its place to go on without it, the ledger
    # would look like one that lost it.
    may_tidy = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK) and not exists(_log_of(path))
    db = _open(path, "rw" if may_tidy else "ro", busy_timeout)
    try:
        db.execute("PRAGMA query_only = ON")
        version = _version(db, path)
        if not version:
            raise LedgerError(
                f"the ledger {path} is empty: nothing was recorded in it, or it lost {path.name}-wal, which belongs to "
                "it: look for that file where the ledger was"
            )
        if version != len(MIGRATIONS):
            raise LedgerError(f"the ledger {path} is of an older version: open it once for writing, which brings it up")
    except BaseException:
        db.close()
        raise
    return db


def check_is_ledger(path: Path) -> None:
    """Raise LedgerError for a file of something else, or one that is not what it was.

    To open it as a ledger would close others off from it. Nothing is changed, and no file is left beside it: even a
    reader leaves an empty log, and the missing of a log says that something is lost.
    """
    path = Path(os.path.realpath(path))
    try:
        if not is_file(path):
            return  # what is wrong with it is said when it is opened
        check_memory(path, 10.0)
        looks = _looks(path)
        for how in looks:
            try:
                with closing(_open_as(path, how, 10.0)) as db:
                    _version(db, path)
                return
            except sqlite3.Error:
                # Where the log was being folded into it as the process or the power went, the file alone is no whole;
                # one that was being made then is put back as it is opened.
                if how == looks[-1] and not _size(Path(f"{path}-journal")):
                    raise
    except (sqlite3.Error, OSError) as exc:
        raise fault(path, exc) from None


def check_memory(path: Path, busy_timeout: float) -> None:
    """Raise LedgerError where the file is not what it was. Nothing is changed: not even its log is folded into it."""
    _check_links(path)
    _check_log(path)
    if not exists(path):
        return  # who took the file away begins a new one
    if not exists(_log_of(path)):
        _check_closed(path, busy_timeout)
    was = mark.seen(path)
    if was is None:
        return
    if not path.stat().st_size:
        raise mark.forgot(path, was, "is empty now")
    looks = _looks(path)
    for how in looks:
        with suppress(sqlite3.Error), closing(_open_as(path, how, busy_timeout)) as db:
            for hash_key, attempts in db.execute("SELECT hash_key, last_id FROM file"):
                if mark.key_of(hash_key) != was.key:
                    raise mark.forgot(path, was, "is another one than was here")
                if how == looks[-1] and attempts < was.attempts:
                    raise mark.forgot(path, was, f"has {attempts} attempts now")


def _looks(path: Path) -> list[str]:
    """How to look at a file without changing it, as SQLite is told."""
    # First the file alone: the log of another ledger beside it would be taken for its own.
    looks = ["mode=ro&immutable=1"]
    if _size(_log_of(path)):  # else the file alone is all, and a look at both would leave an empty log
        looks.append("mode=ro")
    return looks


def _check_closed(path: Path, busy_timeout: float) -> None:
    """Raise LedgerError for a file that was in use when its process ended, and whose log is gone."""
    for _ in range(_LOOKS):  # others may open and close it between the two looks: then the next says so
        in_use = None
        with suppress(sqlite3.Error), closing(_open_as(path, "mode=ro&immutable=1", busy_timeout)) as db:
            in_use = db.execute("SELECT in_use FROM file").fetchone()
        if in_use != (1,) or exists(_log_of(path)):
            return
        time.sleep(0.005)
    name = _log_of(path).name
    raise LedgerError(
        f"the ledger {path} was in use when its process ended, and {name}, which belongs to it, is missing: what "
        "stands there would be paid for again. Put it back beside the ledger; or, to go on without it, make an "
        f"empty file {name}"
    )


def _check_links(path: Path) -> None:
    """Raise LedgerError for a file with more than one name: the files beside it stand beside one of them only."""
    if is_file(path) and path.stat().st_nlink > 1:
        raise LedgerError(
            f"the ledger {path} has another name (a hard link): who opens it by the one does not see who uses the "
            "other, and would pay again; remove one of the names, or make a copy while nobody uses it"
        )


def _check_log(path: Path) -> None:
    """Raise LedgerError where the ledger is gone and its log is there, which SQLite would delete."""
    log = _log_of(path)
    if _size(log) and not _size(path):
        raise LedgerError(
            f"the ledger {path} is empty or gone, and {log.name} beside it has what belongs to it: put the ledger "
            f"back, or move {log.name} away to begin a new one"
        )


def _log_of(path: Path) -> Path:
    return Path(f"{path}-wal")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def use(db: sqlite3.Connection) -> None:
    """Note in the file itself, and not in its log alone, that it is in use: so the file has its tables and its key."""
    if db.execute("SELECT in_use FROM file").fetchone() == (0,):
        db.execute("UPDATE file SET in_use = 1")
        db.execute("PRAGMA wal_checkpoint(FULL)").fetchall()


def sync_log(db: sqlite3.Connection) -> None:
    """Make safe on the disk what the log has: a killed process may have written its last commits, and not synced them.

    Without that, a loss of power could take back the end of its attempts, and not that its lock file is gone: then
    nobody could tell whether it lives.
    """
    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()  # which syncs the log first


def close(db: sqlite3.Connection, path: Path, *, others: bool | None) -> None:
    """Close the connection: if it is the last, SQLite folds the log into the file.

    `others`: whether somebody else uses it; None where nobody can tell, so that it stays noted as in use.
    """
    try:
        if others is False:
            with suppress(sqlite3.Error):
                db.execute("UPDATE file SET in_use = 0")
    finally:
        db.close()
    with suppress(OSError):
        if others or exists(_log_of(path)):
            return
        with suppress(LedgerError, OSError):
            _check_closed(path, 0.1)
            return
        # On a full disk, say, the note could not be taken away, but nothing is missing.
        _log_of(path).touch(0o600)


def _create(path: Path) -> None:
    """Make an empty file that only its owner can read. SQLite gives the files beside it the same mode.

    One at a time, and never a file that is there: closing a descriptor of a database that this process has
    open elsewhere would drop its locks.
    """
    with _creating:
        try:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        except FileExistsError:
            return
        try:
            if hasattr(os, "fchmod"):
                os.fchmod(fd, 0o600)  # whatever the umask took
        finally:
            os.close(fd)


def _make_private(path: Path) -> None:
    """Close a ledger that is there to everybody but its owner. Not before it is known to be one."""
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        with suppress(FileNotFoundError):
            if file.stat().st_mode & 0o077:
                file.chmod(0o600)


def _open(path: Path, mode: str, busy_timeout: float) -> sqlite3.Connection:
    return _open_as(path, f"mode={mode}", busy_timeout)


def _open_as(path: Path, how: str, busy_timeout: float) -> sqlite3.Connection:
    # SQLite's own transactions are begun by hand; a thread of ours makes it and another may close it.
    uri = f"file:{quote(os.fspath(path))}?{how}"
    return sqlite3.connect(uri, uri=True, timeout=busy_timeout, isolation_level=None, check_same_thread=False)


def _keep_log(db: sqlite3.Connection, busy_timeout: float) -> str:
    """Have a write-ahead log. While another process sets it up too, SQLite refuses at once, and does not wait."""
    ends = time.monotonic() + busy_timeout
    while True:
        try:
            mode: str = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            return mode
        except sqlite3.OperationalError as exc:
            if not is_locked(exc) or time.monotonic() >= ends:
                raise
        time.sleep(0.005)


def _version(db: sqlite3.Connection, path: Path) -> int:
    # In this order: another process may be making the ledger, which marks it and fills it at one stroke.
    filled = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if filled and db.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
        raise LedgerError(f"{path} is a database of something else, and no ledger: give the ledger a file of its own")
    if version > len(MIGRATIONS):
        raise LedgerError(
            f"the ledger {path} is of version {version}, and this aisolution-async knows {len(MIGRATIONS)} at most: "
            "install the newer aisolution-async that wrote it"
        )
    return version


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    """All of it, or nothing: who calls this closes the connection where it fails, and that takes it back."""
    db.execute("BEGIN IMMEDIATE")
    # Another process may have done it, or more, in the meantime.
    version = _version(db, path)
    for step in MIGRATIONS[version:]:
        step(db)
    db.execute(f"PRAGMA application_id = {_APPLICATION}")
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    db.execute("COMMIT")


# --------------------------------------------------------------------------------------------------------- faults


def is_locked(exc: BaseException) -> bool:
    """Whether `exc` says that another process kept the file locked for too long."""
    return _code(exc) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_fault_of_file(exc: BaseException) -> bool:
    """Whether it was the file that failed, and not what was to be written."""
    return isinstance(exc, OSError) or _code(exc) in _WORDS


def fault(path: Path, exc: BaseException) -> LedgerError:
    """`exc` as an error that names the file and the remedy, and nothing that was to be written."""
    if isinstance(exc, LedgerError):
        return LedgerError(str(exc))
    with suppress(OSError):  # where that cannot be looked at, `exc` says why
        if is_folder(path):
            return LedgerError(f"the ledger {path} is a folder: name a file in it")
        if not is_folder(path.parent):
            return LedgerError(f"the ledger {path} has no folder to be in: make {path.parent} first")
    if isinstance(exc, OSError):
        code: int | None = _ERRNO.get(exc.errno or 0, sqlite3.SQLITE_IOERR)
    else:
        code = _code(exc)
    if code is None:
        return LedgerError(f"this cannot be recorded in the ledger {path}: {type(exc).__name__}")
    return LedgerError(_WORDS.get(code, f"the ledger {{}} failed (SQLite error {code}): look at its disk").format(path))


def _code(exc: BaseException) -> int | None:
    code = getattr(exc, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF  # the rest says where it happened


_ERRNO = {
    errno.ENOSPC: sqlite3.SQLITE_FULL,
    errno.EDQUOT: sqlite3.SQLITE_FULL,
    errno.EROFS: sqlite3.SQLITE_READONLY,
    errno.EACCES: sqlite3.SQLITE_READONLY,
    errno.EPERM: sqlite3.SQLITE_READONLY,
    errno.ESTALE: -1,
    errno.ENAMETOOLONG: -2,
}
_WORDS = {
    -1: "the ledger {} was removed or replaced while in use: put it back, then run again",
    -2: "the name of the ledger {} is too long for its file system: choose a shorter one",
    sqlite3.SQLITE_FULL: "the disk of the ledger {} is full: make room there, then run again",
    sqlite3.SQLITE_READONLY: "the ledger {} cannot be written: allow writing to the file and to its folder",
    sqlite3.SQLITE_CANTOPEN: "the ledger {} cannot be opened: allow reading and writing the file and its folder",
    sqlite3.SQLITE_BUSY: "the ledger {} is locked by another program: end it, or wait for it, and run again",
    sqlite3.SQLITE_LOCKED: "the ledger {} is locked by another program: end it, or wait for it, and run again",
    sqlite3.SQLITE_NOTADB: "{} is no ledger, or damaged: name another file, or restore this one from a copy",
    sqlite3.SQLITE_CORRUPT: "the ledger {} is damaged: keep it, save what `sqlite3 FILE .recover` finds, "
    "and go on with a copy or a new file",
    sqlite3.SQLITE_IOERR: "the disk of the ledger {} failed: look at the disk, and at its quota, then run again",
}
